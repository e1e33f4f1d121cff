"""Prediction across modalities: one shared encoder with it and without it, beside separate encoders (MJEPA, arXiv 2606.25225).

    python benchmarks/cross.py
    python benchmarks/cross.py --steps 1000 --seeds 3 --output FOLDER

All follow `recipes/pairs/cross_glyphs.yaml` with a smaller encoder: four modalities of a character, nothing to download. Every run
makes as many steps of as many rows; a separate encoder sees one modality of them. Each modality is scored by the frozen protocol of
`mmssl evaluate`, the category of a character of a face that training lacks. Writes cross.json and cross.md into docs/results.
Finished runs are kept: the same command goes on where it was stopped. `--table` only writes the page anew.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from grid import RANDOM, RAW, ROOT, Cells, Job, budget_text, fill, limits_of, machine, scores, spent, spread

import mmssl
from mmssl import files
from mmssl.evaluation import PROTOCOL, Evaluator, random_init
from mmssl.evaluation.history import History
from mmssl.model import load_model
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import load
from mmssl.training.run import command_line

RECIPE = ROOT / "recipes" / "pairs" / "cross_glyphs.yaml"
MODALITIES = list(load(RECIPE).resolved()["modalities"])
ACROSS, WITHIN, SEPARATE = "shared, predicts across", "shared, within each alone", "separate encoders"
ROWS = (ACROSS, WITHIN, SEPARATE, RANDOM, RAW)
SCORES = {"probe": "Linear probe", "knn": "20-NN", "rank": "Effective rank of the pooled features (test samples), width 64"}
TRAIN_LIMIT, TEST_LIMIT = 2000, 1000
SMALL = {"encoder.hidden_size": 64, "encoder.num_hidden_layers": 2, "train.batch_size": 32}


def recipe_of(row: str, only: str | None, seed: int, budget: Mapping[str, float], work: Path) -> dict[str, Any]:
    """The recipe of a run. only: the modality that a separate encoder reads; None: all."""
    changes = {"run.dir": str(work), "run.seed": seed, "evaluate.seed": seed, **SMALL, **limits_of(budget)}
    plain = load(RECIPE, changes).resolved()
    plain["evaluate"] |= {"train_limit": TRAIN_LIMIT, "test_limit": TEST_LIMIT, "random_draws": 1}
    if row != ACROSS:
        plain["objective"]["across"] = "none"
    if only is not None:
        plain["modalities"] = {only: plain["modalities"][only]}
        plain["data"]["lacking"] = None
    return plain


def runs_of(row: str) -> list[str | None]:
    """The runs of a row: one of all modalities, or one of each."""
    return [*MODALITIES] if row == SEPARATE else [None]


def measure(row: str, only: str | None, seed: int, cells: Cells, budget: Mapping[str, float], work: Path) -> None:
    """Train once, and score each modality that is still missing; the baselines with the separate encoders."""
    plain = recipe_of(row, only, seed, budget, work)
    run = mmssl.train(plain | {"evaluate": None})
    model, processor = load_model(run.model_folder).eval(), MMSSLProcessor.from_pretrained(run.model_folder)
    for name in [only] if only else MODALITIES:
        checked = load(plain | {"evaluate": plain["evaluate"] | {"modality": name}})
        options, data = checked.section("evaluate"), checked.section("data")
        evaluator = Evaluator(options, data, processor, model.config, history=History.read(run.model_folder))
        about = {"dataset": name, "seed": seed, "protocol": PROTOCOL, "recipe": "pairs/cross_glyphs"}
        found = evaluator.table(model, name=row).rows if only else (evaluator.row(row, model),)
        networks = {row: model, RANDOM: random_init(model.config, seed)}
        for each in found:
            if each.name in ROWS and not cells.has(name, each.name, seed):
                took = spent(run) if each.name == row else {}
                cells.add(about | {"row": each.name} | scores(each, evaluator, networks.get(each.name)) | took)


def page(cells: Cells) -> str:
    """The page of the comparison."""
    lines = [
        "# Prediction across modalities",
        "",
        "One encoder for picture, name, outline and properties of a character, trained by JEPA.",
        "",
        "- *Shared, predicts across*: each modality is predicted from itself and from every other one of the row",
        "  ([arXiv 2606.25225](https://arxiv.org/abs/2606.25225)).",
        "- *Shared, within each alone*: each modality is predicted only from itself.",
        "- *Separate encoders*: a run for each modality, which sees it in every row. In shared runs a fifth of the rows lack a",
        "  name, as many an outline, as many the properties.",
        "",
        "All make as many steps of 32 rows, with an encoder of width 64 and two layers. Nothing is tuned for a row. Scores are for",
        "the category of a character in percent, on a face that training lacks: probes are fitted on"
        f" {TRAIN_LIMIT:,} samples and scored",
        f"on {TEST_LIMIT:,}. Mean over seeds, lowest and highest in brackets where there are several.",
        "",
        f"Budget of each run: {budget_text(cells.content['budget'])}. Written by `python benchmarks/cross.py`; `cross.json` holds",
        "all runs.",
    ]
    for key, title in SCORES.items():
        rows = [row for row in ROWS if key != "rank" or row != RAW]
        lines += ["", f"## {title}", "", f"| | {' | '.join(MODALITIES)} |", "|---|" + "---:|" * len(MODALITIES)]
        lines += [f"| {row} | {' | '.join(spread(cells.values(name, row, key)) for name in MODALITIES)} |" for row in rows]
    told = [
        f"- `{cell['command']}` at commit {cell['commit']}, {machine(cell['hardware'])}, {cell['protocol']}" for cell in ran(cells)
    ]
    return "\n".join([*lines, "", "## Runs", "", *(list(dict.fromkeys(told)) or ["None yet."])]) + "\n"


def ran(cells: Cells) -> list[dict[str, Any]]:
    """The cells that training made."""
    return [cell for cell in cells.cells if "command" in cell]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of every run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    cells, jobs = Cells(options.output, "cross"), list[Job]()
    if not options.table:
        budget = {"steps": options.steps}
        cells.claim(budget)
        print(command_line(), flush=True)
        wanted = [(seed, row, only) for seed in range(options.seeds) for row in (ACROSS, WITHIN, SEPARATE) for only in runs_of(row)]
        for seed, row, only in wanted:
            if not all(cells.has(name, row, seed) for name in ([only] if only else MODALITIES)):
                jobs.append((f"{row} {only or ''}, seed {seed}", partial(measure, row, only, seed, cells, budget)))
    file = options.output / "cross.md"
    fill(jobs, file, lambda: files.write_text(file, page(cells)))


if __name__ == "__main__":
    main()

"""The ablation: one template of joint-embedding methods, one factor changed at a time, one dataset, one table.

    python benchmarks/ablation.py
    python benchmarks/ablation.py --only base vicreg "batch 32" --seeds 3
    python benchmarks/ablation.py --minutes 1 --output FOLDER
    python benchmarks/ablation.py --table

Trains benchmarks/ablation.yaml, and the same with the change of each row of `ROWS`, on as many samples (--epochs) or for as long
(--minutes), scores the last step, and writes results/ablation.json and ablation.md into docs. What is finished is kept: the same
command goes on where it was stopped. `--table` only writes the page anew.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from grid import RANDOM, RAW, ROOT, Cells, Job, budget_text, fill, limits_of, machine, spent, spread

import mmssl
from mmssl import files
from mmssl.evaluation.table import BEHIND, PRETRAINED
from mmssl.training.run import Run, command_line
from recipes import ranks, scores, shown, tables

RECIPE = ROOT / "benchmarks" / "ablation.yaml"
DATASET = "digits"
BASE = "base"


@dataclass(frozen=True)
class Change:
    """A row of the table. factor: what of the template it changes; changes: overrides of the base recipe.

    headless: nothing lies behind a projector.
    """

    factor: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    headless: bool = False


LOSSES, TEACHER, PREDICTOR = "objective.losses", "objective.teacher", "objective.predictor"
VIEWS, AUGMENT = "modalities.image.views", "modalities.image.augment"
MOVING = {"momentum": [0.97, 1.0]}
ANSWER = {"name": "mlp", "layers": 2, "hidden": 256}
DECODER = {"name": "transformer", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
ROWS = {
    BASE: Change("none"),
    "decoupled": Change("loss", {LOSSES: [{"name": "info_nce", "temperature": 0.2, "decoupled": True}]}),
    "vicreg": Change("loss", {LOSSES: [{"name": "vicreg", "weight": 0.1}]}),
    "barlow_twins": Change("loss", {LOSSES: [{"name": "barlow_twins", "off_diagonal": 0.02, "weight": 0.1}]}),
    "sigreg": Change("loss", {LOSSES: [{"name": "sigreg", "share": 0.05}]}),
    "swapped_assignment": Change("loss", {LOSSES: [{"name": "swapped_assignment", "prototypes": 100, "frozen": 0.02}]}),
    "teacher": Change("networks", {TEACHER: MOVING}),
    "predictor": Change("networks", {PREDICTOR: ANSWER}),
    "cosine, predictor": Change("loss and networks", {LOSSES: [{"name": "cosine"}], PREDICTOR: ANSWER}),
    "cosine, predictor, teacher": Change("loss and networks", {LOSSES: [{"name": "cosine"}], PREDICTOR: ANSWER, TEACHER: MOVING}),
    "self_distillation, teacher": Change(
        "loss and networks", {LOSSES: [{"name": "self_distillation", "prototypes": 256, "warmup": 0.2}], TEACHER: MOVING}
    ),
    "no projector": Change("projector", {"objective.projector.layers": 0}, headless=True),
    "1 layer": Change("projector", {"objective.projector.layers": 1}),
    "3 layers": Change("projector", {"objective.projector.layers": 3}),
    "16 wide at its end": Change("projector", {"objective.projector.size": 16}),
    "without a norm": Change("projector", {"objective.projector.norm": "none"}),
    "layer norm": Change("projector", {"objective.projector.norm": "layer"}),
    "no crop": Change("augmentation", {AUGMENT: {}}),
    "crops of 0.8 to 1": Change("augmentation", {f"{AUGMENT}.crop": [0.8, 1.0]}),
    "crops of 0.1 to 1": Change("augmentation", {f"{AUGMENT}.crop": [0.1, 1.0]}),
    "4 views": Change("views", {VIEWS: {"global": {"count": 4}}}),
    "2 views and 4 small ones": Change(
        "views", {VIEWS: {"global": {"count": 2}, "local": {"count": 4, "crop": [0.1, 0.4], "size": 4}}}
    ),
    "batch 32": Change("batch", {"train.batch_size": 32}),
    "batch 512": Change("batch", {"train.batch_size": 512}),
    "masked": Change(
        "prediction",
        {AUGMENT: {}, "objective": {"name": "masked", "mask": {"name": "random", "ratio": 0.5}, "predictor": DECODER}},
        headless=True,
    ),
    "jepa": Change("prediction", {AUGMENT: {}, "objective": {"name": "jepa", "predictor": DECODER}}, headless=True),
}


def overrides(name: str, seed: int) -> dict[str, Any]:
    """What a row changes of the base recipe; its own change first."""
    row = ROWS[name]
    return {**row.changes, **({"evaluate.heads": False} if row.headless else {}), "run.seed": seed, "evaluate.seed": seed}


def typed(changes: Mapping[str, Any]) -> list[str]:
    """Overrides as the command line takes them: each replaces all that lies below its key."""
    return [f"{key}={shown(value)}" for key, value in changes.items()]


def measure(name: str, seed: int, cells: Cells, budget: Mapping[str, float], work: Path) -> None:
    """Train and score a row, and keep what it came to; the baselines with the first row of a seed."""
    run = mmssl.train(str(RECIPE), typed({"run.dir": str(work), **limits_of(budget), **overrides(name, seed)}))
    table = tables(run)["probe"]
    rows, about = {row["name"]: row for row in table["rows"]}, {"dataset": DATASET, "seed": seed, "protocol": table["protocol"]}
    for other in (RANDOM, RAW):
        if not cells.has(DATASET, other, seed):
            cells.add(about | {"row": other} | scores(rows[other], table))
    behind = rows[BEHIND]["probe"] if BEHIND in rows else None
    found = scores(rows[PRETRAINED], table) | {"behind": behind} | ranks(run) | pace(run) | spent(run)
    cells.add(about | {"row": name, "flags": [flag["name"] for flag in run.read_record()["flags"]]} | found)


def pace(run: Run) -> dict[str, float]:
    """The loss in the first and in the last row of the log, and steps per second over the run."""
    rows = [row for row in run.rows() if "loss" in row]
    return {"first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"], "pace": rows[-1]["step"] / rows[-1]["seconds"]}


def page(cells: Cells) -> str:
    """The page of the ablation."""
    lines = [
        "# One factor at a time",
        "",
        "Methods in which views agree are one template: views, encoder, projector, predictor, second network, loss",
        "([arXiv 2403.05726](https://arxiv.org/abs/2403.05726)). Here each row changes one factor of one recipe. The table shows",
        "what came of it. You can change the same keys in your own recipe; [views that agree](agree.md) explains them.",
        "",
        "The base is SimCLR on digits of 8 x 8 pixels, with an encoder of two layers and width 64 (`benchmarks/ablation.yaml`).",
        "Rows of *batch* see as many samples as the others, so they make more steps, or fewer. Rows of *loss and networks* change",
        "two factors: they are methods whose loss needs the others. Nothing is tuned for a row: all have one learning rate. Run it",
        "yourself, nothing is downloaded:",
        "",
        "    python benchmarks/ablation.py",
        "",
        f"Budget of each row: {budget_text(cells.content['budget'])}. Results are in `results/ablation.json`.",
        "",
        "- **probe, 20-NN**: accuracy in percent on 360 test digits, from 100 labelled ones. On so few digits a difference of six",
        "  points or less may be sampling error.",
        "- **behind**: the linear probe behind the projector (`evaluate.heads`), on the vectors that the loss compares.",
        "- **rank**: effective rank of the features of the test digits, in percent of their width.",
        "- **loss**: in the first and in the last row of the log. Losses of different names can't be compared.",
        f"- **random init**: {drawn(cells)}.",
        "- **steps/s**: on the machine named below. Other work shared it, so only the order of magnitude counts.",
        "",
        "| factor | value | probe | 20-NN | behind | rank | loss | steps/s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *(line(cells, name) for name in ROWS),
        *(f"| | {name} | {score(cells, name, 'probe')} | {score(cells, name, 'knn')} | - | - | - | - |" for name in (RANDOM, RAW)),
        "",
        "## By factor",
        "",
        "Linear probe, least and most over the values of a factor, the base included.",
        "",
        "| factor | values | least | most | span |",
        "|---|---:|---:|---:|---:|",
        *spans(cells),
        "",
        "## What each row changes",
        "",
        *(f"- {row.factor}, {name}: {told(name)}" for name, row in ROWS.items() if name != BASE),
        "",
        "## Runs",
        "",
        *runs(cells),
    ]
    return "\n".join(lines) + "\n"


def drawn(cells: Cells) -> str:
    """How often the weights of the row random init were drawn, per seed."""
    counts = {cell.get("draws", 1) for cell in cells.cells if cell["row"] == RANDOM} or {0}
    return f"{max(counts)} draw{'s' if max(counts) != 1 else ''} of the weights for each seed"


def score(cells: Cells, name: str, key: str, factor: float = 1) -> str:
    return spread([factor * value for value in cells.values(DATASET, name, key)])


def line(cells: Cells, name: str) -> str:
    """A row of the table: mean over seeds, lowest and highest in brackets where there are several."""
    mine = [cell for cell in cells.cells if cell["row"] == name]
    loss = " to ".join(f"{mean(cell[key] for cell in mine):.3g}" for key in ("first_loss", "last_loss")) if mine else "-"
    parts = [
        score(cells, name, "probe"),
        score(cells, name, "knn"),
        score(cells, name, "behind"),
        score(cells, name, "rank_share", 100),
    ]
    return f"| {ROWS[name].factor} | {name} | {' | '.join(parts)} | {loss} | {score(cells, name, 'pace')} |"


def spans(cells: Cells) -> list[str]:
    """For each factor the range of the mean linear probe over its values and the base."""
    found = []
    for factor in dict.fromkeys(row.factor for name, row in ROWS.items() if name != BASE):
        names = [BASE, *(name for name, row in ROWS.items() if row.factor == factor)]
        means = [mean(values) for name in names if (values := cells.values(DATASET, name, "probe"))]
        if len(means) > 1:
            found.append(f"| {factor} | {len(means)} | {min(means):.1f} | {max(means):.1f} | {max(means) - min(means):.1f} |")
    return found


def told(name: str) -> str:
    """The keys that a row sets, as the command line takes them."""
    return " ".join(f"`{text}`" for text in typed(ROWS[name].changes))


def runs(cells: Cells) -> list[str]:
    """The commands that measured the rows."""
    commands = [
        f"- `{cell['command']}` at commit {cell['commit']}, {machine(cell['hardware'])}, {cell['protocol']}"
        for cell in cells.cells
        if "command" in cell
    ]
    return list(dict.fromkeys(commands)) or ["None yet."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=15.0, help="budget of every row, in passes over the 1,437 training digits")
    parser.add_argument("--minutes", type=float, help="budget in minutes, in the place of epochs")
    parser.add_argument("--steps", type=int, help="budget in optimizer steps, in the place of epochs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="where ablation.md and results/ablation.json are")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args()
    (options.output / "results").mkdir(parents=True, exist_ok=True)
    cells, jobs = Cells(options.output / "results", "ablation"), list[Job]()
    if not options.table:
        asked = {"steps": options.steps, "minutes": options.minutes}
        budget = {unit: value for unit, value in asked.items() if value} or {"epochs": options.epochs}
        cells.claim(budget)
        print(command_line(), flush=True)
        for seed, name in product(range(options.seeds), options.only):
            if not cells.has(DATASET, name, seed):
                jobs.append((f"{name}, seed {seed}", partial(measure, name, seed, cells, budget)))
    file = options.output / "ablation.md"
    fill(jobs, file, lambda: files.write_text(file, page(cells)))


if __name__ == "__main__":
    main()

"""The starter recipes on sets that they were not tuned for, with no setting for any of them.

    python benchmarks/starters.py --data ../shared/data --minutes 1
    python benchmarks/starters.py --data ../shared/data --minutes 1 --only image:cifar10
    python benchmarks/starters.py --table

A set gives a starter its data and the column of its labels, nothing else: sizes are found by `auto`. Writes starters.json and
starters.md into docs/results, with random weights, raw features, what needs no pretraining, and the best of the other recipes on
the same set (recipes.json). Finished rows are kept: the same command goes on where it was stopped.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from grid import ROOT, Cells, Job, fill, machine

from mmssl import files
from mmssl.evaluation.table import CHANCE, PRETRAINED, RANDOM, RAW
from mmssl.training.run import command_line
from recipes import LEARNED, measure, paired, probed, reference, took

PAGE = "starters"
SERIES = ("ArrowHead", "OSULeaf", "ItalyPowerDemand", "BasicMotions")
SETS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "image:digits": ("start/image", None, {}),
    "image:cifar10": ("start/image", "cifar10", {"evaluate.train_limit": 5000, "evaluate.test_limit": 2000}),
    "audio:spoken_digits": ("start/audio", "spoken_digits", {}),
    "text:sst2": ("start/text", "sst2", {"evaluate.test_split": "test"}),
    "text:docstrings": ("start/text", None, {}),
    **{f"timeseries:{name}": ("start/timeseries", f"ucr/{name}", {}) for name in SERIES},
    "tabular:adult": ("start/tabular", "adult", {}),
    "tabular:breast_cancer": ("start/tabular", None, {}),
    "points:shapes40": ("start/points", "shapes40", {}),
    "pair:emoji": ("start/pair", "emoji", {}),
    "pair:glyphs": ("start/pair", None, {}),
}
"""By set: its starter, its folder below --data (None: what the starter trains on without one), and how much of it is scored."""


def changes_of(name: str, data: Path) -> dict[str, Any] | None:
    """What of a starter differs for a set: its data, and where its labels are; None if they are not here."""
    _, folder, limits = SETS[name]
    scored = {"evaluate": {"probe": False, "retrieval": ["test"]} if name.startswith("pair:") else {}}
    if folder is None:
        return scored | limits
    if not (data / folder).exists():
        return None
    labelled = {} if name.startswith("pair:") else {"data.columns.label": "label"}
    return {"data.path": str(data / folder), **labelled, **scored, **limits}


def best(cells: list[dict[str, Any]], dataset: str, task: str, score: str) -> str:
    """The best of the recipes that were measured on a set, at the same task; "-" if none was."""
    rows = [cell for cell in cells if cell["dataset"] == dataset and cell["row"] in LEARNED and score in cell]
    rows = [cell for cell in rows if cell["task"] == task and not cell["recipe"].startswith("start/")]
    if not rows:
        return "-"
    top = max(rows, key=lambda cell: cell[score])
    return f"{top[score]:.1f} (`{top['recipe']}`, {took([top])})"


def page(cells: Cells, others: list[dict[str, Any]]) -> str:
    lines = [
        "# Starter recipes",
        "",
        "Each starter on several sets, with no setting for any of them. Linear probe in percent, 20-NN in brackets.",
        "Of pairs R@1, the mean of both ways, and R@10 each way in brackets. Random init is the mean of several draws,",
        "with their standard deviation. No pretraining: what people would use without an encoder.",
        "Best recipe: of those in [recipe by recipe](recipes.md).",
        "",
        "Written by `python benchmarks/starters.py`; `starters.json` holds all runs.",
        "",
        "| starter | set | trained | seeds | pretrained | random init | raw features or chance | no pretraining | best recipe |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in SETS:
        mine = [cell for cell in cells.cells if cell["dataset"] == name]
        if not mine:
            continue
        starter, folder, _ = SETS[name]
        paths = {
            "image:digits": "bundled:digits",
            "tabular:breast_cancer": "bundled:breast_cancer",
            "pair:glyphs": "bundled:glyphs",
        }
        place = folder or paths.get(name, name)
        if any("main" in cell for cell in mine):
            task = next(cell["task"] for cell in mine if "main" in cell)
            mine = [cell for cell in mine if cell["task"] == task]
            shown, score, base = paired, "main", CHANCE
        else:
            shown, score, base = probed, "probe", RAW
        trained = [cell for cell in mine if cell["row"] == PRETRAINED]
        rows = [shown(trained), *(shown([cell for cell in mine if cell["row"] == row]) for row in (RANDOM, base))]
        known = reference([cell for cell in mine if cell.get("reference")])
        lines.append(
            f"| `{starter}` | {name.partition(':')[2]} | {took(trained)} | {len(trained)} | {' | '.join(rows)} | {known} "
            f"| {best(others, place, mine[0]['task'], score)} |"
        )
    commands = dict.fromkeys(f"`{cell['command']}`, {machine(cell['hardware'])}" for cell in cells.cells if "command" in cell)
    lines += ["", "## Runs", "", *([f"- {line}" for line in commands] or ["None yet."])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets that are not bundled")
    parser.add_argument("--minutes", type=float, help="the budget of each run; without it the starter's own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="SET", choices=SETS)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    cells, jobs = Cells(options.output, PAGE), list[Job]()
    file = options.output / "recipes.json"
    others = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else []
    if not options.table:
        print(command_line(), flush=True)
        for seed in range(options.seeds):
            for name in options.only or SETS:
                changes = changes_of(name, options.data)
                if changes is not None and not any((cell["dataset"], cell["seed"]) == (name, seed) for cell in cells.cells):
                    own = partial(measure, SETS[name][0], name, changes, seed, options.minutes)
                    jobs.append((f"{name}, seed {seed}", cells.adding(own)))
    fill(jobs, cells.page, lambda: files.write_text(cells.page, page(cells, others)))


if __name__ == "__main__":
    main()

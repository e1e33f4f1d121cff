"""The grid: every family of objectives on every modality, beside random weights and raw features, under one budget.

    python benchmarks/grid.py --data ../shared/data --minutes 4
    python benchmarks/grid.py --data ../shared/data --minutes 4 --only digits adult
    python benchmarks/grid.py --table

Trains the recipes of recipes/grid with each seed, scores the last step by the frozen protocol of `mmssl evaluate`, and writes
grid.json, grid.md and grid.svg into docs/results. Finished cells are kept: the same command goes on where it was stopped, and a
dataset may be added later. Every trained row has the same budget, minutes or steps; other budgets need another --output.
`--table` only writes table and chart anew from grid.json.
"""

import argparse
import json
import statistics
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib import rc_context
from matplotlib.figure import Figure

import mmssl
from mmssl import files
from mmssl.evaluation import Evaluator, Row, extract, random_init
from mmssl.evaluation.history import History
from mmssl.losses.spectrum import effective_rank
from mmssl.model import MMSSLModel, load_model
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import load
from mmssl.training.run import Run, command_line, facts

ROOT = Path(__file__).parents[1]
TRAINED = {"masked": "masked", "jepa": "JEPA", "contrast": "contrast", "distill": "distill"}
RANDOM, RAW = "random init", "raw features"
ROWS = {**TRAINED, RANDOM: RANDOM, RAW: RAW}
SCORES = {"probe": "Linear probe", "knn": "20-NN", "rank": "Effective rank of the pooled features (test samples)"}
HOURS, AHEAD, STRIDE = 336, 24, 24
MONTH = 30 * 24
TRAIN_MONTHS, TEST_MONTHS = (0, 12), (16, 20)


@dataclass(frozen=True)
class Dataset:
    """What of the recipes of a modality differs for a dataset.

    folder: below --data; None: bundled. note: what a reader of the table should know.
    """

    modality: str
    folder: str | None
    changes: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


DATASETS = {
    "digits": Dataset(
        "image",
        None,
        {
            "data.path": "bundled:digits",
            "modalities.image.processor": {"size": 8, "channels": 1},
            "modalities.image.adapter": {"patch_size": 2},
            "modalities.image.augment": {},
            "evaluate.columns": None,
            "evaluate.train_limit": 100,
            "evaluate.test_limit": None,
        },
        "8 x 8 pixels; probe on 100 labelled digits",
    ),
    "cifar10": Dataset(
        "image", "cifar10", {"data.limit": 10000}, "10,000 images for pretraining, 5,000 for the probe, 2,000 for the test"
    ),
    "spoken_digits": Dataset("audio", "spoken_digits", {}, "digit; the speakers of the test were heard in training"),
    "sst2": Dataset("text", "sst2", {}, "validation part"),
    "OSULeaf": Dataset("timeseries", "ucr/OSULeaf", {}, "200 training series"),
    "ETTh1": Dataset(
        "timeseries",
        "ett",
        {
            "modalities.timeseries.processor": {"normalise": "instance"},
            "modalities.timeseries.augment": {},
            "train.batch_size": 64,
        },
        f"R2 x 100 of the mean of the next {AHEAD} hours, in deviations from that of the {HOURS} hours seen; single channels",
    ),
    "adult": Dataset("tabular", "adult", {"data.columns": {"label": "label"}}, "32,561 rows"),
    "shapes40": Dataset("points", "shapes40", {}, "800 training clouds"),
}


def changes_of(dataset: Dataset, data: Path, work: Path, budget: Mapping[str, float], seed: int) -> dict[str, Any]:
    """The overrides of a grid recipe for one run."""
    where: dict[str, Any] = {"run.dir": str(work / "runs"), "run.seed": seed, "evaluate.seed": seed}
    if dataset.folder == "ett":
        where["data.path"] = str(forecasts(data / dataset.folder / "ETTh1.parquet", work / "ETTh1"))
    elif dataset.folder is not None:
        where["data.path"] = str(data / dataset.folder)
    return {**where, **limits_of(budget), **dataset.changes}


def limits_of(budget: Mapping[str, float]) -> dict[str, float | None]:
    """The overrides that give a run this budget and no other. budget: minutes, steps or epochs."""
    return {f"train.max_{unit}": budget.get(unit) for unit in ("minutes", "steps", "epochs")}


def budget_text(budget: Mapping[str, float] | None) -> str:
    """A budget in words."""
    parts = [f"{value:g} {unit if value != 1 else unit[:-1]}" for unit, value in (budget or {}).items()]
    return " and ".join(parts) or "not yet measured"


def forecasts(file: Path, folder: Path) -> Path:
    """Windows of ETTh1, one channel at a time, with what follows as label, as train.parquet and test.parquet."""
    if folder.exists():
        return folder
    table = pq.read_table(file)
    values = np.stack([np.asarray(table[name], np.float64) for name in table.column_names if name != "date"])
    folder.mkdir(parents=True)
    for part, (begin, end) in {"train": TRAIN_MONTHS, "test": TEST_MONTHS}.items():
        cut = np.lib.stride_tricks.sliding_window_view(values[:, begin * MONTH : end * MONTH], HOURS + AHEAD, axis=1)[:, ::STRIDE]
        windows = cut.reshape(-1, HOURS + AHEAD)
        seen, future = windows[:, :HOURS], windows[:, HOURS:].mean(1)
        label = (future - seen.mean(1)) / seen.std(1).clip(1e-3)
        columns = {"series": [[row.tolist()] for row in seen], "label": label.clip(-5, 5).tolist()}
        pq.write_table(pa.table(columns), folder / f"{part}.parquet")
    return folder


class Cells:
    """The finished cells in a file of results."""

    def __init__(self, folder: Path, name: str = "grid") -> None:
        self.file = folder / f"{name}.json"
        self.content: dict[str, Any] = {"budget": None, "cells": []}
        if self.file.exists():
            self.content = json.loads(self.file.read_text(encoding="utf-8"))

    @property
    def cells(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["cells"]
        return found

    def claim(self, budget: dict[str, float]) -> None:
        """SystemExit if the file was measured with another budget."""
        before = self.content["budget"]
        if self.cells and before != budget:
            raise SystemExit(
                f"{self.file} was measured with {before}, not with {budget}: give another --output, or the same budget"
            )
        self.content["budget"] = budget

    def has(self, dataset: str, row: str, seed: int) -> bool:
        return any((cell["dataset"], cell["row"], cell["seed"]) == (dataset, row, seed) for cell in self.cells)

    @property
    def page(self) -> Path:
        """Where their tables are."""
        return self.file.with_suffix(".md")

    def add(self, *cells: dict[str, Any]) -> None:
        self.cells.extend(cells)
        files.write_json(self.file, self.content)

    def adding(self, measure: Callable[[Path], Iterable[dict[str, Any]]]) -> Callable[[Path], None]:
        """What measures cells, and adds them when all of them are there."""
        return lambda work: self.add(*measure(work))

    def values(self, dataset: str, row: str, score: str) -> list[float]:
        """The scores of all seeds."""
        cells = (cell for cell in self.cells if (cell["dataset"], cell["row"]) == (dataset, row))
        return [cell[score] for cell in cells if cell[score] is not None]


Job = tuple[str, Callable[[Path], None]]
"""What is still to be measured, in words, and what adds its cells, given a folder that vanishes."""


def fill(jobs: Iterable[Job], page: Path, write: Callable[[], None]) -> None:
    """Measure, write the page after each job, and show it. SystemExit that names the jobs that failed, when all are done."""
    failed = []
    for title, measured in jobs:
        print(title, flush=True)
        with tempfile.TemporaryDirectory() as work:
            try:
                measured(Path(work))
            except (ValueError, LookupError, OSError, RuntimeError):
                traceback.print_exc()
                failed.append(title)
        write()
    write()
    print(page.read_text(encoding="utf-8"))
    if failed:
        raise SystemExit(f"Not measured, the reasons are above: {'; '.join(failed)}")


def measure(name: str, seed: int, cells: Cells, data: Path, budget: dict[str, float], work: Path) -> None:
    """What is still missing of a dataset with one seed."""
    dataset, baselines = DATASETS[name], [row for row in (RANDOM, RAW) if not cells.has(name, row, seed)]
    for kind in TRAINED:
        if cells.has(name, kind, seed) and not baselines:
            continue
        recipe = str(ROOT / "recipes" / "grid" / f"{kind}_{dataset.modality}.yaml")
        changes = changes_of(dataset, data, work, budget, seed)
        if cells.has(name, kind, seed):  # only the architecture is wanted
            changes |= {"train.max_minutes": None, "train.max_steps": 1}
        run = mmssl.train(recipe, changes | {"evaluate": None})
        model, processor = load_model(run.model_folder).eval(), MMSSLProcessor.from_pretrained(run.model_folder)
        checked = load(recipe, changes)
        options, data_options, history = checked.section("evaluate"), checked.section("data"), History.read(run.model_folder)
        evaluator = Evaluator(options, data_options, processor, model.config, history=history)
        about = {"dataset": name, "seed": seed, "protocol": mmssl.evaluation.PROTOCOL, "recipe": f"grid/{kind}_{dataset.modality}"}
        rows = evaluator.table(model, name=kind).rows if baselines else (evaluator.row(kind, model),)
        networks = {kind: model, RANDOM: random_init(model.config, seed)}
        for row in rows:
            if row.name in ROWS and not cells.has(name, row.name, seed):
                took = spent(run) if row.name == kind else {key: facts()[key] for key in ("commit", "hardware")}
                cells.add(about | {"row": row.name} | scores(row, evaluator, networks.get(row.name)) | took)
        baselines = []


def scores(row: Row, evaluator: Evaluator, model: MMSSLModel | None) -> dict[str, float | None]:
    """Scores in percent, and the effective rank of what the model makes of the test samples."""
    factor = 100 if evaluator.kind == "regression" else 1
    rank = None
    if model is not None:
        features = extract(model, evaluator.processor, evaluator.sources.test, evaluator.modality, title="rank")
        rank = effective_rank(features.values).item()
    return {"probe": factor * row.probe, "knn": None if row.knn is None else factor * row.knn, "rank": rank}


def spent(run: Run) -> dict[str, Any]:
    """What a run took, and where it ran."""
    record = run.read_record()
    return {key: record[key] for key in ("steps", "samples", "minutes", "commit", "hardware", "command")}


def table(cells: Cells) -> str:
    """The page of the grid."""
    budget = budget_text(cells.content["budget"])
    lines = [
        "# The grid",
        "",
        "Masked modelling, JEPA, contrast and self-distillation on every modality, the same encoder of width 128, depth 4 and",
        "4 heads, beside it with random weights and raw features. The recipes are those of `recipes/grid`; every trained row has",
        "the same budget and is scored at its last step. Mean over seeds, lowest and highest in brackets; accuracy in percent, if",
        "nothing else is said.",
        "",
        f"Budget of each trained row: {budget}. Written by `python benchmarks/grid.py`; `grid.json` holds all runs.",
        "",
        "![Linear probes](grid.svg)",
    ]
    for score, title in SCORES.items():
        rows = [row for row in ROWS if score != "rank" or row != RAW]
        lines += [
            "",
            f"## {title}",
            "",
            "| dataset | " + " | ".join(ROWS[row] for row in rows) + " |",
            "|---|" + "---:|" * len(rows),
        ]
        lines += [f"| {name} | " + " | ".join(spread(cells.values(name, row, score)) for row in rows) + " |" for name in DATASETS]
    lines += ["", "## Datasets", ""]
    lines += [f"- {name}: {dataset.modality}; {dataset.note}." for name, dataset in DATASETS.items()]
    commits = dict[str, list[str]]()
    for cell in cells.cells:
        if "command" in cell:
            known = commits.setdefault(f"`{cell['command']}`, {machine(cell['hardware'])}", [])
            known += [short for short in [str(cell["commit"])[:7]] if short not in known]
    commands = [f"{line}, commits {', '.join(found)}" for line, found in commits.items()]
    lines += ["", "## Runs", "", *([f"- {line}" for line in commands] or ["None yet."])]
    return "\n".join(lines) + "\n"


def machine(hardware: Mapping[str, Any]) -> str:
    """What a run ran on, in words."""
    return ", ".join([f"{hardware['cores']} {hardware['cpu']} cores", *hardware["gpus"]])


def spread(values: list[float]) -> str:
    """Mean, with the range where there are several."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else mean


def chart(cells: Cells) -> Figure:
    """Linear probes of all rows by dataset: bars of means, lines from the lowest to the highest."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(ROWS)
    for number, (row, title) in enumerate(ROWS.items()):
        found = [cells.values(name, row, "probe") for name in DATASETS]
        places = np.arange(len(found)) + (number - (len(ROWS) - 1) / 2) * width
        means = np.array([statistics.mean(values) if values else np.nan for values in found])
        ends = np.array([[min(values, default=np.nan), max(values, default=np.nan)] for values in found]).T
        axes.bar(places, means, width, yerr=abs(ends - means), label=title, error_kw={"linewidth": 1})
    axes.set_xticks(np.arange(len(DATASETS)), [*DATASETS])
    axes.set(ylabel="linear probe, %", ylim=(0, 100))
    axes.legend(ncols=len(ROWS), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def write(cells: Cells) -> None:
    """Table and chart of what there is."""
    folder = cells.file.parent
    files.write_text(folder / "grid.md", table(cells))
    with rc_context({"svg.hashsalt": "mmssl"}):
        chart(cells).savefig(folder / "grid.svg", metadata={"Date": None})


def missing(options: argparse.Namespace, cells: Cells) -> Iterator[tuple[str, int]]:
    """Datasets and seeds that lack a cell, one seed of all datasets first."""
    for seed in range(options.seeds):
        for name in options.only:
            if any(not cells.has(name, row, seed) for row in ROWS):
                yield name, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets that are not bundled")
    parser.add_argument("--minutes", type=float, default=4.0, help="budget of every trained row, at most 4")
    parser.add_argument("--steps", type=int, help="budget in optimizer steps, in the place of minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="DATASET")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--table", action="store_true", help="measure nothing, write table and chart anew")
    options = parser.parse_args()
    if not 0 < options.minutes <= 4:
        parser.error("--minutes is above 0 and at most 4")
    options.output.mkdir(parents=True, exist_ok=True)
    cells, jobs = Cells(options.output), list[Job]()
    if not options.table:
        budget = {"steps": options.steps} if options.steps else {"minutes": options.minutes}
        cells.claim(budget)
        print(command_line(), flush=True)
        for name, seed in missing(options, cells):
            jobs.append((f"{name}, seed {seed}", partial(measure, name, seed, cells, options.data, budget)))
    fill(jobs, options.output / "grid.md", lambda: write(cells))


if __name__ == "__main__":
    main()

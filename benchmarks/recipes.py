"""Every recipe on its data, as it is written, scored at its last step beside random weights, raw features or chance.

    python benchmarks/recipes.py --data ../shared/data
    python benchmarks/recipes.py --data ../shared/data --only pairs/clip_glyphs image/dino_cifar10 --seeds 3
    python benchmarks/recipes.py --data ../shared/data --minutes 5 --output FOLDER
    python benchmarks/recipes.py --table

Trains each recipe with its own settings, and its own budget or --minutes, and writes recipes.json and recipes.md into
docs/results. What is finished is kept: the same command goes on where it was stopped, and --only adds recipes. `--table` only
writes the page anew. The recipes of recipes/grid and recipes/start have their own tables (grid.py, starters.py). What has no
`evaluate` section, or data that are neither bundled nor below --data, is left out and named. A recipe that starts from another run
needs that run, made by the commands of its header in the folder of this command.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from grid import ROOT, Cells, Job, fill, limits_of, machine, spent, spread

import mmssl
from mmssl import files
from mmssl.evaluation import Evaluator, extract
from mmssl.evaluation.table import CHANCE, OWN, PRETRAINED, RANDOM, RAW, TUNED
from mmssl.losses.spectrum import effective_rank
from mmssl.model import load_model
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe, load
from mmssl.training.build import Pieces, build
from mmssl.training.run import Run, command_line
from mmssl.training.splits import Splits, open_splits
from mmssl_catalogue import recipes_found

PAGE = "recipes"
LEARNED = (PRETRAINED, TUNED)
"""Rows of what a run trained: without labels, or with them."""
ROWS = (*LEARNED, OWN, RANDOM, RAW, CHANCE)


@dataclass(frozen=True)
class Place:
    """Where data lie below --data, and what of a recipe differs for this copy.

    renamed: keys with names of columns, which have _ for . in this copy.
    """

    folder: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()


CATEGORICAL = "modalities.tabular.processor.categorical_columns"
PLACES = {
    "uoft-cs/cifar10": Place("cifar10", {"evaluate.train_limit": 5000, "evaluate.test_limit": 2000}),
    "mteb/free-spoken-digit-dataset": Place("spoken_digits"),
    "stanfordnlp/sst2": Place("sst2", {"evaluate.test_split": "test"}),
    "scikit-learn/adult-census-income": Place("adult", {"data.columns.label": "label"}, (CATEGORICAL,)),
    "jxie/modelnet40-2048": Place("shapes40"),
    "data/emoji": Place("emoji"),
    "data/ucr/OSULeaf": Place("ucr/OSULeaf"),
}
BUNDLED = "bundled:"


def where(recipe: Recipe, data: Path) -> tuple[str, dict[str, Any]] | None:
    """The name of a recipe's data and the overrides that find them; None if they are not here."""
    path = recipe.resolved()["data"].get("path")
    if path is None:
        return None
    if path.startswith(BUNDLED):
        return path, {}
    place = PLACES.get(path)
    if place is None or not (data / place.folder).exists():
        return None
    changes = {"data.path": str(data / place.folder), **place.changes}
    for key in place.renamed:
        if (columns := nested(recipe.resolved(), key)) is not None:
            changes[key] = [column.replace(".", "_") for column in columns]
    return place.folder, changes


def opened(name: str, data: Path) -> tuple[Recipe, Splits, Pieces]:
    """A recipe on its data below --data, with what it reads and what it would train. FileNotFoundError if they are not here."""
    path = recipes_found()[name]
    found = where(load(path), data)
    if found is None:
        raise FileNotFoundError(f"the data of {name} are not in {data}")
    recipe = load(path, found[1])
    splits = open_splits(recipe)
    return recipe, splits, build(recipe, splits.streams, splits.labels)


def nested(content: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if there is none."""
    for part in key.split("."):
        content = content.get(part) or {}
    return content or None


def measure(
    name: str, dataset: str, changes: Mapping[str, Any], seed: int, minutes: float | None, work: Path
) -> Iterator[dict[str, Any]]:
    """The cells of one run: a cell for each row of each of its tables. changes: what of the recipe differs for the dataset."""
    changes = {
        **changes,
        "run.dir": str(work),
        "run.seed": seed,
        "evaluate.seed": seed,
        **(limits_of({"minutes": minutes}) if minutes else {}),
    }
    run = mmssl.train(str(recipes_found()[name]), changes)
    about = {"recipe": name, "dataset": dataset, "seed": seed}
    command = " ".join(["mmssl train", name, *(f"{key}={shown(value)}" for key, value in changes.items() if key != "run.dir")])
    took = spent(run) | {"command": command, "flags": [flag["name"] for flag in run.read_record()["flags"]]}
    for task, table in tables(run).items():
        for row in table["rows"]:
            if row["name"] in ROWS or row.get("reference"):
                score = scores(row, table)
                rank = ranks(run) if row["name"] in LEARNED and "probe" in score else {}
                own = took if row["name"] in LEARNED else {}
                yield about | {"row": row["name"], "task": task, "protocol": table["protocol"]} | score | rank | own


def shown(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def tables(run: Run) -> dict[str, dict[str, Any]]:
    """The tables of a run by task; a single one is the probe."""
    content = json.loads(run.table_file.read_text(encoding="utf-8"))
    return {"probe": content} if "rows" in content else content


def scores(row: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Probe and 20-NN, or the scores by pairs with the one that the table is about; accuracy in percent."""
    if "headline" in table:
        return {
            "main": mean(row["scores"][key] for key in table["headline"]),
            "scores": row["scores"],
            "title": table["headline_title"],
        }
    return {key: row[key] for key in ("probe", "knn", "draws", "probe_spread", "reference")}


def ranks(run: Run) -> dict[str, float]:
    """The effective rank of the pooled features of the scored samples, and its share of their width."""
    recipe = load(run.folder / "recipe.yaml")
    model, processor = load_model(run.model_folder).eval(), MMSSLProcessor.from_pretrained(run.model_folder)
    evaluator = Evaluator(recipe.section("evaluate"), recipe.section("data"), processor, model.config)
    values = extract(model, processor, evaluator.sources.test, evaluator.modality, title="rank").values
    rank = effective_rank(values).item()
    return {"rank": rank, "rank_share": rank / values.shape[1]}


def page(cells: Cells) -> str:
    """The page of all recipes."""
    lines = [
        "# Recipe by recipe",
        "",
        "Each recipe on its data with the settings that it ships with, scored at its last step. A row below random init has",
        "learned nothing of use at this budget. Mean over seeds, lowest and highest in brackets where there are several.",
        "",
        "Every run has the minutes of its row. Written by `python benchmarks/recipes.py`; `recipes.json` holds all runs.",
        "",
        "## Frozen features",
        "",
        "Linear probe in percent, 20-NN in brackets. Random init is the mean of several draws, with their standard deviation. No",
        "pretraining: what people would use without an encoder, on the same labels. Own head: what a recipe that trains on labels",
        "predicts itself. Rank: effective rank of the features of the test samples, in percent of their width. CIFAR-10: 5,000",
        "labelled pictures, 2,000 test pictures.",
        "",
        "| recipe | data | trained | seeds | trained encoder | own head | random init | raw features | no pretraining | rank |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, dataset in kinds(cells, "probe"):
        mine = [cell for cell in cells.cells if (cell["recipe"], cell["dataset"], cell["task"]) == (name, dataset, "probe")]
        trained = [cell for cell in mine if cell["row"] in LEARNED]
        rows = [probed(trained), *(probed([cell for cell in mine if cell["row"] == row]) for row in (OWN, RANDOM, RAW))]
        rows.append(reference([cell for cell in mine if cell["reference"]]))
        rank = spread([100 * cell["rank_share"] for cell in trained])
        lines.append(f"| `{name}` | {dataset} | {took(trained)} | {len(trained)} | {' | '.join(rows)} | {rank} |")
    lines += [
        "",
        "## Pairs",
        "",
        "Retrieval: R@1 in percent, the mean of both ways, and R@10 each way in brackets. Zero-shot: top-1.",
        "",
        "| recipe | data | task | trained | seeds | pretrained | random init | chance |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for name, dataset in kinds(cells, "pairs"):
        pairs = [cell for cell in cells.cells if (cell["recipe"], cell["dataset"]) == (name, dataset) and "main" in cell]
        for task in dict.fromkeys(cell["task"] for cell in pairs):
            mine = [cell for cell in pairs if cell["task"] == task]
            trained = [cell for cell in mine if cell["row"] == PRETRAINED]
            rows = [paired([cell for cell in mine if cell["row"] == row]) for row in (PRETRAINED, RANDOM, CHANCE)]
            lines.append(
                f"| `{name}` | {dataset} | {task.replace('_', ' ')} | {took(trained)} | {len(trained)} | {' | '.join(rows)} |"
            )
    commands = dict.fromkeys(f"`{cell['command']}`, {machine(cell['hardware'])}" for cell in cells.cells if "command" in cell)
    lines += ["", "## Runs", "", *([f"- {line}" for line in commands] or ["None yet."])]
    return "\n".join(lines) + "\n"


def kinds(cells: Cells, kind: str) -> list[tuple[str, str]]:
    """Recipes and data that have cells of a kind, in alphabetical order."""
    return sorted({(cell["recipe"], cell["dataset"]) for cell in cells.cells if (cell["task"] == "probe") == (kind == "probe")})


def took(cells: list[dict[str, Any]]) -> str:
    """Budget that was spent, mean over seeds."""
    if not cells:
        return "-"
    return f"{mean(cell['minutes'] for cell in cells):.1f} min, {mean(cell['samples'] for cell in cells):,.0f} samples"


def probed(cells: list[dict[str, Any]]) -> str:
    if not cells:
        return "-"
    drawn = f" ± {mean(cell['probe_spread'] for cell in cells):.1f}" if cells[0]["draws"] > 1 else ""
    neighbours = f" [{mean(cell['knn'] for cell in cells):.1f}]" if cells[0]["knn"] is not None else ""
    return f"{spread([cell['probe'] for cell in cells])}{drawn}{neighbours}"


def reference(cells: list[dict[str, Any]]) -> str:
    """The score of what needs no pretraining, and its name."""
    return f"{spread([cell['probe'] for cell in cells])} ({cells[0]['row']})" if cells else "-"


def paired(cells: list[dict[str, Any]]) -> str:
    if not cells:
        return "-"
    tens = [key for key in cells[0]["scores"] if key.endswith("_10")]
    within = ", ".join(f"{mean(cell['scores'][key] for cell in cells):.1f}" for key in tens)
    return spread([cell["main"] for cell in cells]) + (f" [{within}]" if within else "")


def write(cells: Cells) -> None:
    files.write_text(cells.page, page(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets that are not bundled")
    parser.add_argument("--minutes", type=float, help="the budget of each run; without it that of its recipe")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="as `mmssl list recipes` names them")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    cells, jobs = Cells(options.output, PAGE), list[Job]()
    names = options.only or [name for name in recipes_found() if not name.startswith(("grid/", "start/"))]
    if unknown := sorted({*names} - {*recipes_found()}):
        parser.error(f"no such recipe: {', '.join(unknown)}")
    if not options.table:
        print(command_line(), flush=True)
        here = {
            name: found
            for name in names
            if (recipe := load(recipes_found()[name])).section("evaluate") and (found := where(recipe, options.data))
        }
        print(f"Left out, as they have no scores or no data here: {', '.join(sorted({*names} - {*here})) or 'none'}", flush=True)
        for seed in range(options.seeds):
            for name, (dataset, changes) in here.items():
                if not any((cell["recipe"], cell["seed"]) == (name, seed) for cell in cells.cells):
                    own = partial(measure, name, dataset, changes, seed, options.minutes)
                    jobs.append((f"{name}, seed {seed}", cells.adding(own)))
    fill(jobs, cells.page, lambda: write(cells))


if __name__ == "__main__":
    main()

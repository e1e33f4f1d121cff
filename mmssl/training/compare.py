"""Runs side by side: which there are, how far they came, in which keys they differ and what they reached."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.recipe import Recipe
from mmssl.recipe.automatic import leaves
from mmssl.recipe.messages import shown
from mmssl.training.run import Run

LOSS = "loss"
UNTOLD = ("run.", "resume")
"""Keys that say where a run is, not what it does."""


class Listed(NamedTuple):
    """A line about a run: when it began, how far it came, what it learned by and from, and the score of its first row."""

    name: str
    started: str
    state: str
    objective: str
    data: str
    score: str


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder, the oldest first. FileNotFoundError if there is no folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: runs lie in that of run.dir, which is runs where a recipe does not say")
    found = [Run(each) for each in folder.iterdir() if (each / "recipe.yaml").exists() and (each / "run.json").exists()]
    return sorted(found, key=lambda run: str(run.read_record().get("started")))


def listed(folder: Path) -> list[Listed]:
    """A line for each run in a folder, the oldest first."""
    found = []
    for run in runs_in(folder):
        recipe = Recipe.read_resolved(run.recipe_file)
        scores = scores_of(run)
        headline = next((f"{name} {text}" for name, text in scores.items() if name != LOSS), "")
        data = recipe["data"].get("path") or ", ".join(recipe["data"].get("sources") or ())
        started = str(run.read_record().get("started", ""))[:16].replace("T", " ")
        found.append(Listed(run.folder.name, started, run.state, recipe["objective"]["name"], data, headline))
    return found


def scores_of(run: Run) -> dict[str, str]:
    """The scores of the first row of each table of a run, by title, and the last loss."""
    found = {}
    if run.table_file.exists():
        content = json.loads(run.table_file.read_text(encoding="utf-8"))
        tables = {"": content} if "rows" in content else content
        for task, table in tables.items():
            digits = 3 if "horizon" in table else 1
            for name, value in scored(table).items():
                found[f"{task} {name}".strip().replace("_", " ")] = f"{value:.{digits}f}"
    last = next((row[LOSS] for row in reversed(run.rows()) if LOSS in row), None)
    return found if last is None else found | {LOSS: f"{last:.4g}"}


def scored(table: Mapping[str, Any]) -> dict[str, float]:
    """The scores of the first row of a stored table, by title, beside the margins over its baselines."""
    first = table["rows"][0]
    if "headline" in table:
        return {name: first["scores"][name] for name in table["headline"]}
    if "horizon" in table:
        others = {f"MSE below {row['name']}": row["mse"] - first["mse"] for row in table["rows"][1:]}
        return {"MSE": first["mse"], "MAE": first["mae"]} | others
    margins = {f"above {row['name']}": first["probe"] - row["probe"] for row in table["rows"][1:] if not row["reference"]}
    return {"linear probe": first["probe"], "20-NN": first["knn"]} | margins


def compared(folders: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """Lines of what several runs differ in, a text for each run: how far they came, keys of their recipes, and scores.

    FileNotFoundError for what is no run.
    """
    runs = [Run(folder) for folder in folders]
    for run in runs:
        if not run.recipe_file.exists():
            raise FileNotFoundError(f"{run.folder} is no run: it has no recipe.yaml. `mmssl list runs` names those that there are")
    lines = [("state", [run.state for run in runs])]
    recipes = [dict(leaves(Recipe.read_resolved(run.recipe_file))) for run in runs]
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        values = [shown(recipe[key]) if key in recipe else "" for recipe in recipes]
        if len(set(values)) > 1 and not key.startswith(UNTOLD):
            lines.append((key, values))
    scores = [scores_of(run) for run in runs]
    lines += [(name, [one.get(name, "") for one in scores]) for name in dict.fromkeys(name for one in scores for name in one)]
    return lines

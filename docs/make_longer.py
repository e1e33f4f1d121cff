"""Write docs/results/longer.md from docs/results/longer.yaml: `python docs/make_longer.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl.recipe.yaml12 import parse

DATA = Path(__file__).parent / "results" / "longer.yaml"
PAGE = DATA.with_suffix(".md")
INTRODUCTION = """# Longer runs

What recipes reached in trainings that were made by hand, most of them at the length that the recipe asks for. Last step; a
score for each seed, 0, 1 and 2, or seed 0. 20-NN, or ten answers instead of one, stands in brackets. Runs of one minute, of nearly
all recipes, are in [Recipe by recipe](recipes.md).

<!-- Written by docs/make_longer.py from longer.yaml: edit that instead. -->

| recipe | scored | training | score | random weights | beside it | hoped for |
|---|---|---|---|---|---|---|
"""
MADE = """
## How each was made

The protocol, the command, and what else was found.

"""


def entries() -> list[dict[str, Any]]:
    """The runs of the file, as they stand in it."""
    found: list[dict[str, Any]] = parse(DATA.read_text(encoding="utf-8"), DATA.name)
    return found


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The page of these runs."""
    rows = [
        [
            f"`{run['recipe']}`",
            f"{run['data']}: {run['score']}",
            run["training"],
            listed(run["scores"]),
            listed(run.get("random", [])) or "-",
            run["beside"],
            str(run.get("hoped", "-")),
        ]
        for run in runs
    ]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return INTRODUCTION + table + MADE + "\n".join(map(made, runs))


def made(run: Mapping[str, Any]) -> str:
    """How one run was made."""
    note = f" {run['note'].strip()}" if "note" in run else ""
    return f"**{run['recipe']}**, {run['protocol']}.{note}\n\n    {run['command'].strip()}\n"


def listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    PAGE.write_text(page(entries()), encoding="utf-8")

"""Write docs/papers.md, from paper to recipe to settings to what was measured: `python docs/make_papers.py`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mmssl.recipe.yaml12 import parse
from mmssl_catalogue import header, recipes_found

PAGE = Path(__file__).with_name("papers.md")
RESULTS = Path(__file__).parent / "results"
INTRODUCTION = """# From papers to recipes

Each paper is a recipe: settings of shared parts. The settings are the keys of `objective` that the recipe sets. A result is what
was measured here with the recipe: the linear probe of frozen features, if it says nothing else.

<!-- Written by docs/make_papers.py from the headers of the recipes and the files of docs/results: edit those instead. -->

| paper | recipe | objective | settings | measured |
|---|---|---|---|---|
"""
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
PAPER = re.compile(r"arXiv \d{4}\.\d{4,5}|NeurIPS \d{4}|ICLR \d{4}|ICML \d{4}|CVPR \d{4}")
NOT_YET = "not yet"


def papers(recipes: Mapping[str, Path], results: Sequence[Mapping[str, Any]]) -> str:
    """The page: a row for each recipe whose first sentence names a paper."""
    rows = [row for name, path in recipes.items() if (row := entry(name, path, results)) is not None]
    return INTRODUCTION + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def entry(name: str, path: Path, results: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Paper, recipe, objective, settings and result of a recipe; None if its header opens without a paper."""
    text = header(path)
    opening = re.split(r"\n\s*\n", text)[0].replace("\n", " ")
    if not PAPER.search(opening):
        return None
    recipe = parse(path.read_text(encoding="utf-8"), name)
    objective = recipe["objective"]
    settings = "; ".join(f"{key}: {shown(value)}" for key, value in objective.items() if key != "name")
    return [linked(title(opening)), f"`{name}`", objective["name"], settings or "defaults", measured(name, results)]


def title(opening: str) -> str:
    """The sentence that names the paper, up to the end of the brackets around it."""
    found = PAPER.search(opening)
    assert found is not None
    begin, end = opening.rfind(". ", 0, found.start()), opening.find(")", found.end())
    return opening[begin + 2 if begin >= 0 else 0 : end + 1 if end >= 0 else None]


def linked(text: str) -> str:
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def shown(value: Any) -> str:
    """A part as its name with its keys in brackets."""
    if isinstance(value, list):
        return " + ".join(map(shown, value)) if value and isinstance(value[0], dict) else str(value)
    if not isinstance(value, dict):
        return str(value)
    keys = ", ".join(f"{key} {shown(inner)}" for key, inner in value.items() if key != "name")
    return f"{value.get('name', '')} ({keys})" if keys else str(value.get("name", ""))


def measured(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    """What results files hold of a recipe."""
    return "; ".join(from_results(name, results)) or NOT_YET


def from_results(name: str, results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A phrase for each dataset, or task by pairs: mean over seeds beside random weights, and raw features or chance.

    Then one for each longer run, as the file has it.
    """
    for content in results:
        every = [cell for cell in content.get("cells", []) if "recipe" in cell]
        cells = [cell for cell in every if "probe" in cell]
        trained = [cell for cell in cells if cell["recipe"] == name and "steps" in cell]
        for dataset in dict.fromkeys(cell["dataset"] for cell in trained):
            scores = [cell["probe"] for cell in trained if cell["dataset"] == dataset]
            beside = [
                f"{row} {mean(found):.1f}"
                for row in ("random init", "raw features")
                if (found := baseline([cell for cell in cells if (cell["dataset"], cell["row"]) == (dataset, row)], name))
            ]
            seeds = f"{len(scores)} seed{'s' if len(scores) > 1 else ''}"
            yield f"{dataset} {mean(scores):.1f} ({seeds}; {', '.join(beside)})"
        pairs = [cell for cell in every if cell["recipe"] == name and "main" in cell]
        for task in dict.fromkeys(cell["task"] for cell in pairs):
            found = {
                row: mean(cell["main"] for cell in pairs if (cell["task"], cell["row"]) == (task, row))
                for row in dict.fromkeys(cell["row"] for cell in pairs if cell["task"] == task)
            }
            yield f"{task.replace('_', ' ')} {', '.join(f'{row} {score:.1f}' for row, score in found.items())}"
        for run in content.get("longer", []):
            if run["recipe"] == name:
                random = f" (random init {', '.join(map(str, run['random']))})" if "random" in run else ""
                yield f"{run['data']}, {run['score']}: {', '.join(map(str, run['scores']))}{random}"


def baseline(cells: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Scores of a baseline: of the recipe's own encoder where it has some, else of the one that a file's recipes share."""
    own = [cell for cell in cells if cell["recipe"] == name] or cells
    return [cell["probe"] for cell in own]


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All results files."""
    longer = parse((folder / "longer.yaml").read_text(encoding="utf-8"), "longer.yaml")
    return [*(json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))), {"longer": longer}]


def main() -> None:
    PAGE.write_text(papers(recipes_found(), read_results()), encoding="utf-8")


if __name__ == "__main__":
    main()

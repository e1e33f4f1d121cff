"""The index of papers is current, and says what recipes and results say."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from mmssl.recipe.yaml12 import parse
from mmssl_catalogue import header, recipes_found

DOCS = Path(__file__).parents[2] / "docs"

RECIPE = """# Something (arXiv 2111.06377, section 3) on digits: details.
modalities:
  image: {}
objective:
  name: masked
  mask: {name: random, ratio: 0.5}
  targets: [{name: hidden}, {name: raw, weight: 2.0}]
"""


SCORES = re.compile(r"^Measured (?!by `python benchmarks/grid)|one seed|seeds 0|\d\d\.\d \(\d", re.MULTILINE)
"""How scores begin, and how they are written."""


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_papers.py"))


def test_page_is_current(module: dict[str, Any]) -> None:
    page = module["papers"](recipes_found(), module["read_results"]())
    assert (DOCS / "papers.md").read_text(encoding="utf-8") == page, "run python docs/make_papers.py"


def test_page_of_longer_runs_is_current() -> None:
    longer = runpy.run_path(str(DOCS / "make_longer.py"))
    runs = longer["entries"]()
    assert longer["PAGE"].read_text(encoding="utf-8") == longer["page"](runs), "run python docs/make_longer.py"
    assert {run["recipe"] for run in runs} <= set(recipes_found())


def test_longer_run_stands_in_its_row(module: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(RECIPE, encoding="utf-8")
    run = {"recipe": "a/b", "data": "digits", "score": "probe", "scores": [92.2, "93.3 (85.3)"], "random": [72.8]}
    results = [{"longer": [run, run | {"recipe": "c/d"}]}]
    assert module["entry"]("a/b", tmp_path / "b.yaml", results)[-1] == "digits, probe: 92.2, 93.3 (85.3) (random init 72.8)"


def test_headers_hold_no_scores() -> None:
    """Scores stand in the files of docs/results."""
    for name, path in recipes_found().items():
        found = SCORES.search(header(path))
        assert found is None, f"{name}: scores belong into docs/results/longer.yaml"


def names_the_optimizer(name: str, found: dict[str, Path], known: tuple[str, ...] = ()) -> bool:
    """Whether a header, or one that it sends its readers to, says how the optimizer is set."""
    text, stems = header(found[name]), {each.split("/")[-1]: each for each in found}
    others = [stems[word] for word in re.findall(r"\w+", text) if word in stems and stems[word] not in (name, *known)]
    said = re.search(r"AdamW|betas|clip|optimizer", text) is not None
    return said or any(names_the_optimizer(other, found, (*known, name)) for other in others)


def test_headers_of_papers_say_what_the_optimizer_is(module: dict[str, Any]) -> None:
    """No paper but MAE has the betas, the decay and the clipping that a recipe gets by default."""
    found = recipes_found()
    for name, path in found.items():
        settings = parse(path.read_text(encoding="utf-8"), name)["train"]
        if name.startswith(("grid/", "start/")) or {"betas", "clip_norm", "weight_decay"} <= set(settings):
            continue
        if module["entry"](name, path, []) is not None:
            assert names_the_optimizer(name, found), f"{name}: say in the header how AdamW is set, and how in the paper"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([], "not yet"),
        (
            [
                {"recipe": "a/b", "dataset": "digits", "row": "masked", "probe": 80.0, "steps": 5},
                {"recipe": "a/b", "dataset": "digits", "row": "masked", "probe": 82.0, "steps": 5},
                {"recipe": "a/b", "dataset": "digits", "row": "random init", "probe": 60.0},
            ],
            "digits 81.0 (2 seeds; random init 60.0)",
        ),
        (
            [
                {"recipe": "a/b", "dataset": "x", "task": "retrieval_test", "row": "pretrained", "main": 30.0, "steps": 5},
                {"recipe": "a/b", "dataset": "x", "task": "retrieval_test", "row": "chance", "main": 0.5},
                {"factor": "loss", "probe": 99.0, "steps": 5},
            ],
            "retrieval test pretrained 30.0, chance 0.5",
        ),
    ],
)
def test_row(module: dict[str, Any], cells: list[Any], expected: str, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(RECIPE, encoding="utf-8")
    paper, name, objective, settings, measured = module["entry"]("a/b", tmp_path / "b.yaml", [{"cells": cells}])
    assert paper == "Something ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377), section 3)"
    assert (name, objective) == ("`a/b`", "masked")
    assert settings == "mask: random (ratio 0.5); targets: hidden + raw (weight 2.0)"
    assert measured == expected


def test_recipe_without_a_paper_has_no_row(module: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("# Some words on a table.\nobjective: {name: masked}\n", encoding="utf-8")
    assert module["entry"]("a/b", tmp_path / "b.yaml", []) is None

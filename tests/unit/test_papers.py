"""The index of papers is current, and says what recipes and results say."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from mmssl_catalogue import recipes_found

DOCS = Path(__file__).parents[2] / "docs"

RECIPE = """# Something (arXiv 2111.06377, section 3) on digits: details.
#
# {measured}
modalities:
  image: {{}}
objective:
  name: masked
  mask: {{name: random, ratio: 0.5}}
  targets: [{{name: hidden}}, {{name: raw, weight: 2.0}}]
"""


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_papers.py"))


def test_page_is_current(module: dict[str, Any]) -> None:
    page = module["papers"](recipes_found(), module["read_results"]())
    assert (DOCS / "papers.md").read_text(encoding="utf-8") == page, "run python docs/make_papers.py"


@pytest.mark.parametrize(
    ("paragraph", "cells", "expected"),
    [
        ("Not yet measured here.", [], "not yet"),
        ("Measured on 2 cores,\n# one seed: 55.4.", [], "on 2 cores, one seed: 55.4"),
        (
            "Not yet measured here.",
            [
                {"recipe": "a/b", "dataset": "digits", "row": "masked", "probe": 80.0, "steps": 5},
                {"recipe": "a/b", "dataset": "digits", "row": "masked", "probe": 82.0, "steps": 5},
                {"recipe": "a/b", "dataset": "digits", "row": "random init", "probe": 60.0},
            ],
            "digits 81.0 (2 seeds; random init 60.0)",
        ),
        (
            "Not yet measured here.",
            [
                {"recipe": "a/b", "dataset": "x", "task": "retrieval_test", "row": "pretrained", "main": 30.0, "steps": 5},
                {"recipe": "a/b", "dataset": "x", "task": "retrieval_test", "row": "chance", "main": 0.5},
                {"factor": "loss", "probe": 99.0, "steps": 5},
            ],
            "retrieval test pretrained 30.0, chance 0.5",
        ),
    ],
)
def test_row(module: dict[str, Any], paragraph: str, cells: list[Any], expected: str, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(RECIPE.format(measured=paragraph), encoding="utf-8")
    paper, name, objective, settings, measured = module["entry"]("a/b", tmp_path / "b.yaml", [{"cells": cells}])
    assert paper == "Something ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377), section 3)"
    assert (name, objective) == ("`a/b`", "masked")
    assert settings == "mask: random (ratio 0.5); targets: hidden + raw (weight 2.0)"
    assert measured == expected


def test_recipe_without_a_paper_has_no_row(module: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("# Some words on a table.\nobjective: {name: masked}\n", encoding="utf-8")
    assert module["entry"]("a/b", tmp_path / "b.yaml", []) is None

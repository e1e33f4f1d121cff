"""Starter recipes on several sets: nothing is set for one of them, and the page names the best of the others."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from mmssl_catalogue import recipes_found

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "starters.py"))


def test_a_set_gives_a_starter_nothing_but_data_and_labels(module: dict[str, Any], tmp_path: Path) -> None:
    starters = {name for name in recipes_found() if name.startswith("start/")} - {"start/segmentation"}  # it learns labels
    used = {starter for starter, _, _ in module["SETS"].values()}
    assert starters == used
    for name, (starter, folder, _) in module["SETS"].items():
        assert starter in starters
        assert (folder is None) == (module["changes_of"](name, tmp_path) is not None), "what is not there is left out"
        (tmp_path / (folder or "")).mkdir(parents=True, exist_ok=True)
        changes = module["changes_of"](name, tmp_path)
        assert {key.partition(".")[0] for key in changes} <= {"data", "evaluate"}
        assert {key for key in changes if key.startswith("data.")} <= {"data.path", "data.columns.label"}


def row(dataset: str, name: str, probe: float, **more: Any) -> dict[str, Any]:
    about = {"dataset": dataset, "row": name, "seed": 0, "task": "probe", "probe": probe, "knn": probe - 1}
    return about | {"draws": 1, "probe_spread": 0.0, "reference": False, "recipe": "start/tabular"} | more


def test_the_page_names_the_best_of_the_other_recipes(module: dict[str, Any], tmp_path: Path) -> None:
    cells = module["Cells"](tmp_path, "starters")
    trained = {
        "minutes": 1.0,
        "samples": 640,
        "command": "mmssl train start/tabular",
        "hardware": {"cpu": "x", "cores": 2, "gpus": []},
    }
    cells.add(
        row("tabular:adult", "pretrained", 86.04, **trained),
        row("tabular:adult", "random init", 85.0, draws=3, probe_spread=0.5),
        row("tabular:adult", "raw features", 84.0),
        row("tabular:adult", "boosted trees", 87.0, knn=None, reference=True),
    )
    own = {"recipe": "start/tabular", "dataset": "adult"}
    others = [
        row("adult", "pretrained", 99.0, **trained) | own,
        *(
            row("adult", "pretrained", probe, **trained) | {"recipe": recipe}
            for recipe, probe in (("tabular/a", 85), ("tabular/b", 86.5))
        ),
        row("adult", "random init", 98.0),
    ]
    lines = [line for line in module["page"](cells, others).splitlines() if line.startswith("| `start")]
    assert lines == [
        "| `start/tabular` | adult | 1.0 min, 640 samples | 1 | 86.0 [85.0] | 85.0 ± 0.5 [84.0] | 84.0 [83.0] "
        "| 87.0 (boosted trees) | 86.5 (`tabular/b`, 1.0 min, 640 samples) |"
    ]

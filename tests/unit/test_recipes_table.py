"""The table of all recipes: data are found where they lie, cells are kept, and a page shows them."""

import json
import re
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest

from mmssl.recipe import load
from mmssl_catalogue import header, recipes_found

ROOT = Path(__file__).parents[2]
HARDWARE = {"cpu": "x86_64", "cores": 2, "gpus": []}


@pytest.fixture(scope="module")
def module(benchmark_module: Any) -> Any:
    return benchmark_module("recipes")


def test_data_are_found_below_the_folder_or_bundled(module: Any, tmp_path: Path) -> None:
    recipe = load(recipes_found()["tabular/masked_adult"], {"modalities.tabular.processor.categorical_columns": ["capital.gain"]})
    assert module.where(recipe, tmp_path) is None
    (tmp_path / "adult").mkdir()
    changes = {"data.path": str(tmp_path / "adult"), "data.columns.label": "label", module.CATEGORICAL: ["capital_gain"]}
    assert module.where(recipe, tmp_path) == ("adult", changes)
    assert module.where(load(recipes_found()["pairs/clip_glyphs"]), tmp_path) == ("bundled:glyphs", {})


def test_tables_of_a_run_become_cells(module: Any, tmp_path: Path) -> None:
    pairs = {"headline": ["a_1", "b_1"], "headline_title": "R@1", "metric": "accuracy", "protocol": "p"}
    pairs["rows"] = [{"name": "pretrained", "scores": {"a_1": 40.0, "b_1": 60.0, "a_10": 80.0}}]
    plain = {"draws": 1, "probe_spread": 0.0, "reference": False}
    probes = {"metric": "accuracy", "protocol": "q", "rows": [{"name": "pretrained", "probe": 50.0, "knn": 40.0, **plain}]}
    for content, task, score in (
        (probes, "probe", {"probe": 50.0, "knn": 40.0, **plain}),
        ({"retrieval_test": pairs}, "retrieval_test", None),
    ):
        (tmp_path / "table.json").write_text(json.dumps(content))
        [(name, table)] = module.tables(SimpleNamespace(table_file=tmp_path / "table.json")).items()
        found = module.scores(table["rows"][0], table)
        assert name == task and (found == score if score else found["main"] == 50.0)
    assert module.shown([1, "a"]) == '[1,"a"]' and module.shown(None) == "null" and module.shown("x") == "x"


def test_page_holds_means_and_what_was_run(module: Any, tmp_path: Path) -> None:
    cells = module.Cells(tmp_path, module.PAGE)
    cells.claim({"minutes": 1.0})
    took = {"steps": 3, "samples": 1200, "minutes": 1.0, "command": "mmssl train x", "hardware": HARDWARE, "rank_share": 0.25}
    for seed, probe in enumerate((50.0, 54.0)):
        about = {"recipe": "image/x", "dataset": "digits", "seed": seed, "task": "probe", "knn": 30.0}
        about |= {"draws": 1, "probe_spread": 0.0, "reference": False}
        drawn, counted = {"row": "random init", "probe": 40.0, "draws": 3, "probe_spread": 1.5}, {"row": "counting", "probe": 60.0}
        cells.add(about | {"row": "pretrained", "probe": probe} | took, about | drawn)
        cells.add(about | counted | {"knn": None, "reference": True})
    about = {"recipe": "pairs/y", "dataset": "glyphs", "seed": 0, "task": "retrieval_test"}
    cells.add(about | {"row": "pretrained", "main": 12.0, "scores": {"a_10": 33.0}} | took)
    page = module.page(module.Cells(tmp_path, module.PAGE))
    assert (
        "| `image/x` | digits | 1.0 min, 1,200 samples | 2 | 52.0 (50.0 to 54.0) [30.0] | - | 40.0 (40.0 to 40.0) ± 1.5 "
        "[30.0] | - | 60.0 (60.0 to 60.0) (counting) |"
    ) in page
    assert "| `pairs/y` | glyphs | retrieval test | 1.0 min, 1,200 samples | 1 | 12.0 [33.0] | - | - |" in page
    assert page.count("`mmssl train x`, 2 x86_64 cores") == 1


def test_headers_say_why_an_effective_rank_is_low() -> None:
    """A recipe whose features end below a fifth of their width says so, and why, beside what was measured."""
    cells = json.loads((ROOT / "docs" / "results" / "recipes.json").read_text(encoding="utf-8"))["cells"]
    shares: dict[str, list[float]] = {}
    for cell in cells:
        if "rank_share" in cell:
            shares.setdefault(cell["recipe"], []).append(cell["rank_share"])
    assert shares
    found = recipes_found()
    for name, values in shares.items():
        own = " ".join(header(found[name]).split())
        if mean(values) < 0.2:
            reason = re.search(r"[Ee]ffective rank (?:is|stays|ends|falls) below a fifth of the width[:,] (\S+ ){5,}", own)
            assert reason, f"{name}: effective rank {100 * mean(values):.0f} % of the width; say in the header why"

"""The grid: a recipe for every modality and objective with one encoder, cells that are kept, and a page that shows them."""

import json
import runpy
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmssl.plugins import installed
from mmssl.recipe import load
from mmssl_catalogue import recipes_found

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "grid.py"))


def cell(row: str, seed: int, probe: float, **more: Any) -> dict[str, Any]:
    return {"dataset": "digits", "row": row, "seed": seed, "probe": probe, "knn": probe - 1, "rank": 20.0, **more}


def test_every_modality_has_all_objectives_on_one_encoder(module: dict[str, Any]) -> None:
    grid = {name.removeprefix("grid/"): load(path) for name, path in recipes_found().items() if name.startswith("grid/")}
    assert set(grid) == {f"{kind}_{name}" for kind in module["TRAINED"] for name in installed()}
    encoders = [recipe.resolved()["encoder"] for recipe in grid.values()]
    assert len({json.dumps(encoder | {"pooling": None}, sort_keys=True) for encoder in encoders}) == 1
    for name, recipe in grid.items():
        modality = next(iter(recipe.modalities))
        assert name == f"{recipe.objective[0]}_{modality}"
        assert recipe.section("encoder") == grid[f"jepa_{modality}"].section("encoder")


def test_datasets_change_keys_that_their_recipes_have(module: dict[str, Any], tmp_path: Path) -> None:
    hours = {name: [float(i % 24) for i in range(20 * 30 * 24)] for name in ("a", "b")}
    (tmp_path / "ett").mkdir()
    pq.write_table(pa.table({"date": ["x"] * len(hours["a"]), **hours}), tmp_path / "ett" / "ETTh1.parquet")
    for name, dataset in module["DATASETS"].items():
        changes = module["changes_of"](dataset, tmp_path, tmp_path, {"steps": 2}, 1)
        for kind in module["TRAINED"]:
            recipe = load(recipes_found()[f"grid/{kind}_{dataset.modality}"], changes)
            assert recipe.section("train").max_steps == 2 and recipe.section("train").max_minutes is None, name
            assert recipe.section("run").seed == recipe.section("evaluate").seed == 1
    rows = pq.read_table(tmp_path / "ETTh1" / "train.parquet").to_pylist()
    assert len(rows[0]["series"]) == 1 and len(rows[0]["series"][0]) == module["HOURS"]
    assert rows[0]["label"] == pytest.approx(0, abs=1e-9), "the mean of a day of a daily pattern is that of the window"


def test_cells_are_kept_and_a_budget_is_not_mixed_with_another(module: dict[str, Any], tmp_path: Path) -> None:
    cells = module["Cells"](tmp_path)
    cells.claim({"minutes": 4.0})
    for row in (*module["TRAINED"], "random init", "raw features"):
        cells.add(cell(row, 0, 50.0))
    again = module["Cells"](tmp_path)
    again.claim({"minutes": 4.0})
    options = Namespace(seeds=2, only=["digits", "adult"])
    assert list(module["missing"](options, again)) == [("adult", 0), ("digits", 1), ("adult", 1)]
    with pytest.raises(SystemExit, match=r"measured with .*minutes.* not with .*steps"):
        again.claim({"steps": 9})


def test_page_holds_mean_and_range(module: dict[str, Any], tmp_path: Path) -> None:
    cells = module["Cells"](tmp_path)
    cells.claim({"minutes": 4.0})
    for seed, probe in enumerate((50.0, 53.0)):
        cells.add(
            cell(
                "masked",
                seed,
                probe,
                command="grid.py --minutes 4",
                commit="abc",
                hardware={"cpu": "x86_64", "cores": 2, "gpus": []},
            )
        )
    module["write"](cells)
    page = (tmp_path / "grid.md").read_text(encoding="utf-8")
    assert "Budget of each trained row: 4 minutes." in page
    assert "| digits | 51.5 (50.0 to 53.0) | - | - | - | - | - |" in page
    assert page.count("`grid.py --minutes 4`, 2 x86_64 cores, commits abc\n") == 1
    first = (tmp_path / "grid.svg").read_bytes()
    module["write"](cells)
    assert (tmp_path / "grid.svg").read_bytes() == first

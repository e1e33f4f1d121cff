"""The ablation: rows that change one factor of one recipe, cells that are kept, and a page that shows them."""

import sys
from pathlib import Path
from typing import Any

import pytest

import mmssl
from mmssl.recipe import load, yaml12
from mmssl.recipe.recipe import override

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module(benchmark_module: Any) -> Any:
    return benchmark_module("ablation")


def test_rows_change_what_they_name_and_nothing_else(module: Any) -> None:
    base = yaml12.parse(module.RECIPE.read_text(encoding="utf-8"), "base")
    for name, row in module.ROWS.items():
        changed = override(base, module.typed(row.changes))
        assert {key for key in base if base[key] != changed[key]} == {key.split(".")[0] for key in row.changes}, name
    assert load(module.RECIPE, module.typed(module.ROWS["masked"].changes)).objective[0] == "masked"
    factors = [row.factor for row in module.ROWS.values()]
    assert factors[0] == "none" and len(set(factors[1:])) > 6
    assert factors == sorted(factors, key=factors.index), "rows of a factor stand together"


def test_command_measures_two_rows_and_keeps_them(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--only", "base", "no projector", "--steps", "2", "--output", str(tmp_path)])
    module.main()
    page = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    cells = module.Cells(tmp_path / "results", "ablation")
    assert {cell["row"] for cell in cells.cells} == {"base", "no projector", "random init", "raw features"}
    base, none = (next(cell for cell in cells.cells if cell["row"] == name) for name in ("base", "no projector"))
    assert base["steps"] == none["steps"] == 2 and base["behind"] > 0 and none["behind"] is None
    shown = " | ".join(f"{value:.1f}" for value in (base["probe"], base["knn"], base["behind"], 100 * base["rank_share"]))
    assert f"| none | base | {shown} | " in page and "Budget of each row: 2 steps." in page
    low, high = sorted((base["probe"], none["probe"]))
    assert f"| projector | 2 | {low:.1f} | {high:.1f} | {high - low:.1f} |" in page
    assert "| loss | vicreg | - | - | - | - | - | - |" in page
    monkeypatch.setattr(mmssl, "train", None)  # nothing is left to train
    module.main()
    assert (tmp_path / "ablation.md").read_text(encoding="utf-8") == page
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--steps", "3", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"measured with .*2.*, not with .*3"):
        module.main()


def test_page_in_the_documentation_is_that_of_its_results(module: Any) -> None:
    page = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
    assert page == module.page(module.Cells(ROOT / "docs" / "results", "ablation"))

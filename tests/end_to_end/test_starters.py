"""Starter recipes for any two modalities: made of those of each, and trained on rows that hold both."""

import itertools
from pathlib import Path
from typing import Any

import pytest

import mmssl
from mmssl.modality import find
from mmssl.plugins import installed
from mmssl.recipe import yaml12
from mmssl.training.starters import starter_text

ROWS = 12


@pytest.mark.parametrize("names", list(itertools.combinations(installed(), 2)), ids="-".join)
@pytest.mark.usefixtures("one_thread", "no_pictures")
def test_any_two_modalities_of_a_row_find_each_other(names: tuple[str, str], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{} for _ in range(ROWS)]
    columns = dict[str, Any]()
    for name in names:
        for row, raw in zip(rows, find(name).example(ROWS, 0), strict=True):
            whole = not find(name).columns
            row.update(raw if whole else {name: raw})
            columns[name] = list(raw) if whole else name
    recipe = yaml12.parse(starter_text(names, None), "starter")
    assert list(recipe["modalities"]) == list(names) and recipe["objective"]["name"] == "clip"
    changes = {"data.path": None, "data.columns": columns, "train.max_minutes": None, "train.max_steps": 2, "evaluate": None}
    run = mmssl.train(recipe, changes | {"run.dir": str(tmp_path)}, rows=rows)
    assert (run.folder / "model" / "model.safetensors").exists()


def test_a_modality_without_a_starter_is_named() -> None:
    with pytest.raises(ValueError, match="no starter recipe for smells; there are "):
        starter_text(["image", "smells"], None)

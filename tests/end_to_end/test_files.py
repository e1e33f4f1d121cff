"""Runs on files as people have them, and on rows in the place of files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmssl import api
from mmssl.evaluation import Table
from mmssl.recipe import RecipeError, load
from mmssl.training.run import Run

Train = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("no_pictures", "one_thread")


def pictures(folder: str, count: int = 24) -> pd.DataFrame:
    """Images of two kinds, and a table of their names and kinds."""
    Path(folder).mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        grey = rng.integers(0, 100, (8, 8)).astype(np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(grey).save(f"{folder}/{number:02}.png")
        rows.append({"file_name": f"{number:02}.png", "kind": "ab"[number % 2]})
    return pd.DataFrame(rows)


def last_table(run: Run) -> Table:
    return Table.from_dict(json.loads(run.table_file.read_text()))


def test_a_table_beside_media_files_trains_and_is_scored(train: Train) -> None:
    pictures("set").to_csv("set/metadata.csv", index=False)
    Path("set/notes.txt").touch()
    run = train("data={path: set, columns: {label: kind}}", "evaluate={}", "train.max_steps=2")
    assert last_table(run).num_train == 18
    notes = run.read_record()["notes"]
    assert "set: 1 file passed over: 1 .txt." in notes
    assert "set is read by set/metadata.csv: a row is a sample, its file is named by file_name." in notes
    assert all(note in run.report_file.read_text() for note in notes)
    assert "note        set: 1 file passed over: 1 .txt." in api.check("tiny.yaml", ["data={path: set}"])


def test_files_that_changed_under_their_names_are_not_resumed_on(train: Train) -> None:
    pictures("set")
    keys = ("data={path: set}", "train.max_steps=4", "train.checkpoint_every=2", "run.name=first")
    run = train(*keys)
    record = run.read_record()
    del record["finished"], record["trained"]
    run.record_file.write_text(json.dumps(record))
    Image.new("RGB", (31, 31)).save("set/03.png")
    with pytest.raises(
        ValueError, match=r"cannot resume runs/first: set \(train\) is not what it was.* a digest of names and sizes.*init="
    ):
        train(*keys, "resume=auto")
    del record["data"]["data"]["files"]
    run.record_file.write_text(json.dumps(record))
    assert train(*keys, "resume=auto").folder == run.folder, "a run of an earlier version goes on"


ROWS = [{"height": float(i % 7), "kind": "ab"[i % 2], "tall": i % 7 > 3} for i in range(40)]
KEYS: dict[str, Any] = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "masked", "predictor": {"name": "mask_token"}},
    "train": {"batch_size": 8, "max_steps": 2},
}


@pytest.mark.parametrize("data", [None, {}, {"columns": {"label": "tall"}}])
@pytest.mark.usefixtures("tiny")
def test_rows_stand_in_the_place_of_a_path(data: dict[str, Any] | None) -> None:
    recipe = KEYS if data is None else KEYS | {"data": data}
    if data and "columns" in data:
        assert last_table(api.train(recipe | {"evaluate": {}}, rows=ROWS)).num_train == 32
        assert last_table(api.train(recipe | {"evaluate": {}}, rows={"data": ROWS})).num_train == 32
    else:
        assert api.train(recipe, rows=ROWS).read_record()["data"]["data"]["samples"] == 40
        with pytest.raises(ValueError, match="evaluation needs labels, and rows in memory names no label column"):
            api.train(recipe | {"evaluate": {}}, rows=ROWS)


@pytest.mark.usefixtures("tiny")
def test_rows_of_several_sources_and_their_limits() -> None:
    run = api.train(KEYS | {"data": {"limit": 10}}, rows=ROWS)
    assert run.read_record()["data"]["data"]["samples"] == 10
    two = {**KEYS, "modalities": {"tabular": {}, "text": {}}}
    rows = {"tabular": ROWS, "text": [{"text": "some words"}] * 20}
    for data in ({}, {"sources": {"tabular": {}, "text": {"weight": 2.0}}}):
        assert {k: v["samples"] for k, v in api.train(two | {"data": data}, rows=rows).read_record()["data"].items()} == {
            "tabular": 40,
            "text": 20,
        }
    with pytest.raises(ValueError, match=r"rows= is by source: data.sources has tabular, text; got rows of tabular"):
        api.train(two | {"data": {"sources": {"tabular": {}, "text": {}}}}, rows={"tabular": ROWS})
    with pytest.raises(ValueError, match="rows= needs the rows of each source by its name, tabular, text"):
        api.train(two | {"data": {"sources": {"tabular": {}, "text": {}}}}, rows=ROWS)


@pytest.mark.usefixtures("tiny")
def test_neither_path_nor_rows() -> None:
    with pytest.raises(ValueError, match=r"^neither data.path nor data.sources is set; give one"):
        api.train(KEYS)
    with pytest.raises(ValueError, match=r"^neither data.path nor data.sources is set; give one"):
        api.check(KEYS)
    with pytest.raises(ValueError, match=r"^data.sources.tabular.path is not set; set data.sources.tabular.path=PATH"):
        api.train(KEYS | {"data": {"sources": {"tabular": {}}}})
    assert not list(Path("runs").glob("*"))
    with pytest.raises(RecipeError) as error:
        load({key: value for key, value in KEYS.items() if key != "train"})
    assert "train_" not in str(error.value)

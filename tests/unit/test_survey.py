"""What a path holds, told before anything is trained."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from mmssl.data.survey import Candidate, Passed, Survey, survey


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def test_what_is_read_and_what_is_not_is_counted() -> None:
    touch("pets/cat/1.PNG", "pets/cat/deep/2.jpg", "pets/dog/3.png", "pets/notes.txt", "pets/a.xcf", "pets/b.xcf", "pets/README")
    touch("pets/.git/config", "pets/.DS_Store")
    Path("pets/dog/gone.png").symlink_to("nowhere")
    Path("pets/cat/linked").symlink_to("../dog")
    found = survey("pets")
    assert found.num_files == 12
    assert found.num_read == 4 == found.num_rows, "a linked folder is followed"
    assert found.candidates == (Candidate("image", "pets", {".png": 3, ".jpg": 1}, "image"),)
    assert found.passed == (
        Passed("files with suffixes that are not read", {".xcf": 2, "": 1, ".txt": 1}, ("README", "a.xcf", "b.xcf", "notes.txt")),
        Passed("hidden files and folders", {"": 2}, (".DS_Store", ".git")),
        Passed("links that lead nowhere", {".png": 2}, ("cat/linked/gone.png", "dog/gone.png")),
    )
    assert found.labels == {"cat": 3, "dog": 1}
    assert found.lines()[:2] == [
        "4 of 12 files: .png 3, .jpg 1",
        "4 files with suffixes that are not read: .xcf 2, without suffix 1, .txt 1",
    ]
    assert "2 classes by folders: cat 3, dog 1" in found.lines()
    assert not found.mixed


def test_two_modalities_are_both_told_with_a_path_for_each() -> None:
    touch("both/1.png", "both/2.png", "both/a.wav")
    found = survey("both")
    assert [(each.modality, each.path) for each in found.candidates] == [("image", "both/**/*.png"), ("audio", "both/**/*.wav")]
    assert found.mixed == (
        "both mixes formats: audio (a.wav), image (1.png and 1 more). Choose one with a pattern such as folder/**/*.png: which are "
        "the samples?"
    )
    assert found.num_rows is None
    assert survey("both/**/*.wav").num_rows == 1


def test_texts_are_read_only_where_nothing_else_is() -> None:
    touch("docs/a/1.txt", "docs/a/2.MD", "docs/b/3.md")
    found = survey("docs")
    assert next(each.modality for each in found.candidates) == "text"
    assert found.labels == {"a": 2, "b": 1}
    Path("lines.txt").write_text("one\n\ntwo\n")
    found = survey("lines.txt")
    assert found.num_rows == 2
    assert found.notes == ("lines.txt: every line is a sample, 2 in all; 1 blank line is left out.",)


def test_splits_and_columns_of_tables() -> None:
    Path("t").mkdir()
    frame = pd.DataFrame({"text": ["a b", "c"], "n": [1.5, None], "values": [[1, 2], [3]], "ok": [True, False]})
    frame.to_json("t/train.jsonl", orient="records", lines=True)
    frame.to_json("t/test.jsonl", orient="records", lines=True)
    Path("t/settings.json").write_text("{}")
    found = survey("t")
    assert found.splits == {"test": 1, "train": 1}
    assert found.num_rows == 4
    kinds = {column.name: (column.kind, column.distinct, column.missing, column.length) for column in found.columns}
    assert kinds == {
        "text": ("string", 2, 0.0, 2.0),
        "n": ("number", 1, 0.5, 0.0),
        "values": ("list", 4, 0.0, 1.5),
        "ok": ("boolean", 2, 0.0, 0.0),
    }
    assert [(each.modality, each.column) for each in found.candidates] == [
        ("text", "text"),
        ("timeseries", "values"),
        ("tabular", None),
    ]
    assert found.passed[0].suffixes == {".json": 1}
    with gzip.open("u.csv.gz", "wt") as file:
        file.write("a,b\n1,x\n")
    assert [(column.name, column.kind) for column in survey("u.csv.gz").columns] == [("a", "number"), ("b", "string")]


def test_bundled_data_and_what_is_not_there() -> None:
    found = survey("bundled:wine")
    assert found.num_files == 0
    assert found.candidates == (Candidate("tabular", "bundled:wine", {}, None),)
    assert found.num_rows == 178
    with pytest.raises(FileNotFoundError, match="no file or folder no/such/one"):
        survey("./no/such/one")
    Path("empty").mkdir()
    assert survey("empty") == Survey("empty")

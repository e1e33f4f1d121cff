"""What `mmssl new` sees in data that look like something else, and what it says to type."""

import bz2
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmssl.data import Source
from mmssl.data.csv_files import CsvFile
from mmssl.data.series import SeriesOptions
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.modality import numbers_in_text
from mmssl.training.beginning import look

WORDS = "One two three four five words of speaker number"


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def pictures(folder: str, count: int = 6) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{number}.png")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def iris() -> str:
    return write("t.csv", "".join(f"5.{i % 9},3.{i % 7},{'ab'[i % 2]}\n" for i in range(30)))


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "no header": (iris, r"first line holds numbers, 5\.0, 3\.0, a, and names no columns.*--no-header"),
    "whole numbers": (lambda: write("t.csv", "0,0,1\n" * 9), r"both called '0'.*data\.header=false"),
    "a title": (lambda: write("t.csv", "Sales\n\na,b\n1,2\n"), r"first line, 'Sales', names one column, and row 0 has 2 cells"),
    "a remark": (lambda: write("t.csv", "# by a logger\na,b\n1,2\n"), r"Remove what stands above the names"),
    "a web page": (lambda: write("t.csv", "<!DOCTYPE html><html>not, found\n" * 9), r"web page, as of a download that failed"),
    "a web page, json": (lambda: write("t.json", "<html>404</html>"), r"web page, as of a download that failed"),
    "a pointer": (lambda: write("t.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), r"git lfs pull"),
    "a workbook": (lambda: write("t.xlsx", b"PK"), r"got \.xlsx\. \.xlsx: save the sheet as csv"),
    "packed": (lambda: write("t.csv.bz2", bz2.compress(b"a,b\n1,2\n")), r"got \.bz2\. \.bz2: unpack it"),
    "a packed folder": (lambda: write("d/t.tar.gz", b"") and "d", r"1 file passed over: 1 \.tar\.gz\. \.gz: unpack it"),
    "no suffix": (lambda: write("d/4001", WORDS) and "d", r"files without suffix: if these are texts, give them the suffix \.txt"),
    "columns": (lambda: write("t.json", json.dumps({"a": {"0": 1}, "b": {"0": 2}})), r"write rows: .*orient='records'"),
    "an object a file": (lambda: write("d/1.json", '{"a": 1}') and "d", r"a line each: jq -c"),
    "objects in cells": (
        lambda: write("t.jsonl", "\n".join(json.dumps({"review": {"text": WORDS}}) for _ in range(9))),
        r"Column review holds objects: .*json_normalize",
    ),
    "lists in csv": (
        lambda: write("t.csv", "series\n" + "".join(f'"[{i}, 0.5, -1e-3]"\n' for i in range(9))),
        r"Column series holds numbers written as text, such as '\[0, 0\.5, -1e-3\]'",
    ),
    "numbers in lines": (
        lambda: [write(f"d/{c}/{n}.txt", "0.1,0.2,0.3,1,7\n" * 9) for c in "ab" for n in range(3)] and "d",
        r"processor\.features to 2.*as text, .* holds numbers in every line",
    ),
    "an array of many": (
        lambda: np.save("x.npy", np.zeros((40, 50))) or "x.npy",
        r"40 samples, or one\. Say data\.arrays=many .*a csv file$",
    ),
    "two kinds of files": (
        lambda: [pictures("d"), write("d/a.txt", WORDS), write("d/a.wav", b"")] and "d",
        r"Say --modality .*, which leaves the others out",
    ),
}


@pytest.mark.parametrize(("made", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_say_what_to_do(made: Callable[[], str], told: str) -> None:
    path = made()
    with pytest.raises((ValueError, OSError), match=told):
        look(path)


@pytest.mark.parametrize("first", ["a,b", "2019,2018", "id,400.5,401.5", "x,1.0,2.0,10.0", "1,2", "name,7"])
def test_names_that_are_numbers_may_be_names(first: str) -> None:
    write("t.csv", first + "\n" + ",".join("3" * len(first.split(","))) + "\n")
    assert CsvFile(Path("t.csv"), PLAIN).names == first.split(",")


def test_the_line_by_which_excel_is_told_the_delimiter_is_obeyed() -> None:
    write("t.csv", "sep=;\r\na;b\r\n1;x\r\n2;y\r\n")
    assert Source(path="t.csv").rows([0, 1]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    write("u.csv", "\ufeffsep=|\na|b\n1|x,y\n")
    assert Source(path="u.csv").rows([0]) == [{"a": 1, "b": "x,y"}]
    write("v.csv", "sep=;\na;b\n1\n")
    with pytest.raises(ValueError, match=r"row 0 has 1 cells, its header names 2 columns"):
        Source(path="v.csv")


def test_files_go_by_the_name_of_the_modality_that_reads_them() -> None:
    for number in range(6):
        write(f"texts/{number}.txt", f"{WORDS} {number}")
        Path("curves").mkdir(exist_ok=True)
        np.save(f"curves/{number}.npy", np.sin(np.arange(40.0) + number))
    texts, curves = look("texts"), look("curves")
    assert (texts.claims["text"].columns, texts.columns) == ("text", {})
    assert (curves.claims["timeseries"].columns, curves.columns) == ("series", {})
    assert any(line.startswith("not read as points, curves/0.npy needs shape") for line in curves.lines())
    assert not any("not read" in line for line in texts.lines()), "a text that is no cloud is no news"


def test_files_that_a_table_names_are_looked_for_beside_it() -> None:
    pictures("d/left")
    rows = "".join(f"left/{number}.png,{WORDS} {number}\n" for number in range(6))
    write("d/list.csv", "file,caption\n" + rows)
    for path in ("d/list.csv", "d"):
        found = look(path)
        assert set(found.claims) == {"image", "text"}, "in a folder elsewhere, too"
        assert not any("not read" in line for line in found.lines())
    np.save("d/long.npy", np.sin(np.arange(5000.0))[None])
    write("d/long.csv", "series,place\nlong.npy,here\n")
    assert set(look("d/long.csv", modalities=["timeseries"]).claims) == {"timeseries"}, "one long recording is enough"
    write("d/list.csv", "file,caption\n" + rows.replace("left/", "gone/"))
    assert any("not read as image, no image file gone/0.png" in line for line in look("d/list.csv").lines())


@pytest.mark.parametrize(("column", "pair"), [("transcription", True), ("said", False)])
def test_what_is_said_beside_a_file_is_its_partner_or_told(column: str, pair: bool) -> None:
    """A column that is called after texts is one; of another it is said how to read it too."""
    pictures("d")
    rows = {"file_name": [f"{n}.png" for n in range(6)], column: [f"{WORDS} {n % 4}" for n in range(6)], "age": range(6)}
    pd.DataFrame(rows).to_csv("d/metadata.csv", index=False)
    told = f"not read: column {column} holds texts of 10 words; --modality image text makes pairs"
    found = look("d")
    assert (set(found.claims), told in found.lines()) == ({"image", "text"} if pair else {"image"}, not pair)
    both = look("d", modalities=["image", "text"])
    assert both.columns == {"text": column, "group": column} and not both.beside


def test_a_cell_that_is_no_text_leaves_a_column_of_texts() -> None:
    rows = [{"text": 5 if number == 17 else f"{WORDS} {number}"} for number in range(40)]
    write("t.jsonl", "\n".join(map(json.dumps, rows)))
    assert look("t.jsonl").claims["text"].columns == "text"


@pytest.mark.parametrize("label", ["same", ""])
def test_one_label_for_all_rows_is_nothing_to_score_by(label: str) -> None:
    write("t.csv", "a,b,Label\n" + "".join(f"{n},{n * n},{label}\n" for n in range(20)))
    found = look("t.csv")
    assert found.label is None and "column Label holds one label for all rows" in "\n".join(found.lines())
    with pytest.raises(ValueError, match=r"--label Label: all rows of t\.csv have one label, or none"):
        look("t.csv", label="Label")


def test_one_folder_of_files_is_no_class() -> None:
    pictures("photos/Images")
    found = look("photos")
    assert found.label is None and "column label holds one label" in "\n".join(found.lines())


def test_what_rows_of_a_table_may_be_is_written_out() -> None:
    frame = pd.DataFrame({"time": range(20), "x": range(20), "id": ["a", "b"] * 10, "y": range(20)})
    frame.to_csv("long.csv", index=False)
    assert look("long.csv").lines()[-1].endswith("--series '{by: id, time: time, values: [x, y]}'")
    for name in "ab":
        Path("d").mkdir(exist_ok=True)
        frame[["time", "x"]].to_csv(f"d/{name}.csv", index=False)
    assert look("d").lines()[-1] == "if each file is a series in time, say how: --series '{time: time, values: [x]}'"
    pd.DataFrame(np.random.default_rng(0).normal(size=(9, 15)), columns=[f"t{n}" for n in range(15)]).to_csv("w.csv", index=False)
    assert look("w.csv").lines()[-1].endswith("""--series '{values: "t*"}'""")


def test_how_rows_were_read_is_told() -> None:
    pd.DataFrame({"a": range(9), "b": range(9)}).to_csv("t.csv")
    assert any("'Unnamed: 0' is the index of the rows" in line for line in look("t.csv").lines())
    rows = [{"id": number % 6, "time": -number, "x": float(number)} for number in range(60)]
    pd.DataFrame(rows).to_csv("s.csv", index=False)
    lines = look("s.csv", table_format=TableFormat(series=SeriesOptions(by="id", time="time"))).lines()
    assert any("6 of 6 series are not in order of time; they are sorted" in line for line in lines)


@pytest.mark.parametrize("names", [("animal=cat", "animal=dog"), ("cat", "dog")])
def test_names_of_folders_of_tables_are_not_lost_without_a_word(names: tuple[str, ...]) -> None:
    for part in ("train", "test"):
        for name in names:
            write(f"d/{part}/{name}/t.csv", "a,b\n" + "".join(f"{n},{n * n}\n" for n in range(9)))
    told = f"the tables lie in folders called {', '.join(names)}, and these names are not read"
    assert any(told in line for line in look("d").lines())
    series = TableFormat(series=SeriesOptions(layout="files", values=["a", "b"]))
    assert not any("are not read" in line for line in look("d", table_format=series).lines())
    write("e/train/t.csv", "a,b\n1,2\n")
    write("e/test/t.csv", "a,b\n1,2\n")
    assert not any("are not read" in note for note in Source(path="e").notes)


def test_one_long_log_is_many_windows() -> None:
    pd.DataFrame({"t": range(3000), "x": np.sin(np.arange(3000.0))}).to_csv("log.csv", index=False)
    keys = TableFormat(series=SeriesOptions(time="t", values="x"))
    assert look("log.csv", table_format=keys).survey.num_rows == 1
    write("short.csv", "t,x\n0,1\n1,2\n")
    with pytest.raises(ValueError, match="holds 1 sample: to learn takes 4 or more"):
        look("short.csv", table_format=keys)


def test_files_of_other_kinds_are_counted() -> None:
    pictures("d")
    write("d/a.txt", WORDS)
    write("d/a.xyz", "0 0 0\n")
    lines = look("d", modalities=["image"]).lines()
    assert "6 of 8 files: .png 6" in lines[0]
    assert not any("which are the samples?" in line for line in lines)


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2), min_size=1))
@settings(deadline=None)
def test_lists_of_numbers_are_known_however_they_are_written(lists: list[list[float]]) -> None:
    for sign in (", ", ",", " ", ";", "\t"):
        assert numbers_in_text([sign.join(map(repr, numbers)) for numbers in lists])
    assert numbers_in_text([str(numbers) for numbers in lists])


@given(st.text())
@settings(deadline=None)
def test_words_are_no_numbers(text: str) -> None:
    assert not numbers_in_text([f"word {text}"]) and not numbers_in_text(["7"])

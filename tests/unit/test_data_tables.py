"""Tables in csv, jsonl and parquet files as people have them: read right, or refused by file, row and column."""

import json
import os
import pickle
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from mmssl.data import Source, local_tables
from mmssl.data.table_format import TableFormat


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(name, text=None, **said):
    if text is not None:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Source(path=name, table_format=TableFormat(**said))


def cells(name, text=None, column=None, **said):
    found = source(name, text, **said)
    return found.cells(column or found.column_names[0])


def many(first, then, count=20_000):
    """A csv file whose column changes its kind late."""
    return "x,y\n" + f"{first},1\n" * count + f"{then},1\n"


# Separators at the ends of rows


@pytest.mark.parametrize("text", ["a,b,,\n1,x,,\n2,y,,\n", "a,b\n1,x,,\n2,y,,\n", "a,b,\n1,x,\n2,y,\n", "a,b,,\n\n1,x,,\n2,y,,\n"])
@pytest.mark.parametrize("large", [False, True])
def test_separators_at_the_ends_of_rows_make_no_columns(text, large, monkeypatch):
    if large:
        monkeypatch.setattr(local_tables, "IN_MEMORY", 0)
    found = source("t.csv", text)
    assert found.column_names == ["a", "b"]
    assert found.rows([0, 1]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert [*source("n.csv", text.replace(",x,", ",,"), missing=("y",)).rows([0, 1])][1] == {"a": 2, "b": None}


def test_a_column_without_a_name_that_holds_something_is_read():
    assert source("t.csv", "a,,\n1,x,\n2,,\n").column_names == ["a", "Unnamed: 1"]
    with pytest.raises(ValueError, match=r"row 0 has 3 cells, its header names 2 columns"):
        source("u.csv", "a,b\n1,x,3\n")
    with pytest.raises(ValueError, match=r"row 1 has 2 cells, its header names 4 columns"):
        source("v.csv", "a,b\n1,x,,\n2,y\n")


# Types


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "2", "-3"], [1, 2, -3]),
        (["1", "2.5"], [1.0, 2.5]),
        (["0.5", ".5", "5.", "-1e-05", "1E+20"], [0.5, 0.5, 5.0, -1e-05, 1e20]),
        (["01234", "5"], ["01234", "5"]),
        (["1e5", "2e7"], ["1e5", "2e7"]),
        (["+49", "1"], ["+49", "1"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["1e400", "1.0"], ["1e400", "1.0"]),
        (["0x1F"], ["0x1F"]),
        (["1_000"], ["1_000"]),
        (["1.2.3"], ["1.2.3"]),
        (["1", "true"], ["1", "true"]),
        (["True", "False"], [True, False]),
        ([" 1", "2 "], [1, 2]),
        ([" a", "2 "], [" a", "2 "]),
        (["NA", "None", "null", "n/a"], ["NA", "None", "null", "n/a"]),
        (["2020-01-02", "2020-01-03"], ["2020-01-02", "2020-01-03"]),
        (["", "1"], [None, 1]),
    ],
)
def test_type_of_a_column_of_texts(texts, expected):
    found = cells("t.csv", "y,x\n" + "".join(f"1,{text}\n" for text in texts), "x")
    assert found == expected
    assert [type(cell) for cell in found] == [type(cell) for cell in expected]


@pytest.mark.parametrize(
    ("first", "then", "expected"), [("1", "1.5", 1.0), ("1", "C1", "1"), ("", "abc", None), ("True", "2", "True")]
)
def test_type_is_that_of_the_whole_file(first, then, expected):
    found = cells("late.csv", many(first, then))
    assert found[0] == expected
    assert type(found[0]) is type(expected)
    assert str(found[-1]) == then


def test_type_is_that_of_all_files_and_splits():
    Path("data").mkdir()
    Path("data/train.csv").write_text("zip,x\n10115,1\n")
    Path("data/test.csv").write_text("zip,x\n01234,1.5\n")
    train = Source(path="data", split="train").rows([0])
    assert train == [{"zip": "10115", "x": 1.0}]


def test_user_says_the_type():
    text = "zip,x\n10115,01\n,2\n"
    assert cells("t.csv", text, "zip", types={"zip": "string"}) == ["10115", None]
    assert cells("t.csv", text, "x", types={"x": "number"}) == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"cannot read t\.csv, column x: row 1: 'a' is no number, and types asks for one"):
        source("t.csv", "x\n1\na\n", types={"x": "number"})
    with pytest.raises(LookupError, match=r"data\.types names 'w', which t\.csv has not; it has x"):
        source("t.csv", "x\n1\n", types={"w": "string"})


# Missing values, delimiters, decimals


def test_only_the_empty_cell_is_missing_unless_the_user_says_more():
    text = 'country,x\nNA,-999\n"",3\nDE,\n'
    assert cells("t.csv", text) == ["NA", None, "DE"]
    said = source("t.csv", text, missing=("NA", "-999"))
    assert (said.cells("country"), said.cells("x")) == ([None, None, "DE"], [None, 3, None])
    assert said.notes == ("t.csv: cells that are missing, as data.missing says: 1 in column 'country', 1 in column 'x'",)
    pd.DataFrame({"x": [1.0, -999.0], "c": ["NA", "b"]}).to_parquet("t.parquet")
    assert Source(path="t.parquet", table_format=TableFormat(missing=("NA", "-999"))).rows([0, 1]) == [
        {"x": 1.0, "c": None},
        {"x": None, "c": "b"},
    ]


@pytest.mark.parametrize(
    ("sign", "said", "name"), [(";", ";", "a semicolon"), ("\t", "tab", "a tab"), ("|", "|", "a vertical bar")]
)
def test_delimiter(sign, said, name):
    text = sign.join("wac") + "\n" + sign.join("123") + "\n"
    with pytest.raises(ValueError, match=rf"t\.csv: it has one column, .*: is {name} its delimiter\? Then set data\.delimiter="):
        source("t.csv", text)
    assert source("t.csv", text, delimiter=said).rows([0]) == [{"w": 1, "a": 2, "c": 3}]


def test_tab_separated_values_have_a_suffix():
    assert source("t.tsv", "a\tb\n1\t2\n").rows([0]) == [{"a": 1, "b": 2}]


def test_decimal_comma():
    text = "x;y\n1,5;1.000\n2;3\n"
    found = source("t.csv", text, delimiter=";", decimal=",")
    assert (found.cells("x"), found.cells("y")) == ([1.5, 2.0], ["1.000", "3"])


def test_what_is_said_of_csv_is_refused_elsewhere():
    with pytest.raises(ValueError, match=r"delimiter=';' is for csv files, and t\.jsonl holds json"):
        source("t.jsonl", '{"a": 1}\n', delimiter=";")


# What is no table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w,w,c\n1,2,a\n", r"the columns 1 and 2 are both called 'w'"),
        ("a,b\n1,2\n1,2,3\n", r"row 1 has 3 cells, its header names 2 columns \(a, b\)"),
        ("a,b\n1,2\n1\n", r"row 1 has 1 cells"),
        ('a,b\n1,2\n1,"x\n2,3\n', r"row 1: a quote is opened and never closed"),
        ("a,b\n1,é\n".encode("latin1"), r"line 2 is no UTF-8 \(byte 0xe9\)"),
        ("é,b\n1,2\n".encode("latin1"), r"line 1 is no UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), r"it is UTF-16"),
        (b"PK\x03\x04...", r"a zip archive or an Excel workbook"),
        ("", r"it is empty"),
        ("\n1,2\n", r"its first line is empty"),
    ],
)
def test_what_is_no_csv_is_refused(text, message):
    with pytest.raises(ValueError, match=rf"cannot read t\.csv: .*{message}"):
        source("t.csv", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"a": 1}\n[1]\n', "line 2 holds a list"), ('{"a": 1}\n{"a"\n', "line 2: "), (b'{"a": "\xe9"}\n', "line 1 is no UTF-8")],
)
def test_what_is_no_json_line_is_refused(text, message):
    with pytest.raises(ValueError, match=rf"cannot read t\.jsonl: {message}"):
        source("t.jsonl", text)


def test_quotes_lines_and_long_cells():
    assert cells("t.csv", 'a,b\n"x ""q"", y\nz",1\n5" pipe,2\n') == ['x "q", y\nz', '5" pipe']
    assert cells("t.csv", "a,b\n" + "z" * 3_000_000 + ",1\nq,2\n")[0] == "z" * 3_000_000
    assert cells("t.csv", "\ufeffa,b\r\n1,2\r\n\r\n") == [1]


# JSON Lines and parquet


@pytest.mark.parametrize(
    ("column", "odd"), [("text", 5), ("label", 1), ("x", "n/a"), ("text", True), ("x", [1]), ("text", {"a": 1})]
)
def test_one_odd_cell_leaves_the_others_as_they_are(column, odd):
    rows = [{"text": f'café "q"\n{i}', "label": "a", "x": i / 2} for i in range(5000)]
    rows.append(rows[0] | {column: odd})
    Path("t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert source("t.jsonl").rows(range(len(rows))) == rows


def test_json_numbers_nulls_and_keys():
    found = source("t.jsonl", '{"a": 1, "b": NaN}\n{"a": 2.5}\n{"a": null, "c": [1, 2]}\n').rows(range(3))
    assert found[0]["a"] == 1.0
    assert np.isnan(found[0]["b"])
    assert found[1] == {"a": 2.5, "b": None, "c": None}
    assert found[2]["c"].tolist() == [1, 2]
    assert cells("t.jsonl", '{"a": "2020-01-01T00:00:00Z"}\n') == ["2020-01-01T00:00:00Z"]


def test_labels_of_several_types_are_refused():
    Path("t.jsonl").write_text('{"label": "a"}\n{"label": 1}\n')
    with pytest.raises(ValueError, match=r"labels"):
        Source(path="t.jsonl", columns={"label": "label"}).labels()


def test_parquet_files_of_several_types():
    pd.DataFrame({"x": [1]}).to_parquet("a.parquet")
    pd.DataFrame({"x": [1.5]}).to_parquet("b.parquet")
    assert Source(path="*.parquet").cells("x") == [1.0, 1.5]
    pd.DataFrame({"x": ["c"]}).to_parquet("c.parquet")
    with pytest.raises(ValueError, match=r"column x is int64 in a\.parquet and (large_)?string in c\.parquet"):
        Source(path="*.parquet")


def test_pandas_categories_are_their_values():
    pd.DataFrame({"c": pd.Categorical(["a", "b", "a"])}).to_parquet("t.parquet")
    assert Source(path="t.parquet").cells("c") == ["a", "b", "a"]


def test_index_of_a_frame_is_no_input():
    from mmssl.modality import find

    frame = pd.DataFrame({"x": [1, 2, 3, 4], "c": list("abab")}, index=[3, 1, 7, 5])
    frame.to_parquet("t.parquet")
    frame.to_csv("t.csv")
    for name, index in {"t.parquet": "__index_level_0__", "t.csv": "Unnamed: 0"}.items():
        found = Source(path=name)
        assert found.places(find("tabular")) == ["x", "c"]
        assert found.notes == (f"{name}: {index!r} is the index of the rows, and no input; to read it, name it in data.columns",)
        assert Source(path=name, columns={"tabular": [index, "x"]}).places(find("tabular")) == [index, "x"]
    frame.rename_axis("when").to_parquet("named.parquet")
    assert Source(path="named.parquet").places(find("tabular")) == ["x", "c"]


def test_unused_columns_are_not_read():
    Path("t.parquet").write_bytes(b"")
    pd.DataFrame({"x": [1, 2], "big": ["a" * 10, "b"]}).to_parquet("t.parquet")
    found = Source(path="t.parquet")
    assert found.cells("x") == [1, 2]
    assert list(found._table._opened) == [("x",)]


# Copies


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Every table is copied to a cache of its own."""
    monkeypatch.setattr(local_tables, "IN_MEMORY", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "mmssl"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_copy_is_never_stale(name, copies):
    def write(value):
        frame = pd.DataFrame({"a": [value], "z": ["01"]})
        {
            "csv": frame.to_csv,
            "jsonl": lambda path, index: frame.to_json(path, orient="records", lines=True),
            "parquet": frame.to_parquet,
        }[name.partition(".")[2]](name, index=False)
        os.utime(name, (1, 1))

    write(1)
    assert Source(path=name).rows([0]) == [{"a": 1, "z": "01"}]
    kept = sorted(copies.iterdir())
    assert Source(path=name).rows([0]) == [{"a": 1, "z": "01"}]
    assert sorted(copies.iterdir()) == kept
    write(2)
    assert Source(path=name).rows([0]) == [{"a": 2, "z": "01"}]


def test_a_copy_tells_what_its_files_tell(copies):
    pd.DataFrame({"a": [1, 2], "b": ["NA", "x"]}, index=[4, 2]).to_csv("t.csv")
    first, again = (Source(path="t.csv", table_format=TableFormat(missing=("NA",))) for _ in range(2))
    assert first.notes == again.notes
    assert len(first.notes) == 2
    assert first.rows([0, 1]) == again.rows([0, 1])


def test_a_copy_keeps_cells_of_several_types(copies):
    assert cells("t.jsonl", '{"a": "x"}\n{"a": 1}\n{"a": null}\n') == ["x", 1, None]


def test_a_cache_that_cannot_be_written_is_named(copies, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/nohome"))
    with pytest.raises(OSError, match=r"cannot write /proc/nohome/mmssl.*HF_DATASETS_CACHE"):
        source("t.csv", "a,b\n1,2\n")


def test_a_worker_reads_what_the_process_reads():
    here = source("t.csv", "a,b\n01,2\n")
    there = pickle.loads(pickle.dumps(here))  # our own bytes
    assert there.rows([0]) == here.rows([0]) == [{"a": "01", "b": 2}]

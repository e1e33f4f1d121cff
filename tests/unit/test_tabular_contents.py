"""What the columns of a table are said to hold, for each kind of column that is mostly taken for another."""

import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.modality import Content
from mmssl_modalities.tabular import TabularProcessor

ROWS = 60


def contents(cells: list[Any], **keys: Any) -> Content:
    """What a column is said to hold."""
    processor = TabularProcessor(**keys)
    rows = [{"c": cell} for cell in cells]
    processor.fit(rows)
    (found,) = processor.contents(iter(rows))
    return found


def odd(cells: list[Any], **keys: Any) -> list[str]:
    return [odd.what for odd in contents(cells, **keys).odd]


NUMBERS = {
    "decimal comma": lambda i: f"{i},5",
    "thousands": lambda i: f"{1000 + i:,}",
    "thousands with points": lambda i: f"1.{i + 100}.000,00",
    "thousands with spaces": lambda i: f"1 {i + 100}",
    "thousands with narrow spaces": lambda i: f"1\u202f{i + 100}",
    "thousands with apostrophes": lambda i: f"1'{i + 100}.50",
    "dollars": lambda i: f"${i}.00",
    "negative euros": lambda i: f"-{i} €",
    "currency code": lambda i: f"EUR {i}",
    "per cent": lambda i: f"{i}%",
    "kilograms": lambda i: f"{i}.5 kg",
    "speed": lambda i: f"{i} km/h",
    "degrees": lambda i: f"{i}°C",
    "question marks": lambda i: "?" if i % 5 == 0 else str(i / 2),
    "powers of ten": lambda i: f"{i}.5e-3",
    "plus signs": lambda i: f"+{i}",
    "true minus": lambda i: f"\u2212{i}.5",
    "spaces around": lambda i: f" {i} ",
    "a few words": lambda i: "unknown" if i == 7 else f"{i},25",
}
DATES = {
    "iso": lambda i: f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}",
    "iso with time": lambda i: f"2024-01-{i % 28 + 1:02d}T12:{i % 60:02d}:00Z",
    "with time": lambda i: f"2024-01-{i % 28 + 1:02d} 12:{i % 60:02d}",
    "german": lambda i: f"{i % 28 + 1}.{i % 12 + 1}.2024",
    "american": lambda i: f"{i % 12 + 1}/{i % 28 + 1}/24",
    "slashes": lambda i: f"2024/1/{i % 28 + 1}",
    "day and month": lambda i: f"{i % 28 + 1} Feb 2024",
    "month and day": lambda i: f"February {i % 28 + 1}, 2024",
    "dashes": lambda i: f"{i % 28 + 1:02d}-Mar-2024",
}
PLAIN = {
    "words": lambda i: "red" if i % 3 else "blue",
    "zip codes": lambda i: f"0{1000 + i % 9}",
    "codes": lambda i: f"B{i % 9}",
    "codes with a letter behind": lambda i: f"{i % 4}{'abcdefgh'[i % 8]}",
    "versions": lambda i: f"{i % 3}.{i % 5}.1",
    "times of day": lambda i: f"{i % 9}:30",
    "ranges": lambda i: f"{i % 9}-{i % 9 + 9}",
    "sizes": lambda i: ["S", "M", "L", "XL"][i % 4],
    "truth values": lambda i: i % 2 == 0,
    "numbers": lambda i: i % 7,
    "decimals that rise": lambda i: i + 0.5,
    "whole numbers in no order": lambda i: (i * 17) % 61,
    "dates": lambda i: date(2024, 1, i % 28 + 1),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_in_text(kind: str) -> None:
    cells = [NUMBERS[kind](i) for i in range(ROWS)]
    assert odd(cells) == (["gaps written as words"] if kind == "question marks" else []) + ["numbers in text"]


@pytest.mark.parametrize("kind", DATES)
def test_dates_in_text(kind: str) -> None:
    (found,) = contents([DATES[kind](i) for i in range(ROWS)]).odd
    assert found.what == "dates in text"
    assert ("ISO 8601" in found.way_out) == (kind not in ("iso", "iso with time", "with time"))


@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_not_odd(kind: str) -> None:
    assert odd([PLAIN[kind](i) for i in range(ROWS)]) == []


@pytest.mark.parametrize("word", ["NA", "N/A", "?", "null", "None", "nan", "-", "  ", "#N/A", "missing", "<NA>"])
def test_gaps_written_as_words(word: str) -> None:
    cells = [word if i % 4 == 0 else "red" if i % 3 else "blue" for i in range(ROWS)]
    found = contents(cells)
    assert found.detail == "3 classes"
    assert [(odd.what, odd.how) for odd in found.odd] == [("gaps written as words", f"{word!r} in 15 of 60 cells")]


def test_words_for_gaps_stay_categories() -> None:
    processor = TabularProcessor()
    processor.fit([{"c": cell} for cell in ("NA", "None", "null", "DE", None, "")])
    assert processor.columns[0]["categories"] == ["DE", "NA", "None", "null"]
    assert processor.columns[0]["missing"] == pytest.approx(2 / 6)


def test_identifiers_row_numbers_and_constants() -> None:
    assert odd([f"user {i * 7919 % 100003}x" for i in range(ROWS)]) == ["identifier"]
    assert odd([f"u{i}" for i in range(10)]) == []
    assert odd([i * 3 for i in range(ROWS)]) == ["row number"]
    assert odd([float(i) for i in range(ROWS)]) == ["row number"]
    assert odd([7.0] * ROWS) == odd(["k"] * ROWS) == odd([date(2024, 1, 1)] * ROWS) == ["constant"]
    assert odd([*["k"] * ROWS, None]) == ["constant"]


def test_kinds_missing_cells_and_examples() -> None:
    when = datetime(2024, 2, 29)
    rows = [
        {"n": 1.5, "c": "a", "d": when, "t": "some words", "b": True, "more": 1},
        {"n": None, "c": "b", "d": None, "t": "", "b": False},
    ]
    processor = TabularProcessor(text_columns=["t"])
    processor.fit([{name: cell for name, cell in row.items() if name != "more"} for row in rows])
    found = {part.name: (part.kind, part.detail, part.missing, part.example) for part in processor.contents([*rows, "no row"])}
    assert found == {
        "n": ("number", "1.5 to 1.5", 0.5, "1.5"),
        "c": ("category", "2 classes", 0.0, "'a'"),
        "d": ("date", "", 0.5, "2024-02-29 00:00:00"),
        "t": ("text", "", 0.5, "'some words'"),
        "b": ("category", "2 classes", 0.0, "True"),
        "more": ("left out", "", 0.5, "1"),
    }
    assert contents([f"k{i}" for i in range(9)], max_categories=4).detail == "4 classes and one for the rest"
    assert contents([f"k{i}" for i in range(9)], hash_above=4, hash_buckets=16).detail == "hashed to 16 classes"


NUMBER_CELLS = st.integers() | st.floats(allow_infinity=False) | st.decimals(allow_infinity=False) | st.just(np.float32(1.5))
CELLS = {
    "numbers": NUMBER_CELLS,
    "texts": st.text(max_size=12) | st.from_regex(r"[-+$]?\d{1,3}([., ]\d{3}){0,2}[.,]?\d* ?(kg|%)?", fullmatch=True),
    "dates": st.dates() | st.datetimes() | st.just(pd.NaT),
    "truth": st.booleans(),
    "anything": st.recursive(NUMBER_CELLS | st.text() | st.binary(), lambda inner: st.lists(inner, max_size=3), max_leaves=4),
}


@settings(max_examples=40)
@given(st.data(), st.integers(1, 25))
def test_drawn_tables_are_told_as_pandas_counts_them(data: st.DataObject, count: int) -> None:
    columns = {name: data.draw(st.lists(st.none() | cells, min_size=count, max_size=count), name) for name, cells in CELLS.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    processor = TabularProcessor()
    fitted = [name for name in columns if name != "anything"]
    try:
        processor.fit([{name: row[name] for name in fitted} for row in rows])
    except (TypeError, ValueError):
        return
    found = {part.name: part for part in processor.contents(rows)}
    assert list(found) == list(columns)
    assert found["anything"].kind == "left out"
    for name in fitted:
        frame = pd.Series(columns[name], dtype=object).replace("", None)
        assert found[name].missing == pytest.approx(frame.isna().mean())
    assert all(len(line) < 4000 for part in found.values() for line in (part.example, part.detail))
    assert found["numbers"].kind == "number"
    assert found["truth"].kind == "category"


def test_cells_that_no_column_holds_do_not_stop_it() -> None:
    processor = TabularProcessor()
    processor.fit([{"c": 1.0}, {"c": 2.0}])
    rows: list[Any] = [
        {"c": Decimal("sNaN")},
        {"c": [1]},
        {"c": {"a": 1}},
        {"c": 10**400},
        {"c": math.inf},
        {"c": np.array([1])},
        None,
    ]
    assert processor.contents(rows)[0].kind == "number"

"""What a table file hands over is what pandas and pyarrow read of it with explicit types, or it is refused by name."""

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmssl.data import Source
from mmssl.data.table_format import TableFormat

QUICK, MANY = 100, 2000
READABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r")

words = st.text(READABLE, max_size=12)
codes = (
    st.from_regex(r"\A[0-9]{1,22}\Z") | st.from_regex(r"\A[0-9][eE][0-9]\Z") | st.sampled_from(["NA", "None", "null", "nan", "+1"])
)
integers = st.integers(-(2**63), 2**63 - 1)
decimals = st.floats(allow_nan=False, allow_infinity=False)
booleans = st.booleans()
names = st.lists(
    st.text(st.characters(codec="ascii", exclude_characters='",;|\t\r\n\x00'), min_size=1, max_size=8),
    min_size=2,
    max_size=5,
    unique=True,
)
KINDS = {"words": words, "codes": codes, "integers": integers, "decimals": decimals, "booleans": booleans}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list]:
    """Columns of one kind each, or of several, with gaps."""
    size = draw(st.integers(1, 12))
    found = {}
    for name in draw(names):
        kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=2, unique=True))
        cell = st.one_of(*(KINDS[kind] for kind in kinds), *([st.none()] if draw(st.booleans()) else []))
        found[name] = draw(st.lists(cell, min_size=size, max_size=size))
    return found


def read(path: Path, **said) -> list[dict]:
    source = Source(path=str(path), table_format=TableFormat(**said))
    return source.rows(range(len(source)))


def same(found, expected) -> bool:
    """Equal in value and in kind: 1 is not "1", and True is not 1. NaN is a number that is missing."""
    if isinstance(expected, float) and isinstance(found, float):
        return found == expected or (math.isnan(found) and math.isnan(expected))
    return type(found) is type(expected) and found == expected


def as_text(cell) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else str(cell)


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_csv(table: dict[str, list], folder: Path) -> None:
    """Written by pandas; each column is what pandas reads with the type that its cells say, and no other cell is missing."""
    path = folder / "t.csv"
    texts = pd.DataFrame({name: [as_text(cell) for cell in cells] for name, cells in table.items()}, dtype=str)
    texts.to_csv(path, index=False, lineterminator="\n")
    known = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], lineterminator="\n")
    rows = read(path)
    assert len(rows) == len(known)
    for name in known.columns:
        expected = [None if pd.isna(cell) else cell for cell in known[name]]
        cells = [row[name] for row in rows]
        assert [cell is None for cell in cells] == [cell is None for cell in expected]
        present = [(cell, text) for cell, text in zip(cells, expected, strict=True) if text is not None]
        kinds = {type(cell) for cell, _ in present}
        assert len(kinds) <= 1, f"column {name} has the types {kinds}"
        for cell, text in present:
            if isinstance(cell, str):
                assert cell == text
            elif isinstance(cell, bool):
                assert text.lower() == str(cell).lower()
            elif isinstance(cell, int):
                assert text.strip() == str(cell)
            else:
                assert same(cell, float(text)), (cell, text)
                assert "." in text or "e" in text.lower() or "n" in text.lower() or str(int(text)) == text.strip()
        if kinds == {str} and all(str(number(text)) == text for _, text in present):
            raise AssertionError(f"decimals {expected} came as text")


def check_json(table: dict[str, list], folder: Path) -> None:
    """Each cell is what the line says, as Python's own reader has it; whole numbers beside decimals may be decimals."""
    path = folder / "t.jsonl"
    lines = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    for row, line in zip(read(path), lines, strict=True):
        for name, expected in line.items():
            assert same(row[name], expected) or (type(expected) is int and row[name] == expected and type(row[name]) is float)


def check_parquet(table: dict[str, list], folder: Path) -> None:
    """Each cell is what pyarrow has."""
    path = folder / "t.parquet"
    columns = {}
    for name, cells in table.items():
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowException, OverflowError):
            columns[name] = pa.array([as_text(cell) for cell in cells])
    pa.parquet.write_table(pa.table(columns), path, row_group_size=5)
    rows = read(path)
    for name, column in columns.items():
        assert all(same(row[name], cell) for row, cell in zip(rows, column.to_pylist(), strict=True))


CHECKS = {"csv": check_csv, "jsonl": check_json, "parquet": check_parquet}


def law(kind: str, examples: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(tables())
    def check(table: dict[str, list]) -> None:
        CHECKS[kind](table, tmp_path_factory.mktemp("t"))

    check()


@pytest.mark.parametrize("kind", CHECKS)
def test_tables_are_what_other_readers_find(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    law(kind, QUICK, tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKS)
def test_many_tables_are_what_other_readers_find(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    law(kind, MANY, tmp_path_factory)

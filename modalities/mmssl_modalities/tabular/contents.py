"""What the columns of a table are taken for, and what looks odd in them: numbers and dates in text, gaps in words, identifiers."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import pairwise
from typing import Any

from mmssl.modality import Content, Odd
from mmssl_modalities.tabular.cells import NUMBERS, is_missing, shown
from mmssl_modalities.tabular.columns import CategoricalColumn, Column, DateColumn, HashedColumn, TextColumn

MOST = 0.8
"""Share of a column's values that must read as numbers or dates for the column to seem one of them."""
NEARLY_ALL = 0.95
"""Share of distinct values from which on nearly every row has its own."""
FEWEST = 20
"""Cells from which on a column may seem an identifier: of fewer, chance makes all of them differ."""
UNITS = 4
"""Units that the numbers of one column may have; codes with a letter behind them have more."""
PARSED = 1000
"""Distinct texts of a column that are tried as numbers and dates."""
GAPS = frozenset({"na", "n/a", "#n/a", "nan", "none", "null", "nil", "missing", "?", "-", "--", ".", "\\n", "<na>", "nat"})
"""What people write for a gap, in lower case."""

_DIGITS = r"\d{1,3}(?:(?P<group>[,. '\u00a0\u202f_])\d{3})(?:(?P=group)\d{3})*(?:[.,]\d+)?|\d+(?:[.,]\d+)?|[.,]\d+"
_SIGN = r"[-+\u2212]?"
_MONEY = r"[$€£¥₹₽]|[A-Z]{3}\s"
_NUMBER = re.compile(
    rf"\s*(?P<money>{_MONEY})?\s*{_SIGN}\s*(?P<money2>{_MONEY})?\s*(?P<digits>{_DIGITS})(?P<power>[eE][-+]?\d+)?"
    r"\s*(?P<unit>[^\W\d_]{1,8}(?:/[^\W\d_]{1,5})?[²³]?|[%‰°$€£¥₹₽]\s?[CF]?)?\s*"
)
_CODE = re.compile(r"\s*[-+]?0\d")
_DATES = (
    re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ].*)?"),
    re.compile(r"\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})(?:[T ,].*)?"),
    re.compile(r"\d{1,2}[ .-]+[^\W\d_]{3,9}[ .,-]+(?:\d{4}|\d{2})(?:[ ,].*)?"),
    re.compile(r"(?:[^\W\d_]{3,9},? )?[^\W\d_]{3,9} \d{1,2},? \d{4}(?:[ ,].*)?"),
)

_LEAVE_OUT = "Leave the column out: name those to use in data.columns.tabular"
_NUMBERS_OUT = (
    "As text every spelling is a category of its own. Write plain numbers (54.72), or name decimal sign and gaps "
    "(data.decimal, data.missing)"
)
_GAPS_OUT = (
    "Here it is a category like any other. If it says that a value is missing, leave the cell empty, or name the word "
    "(data.missing)"
)
_OWN_OUT = (
    f"Nothing can be learned of values that do not come again. {_LEAVE_OUT}; or in text_columns, if it is text to be read as words"
)
_COUNT_OUT = f"Row numbers give away the order of the rows. {_LEAVE_OUT}"
_CONSTANT_OUT = f"Such a column says nothing. {_LEAVE_OUT}"
_ISO_OUT = "As text every date is a category of its own. Name the column in datetime_columns"
_DATES_OUT = (
    "As text every date is a category of its own. Write it in ISO 8601 (2024-02-29), and name the column in datetime_columns"
)


def table_contents(rows: Iterable[Any], columns: Sequence[Column]) -> list[Content]:
    """Columns of rows, in their order; those that `columns` lacks are left out. Rows that are no rows are passed over."""
    cells: dict[str, list[Any]] = {}
    count = 0
    for row in rows:
        if not isinstance(row, Mapping):
            continue
        for name, cell in row.items():
            if not is_missing(cell):
                cells.setdefault(name, []).append(cell)
            else:
                cells.setdefault(name, [])
        count += 1
    known = {column.name: column for column in columns}
    return [_content(name, found, count, known.get(name)) for name, found in cells.items()]


def _content(name: str, cells: list[Any], count: int, column: Column | None) -> Content:
    """One column; `cells` are those that are not missing, of `count` rows."""
    missing = 1 - len(cells) / count
    example = (shown(cells[0]) if isinstance(cells[0], str | int) else str(cells[0])) if cells else ""
    if column is None:
        return Content(name, "left out", missing=missing, example=example)
    values = Counter(cell if isinstance(cell, str) else _comparable(cell) for cell in cells)
    kind, detail = _kind(column, values)
    return Content(name, kind, detail, missing, example, tuple(_odd(column, cells, values)))


def _comparable(cell: Any) -> Any:
    """A cell that can be counted; equal numbers are one, whatever their type."""
    if isinstance(cell, str | date):
        return cell
    try:
        return float(cell) if isinstance(cell, NUMBERS) else repr(cell)
    except (OverflowError, ValueError):  # beyond float64, or a signalling NaN
        return repr(cell)


def _kind(column: Column, values: Counter[Any]) -> tuple[str, str]:
    match column:
        case CategoricalColumn():
            kept = len(column.categories)
            return "category", f"{kept:,} class{'es' if kept != 1 else ''}{' and one for the rest' if len(values) > kept else ''}"
        case HashedColumn():
            return "category", f"hashed to {column.num_classes:,} classes"
        case DateColumn():
            return "date", ""
        case TextColumn():
            return "text", ""
    numbers = [value for value in values if isinstance(value, float)]
    return "number", f"{min(numbers):g} to {max(numbers):g}" if numbers else ""


def _odd(column: Column, cells: list[Any], values: Counter[Any]) -> Iterable[Odd]:
    """What looks odd in a column that has these cells."""
    if len(values) == 1 and len(cells) > 1:
        yield Odd("constant", "one value in all rows", _CONSTANT_OUT)
        return
    if not isinstance(column, CategoricalColumn | HashedColumn):
        if not isinstance(column, DateColumn | TextColumn) and _counts_rows(cells, values):
            yield Odd("row number", "whole numbers that rise from row to row", _COUNT_OUT)
        return
    texts = {value: number for value, number in values.items() if isinstance(value, str)}
    gaps = {value: number for value, number in texts.items() if value.strip().lower() in GAPS or not value.strip()}
    if gaps:
        total = f"{sum(gaps.values()):,} of {len(cells):,} cells"
        yield Odd("gaps written as words", f"{', '.join(map(repr, list(gaps)[:4]))} in {total}", _GAPS_OUT)
    others = [value for value in texts if value not in gaps]
    if seem := _seem(others):
        yield seem
    elif len(cells) >= FEWEST and len(values) >= NEARLY_ALL * len(cells):
        yield Odd("identifier", f"{len(values):,} categories in {len(cells):,} cells", _OWN_OUT)


def _counts_rows(cells: list[Any], values: Counter[Any]) -> bool:
    """Whether numbers rise as rows are numbered; some rows may be held out, or not looked at."""
    found = list(values)
    if not FEWEST <= len(cells) == len(found) or not all(isinstance(value, float) and value.is_integer() for value in found):
        return False
    return all(before < after for before, after in pairwise(found))


def _seem(values: list[str]) -> Odd | None:
    """What most distinct texts of a column seem to be, if that is dates or numbers."""
    if not values:
        return None
    values = values[:: math.ceil(len(values) / PARSED)]
    example = f"as {shown(values[0])}"
    if sum(any(pattern.fullmatch(value.strip()) for pattern in _DATES) for value in values) >= MOST * len(values):
        return Odd("dates in text", example, _ISO_OUT if all(map(_is_iso, values)) else _DATES_OUT)
    found = [match for match in map(_NUMBER.fullmatch, values) if match]
    if len(found) < MOST * len(values) or any(map(_CODE.match, values)):  # codes keep their zeros: 01234
        return None
    units = Counter((match["unit"] or "").strip() for match in found)
    if len(units) - ("" in units) > UNITS:
        return None
    example = f"as {shown(found[0].string)}"
    return Odd("numbers in text", example, _NUMBERS_OUT)


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return True

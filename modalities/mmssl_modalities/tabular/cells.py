"""One cell of a table: whether it holds anything, and as what: a number, an instant, a category, words."""

import heapq
import math
import re
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Float

NUMBERS = (float, int, np.floating, np.integer, np.bool_, Decimal)
CATEGORIES = (str, *NUMBERS)
DATES = (date, np.datetime64)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Instants are seconds since then, so that those of our time keep their precision."""
SHINGLE = 3
"""Characters of the parts of a word that are hashed, its ends marked."""

_FIRST, _LAST = ((end.replace(tzinfo=UTC, microsecond=0) - EPOCH).total_seconds() for end in (datetime.min, datetime.max))
_PLAIN = {float, int, bool, type(None), np.float64, np.float32, np.int64, np.int32}
"""Types that numpy converts as `to_number` does."""
_WORD = re.compile(r"[^\W_]{1,64}")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def absent() -> tuple[Any, ...]:
    """What stands for a missing cell and is equal to itself."""
    import pandas as pd  # takes half a second, and few need it

    return (None, "", pd.NA, pd.NaT)


def is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA and NaT, numpy's NaT, or empty text."""
    if isinstance(cell, Decimal):
        return cell.is_qnan()  # a signalling NaN refuses to be compared
    if isinstance(cell, NUMBERS):
        return bool(cell != cell)
    if isinstance(cell, np.datetime64):
        return bool(np.isnat(cell))
    if cell is None or isinstance(cell, str):
        return not cell
    pandas = sys.modules.get("pandas")  # before it is imported no cell can be its NA
    return pandas is not None and (cell is pandas.NA or cell is pandas.NaT)


def to_number(cell: Any, column: str) -> float:
    """A cell as a float, NaN where it is missing. TypeError for anything but a number, ValueError for an infinite one."""
    if not isinstance(cell, NUMBERS):
        if is_missing(cell):
            return math.nan
        raise TypeError(
            f"column {column!r} takes numbers; got {shown(cell)} ({type(cell).__name__}). Convert it, or pass None for "
            "a missing value; if the column holds categories, fit with its name in categorical_columns"
        )
    try:
        number = float(cell)
    except OverflowError:
        number = math.inf
    except ValueError as error:  # a signalling NaN of the decimal module
        raise ValueError(
            f"column {column!r} takes numbers; got {shown(cell)}: {error}. Pass None if the value is missing"
        ) from error
    if math.isinf(number):
        raise ValueError(f"column {column!r} takes finite numbers; got {shown(cell)}. Pass None if the value is missing")
    return number


def to_numbers(cells: Sequence[Any] | np.ndarray, column: str) -> Float[np.ndarray, " n"]:
    """Cells as float64, NaN where they are missing. Raises what `to_number` raises, with the row's number."""
    found = _converted(cells)
    if found is None or np.isinf(found).any():
        return np.array(each(to_number, cells, column), np.float64)
    return found


def _converted(cells: Sequence[Any] | np.ndarray) -> Float[np.ndarray, " n"] | None:
    """What numpy makes of cells that it reads as we do; None for others."""
    if isinstance(cells, np.ndarray):
        return cells.astype(np.float64) if cells.ndim == 1 and cells.dtype.kind in "fiub" else None
    if not set(map(type, cells)) <= _PLAIN:
        return None
    try:
        return np.array(cells, np.float64)
    except OverflowError:
        return None


def to_seconds(cell: Any, column: str) -> float:
    """Seconds since `EPOCH`, NaN where the cell is missing; an instant without a time zone is taken as UTC.

    TypeError for what is no date, ValueError for text that is none in ISO 8601.
    """
    if is_missing(cell):
        return math.nan
    found = _instant(cell, column)
    if isinstance(found, datetime):
        aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return (aware - EPOCH).total_seconds()
    if isinstance(found, date):
        return (datetime(found.year, found.month, found.day, tzinfo=UTC) - EPOCH).total_seconds()
    raise TypeError(
        f"column {column!r} takes dates; got {shown(cell)} ({type(cell).__name__}). Pass a datetime, a date, or text in ISO 8601 "
        "such as '2024-02-29' or '2024-02-29T13:45:00+01:00'; None for a missing value"
    )


def _instant(cell: Any, column: str) -> Any:
    if isinstance(cell, np.datetime64):
        return cell.astype("datetime64[us]").item()
    if not isinstance(cell, str):
        return cell
    try:
        return datetime.fromisoformat(cell.strip())
    except ValueError:
        raise ValueError(
            f"column {column!r} takes dates in ISO 8601, such as '2024-02-29' or '2024-02-29T13:45:00+01:00'; got {shown(cell)}. "
            "Convert it, or pass None for a missing value"
        ) from None


def all_seconds(cells: Sequence[Any] | np.ndarray, column: str) -> Float[np.ndarray, " n"]:
    """Cells as seconds since `EPOCH`. Raises what `to_seconds` raises, with the row's number."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "M":
        micros = cells.astype("datetime64[us]")
        since = (micros - np.datetime64(EPOCH.replace(tzinfo=None), "us")).astype(np.float64) / 1e6
        return np.where(np.isnat(micros), np.nan, since)
    return np.array(each(to_seconds, cells, column), np.float64)


def instant(seconds: float) -> datetime:
    """The instant so many seconds after `EPOCH`, kept within the calendar's 9,999 years, out of which a time zone may lead."""
    return EPOCH + timedelta(seconds=min(max(seconds, _FIRST), _LAST))


def each(read: Any, cells: Sequence[Any] | np.ndarray, *arguments: Any) -> list[Any]:
    """`read` of every cell; what it raises names the row."""
    found: list[Any] = []
    try:
        for cell in cells:
            found.append(read(cell, *arguments))
    except (TypeError, ValueError) as error:
        raise placed(f"row {len(found)}", error) from error
    return found


def placed(place: str, error: Exception) -> Exception:
    """The same complaint, with the place where it arose; a plain TypeError or ValueError, as subclasses may want more than text."""
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"{place}: {error}")


def shown(cell: Any) -> str:
    """A cell for a message, cut to a readable length."""
    if isinstance(cell, int) and cell.bit_length() > 10_000:  # more digits than Python writes
        return f"a number of {cell.bit_length():,} bits"
    text = repr(cell)
    return text if len(text) <= 80 else f"{text[:77]}..."


# Hashes


def stable_hash(text: str) -> int:
    """64 bits, the same in every process; lone surrogates are text like any other."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@lru_cache(maxsize=1 << 16)
def bucket(text: str, buckets: int) -> int:
    """One of `buckets` numbers, from 0."""
    return stable_hash(text) % buckets


def category_text(cell: Any) -> str:
    """The text whose hash stands for a category: equal numbers have one, whatever their type."""
    return cell if isinstance(cell, str) else f"#{float(cell)!r}"


@lru_cache(maxsize=1 << 16)
def _word_hashes(word: str) -> tuple[int, ...]:
    marked = f"<{word}>"
    parts = {marked} | {marked[i : i + SHINGLE] for i in range(len(marked) - SHINGLE + 1)}
    return tuple(stable_hash(part) for part in parts)


def bag(text: str, count: int, buckets: int) -> list[int]:
    """Numbers 1 .. `buckets` that stand for the words of a text and for their parts of three characters, case aside.

    Of a text with more than `count` of them, those with the lowest hashes: a sample that similar texts have mostly in common
    (a bottom-k sketch). Text without letters or digits is one word.
    """
    hashes = {found for word in _WORD.findall(text.lower()) for found in _word_hashes(word)} or {stable_hash(text)}
    kept = heapq.nsmallest(count, hashes)
    return list(dict.fromkeys(1 + found % buckets for found in kept))


@lru_cache(maxsize=1 << 14)
def name_bag(name: str, count: int, buckets: int) -> tuple[int, ...]:
    """`bag` of a column's name, `hoursPerWeek` and `hours_per_week` being three words, led by one for the name as it is."""
    words = bag(_HUMP.sub(" ", name), count - 1, buckets)
    return tuple(dict.fromkeys([1 + stable_hash(f"name {name}") % buckets, *words]))

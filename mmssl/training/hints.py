"""What somebody may have meant: tables that hold series, and columns that no modality reads."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl.data.label_lists import as_list
from mmssl.data.survey import ColumnSurvey
from mmssl.data.tables import lacks_value
from mmssl.files import opened
from mmssl.modality import numbers_in_text

TIMES = ("time", "date", "datetime", "timestamp", "t")
"""Columns by whose name the rows of a table may be steps in time."""
STEPS = 12
"""Columns of one name with numbers behind it from which on a row may be a series."""
LINES = 20
"""Lines of a file that are looked at."""
NAMED = 3
"""Columns that a hint writes out."""
_NUMBERED = re.compile(r"(.*?)(\d+)")


def series_hints(columns: Sequence[ColumnSurvey], files: int) -> list[str]:
    """What to type if the rows of a table, or a row each, are series; empty if nothing speaks for it. files: of the table."""
    time = next((column.name for column in columns if column.name.lower() in TIMES), None)
    if time is not None:
        others = [column for column in columns if column.name != time]
        values = [column.name for column in others if column.kind == "number"]
        by = next((column.name for column in others if column.kind != "number" or column.name.lower() == "id"), None)
        keys = [f"time: {time}", f"values: [{', '.join(name for name in values[:NAMED] if name != by) or 'COLUMN'}]"]
        if files > 1:
            return [_asked("if each file is a series in time", keys)]
        return [_asked("if rows are steps of a series in time", keys if by is None else [f"by: {by}", *keys])]
    numbered = [match for column in columns if column.kind == "number" and (match := _NUMBERED.fullmatch(column.name))]
    starts = {match[1] for match in numbered}
    for start in starts:
        if sum(match[1] == start for match in numbered) >= STEPS:
            return [_asked("if each row is a series, a column a step", [f"values: '{start}*'".replace("'", '"')])]
    return []


def holds_numbers(raw: Any) -> bool:
    """Whether a raw sample is a file of text whose first lines are nothing but numbers: points or series, and no text."""
    path = raw.get("path") if isinstance(raw, Mapping) else None
    if path is None or raw.get("bytes") is not None:
        return False
    try:
        with opened(Path(path)) as file:
            lines = file.read(4096).decode(errors="replace").splitlines()[:LINES]
    except OSError:
        return False
    return numbers_in_text([line for line in lines if line.strip()])


def _asked(when: str, keys: Sequence[str]) -> str:
    return f"{when}, say how: --series '{{{', '.join(keys)}}}'"


def held_told(cells: Sequence[Any]) -> str:
    """What a column holds: the types of its cells, and of texts how many differ."""
    there = [cell for cell in cells if not lacks_value(cell)]
    kinds = list(dict.fromkeys(type(cell).__name__ for cell in there))
    told = ", ".join(kinds[:NAMED]) or "nothing"
    return f"{told}; {len(set(there)):,} of {len(there):,} differ" if kinds == ["str"] else told


def ways_out(cells: Mapping[str, Sequence[Any]]) -> list[str]:
    """What to do about columns that hold objects, or numbers written as text."""
    found = []
    for name, held in cells.items():
        there = [cell for cell in held if not lacks_value(cell)]
        if any(isinstance(item, Mapping) for cell in there for item in (as_list(cell) or [cell])[:1]):
            found.append(f"Column {name} holds objects: make their keys columns of their own (pandas.json_normalize).")
        elif there and all(isinstance(cell, str) for cell in there) and numbers_in_text(there):
            found.append(
                f"Column {name} holds numbers written as text, such as {there[0][:40]!r}: write them as lists of numbers, in "
                "parquet or jsonl, or a column for each."
            )
    return found

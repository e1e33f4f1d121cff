"""Files of one JSON object in every line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from mmssl.data.column_types import EXACT, JSON, to_json
from mmssl.data.table_format import TableFormat

_ROWS = 4096
"""Rows that become one batch."""


class JsonLines:
    """One file. ValueError naming it, and the line, for what is no object."""

    def __init__(self, path: Path, table_format: TableFormat) -> None:
        self.path = path
        self._types = table_format.types
        self._missing = {*table_format.missing, *_numbers(table_format.missing)}
        self.size = path.stat().st_size

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in batches that each have the columns and types of their own rows; cells of several types are JSON."""
        rows = self._rows()
        while part := list(islice(rows, _ROWS)):
            columns: dict[str, None] = {}
            for row in part:
                columns.update(dict.fromkeys(row))
            fields, arrays = [], []
            for name in columns:
                array, coded = typed(self._cells(part, name))
                fields.append(pa.field(name, array.type, metadata=JSON if coded else None))
                arrays.append(array)
            if not columns:
                raise self._error("it has rows without any column")
            yield pa.record_batch(arrays, schema=pa.schema(fields))

    def _cells(self, rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
        """A column, with what the user says of it."""
        cells = [row.get(name) for row in rows]
        if self._missing:
            cells = [None if _hashable(cell) and cell in self._missing else cell for cell in cells]
        if self._types.get(name) == "string":
            cells = [cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]
        if self._types.get(name) == "number":
            cells = [self._number(cell, name) for cell in cells]
        return cells

    def _number(self, cell: Any, name: str) -> float | None:
        found = _numbers([cell]) if isinstance(cell, str) else [cell]
        if not found or isinstance(found[0], list | dict):
            raise self._error(
                f"column {name}: {cell!r} is no number, and data.types asks for one. Say so with data.missing, or read text"
            )
        return None if found[0] is None else float(found[0])

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        number = 0
        try:
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.isspace():
                        continue
                    try:
                        row = orjson.loads(line)
                    except orjson.JSONDecodeError:  # of NaN, numbers beyond 64 bits, a byte order mark, and mistakes
                        row = json.loads(line.decode("utf-8-sig"))
                    if not isinstance(row, dict):
                        raise self._error(
                            f"line {number} holds a {type(row).__name__}; every line must hold an object, as in "
                            '{"review": "a sentence", "label": 1}'
                        )
                    yield row
        except json.JSONDecodeError as error:
            raise self._error(
                f"line {number}: {error.msg} (character {error.colno}); every line must hold a JSON object"
            ) from error
        except UnicodeDecodeError as error:
            raise self._error(f"line {number} is no UTF-8 (byte {error.object[error.start]:#x}). Save it in UTF-8") from error

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"cannot read {self.path}: {reason}")


def _numbers(words: Sequence[str]) -> list[float]:
    """The numbers among words."""
    found = []
    for word in words:
        with suppress(ValueError):
            found.append(float(word))
    return found


def _hashable(cell: Any) -> bool:
    return isinstance(cell, str | int | float) and not isinstance(cell, bool)


def typed(cells: Sequence[Any]) -> tuple[pa.Array, bool]:
    """Cells as an array, and whether it holds their JSON, as they have no common type."""
    kinds = set(map(type, cells)) - {type(None)}
    try:
        if kinds == {int, float} and all(abs(cell) <= EXACT for cell in cells if isinstance(cell, int)):
            return pa.array(cells, pa.float64()), False
        if len(kinds) <= 1 and not (kinds & {list, dict} and _mixes(cells)):
            return pa.array(cells), False
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    return to_json(cells), True


def _mixes(cells: Sequence[Any]) -> bool:
    """Whether lists or objects hold values of several types: arrow would refuse most of them, but reads true as 1."""
    found: dict[Any, set[type]] = {}

    def look(cell: Any, place: Any) -> None:
        if isinstance(cell, list):
            if cell and all(type(item) in (int, float) for item in cell):
                found.setdefault((place, "item"), set()).add(float)
                return
            for item in cell:
                look(item, (place, "item"))
        elif isinstance(cell, dict):
            for key, item in cell.items():
                look(item, (place, key))
        if cell is not None:
            found.setdefault(place, set()).add(float if type(cell) is int else type(cell))

    for cell in cells:
        look(cell, ())
    return any(len(kinds) > 1 for kinds in found.values())

"""Files of JSON: an object in every line, or, called .json, a list of objects."""

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
from mmssl.files import NO_TEXT, not_data, not_utf8, opened, text_size

_ROWS = 4096
"""Rows that become one batch."""


class JsonLines:
    """One file. ValueError naming it, and the line, for what is no object."""

    def __init__(self, path: Path, table_format: TableFormat) -> None:
        self.path = path
        self._types = table_format.types
        self._missing = {*table_format.missing, *_numbers(table_format.missing)}
        self.size = text_size(path)
        self._whole = ".json" in [suffix.lower() for suffix in path.suffixes[-2:]]

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
        listed = self._list() if self._whole else None
        if listed is None:
            yield from self._lines()
            return
        for number, row in enumerate(listed):
            if not isinstance(row, dict):
                raise self._error(f"item {number} of its list is a {type(row).__name__}; every item must be an object")
            yield row

    def _list(self) -> list[Any] | None:
        """The objects of a file that is one list, or has one list of objects; None if it has an object in every line."""
        try:
            with opened(self.path) as file:
                content = file.read()
        except OSError as error:
            raise self._error(f"{error}. Replace it") from error
        if content.startswith(NO_TEXT):
            raise self._error(not_utf8(content[:4096], str(self.path)))
        if lost := not_data(content):
            raise self._error(lost)
        try:
            found = orjson.loads(content)
        except orjson.JSONDecodeError:
            try:
                found = json.loads(content.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise self._error(not_utf8(content, str(self.path))) from None
            except json.JSONDecodeError as error:
                if error.lineno > 1:  # which a list over several lines has too, so that both are told
                    self._check_lines(error)
                    return None
                raise self._error(f"{error.msg} (line 1, character {error.colno})") from error
        if isinstance(found, list):
            return found
        lists = {key: item for key, item in found.items() if _of_objects(item)} if isinstance(found, dict) else {}
        if len(lists) == 1:
            return next(iter(lists.values()))
        names = f", of which {' and '.join(map(repr, lists))} are lists of objects" if lists else ""
        raise self._error(
            f"it holds a {type(found).__name__}{names}; a .json file holds a list of objects, a row each, or one object in "
            f"which one key has such a list. {_as_rows(found, lists)}"
        )

    def _check_lines(self, error: json.JSONDecodeError) -> None:
        """ValueError of the whole file unless its first line is an object of its own."""
        with opened(self.path) as lines:
            try:
                first = json.loads(next(line for line in lines if not line.isspace()).decode("utf-8-sig"))
            except json.JSONDecodeError:
                first = None
        if not isinstance(first, dict):
            raise self._error(f"{error.msg} (line {error.lineno}, character {error.colno})") from error

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        number = 0
        try:
            with opened(self.path) as lines:
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
            raise self._error(not_utf8(bytes(error.object), str(self.path), f"line {number}")) from error
        except OSError as error:
            raise self._error(f"{error}. Replace it") from error

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"cannot read {self.path}: {reason}")


def _as_rows(found: Any, lists: Mapping[str, Any]) -> str:
    """How to write what a .json file holds as rows."""
    if lists or not isinstance(found, dict) or not found:
        return "Write the list alone"
    if all(isinstance(item, dict | list) for item in found.values()):
        return "If its keys are columns, write rows: pandas.read_json(FILE).to_json(NEW, orient='records')"
    return "If each file is a row, join them, a line each: jq -c . *.json > rows.jsonl"


def _numbers(words: Sequence[str]) -> list[float]:
    """The numbers among words."""
    found = []
    for word in words:
        with suppress(ValueError):
            found.append(float(word))
    return found


def _of_objects(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(item, dict) for item in cell)


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

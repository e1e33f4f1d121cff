"""Comma-separated files, as texts."""

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import csv as arrow_csv

from mmssl.data.formats import suffix_of
from mmssl.data.table_format import SIGNS, TAB, TableFormat
from mmssl.files import COMPRESSED, NO_TEXT, not_data, not_utf8, opened, text_size

DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
UNNAMED = "Unnamed: "
"""What a column without a name is called, as pandas does, with its number."""

_SEPARATOR = re.compile(rb"(?:\xef\xbb\xbf)?sep=([^\r\n])\r?\n")
"""A first line by which Excel is told the delimiter."""
_BLOCK = 2**20
_LARGEST_BLOCK = 2**30


class CsvFile:
    """One file. ValueError naming it, and the row, for whatever is not a table of named columns."""

    def __init__(self, path: Path, table_format: TableFormat) -> None:
        self.path = path
        self.delimiter = table_format.sign or ("\t" if suffix_of(path.name).startswith(".tsv") else ",")
        self._asked = table_format.delimiter is not None
        self._named = table_format.header
        self._above = 0
        self._block = _BLOCK
        self._ends_well = False
        self.names = self._header()
        self.size = text_size(path)

    @property
    def index(self) -> list[str]:
        """The first column if it has no name: pandas and R write the index of their rows so."""
        return [name for name in self.names[:1] if name == f"{UNNAMED}0"]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All cells as texts, null where a cell is empty."""
        wrong: list[arrow_csv.InvalidRow] = []

        def refuse(row: arrow_csv.InvalidRow) -> str:
            wrong.append(row)
            return "error"

        done = 0
        while True:
            seen = 0
            try:
                with self._content() as content:
                    for batch in self._open(content, refuse):
                        new = batch.slice(max(0, done - seen))
                        seen += batch.num_rows
                        if new.num_rows:
                            done += new.num_rows
                            yield new
                break
            except pa.ArrowInvalid as error:
                if "straddling" not in str(error) or self._block >= _LARGEST_BLOCK:
                    raise self._error(self._reason(error, wrong)) from error
                self._block = min(8 * self._block, _LARGEST_BLOCK)  # a row is longer than a block
            except OSError as error:
                raise self._error(f"{error}. Replace it") from error
        if not self._ends_well:
            self._check_end()
            self._ends_well = True

    def _content(self) -> "AbstractContextManager[Path | IO[bytes]]":
        """What arrow reads: the file, which it maps, or its unpacked content."""
        return opened(self.path) if self.path.suffix.lower() in COMPRESSED else nullcontext(self.path)

    def _open(self, content: "Path | IO[bytes]", refuse: "arrow_csv.InvalidRowHandler") -> arrow_csv.CSVStreamingReader:
        return arrow_csv.open_csv(
            content,
            read_options=arrow_csv.ReadOptions(
                column_names=self.names,
                skip_rows=self._above,
                skip_rows_after_names=int(self._named),
                block_size=self._block,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(self.names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=True,
            ),
        )

    def _header(self) -> list[str]:
        try:
            with opened(self.path) as file:
                start = file.read(4096)
            if not start:
                raise self._error("it is empty: a csv file begins with the names of its columns")
            if lost := not_data(start):
                raise self._error(lost)
            if start.startswith(NO_TEXT):
                raise self._error(not_utf8(start, str(self.path)))
            if said := _SEPARATOR.match(start):
                self._above = 1
                self.delimiter = self.delimiter if self._asked else said[1].decode()
            with self._text() as lines:
                rows = csv.reader(lines, delimiter=self.delimiter)
                names = next(rows, [])
                below = next((row for row in rows if row), []) if names and self._named else []
        except OSError as error:
            raise self._error(f"{error}. Replace it") from error
        except UnicodeDecodeError as error:
            raise self._error(self._not_utf8()) from error
        except csv.Error as error:
            raise self._error(str(error)) from error
        if not self._named:
            return [f"c{number}" for number in range(len(names))]
        if _are_cells(names):
            raise self._error(
                f"its first line holds numbers, {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}, and names no columns. "
                "Name them, or set data.header=false (--no-header in commands), which calls them c0, c1, ..."
            )
        if not any(below[len(names) :]):  # rows that end in separators, as spreadsheets write them
            names = [*names, *below[len(names) :]]
        names = [name or f"{UNNAMED}{number}" for number, name in enumerate(names)]
        self._check_names(names)
        return names

    def _text(self) -> io.TextIOWrapper:
        csv.field_size_limit(sys.maxsize)
        lines = io.TextIOWrapper(opened(self.path), encoding="utf-8-sig", newline="")
        for _ in range(self._above):
            lines.readline()
        return lines

    def _check_names(self, names: list[str]) -> None:
        if not names:
            raise self._error("its first line is empty: a csv file begins with the names of its columns")
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            places = [str(number) for number, name in enumerate(names, 1) if name == twice[0]]
            header = "; if the first line names no columns, set data.header=false (--no-header)" if _is_number(twice[0]) else ""
            are = f"are {'both' if len(places) == 2 else 'all'} called {twice[0]!r}"
            raise self._error(f"the columns {' and '.join(places)} {are}. Give each a name of its own{header}")
        other = next((sign for sign in (*DELIMITERS, ",") if sign != self.delimiter and sign in names[0]), None)
        if len(names) == 1 and other and not self._asked:
            raise self._error(
                f"it has one column, {names[0]!r}: is {DELIMITERS.get(other, 'a comma')} its delimiter? "
                f"Then set data.delimiter={TAB if other == SIGNS[TAB] else other!r} (--delimiter in commands)"
            )

    def _reason(self, error: pa.ArrowInvalid, wrong: "list[arrow_csv.InvalidRow]") -> str:
        if wrong:
            row = wrong[0]
            text = row.text if len(row.text) <= 80 else row.text[:80] + "..."
            if len(self.names) == 1:
                return (
                    f"its first line, {self.names[0][:80]!r}, names one column, and row {self._uneven()} has {row.actual_columns} "
                    f"cells: {text!r}. Remove what stands above the names of the columns"
                )
            return (
                f"row {self._uneven()} has {row.actual_columns} cells, its header names {row.expected_columns} columns "
                f"({', '.join(self.names[:8])}): {text!r}. Name every column, and put cells that hold the delimiter in quotes"
            )
        if "UTF8" in str(error):
            return self._not_utf8()
        return str(error)

    def _uneven(self) -> int:
        """The first row of other than the header's number of cells."""
        with self._text() as lines:
            rows = (row for row in csv.reader(lines, delimiter=self.delimiter) if row)
            numbered = enumerate(rows, -int(self._named))
            return next(number for number, row in numbered if number >= 0 and len(row) != len(self.names))

    def _not_utf8(self) -> str:
        with opened(self.path) as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return not_utf8(line, str(self.path), f"line {number}")
        return not_utf8(b"", str(self.path))

    def _check_end(self) -> None:
        """ValueError if the last quote is never closed: the rest of the file would be one cell."""
        quotes = 0
        with opened(self.path) as file:
            while part := file.read(2**20):
                quotes += part.count(b'"')
        if quotes % 2 == 0:  # a quote within quotes is doubled
            return
        rows = -1
        try:
            with self._text() as lines:
                for _ in csv.reader(lines, delimiter=self.delimiter, strict=True):
                    rows += 1
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                what = f"row {rows}: a quote is opened and never closed. Close it, or double it where it is text"
                raise self._error(what) from error

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"cannot read {self.path}: {reason}")


def _are_cells(names: Sequence[str]) -> bool:
    """Whether a first line holds numbers, and names no columns.

    Whole numbers may be names, such as years, and so may decimals beside words that rise, such as wavelengths.
    """
    numbers = [name for name in names if _is_number(name)]
    if all(map(str.isdigit, numbers)):
        return False
    rising = len(numbers) > 1 and all(float(a) < float(b) for a, b in pairwise(numbers))
    return len(numbers) == len(names) or not rising


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""The files of a table read as one: one type for each column, over all rows and all files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from mmssl.data.arrow_files import ArrowFile
from mmssl.data.column_types import JSON, Guess, as_asked, asked_type, common, converted, fits_float, is_json, to_json, without
from mmssl.data.csv_files import UNNAMED, CsvFile
from mmssl.data.json_lines import JsonLines
from mmssl.data.parquet_files import ParquetFile
from mmssl.data.table_format import TableFormat

HELD = 2**27
"""Bytes up to which texts are held while the types of their columns are found. Larger files are read twice."""


@runtime_checkable
class Reader(Protocol):
    """Files of one kind.

    schema: the columns and their types in all rows, of which there are `num_rows`. index: columns that number the rows.
    missing: how many cells of each column are missing as `TableFormat.missing` says, where they were counted.
    """

    schema: pa.Schema
    num_rows: int
    index: list[str]
    missing: dict[str, int]

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows of some columns, in the types of `schema`. ValueError naming the file for what cannot be read."""

    def size(self, names: Sequence[str]) -> int:
        """Bytes of some columns, about."""


TextFile = TypeVar("TextFile", CsvFile, JsonLines)


class _TextFiles(Generic[TextFile]):
    """Files of texts, all read once to find the types of their columns. Rows are those of `files`, held where they are not many."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        self._files: Sequence[TextFile] = files
        self._size = sum(file.size for file in files)
        self._held: list[Any] | None = [] if self._size <= HELD else None
        self.num_rows = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: the files, which it reads itself."""
        return self.__dict__ | {"_held": None}

    def size(self, names: Sequence[str]) -> int:
        return self._size

    def _hold(self, batch: pa.RecordBatch, found: Any) -> None:
        """Count the rows of a batch, and hold what was found in it."""
        self.num_rows += batch.num_rows
        if self._held is not None:
            self._held.append(found)


class CsvReader(_TextFiles[CsvFile]):
    """Comma-separated files: texts first, then the types that all of them allow."""

    def __init__(self, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat) -> None:
        self._format = table_format
        known = {path: CsvFile(path, table_format) for path in every}
        first = known[paths[0]]
        super().__init__([known[path] for path in paths])
        same_columns([(file.path, file.names) for file in known.values()])
        self.index = first.index
        self.missing = dict.fromkeys(first.names, 0)
        self._guesses = {name: Guess(table_format.decimal, table_format.types.get(name)) for name in first.names}
        for path, file in known.items():
            own = path in paths
            for batch in self._texts(file, count=own):
                seen = [self._see(file, name, batch[name]) for name in first.names]
                if own:
                    self._hold(batch, (batch, seen))
        found = {name: guess.type for name, guess in self._guesses.items()}
        # What separators at the end of rows make: a column without a name, and without a cell.
        kept = [name for name, kind in found.items() if not (pa.types.is_null(kind) and name.startswith(UNNAMED))] or [*found]
        self.schema = pa.schema([(name, found[name]) for name in kept])
        self.index = [name for name in self.index if name in kept]

    def _see(self, file: CsvFile, name: str, texts: pa.StringArray) -> pa.Array:
        try:
            return self._guesses[name].see(texts)
        except ValueError as error:
            raise ValueError(f"cannot read {file.path}, column {name}: {error}") from error

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema, every = pa.schema([self.schema.field(name) for name in names]), list(self._guesses)
        places = [every.index(name) for name in names]
        if self._held is not None:
            for batch, seen in self._held:
                arrays = [self._guesses[name].read(batch[name], seen[place]) for name, place in zip(names, places, strict=True)]
                yield pa.record_batch(arrays, schema=schema)
            return
        for file in self._files:
            for batch in self._texts(file):
                yield pa.record_batch([self._guesses[name].read(batch[name]) for name in names], schema=schema)

    def _texts(self, file: CsvFile, *, count: bool = False) -> Iterator[pa.RecordBatch]:
        for batch in file.batches():
            if not self._format.missing:
                yield batch
                continue
            cells = {name: without(batch[name], self._format.missing) for name in file.names}
            for name, found in cells.items():
                self.missing[name] += (found.null_count - batch[name].null_count) * count
            yield pa.record_batch(cells)


class JsonReader(_TextFiles[JsonLines]):
    """Files of an object in every line."""

    def __init__(self, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat) -> None:
        known = {path: JsonLines(path, table_format) for path in every}
        super().__init__([known[path] for path in paths])
        self.index: list[str] = []
        self.missing: dict[str, int] = {}
        types, coded, large = dict[str, dict[pa.DataType, None]](), set[str](), set[str]()
        for path, file in known.items():
            for batch in file.batches():
                for field in batch.schema:
                    types.setdefault(field.name, {})[field.type] = None
                    if is_json(field):
                        coded.add(field.name)
                    if pa.types.is_integer(field.type) and not fits_float(batch[field.name]):
                        large.add(field.name)
                if path in paths:
                    self._hold(batch, batch)
        fields = []
        for name, kinds in types.items():
            kind = None if name in coded else common(list(kinds))
            mixed = kind is None or (name in large and pa.types.is_floating(kind))
            fields.append(pa.field(name, pa.string(), metadata=JSON) if mixed else pa.field(name, kind))
        self.schema = pa.schema(fields)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        found = (batch for file in self._files for batch in file.batches()) if self._held is None else self._held
        schema = pa.schema([self.schema.field(name) for name in names])
        for batch in found:
            yield pa.record_batch([self._cells(batch, field) for field in schema], schema=schema)

    def _cells(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        if field.name not in batch.schema.names:
            return pa.nulls(batch.num_rows, field.type)
        column = batch[field.name]
        if is_json(field) and not is_json(batch.schema.field(field.name)):
            return to_json(column.to_pylist())
        return converted(column, field.type)


class ParquetReader:
    """Parquet files, whose types may differ in what loses nothing."""

    opened: type[ParquetFile] | type[ArrowFile] = ParquetFile

    def __init__(self, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat) -> None:
        self._format = table_format
        known = {path: self.opened(path) for path in every}
        self._files = [known[path] for path in paths]
        self.num_rows = sum(file.num_rows for file in self._files)
        filled = [file for file in known.values() if file.num_rows] or list(known.values())[:1]
        first = filled[0]
        same_columns([(file.path, [name for name in file.schema.names if name not in file.index]) for file in filled])
        names = [name for name in first.schema.names if all(name in file.schema.names for file in filled)]
        self.index = [name for name in names if name in first.index]
        self.missing: dict[str, int] = {}
        self.schema = pa.schema([self._field(name, filled) for name in names], metadata=huggingface_only(first.schema.metadata))

    def size(self, names: Sequence[str]) -> int:
        return sum(file.size(names) for file in self._files)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([self.schema.field(name) for name in names])
        for file in self._files:
            for batch in file.batches(names) if file.num_rows else ():
                yield pa.record_batch([self._cells(batch, field, file) for field in schema], schema=schema)

    def _field(self, name: str, found: Sequence[ParquetFile | ArrowFile]) -> pa.Field:
        kinds = [decoded(file.schema.field(name).type) for file in found]
        kind = common(list(dict.fromkeys(kinds)))
        if kind is None:
            other = next(number for number in range(len(kinds)) if common(kinds[: number + 1]) is None)
            raise ValueError(
                f"the files do not fit together: column {name} is {kinds[0]} in {found[0].path} and {kinds[other]} in "
                f"{found[other].path}. Write it with one type, or choose one set of files with a pattern"
            )
        if name in self._format.types:
            kind = asked_type(kind, self._format.types[name])
        return pa.field(name, kind, metadata=found[0].schema.field(name).metadata)

    def _cells(self, batch: pa.RecordBatch, field: pa.Field, file: ParquetFile | ArrowFile) -> pa.Array:
        column = batch[field.name]
        try:
            column = without(column.cast(decoded(column.type)), self._format.missing)
            if field.name in self._format.types:
                column = as_asked(column, self._format.types[field.name])
            return converted(column, field.type)
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"cannot read {file.path}, column {field.name}: {error}") from error


class ArrowReader(ParquetReader):
    """Arrow and Feather files."""

    opened = ArrowFile


READERS: dict[str, Callable[[Sequence[Path], Sequence[Path], TableFormat], Reader]] = {
    "csv": CsvReader,
    "json": JsonReader,
    "parquet": ParquetReader,
    "arrow": ArrowReader,
}


def decoded(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary, which pandas writes for categories; other types as they are."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def huggingface_only(metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """What `datasets` wrote of the columns: names of classes, columns of pictures."""
    found = {key: value for key, value in (metadata or {}).items() if key == b"huggingface"}
    return found or None


def same_columns(found: Sequence[tuple[Path, Sequence[str]]]) -> None:
    """ValueError if files have other columns than the first one; their order does not matter."""
    first, names = found[0]
    for path, others in found[1:]:
        if set(others) != set(names):
            raise ValueError(
                f"the files do not fit together: {first} has the columns {', '.join(names)}; {path} has {', '.join(others)}. "
                "Choose files of one kind with a pattern"
            )

"""Tables in csv, jsonl and parquet files: one type for each column, over all rows and all files."""

import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import datasets
import pyarrow as pa
import xxhash

from mmssl import files
from mmssl.data.arrow import ArrowTable
from mmssl.data.column_types import JSON, Guess, as_asked, asked_type, common, converted, fits_float, is_json, to_json, without
from mmssl.data.csv_files import CsvFile
from mmssl.data.json_lines import JsonLines
from mmssl.data.parquet_files import ParquetFile
from mmssl.data.table_format import TableFormat
from mmssl.data.tables import Row, Table

IN_MEMORY = 2**22
"""Bytes up to which a table is kept in memory. A larger one is copied to the cache of `datasets` and mapped from there."""
HELD = 2**27
"""Bytes up to which texts are held while the types of their columns are found. Larger files are read twice."""
VERSION = 1
"""Of what a copy holds: files are not copied again while it, their bytes and what is said of them are the same."""


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


def files_table(builder: str, paths: Sequence[Path], path: str, every: Sequence[Path], table_format: TableFormat) -> Table:
    """The rows of the files `paths`, one after another. ValueError naming the file that cannot be read.

    builder: parquet, csv or json. path: what the user wrote, for messages. every: all files of it, whose splits share their types.
    """
    table_format.check(builder, path)
    found: Table
    if builder == "parquet" or sum(file.stat().st_size for file in paths) <= IN_MEMORY:
        reader: Reader = READERS[builder](paths, every, table_format)
        found, missing = FileTable(reader, paths, table_format), reader.missing
    else:
        found, missing = copied_table(builder, paths, every, table_format)
    unknown = [name for name in table_format.types if name not in found.columns]
    if unknown:
        raise LookupError(f"data.types names {unknown[0]!r}, which {path} has not; it has {', '.join(found.columns)}")
    found.notes = notes(found.index, missing, path)
    return found


def notes(index: Sequence[str], missing: Mapping[str, int], path: str) -> list[str]:
    """What to tell of how a table was read."""
    names, told = " and ".join(map(repr, index)), [f"{count:,} in column {name!r}" for name, count in missing.items() if count]
    found = [f"{path}: {names} is the index of the rows, and no input; to read it, name it in data.columns"] if index else []
    return [*found, f"{path}: cells that are missing, as data.missing says: {', '.join(told)}"] if told else found


def copied_table(
    builder: str, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat
) -> tuple[ArrowTable, dict[str, int]]:
    """A table of texts that is large: read once, and kept as a copy with its types. Returns it with its `Reader.missing`."""
    chosen = [number for number, path in enumerate(every) if path in paths]
    place = copy_place(content_of(every), (VERSION, builder, table_format, chosen))
    if not place.exists():
        reader = READERS[builder](paths, every, table_format)
        said = json.dumps({"index": reader.index, "missing": reader.missing})
        schema, names = reader.schema.with_metadata({"mmssl": said}), reader.schema.names
        write_copy(place, schema, lambda: reader.batches(names), reader.size(names))
    with pa.memory_map(str(place)) as file, pa.ipc.open_stream(file) as stream:
        known = json.loads(stream.schema.metadata[b"mmssl"])
    table = ArrowTable(datasets.Dataset.from_file(str(place)))
    table.index = known["index"]
    return table, known["missing"]


def copy_place(content: str, said: object) -> Path:
    """Where the copy of files lies, by what they hold and what is said of them."""
    key = xxhash.xxh3_128_hexdigest(f"{content} {said!r}".encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "mmssl" / f"{key}.arrow"


class FileTable(Table):
    """Rows of files, of which no column is read before it is asked for."""

    def __init__(
        self,
        reader: Reader,
        paths: Sequence[Path],
        table_format: TableFormat,
        names: Sequence[str] | None = None,
        digest: list[str] | None = None,
    ) -> None:
        self.columns = list(reader.schema.names if names is None else names)
        self.index = [name for name in reader.index if name in self.columns]
        self._reader, self._paths, self._format = reader, paths, table_format
        self._opened: dict[tuple[str, ...], ArrowTable] = {}
        self._digest: list[str] = [] if digest is None else digest  # of the files' bytes, once it is known

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: the files and their types, not the rows, which it reads itself."""
        return self.__dict__ | {"_opened": {}}

    def __len__(self) -> int:
        return self._reader.num_rows

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return self._open(self.columns).rows(indices)

    def column(self, name: str) -> list[Any]:
        return self._open([name]).column(name)

    def class_names(self, name: str) -> list[str] | None:
        return self._open([name]).class_names(name)

    def select(self, names: Sequence[str]) -> "FileTable":
        return FileTable(self._reader, self._paths, self._format, names, self._digest)

    def _open(self, names: Sequence[str]) -> ArrowTable:
        """A table that has some columns at least."""
        whole = tuple(self.columns)
        if whole in self._opened:
            return self._opened[whole]
        if tuple(names) not in self._opened:
            self._opened[tuple(names)] = ArrowTable(self._dataset(names))
        return self._opened[tuple(names)]

    def _dataset(self, names: Sequence[str]) -> datasets.Dataset:
        schema = pa.schema([self._reader.schema.field(name) for name in names], metadata=self._reader.schema.metadata)
        if self._reader.size(names) <= IN_MEMORY:
            return datasets.Dataset(pa.Table.from_batches(self._reader.batches(names), schema).combine_chunks())
        if not self._digest:
            self._digest.append(content_of(self._paths))
        place = copy_place(self._digest[0], (VERSION, self._format, schema.to_string(), list(names)))
        if not place.exists():
            write_copy(place, schema, lambda: self._reader.batches(names), self._reader.size(names))
        return datasets.Dataset.from_file(str(place))


def content_of(paths: Sequence[Path]) -> str:
    """A digest of all bytes of files: no time stamp tells whether a file is the same."""
    digest, sizes = xxhash.xxh3_128(), [path.stat().st_size for path in paths]
    with bar("looking for changes", sum(sizes)) as shown:
        for path, size in zip(paths, sizes, strict=True):
            with path.open("rb") as file:
                while part := file.read(2**22):
                    digest.update(part)
                    shown.update(len(part))
            digest.update(size.to_bytes(8, "little"))
    return digest.hexdigest()


def bar(what: str, size: int) -> Any:
    """A bar of `datasets`, as its own readers draw, where there is much to read and somebody watches."""
    return datasets.utils.tqdm(desc=what, total=size, unit="B", unit_scale=True, disable=size < 2**28 or not sys.stderr.isatty())


def write_copy(place: Path, schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]], size: int) -> None:
    """Write a table that is too large for memory. OSError naming the cache, and how to have it elsewhere."""
    try:
        with (
            bar(f"copying to {place.parent}", size) as shown,
            files.new_file(place) as part,
            pa.OSFile(str(part), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as writer,
        ):
            for batch in batches():
                writer.write_batch(batch)
                shown.update(batch.nbytes)
    except OSError as error:
        if not error.errno:
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(
            f"cannot write {place.parent}, where tables of more than {IN_MEMORY >> 20} MiB are kept to be read: {reason}. Name a "
            "folder for them by the variable HF_DATASETS_CACHE"
        ) from error


class CsvReader:
    """Comma-separated files: texts first, then the types that all of them allow."""

    def __init__(self, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat) -> None:
        self._format = table_format
        known = {path: CsvFile(path, table_format) for path in every}
        self._files = [known[path] for path in paths]
        first = self._files[0]
        same_columns([(file.path, file.names) for file in known.values()])
        self.num_rows, self.index = 0, first.index
        self.missing = dict.fromkeys(first.names, 0)
        self._size = sum(file.size for file in self._files)
        self._kept: list[tuple[pa.RecordBatch, list[pa.Array]]] | None = [] if self._size <= HELD else None
        self._guesses = {name: Guess(table_format.decimal, table_format.types.get(name)) for name in first.names}
        for file in known.values():
            for batch in self._texts(file, count=file in self._files):
                seen = [self._see(file, name, batch[name]) for name in first.names]
                self.num_rows += batch.num_rows * (file in self._files)
                if self._kept is not None and file in self._files:
                    self._kept.append((batch, seen))
        self.schema = pa.schema([(name, guess.type) for name, guess in self._guesses.items()])

    def _see(self, file: CsvFile, name: str, texts: pa.StringArray) -> pa.Array:
        try:
            return self._guesses[name].see(texts)
        except ValueError as error:
            raise ValueError(f"cannot read {file.path}, column {name}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}

    def size(self, names: Sequence[str]) -> int:
        return self._size

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema, places = pa.schema([self.schema.field(name) for name in names]), [self.schema.names.index(name) for name in names]
        if self._kept is not None:
            for batch, seen in self._kept:
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


class JsonReader:
    """Files of an object in every line."""

    def __init__(self, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat) -> None:
        known = {path: JsonLines(path, table_format) for path in every}
        self._files = [known[path] for path in paths]
        self._size = sum(file.size for file in self._files)
        self._kept: list[pa.RecordBatch] | None = [] if self._size <= HELD else None
        self.num_rows = 0
        self.index: list[str] = []
        self.missing: dict[str, int] = {}
        types, coded, large = dict[str, dict[pa.DataType, None]](), set[str](), set[str]()
        for file in known.values():
            for batch in file.batches():
                for field in batch.schema:
                    types.setdefault(field.name, {})[field.type] = None
                    if is_json(field):
                        coded.add(field.name)
                    if pa.types.is_integer(field.type) and not fits_float(batch[field.name]):
                        large.add(field.name)
                self.num_rows += batch.num_rows * (file in self._files)
                if self._kept is not None and file in self._files:
                    self._kept.append(batch)
        fields = []
        for name, kinds in types.items():
            kind = None if name in coded else common(list(kinds))
            mixed = kind is None or (name in large and pa.types.is_floating(kind))
            fields.append(pa.field(name, pa.string(), metadata=JSON) if mixed else pa.field(name, kind))
        self.schema = pa.schema(fields)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}

    def size(self, names: Sequence[str]) -> int:
        return self._size

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        found = (batch for file in self._files for batch in file.batches()) if self._kept is None else self._kept
        schema = pa.schema([self.schema.field(name) for name in names])
        for batch in found:
            yield pa.record_batch([self._cells(batch, field) for field in schema], schema=schema)

    def _cells(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        if field.name not in batch.schema.names:
            return pa.nulls(batch.num_rows, field.type)
        column = batch[field.name]
        if is_json(field) and not is_json(batch.schema.field(field.name)):
            return to_json(column)
        return converted(column, field.type)


class ParquetReader:
    """Parquet files, whose types may differ in what loses nothing."""

    def __init__(self, paths: Sequence[Path], every: Sequence[Path], table_format: TableFormat) -> None:
        self._format = table_format
        known = {path: ParquetFile(path) for path in every}
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

    def _field(self, name: str, found: Sequence[ParquetFile]) -> pa.Field:
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

    def _cells(self, batch: pa.RecordBatch, field: pa.Field, file: ParquetFile) -> pa.Array:
        column = batch[field.name]
        try:
            column = without(column.cast(decoded(column.type)), self._format.missing)
            if field.name in self._format.types:
                column = as_asked(column, self._format.types[field.name])
            return converted(column, field.type)
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"cannot read {file.path}, column {field.name}: {error}") from error


READERS: dict[str, Callable[[Sequence[Path], Sequence[Path], TableFormat], Reader]] = {
    "csv": CsvReader,
    "json": JsonReader,
    "parquet": ParquetReader,
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

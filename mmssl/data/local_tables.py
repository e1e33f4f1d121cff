"""Tables in csv, jsonl and parquet files, in memory or as copies that go by the bytes of the files."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import xxhash

from mmssl import files
from mmssl.data.arrow import ArrowTable
from mmssl.data.readers import READERS, Reader
from mmssl.data.table_format import TableFormat
from mmssl.data.tables import Row, Table

if TYPE_CHECKING:
    import pandas as pd

IN_MEMORY = 2**22
"""Bytes up to which a table is kept in memory. A larger one is copied to the cache of `datasets` and mapped from there."""
VERSION = 2
"""Of what a copy holds: files are not copied again while it, their bytes and what is said of them are the same."""


def files_table(builder: str, paths: Sequence[Path], path: str, every: Sequence[Path], table_format: TableFormat) -> Table:
    """The rows of the files `paths`, one after another. ValueError naming the file that cannot be read.

    builder: parquet, csv or json. path: what the user wrote, for messages. every: all files of it, whose splits share their types.
    """
    table_format.check(builder, path)
    found: Table
    if builder in ("parquet", "arrow") or sum(file.stat().st_size for file in every) <= IN_MEMORY:
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

    def pandas(self, name: str) -> "pd.Series":
        return self._open([name]).pandas(name)

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
        raise OSError(
            f"cannot write {place.parent}, where tables of more than {IN_MEMORY >> 20} MiB are kept to be read: {error.strerror}. "
            "Name a folder for them by the variable HF_DATASETS_CACHE"
        ) from error

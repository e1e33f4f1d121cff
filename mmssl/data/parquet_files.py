"""Parquet files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

_BYTES = 2**24
"""Read at a time, about: many rows of numbers, few of pictures."""


class ParquetFile:
    """One file. ValueError naming it if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.metadata = parquet.read_metadata(path)
            self.schema: pa.Schema = parquet.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise self._error(error) from error
        self.num_rows: int = self.metadata.num_rows
        names = self.schema.names
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"cannot read {path}: it has several columns called {twice[0]!r}. Give each a name of its own")

    @property
    def index(self) -> list[str]:
        """Columns that are the index of a pandas frame, as the file itself says."""
        return pandas_index(self.schema)

    def size(self, names: Sequence[str]) -> int:
        """Bytes of some columns in memory, about."""
        chosen, total = set(names), 0
        for group in range(self.metadata.num_row_groups):
            row_group = self.metadata.row_group(group)
            for number in range(row_group.num_columns):
                column = row_group.column(number)
                if column.path_in_schema.split(".")[0] in chosen or column.path_in_schema in chosen:
                    total += column.total_uncompressed_size
        return total

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of some columns."""
        dotted = any("." in name for name in self.schema.names)  # which the reader takes for parts of a column
        try:
            with parquet.ParquetFile(self.path, memory_map=True) as file:
                rows = max(1, _BYTES * self.num_rows // max(1, self.size(names)))
                for batch in file.iter_batches(rows, columns=None if dotted else list(names)):
                    yield batch.select(list(names))
        except (pa.ArrowException, OSError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> ValueError:
        return ValueError(f"cannot read {self.path}: {error}")


def pandas_index(schema: pa.Schema) -> list[str]:
    """Columns that are the index of a pandas frame, as the schema of a file says."""
    pandas = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    return [name for name in pandas.get("index_columns", []) if isinstance(name, str)]

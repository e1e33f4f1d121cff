"""Tables of the `datasets` library: local files and the Hub. Imported only when such data are asked for."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from jaxtyping import Shaped
from pyarrow import parquet

from mmssl.data.tables import Row, Table

_UNREADABLE = (DatasetGenerationError, pa.ArrowException, OSError)


class ArrowTable(Table):
    """A memory-mapped `datasets.Dataset`, read without decoding: files stay `{"bytes", "path"}`, so that workers decode them.

    A list of numbers, however deep, arrives as one numpy array, which is some 50 times faster than nested Python lists.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self.columns = list(dataset.column_names)
        self._features = dataset.features
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        table = self._dataset[list(indices)]
        columns = [_cells(table[name]) for name in self.columns]
        return [dict(zip(self.columns, cells, strict=True)) for cells in zip(*columns, strict=True)]

    def column(self, name: str) -> list[Any]:
        return _cells(self._dataset.select_columns([name])[:][name])

    def class_names(self, name: str) -> list[str] | None:
        feature = self._features[name]
        return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None

    def select(self, names: Sequence[str]) -> "ArrowTable":
        return ArrowTable(self._dataset.select_columns(list(names)))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _cells(column: pa.ChunkedArray) -> list[Any]:
    inner = column.type
    while _is_list(inner):
        inner = inner.value_type
    numeric = pa.types.is_integer(inner) or pa.types.is_floating(inner)
    if not (numeric and _is_list(column.type)):
        return list(column.to_pylist())
    return [_list_cell(cell) for cell in column]


def _list_cell(cell: pa.Scalar) -> Any:
    """A cell of numbers as an array; as lists where it is ragged or lacks a part, for the processor to judge."""
    if cell.values is None:
        return None
    array = _array(cell.values)
    return cell.as_py() if array is None else array


def _array(values: pa.Array) -> Shaped[np.ndarray, "..."] | None:
    """Nested lists of one size as an array; None if they differ in size or one is missing."""
    if not _is_list(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    if len(values) == 0 or values.null_count:
        return None
    lengths = np.asarray(values.value_lengths())
    if (lengths != lengths[0]).any():
        return None
    inner = _array(values.flatten())
    return None if inner is None else inner.reshape(len(values), lengths[0], *inner.shape[1:])


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars where nobody watches."""
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)


def _load(builder: str, files: Sequence[Path]) -> datasets.Dataset:
    empty = datasets.Dataset.from_dict({})
    if builder == "parquet":  # whose reader stumbles over files without rows
        files = [file for file in files if parquet.read_metadata(file).num_rows]
    if builder == "json":  # whose reader stumbles over files without bytes
        files = [file for file in files if file.stat().st_size]
    if not files:
        return empty
    if builder == "csv":
        for file in files:
            _check_header(file)
    try:
        return datasets.load_dataset(builder, data_files=[escape(str(file)) for file in files], split="train")
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        return empty


def _check_header(file: Path) -> None:
    """ValueError if rows are longer than the header: the reader would take their first cell for an index, and shift all columns."""
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = csv.reader(lines)
        header, first = next(rows, []), next(rows, [])
    if len(first) > len(header):
        raise ValueError(
            f"cannot read {file}: its header names {len(header)} columns ({', '.join(header[:8])}), its first row has {len(first)} "
            "cells. Name every column, or drop the superfluous cell"
        )


def files_table(builder: str, files: Sequence[Path], path: str) -> ArrowTable:
    """The rows of all `files`, one after another. ValueError naming the file that cannot be read.

    builder: parquet, csv or json, as `datasets` calls them. path: what the user wrote, for messages.
    """
    with _quiet():
        try:
            return ArrowTable(_load(builder, files))
        except _UNREADABLE as error:
            _blame(builder, files)
            raise ValueError(f"the {len(files)} files of {path} do not fit together: {_root(error)}") from error


def _blame(builder: str, files: Sequence[Path]) -> None:
    """Raise for the first file that cannot be read alone."""
    for file in files:
        try:
            _load(builder, [file])
        except _UNREADABLE as error:
            raise ValueError(f"cannot read {file}: {_root(error)}") from error


def hub_table(path: str, config: str | None, split: str | None) -> ArrowTable:
    """A dataset of the Hugging Face Hub; all its splits, one after another, if `split` is None."""
    shown = path if config is None else f"{path}:{config}"
    with _quiet():
        try:
            found = datasets.load_dataset(path, config, split=split)
        except DatasetNotFoundError as error:
            raise FileNotFoundError(
                f"{path!r} is neither a local file or folder nor a dataset on the Hugging Face Hub that this machine may read. "
                f"Write ./{path} for a local one; log in with `hf auth login` for a private one"
            ) from error
        except ConnectionError as error:
            raise ConnectionError(f"{path!r} is no local file or folder, and the Hub cannot be reached: {error}") from error
        except ValueError as error:
            raise ValueError(f"{shown}: {error} (write `name:configuration` to choose a configuration)") from error
    splits = [] if split is None else split.split("+")
    if isinstance(found, datasets.DatasetDict):
        splits, found = list(found), datasets.concatenate_datasets(list(found.values()))
    table = ArrowTable(found)
    table.parts = [f"{shown}/{part.strip()}" for part in splits]
    return table

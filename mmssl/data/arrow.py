"""Tables of the `datasets` library. Imported only when such data are asked for."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from jaxtyping import Shaped

from mmssl.data.column_types import is_json, is_list
from mmssl.data.tables import Row, Table

if TYPE_CHECKING:
    import pandas as pd

ANSWERS_WITHIN = 10
"""Seconds that the Hub has for its first answer."""


class ArrowTable(Table):
    """A memory-mapped `datasets.Dataset`, read without decoding: files stay `{"bytes", "path"}`, so that workers decode them.

    A list of numbers, however deep, arrives as one numpy array, which is some 50 times faster than nested Python lists.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self.columns = list(dataset.column_names)
        self._features = dataset.features
        self._json = {field.name for field in dataset.data.schema if is_json(field)}
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        table = self._dataset[list(indices)]
        columns = [self._cells(name, table[name]) for name in self.columns]
        return [dict(zip(self.columns, cells, strict=True)) for cells in zip(*columns, strict=True)]

    def column(self, name: str) -> list[Any]:
        return self._cells(name, self._dataset.select_columns([name])[:][name])

    def pandas(self, name: str) -> "pd.Series":
        if name in self._json:
            return super().pandas(name)
        return self._dataset.select_columns([name])[:][name].to_pandas()

    def _cells(self, name: str, column: pa.ChunkedArray) -> list[Any]:
        cells = _cells(column)
        return [None if cell is None else json.loads(cell) for cell in cells] if name in self._json else cells

    def class_names(self, name: str) -> list[str] | None:
        feature = self._features[name]
        if isinstance(feature, datasets.List | datasets.LargeList):
            feature = feature.feature
        return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None

    def select(self, names: Sequence[str]) -> "ArrowTable":
        return ArrowTable(self._dataset.select_columns(list(names)))


def _cells(column: pa.ChunkedArray) -> list[Any]:
    inner = column.type
    while is_list(inner):
        inner = inner.value_type
    numeric = pa.types.is_integer(inner) or pa.types.is_floating(inner)
    if not (numeric and is_list(column.type)):
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
    if not is_list(values.type):
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


def hub_table(path: str, config: str | None, split: str | None, near: Sequence[str] = ()) -> ArrowTable:
    """A dataset of the Hugging Face Hub; all its splits, one after another, if `split` is None.

    near: what lies here under names like this one, for errors.
    """
    meant = f"; did you mean {' or '.join(f'./{name}' for name in near)}?" if near else ""
    shown = path if config is None else f"{path}:{config}"
    with _quiet():
        try:
            _reach(path)
            found = datasets.load_dataset(path, config, split=split)
        except DatasetNotFoundError as error:
            raise FileNotFoundError(
                f"{path!r} is neither a local file or folder nor a dataset on the Hugging Face Hub that this machine may read. "
                f"Write ./{path} for a local one; log in with `hf auth login` for a private one{meant}"
            ) from error
        except ConnectionError as error:
            raise ConnectionError(f"{path!r} is no local file or folder, and the Hub cannot be reached: {error}{meant}") from error
        except ValueError as error:
            raise ValueError(f"{shown}: {error} (write `name:configuration` to choose a configuration)") from error
    splits = [] if split is None else split.split("+")
    if isinstance(found, datasets.DatasetDict):
        splits, found = list(found), datasets.concatenate_datasets(list(found.values()))
    table = ArrowTable(found)
    table.parts = [f"{shown}/{part.strip()}" for part in splits]
    return table


def _reach(path: str) -> None:
    """ConnectionError at once where nobody answers and nothing is cached: `load_dataset` repeats itself for half a minute first."""
    cached = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    if is_offline_mode() or cached.exists():
        return
    try:
        HfApi().dataset_info(path, timeout=ANSWERS_WITHIN)
    except (HfHubHTTPError, HFValidationError):
        return  # an answer, of which `load_dataset` tells more
    except Exception as error:  # what the library raises without a connection differs by its version
        raise ConnectionError(str(error)) from error

"""Arrow and Feather files (of version 2, which are Arrow's), and folders that the `datasets` library saved."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa

from mmssl.data.arrow import ArrowTable
from mmssl.data.parquet_files import pandas_index

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
"""Files by which a saved dataset, and a folder of its splits, are known."""


class ArrowFile:
    """One file in Arrow's format, as a file or a stream, or in Feather's. ValueError naming it if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = self._table()
        self.schema: pa.Schema = table.schema
        self.num_rows: int = table.num_rows
        names = self.schema.names
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"cannot read {path}: it has several columns called {twice[0]!r}. Give each a name of its own")

    @property
    def index(self) -> list[str]:
        """Columns that are the index of a pandas frame, as the file itself says."""
        return pandas_index(self.schema)

    def size(self, names: Sequence[str]) -> int:
        """Bytes of some columns in memory."""
        return int(self._table().select(list(names)).nbytes)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of some columns."""
        yield from self._table().select(list(names)).to_batches()

    def _table(self) -> pa.Table:
        try:
            with self.path.open("rb") as file:
                start = file.read(6)
            if start[:4] == b"FEA1":
                raise pa.ArrowInvalid("it is Feather of version 1, which is no longer read. Write it again (version 2)")
            with pa.memory_map(str(self.path)) as source:
                reader = pa.ipc.open_file(source) if start == b"ARROW1" else pa.ipc.open_stream(source)
                return reader.read_all()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"cannot read {self.path}: {error}") from error


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `save_to_disk` of the `datasets` library wrote."""
    return (folder / SPLITS).is_file() or ((folder / STATE).is_file() and (folder / INFO).is_file())


def saved_table(folder: Path, path: str, split: str | None) -> ArrowTable:
    """A dataset that was saved to disk; of one that has splits, one of them, or all, one after another.

    LookupError for a split that it does not have; ValueError for what cannot be read.
    """
    if not (folder / SPLITS).is_file():
        found, name = _load(folder), str(_state(folder).get("_split") or "train")
        if split not in (None, name):
            raise LookupError(f"{path} has no split {split!r}; it has {name}")
        parts = [name]
    else:
        splits = list(_json(folder / SPLITS).get("splits", ()))
        if split is not None and split not in splits:
            raise LookupError(f"{path} has no split {split!r}; it has {', '.join(map(str, splits)) or 'none'}")
        parts = splits if split is None else [split]
        if not parts or any(not isinstance(part, str) or not (folder / part).is_dir() for part in parts):
            raise ValueError(f"cannot read {folder / SPLITS}: it names splits that are no folders beside it")
        found = datasets.concatenate_datasets([_load(folder / part) for part in parts])
    table = ArrowTable(found)
    table.parts = [f"{path}/{part}" for part in parts]
    return table


def _load(folder: Path) -> datasets.Dataset:
    for file in _state(folder).get("_data_files", ()):
        name = PurePosixPath(str(file.get("filename", "..")))
        if len(name.parts) != 1 or name.name == "..":
            raise ValueError(f"cannot read {folder / STATE}: it names the file {name}, which is not beside it")
    try:
        return datasets.Dataset.load_from_disk(str(folder)).with_format(None)
    except Exception as error:  # a damaged description raises whatever it happens to break
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read {folder}, which `datasets` saved: {text:.300}. Save it again") from error


def _state(folder: Path) -> dict[str, Any]:
    return _json(folder / STATE)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}. Save the dataset again") from error
    if not isinstance(found, dict):
        raise ValueError(f"cannot read {file}: it holds a {type(found).__name__}, not an object. Save the dataset again")
    return found

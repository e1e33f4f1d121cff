"""Raw rows by index, whatever holds them."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import pandas as pd

    from mmssl.data.beside import Beside

Row = dict[str, Any]


class Table(ABC):
    """Rows that can be read in any order, and cheaply handed to a worker process.

    columns: column names. label: the column that is known to hold the label, or None.
    index: those columns that a modality which reads whole rows leaves out unless they are named: they number the rows, say.
    parts: what the rows come from: files, or names such as `bundled:wine/train`; empty for rows in memory.
    notes: what a user should know of how they were read, a sentence each: told once, by whoever runs.
    beside: where files are that its cells name, if it was read from files.
    span: which span of time of its parts it holds, as in [train]; empty: all of them.
    units, windows: of rows that are windows of series, what the numbers of each are measured in, and how they were cut.
    """

    columns: list[str]
    index: Sequence[str] = ()
    label: str | None = None
    parts: Sequence[Path | str] = ()
    notes: Sequence[str] = ()
    beside: "Beside | None" = None
    span: str = ""
    units: Float[np.ndarray, " n"] | None = None
    windows: Mapping[str, Any] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows at `indices`, in that order."""

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """One cell of every row."""

    def pandas(self, name: str) -> "pd.Series":
        """A column as pandas has it."""
        import pandas as pd  # takes half a second, and few need it

        return pd.Series(self.column(name))

    def class_names(self, name: str) -> list[str] | None:
        """Names into which the integers of a column point, where the data carry them."""
        return None

    def select(self, names: Sequence[str]) -> "Table":
        """A table that need not read other columns."""
        return self


class ChangedTable(Table):
    """A table some of whose columns hold something else than they are stored as."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.columns, self.index, self.label = table.columns, table.index, table.label
        self.parts, self.notes, self.beside = table.parts, table.notes, table.beside
        self.span, self.units, self.windows = table.span, table.units, table.windows

    def __len__(self) -> int:
        return len(self._table)

    def class_names(self, name: str) -> list[str] | None:
        return self._table.class_names(name)


class RowTable(Table):
    """Rows that lie in memory."""

    def __init__(self, rows: Sequence[Row], label: str | None = None) -> None:
        self._rows = rows
        self.columns = list(rows[0]) if rows else []
        self.label = label
        for number, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise ValueError(f"rows must all have the same columns; row 0 has {list(rows[0])}, row {number} has {list(row)}")

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [self._rows[i] for i in indices]

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self._rows]


class MediaTable(Table):
    """One row per media file, read and decoded by whoever processes it.

    columns: what the files are called, a name for each modality that reads them. A cell is `{"path": ..., "bytes": None}`, which is
        how the `datasets` library stores an undecoded file.
    """

    def __init__(self, columns: Sequence[str], files: list[str], labels: Sequence[Any]) -> None:
        self._files = files
        self._labels = labels
        if any(label is not None for label in labels):
            self.label = "label"
        self._media = list(columns)
        self.columns = self._media if self.label is None else [*self._media, self.label]

    def __len__(self) -> int:
        return len(self._files)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [{name: self._labels[i] if name == self.label else self._cell(i) for name in self.columns} for i in indices]

    def column(self, name: str) -> list[Any]:
        return list(self._labels) if name == self.label else [self._cell(i) for i in range(len(self))]

    def _cell(self, index: int) -> dict[str, Any]:
        return {"path": self._files[index], "bytes": None}


def lacks_value(cell: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA and NaT."""
    pandas = sys.modules.get("pandas")  # before it is imported no cell can be its NA
    if pandas is not None and (cell is pandas.NA or cell is pandas.NaT):
        return True
    return cell is None or (isinstance(cell, float) and cell != cell)

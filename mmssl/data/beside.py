"""Files that the cells of a table name: they are looked for beside the table first, then in the working directory."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmssl.data.tables import ChangedTable, Row, Table


@dataclass(frozen=True)
class Beside:
    """The files that a table is read from, one after another; count: the number of rows of one, asked only if it matters.

    labels: the class of each file by its folder, where files are samples.
    """

    files: Sequence[Path]
    count: Callable[[Path], int]
    labels: Sequence[str | None] = ()

    @cached_property
    def _ends(self) -> Int[np.ndarray, " n"]:
        """The number of rows up to the end of each file."""
        return np.cumsum([self.count(file) for file in self.files])

    def owners(self, rows: Sequence[int]) -> list[int]:
        """Which of the files each row is of."""
        if len(self.files) == 1:
            return [0] * len(rows)
        found: list[int] = np.searchsorted(self._ends, np.asarray(rows, dtype=np.int64), side="right").tolist()
        return found

    @cached_property
    def _folders(self) -> list[str]:
        """The folder of each file."""
        return [str(file.parent) for file in self.files]

    def located(self, cells: list[Any], rows: Sequence[int]) -> list[Any]:
        """The cells of some rows, those that name a file beside the table with its path."""
        folders = list(dict.fromkeys(self._folders))
        if len(folders) == 1:
            return [located(cell, folders[0]) for cell in cells]
        if not any(located(cell, folder) is not cell for folder in folders for cell in cells):
            return cells  # or rows would be counted in vain
        return [located(cell, self._folders[owner]) for cell, owner in zip(cells, self.owners(rows), strict=True)]


class BesideTable(ChangedTable):
    """A table with the whole path, as `{"path": ..., "bytes": None}`, of each file beside it that a cell of some columns names.

    Other cells stay as they are: paths that are absolute, or relative to the working directory, and whatever is no path.
    """

    def __init__(self, table: Table, names: Sequence[str], beside: Beside) -> None:
        super().__init__(table)
        self._names, self._beside = names, beside
        self.beside = None  # nothing is left to be looked for

    def rows(self, indices: Sequence[int]) -> list[Row]:
        rows = self._table.rows(indices)
        for name in self._names:
            cells = self._beside.located([row[name] for row in rows], indices)
            rows = [{**row, name: cell} for row, cell in zip(rows, cells, strict=True)]
        return rows

    def column(self, name: str) -> list[Any]:
        cells = self._table.column(name)
        return self._beside.located(cells, range(len(cells))) if name in self._names else cells

    def select(self, names: Sequence[str]) -> Table:
        return beside_table(self._table.select(names), [name for name in self._names if name in names], self._beside)


def beside_table(table: Table, names: Sequence[str], beside: Beside | None) -> Table:
    """The table with the files located that cells of these columns name; as it is if it is of no files."""
    return BesideTable(table, names, beside) if names and beside is not None else table


def relative_path(cell: Any) -> str | None:
    """The relative path that a cell may be, as text or as the `datasets` library stores an undecoded file; None if it is none."""
    if isinstance(cell, dict) and cell.get("bytes") is None:
        cell = cell.get("path")
    return cell if isinstance(cell, str) and cell.strip() and not os.path.isabs(cell) else None  # noqa: PTH117 (fast)


def located(cell: Any, folder: str) -> Any:
    """A cell that names a file in `folder`, with the file's path; else the cell."""
    path = relative_path(cell)
    if path is None or folder == ".":
        return cell
    place = os.path.join(folder, path)  # noqa: PTH118 (thousands of times as fast, for each sample of each pass)
    if not os.path.isfile(place):  # noqa: PTH113 (and takes any text)
        return cell
    return {"bytes": None, **(cell if isinstance(cell, dict) else {}), "path": place}

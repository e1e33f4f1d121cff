"""Labels of a source: what kind they are, and how classes are numbered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from torch import Tensor

Kind = Literal["classification", "regression"]

FEW_CLASSES = 20
"""Up to so many distinct integers are class numbers, however few rows there are."""
ROWS_PER_CLASS = 10
"""More distinct integers than `FEW_CLASSES` are class numbers if each has so many rows on average."""

_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Labels:
    """One label per row of a source.

    names: class names in the order of their indices; empty for regression.
    values: int64 class indices, or float32 values for regression.
    """

    kind: Kind
    names: list[str]
    values: Shaped[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.values)

    def tensor(self) -> Shaped[Tensor, " n"]:
        """The values as a tensor that shares their memory."""
        return torch.from_numpy(self.values)

    @classmethod
    def read(
        cls,
        column: Sequence[Any],
        *,
        where: str,
        class_names: Sequence[str] | None = None,
        kind: Kind | None = None,
        like: "Labels | None" = None,
        row_of: Callable[[int], int] = int,
    ) -> "Labels":
        """Labels from the cells of a column.

        Strings and booleans are classes, floats are regressed, integers are classes when few of them are distinct; `kind` decides
        otherwise. Classes are numbered in sorted order, or in that of `class_names`, into which integer cells then point.

        where: names the column in messages. like: number the classes as in these labels (of the training split).
        row_of: turns a position in `column` into the row number that a user knows.
        Raises ValueError for a missing label, cells of several types, a kind that does not fit, fewer than two classes, or a class
        that `like` does not have; TypeError for cells that are no labels.
        """
        cells = _present(column, class_names, where, row_of)
        cell_type = _cell_type(cells, where)
        if like is not None:
            kind = like.kind
        elif kind is None:
            kind = _natural_kind(cells, cell_type)
        if kind == "regression":
            return cls(kind, [], _numbers(cells, cell_type, where, row_of))
        if like is not None:
            return cls(kind, like.names, _indices(cells, like.names, where))
        names = list(class_names) if class_names is not None else _class_names(cells, cell_type, where)
        labels = cls(kind, names, _indices(cells, names, where))
        labels._check_several(where)
        return labels

    def _check_several(self, where: str) -> None:
        present = np.unique(self.values)
        if len(present) < 2:
            only = ", ".join(repr(self.names[i]) for i in present)
            raise ValueError(f"{where}: classification needs at least two classes; every row is {only}")


def _present(column: Sequence[Any], class_names: Sequence[str] | None, where: str, row_of: Callable[[int], int]) -> list[Any]:
    """The cells as Python values, class numbers replaced by their names; ValueError if one is missing."""
    cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in column]
    missing = [position for position, cell in enumerate(cells) if is_missing(cell) or (class_names is not None and cell == -1)]
    if missing:
        raise ValueError(
            f"row {row_of(missing[0])} of {where}: the label is missing; every row needs one, and {len(missing):,} of "
            f"{len(cells):,} have none. Drop such rows; or use all rows without labels, by an objective that learns none, and "
            "score on other data (evaluate.path) or not at all (evaluate=null)"
        )
    if class_names is None:
        return cells
    return [cell if isinstance(cell, str) else class_names[cell] for cell in cells]


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no label: None, NaN, pandas' NA and NaT, or blank text."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)


def _cell_type(cells: list[Any], where: str) -> type:
    types = {type(cell) for cell in cells}
    if types == {int, float}:
        return float
    names = ", ".join(sorted(t.__name__ for t in types))
    if not types <= {str, bool, int, float}:
        raise TypeError(f"{where}: labels are strings, booleans or numbers; got {names}")
    if len(types) != 1:
        raise ValueError(f"{where}: labels must all be of one type; got {names}")
    return types.pop()


def _few(cells: list[Any]) -> bool:
    distinct = len(set(cells))
    return distinct <= FEW_CLASSES or distinct * ROWS_PER_CLASS <= len(cells)


def _natural_kind(cells: list[Any], cell_type: type) -> Kind:
    numeric = cell_type is float or (cell_type is int and not _few(cells))
    return "regression" if numeric else "classification"


def _numbers(cells: list[Any], cell_type: type, where: str, row_of: Callable[[int], int]) -> Shaped[np.ndarray, " n"]:
    if cell_type not in (int, float):
        raise ValueError(f"{where}: regression needs numbers; got {cell_type.__name__}, such as {cells[0]!r}. Use classification")
    values = np.asarray(cells, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"row {row_of(int(bad[0]))} of {where}: a label must be a finite float32 number; got {cells[bad[0]]}")
    return values


def _name(cell: Any) -> str:
    """The name of a class; 1 and 1.0 are the same class, as one file of a dataset may store either."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _class_names(cells: list[Any], cell_type: type, where: str) -> list[str]:
    if cell_type is float and not _few(cells):
        raise ValueError(f"{where}: {len(set(cells))} distinct numbers in {len(cells)} rows are no classes. Use regression")
    return [_name(cell) for cell in sorted(set(cells))]


def _indices(cells: list[Any], names: Sequence[str], where: str) -> Shaped[np.ndarray, " n"]:
    index = {name: i for i, name in enumerate(names)}
    named = [_name(cell) for cell in cells]
    unseen = sorted(set(named) - index.keys())
    if unseen:
        more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
        raise ValueError(
            f"{where}: classes that the training labels do not have: {', '.join(map(repr, unseen[:_SHOWN]))}{more}; "
            f"known: {', '.join(map(repr, names[:_SHOWN]))}{', ...' if len(names) > _SHOWN else ''}"
        )
    return np.asarray([index[name] for name in named], dtype=np.int64)

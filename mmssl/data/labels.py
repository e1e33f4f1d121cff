"""Labels of a source: what kind they are, and how classes are numbered."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.data.dense import DENSE, are_maps, dense_told, read_dense, read_stretches, stretches_told
from mmssl.data.label_lists import are_lists, as_list, rarest, read_lists, told
from mmssl.data.label_values import are_values, read_values, values_told, wrong
from mmssl.data.segments import are_segments
from mmssl.data.tables import lacks_value
from mmssl.modality import StepTimes

Kind = Literal["classification", "regression", "multi_label", "dense"]

FEW_CLASSES = 20
"""Up to so many distinct whole numbers are class numbers, however few rows there are."""
ROWS_PER_CLASS = 10
"""More distinct whole numbers than `FEW_CLASSES` are class numbers if each has so many rows on average."""
UNLABELLED = -1
"""What data sets write for rows without a label, beside the classes 0, 1, 2, ..."""

_SHOWN = 8
_KEYS = "objective.kind or evaluate.kind (`kind` in Python)"


@dataclass(frozen=True, eq=False)
class Labels:
    """One label per row of a source, or for multi_label any number of them.

    names: class names in the order of their indices; empty for regression.
    values: int64 class indices, or float32 values for regression, `[n, k]` where rows hold lists of numbers; for multi_label
        float32 `[n, k]`, 1 for each that a row has; for dense int64 `[n, k]`, how many places of a row have each class: the labels
        of places are read with their sample (`mmssl.data.dense`).
    reason: what they are taken for and why, in words.
    column: name of the column that held them, where one did.
    shape: of the list of numbers, or lists of lists, that each row holds, `k` numbers in all; None: a row holds one label.
    segments: of dense, whether rows hold segments of time, with a start and an end; background: the class of steps outside of them.
    units, windows: of rows that are windows of series, what the numbers of each are measured in, and how windows were cut.
    """

    kind: Kind
    names: list[str]
    values: Shaped[np.ndarray, " n *k"]
    reason: str = ""
    column: str | None = None
    shape: tuple[int, ...] | None = None
    units: Float[np.ndarray, " n"] | None = None
    windows: Mapping[str, Any] | None = None
    segments: bool = False
    background: str | None = None

    def __len__(self) -> int:
        return len(self.values)

    def tensor(self) -> Shaped[Tensor, " n *k"]:
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
        background: str | None = None,
        times: Sequence[StepTimes | None] | None = None,
    ) -> "Labels":
        """Labels from the cells of a column.

        Lists of decimals, and lists of lists, are numbers to regress, equally many in each row; other lists are several labels a
        row, unless `kind` says regression.

        Strings and booleans are classes; whole numbers, stored as decimals or not, are classes when few of them are distinct; other
        numbers are regressed; `kind` decides otherwise. Classes are numbered in sorted order, or in that of `class_names`, into
        which integer cells then point.

        where: names the column in messages. like: number the classes as in these labels (of the training split).
        row_of: turns a position in `column` into the row number that a user knows.
        background, times: of a column of segments, as of `mmssl.data.dense.read_stretches`.
        Raises ValueError for a missing label, -1 where it seems to stand for one, cells of several types, a kind that does not fit,
        fewer than two classes, or a class that `like` does not have; TypeError for cells that are no labels.
        """
        place = _Place(where, row_of)
        dense = (kind if like is None else like.kind) == DENSE
        if like.segments if like is not None and dense else are_segments(column):
            if not dense:
                raise ValueError(
                    f"{where} holds segments of time (start, end, label): steps are labelled by them. Say objective.kind=dense "
                    "(evaluate.kind=dense, kind='dense' in Python), or name another label column"
                )
            known = None if like is None else like.names
            names, counts = read_stretches(column, place.row, where, known, background, times)
            reason = stretches_told(names, column, background)
            return cls("dense", names, counts, reason, segments=True, background=background)
        if dense:
            names, counts = read_dense(column, place.row, where, class_names, None if like is None else like.names)
            return cls("dense", names, counts, dense_told(names, counts))
        if like is None and are_lists(column) and (kind == "regression" or (kind is None and are_values(column))):
            shape, numbers = read_values(column, place.row, where)
            return cls("regression", [], numbers, values_told(shape, numbers), shape=shape)
        if like is not None and like.shape is not None:
            return cls("regression", [], read_values(column, place.row, where, like.shape)[1], like.reason, shape=like.shape)
        if (kind if like is None else like.kind) == "multi_label" or (kind is None and like is None and are_lists(column)):
            names, values = read_lists(column, place.row, where, class_names, None if like is None else like.names)
            return cls("multi_label", names, values, told(names, values) if like is None else like.reason)
        cells = _named(_present(column, class_names, place), class_names, place)
        cell_type = _cell_type(cells, place)
        chosen = kind
        kind = like.kind if like is not None else chosen or _natural_kind(cells, cell_type)
        if kind == "regression":
            values = _numbers(cells, cell_type, place)
            return cls(kind, [], values, _values_told(cells, chosen) if like is None else like.reason)
        if like is not None:
            return cls(kind, like.names, _indices(cells, like.names, where), like.reason)
        if chosen is None:
            _check_unlabelled(cells, place)
        names = list(class_names) if class_names is not None else _class_names(cells, cell_type, where)
        reason = _classes_told(names, cell_type, chosen, given=class_names is not None)
        labels = cls(kind, names, _indices(cells, names, where), reason)
        labels._check_several(where)
        return labels

    def _check_several(self, where: str) -> None:
        present = np.unique(self.values)
        if len(present) < 2:
            only = ", ".join(repr(self.names[i]) for i in present)
            raise ValueError(f"{where}: classification needs at least two classes; every row is {only}")


def missing(column: Sequence[Any], class_names: Sequence[str] | None = None) -> Bool[np.ndarray, " n"]:
    """Which cells of a column hold no label: nothing, blank text, or -1 where it points into `class_names`.

    An empty list is the answer of a row that has none of several labels.
    """
    cells = [_plain(cell) for cell in column]
    return np.array([is_missing(cell) or (class_names is not None and lacks_number(cell)) for cell in cells], dtype=bool)


def natural_classes(
    column: Sequence[Any], *, where: str, class_names: Sequence[str] | None = None, row_of: Callable[[int], int] = int
) -> Int[np.ndarray, " n"] | None:
    """Classes by which a column's rows may be grouped, whatever kind a user says, -1 one of them; None for numbers.

    Of several labels a row, the rarest one; None for label maps as well.
    """
    place = _Place(where, row_of)
    if are_maps(column) or are_segments(column):
        return None
    if are_lists(column):
        if are_values(column) or (class_names is None and _many_numbers(column)):
            return None
        try:
            return rarest(read_lists(column, place.row, where, class_names)[1])
        except ValueError:  # no lists of labels, but perhaps labels of places: whoever reads them says what is wrong
            return None
    cells = _named(_present(column, class_names, place), class_names, place)
    if _natural_kind(cells, cell_type := _cell_type(cells, place)) == "regression":
        return None
    names = list(class_names) if class_names is not None else _class_names(cells, cell_type, where)
    return _indices(cells, names, where)


class _Place(NamedTuple):
    """Which column cells are of, and what their rows are called, for messages."""

    where: str
    row_of: Callable[[int], int]

    def row(self, position: int) -> str:
        return f"row {self.row_of(position)} of {self.where}"


def _present(column: Sequence[Any], class_names: Sequence[str] | None, place: _Place) -> list[Any]:
    """The cells as Python values. TypeError for one that is no label, ValueError if one is missing."""
    cells = [_plain(cell) for cell in column]
    for position, cell in enumerate(cells):
        if not is_missing(cell) and not isinstance(cell, str | bool | int | float):
            raise TypeError(f"{place.row(position)}: labels are strings, booleans or numbers; got {_told(cell)}. {_way_out(cell)}")
    without = np.flatnonzero(missing(cells, class_names))
    if len(without):
        raise ValueError(
            f"{place.row(int(without[0]))}: the label is missing; every row needs one, and {len(without):,} of "
            f"{len(cells):,} have none. {_WITHOUT}"
        )
    return cells


_WITHOUT = (
    "Drop such rows; or leave their labels empty, and train by an objective that learns none, as masked does: then they train, and "
    "are left out of scores"
)


def _plain(cell: Any) -> Any:
    """A cell as a Python value; decimals of a database as numbers."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, Decimal):
        if cell.is_nan():
            return math.nan
        return int(cell) if cell.is_finite() and cell == cell.to_integral_value() else float(cell)
    return cell


def _told(cell: Any) -> str:
    text = " ".join(repr(cell).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(cell).__name__})"


def _way_out(cell: Any) -> str:
    if isinstance(cell, Mapping):
        return "Make a column of the value that is the label, or name another label column"
    if isinstance(cell, bytes | bytearray | memoryview):
        return "Decode it to text, or name another label column"
    if isinstance(cell, date):
        return "Make a number or text of it, or name another label column"
    return "A row has one label where kind is not multi_label: leave the kind out, make a column of one value, or name another"


def _named(cells: list[Any], class_names: Sequence[str] | None, place: _Place) -> list[Any]:
    """The cells, class numbers replaced by their names."""
    if class_names is None:
        return cells
    for position, cell in enumerate(cells):
        if not isinstance(cell, str) and not (isinstance(cell, int) and 0 <= cell < len(class_names)):
            raise ValueError(
                f"{place.row(position)}: the data name {len(class_names)} classes, numbered from 0; got {_told(cell)}. Correct it"
            )
    return [cell if isinstance(cell, str) else class_names[cell] for cell in cells]


def _cell_type(cells: list[Any], place: _Place) -> type:
    if not cells:
        raise ValueError(f"{place.where} has no rows, and so no labels")
    types = {type(cell) for cell in cells}
    if types == {int, float}:
        return float
    if len(types) != 1:
        first = cells[0]
        alike = (int, float) if type(first) in (int, float) else (type(first),)
        other = next(position for position, cell in enumerate(cells) if type(cell) not in alike)
        raise ValueError(
            f"rows {place.row_of(0)} and {place.row_of(other)} of {place.where}: labels must all be of one type; got "
            f"{_told(first)} and {_told(cells[other])}. Write them alike: all as text, or all as numbers"
        )
    return types.pop()


def _few(cells: list[Any]) -> bool:
    distinct = len(set(cells))
    return distinct <= FEW_CLASSES or distinct * ROWS_PER_CLASS <= len(cells)


def _many_numbers(cells: Sequence[Any]) -> bool:
    """Whether lists hold equally many numbers, or texts that are numbers, too many distinct ones to be labels."""
    lists = [as_list(cell) or [] for cell in cells]
    items = [item for held in lists for item in held]
    return len({len(held) for held in lists}) == 1 and not _few(items) and not any(map(wrong, items))


def _is_whole(cells: list[Any]) -> bool:
    return all(isinstance(cell, int) or cell.is_integer() for cell in set(cells))


def _natural_kind(cells: list[Any], cell_type: type) -> Kind:
    numeric = cell_type in (int, float) and not (_few(cells) and _is_whole(cells))
    return "regression" if numeric else "classification"


def _check_unlabelled(cells: list[Any], place: _Place) -> None:
    """ValueError where -1 stands beside the classes 0, 1, 2, ...: it mostly says that a row has no label.

    {-1, 1} and {-1, 0, 1} are classes, as are those below 0.
    """
    distinct = set(cells)
    if UNLABELLED not in distinct or min(distinct) < UNLABELLED or max(distinct) < 2:
        return
    marked = [position for position, cell in enumerate(cells) if cell == UNLABELLED]
    raise ValueError(
        f"{place.row(marked[0])}: the label -1 beside the classes {_numbers_told(distinct - {UNLABELLED})} mostly says that a row "
        f"has no label; {len(marked):,} of {len(cells):,} rows have it. {_WITHOUT}. If -1 is a class like the others, say so with "
        f"{_KEYS}: classification; if it is a number, regression"
    )


def _numbers_told(numbers: Iterable[Any]) -> str:
    listed = [_name(number) for number in sorted(numbers)]
    return ", ".join(listed if len(listed) <= _SHOWN else [*listed[: _SHOWN - 1], "...", listed[-1]])


def _classes_told(names: Sequence[str], cell_type: type, chosen: Kind | None, *, given: bool) -> str:
    shown = ", ".join(names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "...", names[-1]])
    why = {str: "as it holds text", bool: "as it holds true and false", int: "as it has few distinct whole numbers"}.get(
        cell_type, "as it has few distinct whole numbers, stored as decimals"
    )
    if given:
        why = "which the data name"
    if chosen:
        why = "as the key kind says"
    minus = f"; {UNLABELLED} is taken for a class" if cell_type in (int, float) and str(UNLABELLED) in names else ""
    return f"{len(names):,} classes ({shown}), {why}{minus}"


def _values_told(cells: list[Any], chosen: Kind | None) -> str:
    distinct = set(cells)
    why = "as the key kind says" if chosen else "many distinct whole numbers" if _is_whole(cells) else "with decimals"
    return f"{len(distinct):,} values between {min(distinct):g} and {max(distinct):g}, {why}: regression"


def _numbers(cells: list[Any], cell_type: type, place: _Place) -> Shaped[np.ndarray, " n"]:
    if cell_type not in (int, float):
        raise ValueError(
            f"{place.where}: regression needs numbers; got {cell_type.__name__}, such as {cells[0]!r}. Use classification"
        )
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(cells, dtype=np.float64).astype(np.float32)
    except OverflowError:  # an integer beyond float64
        values = np.asarray([_as_float(cell) for cell in cells], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{place.row(int(bad[0]))}: a label must be a finite float32 number; got {_told(cells[bad[0]])}")
    return values


def _as_float(cell: float) -> float:
    try:
        return float(cell)
    except OverflowError:
        return math.inf


def _name(cell: Any) -> str:
    """The name of a class; 1 and 1.0 are the same class, as one file of a dataset may store either."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _class_names(cells: list[Any], cell_type: type, where: str) -> list[str]:
    if cell_type is float and not _few(cells):
        raise ValueError(
            f"{where}: {len(set(cells))} distinct numbers in {len(cells)} rows are no classes. Use regression: leave {_KEYS} out"
        )
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


def lacks_number(cell: Any) -> bool:
    """Whether a cell holds the number that stands for no class where the data name their classes."""
    return isinstance(cell, int) and cell == UNLABELLED


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no label: nothing, or blank text."""
    return not cell.strip() if isinstance(cell, str) else lacks_value(cell)

"""Several labels of one row: lists of them, columns of 0 and 1 that make such lists, and texts that a sign parts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmssl.data.tables import ChangedTable, Row, Table, lacks_value

SHOWN = 5
"""Names that a message lists."""
YES_OR_NO = (0, 1, False, True)


def as_list(cell: Any) -> list[Any] | None:
    """A cell that holds several values, as a list; None: it holds one, or is missing."""
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    return list(cell) if isinstance(cell, list | tuple) else None


def are_lists(cells: Sequence[Any]) -> bool:
    """Whether a column holds lists, by its first cell that is not missing."""
    return as_list(next((cell for cell in cells if cell is not None), None)) is not None


def read_lists(
    column: Sequence[Any],
    row: Callable[[int], str],
    where: str,
    class_names: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> tuple[list[str], Float[np.ndarray, "n k"]]:
    """The names of all labels of a column of lists, sorted or as `class_names` has them, and 1 for each that a row holds.

    row: names the row at a position in messages. where: names the column. known: the labels that there are, as of training data.
    ValueError for a cell that is missing or no list, a label that is no text or whole number, one that `known` has not, and where
    all rows hold the same.
    """
    lists = [named(_list(cell, row(position)), class_names, row(position)) for position, cell in enumerate(column)]
    kinds = {type(item) for held in lists for item in held}
    if len(kinds) > 1:
        raise ValueError(f"{where}: labels must all be of one type; got {', '.join(sorted(kind.__name__ for kind in kinds))}")
    names = [str(name) for name in class_names or sorted({item for held in lists for item in held})]
    if known is not None:
        unseen = sorted({str(item) for held in lists for item in held} - set(known))
        if unseen:
            raise ValueError(
                f"{where}: labels that the training rows do not have: {', '.join(unseen[:SHOWN])}; they have "
                f"{', '.join(known[:SHOWN])}"
            )
        names = list(known)
    place = {name: number for number, name in enumerate(names)}
    values = np.zeros((len(lists), len(names)), dtype=np.float32)
    for position, held in enumerate(lists):
        values[position, [place[str(item)] for item in held]] = 1
    if known is None and (values == values[:1]).all():
        raise ValueError(
            f"{where}: every row has the same labels, {', '.join(map(str, lists[0])) or 'none'}: nothing can be learned"
        )
    return names, values


def _list(cell: Any, place: str) -> list[Any]:
    found = as_list(cell)
    if found is None:
        what = "the labels are missing" if lacks_value(cell) else f"{cell!r} is no list of labels"
        raise ValueError(
            f"{place}: {what}; where rows have several "
            "labels, each needs a list of them, an empty one if none applies. Of texts such as 'red;round' say what parts them: "
            "data.lists={COLUMN: ';'}"
        )
    return found


def named(items: list[Any], class_names: Sequence[str] | None, place: str) -> list[Any]:
    """The labels of one row, numbers replaced by the names that the data have for them."""
    for item in items:
        if not isinstance(item, str | int) or (isinstance(item, str) and not item.strip()):
            raise ValueError(f"{place}: labels of a list are texts or whole numbers; got {item!r}")
        if class_names is not None and isinstance(item, int) and not 0 <= item < len(class_names):
            raise ValueError(f"{place}: the data name {len(class_names)} classes, numbered from 0; got {item}")
    return [class_names[item] if class_names is not None and isinstance(item, int) else item for item in items]


def told(names: Sequence[str], values: Float[np.ndarray, "n k"]) -> str:
    """What the labels are taken for, and why."""
    shown = ", ".join(names if len(names) <= SHOWN else [*names[:SHOWN], "..."])
    none = int((values.sum(1) == 0).sum())
    without = f"; {none:,} rows have none" if none else ""
    return f"{len(names):,} labels ({shown}), any number of them a row, as it holds lists{without}"


def rarest(values: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """Of each row the label that the fewest rows hold, -1 for a row without any: by these a few rows can be held out fairly."""
    counts = np.where(values > 0, values.sum(0), np.inf)
    return np.where(values.any(1), counts.argmin(1), -1)


class PartedTable(ChangedTable):
    """A table with lists in the place of texts that a sign parts. signs: by column; the blanks around a value are left out."""

    def __init__(self, table: Table, signs: Mapping[str, str]) -> None:
        super().__init__(table)
        if unknown := [name for name in signs if name not in table.columns]:
            raise LookupError(f"data.lists names {unknown[0]!r}, which is no column; there are {', '.join(table.columns)}")
        self._signs = signs

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [row | {name: parted(row[name], sign) for name, sign in self._signs.items()} for row in self._table.rows(indices)]

    def column(self, name: str) -> list[Any]:
        cells = self._table.column(name)
        return [parted(cell, self._signs[name]) for cell in cells] if name in self._signs else cells

    def select(self, names: Sequence[str]) -> Table:
        return parted_table(self._table.select(names), {name: sign for name, sign in self._signs.items() if name in names})


def parted_table(table: Table, signs: Mapping[str, str]) -> Table:
    """The table with lists in these columns; as it is if there are none."""
    return PartedTable(table, signs) if signs else table


def parted(cell: Any, sign: str) -> list[Any]:
    """The values in a text, none in an empty cell; a number, or a list, holds what it holds."""
    if isinstance(cell, str):
        return [part.strip() for part in cell.split(sign) if part.strip()]
    found = as_list(cell)
    if found is not None:
        return found
    return [] if lacks_value(cell) else [cell]


class TogetherTable(ChangedTable):
    """A table with one more column, of lists: the names of those of some columns that hold 1 in a row, where others hold 0.

    A modality that reads whole rows leaves these columns out.
    """

    def __init__(self, table: Table, name: str, names: Sequence[str]) -> None:
        super().__init__(table)
        self.name, self.names = name, list(names)
        self.columns = [*table.columns, name]
        self.index = [*table.index, *(one for one in names if one not in table.index)]

    def rows(self, indices: Sequence[int]) -> list[Row]:
        found = self._table.rows(indices)
        return [row | {self.name: self._held(number, row)} for number, row in zip(indices, found, strict=True)]

    def column(self, name: str) -> list[Any]:
        if name != self.name:
            return self._table.column(name)
        columns = [self._table.column(one) for one in self.names]
        rows = (dict(zip(self.names, cells, strict=True)) for cells in zip(*columns, strict=True))
        return [self._held(number, row) for number, row in enumerate(rows)]

    def class_names(self, name: str) -> list[str] | None:
        return self.names if name == self.name else self._table.class_names(name)

    def select(self, names: Sequence[str]) -> Table:
        if self.name not in names:
            return self._table.select(names)
        return TogetherTable(self._table.select([*(one for one in names if one != self.name), *self.names]), self.name, self.names)

    def _held(self, number: int, row: Row) -> list[str]:
        for name in self.names:
            if row[name] not in YES_OR_NO:
                raise ValueError(
                    f"row {number}, column {name}: several label columns hold 1 where the label applies and 0 where not; "
                    f"got {row[name]!r}. For one label a row name one column"
                )
        return [name for name in self.names if row[name]]

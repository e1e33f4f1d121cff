"""Numbers and other values that stand for names: they are read as these."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mmssl.data.labels import UNLABELLED
from mmssl.data.tables import ChangedTable, Row, Table

Called = Mapping[str, Mapping[str, str]]
"""By column, what its values are called, which are written as text: {"label": {"0": "zero"}}."""


class NamedTable(ChangedTable):
    """A table with names in the place of values that stand for them. names: for each such column, the name of a cell."""

    def __init__(self, table: Table, names: Mapping[str, Callable[[Any], Any]]) -> None:
        super().__init__(table)
        self._names = names

    def class_names(self, name: str) -> list[str] | None:
        return None  # the cells are the names

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [row | {name: find(row[name]) for name, find in self._names.items()} for row in self._table.rows(indices)]

    def column(self, name: str) -> list[Any]:
        cells = self._table.column(name)
        return [self._names[name](cell) for cell in cells] if name in self._names else cells


def named_table(table: Table, columns: Sequence[str], called: Called) -> Table:
    """The table with the names of classes in these columns, where the data have such or `called` says them; else as it is."""
    classes = {name: table.class_names(name) for name in columns}
    names = {
        name: partial(named, known, called.get(name, {})) for name, known in classes.items() if known is not None or name in called
    }
    return NamedTable(table, names) if names else table


def named(classes: Sequence[str] | None, called: Mapping[str, str], cell: Any) -> Any:
    """The name of a cell; None for -1 where the data name classes, as it says that there is none. Other cells stay as they are.

    ValueError for a number that is none of the classes.
    """
    if classes is not None and isinstance(cell, int):
        if cell == UNLABELLED:
            return None
        if not 0 <= cell < len(classes):
            raise ValueError(f"the data name {len(classes)} classes, numbered from 0; got {cell}. Correct it")
        cell = classes[cell]
    return called.get(str(cell), cell) if isinstance(cell, str | int) else cell

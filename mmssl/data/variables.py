"""The variables of series, each by itself on an even grid of time: what is forecast."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mmssl.data.calendar import Grid, grid_of, laid_out
from mmssl.data.series import NAMES, SeriesTable
from mmssl.data.tables import Table

if TYPE_CHECKING:
    from mmssl.data.forecast import ForecastOptions

SHOWN = 5
"""Series that a message names."""
SCALAR = (str, bool, int, float, date)
ROW, VARIABLE, TIME = "row", "variable", "time"
"""Columns: the number of a row that holds a series; which of its variables; the time."""


@dataclass(frozen=True)
class Variables:
    """Each variable of each series, one series after the other.

    values: float64 in order of time, NaN where one is missing. names: which variable it is. titles: of its series, in messages.
    grids: when it was measured; None: that is not known.
    ids: by column what says which series it is. name: of the column of the series. several: whether a series has several variables.
    """

    values: list[Float[np.ndarray, " _"]]
    names: list[str]
    titles: list[str]
    grids: list[Grid | None]
    ids: dict[str, list[Any]]
    name: str
    several: bool

    @property
    def taken(self) -> set[str]:
        """Names of columns that the data have."""
        return {self.name, *self.ids}

    @property
    def variable_column(self) -> str | None:
        """The column that tells variables apart, if there are several."""
        return free_name(VARIABLE, self.taken) if self.several else None

    @property
    def time_column(self) -> str | None:
        """The column of times, where those of all series are known."""
        return free_name(TIME, self.taken) if all(grid is not None for grid in self.grids) else None

    def units(self, options: "ForecastOptions") -> Float[np.ndarray, " v"]:
        """The standard deviation of each over the training part of its series; 1 where it does not change there."""
        found = np.ones(len(self.values))
        for number, values in enumerate(self.values):
            train = values[: options.ends(len(values))[0]]
            train = train[~np.isnan(train)]
            if len(train) > 1 and (deviation := float(train.std())) > 0:
                found[number] = deviation
        return found


def free_name(name: str, taken: set[str]) -> str:
    """The name, or one like it that no column has."""
    return name if name not in taken else free_name(f"{name}_", taken)


def listed(titles: Sequence[str]) -> str:
    """Some names in a message."""
    more = f" and {len(titles) - SHOWN:,} more" if len(titles) > SHOWN else ""
    return f"{', '.join(titles[:SHOWN])}{more}"


def variables_of(table: Table, where: str, column: str | None) -> Variables:
    """The variables of all series of a table. column: of the series, where cells hold them; None: it has a usual name."""
    return _of_series(table) if isinstance(table, SeriesTable) else _of_cells(table, where, column)


def _of_series(table: SeriesTable) -> Variables:
    """Of series that rows make; ValueError for one whose times are uneven."""
    curves, found = table.curves, Variables([], [], [], [], {}, table.name, False)
    ids: dict[str, list[Any]] = {name: table.column(name) for name in table.ids}
    if curves.wide:
        ids = {free_name(ROW, {*table.columns}): list(range(len(table))), **_scalars(table, table.name)}
    elif list(ids) == ["file"] and len(table) == 1:
        ids = {}
    names = ("",) if curves.wide else curves.names
    ids = {name: [cell for cell in cells for _ in names] for name, cells in ids.items()}
    for number in range(len(table)):
        span = table.place(number)
        values = curves.values[span].T if curves.wide else curves.values[span]
        grid = None
        if curves.times is not None:
            gridded = grid_of(curves.times[span], curves.step, curves.origin)
            if gridded is None:
                raise ValueError(_uneven(table, number))
            grid, places = gridded
            values = laid_out(values, places)
        found.values.extend(np.ascontiguousarray(values.T))
        found.names.extend(names)
        found.titles.extend([table.titles[number]] * len(names))
        found.grids.extend([grid] * len(names))
    return Variables(found.values, found.names, found.titles, found.grids, ids, table.name, len(names) > 1)


def _uneven(table: SeriesTable, number: int) -> str:
    return (
        f"{table.where}, data.forecast: the times of the series {table.titles[number]} are uneven, so that its next steps have no "
        "times. Resample it (pandas: frame.set_index(time).resample('1h').mean()), or leave data.series.time out if rows are steps"
    )


def _of_cells(table: Table, where: str, column: str | None) -> Variables:
    """Of cells that hold a series each: numbers, or a list of numbers for each variable."""
    name = column or next((each for each in NAMES if each in table.columns), None)
    if name is None or name not in table.columns:
        raise LookupError(
            f"{where} has no column of series for data.forecast; it has {', '.join(table.columns)}. Where rows are steps say how "
            "they make series, as in data.series={by: id, time: date, values: [x]}; where a cell holds a series name its column"
        )
    values, names, titles, ids, counts = [], list[str](), list[str](), list[int](), set[int]()
    for row, cell in enumerate(table.column(name)):
        channels = _channels(cell, f"row {row} of {where}, column {name}")
        counts.add(len(channels))
        values += list(channels)
        names += [str(number) for number in range(len(channels))]
        titles += [f"row {row}"] * len(channels)
        ids += [row] * len(channels)
    others = {other: [cells[row] for row in ids] for other, cells in _scalars(table, name).items()}
    known = {free_name(ROW, {*table.columns}): ids, **others}
    return Variables(values, names, titles, [None] * len(values), known, name, max(counts, default=1) > 1)


def _scalars(table: Table, series: str) -> dict[str, list[Any]]:
    """The other columns of a table whose rows are series, which may say what they are; of single values alone."""
    columns = {name: table.column(name) for name in table.columns if name != series}
    return {name: cells for name, cells in columns.items() if all(cell is None or isinstance(cell, SCALAR) for cell in cells)}


def _channels(cell: Any, place: str) -> Float[np.ndarray, "c t"]:
    """The variables of a cell, each a row."""
    if isinstance(cell, dict) and "values" in cell and "times" not in cell:
        cell = cell["values"]
    if (pandas := sys.modules.get("pandas")) is not None and isinstance(cell, pandas.DataFrame | pandas.Series):
        cell = cell.to_numpy().T
    try:
        found = np.atleast_2d(np.asarray(cell, dtype=np.float64))
    except (TypeError, ValueError):
        found = np.empty((0, 0, 0))
    if found.ndim != 2 or not found.size:
        raise ValueError(
            f"{place}: data.forecast reads numbers, a list of them for each variable; got {cell!r:.60}. Times of steps come from "
            "tables of rows (data.series)"
        )
    return found

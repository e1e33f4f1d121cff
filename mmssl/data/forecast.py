"""Windows of series, to learn what follows: each row is some steps that are seen, and those that come after them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from mmssl.data.tables import Row, Table
from mmssl.data.variables import Variables, free_name, listed, variables_of

Steps = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
FUTURE = "future"
"""The column of what follows: the label."""
TRAIN, VALIDATION, TEST, NEXT = "train", "validation", "test", "next"
PARTS = (TRAIN, VALIDATION, TEST, NEXT)
"""Parts by time of every series, and what comes after its end, which nobody knows yet."""


@dataclass(frozen=True, kw_only=True)
class ForecastOptions:
    """How windows are cut of series: so many steps are seen, and those that follow are the label.

    The parts `train`, `validation` and `test` of the data are parts of every series, in this order of time: what a window of one
    part forecasts lies in it. A window of `test` may see steps of the parts before.

    horizon: steps that follow, which are forecast.
    context: steps before them that are seen.
    stride: steps from one window to the next.
    test: the last part of each series, a share or a number of steps.
    validation: the part before that, which is neither trained on nor scored; a share or a number of steps.
    steps: of each series only so many, the first ones; null: all.
    period: steps of a season, whose last one repeated is a baseline, as 24 of hours; null: there is no such baseline.
    """

    horizon: Steps
    context: Steps
    stride: Steps = 1
    test: Annotated[int, Field(ge=0)] | Share = 0.2
    validation: Annotated[int, Field(ge=0)] | Share = 0
    steps: Steps | None = None
    period: Steps | None = None

    def __post_init__(self) -> None:
        if self.period is not None and self.period > self.context:
            raise ValueError(
                f"data.forecast.period={self.period}: a season must be seen to be repeated, and context is {self.context}. Raise "
                "context, or leave period out"
            )

    @property
    def window(self) -> int:
        """Steps of a whole window."""
        return self.context + self.horizon

    def ends(self, length: int) -> tuple[int, int, int]:
        """Of a series of so many steps, where its parts train, validation and test end."""
        end = length if self.steps is None else min(length, self.steps)
        test, validation = (part if isinstance(part, int) else round(part * end) for part in (self.test, self.validation))
        first = max(0, end - test)
        return max(0, first - validation), first, end

    def starts(self, length: int, part: str | None) -> range:
        """Where the forecasts of a part of a series begin; `None`: of all of it."""
        train, validation, end = self.ends(length)
        if part == NEXT:
            return range(end, end + 1) if end >= self.context else range(0)
        spans = {None: (0, end), TRAIN: (0, train), VALIDATION: (train, validation), TEST: (validation, end)}
        begin, stop = spans[part]
        return range(max(self.context, begin), stop - self.horizon + 1, self.stride)


class WindowTable(Table):
    """A row for each window of each variable of each series.

    Its columns: the context `[context]`, ids of the series, the variable where there are several, the time of the first step that
    is forecast where times are known, and `future` `[horizon]`, the label.

    units: the standard deviation of a row's variable over the training part of its series; 1 where it does not change there.
    left_out: series that are too short for a window.
    windows: the options, and how the series were made, as JSON values.
    """

    units: Float[np.ndarray, " n"]

    def __init__(
        self, variables: Variables, options: ForecastOptions, part: str | None, table: Table, windows: Mapping[str, Any], where: str
    ) -> None:
        self.variables, self.options, self.part, self.windows = variables, options, part, dict(windows)
        found = [window_starts(values, options, part) for values in variables.values]
        counts, gaps = [len(starts) for starts, _ in found], [count for _, count in found]
        self.owner = np.repeat(np.arange(len(counts)), counts)
        self.start = np.concatenate([starts for starts, _ in found])
        _check_any(variables, options, part, where, counts, gaps)
        self.fixed: dict[str, list[Any]] = dict(variables.ids)
        if variables.variable_column is not None:
            self.fixed[variables.variable_column] = list(variables.names)
        others = [*self.fixed, *([] if variables.time_column is None else [variables.time_column])]
        self.future = free_name(FUTURE, {variables.name, *others})
        self.columns = [variables.name, *others, *([] if part == NEXT else [self.future])]
        self.label = None if part == NEXT else self.future
        self.index = others
        self.parts, self.beside = table.parts, None
        self.span = "" if part is None else f"[{part}]"
        self.units = variables.units(options)[self.owner].astype(np.float32)
        none = [number for number, count in enumerate(counts) if not count and not gaps[number]]
        self.left_out = list(dict.fromkeys(variables.titles[number] for number in none))
        self.notes = [*table.notes, *_told(self, gaps, where)]

    def __len__(self) -> int:
        return len(self.start)

    def context(self, row: int) -> Float[np.ndarray, " t"]:
        """What is seen in a window, NaN where a value is missing."""
        start = int(self.start[row])
        return self.variables.values[self.owner[row]][start - self.options.context : start]

    def times(self, row: int) -> list[Any] | None:
        """The time of each step that is forecast; None where times are not known."""
        grid = self.variables.grids[self.owner[row]]
        return None if grid is None else grid.times(self.start[row] + np.arange(self.options.horizon))

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [{name: self._cell(name, i) for name in self.columns} for i in indices]

    def column(self, name: str) -> list[Any]:
        return [self._cell(name, i) for i in range(len(self))]

    def _cell(self, name: str, row: int) -> Any:
        if name == self.variables.name:
            return self.context(row)
        if name in self.fixed:
            return self.fixed[name][self.owner[row]]
        start = int(self.start[row])
        if name == self.future and self.part != NEXT:
            return self.variables.values[self.owner[row]][start : start + self.options.horizon]
        grid = self.variables.grids[self.owner[row]]
        assert grid is not None, "a time is a column where it is known"
        return grid.times(np.array([start]))[0]

    def select(self, names: Sequence[str]) -> "WindowTable":
        narrow = copy.copy(self)
        narrow.columns = list(names)
        narrow.label = self.label if self.label in names else None
        return narrow


def window_starts(values: Float[np.ndarray, " t"], options: ForecastOptions, part: str | None) -> tuple[Int[np.ndarray, " w"], int]:
    """Where the forecasts of a part of one variable begin, but of windows that see nothing, or lack a value to learn; and how many
    of these there are."""
    starts = np.asarray(options.starts(len(values), part), dtype=np.int64)
    known = np.concatenate([[0], np.cumsum(~np.isnan(values))])
    good = known[starts] - known[np.maximum(starts - options.context, 0)] > 0
    if part != NEXT:
        good &= known[starts + options.horizon] - known[starts] == options.horizon
    return starts[good], int((~good).sum())


def forecast_table(
    table: Table, options: ForecastOptions, part: str | None, where: str, column: str | None, series: Any = None
) -> WindowTable:
    """The windows of the series of a table. column: of the series, where cells hold them; None: it has a usual name.

    LookupError for a part or column that does not exist; ValueError for series without even times, and where all are too short.
    """
    if part is not None and part not in PARTS:
        raise LookupError(f"{where} has no split {part!r}; with data.forecast it has {', '.join(PARTS)}")
    known = {} if series is None else {name: value for name, value in asdict(series).items() if value is not None}
    return WindowTable(variables_of(table, where, column), options, part, table, {**asdict(options), "series": known}, where)


def _check_any(
    variables: Variables, options: ForecastOptions, part: str | None, where: str, counts: Sequence[int], gaps: Sequence[int]
) -> None:
    """ValueError where no window is left."""
    if any(counts):
        return
    lengths = [len(values) for values in variables.values]
    longest = int(np.argmax(lengths))
    need = f"context={options.context}" if part == NEXT else f"context + horizon = {options.window}"
    if any(gaps):
        why = f"all {sum(gaps):,} windows lack a value that is to be forecast, or see none. Fill gaps in, or lower horizon"
    else:
        of = "" if part in (None, NEXT) else f", and the part {part} of it must hold {options.horizon} steps to forecast"
        why = (
            f"every series is too short: a window takes {need} steps{of}; the longest, {variables.titles[longest]}, has "
            f"{lengths[longest]:,}. Lower data.forecast.context or horizon"
        )
        why += ", or another share of test" if part not in (None, NEXT) else ""
    raise ValueError(f"{where}, data.forecast: {why}")


def _told(table: WindowTable, gaps: Sequence[int], where: str) -> list[str]:
    """What a user should know of how windows were cut."""
    variables, options = table.variables, table.options
    of = {None: "all", NEXT: "the end"}.get(table.part, f"the part {table.part}")
    found = [
        f"{where}: {len(table):,} windows of {of} of {len(variables.values):,} variables: {options.context} steps are seen, "
        f"{options.horizon} forecast."
    ]
    if table.left_out:
        need = options.context if table.part == NEXT else options.window
        part = f", or have no {options.horizon} steps in the part {table.part}" if table.part not in (None, NEXT) else ""
        left = f"{len(table.left_out):,} series are shorter than the {need} steps of a window{part}, and left out"
        found.append(f"{where}: {left}: {listed(table.left_out)}.")
    if count := sum(gaps):
        found.append(f"{where}: {count:,} windows lack a value that is to be forecast, or see none, and are left out.")
    return found

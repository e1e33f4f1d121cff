"""Rows of tables as series: long tables, wide tables, and files that are a series each."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from mmssl.data.calendar import even_places, laid_out
from mmssl.data.natural import by_number
from mmssl.data.tables import Row, Table, lacks_value

if TYPE_CHECKING:
    import pandas as pd

Layout = Literal["long", "wide", "files"]
NAMES = ("series", "values", "signal")
"""What the column of the series is called: the first of these that no other column is called."""
FILE, LABEL = "file", "label"
"""Columns of files that are a series each: their path, and the class that their folder names."""


@dataclass(frozen=True, kw_only=True)
class SeriesOptions:
    """How rows of tables make series, where a cell does not hold a whole one.

    values: columns that hold values, by name or pattern such as t*: the channels, in this order; where a row is a series, its
        samples, those of a pattern in the order of their numbers, t2 before t10. null: all columns of numbers that nothing else
        names.
    by: the column whose equal cells say which rows are one series.
    time: the column of the time of each row, numbers or dates; null: rows are in order, and evenly spaced.
    each: the column, or columns, whose cells are of a step, not of a series, such as the state it is in: a list of them is what a
        series has, empty where a step is missing. With objective.kind: dense one of them is the label.
    layout: long = the rows of one value of `by` are a series; files = the rows of a file are; wide = each row is. null: long if
        `by` is set, files if `time` is, else wide.
    """

    values: str | Annotated[list[str], Field(min_length=1)] | None = None
    by: str | None = None
    time: str | None = None
    each: str | Annotated[list[str], Field(min_length=1)] | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.each is not None and self.chosen == "wide":
            raise ValueError(
                f"data.series.each={self.each!r} is of each step; in layout: wide a row is a whole series. Leave it out"
            )
        if self.chosen == "long" and self.by is None:
            raise ValueError("data.series.layout: long needs `by`, the column that says which rows are one series")
        if self.chosen != "long" and self.by is not None:
            raise ValueError(f"data.series.by={self.by!r} is for layout: long, and layout is {self.chosen}. Leave one of them out")
        if self.chosen == "wide" and self.time is not None:
            raise ValueError(f"data.series.time={self.time!r} is the time of a row; in layout: wide a row is a whole series")

    @property
    def chosen(self) -> Layout:
        """The layout, as it is set or follows from the other keys."""
        return self.layout or ("long" if self.by is not None else "files" if self.time is not None else "wide")


@dataclass(frozen=True)
class Curves:
    """All values, series after series. times: of the samples, None: evenly; step: the usual time from one to the next; origin: the
    date from which times count, in seconds, where they are dates."""

    names: tuple[str, ...]
    values: Float[np.ndarray, "n c"]
    times: Float[np.ndarray, " n"] | None = None
    step: float | None = None
    wide: bool = False
    origin: datetime | None = None

    def series(self, start: int, end: int) -> dict[str, Any]:
        """The series from one sample to before another: its values, with its times or rate where known."""
        if self.wide:
            return {"values": self.values[start]}
        values = self.values[start:end]
        times = None if self.times is None else self.times[start:end] - self.times[start]
        if times is None or self.step is None or len(times) == 1:
            return {"values": self._frame(values)}
        places = self.places(start, end)
        if places is None:
            return {"values": self._frame(values), "times": times}
        return {"values": self._frame(laid_out(values, places)), "rate": 1 / self.step}

    def places(self, start: int, end: int) -> Int[np.ndarray, " n"] | None:
        """Which step each of these samples is, where they lie on even ones with some missing."""
        if self.times is None or self.step is None or end - start == 1:
            return None
        return even_places(self.times[start:end] - self.times[start], self.step)

    def _frame(self, values: Float[np.ndarray, "t c"]) -> "pd.DataFrame":
        import pandas as pd  # takes half a second, and few need it

        return pd.DataFrame(values, columns=list(self.names))


class SeriesTable(Table):
    """A row for each series, with the cells that are one for all its rows.

    table: the rows. name: of the column of the series. order: of the rows, series by series, in order of time. ends: where each
    series ends in it. titles: what the series are called, for messages. own: columns that the rows lack, or are known already.
    each: columns of which a series has a list, a cell for each of its steps.
    """

    def __init__(
        self,
        table: Table,
        name: str,
        curves: Curves,
        order: Int[np.ndarray, " n"],
        ends: Int[np.ndarray, " s"],
        *,
        others: Sequence[str],
        titles: Sequence[str],
        own: dict[str, list[Any]],
        where: str,
        each: Sequence[str] = (),
    ) -> None:
        self._each = each
        self._table, self._name, self._curves, self._order, self._ends = table, name, curves, order, ends
        self._titles, self._own, self._where = titles, own, where
        self.columns = [name, *others]
        self.parts, self.index = table.parts, [each for each in table.index if each in others]
        self.label = LABEL if LABEL in own else table.label if table.label in others else None
        self.curves, self.titles, self.ids = curves, list(titles), [name for name in own if name != LABEL]
        self.name, self.where = name, where

    def place(self, number: int) -> slice:
        """Where the samples of a series lie in `curves`."""
        return slice(int(self._ends[number - 1]) if number else 0, int(self._ends[number]))

    def __len__(self) -> int:
        return len(self._ends)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        columns = {name: self.column(name) for name in self.columns if name != self._name}
        return [{name: self._series(i) if name == self._name else columns[name][i] for name in self.columns} for i in indices]

    def column(self, name: str) -> list[Any]:
        if name == self._name:
            return [self._series(i) for i in range(len(self))]
        if name not in self._own:
            self._own[name] = self._listed(name) if name in self._each else self._constant(name)
        return self._own[name]

    def class_names(self, name: str) -> list[str] | None:
        return None if name not in self._table.columns else self._table.class_names(name)

    def select(self, names: Sequence[str]) -> "SeriesTable":
        narrow = copy.copy(self)
        narrow.columns = list(names)
        narrow.label = self.label if self.label in names else None
        return narrow

    def _series(self, number: int) -> dict[str, Any]:
        span = self.place(number)
        return self._curves.series(span.start, span.stop)

    def _listed(self, name: str) -> list[Any]:
        """Of each series the cells of its steps, None for a step that is missing."""
        cells, found = self._table.column(name), []
        for number in range(len(self)):
            span = self.place(number)
            own = [cells[row] for row in self._order[span]]
            places = self._curves.places(span.start, span.stop)
            laid: list[Any] = [None] * (len(own) if places is None else int(places[-1]) + 1)
            for place, cell in zip(range(len(own)) if places is None else places, own, strict=True):
                laid[place] = cell
            found.append(laid)
        return found

    def _constant(self, name: str) -> list[Any]:
        """The cell that all rows of a series have. ValueError naming a series whose rows differ."""
        cells = self._table.column(name)
        found, start = [], 0
        for number, end in enumerate(self._ends):
            own = [cells[row] for row in self._order[start:end]]
            odd = next((cell for cell in own if not (cell == own[0] or (cell != cell and own[0] != own[0]))), own[0])
            if odd is not own[0]:
                raise ValueError(
                    f"{self._where}: column {name} is {own[0]!r} and {odd!r} in the rows of one series, {self._titles[number]}; it "
                    "can only be used if it is the same in all of them. Correct the data, or leave the column out"
                )
            found.append(own[0])
            start = end
        return found


def series_table(table: Table, options: SeriesOptions, where: str, named: Sequence[str] = ()) -> Table:
    """The series that the rows of a table make. where: the path, for messages. named: columns that are used otherwise: the label.

    LookupError for a column that does not exist; ValueError for what is no number or time, and for times that come twice.
    """
    layout = options.chosen
    keys = [name for name in (options.by, options.time, *each_of(options)) if name is not None]
    for name in keys:
        if name not in table.columns:
            raise LookupError(_no_column(name, table, where))
    chosen = _values(table, options, where, [*keys, *named])
    others = [name for name in table.columns if name not in chosen and name != options.time]
    taken = next((name for name in NAMES if name not in others), None)
    if taken is None:
        raise ValueError(f"{where} has the columns {', '.join(NAMES)}, one of which has to be free for the series. Rename one")
    values = np.stack([_numbers(table, name, where) for name in chosen], 1)
    if layout != "wide":
        return _of_rows(table, options, where, values, chosen, others, taken)
    curves, rows = Curves(tuple(chosen), values, wide=True), np.arange(len(table))
    titles = [f"row {row}" for row in rows]
    found = SeriesTable(table, taken, curves, rows, rows + 1, others=others, titles=titles, own={}, where=where)
    ordered = chosen == sorted(chosen, key=table.columns.index)
    order = "" if ordered else ", in the order of their numbers or of `values`, which is not that of the table"
    found.notes = [*table.notes, f"{where}: each of {len(table):,} rows is a series of {_listed(chosen)}{order}."]
    return found


def each_of(options: SeriesOptions) -> list[str]:
    """The columns of steps."""
    return [options.each] if isinstance(options.each, str) else options.each or []


def _of_rows(
    table: Table,
    options: SeriesOptions,
    where: str,
    values: Float[np.ndarray, "n c"],
    chosen: list[str],
    others: list[str],
    taken: str,
) -> SeriesTable:
    """Series of several rows each."""
    own: dict[str, list[Any]] = {}
    if options.by is not None:
        codes, ids = _by(table, options.by, where)
        titles = [f"{options.by} {each!r}" for each in ids]
        own[options.by] = ids
    else:
        codes, titles = _by_file(table)
        if FILE not in table.columns:
            own[FILE] = list(titles)
        labels = () if table.beside is None else table.beside.labels
        if any(label is not None for label in labels) and LABEL not in table.columns:
            own[LABEL] = [labels[code] for code in np.unique(codes)]
        others = list(dict.fromkeys([*own, *others]))
    times, origin = (None, None) if options.time is None else _times(table, options.time, where)
    order = np.argsort(codes, kind="stable") if times is None else np.lexsort((times, codes))
    codes = codes[order]
    ends = np.flatnonzero(np.diff(codes, append=codes[-1] + 1)) + 1
    notes = [f"{where}: {len(table):,} rows are {len(ends):,} series of {_listed(chosen)}."]
    step = None
    if times is not None and options.time is not None:
        times = times[order]
        _check_twice(times, codes, titles, where, options.time)
        if unsorted := len(np.unique(codes[1:][(np.diff(order) < 0) & (np.diff(codes) == 0)])):
            moved = f"the rows of {unsorted:,} of {len(ends):,} series are not in order of {options.time}"
            notes.append(f"{where}: {moved}; they are sorted.")
        steps = np.diff(times)[np.diff(codes) == 0]
        step = float(np.median(steps)) if len(steps) else None
    curves = Curves(tuple(chosen), values[order], times, step, origin=origin)
    each = each_of(options)
    found = SeriesTable(table, taken, curves, order, ends, others=others, titles=titles, own=own, where=where, each=each)
    found.notes = [*table.notes, *notes]
    return found


def _no_column(name: str, table: Table, where: str) -> str:
    near = [each for each in table.columns if each.lower() == name.lower()] or get_close_matches(name, table.columns, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{where} has no column {name!r}, named in data.series; it has {', '.join(table.columns)}.{hint}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]} ({len(names):,} columns)"


def _values(table: Table, options: SeriesOptions, where: str, used: Sequence[str]) -> list[str]:
    """The columns of values, by their names or patterns, or all of numbers that are not used otherwise."""
    import pandas as pd  # takes half a second, and few need it

    if options.values is None:
        free = [name for name in table.columns if name not in used and name not in table.index and name != table.label]
        found = [name for name in free if pd.api.types.is_numeric_dtype(table.pandas(name)) and table.class_names(name) is None]
        if not found:
            raise ValueError(
                f"{where} has no column of numbers beside {', '.join(used) or 'none'}; it has {', '.join(table.columns)}. Name the "
                "columns in data.series.values; numbers that are read as text may have another decimal sign (data.decimal=',')"
            )
        return by_number(found) if options.chosen == "wide" else found
    found = []
    for pattern in [options.values] if isinstance(options.values, str) else options.values:
        hits = [pattern] if pattern in table.columns else [n for n in table.columns if fnmatchcase(n, pattern) and n not in used]
        if not hits:
            raise LookupError(_no_column(pattern, table, where))
        found += [name for name in (by_number(hits) if options.chosen == "wide" else hits) if name not in found]
    return found


def _numbers(table: Table, name: str, where: str) -> Float[np.ndarray, " n"]:
    """A column as float64, NaN where a cell is missing. ValueError naming the first cell that is no number."""
    import pandas as pd  # takes half a second, and few need it

    column = table.pandas(name)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    for row, cell in enumerate(column):
        if not (cell is None or cell is pd.NA or isinstance(cell, float | int | np.number)):
            comma = isinstance(cell, str) and cell.count(",") == 1 and cell.replace(",", "").replace("-", "").isdigit()
            way_out = (
                "Set data.decimal=','" if comma else "Say what stands for a missing value (data.missing), or leave the column out"
            )
            raise ValueError(f"{where}, row {row}, column {name}: the values of a series are numbers; got {cell!r:.60}. {way_out}")
    return np.array([np.nan if cell is None or cell is pd.NA else float(cell) for cell in column], np.float64)


def _by(table: Table, name: str, where: str) -> tuple[Int[np.ndarray, " n"], list[Any]]:
    """The number of the series of each row, and their ids, in the order in which they first come."""
    cells = table.column(name)
    missing = next((row for row, cell in enumerate(cells) if lacks_value(cell)), None)
    if missing is not None:
        raise ValueError(
            f"{where}, row {missing}: column {name}, which says what series a row is of, is empty. Fill it in, or drop the row"
        )
    try:
        numbers: dict[Any, int] = {}
        codes = np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], np.int64)
    except TypeError as error:
        raise ValueError(f"{where}, column {name}: {error}; the id of a series is text or a number") from error
    return codes, list(numbers)


def _by_file(table: Table) -> tuple[Int[np.ndarray, " n"], list[str]]:
    if table.beside is None:
        return np.zeros(len(table), np.int64), ["all rows"]
    owners = np.asarray(table.beside.owners(range(len(table))), np.int64)
    return owners, [str(table.beside.files[each]) for each in np.unique(owners)]


def _times(table: Table, name: str, where: str) -> tuple[Float[np.ndarray, " n"], datetime | None]:
    """Times as numbers: where they are dates seconds since the first of all, which comes beside them, without a time zone if they
    have none. ValueError naming the row that has none."""
    import pandas as pd  # takes half a second, and few need it

    column, origin = table.pandas(name), None
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise ValueError(f"{where}, row {row}: column {name}, the time, is empty. Fill it in, or drop the row")
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        times = column.to_numpy(dtype=np.float64)
    else:
        try:
            dates = pd.to_datetime(column, format="ISO8601", utc=True)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{where}, column {name}: times are numbers, or dates such as 2026-01-31 or 2026-01-31T12:00:00; got "
                f"{column.iloc[0]!r:.60} ({' '.join(str(error).split()):.100}). Write them so (pandas.to_datetime reads most forms)"
            ) from None
        exact = dates.to_numpy(dtype="datetime64[us]").astype(np.int64)
        times = (exact - exact.min()) / 1e6
        has_zone = pd.to_datetime(column.iloc[:1], format="ISO8601").dt.tz is not None
        origin = dates.min() if has_zone else dates.min().tz_localize(None)
    if not np.isfinite(times).all():
        raise ValueError(f"{where}, row {int(np.isfinite(times).argmin())}: column {name}, the time, must be finite. Drop the row")
    return times, origin


def _check_twice(times: Float[np.ndarray, " n"], codes: Int[np.ndarray, " n"], shown: Sequence[str], where: str, name: str) -> None:
    """ValueError for two rows of one series at one time."""
    twice = np.flatnonzero((np.diff(times) == 0) & (np.diff(codes) == 0))
    if len(twice):
        place = int(twice[0])
        several = f" ({len(twice):,} in all)" if len(twice) > 1 else ""
        raise ValueError(
            f"{where}: two rows of the series {shown[codes[place]]} have one time, {name} {times[place]:g}{several}. Drop one, or "
            "average them (pandas: frame.groupby([id, time]).mean()); rows of several series need data.series.by"
        )

"""An indexable source of raw rows."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from mmssl.data.beside import beside_table
from mmssl.data.dense import DENSE, Places, are_maps, at_steps, read_places
from mmssl.data.forecast import ForecastOptions, WindowTable, forecast_table
from mmssl.data.label_lists import TogetherTable, parted_table
from mmssl.data.labels import Kind, Labels, missing, natural_classes
from mmssl.data.named import Called, named_table
from mmssl.data.paths import open_table
from mmssl.data.segments import are_segments, as_items, is_segment, read_segments
from mmssl.data.series import SeriesOptions, series_table
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.data.tables import Row, RowTable, Table
from mmssl.modality import Modality, Processor, StepTimes

LABEL = "label"
GROUP = "group"
"""Uses of a column beside the modalities: what is to be predicted; what says which rows belong together."""

Columns = dict[str, str | list[str]]
OnError = Literal["raise", "skip"]


class Source:
    """A table of raw rows.

    path: `bundled:digits`, `bundled:breast_cancer`, `bundled:wine`, `bundled:diabetes`, `bundled:glyphs` or, with the extra demo,
        `bundled:ucr/NAME`; a parquet, csv or jsonl file; a folder of such files, with splits by file name (train*, test*,
        validation*); a folder of media files, whose sub-folders name splits and classes, or a table beside them their labels; a
        pattern such as `shards/*.parquet`; or a dataset on the Hugging Face Hub, `name` or `name:configuration`.
    split: one part of the data; None: all of it.
    columns: the dataset's column for a modality name or for "label"; several columns for a modality that reads a whole row. Bundled
        data and media folders know their label column.
    limit: keep that many rows, evenly spaced, as many datasets are sorted by class.
    table_format: how the cells of csv, jsonl and parquet files are written, and how rows make series, where they do.
    called: what values of a column are called where a modality reads it; class numbers go by the names that the data have.

    Raises FileNotFoundError, LookupError (a split or column that does not exist) or ValueError (what cannot be read, or is empty).
    """

    def __init__(
        self,
        *,
        path: str,
        split: str | None = None,
        columns: Columns | None = None,
        limit: int | None = None,
        table_format: TableFormat = PLAIN,
        called: Called | None = None,
    ) -> None:
        forecast = table_format.forecast
        table = parted_table(open_table(path, None if forecast else split, table_format), table_format.lists)
        table = _in_series(table, table_format.series, path, columns)
        self.background = table_format.background
        self._setup(_in_windows(table, forecast, split, path, columns, table_format.series), path, split, columns, called)
        if limit is not None:
            self._keep(limit)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Row],
        columns: Columns | None = None,
        limit: int | None = None,
        called: Called | None = None,
        series: SeriesOptions | None = None,
        forecast: ForecastOptions | None = None,
        split: str | None = None,
        background: str | None = None,
    ) -> "Source":
        """A source of rows in memory, all with the same columns. split: the part by time, where windows are cut to `forecast`."""
        source, where = cls.__new__(cls), "rows in memory"
        source.background = background
        table = _in_windows(_in_series(RowTable(rows), series, where, columns), forecast, split, where, columns, series)
        source._setup(table, where, None if forecast is None else split, columns, called)
        if limit is not None:
            source._keep(limit)
        return source

    def _setup(self, table: Table, path: str, split: str | None, columns: Columns | None, called: Called | None) -> None:
        self.path = path
        self.split = split
        self._table = table
        self._kept: Int[np.ndarray, " n"] | None = None
        self._limit: int | None = None
        self._steps: tuple[Modality, Processor] | None = None
        self.num_held_out = 0
        self._ends: Int[np.ndarray, " n"] | None = None
        if len(table) == 0:
            raise ValueError(f"{self} has no rows")
        known: Columns = {} if table.label is None else {LABEL: table.label}
        self.columns = known | (columns or {})
        for use, names in self.columns.items():
            self._check_columns(use, _names(names))
        self._together: dict[str, list[str]] = {}
        labels = self.columns.get(LABEL)
        if not (labels is None or isinstance(labels, str)):
            self._label_together(labels)
        self.called: Called = called or {}
        if unknown := [name for name in self.called if name not in self.column_names]:
            raise LookupError(f"{self} has no column {unknown[0]!r}, named in `called`; it has {', '.join(self.column_names)}")

    def _label_together(self, names: list[str]) -> None:
        """Make one column of lists of several that say of a label each whether it applies."""
        name = ", ".join(names)
        if name in self.column_names or len(set(names)) < len(names):
            raise ValueError(f"{self}: columns.label must be the name of one column, or a list of several, each once; got {names}")
        self._table, self._together = TogetherTable(self._table, name, names), {name: names}
        self.columns = {**self.columns, LABEL: name}

    def made_from(self, column: str) -> list[str]:
        """The columns of the data that a column is read from: itself, or of several label columns each."""
        return self._together.get(column, [column])

    def _check_columns(self, use: str, names: list[str]) -> None:
        for name in names:
            if name not in self.column_names:
                near = get_close_matches(name, self.column_names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise LookupError(
                    f"{self} has no column {name!r}, named for {use!r} in `columns`; it has {', '.join(self.column_names)}.{hint}"
                )

    def _keep(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1; got {limit}")
        self._limit = limit
        if limit < self.num_rows:
            places = np.arange(limit) * self.num_rows // limit
            self._kept = places if self._kept is None else self._kept[places]

    def whole(self) -> "Source":
        """All rows of the dataset, those left out by `limit` and `without` among them, and none of them cut."""
        source = copy.copy(self)
        source._kept, source._limit, source._ends, source.num_held_out = None, None, None, 0
        return source

    def select(self, rows: Int[np.ndarray, " k"], limit: int | None = None) -> "Source":
        """Only some rows of the dataset, by their numbers; of these `limit` ones, evenly spaced. ValueError if there are none."""
        source = self.whole()
        source._kept = rows
        if len(rows) == 0:
            raise ValueError(f"no row of {self} is left")
        if limit is not None:
            source._keep(limit)
        return source

    def evenly(self, count: int) -> "Source":
        """At most `count` of the rows that the source keeps, evenly spaced, none of them cut."""
        source = copy.copy(self)
        source._ends = None
        source._keep(count)
        return source

    def without(self, rows: Int[np.ndarray, " k"]) -> "Source":
        """The source with some rows of the dataset held out, by their numbers; its `limit` counts those that are left."""
        source = self.select(np.setdiff1d(np.arange(len(self._table)), rows), self._limit)
        source.num_held_out = len(rows)
        return source

    def __len__(self) -> int:
        return self.num_rows if self._ends is None else int(self._ends[-1])

    @property
    def num_rows(self) -> int:
        """Rows that the source keeps: as many as samples, unless long ones were `cut`."""
        return len(self._table) if self._kept is None else len(self._kept)

    def __str__(self) -> str:
        return self.path if self.split is None else f"{self.path} ({self.split})"

    @property
    def parts(self) -> Sequence[Path | str]:
        """What the rows come from: files, or names of a dataset's parts; empty for rows in memory."""
        return self._table.parts

    @property
    def window_table(self) -> WindowTable | None:
        """The windows of series that its rows are; None: they are something else."""
        return self._table if isinstance(self._table, WindowTable) else None

    @property
    def span(self) -> str:
        """Which span of time of its parts the rows are of, as in [train]; empty: they are not parted so."""
        return self._table.span

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the rows were read, a sentence each."""
        return tuple(self._table.notes)

    @property
    def column_names(self) -> list[str]:
        """Names of the dataset's columns."""
        return self._table.columns

    @property
    def stored_columns(self) -> list[str]:
        """Names of the columns that the data hold, without what is made of several."""
        return [name for name in self.column_names if name not in self._together]

    def cut(self, counts: Sequence[int]) -> "Source":
        """The same rows with `counts` samples in each, one for every piece of a long one (`Processor.pieces`)."""
        if len(counts) != self.num_rows or min(counts) < 1:
            raise ValueError(
                f"cut needs a count of at least 1 for each of the {self.num_rows} rows of {self}; got {len(counts)} counts"
            )
        pieced = copy.copy(self)
        pieced._ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        return pieced

    @property
    def is_cut(self) -> bool:
        """Whether a row may hold several samples."""
        return self._ends is not None

    def kept_row(self, index: int) -> int:
        """The place, among the rows that the source keeps, of the row that sample `index` belongs to."""
        return index if self._ends is None else int(np.searchsorted(self._ends, index, side="right"))

    def whole_rows(self, size: int) -> Iterator[Int[np.ndarray, " k"]]:
        """All samples in order, in runs of about `size` that end where a row ends."""
        ends = np.arange(1, self.num_rows + 1) if self._ends is None else self._ends
        start = 0
        while start < len(self):
            row = max(int(np.searchsorted(ends, start + size, side="right")) - 1, self.kept_row(start))
            yield np.arange(start, ends[row])
            start = int(ends[row])

    def piece(self, index: int) -> int:
        """Which piece of its row sample `index` is."""
        if self._ends is None:
            return 0
        row = self.kept_row(index)
        return index - (int(self._ends[row - 1]) if row else 0)

    def row_number(self, index: int) -> int:
        """The row of the dataset that sample `index` belongs to: differs from it under `limit`, and where rows are cut."""
        row = self.kept_row(index)
        return row if self._kept is None else int(self._kept[row])

    def rows(self, indices: Sequence[int] | Int[np.ndarray, " k"]) -> list[Row]:
        """The rows of the samples `indices` in one read. Files are not decoded; a list of numbers may come as a numpy array."""
        return self._table.rows([self.row_number(int(i)) for i in indices])

    def places(self, modality: Modality) -> str | list[str]:
        """The column that holds a modality, or the columns of a modality that reads a whole row.

        LookupError if no column is named for it and none has a name that it looks for.
        """
        named = self.columns.get(modality.name)
        if named is not None:
            return [named] if isinstance(named, str) and not modality.columns else named
        if not modality.columns:
            return self._unclaimed()
        found = next((name for name in modality.columns if name in self.column_names), None)
        if found is None:
            raise LookupError(
                f"{self} has no column for {modality.name!r} (looked for {', '.join(modality.columns)}); it has "
                f"{', '.join(self.column_names)}. Name one, as in columns: {{{modality.name}: {self.column_names[0]}}}"
            )
        return found

    def _unclaimed(self) -> list[str]:
        claimed = {name for names in self.columns.values() for name in _names(names)} | set(self._table.index)
        return [name for name in self.column_names if name not in claimed]

    def raw(self, modality: Modality, row: Row) -> Any:
        """The raw sample of a modality in a row: one cell, or a dict of cells."""
        place = self.places(modality)
        return row[place] if isinstance(place, str) else {name: row[name] for name in place}

    def shared_by(self, modalities: Sequence[Modality]) -> "Source":
        """The same source whose rows pair modalities: one that reads a whole row leaves out the columns of the others."""
        source = copy.copy(self)
        found = {modality.name: self.places(modality) for modality in modalities if modality.columns}
        source.columns = self.columns | found
        return source

    def only(self, modalities: Sequence[Modality], more: Sequence[str] = ()) -> "Source":
        """The same source, which reads no other columns than these modalities need; files that cells name are located, and numbers
        that stand for names are these, but for a modality that reads a whole row. more: columns to read as they are beside."""
        places = [self.places(modality) for modality in modalities]
        names = dict.fromkeys([*(name for place in places for name in _names(place)), *more])
        narrow = copy.copy(self)
        of_files = [place for modality, place in zip(modalities, places, strict=True) if modality.suffixes and not modality.lined]
        media = [*(name for place in of_files for name in _names(place)), *more]  # what is called like a file is still a text
        single = [place for place in places if isinstance(place, str)]
        narrow._table = named_table(beside_table(self._table.select(list(names)), media, self._table.beside), single, self.called)
        narrow.columns = {modality.name: place for modality, place in zip(modalities, places, strict=True)}
        return narrow

    def located(self, names: Sequence[str]) -> "Source":
        """These columns of the same source, in which cells that name a file beside the table hold its whole path."""
        source = copy.copy(self)
        source._table = beside_table(self._table.select(list(names)), names, self._table.beside)
        return source

    def cells(self, name: str) -> list[Any]:
        """What a column holds in the rows that the source keeps."""
        cells = self._table.column(name)
        return cells if self._kept is None else [cells[i] for i in self._kept]

    @property
    def labels_places(self) -> bool:
        """Whether its labels are those of places within samples, by themselves: label maps, or segments of time."""
        name = self.columns.get(LABEL)
        return isinstance(name, str) and (are_maps(cells := self.cells(name)) or are_segments(cells))

    def labels(self, *, kind: Kind | None = None, like: Labels | None = None) -> Labels | None:
        """The labels, or None without a label column. See `Labels.read` for `kind`, `like` and errors."""
        name = self.columns.get(LABEL)
        if name is None:
            return None
        assert isinstance(name, str), "several were put together"
        where = self.located([name]) if DENSE in (kind, None if like is None else like.kind) else self
        stretches: dict[str, Any] = {"background": self.background, "times": None if self._steps is None else self._times()}
        found = Labels.read(where.cells(name), **self._label_place(name), kind=kind, like=like, **stretches)
        units, kept = self._table.units, slice(None) if self._kept is None else self._kept
        return replace(found, column=name, units=None if units is None else units[kept], windows=self._table.windows)

    def dense_labels(self, rows: Sequence[int], names: Sequence[str]) -> list[Places]:
        """The labels of the places of some rows that the source keeps, as numbers of the classes `names`."""
        column = self.columns[LABEL]
        assert isinstance(column, str), "several were put together"
        narrow = self.located([column]) if self._steps is None else self.only([self._steps[0]], [column])
        kept = narrow if narrow._ends is None else narrow.evenly(narrow.num_rows)
        found = zip(rows, kept.rows(np.asarray(rows, dtype=np.int64)), strict=True)
        return [kept.places_of(row, column, names, f"row {kept.row_number(i)} of {self}, column {column}") for i, row in found]

    def places_of(self, row: Row, column: str, names: Sequence[str], place: str) -> Places:
        """The labels of the places of a row, as numbers of the classes `names`. place: names the row and column in messages."""
        items = as_items(row[column])
        if self._steps is None or (items and not is_segment(items[0])):
            return read_places(row[column], names, place)
        modality, processor = self._steps
        return at_steps(
            read_segments(row[column], place, self.background), processor.step_times(self.raw(modality, row)), names, place
        )

    def in_steps(self, modality: Modality, processor: Processor) -> "Source":
        """The same source, whose labels, which are segments of time, are read as those of the steps that a processor makes."""
        source = copy.copy(self)
        source._steps = modality, processor
        return source

    def _times(self) -> list[StepTimes | None]:
        """The times of the steps of every row; None of one that cannot be read, which whoever reads samples judges."""
        assert self._steps is not None, "segments are read by the steps of samples"
        modality, processor = self._steps
        narrow, found = self.only([modality]).evenly(self.num_rows), list[StepTimes | None]()
        for number in range(self.num_rows):
            (row,) = narrow.rows([number])
            try:
                found.append(processor.step_times(self.raw(modality, row)))
            except (ValueError, TypeError, OSError):
                found.append(None)
        return found

    def labelled(self, column: str | None = None) -> Int[np.ndarray, " k"]:
        """The numbers of the rows that it keeps that have a label, ascending.

        column: that holds the labels; None: the label column, without which, as without any label, all rows are named.
        """
        name, rows = column or self.columns.get(LABEL), np.arange(len(self._table)) if self._kept is None else self._kept
        if not isinstance(name, str):
            return rows
        without = missing(self.cells(name), self._table.class_names(name))
        return rows if without.all() else rows[~without]

    def natural_classes(self, column: str) -> Int[np.ndarray, " n"] | None:
        """Classes by which the rows may be grouped; None for a column of numbers. See `mmssl.data.labels.natural_classes`."""
        return natural_classes(self.cells(column), **self._label_place(column))

    def _label_place(self, name: str) -> dict[str, Any]:
        return {
            "where": f"{self}, column {name}",
            "class_names": self._table.class_names(name),
            "row_of": lambda row: row if self._kept is None else int(self._kept[row]),
        }

    def groups(self, *, shared: bool = True) -> Int[np.ndarray, " n"] | None:
        """A number for each row that the source keeps, equal where the cells of `columns.group` are; a missing cell stands alone.

        None without such a column. ValueError if it names several, or if no two rows share a value, where some have to (`shared`).
        """
        name = self.columns.get(GROUP)
        if name is None:
            return None
        found, _ = self._grouped(name)
        if shared and len(np.unique(found)) == len(found):
            raise ValueError(
                f"{self}, column {name}: {len(found)} rows have as many different values, so that none belong together; name a "
                "column for columns.group that rows share, such as a person or a place, or leave it out"
            )
        return found if self._kept is None else found[self._kept]

    def repeats(self, name: str) -> bool:
        """Whether two rows or more hold the same in a column."""
        found, _ = self._grouped(name)
        return len(np.unique(found)) < len(found)

    def group_labels(self) -> Int[np.ndarray, "g m"] | None:
        """For each number of `groups` those of the labels that its cell holds, a list of them or one; -1 where it has fewer.

        None without the column `columns.group`.
        """
        name = self.columns.get(GROUP)
        if name is None:
            return None
        _, cells = self._grouped(name)
        lists = [[*map(str, cell)] if isinstance(cell, list | tuple) else [str(cell)] for cell in cells]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(label for held in lists for label in held))}
        found = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int64)
        for row, held in enumerate(lists):
            distinct = dict.fromkeys(held)
            found[row, : len(distinct)] = [numbers[label] for label in distinct]
        return found

    def _grouped(self, name: str | list[str]) -> tuple[Int[np.ndarray, " n"], list[Any]]:
        """The group of every row of the dataset, below 0 where it stands alone, and a cell of each group, in their order."""
        if not isinstance(name, str):
            raise ValueError(f"{self}: columns.group must be one column; got {name}")
        cells, firsts = self._table.column(name), dict[str, Any]()
        numbers, found = dict[str, int](), np.empty(len(cells), dtype=np.int64)
        for row, cell in enumerate(cells):
            alone = cell is None or cell != cell
            found[row] = -1 - row if alone else numbers.setdefault(str(cell), len(numbers))
            if not alone:
                firsts.setdefault(str(cell), cell)
        return found, list(firsts.values())

    def label_note(self, labels: Labels) -> str:
        """What its labels are taken for, and why."""
        return f"label {self.columns[LABEL]}: {labels.reason}"


def _in_series(table: Table, series: SeriesOptions | None, path: str, columns: Columns | None) -> Table:
    """The table, or the series that its rows make."""
    if series is None or len(table) == 0:
        return table
    named = [name for use, place in (columns or {}).items() if use in (LABEL, GROUP) for name in _names(place)]
    return series_table(table, series, path, named)


def _in_windows(
    table: Table, forecast: ForecastOptions | None, split: str | None, path: str, columns: Columns | None, series: Any
) -> Table:
    """The table, or the windows that are cut of its series."""
    if forecast is None or len(table) == 0:
        return table
    places = [place for use, place in (columns or {}).items() if use not in (LABEL, GROUP)]
    column = places[0] if places and isinstance(places[0], str) else None
    return forecast_table(table, forecast, split, path, column, series)


def _names(place: str | list[str]) -> list[str]:
    return [place] if isinstance(place, str) else place

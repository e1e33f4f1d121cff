"""The recipe's `data` section: one source, or several that a run mixes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from mmssl.data.mix import Mixing, Weights
from mmssl.data.source import Columns, OnError, Source
from mmssl.data.table_format import TableFormat
from mmssl.data.tables import Row
from mmssl.draws import hash_text
from mmssl.modality import find

ONLY = "data"
"""Name of the source of a run that does not mix."""


_GIVE = "give one: path for one source, sources for several"


@dataclass(frozen=True, kw_only=True)
class SourceOptions(TableFormat):
    """One of several sources that a run mixes; its name is that of the modality it holds, unless `modalities` says more.

    path: as data.path; required unless rows in memory stand in its place.
    split: one part of the data; null: all of it.
    columns: the dataset's column for a modality name, for label, or for group, whose equal values say that rows belong together;
        several columns for a modality that reads a whole row, and for label: each holds 1 where its label applies, else 0.
    limit: keep that many rows, evenly spaced; null: all.
    missing: what stands for a missing value in table files besides an empty cell, such as [NA, "?", "-999"].
    types: string or number, for columns of table files that would be read as the other, as in {zip: string}.
    delimiter: between the cells of csv files, one character or the word tab; null: a comma, in .tsv files a tab.
    decimal: the decimal sign in csv files.
    header: false: csv files have no line of names at their beginning, and their columns are called c0, c1, ...
    series: how rows of tables make series: {by: id, time: t, values: [x, y]}; null: a cell holds a whole sample.
    forecast: how windows are cut of series, to learn what follows; the splits train, validation and test are then parts by time of
        each series; null: a series is a sample.
    lists: columns whose cells hold several values, with the sign that parts them, as in {genres: "|"}; an empty cell holds none.
    arrays: whether a .npy or .npz file is one sample, or holds many along its first axis; null: many where its array has an axis
        more than a sample, or labels beside it (y or labels), else one.
    background: of labels that are segments of time (start, end, label), the class of steps outside of all; null: none.
    called: what values of a column are called where a modality reads it, as in {label: {"0": zero, "1": one}}; null: class numbers
        go by the names that the data have for them.
    weight: how often a step reads this source, beside the others.
    modalities: modalities that each of its rows holds, which then come in one batch; null: the one that the source is named after.
    """

    path: str | None = None
    split: str | None = "train"
    columns: Columns | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    called: dict[str, dict[str, str]] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    modalities: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(TableFormat):
    """What to learn from: where the samples are, and how they are read.

    path: bundled:digits, bundled:breast_cancer, bundled:wine, bundled:diabetes, bundled:glyphs, bundled:python or
        bundled:ucr/NAME; a parquet, csv or jsonl file; a folder of such files, or of media files; a pattern such as
        shards/*.parquet; or a dataset on the Hugging Face Hub, name or name:configuration. Required unless there are sources, or
        rows in memory.
    split: one part of the data; null: all of it.
    columns: the dataset's column for a modality name, for label, or for group, whose equal values say that rows belong together;
        several columns for a modality that reads a whole row, and for label: each holds 1 where its label applies, else 0.
    limit: keep that many rows, evenly spaced; null: all.
    missing: what stands for a missing value in table files besides an empty cell, such as [NA, "?", "-999"].
    types: string or number, for columns of table files that would be read as the other, as in {zip: string}.
    delimiter: between the cells of csv files, one character or the word tab; null: a comma, in .tsv files a tab.
    decimal: the decimal sign in csv files.
    header: false: csv files have no line of names at their beginning, and their columns are called c0, c1, ...
    series: how rows of tables make series: {by: id, time: t, values: [x, y]}; null: a cell holds a whole sample.
    forecast: how windows are cut of series, to learn what follows; the splits train, validation and test are then parts by time of
        each series; null: a series is a sample.
    lists: columns whose cells hold several values, with the sign that parts them, as in {genres: "|"}; an empty cell holds none.
    arrays: whether a .npy or .npz file is one sample, or holds many along its first axis; null: many where its array has an axis
        more than a sample, or labels beside it (y or labels), else one.
    background: of labels that are segments of time (start, end, label), the class of steps outside of all; null: none.
    called: what values of a column are called where a modality reads it, as in {label: {"0": zero, "1": one}}; null: class numbers
        go by the names that the data have for them.
    sources: several sources in the place of path, by name; each step reads one of them.
    mixing: how often each of several sources is read.
    on_error: raise = stop at the first sample that cannot be read; skip = leave it out, up to half of the first 1,000.
    workers: processes (for each source) that read and process samples; 0: the training process does.
    cache: keep processed samples in memory, so that later passes over the data only stack them; needs workers 0.
    shuffle: a new order of the samples in every pass over the data; false: the order of the data.
    lacking: of rows that pair modalities, the share that is made to lack one, by its name, drawn anew in every step; null: none.
    group_size: samples with one value of columns.group that stand side by side in that order, as positives of each other; without
        such a column pieces of one row, where long samples are cut.
    """

    path: str | None = None
    split: str | None = "train"
    columns: Columns | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    called: dict[str, dict[str, str]] | None = None
    sources: dict[str, SourceOptions] | None = None
    mixing: Mixing = field(default_factory=Weights)
    on_error: OnError = "raise"
    workers: Annotated[int, Field(ge=0)] = 0
    cache: bool = False
    shuffle: bool = True
    lacking: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = None
    group_size: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        if self.path is not None and self.sources:
            raise ValueError(f"both data.path and data.sources are set; {_GIVE}")

    def split_up(self, modalities: Sequence[str]) -> dict[str, SourceOptions]:
        """The sources by name; one that stands for `path` holds all of the recipe's modalities.

        ValueError for a source of a modality that the recipe lacks, and for a modality without a source.
        """
        if not self.sources:
            only = SourceOptions(
                path=self.path,
                split=self.split,
                columns=self.columns,
                limit=self.limit,
                called=self.called,
                modalities=tuple(modalities),
                **vars(self.table_format),
            )
            return {ONLY: only}
        found = dict(self.sources)
        for name, options in found.items():
            for modality in options.modalities or (name,):
                if modality not in modalities:
                    raise ValueError(
                        f"data.sources.{name}: the recipe has no modality {modality!r}, only {', '.join(modalities)}. Call the "
                        f"source after its modality, or list them, as in modalities: [{modalities[0]}]"
                    )
        missing = set(modalities) - {modality for name, options in found.items() for modality in options.modalities or (name,)}
        if missing:
            raise ValueError(f"data.sources has no source for {', '.join(sorted(missing))}; add one, or leave the modality out")
        return found


@dataclass(frozen=True)
class Stream:
    """A source of a run with the modalities that are read from it."""

    name: str
    source: Source
    modalities: tuple[str, ...]
    options: SourceOptions

    def seed(self, run: int) -> int:
        """The seed of its order and of its samples' draws: that of the run, and of several sources one for each.

        Rows of two sources have the same numbers, and so have their steps, which each counts for itself.
        """
        return run if self.name == ONLY else run ^ hash_text(self.name)


Rows = Sequence[Row] | Mapping[str, Sequence[Row]]
"""Data in memory: the rows of the only source, or those of each source by its name."""


def open_streams(data: DataOptions, modalities: Sequence[str], rows: Rows | None = None) -> dict[str, Stream]:
    """The sources of a run, by name; `rows` in memory stand in the place of their paths.

    FileNotFoundError names the key whose path does not exist; ValueError for sources without path or rows, and rows without source.
    """
    if isinstance(rows, Mapping) and not data.sources and rows.keys() != {ONLY}:
        data = replace(data, path=None, sources={name: SourceOptions(columns=data.columns) for name in rows})
    sources = data.split_up(modalities)
    _check_rows(sources, rows)
    found = {}
    for name, options in sources.items():
        if rows is not None:
            own = rows[name] if isinstance(rows, Mapping) else rows
            cut: dict[str, Any] = {"forecast": options.forecast, "split": options.split, "background": options.background}
            source = Source.from_rows(own, options.columns, options.limit, options.called, options.series, **cut)
        else:
            source = _open(name, options)
        held = options.modalities or (name,)
        if len(held) > 1:
            source = source.shared_by([find(modality) for modality in held])
        found[name] = Stream(name, source, held, options)
    return found


def _check_rows(sources: Mapping[str, SourceOptions], rows: Rows | None) -> None:
    """ValueError unless every source has a path or rows, and all rows a source."""
    if isinstance(rows, Mapping) and rows.keys() != sources.keys():
        raise ValueError(f"rows= is by source: data.sources has {', '.join(sources)}; got rows of {', '.join(rows) or 'none'}")
    if rows is not None and not isinstance(rows, Mapping) and len(sources) > 1:
        raise ValueError(f"rows= needs the rows of each source by its name, {', '.join(sources)}; got one list of rows")
    if rows is None and ONLY in sources and sources[ONLY].path is None:
        raise ValueError(f"neither data.path nor data.sources is set; {_GIVE} (data.path=PATH)")


def _open(name: str, options: SourceOptions) -> Source:
    key = "data.path" if name == ONLY else f"data.sources.{name}.path"
    if options.path is None:
        raise ValueError(f"{key} is not set; set {key}=PATH")
    try:
        return Source(
            path=options.path,
            split=options.split,
            columns=options.columns,
            limit=options.limit,
            table_format=options.table_format,
            called=options.called,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}: {error} (set {key}=PATH)") from error

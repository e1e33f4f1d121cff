"""What a path holds, before anything is trained: which modalities may read it, what of it, and what not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmssl.data.folder import DataFile, in_classes, media_files, table_files
from mmssl.data.formats import one_format, suffix_of
from mmssl.data.inside import Inside, look, sort_out
from mmssl.data.label_lists import as_list
from mmssl.data.label_maps import mapped
from mmssl.data.paths import open_table
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.data.tables import Table, lacks_value
from mmssl.data.walk import MAGIC, SHOWN, Listing, Parts, match
from mmssl.modality import find
from mmssl.plugins import installed

LOOKED_AT = 1000
"""Rows of a table, evenly spaced, by which its columns are judged."""

CellKind = Literal["number", "string", "list", "file", "boolean", "other"]


@dataclass(frozen=True)
class Passed:
    """Files that are not read, and why. suffixes: how many of each. examples: some of them, as they lie in the folder."""

    reason: str
    suffixes: Mapping[str, int]
    examples: tuple[str, ...]

    @property
    def count(self) -> int:
        return sum(self.suffixes.values())


@dataclass(frozen=True)
class ColumnSurvey:
    """A column of a table, by `LOOKED_AT` of its rows.

    kind: of most cells. distinct: different values. missing: share of cells without one. length: mean number of characters of
        texts, of items of lists. example: one cell.
    """

    name: str
    kind: CellKind
    distinct: int
    missing: float
    length: float
    example: Any


@dataclass(frozen=True)
class Candidate:
    """A modality that may read the data. path: for data.path; suffixes: of the files read so; column: that it is found in."""

    modality: str
    path: str
    suffixes: Mapping[str, int]
    column: str | None


@dataclass(frozen=True)
class Survey:
    """What a path holds.

    num_files: those below it, hidden ones and links that lead nowhere among them. candidates: modalities that may read it, those
    that read most files first; several where files may be read in several ways, or where a choice has to be made (`mixed`).
    passed: what is not read. labels: files of each class, by sub-folders. splits: files of each split. num_rows: samples, where the
    data can be opened. columns: of a table. mixed: the error that asks for a choice, empty if none is needed. notes: of reading.
    counted: what reading notes of files that `passed` counts.
    """

    path: str
    num_files: int = 0
    candidates: tuple[Candidate, ...] = ()
    passed: tuple[Passed, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    num_rows: int | None = None
    columns: tuple[ColumnSurvey, ...] = ()
    mixed: str = ""
    notes: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()

    @property
    def num_read(self) -> int:
        """Files that are read."""
        return self.num_files - sum(passed.count for passed in self.passed)

    def more(self, notes: Sequence[str]) -> tuple[str, ...]:
        """Notes of reading without those on files that are counted anyway."""
        return tuple(note for note in notes if note not in self.counted)

    def lines(self) -> list[str]:
        """The same in sentences."""
        found = []
        if self.num_files:
            read = Counter[str]()
            for candidate in self.candidates:
                read |= Counter(candidate.suffixes)
            found.append(f"{self.num_read:,} of {self.num_files:,} files{_of(read)}")
        found += [f"{passed.count:,} {passed.reason}{_of(Counter(passed.suffixes))}" for passed in self.passed]
        if self.labels:
            shown = ", ".join(f"{name} {count:,}" for name, count in list(self.labels.items())[:SHOWN])
            more = f" and {len(self.labels) - SHOWN:,} more" if len(self.labels) > SHOWN else ""
            found.append(f"{len(self.labels):,} classes by folders: {shown}{more}")
        if len(self.splits) > 1:
            found.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items()))
        return [*found, *([self.mixed] if self.mixed else []), *self.notes]


def _of(suffixes: Counter[str]) -> str:
    kinds = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    return ": " + ", ".join(f"{suffix or 'without suffix'} {count:,}" for suffix, count in kinds) if kinds else ""


def survey(path: str, table_format: TableFormat = PLAIN) -> Survey:
    """What a path holds: a folder, a file, a pattern, bundled data or a dataset of the Hub.

    Nothing of media files is decoded; of tables some rows are read. Raises what `open_table` does for a path that does not exist or
    a table that cannot be read; files of several kinds, or folders at odds, are told in `Survey.mixed`.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return _of_files(local, look(local), path, table_format)
    if local.is_file():
        return _of_files(local.parent, sort_out(Listing(files=[(local.name,)])), path, table_format)
    if MAGIC.search(path):
        root, listing = match(local)
        if listing.files:
            return _of_files(root, sort_out(listing), path, table_format)
    return _of_table(Survey(path), open_table(path, None, table_format))


def _of_files(root: Path, inside: Inside, path: str, table_format: TableFormat) -> Survey:
    listing = inside.listing
    kinds = (
        ("files with suffixes that are not read", inside.over),
        ("hidden files and folders", listing.hidden),
        ("links that lead nowhere", listing.broken),
        ("links that lead back to a folder above", listing.circles),
        ("pipes, sockets and devices", listing.special),
    )
    passed = tuple(_passed(reason, places) for reason, places in kinds if places)
    num_files = len(listing.files) + sum(each.count for each in passed) - len(inside.over)
    found = Survey(path, num_files, passed=passed, candidates=_media_candidates(inside, path), counted=tuple(inside.notes(path)))
    if not inside.counts:
        return found
    try:
        if not (inside.tables and inside.media):
            one_format(sorted(inside.first().values()), path, inside.counts)
        placed = _placed(root, inside, path)
        table = open_table(path, None, table_format)
    except (ValueError, LookupError) as error:
        if inside.tables and not inside.media:
            raise
        return _with(found, mixed=str(error))
    labels = Counter(file.label for file in placed if file.label is not None)
    splits = Counter(file.split for file in placed)
    found = _with(found, labels=dict(sorted(labels.items())), splits=dict(sorted(splits.items())))
    return _of_table(found, table)


def _placed(root: Path, inside: Inside, path: str) -> list[DataFile]:
    if inside.tables:
        return table_files(root, inside.tables, path)
    if (both := mapped(inside.media, path)) is not None:
        return both.files(root, path)
    if Path(path).expanduser().is_dir():
        return media_files(root, inside.media, path)
    return in_classes(root, inside.media)


def _passed(reason: str, places: Sequence[Parts]) -> Passed:
    suffixes = Counter(suffix_of(parts[-1]) for parts in places)
    return Passed(reason, dict(suffixes.most_common()), tuple("/".join(parts) for parts in places[:SHOWN]))


def _media_candidates(inside: Inside, path: str) -> tuple[Candidate, ...]:
    """The modalities that read files as samples, with a path that takes just these where there are others."""
    found = []
    for modality in map(find, installed()):
        own = {suffix: count for suffix, count in inside.counts.items() if suffix in modality.suffixes}
        if not own:
            continue
        alone = len(own) == len(inside.counts)
        place = path if alone else f"{path.rstrip('/')}/**/*{max(own, key=lambda suffix: own[suffix])}"
        found.append(Candidate(modality.name, place, own, modality.columns[0]))
    return tuple(sorted(found, key=lambda found: (-sum(found.suffixes.values()), not find(found.modality).lined)))


def _with(survey: Survey, **changes: Any) -> Survey:
    return Survey(**{**vars(survey), **changes})


def _of_table(found: Survey, table: Table) -> Survey:
    """The survey with the columns of a table, and the modalities whose columns are among them, or that read whole rows."""
    numbers = sorted({i * len(table) // LOOKED_AT for i in range(LOOKED_AT)}) if len(table) else []
    rows = table.rows(numbers)
    columns = tuple(_column(name, [row[name] for row in rows]) for name in table.columns)
    candidates = list(found.candidates)
    if not candidates:
        files = Counter[str]() if not found.num_files else Counter(suffix_of(Path(str(part)).name) for part in table.parts)
        for modality in map(find, installed()):
            column = next((name for name in modality.columns if name in table.columns), None)
            if column is not None or not modality.columns:
                candidates.append(Candidate(modality.name, found.path, dict(files), column))
        candidates.sort(key=lambda candidate: candidate.column is None)
    return _with(found, num_rows=len(table), columns=columns, candidates=tuple(candidates), notes=found.more(table.notes))


def _column(name: str, cells: Sequence[Any]) -> ColumnSurvey:
    there = [cell for cell in cells if not lacks_value(cell)]
    kinds = Counter(map(_kind, there))
    kind: CellKind = kinds.most_common(1)[0][0] if kinds else "other"
    sizes = [len(cell) for cell in there if _kind(cell) == kind] if kind in ("string", "list") else []
    distinct = len(there) if kind == "list" else len(set(map(str, there)))
    missing = 1 - len(there) / len(cells) if cells else 0.0
    return ColumnSurvey(name, kind, distinct, missing, float(np.mean(sizes)) if sizes else 0.0, there[0] if there else None)


def _kind(cell: Any) -> CellKind:
    if isinstance(cell, bool | np.bool_):
        return "boolean"
    if isinstance(cell, int | float | np.number):
        return "number"
    if isinstance(cell, str):
        return "string"
    if as_list(cell) is not None:
        return "list"
    return "file" if isinstance(cell, dict) and {"path", "bytes"} & cell.keys() else "other"

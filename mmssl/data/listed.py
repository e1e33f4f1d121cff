"""A folder of media files with a table that says what they are: a row of the table is a sample."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.data.beside import relative_path
from mmssl.data.folder import DataFile, media_files, table_files
from mmssl.data.formats import formats, suffix_of
from mmssl.data.tables import Row, Table
from mmssl.data.walk import SHOWN, Parts

FILE_NAME = "file_name"
"""What the `datasets` library calls the column that names the file of a row."""
SAMPLED = 64
"""Rows that are looked at to tell which columns name files."""

Read = Callable[[Sequence[DataFile]], Table]


class ListedTable(Table):
    """Rows of a table, whose cells in some columns are the media files that they name.

    cells: by such a column, what stands in it. aliases: the column that is also found under the name of a modality's files.
    rows: those of the table that are kept.
    """

    def __init__(self, table: Table, cells: Mapping[str, list[Any]], aliases: Mapping[str, str], rows: Sequence[int]) -> None:
        self._table, self._cells, self._aliases, self._rows = table, cells, aliases, rows
        self.columns = list(dict.fromkeys([*aliases, *table.columns]))
        self.label = "label" if "label" in self.columns else None

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        rows = self._table.rows([self._rows[i] for i in indices])
        return [{name: self._cell(name, i, row) for name in self.columns} for i, row in zip(indices, rows, strict=True)]

    def column(self, name: str) -> list[Any]:
        own = self._aliases.get(name, name)
        if own in self._cells:
            return [self._cells[own][row] for row in self._rows]
        cells = self._table.column(own)
        return [cells[row] for row in self._rows]

    def class_names(self, name: str) -> list[str] | None:
        return self._table.class_names(self._aliases.get(name, name))

    def select(self, names: Sequence[str]) -> Table:
        aliases = {name: own for name, own in self._aliases.items() if name in names}
        own = list(dict.fromkeys(self._aliases.get(name, name) for name in names))
        narrow = ListedTable(self._table.select(own), self._cells, aliases, self._rows)
        narrow.columns = list(names)
        narrow.label = self.label if self.label in names else None
        return narrow

    def _cell(self, name: str, index: int, row: Row) -> Any:
        own = self._aliases.get(name, name)
        return self._cells[own][self._rows[index]] if own in self._cells else row[own]


@dataclass
class _Media:
    """The media files of a folder, to be found by what a cell of a table calls them."""

    folder: Path
    files: dict[Parts, str]

    def __post_init__(self) -> None:
        self.named: dict[str, list[Parts]] = {}
        for parts in self.files:
            self.named.setdefault(parts[-1], []).append(parts)

    def find(self, cell: Any, table: DataFile, where: str) -> Parts | None:
        """The file that a cell of a table names: by its way from the table, or from the top folder, or by the end of its way.

        where: of the cell. ValueError if several ways end so, in the table's split if any do there.
        """
        path = relative_path(cell)
        if path is None:
            return None
        own = _ways(path)
        for parts in (_ways(os.path.join(*table.path.parent.relative_to(self.folder).parts, path)), own):  # noqa: PTH118 (fast)
            if parts in self.files:
                return parts
        ends = [parts for parts in self.named.get(own[-1], ()) if parts[-len(own) :] == own]
        ends = [parts for parts in ends if self.files[parts] == table.split] or ends
        if len(ends) > 1:
            shown = " and ".join("/".join(parts) for parts in ends[:2])
            raise ValueError(f"{where} names {path!r}, which may be {shown}. Write its way from the folder of the table")
        return ends[0] if ends else None


def _ways(path: str) -> Parts:
    """The parts of a relative path, whichever system wrote it."""
    return tuple(os.path.normpath(path.replace("\\", "/")).split("/"))


def listed_table(folder: Path, tables: Sequence[Parts], media: Sequence[Parts], read: Read, path: str, split: str | None) -> Table:
    """The samples of a folder of media files, by the one table (for each split) that lies with them.

    read: opens table files. ValueError if there are several tables, or if none of their columns names files of the folder.
    """
    found = table_files(folder, tables, path)
    if len({file.split for file in found}) < len(found):
        raise _refusal(path, tables, media, f"there are {len(tables)} tables")
    known = _Media(folder, {file.path.relative_to(folder).parts: file.split for file in _media(folder, media, path)})
    # One table for all splits: those of its rows are those of the files that they name.
    undivided = found[0].word is None and len(set(known.files.values())) > 1
    chosen = found if undivided else [file for file in found if file.within(split)]
    if not chosen:
        raise LookupError(f"{path} has no split {split!r}; it has {', '.join(sorted({file.split for file in found}))}")
    table = read(chosen)
    named = {name: _files_in(table, name, known, chosen, path) for name in _columns_of_files(table, known, chosen, path)}
    if not named:
        raise _refusal(path, tables, media, f"no column of {tables[0][-1]} names them, as `{FILE_NAME}` would")
    rows: Sequence[int] = range(len(table))
    if undivided and split is not None:
        rows = _of_split(named, known, split, chosen[0].path)
    listed = ListedTable(table, {name: _cells(folder, table, name, files) for name, files in named.items()}, _aliases(named), rows)
    used = {parts for files in named.values() for row in rows if (parts := files[row])}
    listed.parts = [*([] if undivided else [file.path for file in chosen]), *(folder.joinpath(*parts) for parts in sorted(used))]
    divided = not undivided and len(set(known.files.values())) > 1
    splits = {file.split for file in chosen} if divided else {split} if undivided and split else set(known.files.values())
    others = [parts for parts, of in known.files.items() if parts not in used and of in splits]
    listed.notes = [*table.notes, *_notes(path, chosen, named, rows, others)]
    return listed


def _media(folder: Path, media: Sequence[Parts], path: str) -> list[DataFile]:
    """The media files with their splits, where folders or names say any; with tables beside them, others may be anywhere."""
    try:
        return media_files(folder, media, path)
    except ValueError:
        return [DataFile(folder.joinpath(*parts)) for parts in media]


def _refusal(path: str, tables: Sequence[Parts], media: Sequence[Parts], why: str) -> ValueError:
    shown = ", ".join("/".join(parts) for parts in tables[:SHOWN])
    kinds = formats({suffix_of(parts[-1]) for parts in (tables[0], media[0])})
    one, other = (f"{' or '.join(kinds[suffix_of(parts[-1])])} ({'/'.join(parts)})" for parts in (tables[0], media[0]))
    return ValueError(
        f"{path} mixes formats: {one}, {other}. One table, of each split, may say what the media files are, but {why}. Choose the "
        f"media files with a pattern such as folder/**/*{suffix_of(media[0][-1])}, or give the path of a table ({shown}): files "
        "that its cells name are looked for beside it"
    )


def _columns_of_files(table: Table, known: _Media, chosen: Sequence[DataFile], path: str) -> list[str]:
    """The columns of which some of the first cells, evenly spaced, name a file of the folder."""
    if not len(table):
        return []
    rows = sorted({i * len(table) // SAMPLED for i in range(SAMPLED)})
    sampled = list(zip(rows, table.rows(rows), _owners(table, rows), strict=True))
    return [
        name
        for name in table.columns
        if any(known.find(row[name], chosen[owner], f"row {i} of {path}, column {name},") for i, row, owner in sampled)
    ]


def _owners(table: Table, rows: Sequence[int]) -> list[int]:
    return [0] * len(rows) if table.beside is None else table.beside.owners(rows)


def _files_in(table: Table, name: str, known: _Media, chosen: Sequence[DataFile], path: str) -> list[Parts | None]:
    """The file that each cell of a column names."""
    owners = _owners(table, range(len(table)))
    return [
        known.find(cell, chosen[owner], f"row {row} of {path}, column {name},")
        for row, (cell, owner) in enumerate(zip(table.column(name), owners, strict=True))
    ]


def _cells(folder: Path, table: Table, name: str, files: Sequence[Parts | None]) -> list[Any]:
    """What stands in a column: the files that its cells name, else the cells."""
    return [
        cell if parts is None else {"path": str(folder.joinpath(*parts)), "bytes": None}
        for cell, parts in zip(table.column(name), files, strict=True)
    ]


def _aliases(named: Mapping[str, Sequence[Parts | None]]) -> dict[str, str]:
    """What modalities call their files: the column that holds them, if it is the only one, or the one called `file_name`."""
    owners: dict[str, list[str]] = {}
    for name, files in named.items():
        suffixes = {suffix_of(parts[-1]) for parts in files if parts}
        known = formats(suffixes)
        for kind in set.intersection(*(set(known[suffix]) for suffix in suffixes)):
            owners.setdefault(kind, []).append(name)
    return {
        kind: FILE_NAME if FILE_NAME in names else names[0]
        for kind, names in owners.items()
        if kind not in names and (len(names) == 1 or FILE_NAME in names)
    }


def _of_split(named: Mapping[str, Sequence[Parts | None]], known: _Media, split: str, table: Path) -> list[int]:
    """The rows whose file lies in a split."""
    name = FILE_NAME if FILE_NAME in named else next(iter(named))
    rows = []
    for row, parts in enumerate(named[name]):
        if parts is None:
            raise ValueError(
                f"row {row} of {table} names no file in its column {name}, so its split is not known. Drop or mend the row"
            )
        if known.files[parts] == split:
            rows.append(row)
    if not rows:
        raise LookupError(
            f"{table} has no rows of the split {split!r}; the files lie in {', '.join(sorted(set(known.files.values())))}"
        )
    return rows


def _notes(
    path: str,
    chosen: Sequence[DataFile],
    named: Mapping[str, Sequence[Parts | None]],
    rows: Sequence[int],
    others: Sequence[Parts],
) -> list[str]:
    """What the table does not name (`others`), and what it names that is not there."""
    table = ", ".join(str(file.path) for file in chosen)
    found = [f"{path} is read by {table}: a row is a sample, its file is named by {' and '.join(named)}."]
    if others:
        are = "media file is" if len(others) == 1 else "media files are"
        found.append(f"{path}: {len(others):,} {are} not named by {table} and not read, such as {'/'.join(others[0])}.")
    for name, files in named.items():
        if missing := [row for row in rows if files[row] is None]:
            count = f"{len(missing):,} of {len(rows):,} rows of {table}"
            found.append(f"{count} name no file of the folder in the column {name}, the first is row {missing[0]}.")
    return found

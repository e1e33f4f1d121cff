"""Texts beside other files: `a.jpg` and what is said of it in `a.txt`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl.data.formats import ambiguous, lined, suffix_of
from mmssl.data.tables import ChangedTable, MediaTable, Row
from mmssl.data.walk import Parts, counted, named_alike, places_told

SHARE = 0.5
"""Of the files of a folder that have a text beside them, so that these belong to the data."""


def captions_of(media: Sequence[Parts], over: Sequence[Parts]) -> dict[Parts, Parts]:
    """The text of each file that has one of its place and name; empty if less than half of the files have.

    over: files that are not read otherwise. Texts are files that alone hold a sample in every line, but are notes beside others.
    """
    suffixes = {suffix for suffix in {suffix_of(parts[-1]) for parts in over} & ambiguous() if lined(suffix)}
    found = named_alike(media, [parts for parts in over if suffix_of(parts[-1]) in suffixes])
    return found if len(found) >= SHARE * len(media) else {}


class CaptionedTable(ChangedTable):
    """A row for each media file, with the text beside it where it has one."""

    def __init__(self, table: MediaTable, captions: Mapping[str, str]) -> None:
        super().__init__(table)
        files = [Path(str(part)) for part in table.parts]
        self._texts = [captions.get(str(file)) for file in files]
        self._names = [name for name in lined(suffix_of(next(iter(captions.values())))) if name not in table.columns]
        self.columns = [*(name for name in table.columns if name != table.label), *self._names]
        self.columns += [] if table.label is None else [table.label]
        self.parts = [*table.parts, *(Path(text) for text in self._texts if text is not None)]

    def rows(self, indices: Sequence[int]) -> list[Row]:
        found = self._table.rows(indices)
        return [{name: self._cell(name, i, row) for name in self.columns} for i, row in zip(indices, found, strict=True)]

    def column(self, name: str) -> list[Any]:
        return [self._cell(name, i, {}) for i in range(len(self))] if name in self._names else self._table.column(name)

    def _cell(self, name: str, index: int, row: Row) -> Any:
        if name not in self._names:
            return row[name]
        text = self._texts[index]
        return None if text is None else {"path": text, "bytes": None}


def captioned(table: MediaTable, folder: Path, captions: Mapping[Parts, Parts], path: str) -> CaptionedTable:
    """The table of media files with the texts beside them."""
    paths = {str(folder.joinpath(*media)): str(folder.joinpath(*text)) for media, text in captions.items()}
    found = CaptionedTable(table, paths)
    media, text = next(iter(captions.items()))
    pair = f"such as {'/'.join(media)} and {'/'.join(text)}: column {' or '.join(found._names)}"
    found.notes = [*table.notes, f"{path}: files have the text beside them that is called like them, {pair}."]
    if lacking := [number for number, held in enumerate(found._texts) if held is None]:
        places = [tuple(Path(str(table.parts[number])).relative_to(folder).parts) for number in lacking]
        found.notes += [f"{path}: {counted(places, 'file has', 'files have')} no text beside: {places_told(places)}."]
    return found

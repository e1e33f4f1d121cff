"""What of a folder is data: tables, files that are a sample each, and what is neither."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from mmssl.data.captions import captions_of
from mmssl.data.formats import formats, is_table, suffix_of, without_ambiguous
from mmssl.data.walk import Listing, Parts, walk


@dataclass(frozen=True)
class Inside:
    """The files of a folder, by what they are.

    tables: those that are tables. media: those that are a sample each. counts: how many files of each suffix are data.
    captions: of media files the texts beside them, which are data as well. over: the others.
    """

    listing: Listing
    tables: list[Parts]
    media: list[Parts]
    counts: Counter[str]
    over: list[Parts]
    captions: dict[Parts, Parts]

    def notes(self, path: str) -> list[str]:
        """Sentences on what is not read, if anything is."""
        return self.without(self.captions.values()).listing.notes(path, self.counts)

    def without(self, used: Collection[Parts]) -> "Inside":
        """The same, without files that were read beside others."""
        gone = {*used}
        files = [parts for parts in self.listing.files if parts not in gone]
        return replace(self, listing=replace(self.listing, files=files))

    def first(self) -> dict[str, Path]:
        """One file of each suffix that is data."""
        return {suffix_of(parts[-1]): Path(*parts) for parts in reversed([*self.tables, *self.media])}


def look(folder: Path) -> Inside:
    """What a folder holds, at any depth; hidden files are left out."""
    return sort_out(walk(folder))


def sort_out(listing: Listing) -> Inside:
    """The files of a listing, by their suffixes: ambiguous ones are data only if nothing else is."""
    suffixes = [suffix_of(parts[-1]) for parts in listing.files]
    known = formats({*suffixes} - {""})
    found = [suffix for suffix in suffixes if suffix in known]
    read = without_ambiguous(found) if found else set()
    inside: dict[bool, list[Parts]] = {True: [], False: []}
    over = []
    for parts, suffix in zip(listing.files, suffixes, strict=True):
        if suffix in read:
            inside[is_table(parts[-1])].append(parts)
        else:
            over.append(parts)
    captions = captions_of(inside[False], over) if inside[False] and not inside[True] else {}
    beside = {*captions.values()}
    counts = Counter(suffix for suffix in found if suffix in read)
    return Inside(listing, inside[True], inside[False], counts, [parts for parts in over if parts not in beside], captions)

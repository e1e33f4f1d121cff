"""The files below a folder, or that match a pattern: links are followed, and what could not be listed is told."""

import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

from mmssl.data.formats import suffix_of

Parts = tuple[str, ...]
"""Names of the folders on the way to a file, and its own."""

MAGIC = re.compile(r"[*?\[]")
SHOWN = 8
"""Names or kinds that a message lists."""

_Identity = tuple[int, int]


@dataclass
class Listing:
    """What lies below a folder, each by its place relative to it.

    files: regular files. folders: those entered, the folder itself among them. broken: links that lead nowhere. circles: links that
        lead back to a folder which they lie in, and are not followed. special: pipes, sockets and devices. hidden: those whose
        name begins with a dot, which are left out.
    twice: pairs of folders that are one, by a link.
    """

    files: list[Parts] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    broken: list[Parts] = field(default_factory=list)
    circles: list[Parts] = field(default_factory=list)
    special: list[Parts] = field(default_factory=list)
    hidden: list[Parts] = field(default_factory=list)
    twice: list[tuple[Parts, Parts]] = field(default_factory=list)

    def in_order(self) -> "Listing":
        """The same, sorted by their names, part by part, whatever the order of the file system."""
        for places in (self.files, self.folders, self.broken, self.circles, self.special, self.hidden):
            places.sort()
        self.twice.sort()
        return self

    def notes(self, path: str, read: Collection[str]) -> list[str]:
        """Sentences on what is not read, if anything is; read: the suffixes of the files that are."""
        over = Counter(suffix for parts in self.files if (suffix := suffix_of(parts[-1])) not in read)
        found = []
        if over:
            found.append(f"{path}: {told(over)}.")
        if self.special:
            found.append(f"{path}: {counted(self.special, 'pipe, socket or device', 'pipes, sockets or devices')} passed over.")
        if self.hidden:
            are = counted(self.hidden, "hidden file or folder is", "hidden files and folders are")
            found.append(f"{path}: {are} left out: {places_told(self.hidden)}.")
        if self.broken:
            found.append(f"{path}: {counted(self.broken, 'link leads', 'links lead')} nowhere: {places_told(self.broken)}.")
        if self.circles:
            are = counted(self.circles, "link leads", "links lead")
            found.append(
                f"{path}: {are} back to a folder above and {is_or_are(self.circles)} not followed: {places_told(self.circles)}."
            )
        if self.twice:
            pairs = [f"{'/'.join(a) or '.'} and {'/'.join(b)}" for a, b in self.twice]
            found.append(f"{path}: by links {', '.join(pairs[:SHOWN])}{more(pairs)} are one folder; its files count each time.")
        return found


def told(over: Counter[str]) -> str:
    """How many files were passed over, by suffix: `32 files passed over: 8 .avif, 24 without suffix`."""
    kinds = [
        f"{count:,} {suffix or 'without suffix'}" for suffix, count in sorted(over.items(), key=lambda item: (-item[1], item[0]))
    ]
    shown = kinds[:SHOWN]
    if len(kinds) > SHOWN:
        rest = sum(sorted(over.values(), reverse=True)[SHOWN:])
        shown.append(f"{rest:,} with {len(kinds) - SHOWN} more suffixes")
    count = over.total()
    return f"{count:,} {'file' if count == 1 else 'files'} passed over: {', '.join(shown)}"


def counted(places: Sequence[Parts], one: str, several: str) -> str:
    """So many of something, in words."""
    return f"{len(places):,} {one if len(places) == 1 else several}"


def is_or_are(places: Sequence[Parts]) -> str:
    """The verb that goes with `counted`."""
    return "is" if len(places) == 1 else "are"


def places_told(places: Sequence[Parts]) -> str:
    """The first `SHOWN` places in words, and how many more there are."""
    return ", ".join("/".join(parts) for parts in places[:SHOWN]) + more(places)


def more(items: Sequence[object]) -> str:
    """How many items a sentence leaves out that names the first `SHOWN`."""
    return f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""


def named_alike(files: Sequence[Parts], others: Sequence[Parts]) -> dict[Parts, Parts]:
    """Of each file that has one the other file of its place and name, but for the suffix; of several the first."""
    known = {_stem(parts): parts for parts in reversed(others)}
    return {parts: known[stem] for parts in files if (stem := _stem(parts)) in known}


def _stem(parts: Parts) -> Parts:
    return (*parts[:-1], Path(parts[-1]).stem)


def walk(folder: Path) -> Listing:
    """All that lies below a folder, at any depth. ValueError that names a folder which cannot be listed."""
    found, seen = Listing(), dict[_Identity, Parts]()
    real = folder.resolve()
    above = frozenset(_identity(place.stat()) for place in real.parents)
    todo = [(str(folder), Parts(), above, folder.stat())]
    while todo:
        place, parts, above, status = todo.pop()
        own = _identity(status)
        if own in above:
            found.circles.append(parts)
            continue
        if own in seen:
            found.twice.append((min(seen[own], parts), max(seen[own], parts)))
        seen.setdefault(own, parts)
        found.folders.append(parts)
        for name, inner in _entries(place, hidden=True):
            below = (*parts, name)
            if name.startswith("."):
                found.hidden.append(below)
            elif isinstance(inner, os.stat_result):
                todo.append((os.path.join(place, name), below, above | {own}, inner))  # noqa: PTH118 (fast)
            else:
                getattr(found, inner).append(below)
    return found.in_order()


def _entries(place: str, hidden: bool = False) -> Iterator[tuple[str, os.stat_result | str]]:
    """Names in a folder with the list of a `Listing` that they belong to, or the status of a folder."""
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if hidden or not entry.name.startswith("."):
                    yield entry.name, _kind(entry)
    except OSError as error:
        raise ValueError(f"cannot list the folder {place}: {error.strerror}. Mend that, or move the folder away") from error


def _kind(entry: "os.DirEntry[str]") -> os.stat_result | str:
    if entry.is_file(follow_symlinks=False):
        return "files"
    try:
        status = entry.stat()
    except OSError:  # gone, or a link that leads nowhere, or round and round
        return "broken"
    if stat.S_ISDIR(status.st_mode):
        return status
    return "files" if stat.S_ISREG(status.st_mode) else "special"


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def match(pattern: Path) -> tuple[Path, Listing]:
    """The folder in which a pattern begins, and what below it matches.

    A part that exists by that very name is a name, whatever signs it has: `data[1]/*.csv` reads in the folder `data[1]`. `**` is
    folders of any depth; hidden files match only what begins with a dot.
    """
    root = Path()
    parts = list(pattern.parts)
    while parts and (not MAGIC.search(parts[0]) or os.path.lexists(root / parts[0])):
        root /= parts.pop(0)
    found = Listing()
    if root.is_dir():
        _match(root, Parts(), tuple(parts), found)
    for places in (found.files, found.broken, found.circles, found.special):
        places[:] = dict.fromkeys(places)
    return root, found.in_order()


def _match(root: Path, here: Parts, pattern: Parts, found: Listing) -> None:
    """Add what matches below `here`."""
    first, rest = pattern[0], pattern[1:]
    folder = root.joinpath(*here)
    if first == "**":
        below = walk(folder)
        found.circles += [(*here, *parts) for parts in below.circles]
        for parts in below.folders:
            _match(root, (*here, *parts), rest or ("*",), found)
        return
    named = not MAGIC.search(first) or os.path.lexists(folder / first)
    fits = re.compile(re.escape(first) if named else translate(first)).fullmatch
    for name, kind in _entries(str(folder), hidden=first.startswith(".")):
        if fits(name) is None:
            continue
        if not isinstance(kind, os.stat_result):
            if not rest:
                getattr(found, kind).append((*here, name))
        elif rest:
            _match(root, (*here, name), rest, found)

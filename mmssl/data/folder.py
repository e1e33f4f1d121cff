"""Which split and class the files of a folder belong to, by the names of folders and files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmssl.data.split_names import Named, beginning, check_words, inside, of_folders, whole
from mmssl.data.walk import SHOWN, Parts


@dataclass(frozen=True)
class DataFile:
    """A file with its split and, of a media file, its class. word: what named the split, where anything did."""

    path: Path
    split: str = "train"
    label: str | None = None
    word: str | None = None

    def within(self, split: str | None) -> bool:
        """Whether the file belongs to a split, by its name here (`validation`) or the word that the files have for it (`dev`)."""
        return split is None or self.split == split or self.word == split.lower()


def class_of(parts: Parts) -> str | None:
    """The first sub-folder that a media file lies in."""
    return parts[0] if len(parts) > 1 else None


def classes_of(inside: Sequence[Parts]) -> list[str | None]:
    """The class of each file: the first folder that it lies in, but for folders that hold all of them and others inside."""
    found = [class_of(parts) for parts in inside]
    if len({*found}) != 1 or found[0] is None or not any(len(parts) > 2 for parts in inside):
        return found
    return classes_of([parts[1:] for parts in inside])


def in_classes(folder: Path, inside: Sequence[Parts]) -> list[DataFile]:
    """Files with their classes, all of one split."""
    return [DataFile(folder.joinpath(*parts), label=label) for parts, label in zip(inside, classes_of(inside), strict=True)]


def below_classes(folder: Path, files: Sequence[DataFile]) -> list[str]:
    """Folders within those of classes, where a class holds several: their names, which may be classes too, are not read."""
    found: dict[str, dict[str, None]] = {}
    for file in files:
        above = file.path.relative_to(folder).parts[:-1]
        if file.label in above and (below := above[above.index(file.label) + 1 :]) and whole(below[0]) is None:
            found.setdefault(file.label, {})[f"{file.label}/{below[0]}"] = None
    return [name for names in found.values() if len(names) > 1 for name in names]


def media_files(folder: Path, inside: Sequence[Parts], path: str) -> list[DataFile]:
    """Media files with their splits and classes.

    Folders that are called after splits lie on top, with the classes in them, or in every class, or in one folder that holds all;
    failing that, all files may be called after splits. ValueError where some folders are called so, and others beside are not.
    """
    found = by_folders(inside, (), path) or _by_names(inside)
    if found is None:
        return in_classes(folder, inside)
    return [
        DataFile(folder.joinpath(*parts), named.split, label, named.word)
        for parts, (named, label) in zip(inside, found, strict=True)
    ]


Place = tuple[Named, str | None]
"""Split and class of a file."""


def by_folders(inside: Sequence[Parts], above: Parts, path: str) -> list[Place] | None:
    """Splits and classes by folders; None if no folder is called after a split. above: folders that hold all of them.

    ValueError where some folders are called so, and others beside are not.
    """
    where = "/".join((path.rstrip("/"), *above))
    tops = dict.fromkeys(parts[0] for parts in inside if len(parts) > 1)
    named = of_folders(tops)
    if named:
        _check_all(named, inside, 0, where)
        labels = classes_of([parts[1:] for parts in inside])
        return [(named[parts[0]], label) for parts, label in zip(inside, labels, strict=True)]
    if len(tops) == 1 and all(len(parts) > 1 for parts in inside):
        top = next(iter(tops))
        return by_folders([parts[1:] for parts in inside], (*above, top), path)
    # `train station` is a class, `train` in a class is a split: below classes only whole names count.
    named = {name: found for name in dict.fromkeys(parts[1] for parts in inside if len(parts) > 2) if (found := whole(name))}
    if not named:
        return None
    _check_all(named, inside, 1, where)
    return [(named[parts[1]], parts[0]) for parts in inside]


def _check_all(named: dict[str, Named], inside: Sequence[Parts], level: int, where: str) -> None:
    """ValueError unless all files lie, at that level, in folders that are called after a split, each split by one word."""
    strangers = dict.fromkeys(
        "/".join(parts[: level + 1]) for parts in inside if len(parts) <= level + 1 or parts[level] not in named
    )
    if strangers:
        listed = ", ".join(list(strangers)[:SHOWN]) + (f" and {len(strangers) - SHOWN:,} more" if len(strangers) > SHOWN else "")
        raise ValueError(
            f"folder {where}: {', '.join(named)} {'is' if len(named) == 1 else 'are'} called after a split, but beside "
            f"{'it' if len(named) == 1 else 'them'} there {'is' if len(strangers) == 1 else 'are'} {listed}. Move or rename "
            f"{'it' if len(strangers) == 1 else 'them'}; if all are classes, give a pattern: {where}/**/*{_suffix(inside)}"
        )
    check_words(named, f"folder {where}")


def _suffix(inside: Sequence[Parts]) -> str:
    return Path(inside[0][-1]).suffix


def _by_names(inside: Sequence[Parts]) -> list[Place] | None:
    """Splits by the names of the files, if all of them have one, and there are several."""
    named = []
    for parts, label in zip(inside, classes_of(inside), strict=True):
        found = inside_name(parts)
        if found is None:
            return None
        named.append((found, label))
    return named if len({found.split for found, _ in named}) > 1 else None


def inside_name(parts: Parts) -> Named | None:
    """The split that a file's own name holds."""
    return inside(Path(parts[-1]).stem)


def table_files(folder: Path, tables: Sequence[Parts], path: str) -> list[DataFile]:
    """Splits come from file or folder names, on all files or on none: a nameless file might hold the test rows again."""
    named = {parts: _split_of(parts) for parts in tables}
    nameless = ["/".join(parts) for parts, found in named.items() if found is None]
    if len(nameless) == len(tables):
        return [DataFile(folder.joinpath(*parts)) for parts in tables]
    if nameless:
        raise ValueError(
            f"folder {path}: some files are named after a split (train*, test*, validation*), but these are not: "
            f"{', '.join(nameless[:SHOWN])}. Rename or move them, or give a pattern such as folder/train*.parquet"
        )
    known = {"/".join(parts): found for parts, found in named.items() if found is not None}
    check_words(known, f"folder {path}")
    return [DataFile(folder / name, found.split, word=found.word) for name, found in known.items()]


def _split_of(parts: Parts) -> Named | None:
    names = [*parts[:-1], Path(parts[-1]).stem]
    return next((found for name in names if (found := beginning(name))), None)

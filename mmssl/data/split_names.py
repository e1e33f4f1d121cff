"""How files and folders are named after a split, in the forms that people use."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

SPLITS = {
    "train": ("train", "training", "trainval"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "unlabeled": ("unlabeled", "unlabelled", "unsupervised"),
    "extra": ("extra",),
}
"""Splits, and the words for each, as the `datasets` library has them; upper and lower case are alike."""

ENDINGS = ("set", "data", "images", "imgs", "files", "samples", "split", "part")
"""What may follow the word in the name of a folder, of one or several, with or without a sign between: `test_images`."""

_OF = {word: split for split, words in SPLITS.items() for word in words}
_WORD = "|".join(sorted(_OF, key=len, reverse=True))
_ENDING = "|".join(f"{ending.removesuffix('s')}s?" for ending in ENDINGS)
_WHOLE = re.compile(rf"({_WORD})(?:[-_. ]?(?:{_ENDING}))?[-_. ]?\d*", re.IGNORECASE)
_BEFORE = "(?-i:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
_AFTER = "(?-i:(?![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
_INSIDE = re.compile(rf"{_BEFORE}({_WORD})(?:{_ENDING})?{_AFTER}", re.IGNORECASE)
_BEGINNING = re.compile(r"(train|test|validation|valid)", re.IGNORECASE)


class Named(NamedTuple):
    """A split, and the word that named it."""

    split: str
    word: str


def whole(name: str) -> Named | None:
    """The split that a name is nothing but the name of: `Train`, `test_images`, `val2017`."""
    return _named(_WHOLE.fullmatch(name))


def inside(name: str) -> Named | None:
    """The split that a name holds as a word of its own: `mnist_train`, `testA`, `train-00000-of-00010`."""
    return _named(_INSIDE.search(name))


def beginning(name: str) -> Named | None:
    """The split that a name of a table holds, or begins with: `trainb`."""
    return inside(name) or _named(_BEGINNING.match(name))


def of_folders(names: Iterable[str]) -> dict[str, Named]:
    """Which of the folders that lie side by side are named after a split.

    A word inside of a name counts if there are two splits so named: `seg_train` beside `seg_test`, but not `train_station`.
    """
    names = list(names)
    found = {name: named for name in names if (named := whole(name))}
    if found:
        return found
    found = {name: named for name in names if (named := inside(name))}
    return found if len({named.split for named in found.values()}) > 1 else {}


def check_words(found: Mapping[str, Named], path: str) -> None:
    """ValueError if two words name one split: `train` and `trainval` may hold the same samples."""
    words: dict[str, dict[str, str]] = {}
    for name, named in found.items():
        words.setdefault(named.split, {}).setdefault(named.word, name)
    for split, names in words.items():
        if len(names) > 1:
            raise ValueError(
                f"{path}: {' and '.join(sorted(names.values()))} name one split, {split}. Rename one, or give the path of one, or "
                "a pattern that takes what you want"
            )


def _named(match: re.Match[str] | None) -> Named | None:
    return None if match is None else Named(_OF[match[1].lower()], match[1].lower())

"""Law: a folder is read as an independent walk finds it, or refused: for trees of links, splits, classes and suffixes."""

# ruff: noqa: PTH113, PTH118, PTH120, PTH122, PTH206

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data import Source

WORDS = {
    **{"train": ("train", "train"), "Training": ("train", "training"), "test": ("test", "test"), "TESTING": ("test", "testing")},
    **{
        "val": ("validation", "val"),
        "dev_set": ("validation", "dev"),
        "eval": ("test", "eval"),
        "unlabelled": ("unlabeled", "unlabelled"),
    },
}
SUFFIXES = {".png": True, ".JPG": True, ".avif": True, ".jfif": True, ".xcf": False, ".log": False, "": False}

folders = st.sampled_from(["cat", "dog", "training_shoe", ".hidden", *WORDS])
files = st.builds("{}{}".format, st.sampled_from("abc"), st.sampled_from(sorted(SUFFIXES)))
free = st.lists(st.tuples(st.lists(folders, max_size=3), files), min_size=1, max_size=10)
split_first = st.lists(st.tuples(st.tuples(st.sampled_from(sorted(WORDS)), st.sampled_from(["cat", "dog"])), files), min_size=1)
class_first = st.lists(st.tuples(st.tuples(st.sampled_from(["cat", "dog"]), st.sampled_from(sorted(WORDS))), files), min_size=1)
trees = st.one_of(free, split_first, class_first)
links = st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["cat", "link", "test", "x.png"]), st.integers(-3, 99)), max_size=3)


def grow(top: Path, tree: list[tuple[list[str], str]], drawn: list[tuple[int, str, int]]) -> None:
    """Files, then links from some folder to another, to a file, to a folder above, or to nothing."""
    for parts, name in tree:
        folder = top.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    places = sorted(path for path in top.rglob("*") if ".hidden" not in path.parts)
    inside = [top, *(path for path in places if path.is_dir())]
    targets = [*places, top, top.parent, top / "nowhere"]
    for where, name, target in drawn:
        link = inside[where % len(inside)] / name
        if not os.path.lexists(link):
            link.symlink_to(targets[target % len(targets)])


def walked(top: str) -> Iterator[tuple[list[str], bool]]:
    """The way to each file, and to each link that leads nowhere (False), by `os.walk`."""
    above = {os.path.realpath(top)}
    while (parent := os.path.dirname(min(above, key=len))) not in above:
        above.add(parent)
    for folder, below, names in os.walk(top, followlinks=True):
        way = [] if folder == top else os.path.relpath(folder, top).split(os.sep)
        chain = above | {os.path.realpath(os.path.join(top, *way[:i])) for i in range(len(way) + 1)}
        below[:] = [name for name in below if name[0] != "." and os.path.realpath(os.path.join(folder, name)) not in chain]
        for name in names:
            if name[0] != ".":
                yield [*way, name], os.path.isfile(os.path.join(folder, name))


def expected(ways: list[list[str]]) -> list[tuple[str, str | None]] | None:
    """Split and class of each file; None where the names are at odds, and the folder must be refused."""
    inner = ways
    while True:
        if any(len(way) > 1 and way[0] in WORDS for way in inner):
            return arranged(inner, 0)
        if len({way[0] for way in inner}) > 1 or len(inner[0]) == 1:
            break
        inner = [way[1:] for way in inner]  # one folder holds all
    if any(len(way) > 2 and way[1] in WORDS for way in inner):
        return arranged(inner, 1)
    return [("train", way[0] if len(way) > 1 else None) for way in ways]


def arranged(ways: list[list[str]], level: int) -> list[tuple[str, str | None]] | None:
    """Split and class of each file by the folders on a level; None unless all are called after a split, each split by one word."""
    if not all(len(way) > level + 1 and way[level] in WORDS for way in ways):
        return None
    words = {WORDS[way[level]] for way in ways}
    if len(words) > len({split for split, _ in words}):
        return None
    return [(WORDS[way[level]][0], way[0] if level else way[1] if len(way) > 2 else None) for way in ways]


def check(tree: list[tuple[list[str], str]], drawn: list[tuple[int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        top = Path(place, "set")
        top.mkdir()
        grow(top, tree, drawn)
        found = list(walked(str(top)))
        ways = sorted(way for way, whole in found if whole)
        read = [way for way in ways if SUFFIXES[os.path.splitext(way[-1])[1]]]
        over = Counter(os.path.splitext(way[-1])[1] for way in ways if way not in read)
        if not read:
            with pytest.raises(FileNotFoundError, match="holds no data files"):
                Source(path=str(top))
            return
        truth = expected(read)
        if truth is None:
            with pytest.raises(ValueError, match=r"called after a split, but beside|name one split"):
                Source(path=str(top))
            return
        notes: set[str] = set()
        for split in {split for split, _ in truth}:
            source = Source(path=str(top), split=split)
            cells = [(row["image"]["path"], row.get("label")) for row in source.rows(range(len(source)))]
            right = [(str(top.joinpath(*way)), label) for way, (its, label) in zip(read, truth, strict=True) if its == split]
            assert cells == right
            notes.update(source.notes)
        told = " ".join(notes)
        if over:
            assert f"{over.total()} file{'s' * (over.total() > 1)} passed over" in told
            assert all(f"{count} {suffix or 'without suffix'}" in told for suffix, count in over.items())
        else:
            assert "passed over" not in told
        broken = sum(not whole for _, whole in found)
        assert (f"{broken} link" in told and "nowhere" in told) if broken else "nowhere" not in told


@settings(max_examples=100)
@given(tree=trees, drawn=links)
def test_a_folder_is_read_as_it_is_or_refused(tree: list[tuple[list[str], str]], drawn: list[tuple[int, str, int]]) -> None:
    check(tree, drawn)


@pytest.mark.slow
@settings(max_examples=2000)
@given(tree=trees, drawn=links)
def test_two_thousand_folders_are_read_as_they_are_or_refused(
    tree: list[tuple[list[str], str]], drawn: list[tuple[int, str, int]]
) -> None:
    check(tree, drawn)

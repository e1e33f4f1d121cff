"""Small datasets that come with the packages that this one needs, or an extra does: they work at once, offline, on any machine."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from mmssl.data import glyphs
from mmssl.data.archives import archive_table
from mmssl.data.docstrings import docstrings
from mmssl.data.python_lines import python_table
from mmssl.data.tables import Row, RowTable, Table

if TYPE_CHECKING:
    from sklearn.utils import Bunch

TARGET = "target"
TEST_SHARE = 0.2
SPLIT_SEED = 0
"""Part of what a published score on these data means: changing it changes every such score."""
DIGITS_TESTED = (
    "000004883524104000064100934205001a00080100240028062c12001000940a009019120420f8a0028110a000080a8820441524494240a00a000000"
    "4004d80000818020004805c400104008a0100005404800301000020ec409000224840083a8013c20a6980a0000000b08400804a0184802024041c100"
    "8004404684376a810216004480004042a0a4180a5000840b8561c608108008004c80c02004068e00010882008100380803c008190000100e01008410"
    "a0210033282904c044c080680e0102830082008822a6402c24042108a860809081a00c02820242120138a41500"
)
"""A bit for each of the digits: whether that row is in the test split."""


def _of_sklearn(load: str, **options: Any) -> "Bunch":
    """What one of scikit-learn's loaders returns."""
    from sklearn import datasets  # takes a second, and few need it

    return getattr(datasets, load)(**options)


def _digits() -> list[Row]:
    """As scikit-learn's `load_digits` has them: 64 numbers from 0 to 16 a line, and the digit. Its import takes a second."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
    numbers = np.loadtxt(file, delimiter=",")
    pixels = (numbers[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    digits = numbers[:, -1].astype(int).tolist()
    return [{"image": Image.fromarray(image), TARGET: digit} for image, digit in zip(pixels, digits, strict=True)]


def _digits_of(split: str | None) -> Table:
    """The split is that of `_stratified`, written down."""
    rows = _digits()
    if split is not None:
        tested = np.unpackbits(np.frombuffer(bytes.fromhex(DIGITS_TESTED), np.uint8), count=len(rows)).astype(bool)
        rows = [rows[i] for i in np.flatnonzero(tested == (split == "test"))]
    return RowTable(rows, TARGET)


def _table(data: "Bunch") -> list[Row]:
    """One key per feature; classes by their names."""
    targets = data.target_names[data.target] if "target_names" in data else data.target
    columns = [str(name) for name in data.feature_names]
    return [
        {**dict(zip(columns, features, strict=True)), TARGET: target}
        for features, target in zip(data.data.tolist(), targets.tolist(), strict=True)
    ]


def _stratified(load: Callable[[], list[Row]], split: str | None) -> Table:
    """`train`, 80 % of the rows; `test`, 20 %, stratified by class; or all of them."""
    from sklearn.model_selection import train_test_split  # takes a second, and few need it

    rows = load()
    if split is not None:
        targets = [row[TARGET] for row in rows]
        classes = None if isinstance(targets[0], float) else targets
        parts = train_test_split(np.arange(len(rows)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=classes)
        rows = [rows[i] for i in np.sort(parts[split == "test"])]
    return RowTable(rows, TARGET)


class _Bundled(NamedTuple):
    """One dataset: what opens a split, None for all rows, and the names of its splits."""

    open: Callable[[str | None], Table]
    splits: tuple[str, ...] = ("train", "test")


_BUNDLED = {
    "breast_cancer": _Bundled(partial(_stratified, lambda: _table(_of_sklearn("load_breast_cancer")))),
    "diabetes": _Bundled(partial(_stratified, lambda: _table(_of_sklearn("load_diabetes", scaled=False)))),
    "docstrings": _Bundled(partial(_stratified, docstrings)),
    "digits": _Bundled(_digits_of),
    "glyphs": _Bundled(glyphs.GlyphTable, glyphs.SPLITS),
    "python": _Bundled(python_table),
    "wine": _Bundled(partial(_stratified, lambda: _table(_of_sklearn("load_wine")))),
}
NAMES = sorted(_BUNDLED)
ARCHIVE = "ucr/"
"""Begins the names of sets of the UCR / UEA archive, which come with aeon."""
ENDS = ("_TRAIN.ts", "_TEST.ts")
"""Of the files of a set, by its splits train and test."""
NO_SET = "UnitTest"
"""What aeon's own tests read: a part of another set."""


def _archive() -> Path:
    """The folder of the sets that come with aeon, which is not imported for them. ImportError with the extra that installs it."""
    package = find_spec("aeon")
    if package is None or package.origin is None:
        raise ImportError(
            f"bundled:{ARCHIVE}NAME is a set of the UCR / UEA archive that comes with aeon: pip install mmssl[demo]", name="aeon"
        )
    return Path(package.origin).parent / "datasets" / "data"


def _of_archive(name: str) -> _Bundled:
    """One set of the archive. LookupError with those that there are."""
    folder = _archive()
    places = [place for place in sorted(folder.glob("*")) if place.name != NO_SET]
    names = [place.name for place in places if all((place / f"{place.name}{end}").is_file() for end in ENDS)]
    if name not in names:
        raise LookupError(_unknown(f"{ARCHIVE}{name}", [f"{ARCHIVE}{known}" for known in names]))

    def opened(split: str | None) -> Table:
        ends = [end for part, end in zip(("train", "test"), ENDS, strict=True) if split in (None, part)]
        return archive_table("ts", [folder / name / f"{name}{end}" for end in ends], f"bundled:{ARCHIVE}{name}")

    return _Bundled(opened)


def _unknown(name: str, known: Sequence[str]) -> str:
    """That there is no such dataset, and which there are."""
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no bundled dataset {name!r}; there are {', '.join(known)}.{hint}"


def bundled_table(name: str, split: str | None) -> Table:
    """The rows of a split of a bundled dataset, or all of them (None)."""
    if name.startswith(ARCHIVE):
        found = _of_archive(name.removeprefix(ARCHIVE))
    elif name in _BUNDLED:
        found = _BUNDLED[name]
    else:
        raise LookupError(_unknown(name, [*NAMES, f"{ARCHIVE}NAME (of the UCR / UEA archive)"]))
    if split is not None and split not in found.splits:
        raise LookupError(f"bundled:{name} has no split {split!r}; it has {', '.join(found.splits)}")
    table = found.open(split)
    table.parts = [f"bundled:{name}/{part}" for part in (found.splits if split is None else (split,))]
    return table

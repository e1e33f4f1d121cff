"""Small datasets that come with the packages that this one needs: they work at once, offline, on any machine."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from mmssl.data import glyphs
from mmssl.data.docstrings import docstrings
from mmssl.data.tables import Row, RowTable, Table

TARGET = "target"
TEST_SHARE = 0.2
SPLIT_SEED = 0
"""Part of what a published score on these data means: changing it changes every such score."""


def _digits() -> list[Row]:
    data = datasets.load_digits()
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)
    return [{"image": Image.fromarray(image), TARGET: int(digit)} for image, digit in zip(pixels, data.target, strict=True)]


def _table(data: Bunch) -> list[Row]:
    """One key per feature; classes by their names."""
    targets = data.target_names[data.target] if "target_names" in data else data.target
    columns = [str(name) for name in data.feature_names]
    return [
        {**dict(zip(columns, features, strict=True)), TARGET: target}
        for features, target in zip(data.data.tolist(), targets.tolist(), strict=True)
    ]


def _stratified(load: Callable[[], list[Row]], split: str | None) -> Table:
    """`train`, 80 % of the rows; `test`, 20 %, stratified by class; or all of them."""
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
    "breast_cancer": _Bundled(partial(_stratified, lambda: _table(datasets.load_breast_cancer()))),
    "diabetes": _Bundled(partial(_stratified, lambda: _table(datasets.load_diabetes(scaled=False)))),
    "docstrings": _Bundled(partial(_stratified, docstrings)),
    "digits": _Bundled(partial(_stratified, _digits)),
    "glyphs": _Bundled(glyphs.GlyphTable, glyphs.SPLITS),
    "wine": _Bundled(partial(_stratified, lambda: _table(datasets.load_wine()))),
}
NAMES = sorted(_BUNDLED)


def bundled_table(name: str, split: str | None) -> Table:
    """The rows of a split of a bundled dataset, or all of them (None)."""
    if name not in _BUNDLED:
        near = get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"no bundled dataset {name!r}; there are {', '.join(NAMES)}.{hint}")
    found = _BUNDLED[name]
    if split is not None and split not in found.splits:
        raise LookupError(f"bundled:{name} has no split {split!r}; it has {', '.join(found.splits)}")
    table = found.open(split)
    table.parts = [f"bundled:{name}/{part}" for part in (found.splits if split is None else (split,))]
    return table

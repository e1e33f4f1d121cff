"""One fitted column of a table: how a cell becomes a number, a class, the parts of a date, or hashed words."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from mmssl_modalities.tabular.cells import (
    CATEGORIES,
    absent,
    all_seconds,
    bag,
    bucket,
    category_text,
    each,
    is_missing,
    placed,
    shown,
    to_number,
    to_numbers,
    to_seconds,
)

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["numeric", "categorical", "datetime", "text"]
Scaling = Literal["standard", "quantile"]
Unseen = Literal["unknown", "raise"]
Cells = Sequence[Any] | np.ndarray
"""The cells of one column, in whatever the user had them."""

MISSING = 0
"""The class of a missing categorical cell, in every column."""
CLIP = 20.0
"""Standard deviations at which a scaled number is cut, so that one broken cell (1e30) cannot swamp a batch; adult reaches 13.4."""
PERIODS = (365.2425 * 86400, 7 * 86400, 86400)
"""Seconds of a year, a week and a day, of which a date has the phase."""
DATE_VALUES = 1 + 2 * len(PERIODS)
"""Numbers that a date becomes: the scaled time, then sine and cosine of each phase."""


@dataclass(frozen=True)
class StandardColumn:
    """A number in standard deviations from the training mean, cut at +-`CLIP`.

    missing: share of the training cells that were missing.
    """

    name: str
    missing: float
    mean: float
    std: float

    def encode(self, cell: Any) -> float:
        """The scaled number; NaN where the cell is missing."""
        # The order of the arguments lets NaN pass through both.
        return min(max((to_number(cell, self.name) - self.mean) / self.std, -CLIP), CLIP)

    def encode_all(self, cells: Cells) -> Float[np.ndarray, " n"]:
        """`encode` of every cell."""
        with np.errstate(over="ignore"):
            return np.clip((to_numbers(cells, self.name) - self.mean) / self.std, -CLIP, CLIP)


@dataclass(frozen=True)
class QuantileColumn:
    """A number by its rank among the training cells, as the normal score of that rank: straight lines between knots, flat outside.

    Equal knots (a value that many rows share) take the score of their mean rank.

    missing: share of the training cells that were missing.
    knots: values at the ranks (i + 1/2) / number of knots, ascending.
    """

    name: str
    missing: float
    knots: list[float]

    @cached_property
    def _curve(self) -> tuple[list[float], list[float]]:
        values, group, count = np.unique(self.knots, return_inverse=True, return_counts=True)
        rank = np.bincount(group, np.arange(len(self.knots)) + 0.5) / (count * len(self.knots))
        return values.tolist(), [NormalDist().inv_cdf(r) for r in rank.tolist()]

    @cached_property
    def _points(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        return np.array(self._curve[0]), np.array(self._curve[1])

    def encode(self, cell: Any) -> float:
        """The normal score; NaN where the cell is missing."""
        number = to_number(cell, self.name)
        if math.isnan(number):
            return number
        values, scores = self._curve
        right = bisect_right(values, number)
        if right == 0 or right == len(values):
            return scores[max(right - 1, 0)]
        below, above = values[right - 1] / 2, values[right] / 2  # halves, as the difference of two floats may be infinite
        share = (number / 2 - below) / ((above - below) or 1.0)
        return scores[right - 1] + share * (scores[right] - scores[right - 1])

    def encode_all(self, cells: Cells) -> Float[np.ndarray, " n"]:
        """`encode` of every cell, by the same operations in the same order."""
        numbers = to_numbers(cells, self.name)
        values, scores = self._points
        right = np.searchsorted(values, numbers, side="right").clip(1, max(len(values) - 1, 1))
        left, right = right - 1, np.minimum(right, len(values) - 1)
        below, above = values[left] / 2, values[right] / 2
        share = (np.clip(numbers, values[0], values[-1]) / 2 - below) / np.where(above > below, above - below, 1.0)
        inside = scores[left] + share * (scores[right] - scores[left])
        found = np.where(numbers >= values[-1], scores[-1], np.where(numbers <= values[0], scores[0], inside))
        return np.where(np.isnan(numbers), np.nan, found)

    def edges(self, bins: int) -> list[float]:
        """Ascending scores that cut the column into at most `bins` bins of nearly equally many distinct knots."""
        scores = self._curve[1]
        if len(scores) == 1:
            return [scores[0], scores[0] + 1]
        picked = np.linspace(0, len(scores) - 1, min(bins, len(scores) - 1) + 1).round().astype(int)
        return [scores[i] for i in picked]


@dataclass(frozen=True)
class CategoricalColumn:
    """A category by its class, numbered over all columns of the table: `unknown`, then `unknown + 1` for the first category, ...

    missing: share of the training cells that were missing.
    unknown: the class of rare and unseen categories.
    unseen: what to do with a category that training did not hold: the class `unknown`, or ValueError.
    """

    name: str
    missing: float
    categories: list[str | bool | int | float]
    unknown: int
    unseen: Unseen

    @property
    def num_classes(self) -> int:
        """Classes of this column, `unknown` among them."""
        return 1 + len(self.categories)

    @cached_property
    def _classes(self) -> dict[Any, int]:
        return dict.fromkeys(absent(), MISSING) | {category: self.unknown + 1 + i for i, category in enumerate(self.categories)}

    def encode(self, cell: Any) -> int:
        """The class of a cell; `MISSING` where it is missing."""
        try:
            found = self._classes.get(cell)
        except TypeError:  # a list cannot be looked up
            found = None
        return self._unlisted(cell) if found is None else found

    def encode_all(self, cells: Cells) -> Int[np.ndarray, " n"]:
        """`encode` of every cell."""
        plain = _plain(cells)
        try:
            found = list(map(self._classes.get, plain))
        except TypeError:
            found = [None] * len(plain)
        if None in found:
            rows = [row for row, label in enumerate(found) if label is None]
            for row in rows:
                cell = plain[row]
                found[row] = MISSING if is_missing(cell) else self._placed(cell, row)
        return np.array(found, np.int64)

    def _placed(self, cell: Any, row: int) -> int:
        try:
            return self.encode(cell)
        except (TypeError, ValueError) as error:
            raise placed(f"row {row}", error) from error

    def _unlisted(self, cell: Any) -> int:
        if is_missing(cell):
            return MISSING
        known = ", ".join(map(repr, self.categories[:10])) + (", ..." if len(self.categories) > 10 else "")
        kind = type(cell).__name__
        # Text where training had numbers (a file read in another way) would make every cell unknown, silently.
        if not isinstance(cell, CATEGORIES) or isinstance(cell, str) not in {isinstance(c, str) for c in self.categories}:
            raise TypeError(f"column {self.name!r} takes categories such as {known}; got {shown(cell)} ({kind}). Convert it")
        if self.unseen == "raise":
            raise ValueError(
                f"column {self.name!r} has the unseen category {shown(cell)}; training held {known}. Pass None, or set "
                "unseen: unknown"
            )
        return self.unknown


@dataclass(frozen=True)
class HashedColumn:
    """A category by the hash of its text: one of `num_classes` classes from `first` on, which different categories may share.

    missing: share of the training cells that were missing.
    holds: text or numbers, where training held one of them alone.
    """

    name: str
    missing: float
    num_classes: int
    holds: Literal["text", "numbers", "both"]
    first: int

    def encode(self, cell: Any) -> int:
        """The class of a cell; `MISSING` where it is missing."""
        if is_missing(cell):
            return MISSING
        kind = "text" if isinstance(cell, str) else "numbers"
        if not isinstance(cell, CATEGORIES) or self.holds not in (kind, "both"):
            what = {"both": "text or numbers"}.get(self.holds, self.holds)
            raise TypeError(
                f"column {self.name!r} takes categories, in training {what}; got {shown(cell)} ({type(cell).__name__}). Convert it"
            )
        text = cell if isinstance(cell, str) else category_text(to_number(cell, self.name))
        return self.first + bucket(text, self.num_classes)

    def encode_all(self, cells: Cells) -> Int[np.ndarray, " n"]:
        """`encode` of every cell."""
        return np.array(each(self.encode, _plain(cells)), np.int64)


@dataclass(frozen=True)
class DateColumn:
    """A date or instant as `DATE_VALUES` numbers: its time in standard deviations from the training mean, cut at +-`CLIP`, then
    sine and cosine of its phase in the mean year, the week and the day, in UTC.

    missing: share of the training cells that were missing.
    mean, std: in seconds since 2000-01-01 UTC.
    """

    name: str
    missing: float
    mean: float
    std: float

    def encode(self, cell: Any) -> list[float]:
        """The numbers; NaN where the cell is missing."""
        return self._values(np.array([to_seconds(cell, self.name)]))[0].tolist()

    def encode_all(self, cells: Cells) -> Float[np.ndarray, "n v"]:
        """`encode` of every cell."""
        return self._values(all_seconds(cells, self.name))

    def _values(self, seconds: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n v"]:
        phases = [2 * math.pi * (np.mod(seconds, period) / period) for period in PERIODS]
        scaled = np.clip((seconds - self.mean) / self.std, -CLIP, CLIP)
        return np.stack([scaled, *(wave(phase) for phase in phases for wave in (np.sin, np.cos))], 1)


@dataclass(frozen=True)
class TextColumn:
    """Text as numbers 1 .. `buckets` for its words and their parts, at most `count` of them, then zeros; zeros alone if missing.

    missing: share of the training cells that were missing.
    """

    name: str
    missing: float
    count: int
    buckets: int

    def encode(self, cell: Any) -> list[int]:
        """The hashed words of a cell; see `bag`."""
        if is_missing(cell):
            return [0] * self.count
        if not isinstance(cell, str):
            raise TypeError(
                f"column {self.name!r} takes text; got {shown(cell)} ({type(cell).__name__}). Convert it, or pass None for a "
                "missing value"
            )
        found = bag(cell, self.count, self.buckets)
        return found + [0] * (self.count - len(found))

    def encode_all(self, cells: Cells) -> Int[np.ndarray, "n h"]:
        """`encode` of every cell."""
        plain = _plain(cells)
        return np.array(each(self.encode, plain), np.int64).reshape(len(plain), self.count)


def _plain(cells: Cells) -> Sequence[Any]:
    """Python values; dates stay numpy's, which would come out as whole numbers."""
    if not isinstance(cells, np.ndarray):
        return cells
    return list(cells) if cells.dtype.kind == "M" else cells.tolist()


NumericColumn = StandardColumn | QuantileColumn
ClassColumn = CategoricalColumn | HashedColumn
Column = NumericColumn | ClassColumn | DateColumn | TextColumn


def encode_column(column: Column, cells: "Cells | pd.Categorical") -> Shaped[np.ndarray, "n ..."]:
    """All cells of a column encoded; those of a pandas Categorical once per category. Errors name the row."""
    import pandas as pd  # takes half a second, and few need it

    if not isinstance(cells, pd.Categorical):
        return column.encode_all(cells)
    used = cells.remove_unused_categories()
    try:
        return column.encode_all([*used.categories.tolist(), None])[used.codes]  # the code of a missing cell is -1
    except (TypeError, ValueError):
        return column.encode_all(cells.tolist())

"""One column of a table: what its training cells hold, and how a cell becomes a number or a class."""

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

Kind = Literal["numeric", "categorical"]
Scaling = Literal["standard", "quantile"]
Unseen = Literal["unknown", "raise"]

MISSING = 0
"""The class of a missing categorical cell, in every column."""
CLIP = 20.0
"""Standard deviations at which a scaled number is cut, so that one broken cell (1e30) cannot swamp a batch; adult reaches 13.4."""
NUM_KNOTS = 200

_NUMBERS = (float, int, np.floating, np.integer, np.bool_, Decimal)
_CATEGORIES = (str, *_NUMBERS)
_ABSENT = (None, "", pd.NA, pd.NaT)


def is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA and NaT, or empty text."""
    if isinstance(cell, _NUMBERS):
        return bool(cell != cell)
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, str) and not cell)


def to_number(cell: Any, column: str) -> float:
    """A cell as a float, NaN where it is missing. TypeError for anything but a number, ValueError for an infinite one."""
    if not isinstance(cell, _NUMBERS):
        if is_missing(cell):
            return math.nan
        raise TypeError(
            f"column {column!r} takes numbers; got {cell!r} ({type(cell).__name__}). Convert it, or pass None for "
            "a missing value; if the column holds categories, fit with its name in categorical_columns"
        )
    try:
        number = float(cell)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise ValueError(f"column {column!r} takes finite numbers; got {cell}. Pass None if the value is missing")
    return number


def _to_category(cell: Any, column: str) -> str | bool | int | float:
    """A cell as a value that JSON keeps."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    return value if isinstance(value, str | bool | int) else to_number(value, column)


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

    def encode(self, cell: Any) -> float:
        """The normal score; NaN where the cell is missing."""
        number = to_number(cell, self.name)
        if math.isnan(number):
            return number
        values, scores = self._curve
        right = bisect_right(values, number)
        if right == 0 or right == len(values):
            return scores[max(right - 1, 0)]
        share = (number - values[right - 1]) / (values[right] - values[right - 1])
        return scores[right - 1] + share * (scores[right] - scores[right - 1])


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

    @cached_property
    def _classes(self) -> dict[Any, int]:
        return dict.fromkeys(_ABSENT, MISSING) | {category: self.unknown + 1 + i for i, category in enumerate(self.categories)}

    def encode(self, cell: Any) -> int:
        """The class of a cell; `MISSING` where it is missing."""
        try:
            found = self._classes.get(cell)
        except TypeError:  # a list cannot be looked up
            found = None
        return self._unlisted(cell) if found is None else found

    def _unlisted(self, cell: Any) -> int:
        if is_missing(cell):
            return MISSING
        known = ", ".join(map(repr, self.categories[:10])) + (", ..." if len(self.categories) > 10 else "")
        kind = type(cell).__name__
        # Text where training had numbers (a file read in another way) would make every cell unknown, silently.
        if not isinstance(cell, _CATEGORIES) or isinstance(cell, str) not in {isinstance(c, str) for c in self.categories}:
            raise TypeError(f"column {self.name!r} takes categories such as {known}; got {cell!r} ({kind}). Convert it")
        if self.unseen == "raise":
            raise ValueError(
                f"column {self.name!r} has the unseen category {cell!r}; training held {known}. Pass None, or set unseen: unknown"
            )
        return self.unknown


NumericColumn = StandardColumn | QuantileColumn


class Survey:
    """What the training cells of one column hold, gathered in one pass.

    kind: None to detect it: numbers make a column numeric, text and booleans make it categorical.
    """

    def __init__(self, name: str, kind: Kind | None) -> None:
        self.name = name
        self.kind = kind
        self.numbers = array("d")
        self.categories: Counter[str | bool | int | float] = Counter()
        self.missing = 0

    def add(self, cell: Any) -> None:
        """Count one cell. TypeError or ValueError for a value that no column can hold."""
        if is_missing(cell):
            self.missing += 1
        elif self.kind == "categorical" or (self.kind is None and isinstance(cell, str | bool | np.bool_)):
            self.categories[_to_category(cell, self.name)] += 1
        else:
            self.numbers.append(to_number(cell, self.name))

    def entry(self, scaling: Scaling, max_categories: int, unseen: Unseen) -> dict[str, Any]:
        """The fitted column as JSON values. ValueError for a column without values, or with numbers and text."""
        present = len(self.numbers) + self.categories.total()
        if not present:
            raise ValueError(
                f"column {self.name!r} has no value in any of the {self.missing} training rows. Leave it out: name the columns "
                "to use in the recipe under data.columns.tabular"
            )
        if self.numbers and self.categories:
            raise ValueError(
                f"column {self.name!r} mixes numbers such as {self.numbers[0]} and categories such as "
                f"{next(iter(self.categories))!r}. Clean it, or name it in categorical_columns"
            )
        entry = {"name": self.name, "kind": "numeric", "missing": self.missing / (self.missing + present)}
        if self.numbers:
            return entry | _STATISTICS[scaling](self.name, np.asarray(self.numbers))
        return entry | {"kind": "categorical", "categories": self._frequent(max_categories, unseen)}

    def _frequent(self, limit: int, unseen: Unseen) -> list[str | bool | int | float]:
        """The most frequent categories; of equally frequent ones the first in the alphabet, whatever the order of the rows."""
        if unseen == "raise" and len(self.categories) > limit:
            raise ValueError(
                f"column {self.name!r} has {len(self.categories)} categories, more than max_categories={limit}; with unseen: raise "
                "all of them are kept, so raise max_categories, or set unseen: unknown"
            )
        return sorted(self.categories, key=lambda category: (-self.categories[category], str(category)))[:limit]


def _standard(name: str, values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(std)):
        largest = np.abs(values).max()
        raise ValueError(f"column {name!r} holds numbers too large to average, up to {largest:g}. Use numeric: quantile")
    return {"mean": mean, "std": 1.0 if values.min() == values.max() else std}


def _quantile(name: str, values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    return {"knots": np.quantile(values, (np.arange(NUM_KNOTS) + 0.5) / NUM_KNOTS).tolist()}


_STATISTICS = {"standard": _standard, "quantile": _quantile}
_COLUMNS: dict[Scaling, type[NumericColumn]] = {"standard": StandardColumn, "quantile": QuantileColumn}


def read_columns(
    entries: Sequence[dict[str, Any]], scaling: Scaling, unseen: Unseen
) -> tuple[list[NumericColumn], list[CategoricalColumn]]:
    """Columns from fitted entries. ValueError for an entry that was fitted with another scaling, or lacks something."""
    numeric: list[NumericColumn] = []
    categorical: list[CategoricalColumn] = []
    unknown = MISSING + 1
    for entry in entries:
        values = {key: value for key, value in entry.items() if key != "kind"}
        try:
            if entry["kind"] == "numeric":
                numeric.append(_COLUMNS[scaling](**values))
            else:
                categorical.append(CategoricalColumn(**values, unknown=unknown, unseen=unseen))
                unknown += 1 + len(entry["categories"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"columns has an entry that does not fit numeric: {scaling}: {entry}. Fit again: {error}") from error
    return numeric, categorical

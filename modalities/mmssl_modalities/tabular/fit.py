"""What the training cells of a column hold, and the fitted column that this makes, as JSON values and back."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmssl_modalities.tabular.cells import DATES, instant, is_missing, shown, to_number, to_seconds
from mmssl_modalities.tabular.columns import (
    MISSING,
    CategoricalColumn,
    ClassColumn,
    Column,
    DateColumn,
    HashedColumn,
    Kind,
    NumericColumn,
    QuantileColumn,
    Scaling,
    StandardColumn,
    TextColumn,
    Unseen,
)

NUM_KNOTS = 200
HUGE = 1e307
"""Numbers whose differences may be infinite."""


@dataclass(frozen=True)
class Rules:
    """How columns are fitted and read: the settings of the processor that no column holds itself."""

    scaling: Scaling
    max_categories: int
    unseen: Unseen
    hash_above: int | None
    hash_buckets: int
    text_hashes: int
    text_buckets: int


class Survey:
    """What the training cells of one column hold, gathered in one pass.

    kind: None to detect it: numbers make a column numeric, text and booleans make it categorical, dates datetime.
    """

    def __init__(self, name: str, kind: Kind | None) -> None:
        self.name = name
        self.kind = kind
        self.numbers = array("d")
        self.dates = array("d")
        self.categories: Counter[str | bool | int | float] = Counter()
        self.texts = 0
        self.missing = 0
        self.rows = 0
        self.first: dict[str, int] = {}  # the first row of each kind of cell

    def add(self, cell: Any) -> None:
        """Count one cell. TypeError or ValueError for a value that no column can hold."""
        row, self.rows = self.rows, self.rows + 1
        if is_missing(cell):
            self.missing += 1
        elif self.kind == "text":
            TextColumn(self.name, 0.0, 1, 1).encode(cell)
            self.texts += 1
        elif self.kind == "datetime" or (self.kind is None and isinstance(cell, DATES)):
            self.first.setdefault("dates", row)
            self.dates.append(to_seconds(cell, self.name))
        elif self.kind == "categorical" or (self.kind is None and isinstance(cell, str | bool | np.bool_)):
            self.first.setdefault("categories", row)
            self.categories[_to_category(cell, self.name)] += 1
        else:
            self.first.setdefault("numbers", row)
            self.numbers.append(to_number(cell, self.name))

    @property
    def present(self) -> int:
        """Cells that were not missing."""
        return len(self.numbers) + len(self.dates) + self.categories.total() + self.texts

    def entry(self, rules: Rules) -> dict[str, Any]:
        """The fitted column as JSON values. ValueError for a column without values, or with numbers and text."""
        self._check()
        entry = {"name": self.name, "kind": "numeric", "missing": self.missing / (self.missing + self.present)}
        if self.texts:
            return entry | {"kind": "text"}
        if self.dates:
            return entry | {"kind": "datetime"} | _standard(self.name, np.asarray(self.dates))
        if self.numbers:
            return entry | _STATISTICS[rules.scaling](self.name, np.asarray(self.numbers))
        if rules.hash_above is not None and len(self.categories) > rules.hash_above:
            return entry | {"kind": "hashed", "buckets": rules.hash_buckets, "holds": self._holds()}
        return entry | {"kind": "categorical", "categories": self._frequent(rules.max_categories, rules.unseen)}

    def _check(self) -> None:
        if not self.present:
            raise ValueError(
                f"column {self.name!r} has no value in any of the {self.missing} training rows. Leave it out: name the columns "
                "to use in the recipe under data.columns.tabular"
            )
        found = []
        if self.numbers:
            found.append(f"numbers such as {self.numbers[0]} (training row {self.first['numbers']})")
        if self.dates:
            found.append(f"dates such as {instant(self.dates[0]).isoformat()} (training row {self.first['dates']})")
        if self.categories:
            category = next(iter(self.categories))
            found.append(f"categories such as {shown(category)} (training row {self.first['categories']})")
        if len(found) > 1:
            raise ValueError(f"column {self.name!r} mixes {' and '.join(found)}. Clean it, or name it in categorical_columns")

    def _holds(self) -> str:
        text = {isinstance(category, str) for category in self.categories}
        return "both" if len(text) > 1 else "text" if text == {True} else "numbers"

    def _frequent(self, limit: int, unseen: Unseen) -> list[str | bool | int | float]:
        """The most frequent categories; of equally frequent ones the first in the alphabet, whatever the order of the rows."""
        if unseen == "raise" and len(self.categories) > limit:
            raise ValueError(
                f"column {self.name!r} has {len(self.categories)} categories, more than max_categories={limit}; with unseen: raise "
                "all of them are kept, so raise max_categories, or set unseen: unknown"
            )
        return sorted(self.categories, key=lambda category: (-self.categories[category], str(category)))[:limit]


def _to_category(cell: Any, column: str) -> str | bool | int | float:
    """A cell as a value that JSON keeps."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    return value if isinstance(value, str | bool | int) else to_number(value, column)


def _standard(name: str, values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(std)):
        largest = np.abs(values).max()
        raise ValueError(f"column {name!r} holds numbers too large to average, up to {largest:g}. Use numeric: quantile")
    return {"mean": mean, "std": 1.0 if values.min() == values.max() else std or 1.0}  # squares of tiny numbers are zero


def _quantile(name: str, values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    ranks = (np.arange(NUM_KNOTS) + 0.5) / NUM_KNOTS
    if np.abs(values).max() < HUGE:
        return {"knots": np.quantile(values, ranks).tolist()}
    return {"knots": (4 * np.quantile(values / 4, ranks)).tolist()}


_STATISTICS = {"standard": _standard, "quantile": _quantile}
_NUMERIC: dict[Scaling, type[NumericColumn]] = {"standard": StandardColumn, "quantile": QuantileColumn}


def read_columns(entries: Sequence[dict[str, Any]], rules: Rules) -> list[Column]:
    """Columns from fitted entries, in their order. ValueError for an entry of another scaling, or that lacks something."""
    columns: list[Column] = []
    first = MISSING + 1
    for entry in entries:
        try:
            column = _column(entry, rules, first)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"columns has an entry that does not fit numeric: {rules.scaling}: {entry}. Fit again: {error}"
            ) from error
        columns.append(column)
        first += column.num_classes if isinstance(column, ClassColumn) else 0
    return columns


def _column(entry: dict[str, Any], rules: Rules, first: int) -> Column:
    values = {key: value for key, value in entry.items() if key != "kind"}
    match entry["kind"]:
        case "numeric":
            return _NUMERIC[rules.scaling](**values)
        case "categorical":
            return CategoricalColumn(**values, unknown=first, unseen=rules.unseen)
        case "hashed":
            return HashedColumn(values["name"], values["missing"], values["buckets"], values["holds"], first)
        case "datetime":
            return DateColumn(**values)
        case "text":
            return TextColumn(values["name"], values["missing"], rules.text_hashes, rules.text_buckets)
        case other:
            raise KeyError(f"no kind {other!r}")

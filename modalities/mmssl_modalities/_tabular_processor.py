"""Rows of a table to tensors: the kinds and statistics of columns, fitted once, and every way in which users hold a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field

from mmssl.modality import Inputs, Processor
from mmssl_modalities._tabular_columns import (
    MISSING,
    CategoricalColumn,
    Kind,
    NumericColumn,
    Scaling,
    Survey,
    Unseen,
    read_columns,
)

NUMBERS = "table_numeric"
CLASSES = "table_categories"


class TabularProcessor(Processor):
    """A row as a dict (column -> cell) to scaled numbers and classes.

    Makes `table_numeric`, float32 `[numeric columns]`, NaN where a cell is missing, and `table_categories`, int64
    `[categorical columns]`: classes numbered over all columns, where 0 is a missing cell and each column has one class for rare
    and unseen categories, followed by one per category. None, NaN, pandas' NA and empty text are missing. A row may hold more
    columns than the fitted ones; they are ignored.

    columns: the fitted columns, as `settings()` returns them; None: `fit` finds them.
    numeric: scaling of numbers: standard = mean 0 and standard deviation 1, cut at 20 standard deviations; quantile = normal score
        of the rank among the training cells, for columns with long tails.
    numeric_columns, categorical_columns: columns whose kind is not to be detected. Else numbers make a column numeric, few
        distinct ones too; text and booleans make it categorical.
    max_categories: per column; rarer ones share the class of unseen ones.
    unseen: a category that training did not hold becomes unknown, or raises ValueError.
    """

    def __init__(
        self,
        *,
        columns: list[dict[str, Any]] | None = None,
        numeric: Scaling = "standard",
        numeric_columns: list[str] | None = None,
        categorical_columns: list[str] | None = None,
        max_categories: Annotated[int, Field(gt=0)] = 128,
        unseen: Unseen = "unknown",
    ) -> None:
        both = set(numeric_columns or ()) & set(categorical_columns or ())
        if both:
            names = ", ".join(sorted(both))
            raise ValueError(f"a column is numeric or categorical, but numeric_columns and categorical_columns both name {names}")
        self.scaling = numeric
        self.kinds: dict[str, Kind] = dict.fromkeys(numeric_columns or (), "numeric")
        self.kinds |= dict.fromkeys(categorical_columns or (), "categorical")
        self.max_categories = max_categories
        self.unseen = unseen
        self._use(columns or [])

    def _use(self, columns: list[dict[str, Any]]) -> None:
        self.columns = columns
        self.numeric, self.categorical = read_columns(columns, self.scaling, self.unseen)

    def settings(self) -> dict[str, Any]:
        return {
            "columns": self.columns or None,
            "numeric": self.scaling,
            "numeric_columns": [name for name, kind in self.kinds.items() if kind == "numeric"] or None,
            "categorical_columns": [name for name, kind in self.kinds.items() if kind == "categorical"] or None,
            "max_categories": self.max_categories,
            "unseen": self.unseen,
        }

    @property
    def fitted(self) -> bool:
        return bool(self.columns)

    def fit(self, samples: Iterable[Any]) -> None:
        """Detect the kinds of the first row's columns and compute their statistics over the cells that are not missing.

        ValueError or TypeError names the row and column of a cell that cannot be used, and a column without any value.
        """
        surveys: dict[str, Survey] = {}
        for number, row in enumerate(samples):
            try:
                surveys = surveys or self._surveys(row)
                _add(surveys, row)
            except (TypeError, ValueError) as error:
                raise type(error)(f"training row {number}: {error}") from error
        if not surveys:
            raise ValueError("a table is fitted on one row or more; got none")
        self._use([survey.entry(self.scaling, self.max_categories, self.unseen) for survey in surveys.values()])

    def _surveys(self, row: Any) -> dict[str, Survey]:
        names = list(_mapping(row))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"a table needs one column or more, with text for names; got {names}")
        for name, kind in self.kinds.items():
            if name not in names:
                raise ValueError(f"{kind}_columns names {name!r}, which is no column; the row has {', '.join(names)}")
        return {name: Survey(name, self.kinds.get(name)) for name in names}

    def __call__(self, raw: Any) -> Inputs:
        self._check_fitted()
        row = _mapping(raw)
        try:
            numbers = [column.encode(row[column.name]) for column in self.numeric]
            classes = [column.encode(row[column.name]) for column in self.categorical]
        except KeyError as error:
            raise self._lacks(error.args[0], row) from None
        return {NUMBERS: torch.tensor(numbers, dtype=torch.float32), CLASSES: torch.tensor(classes, dtype=torch.int64)}

    def table(self, raw: pd.DataFrame | Mapping[str, Any]) -> Inputs:
        """All rows of a DataFrame or a dict of columns as one batch: what `collate` makes of them, but column by column: faster.

        Raises what a row raises, with its number.
        """
        self._check_fitted()
        cells = _cells(raw)
        try:
            numbers = [_encode(column, cells[column.name]) for column in self.numeric]
            classes = [_encode(column, cells[column.name]) for column in self.categorical]
        except KeyError as error:
            raise self._lacks(error.args[0], cells) from None
        count = len(next(iter(cells.values())))
        return {
            NUMBERS: torch.from_numpy(np.array(numbers, np.float32).reshape(-1, count).T.copy()),
            CLASSES: torch.from_numpy(np.array(classes, np.int64).reshape(-1, count).T.copy()),
        }

    def _check_fitted(self) -> None:
        if not self.columns:
            raise ValueError("the columns of the table are not known yet: call fit(rows) with the training rows first")

    def _lacks(self, name: str, row: Mapping[str, Any]) -> ValueError:
        fitted = ", ".join(column["name"] for column in self.columns)
        return ValueError(
            f"missing column {name!r}; the model was fitted on {fitted}, and this has {', '.join(map(str, row)) or 'none'}. "
            "Pass None where a value is missing"
        )

    def many(self, raw: Any) -> list[Any]:
        """The rows of a DataFrame, of a dict of equally long columns, of a list of dicts, or of one dict."""
        columnar = isinstance(raw, pd.DataFrame) or (isinstance(raw, Mapping) and raw and all(map(_is_column, raw.values())))
        if not columnar:
            return super().many(raw)
        cells = _cells(raw)
        return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        return {name: torch.stack([sample[name] for sample in samples]) for name in (NUMBERS, CLASSES)}

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """Scaled numbers (0 if missing), which are missing (columns with gaps in training), one-hot categories (0 if missing)."""
        numbers = inputs[NUMBERS].numpy()
        gaps = np.isnan(numbers)[[column.missing > 0 for column in self.numeric]]
        one_hot = np.zeros(self.num_classes, np.float32)
        one_hot[inputs[CLASSES].numpy()] = 1
        return np.concatenate([np.nan_to_num(numbers), gaps.astype(np.float32), one_hot[MISSING + 1 :]])

    @property
    def num_classes(self) -> int:
        """Classes of all categorical columns together, `MISSING` among them."""
        return MISSING + 1 + sum(1 + len(column.categories) for column in self.categorical)

    @property
    def has_missing(self) -> bool:
        """Whether any training cell was missing."""
        return any(column["missing"] > 0 for column in self.columns)


def _mapping(row: Any) -> Mapping[Any, Any]:
    if not isinstance(row, Mapping):
        raise TypeError(f"a row is a dict, column -> cell; got {type(row).__name__}. Pass a dict, a list of dicts, or a DataFrame")
    return row


def _add(surveys: dict[str, Survey], row: Mapping[str, Any]) -> None:
    if _mapping(row).keys() != surveys.keys():
        raise ValueError(f"the first row has the columns {', '.join(surveys)}; this one has {', '.join(row)}. Pass None for a gap")
    for name, cell in row.items():
        surveys[name].add(cell)


def _encode(column: NumericColumn | CategoricalColumn, cells: Sequence[Any]) -> list[int | float]:
    encoded: list[int | float] = []
    try:
        for cell in cells:
            encoded.append(column.encode(cell))
    except (TypeError, ValueError) as error:
        raise type(error)(f"row {len(encoded)}: {error}") from error
    return encoded


def _is_column(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | pd.Series)


def _cells(raw: pd.DataFrame | Mapping[str, Any]) -> dict[Any, Sequence[Any]]:
    """Columns as sequences of Python values. ValueError for two of one name, or of different lengths."""
    if isinstance(raw, pd.DataFrame) and not raw.columns.is_unique:
        raise ValueError(f"a table needs different column names; got {', '.join(map(str, raw.columns))}")
    cells = {name: cell.tolist() if isinstance(cell, np.ndarray | pd.Series) else cell for name, cell in raw.items()}
    lengths = {name: len(cell) for name, cell in cells.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the columns of a table need one length; got {lengths or 'no column'}")
    return cells

"""Rows of a table to tensors: the kinds and statistics of columns, fitted once, and every way in which users hold a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from mmssl.modality import Content, Inputs, Processor, Reference
from mmssl_modalities.tabular.cells import placed
from mmssl_modalities.tabular.columns import (
    DATE_VALUES,
    MISSING,
    ClassColumn,
    Column,
    DateColumn,
    Kind,
    NumericColumn,
    Scaling,
    TextColumn,
    Unseen,
    encode_column,
)
from mmssl_modalities.tabular.contents import table_contents
from mmssl_modalities.tabular.fit import Rules, Survey, read_columns
from mmssl_modalities.tabular.frames import columns_of, is_columnar, rows_of
from mmssl_modalities.tabular.shared import CELL_NUMBERS, PADDING, SharedRows, shared_collate, shared_features, shared_sized

NUMBERS = "table_numeric"
CLASSES = "table_categories"
DATES = "table_datetime"
TEXTS = "table_text"

TEXT_FEATURES = 512
"""Length of the hashed vector that a linear model is given of a text."""

Positive = Annotated[int, Field(gt=0)]
Names = list[str] | None


class TabularProcessor(Processor):
    """A row as a dict (column -> cell) to scaled numbers, classes, dates and hashed words.

    Makes `table_numeric`, float32 `[numeric columns]`, NaN where a cell is missing, and `table_categories`, int64
    `[categorical columns]`: classes numbered over all columns, where 0 is a missing cell and each column has one class for rare
    and unseen categories, followed by one per category; where there are such columns, also `table_datetime`, float32
    `[datetime columns, 7]`, and `table_text`, int64 `[text columns, text_hashes]`. None, NaN, pandas' NA and empty text are
    missing. A row may hold more columns than the fitted ones; they are ignored.

    columns: the fitted columns, as `settings()` returns them; None: `fit` finds them.
    numeric: scaling of numbers: standard = mean 0 and standard deviation 1, cut at 20 standard deviations; quantile = normal score
        of the rank among the training cells, for columns with long tails.
    numeric_columns, categorical_columns, datetime_columns, text_columns: columns whose kind is not to be detected. Else numbers
        make a column numeric, few distinct ones too; text and booleans make it categorical; date objects make it datetime. Dates
        written as text (ISO 8601) and text to be read as words must be named.
    max_categories: per column; rarer ones share the class of unseen ones.
    unseen: a category that training did not hold becomes unknown, or raises ValueError.
    hash_above: columns of more categories than this are hashed instead: into hash_buckets classes, shared by chance; null: none.
    hash_buckets: classes of a hashed column; with schema: shared, of all categories.
    text_hashes: words and parts of words of a text that are kept, at most.
    text_buckets: numbers that these are hashed to.
    schema: fitted = every row has the columns of training; shared = rows of any columns, each cell with the hashed name of its
        column, so that tables of different columns share one model.
    """

    padding: ClassVar[Mapping[str, float]] = PADDING

    def __init__(
        self,
        *,
        columns: list[dict[str, Any]] | None = None,
        numeric: Scaling = "standard",
        numeric_columns: Names = None,
        categorical_columns: Names = None,
        datetime_columns: Names = None,
        text_columns: Names = None,
        max_categories: Positive = 128,
        unseen: Unseen = "unknown",
        hash_above: Positive | None = None,
        hash_buckets: Positive = 1024,
        text_hashes: Annotated[int, Field(gt=1)] = 32,
        text_buckets: Positive = 4096,
        schema: Literal["fitted", "shared"] = "fitted",
    ) -> None:
        named: dict[Kind, Names] = {
            "numeric": numeric_columns,
            "categorical": categorical_columns,
            "datetime": datetime_columns,
            "text": text_columns,
        }
        self.kinds = _kinds(named)
        self.schema = schema
        self.hash_above = hash_above
        # Hashed from the first category on: a shared schema has no list of categories.
        above = 0 if schema == "shared" else hash_above
        self.rules = Rules(numeric, max_categories, unseen, above, hash_buckets, text_hashes, text_buckets)
        self._use(columns or [])

    def _use(self, columns: list[dict[str, Any]]) -> None:
        self.columns = columns
        self.found = found = read_columns(columns, self.rules)
        self.numeric = [column for column in found if isinstance(column, NumericColumn)]
        self.categorical = [column for column in found if isinstance(column, ClassColumn)]
        self.dates = [column for column in found if isinstance(column, DateColumn)]
        self.texts = [column for column in found if isinstance(column, TextColumn)]
        self.shared = SharedRows(found, self.rules) if self.schema == "shared" else None

    def settings(self) -> dict[str, Any]:
        rules = self.rules
        named = {f"{kind}_columns": self._named(kind) for kind in ("numeric", "categorical", "datetime", "text")}
        return {
            "columns": self.columns or None,
            "numeric": rules.scaling,
            **named,
            "max_categories": rules.max_categories,
            "unseen": rules.unseen,
            "hash_above": self.hash_above,
            "hash_buckets": rules.hash_buckets,
            "text_hashes": rules.text_hashes,
            "text_buckets": rules.text_buckets,
            "schema": self.schema,
        }

    def _named(self, kind: str) -> Names:
        return [name for name, named in self.kinds.items() if named == kind] or None

    @property
    def fitted(self) -> bool:
        return bool(self.columns)

    def fit(self, samples: Iterable[Any]) -> None:
        """Detect the kinds of the first row's columns and compute their statistics over the cells that are not missing.

        With `schema: shared` of every row's columns; those without any value are left out. Else ValueError or TypeError names the
        row and column of a cell that cannot be used, and a column without any value.
        """
        surveys: dict[str, Survey] = {}
        for number, row in enumerate(samples):
            try:
                if self.schema == "shared" or not surveys:
                    surveys = self._surveys(row) | surveys
                self._add(surveys, row)
            except (TypeError, ValueError) as error:
                raise placed(f"training row {number}", error) from error
        if not surveys:
            raise ValueError("a table is fitted on one row or more; got none")
        self._check_names(surveys)
        kept = [survey for survey in surveys.values() if survey.present or self.schema == "fitted"]
        if not kept:
            raise ValueError("a table is fitted on one value or more; every cell of the training rows is missing")
        self._use([survey.entry(self.rules) for survey in kept])

    def contents(self, samples: Iterable[Any]) -> list[Content]:
        """The columns of rows: their kinds, missing shares and examples, and what looks odd."""
        return table_contents(samples, self.found)

    def _surveys(self, row: Any) -> dict[str, Survey]:
        names = list(_mapping(row))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"a table needs one column or more, with text for names; got {names}")
        if self.schema == "fitted":
            self._check_names(names)
        return {name: Survey(name, self.kinds.get(name)) for name in names}

    def _check_names(self, names: Iterable[str]) -> None:
        for name, kind in self.kinds.items():
            if name not in names:
                raise ValueError(f"{kind}_columns names {name!r}, which is no column; the row has {', '.join(names)}")

    def _add(self, surveys: dict[str, Survey], row: Mapping[str, Any]) -> None:
        if self.schema == "fitted" and _mapping(row).keys() != surveys.keys():
            have = ", ".join(map(str, row)) or "none"
            raise ValueError(f"the first row has the columns {', '.join(surveys)}; this one has {have}. Pass None for a gap")
        for name, cell in row.items():
            surveys[name].add(cell)

    def __call__(self, raw: Any) -> Inputs:
        self._check_fitted()
        row = _mapping(raw)
        if self.shared is not None:
            return self.shared.encode(row)
        try:
            numbers = [column.encode(row[column.name]) for column in self.numeric]
            classes = [column.encode(row[column.name]) for column in self.categorical]
            dates = [column.encode(row[column.name]) for column in self.dates]
            texts = [column.encode(row[column.name]) for column in self.texts]
        except KeyError as error:
            raise self._lacks(error.args[0], row) from None
        inputs = {NUMBERS: torch.tensor(numbers, dtype=torch.float32), CLASSES: torch.tensor(classes, dtype=torch.int64)}
        if dates:
            inputs[DATES] = torch.tensor(dates, dtype=torch.float32)
        if texts:
            inputs[TEXTS] = torch.tensor(texts, dtype=torch.int64)
        return inputs

    def table(self, raw: Any) -> Inputs:
        """All rows of a table as one batch: what `collate` makes of them, but column by column: some twenty times faster.

        raw: a pandas DataFrame, a pyarrow table, a dict of columns, or a list of rows. Raises what a row raises, with its number.
        """
        self._check_fitted()
        if self.shared is not None:
            return self._row_by_row(self.shared, raw)
        columns = (*self.numeric, *self.categorical, *self.dates, *self.texts)
        try:
            cells = columns_of(raw, [column.name for column in columns])
        except KeyError as error:
            raise self._lacks(error.args[0], error.args[1]) from None
        count = len(next(iter(cells.values())))
        batch: dict[str, np.ndarray] = {
            NUMBERS: np.empty((count, len(self.numeric)), np.float32),
            CLASSES: np.empty((count, len(self.categorical)), np.int64),
        }
        if self.dates:
            batch[DATES] = np.empty((count, len(self.dates), DATE_VALUES), np.float32)
        if self.texts:
            batch[TEXTS] = np.empty((count, len(self.texts), self.rules.text_hashes), np.int64)
        groups: dict[str, Sequence[Column]] = {
            NUMBERS: self.numeric,
            CLASSES: self.categorical,
            DATES: self.dates,
            TEXTS: self.texts,
        }
        for name, group in groups.items():
            for place, column in enumerate(group):
                batch[name][:, place] = encode_column(column, cells[column.name])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _row_by_row(self, shared: SharedRows, raw: Any) -> Inputs:
        samples = []
        for number, row in enumerate(self.many(raw)):
            try:
                samples.append(shared.encode(_mapping(row)))
            except (TypeError, ValueError) as error:
                raise placed(f"row {number}", error) from error
        return shared_collate(samples)

    def batch(self, raws: Sequence[Any]) -> Inputs:
        return self.table(list(raws))

    def _check_fitted(self) -> None:
        if not self.columns:
            raise ValueError("the columns of the table are not known yet: call fit(rows) with the training rows first")

    def _lacks(self, name: str, row: Iterable[Any]) -> ValueError:
        fitted = ", ".join(column["name"] for column in self.columns)
        return ValueError(
            f"missing column {name!r}; the model was fitted on {fitted}, and this has {', '.join(map(str, row)) or 'none'}. "
            "Pass None where a value is missing"
        )

    def many(self, raw: Any) -> list[Any]:
        """The rows of a DataFrame, a pyarrow table, a dict of equally long columns, a list of dicts, or one dict."""
        return rows_of(raw) if is_columnar(raw) else super().many(raw)

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        if self.shared is not None:
            return shared_collate(samples)
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        return shared_sized(inputs) if CELL_NUMBERS in inputs else inputs

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """Scaled numbers (0 if missing), which are missing (columns with gaps in training), one-hot categories (0 if missing).

        Then the numbers of dates (0 if missing), and of each text how often its hashed words fall into each of 512 places.
        """
        if self.shared is not None:
            return shared_features(inputs)
        numbers = inputs[NUMBERS].numpy()
        gaps = np.isnan(numbers)[[column.missing > 0 for column in self.numeric]]
        one_hot = np.zeros(self.num_classes, np.float32)
        one_hot[inputs[CLASSES].numpy()] = 1
        parts = [np.nan_to_num(numbers), gaps.astype(np.float32), one_hot[MISSING + 1 :]]
        if self.dates:
            parts.append(np.nan_to_num(inputs[DATES].numpy()).ravel())
        if self.texts:
            places = [np.bincount(words[words > 0] % TEXT_FEATURES, minlength=TEXT_FEATURES) for words in inputs[TEXTS].numpy()]
            parts += [place.astype(np.float32) for place in places]
        return np.concatenate(parts)

    def reference(self) -> Reference | None:
        """Boosted trees on the cells, a text by the count of its words; None where columns are shared between tables."""
        from mmssl_modalities.tabular.reference import boosted_trees  # scikit-learn, which only tables of scores need

        if self.shared is not None:
            return None
        dates = [0] * (DATE_VALUES * len(self.dates))
        counts = [0] * len(self.numeric) + [column.num_classes for column in self.categorical] + dates + [0] * len(self.texts)
        return boosted_trees(self._cells, counts)

    def _cells(self, raw: Any) -> Float[np.ndarray, " c"]:
        inputs = self(raw)
        classes = inputs[CLASSES].numpy().astype(np.float64)
        firsts = MISSING + 1 + np.cumsum([0, *(column.num_classes for column in self.categorical)])[:-1]
        parts = [inputs[NUMBERS].numpy(), np.where(classes == MISSING, np.nan, classes - firsts)]
        if self.dates:
            parts.append(inputs[DATES].numpy().ravel())
        if self.texts:
            parts.append((inputs[TEXTS].numpy() > 0).sum(1))
        return np.concatenate(parts)

    @property
    def num_classes(self) -> int:
        """Classes of all categorical columns together, `MISSING` among them."""
        return MISSING + 1 + sum(column.num_classes for column in self.categorical)

    @property
    def has_missing(self) -> bool:
        """Whether any training cell was missing."""
        return any(column["missing"] > 0 for column in self.columns)


def _kinds(named: Mapping[Kind, Names]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for kind, names in named.items():
        both = sorted(set(names or ()) & set(kinds))
        if both:
            first = kinds[both[0]]
            raise ValueError(f"a column has one kind, but {first}_columns and {kind}_columns both name {', '.join(both)}")
        kinds |= dict.fromkeys(names or (), kind)
    return kinds


def _mapping(row: Any) -> Mapping[Any, Any]:
    if not isinstance(row, Mapping):
        raise TypeError(f"a row is a dict, column -> cell; got {type(row).__name__}. Pass a dict, a list of dicts, or a DataFrame")
    return row

"""Tables of any columns for one model: each cell comes with its column's name, both as hashed words (`schema: shared`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmssl.modality import Axis, Inputs, pad_stack
from mmssl.tokens import Tokens
from mmssl_modalities.tabular.cells import DATES, bag, bucket, category_text, instant, is_missing, name_bag, to_number, to_seconds
from mmssl_modalities.tabular.columns import CLIP, Column, DateColumn, HashedColumn, NumericColumn, TextColumn
from mmssl_modalities.tabular.fit import Rules
from mmssl_modalities.tabular.tokens import TEXT_VALUES, WordTokens, text_values

CELL_NUMBERS = "table_cell_numbers"
CELL_CLASSES = "table_cell_classes"
CELL_WORDS = "table_cell_words"
COLUMN_WORDS = "table_column_words"
COUNTS = "table_columns"
SHARED_NAMES = (CELL_NUMBERS, CELL_CLASSES, CELL_WORDS, COLUMN_WORDS, COUNTS)
_COLUMNS = Axis("columns")
SHARED_AXES = {
    CELL_NUMBERS: {1: _COLUMNS},
    CELL_CLASSES: {1: _COLUMNS},
    CELL_WORDS: {1: _COLUMNS, 2: Axis("words")},
    COLUMN_WORDS: {1: _COLUMNS, 2: Axis("name_words")},
}
PADDING = {CELL_NUMBERS: math.nan}
"""What rows are filled up with to the most columns, where it is not 0."""

NAME_WORDS = 16
"""Hashed words and parts of words that stand for the name of a column, at most."""
FEATURES = 1024
"""Length of the hashed vector that a linear model is given of a row."""
DECADE = 10 * 365.2425 * 86400
"""Seconds by which a date of a column that training did not hold is scaled."""

Cell = tuple[float, int, list[int]]
"""Scaled number or NaN, class or 0, hashed words."""


class SharedRows:
    """Rows whose columns may differ from one to the next.

    A column that training held is read as it was fitted; of others, numbers x become asinh(x), cut at +-`CLIP`, dates the decades
    since 2000, and everything else is a category. A category is the hash of "column=value", and the words of its value.
    """

    def __init__(self, columns: Sequence[Column], rules: Rules) -> None:
        self.known = {column.name: column for column in columns}
        self.rules = rules

    def encode(self, row: Mapping[Any, Any]) -> Inputs:
        """Tensors of one row, a cell per column. TypeError or ValueError for a cell that no column can hold."""
        if not row or not all(isinstance(name, str) for name in row):
            raise ValueError(f"a row needs one column or more, with text for names; got {list(row)}")
        numbers, classes, words = zip(*(self._cell(name, cell) for name, cell in row.items()), strict=True)
        names = [name_bag(name, NAME_WORDS, self.rules.text_buckets) for name in row]
        return {
            CELL_NUMBERS: torch.tensor(numbers, dtype=torch.float32),
            CELL_CLASSES: torch.tensor(classes, dtype=torch.int64),
            CELL_WORDS: _padded(words),
            COLUMN_WORDS: _padded(names),
        }

    def _cell(self, name: str, cell: Any) -> Cell:
        known = self.known.get(name)
        if is_missing(cell):
            return math.nan, 0, []
        if isinstance(known, NumericColumn):
            return known.encode(cell), 0, []
        if isinstance(known, TextColumn):
            return math.nan, 0, [word for word in known.encode(cell) if word]
        if isinstance(known, DateColumn) or (known is None and isinstance(cell, DATES)):
            return self._date(name, cell, known)
        if isinstance(known, HashedColumn) or isinstance(cell, str | bool | np.bool_):
            return self._category(name, cell, known)
        return min(max(math.asinh(to_number(cell, name)), -CLIP), CLIP), 0, []

    def _date(self, name: str, cell: Any, known: Column | None) -> Cell:
        seconds = to_seconds(cell, name)
        scaled = known.encode(cell)[0] if isinstance(known, DateColumn) else min(max(seconds / DECADE, -CLIP), CLIP)
        day = instant(seconds)
        parts = (f"month {day.month}", f"weekday {day.weekday()}", f"hour {day.hour}")
        return scaled, 0, [1 + bucket(part, self.rules.text_buckets) for part in parts]

    def _category(self, name: str, cell: Any, known: Column | None) -> Cell:
        if isinstance(known, HashedColumn):
            known.encode(cell)  # which refuses numbers where training held text
        text = cell if isinstance(cell, str) else category_text(to_number(cell, name))
        label = 1 + bucket(f"{name}={text}", self.rules.hash_buckets)
        return math.nan, label, bag(text, self.rules.text_hashes, self.rules.text_buckets)


def _padded(bags: Sequence[Sequence[int]]) -> Tensor:
    width = max(1, *(len(words) for words in bags))
    return torch.tensor([[*words, *[0] * (width - len(words))] for words in bags], dtype=torch.int64)


def shared_collate(samples: Sequence[Inputs]) -> Inputs:
    """Stack rows, padding to the most columns; if their numbers differ, `table_columns` says how many each row has."""
    batch = {
        name: pad_stack([sample[name] for sample in samples], PADDING.get(name, 0.0))
        for name in (CELL_NUMBERS, CELL_CLASSES, CELL_WORDS, COLUMN_WORDS)
    }
    counts = [len(sample[CELL_NUMBERS]) for sample in samples]
    return batch if len(set(counts)) == 1 else batch | {COUNTS: torch.tensor(counts)[:, None]}


def shared_sized(inputs: Inputs) -> Inputs:
    """A batch with `table_columns`, where all rows have equally many."""
    numbers = inputs[CELL_NUMBERS]
    return {COUNTS: torch.full((len(numbers), 1), numbers.shape[1], device=numbers.device)} | inputs


def shared_features(inputs: Inputs) -> Float[np.ndarray, " f"]:
    """Numbers, categories and words in the places of their hashes (the hashing trick, arXiv 0902.2206)."""
    numbers, classes = inputs[CELL_NUMBERS].numpy(), inputs[CELL_CLASSES].numpy()
    vector = np.zeros(FEATURES, np.float32)
    np.add.at(vector, inputs[COLUMN_WORDS][:, 0].numpy() % FEATURES, np.nan_to_num(numbers))
    np.add.at(vector, classes[classes > 0] % FEATURES, 1)
    bare = inputs[CELL_WORDS].numpy()[classes == 0]  # the words of a category are in its class already
    np.add.at(vector, bare[bare > 0] % FEATURES, 1)
    return vector


class SharedTokens(nn.Module):
    """One token per cell of any table: what the cell holds, and, as the token's identity, the words of its column's name."""

    def __init__(self, width: int, numeric: nn.Module, rules: Rules) -> None:
        super().__init__()
        self.numeric = numeric
        self.categories = nn.Embedding(1 + rules.hash_buckets, width)
        self.words = WordTokens(rules.text_buckets, width)
        self.names = WordTokens(rules.text_buckets, width)
        self.missing = nn.Parameter(torch.empty(width))
        self.target_sizes = {"numeric": 1, "categorical": 1 + rules.hash_buckets, "text": TEXT_VALUES}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.missing, std=0.02)

    def forward(self, inputs: Inputs) -> Tokens:
        numbers, classes, words = inputs[CELL_NUMBERS], inputs[CELL_CLASSES], inputs[CELL_WORDS]
        number_there, class_there = ~numbers.isnan()[..., None], (classes > 0)[..., None]
        values = self.words(words)
        values = values + torch.where(number_there, self.numeric(numbers.nan_to_num()), 0.0)
        values = values + torch.where(class_there, self.categories(classes), 0.0)
        there = number_there | class_there | (words > 0).any(-1, keepdim=True)
        coords = numbers.new_zeros(*numbers.shape, 4)
        return Tokens(torch.where(there, values, self.missing), coords, self._valid(inputs), self.names(inputs[COLUMN_WORDS]))

    def made_up(self, count: int, size: int) -> Inputs:
        """Random cells; the second half of each row holds no numbers, the other no classes. Rows have `size` columns, or fewer."""
        counts, second = size - torch.arange(count)[:, None] % size, torch.arange(size) >= size / 2
        buckets, classes = self.words.buckets, self.categories.num_embeddings
        return {
            CELL_NUMBERS: torch.randn(count, size).masked_fill(second, torch.nan),
            CELL_CLASSES: torch.randint(1, classes, (count, size)).masked_fill(~second, 0),
            CELL_WORDS: torch.randint(1, buckets, (count, size, size)) * (torch.arange(size) < size / 2),
            COLUMN_WORDS: torch.randint(1, buckets, (count, size, size + 1)),
            COUNTS: counts,
        }

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        classes = inputs[CELL_CLASSES]
        return {
            "numeric": inputs[CELL_NUMBERS][..., None],
            "categorical": classes.masked_fill(classes == 0, -100),
            "text": text_values(inputs[CELL_WORDS]),
        }

    def _valid(self, inputs: Inputs) -> Bool[Tensor, "b n"] | None:
        if COUNTS not in inputs:
            return None
        return torch.arange(inputs[CELL_NUMBERS].shape[1], device=inputs[COUNTS].device) < inputs[COUNTS]

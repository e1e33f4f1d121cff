"""What tables are known by, for a first recipe."""

from collections.abc import Mapping, Sequence
from datetime import date
from numbers import Number
from typing import Any

from mmssl.modality import Claim

WORDS = 3
"""Words from which a text is no category, in the middle of all."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Several columns of numbers, categories and dates."""
    cells = {name: [cell for cell in held if cell is not None] for name, held in columns.items()}
    scalar = [name for name, held in cells.items() if held and all(isinstance(cell, str | Number | date) for cell in held)]
    short = [name for name in scalar if not _is_text(cells[name])]
    if len(scalar) < 2:
        return None
    certainty = 0.4 + 0.3 * len(short) / len(columns) if len(short) > 1 else 0.2
    return Claim(scalar, certainty, f"{len(short)} columns of numbers and categories")


def _is_text(cells: Sequence[Any]) -> bool:
    """Whether cells are sentences: several words, and most of them different."""
    words = sorted(len(cell.split()) for cell in cells if isinstance(cell, str))
    return bool(words) and words[len(words) // 2] >= WORDS and len(set(map(str, cells))) > len(cells) / 2

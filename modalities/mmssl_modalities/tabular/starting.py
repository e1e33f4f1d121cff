"""What tables are known by, for a first recipe."""

from collections.abc import Mapping, Sequence
from datetime import date
from numbers import Number
from typing import Any

from mmssl.modality import Claim

LONG = 40
"""Characters from which a text is no category, in the middle of all."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Several columns of numbers, categories and dates."""
    cells = {name: [cell for cell in held if cell is not None] for name, held in columns.items()}
    scalar = [name for name, held in cells.items() if held and all(isinstance(cell, str | Number | date) for cell in held)]
    short = [name for name in scalar if not _is_text(cells[name])]
    if len(short) < 2:
        return None
    share = len(short) / len(columns)
    return Claim(scalar, 0.4 + 0.3 * share, f"{len(short)} columns of numbers and categories")


def _is_text(cells: Sequence[Any]) -> bool:
    texts = sorted(len(cell) for cell in cells if isinstance(cell, str))
    return bool(texts) and texts[len(texts) // 2] >= LONG

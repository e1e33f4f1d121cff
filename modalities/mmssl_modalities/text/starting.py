"""What texts are known by, and sizes that suit them, for a first recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmssl.modality import Claim, Suited, numbers_in_text, readable
from mmssl_modalities.text.documents import read_document

NAMES = ("text", "sentence", "document", "content", "caption", "transcription", "transcript", "description")
"""Columns that hold texts by their name."""
WORDS = 3
"""Words that a text has at least, in the middle of all: fewer are a name or a category."""
MOST = 0.9
"""Share of a column's cells that are texts: a run names the others, or skips them."""
TOKENS_PER_WORD = 1.5
TOKENS = (32, 64, 128, 256)
VOCABULARY = (500, 8000)


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """The column of texts, most of them different; the one with the most words, unless one is called after texts."""
    found = {name: words for name, cells in columns.items() if (words := _words(cells)) is not None}
    named = [name for name in NAMES if name in found]
    if named:
        return Claim(named[0], 0.9, f"column {named[0]} holds texts")
    if not found:
        return None
    name = max(found, key=lambda each: found[each])
    alone = len(columns) <= 2
    return Claim(name, 0.9 if alone else 0.5, f"column {name} holds texts of {found[name]:.0f} words")


def _words(cells: Sequence[Any]) -> float | None:
    """Words of a cell, in the middle of all; None if they are no texts."""
    there = [cell for cell in cells if cell is not None]
    texts = [cell for cell in there if isinstance(cell, str)]
    if not texts or len(texts) < MOST * len(there) or numbers_in_text(texts):
        return None
    words = float(np.median([len(text.split()) for text in texts]))
    return words if words >= WORDS and len(set(texts)) > len(texts) / 2 else None


def _text(raw: Any) -> str:
    """A raw text, of a file what it holds."""
    return read_document(raw) if isinstance(raw, Mapping) else str(raw)


def suited(samples: Sequence[Any]) -> dict[str, Suited]:
    """Tokens of a text and size of the vocabulary by the number of words."""
    texts = readable(samples, _text)
    words = [len(text.split()) for text in texts] or [TOKENS[-1]]
    long = float(np.quantile(words, 0.95)) * TOKENS_PER_WORD
    most = next((count for count in TOKENS if count >= long), TOKENS[-1])
    different = len({word for text in texts for word in text.split()})
    vocabulary = int(np.clip(round(different / 2, -2), *VOCABULARY))
    most_have = f"95 of 100 texts have at most {np.quantile(words, 0.95):.0f} words"
    return {
        "processor.max_tokens": Suited(most, f"{most_have}; longer ones are cut"),
        "processor.vocab_size": Suited(vocabulary, f"{different:,} different words in {len(words):,} texts"),
    }

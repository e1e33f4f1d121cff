"""Tags of words: a class for each word of a text, predicted by the first of its tokens."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.modality import IGNORED, Dense, Inputs

LABELS = "token_labels"
WORDS = "token_words"
COUNT = "text_words"
"""Of each token the class number, and the number of the word whose first token it is, else -1; how many words a text has."""
NO_WORD = -1
PADDING: Mapping[str, float] = {LABELS: IGNORED, WORDS: NO_WORD}


class DenseWords(Dense):
    """Token classification: a linear map of each token, the first of a word has its label (arXiv 1810.04805, section 5.3)."""

    shape = "sequence"
    labels = LABELS

    def laid_out(self, given: Float[Tensor, "b n k"], inputs: Inputs, detail: int) -> Float[Tensor, "b k n"]:
        return given.mT

    def at_labels(self, logits: Float[Tensor, "b k n"], inputs: Inputs) -> Float[Tensor, "b k n"]:
        return logits

    def answers(self, logits: Float[Tensor, "b k n"], inputs: Inputs) -> list[Int[np.ndarray, " w"]]:
        chosen, words = logits.argmax(1).cpu().numpy(), inputs[WORDS].cpu().numpy()
        found = []
        for own, word, count in zip(chosen, words, inputs[COUNT][:, 0].tolist(), strict=True):
            said = np.full(count, NO_WORD, dtype=np.int64)
            said[word[word >= 0]] = own[word >= 0]
            found.append(said)
        return found

    def of_tokens(self, inputs: Inputs) -> Int[Tensor, "b n"]:
        return inputs[LABELS]


def words_of(raw: Any) -> list[str] | None:
    """The words in a list of them; None for what is no list. TypeError for one that is no text."""
    if not isinstance(raw, list | tuple | np.ndarray):
        return None
    words = list(raw)
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise TypeError(f"words of a text are texts; word {number} of {len(words)} is {word!r} ({type(word).__name__})")
    return words


def joined(words: list[str]) -> tuple[str, Int[np.ndarray, " w"]]:
    """Words with a space between them, and where each begins."""
    sizes = np.array([len(word) for word in words], dtype=np.int64)
    return " ".join(words), np.cumsum(sizes + 1) - sizes - 1


def between_spaces(text: str) -> Int[np.ndarray, " w"]:
    """Where the words of a text begin, which stand between white space."""
    return np.array([found.start() for found in re.finditer(r"\S+", text)], dtype=np.int64)


def first_tokens(begins: Int[np.ndarray, " w"], starts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Of each token of a text the number of the word whose first token it is, else -1.

    begins: where words begin. starts: the place of the first character of each token that is no space; -1 for spaces alone.
    """
    word = np.searchsorted(begins, starts, side="right") - 1
    word[starts < 0] = NO_WORD
    _, first = np.unique(word, return_index=True)
    found = np.full(len(starts), NO_WORD, dtype=np.int64)
    found[first] = word[first]
    return found

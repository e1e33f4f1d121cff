"""Texts as sequences of tokens: bytes, a byte-pair encoding of the recipe's own corpus, or any fast tokenizer of Hugging Face."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmssl.modality import Adapter, Inputs, MaskPreference, Modality
from mmssl.tokens import Tokens, both_valid, numbered
from mmssl_modalities.text.augment import TextAugment
from mmssl_modalities.text.picture import draw, picture
from mmssl_modalities.text.processor import IDS, LENGTHS, MASK, MORE, MORE_LENGTHS, TextProcessor, Window

__all__ = ["TEXT", "TextAdapter", "TextAugment", "TextProcessor", "Window"]


class TextAdapter(Adapter):
    """One token per id, placed in time by its number: the row of an embedding table, normalised (BERT, arXiv 1810.04805).

    Target: `tokens`, the id, `[b, n]`. Where the tokenizer did not know a character there is nothing to predict.

    What is no token is said by `text_lengths`, or by an `attention_mask` `[b, n]` as transformers' tokenizers make it, zeros at
    either side; the first token of a text is at time 0.
    """

    input_names = (IDS, LENGTHS, MASK, MORE, MORE_LENGTHS)

    def __init__(self, width: int, processor: TextProcessor) -> None:
        super().__init__()
        self.unknown = processor.tokens.unknown
        self.sparse_target = self.unknown is not None
        self.target_sizes = {"tokens": processor.tokens.size}
        self.embedding = nn.Embedding(processor.tokens.size, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Inputs) -> Tokens:
        ids = inputs[IDS]
        time = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
        coords = F.pad(time[:, None], (0, 3)).expand(ids.shape[0], -1, -1)
        if MASK in inputs:
            coords = F.pad(numbered(inputs[MASK] > 0).float()[..., None], (0, 3))
        return Tokens(self.norm(self.embedding(ids)), coords, self._valid(inputs))

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        ids, valid = inputs[IDS], self._valid(inputs)
        if valid is not None:
            ids = ids.masked_fill(~valid, -100)
        return {"tokens": ids if self.unknown is None else ids.masked_fill(ids == self.unknown, -100)}

    def _valid(self, inputs: Inputs) -> Bool[Tensor, "b n"] | None:
        """Which tokens lie inside their text."""
        inside = None
        if LENGTHS in inputs:
            inside = torch.arange(inputs[IDS].shape[1], device=inputs[IDS].device) < inputs[LENGTHS]
        return both_valid(inside, inputs[MASK] > 0 if MASK in inputs else None)


def example(count: int, seed: int) -> list[str]:
    """Made-up sentences of different lengths, some with characters of more than one byte."""
    random = np.random.default_rng(seed)
    who = ("the cook", "a nurse", "my café", "Jürgen", "the 猫")
    does = ("likes", "never sees", "writes to", "remembers")
    whom = ("the sea", "Lima", "a naïve robot", "every 🚀", "you", "nobody")
    how = ("", " today", ", they say", ": twice!")
    return ["{} {} {}{}".format(*(words[random.integers(len(words))] for words in (who, does, whom, how))) for _ in range(count)]


def golden() -> tuple[dict[str, Any], dict[str, Any], bytes, Float[Tensor, "n 4"], dict[str, Tensor]]:
    """Five bytes of four characters."""
    ids = [0x48, 0xC3, 0xA9, 0x21, 0x0A]
    coords = torch.tensor([[float(place), 0, 0, 0] for place in range(5)])
    return {"tokenizer": "bytes"}, {}, "Hé!\n".encode(), coords, {"tokens": torch.tensor(ids)}


TEXT = Modality(
    name="text",
    keyword="text",
    columns=("text", "sentence", "document", "content"),
    processor=TextProcessor,
    adapter=TextAdapter,
    augment=TextAugment,
    mask=MaskPreference("random", 0.3),
    example=example,
    golden=golden,
    picture=picture,
    draw=draw,
    sentence="text",
    strong=({"crop": (0.5, 0.9), "delete": 0.1, "replace": 0.2, "shuffle": 2},),
    tasks={"classification": "text-classification"},
)

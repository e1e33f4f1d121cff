"""Texts as sequences of tokens: bytes, a byte-pair encoding of the recipe's own corpus, or any fast tokenizer of Hugging Face."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.modality import Adapter, Axis, Inputs, MaskPreference, Modality
from mmssl.tokens import Tokens, both_valid, numbered
from mmssl_modalities.text.augment import TextAugment
from mmssl_modalities.text.dense import DenseWords
from mmssl_modalities.text.documents import LINED, SUFFIXES
from mmssl_modalities.text.picture import draw, picture
from mmssl_modalities.text.processor import IDS, LENGTHS, MASK, MORE, MORE_LENGTHS, TextProcessor, Window
from mmssl_modalities.text.starting import claim, suited

__all__ = ["TEXT", "TextAdapter", "TextAugment", "TextProcessor", "Window"]


class TextAdapter(Adapter):
    """One token per id, placed in time by its number: the row of an embedding table, normalised (BERT, arXiv 1810.04805).

    Target: `tokens`, the id, `[b, n]`. Where the tokenizer did not know a character there is nothing to predict, nor at special
    tokens.

    What is no token is said by `text_lengths`, or by an `attention_mask` `[b, n]` as transformers' tokenizers make it, zeros at
    either side; the first token of a text is at time 0.

    norm: normalise the rows; false for encoders that do so after they added positions (encoder.input_norm), or not at all.
    learned_positions: rows of a table of learned positions, added to what tokens hold, at least processor.max_tokens; null: none.
    vocab_size: rows of the embedding table; null: as many as the tokenizer has ids. Public models have more.
    """

    input_names = (IDS, LENGTHS, MASK, MORE, MORE_LENGTHS)

    def __init__(
        self,
        width: int,
        processor: TextProcessor,
        *,
        norm: bool = True,
        learned_positions: Annotated[int, Field(gt=0)] | None = None,
        vocab_size: Annotated[int, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__()
        self.dense = DenseWords()
        ids = processor.tokens.size
        if vocab_size is not None and vocab_size < ids:
            raise ValueError(f"adapter.vocab_size={vocab_size} is less than the {ids} ids of the tokenizer. Raise it")
        if learned_positions is not None and learned_positions < processor.max_tokens:
            raise ValueError(
                f"adapter.learned_positions={learned_positions} is less than processor.max_tokens={processor.max_tokens}. Raise "
                "the first, or lower the second"
            )
        unknown = processor.tokens.unknown
        self.silent = [*processor.special, *([] if unknown is None else [unknown])]
        self.sparse_target = bool(self.silent)
        self.target_sizes = {"tokens": ids}
        self.embedding = nn.Embedding(vocab_size or ids, width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.axes = {IDS: {1: Axis("length", longest=learned_positions)}}
        self.positions: nn.Embedding | None = None
        if learned_positions is not None:
            self.has_identity = True
            self.positions = nn.Embedding(learned_positions, width)

    def forward(self, inputs: Inputs) -> Tokens:
        ids = inputs[IDS]
        time = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
        coords = F.pad(time[:, None], (0, 3)).expand(ids.shape[0], -1, -1)
        if MASK in inputs:
            ids = ids.masked_fill(inputs[MASK] == 0, 0)
            coords = F.pad(numbered(inputs[MASK] > 0).float()[..., None], (0, 3))
        identity = None if self.positions is None else self._places(self.positions.weight, inputs)
        return Tokens(self.norm(self.embedding(ids)), coords, self._valid(inputs), identity)

    def _places(self, table: Float[Tensor, "p d"], inputs: Inputs) -> Float[Tensor, "b n d"]:
        """The learned position of each token. ValueError for texts that are longer than the table."""
        count = inputs[IDS].shape[1]
        if count > len(table):
            raise ValueError(
                f"texts of {count} tokens need as many positions; this model has learned {len(table)}. Use its own processor"
            )
        return table[numbered(inputs[MASK] > 0)] if MASK in inputs else table[:count].expand(inputs[IDS].shape[0], -1, -1)

    def made_up(self, count: int, size: int) -> Inputs:
        lengths = (size - torch.arange(count) % size)[:, None]
        ids = torch.randint(self.target_sizes["tokens"], (count, size))
        return {IDS: ids.masked_fill(torch.arange(size) >= lengths, 0), LENGTHS: lengths}

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        ids, valid = inputs[IDS], self._valid(inputs)
        if valid is not None:
            ids = ids.masked_fill(~valid, -100)
        nothing = torch.isin(ids, torch.tensor(self.silent, device=ids.device, dtype=ids.dtype))
        return {"tokens": ids.masked_fill(nothing, -100) if self.silent else ids}

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


def public() -> Sequence[Any]:
    """The public encoders that the adapter can be."""
    from mmssl_modalities.text.public import FAMILIES  # tables that only those need who bring one in

    return FAMILIES


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
    suffixes=SUFFIXES,
    ambiguous=SUFFIXES,
    lined=LINED,
    public=public,
    strong=({"crop": (0.5, 0.9), "delete": 0.1, "replace": 0.2, "shuffle": 2},),
    served="tokenizer",
    tasks={"classification": "text-classification", "token-classification": "token-classification"},
    claim=claim,
    suited=suited,
)

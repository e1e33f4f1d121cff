"""Random views of batched token ids, on the device of the batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, most
from mmssl.modality import Inputs, check_range
from mmssl_modalities.text.dense import LABELS
from mmssl_modalities.text.processor import IDS, LENGTHS, MORE, MORE_LENGTHS, TextProcessor

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class TextAugment:
    """One of several captions, a span of it, and tokens that are deleted, replaced or moved, each drawn per text. By default none.

    Special tokens that the processor puts before and behind every text stay there.

    caption: drawn = any of the captions that processor.captions reads, so that several views are several positives (DreamLIP, arXiv
        2403.17007, which draws without repetition); first = the first one.
    crop: smallest and largest share of the tokens in the span that is kept, so that the view costs less; Contriever (arXiv
        2112.09118) has [0.05, 0.5] of long documents. null: all of them.
    delete: probability that a token is removed, and what follows moves up (EDA, arXiv 1901.11196, and Contriever: 0.1).
    replace: probability that a token becomes a random token of the same text.
    shuffle: by how many places a token moves at most (Lample et al., arXiv 1711.00043, section 2.3: 3 words).
    """

    caption: Literal["first", "drawn"] = "first"
    crop: tuple[Share, Share] | None = None
    delete: Probability = 0.0
    replace: Probability = 0.0
    shuffle: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        check_range("crop", "share of the tokens", self.crop)

    def with_processor(self, processor: TextProcessor) -> Callable[[Inputs, Draws], Inputs]:
        """The views of texts that this processor made."""
        changes = self != type(self)(caption=self.caption)
        return Framed(self, processor) if processor.special and changes else self

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch; at least one token of every text is left."""
        refuse_labels(self, inputs)
        view, ids = dict(inputs), inputs[IDS]
        lengths = inputs.get(LENGTHS, torch.tensor(ids.shape[1], device=ids.device).expand(len(ids), 1))
        if self.caption == "drawn" and MORE in inputs:
            ids, lengths = drawn(ids, lengths, inputs[MORE], inputs[MORE_LENGTHS], draws)
            view[LENGTHS] = lengths
        if self.replace:
            ids = self._replaced(ids, lengths, draws)
        if self.crop is not None or self.delete:
            kept = self._kept(ids, lengths, draws)
            lengths = view[LENGTHS] = kept.sum(1, keepdim=True)
            width = ids.shape[1] if self.crop is None else most(self.crop[1], ids.shape[1])
            ids = ids.gather(1, (~kept).long().argsort(dim=1, stable=True)[:, :width])
        if self.shuffle:
            ids = self._shuffled(ids, lengths, draws)
        return view | {IDS: ids}

    def _replaced(self, ids: Int[Tensor, "b n"], lengths: Int[Tensor, "b 1"], draws: Draws) -> Int[Tensor, "b n"]:
        place = (draws.uniform("text source", ids.shape[1]) * lengths).long()
        chosen = draws.uniform("text replace", ids.shape[1]) < self.replace
        return torch.where(chosen, ids.gather(1, place.minimum(lengths - 1)), ids)

    def _kept(self, ids: Int[Tensor, "b n"], lengths: Int[Tensor, "b 1"], draws: Draws) -> Bool[Tensor, "b n"]:
        place, size = torch.arange(ids.shape[1], device=ids.device), lengths
        first = torch.zeros_like(size)
        if self.crop is not None:
            size = draws.part("text crop share", self.crop, lengths)
            first = draws.start("text crop place", size, lengths)
        inside = (place >= first) & (place < first + size)
        left = inside & (draws.uniform("text delete", ids.shape[1]) >= self.delete)
        return torch.where(left.any(1, keepdim=True), left, inside)

    def _shuffled(self, ids: Int[Tensor, "b n"], lengths: Int[Tensor, "b 1"], draws: Draws) -> Int[Tensor, "b n"]:
        """Tokens in the order of their places, each with up to one more than `shuffle` added."""
        place = torch.arange(ids.shape[1], device=ids.device)
        moved = place + draws.uniform("text shuffle", ids.shape[1]) * (self.shuffle + 1)
        return ids.gather(1, moved.masked_fill(place >= lengths, torch.inf).argsort(dim=1, stable=True))


@dataclass(frozen=True)
class Framed:
    """Views of the texts between special tokens, which are put to the views again.

    augment: of the texts without them. processor: says what they are.
    """

    augment: TextAugment
    processor: TextProcessor

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        refuse_labels(self.augment, inputs)
        before, after, fill = self.processor.before, self.processor.after, self.processor.fill
        first, beside = len(before), len(before) + len(after)
        ids = inputs[IDS]
        full = torch.tensor(ids.shape[1], device=ids.device).expand(len(ids), 1)
        lengths = inputs.get(LENGTHS, full) - beside if fill is None else self.bodies(ids, fill)
        inside = inputs | {IDS: ids[:, first : ids.shape[1] - len(after)], LENGTHS: lengths}
        if MORE in inputs:
            more, counts = inputs[MORE], inputs[MORE_LENGTHS]
            own = counts - beside if fill is None else self.bodies(more, fill)[..., 0]
            inside |= {MORE: more[:, :, first : more.shape[2] - len(after)], MORE_LENGTHS: own.where(counts > 0, counts)}
        view = self.augment(inside, draws)
        body, length = view[IDS], view[LENGTHS]
        framed = F.pad(body, (first, len(after)), value=fill or 0)
        place = torch.arange(framed.shape[1], device=ids.device) - first - length
        for number, token in enumerate(before):
            framed[:, number] = token
        for number, token in enumerate(after):
            framed = framed.masked_fill(place == number, token)
        if fill is None:
            return inputs | {IDS: framed, LENGTHS: length + beside}
        framed = framed.masked_fill(place >= len(after), fill)
        return inputs | {IDS: F.pad(framed, (0, max(0, ids.shape[1] - framed.shape[1])), value=fill)}

    def bodies(self, ids: Int[Tensor, "*b n"], fill: int) -> Int[Tensor, "*b 1"]:
        """How many tokens of each text are its own, where texts are filled up."""
        others = [token for token in (*self.processor.before, *self.processor.after) if token != fill]
        return (ids != fill).sum(-1, keepdim=True) - len(others)


def refuse_labels(augment: TextAugment, inputs: Inputs) -> None:
    """ValueError where tokens have labels of their own, and would be moved or exchanged."""
    if LABELS in inputs and augment != TextAugment(caption=augment.caption):
        raise ValueError("augment: words that have tags stay where they are; leave crop, delete, replace and shuffle out")


def drawn(
    ids: Int[Tensor, "b n"], lengths: Int[Tensor, "b 1"], more: Int[Tensor, "b m k"], more_lengths: Int[Tensor, "b m"], draws: Draws
) -> tuple[Int[Tensor, "b w"], Int[Tensor, "b 1"]]:
    """For each sample one of its captions, all alike likely, and its number of tokens."""
    count = 1 + (more_lengths > 0).sum(1, keepdim=True)
    chosen = (draws.uniform("text caption", 1) * count).long()
    width = max(ids.shape[1], more.shape[2])
    every = torch.cat([F.pad(part, (0, width - part.shape[2])) for part in (ids[:, None], more)], 1)
    found = every.gather(1, chosen[..., None].expand(-1, 1, width))[:, 0]
    return found, torch.cat([lengths, more_lengths], 1).gather(1, chosen)

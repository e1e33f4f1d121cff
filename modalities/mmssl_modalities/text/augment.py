"""Random views of batched token ids, on the device of the batch."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, most
from mmssl.modality import Inputs, check_range
from mmssl_modalities.text.processor import IDS, LENGTHS, MORE, MORE_LENGTHS

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class TextAugment:
    """One of several captions, a span of it, and tokens that are deleted, replaced or moved, each drawn per text. By default none.

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

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch; at least one token of every text is left."""
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

"""Random views of batched token ids, on the device of the batch."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs
from mmssl_modalities.text.processor import IDS, LENGTHS

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class TextAugment:
    """A span of the text, and tokens that are deleted or replaced, each drawn per text. By default none.

    crop: smallest and largest share of the tokens in the span that is kept; Contriever (arXiv 2112.09118) has [0.05, 0.5] of
        long documents. null: all of them.
    delete: probability that a token is removed, and what follows moves up (EDA, arXiv 1901.11196, and Contriever: 0.1).
    replace: probability that a token becomes a random token of the same text.
    """

    crop: tuple[Share, Share] | None = None
    delete: Probability = 0.0
    replace: Probability = 0.0

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise ValueError(f"augment.crop gives the smallest share of the tokens first; got {list(self.crop)}. Exchange the two")

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch, of the same width; at least one token of every text is left."""
        ids = inputs[IDS]
        lengths = inputs.get(LENGTHS, torch.tensor(ids.shape[1], device=ids.device).expand(len(ids), 1))
        if self.replace:
            ids = self._replaced(ids, lengths, draws)
        if self.crop is None and not self.delete:
            return inputs | {IDS: ids}
        kept = self._kept(ids, lengths, draws)
        order = (~kept).long().argsort(dim=1, stable=True)
        return inputs | {IDS: ids.gather(1, order), LENGTHS: kept.sum(1, keepdim=True)}

    def _replaced(self, ids: Int[Tensor, "b n"], lengths: Int[Tensor, "b 1"], draws: Draws) -> Int[Tensor, "b n"]:
        place = (draws.uniform("text source", ids.shape[1]) * lengths).long()
        chosen = draws.uniform("text replace", ids.shape[1]) < self.replace
        return torch.where(chosen, ids.gather(1, place.minimum(lengths - 1)), ids)

    def _kept(self, ids: Int[Tensor, "b n"], lengths: Int[Tensor, "b 1"], draws: Draws) -> Bool[Tensor, "b n"]:
        place, size = torch.arange(ids.shape[1], device=ids.device), lengths
        first = torch.zeros_like(size)
        if self.crop is not None:
            size = (draws.between("text crop share", *self.crop, 1) * size).ceil().long()
            first = (draws.uniform("text crop place", 1) * (lengths - size + 1)).long()
        inside = (place >= first) & (place < first + size)
        left = inside & (draws.uniform("text delete", ids.shape[1]) >= self.delete)
        return torch.where(left.any(1, keepdim=True), left, inside)

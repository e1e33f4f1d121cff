"""Spans of so many places, each with the same probability of beginning anywhere (wav2vec 2.0, TERA)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.split import AXES, Axis, Ratio, Scored, some

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Runs(Scored):
    """Spans of a fixed length along one axis, as many as the sample is long; they may overlap, so that long ones come about.

    wav2vec 2.0 (arXiv 2006.11477, section 3.1 and appendix A; `compute_mask_indices` of fairseq: 0.65 and 10 hide about half of the
    places) and TERA (arXiv 2007.06028, section III; 0.15 and 7). The places where spans begin are drawn without replacement. All
    tokens of a place are hidden together. A sample of `length` places or fewer is hidden but for one place.

    ratio: places in spans, over those of the sample, were no spans to overlap. The number of spans is rounded up or down by chance.
    length: places of a span.
    least: spans of a sample at least, 2 in fairseq's models.
    axis: the axis along which spans lie.
    """

    ratio: Ratio = 0.65
    length: Positive = 10
    least: Positive = 1
    axis: Axis = "time"

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"]]:
        n = coords.shape[1]
        number = numbered_places(coords[..., AXES.index(self.axis)], available)
        places = number.masked_fill(~available, -1).amax(1, keepdim=True) + 1
        length = (places - 1).clamp(1, self.length)
        starts = (places - length + 1).clamp(min=1)
        wanted = (self.ratio * places / length + draws.uniform("spans", 1)).floor().long()
        count = torch.minimum(wanted.clamp(min=self.least), starts)
        index = torch.arange(n, device=coords.device)[None]
        order = draws.uniform("starts", n).masked_fill(index >= starts, 2).argsort(dim=1, stable=True)
        begins = torch.zeros_like(available).scatter(1, order, index < count)
        begun = begins.cumsum(1)
        over = torch.where(index >= length, begun.gather(1, (index - length).clamp(min=0)), 0)
        hidden = (begun > over).gather(1, number) & available
        return (~hidden).float(), hidden.sum(1)

    def refuse(self, lengths: Int[Tensor, " b"]) -> None:
        """ValueError if half of the samples are no longer than a span."""
        short = int((lengths <= self.length).sum())
        if 2 * short >= len(lengths):
            raise ValueError(
                f"a span of {self.length} places leaves nothing to see of {some(short, lengths)}. Set its length to at most "
                f"{max(1, (int(lengths.median()) - 1) // 2)}, make tokens of smaller parts, or train on longer samples"
            )


def numbered_places(along: Float[Tensor, "b n"], available: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The number of each available token's place along an axis, from 0 for the lowest coordinate; others have the last one."""
    ordered, order = along.masked_fill(~available, torch.inf).sort(dim=1, stable=True)
    steps = torch.zeros_like(order)
    steps[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(order).scatter(1, order, steps.cumsum(1))

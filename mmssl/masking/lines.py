"""Samplers of whole lines of a grid: tubes through time, bands of time or frequency."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, mix
from mmssl.masking.split import AXES, Axis, Ratio, Scored, ranks, share

Count = Annotated[int, Field(ge=0)]


def fingerprint(coords: Float[Tensor, "b n 4"]) -> Int[Tensor, "b n"]:
    """One number for each place: equal where all coordinates are."""
    bits = (coords + 0.0).contiguous().view(torch.int32).long()  # -0.0 + 0.0 is 0.0
    code = torch.zeros_like(bits[..., 0])
    for axis in bits.unbind(-1):
        code = mix(code + axis + 1)
    return code


@dataclass(frozen=True, kw_only=True)
class Tube(Scored):
    """The same places at all times: tokens that differ in their time only are hidden together.

    VideoMAE (arXiv 2203.12602, section 3.2). Tubes are never cut: their number is exact. Where all tokens lie in one tube (a
    sequence), they are hidden one by one.

    ratio: share of the tubes to hide.
    axis: the axis along which tubes lie.
    """

    ratio: Ratio = 0.9
    axis: Axis = "time"

    def refuse(self, lengths: Int[Tensor, " b"]) -> None:
        """Nothing: the ratio counts tubes, not tokens."""

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"]]:
        place = coords.clone()
        place[..., AXES.index(self.axis)] = 0
        tubes = draws.shared("tubes", fingerprint(place)).masked_fill(~available, torch.iinfo(torch.int64).max)
        ordered, order = tubes.sort(dim=1, stable=True)
        begins = torch.ones_like(available)
        begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        number = begins.cumsum(1)
        free = available.gather(1, order)
        total = (begins & free).sum(1)
        hide = torch.minimum(share(total, self.ratio).clamp(min=1), total - 1)
        count = ((number <= hide[:, None]) & free).sum(1)
        score = torch.zeros_like(number).scatter(1, order, number) + draws.uniform("mask", coords.shape[1])
        return score, torch.where(total > 1, count, share(available.sum(1), self.ratio))


@dataclass(frozen=True, kw_only=True)
class Bands(Scored):
    """Bands of time and of height (the frequency of a spectrogram), grown together until the ratio is met.

    SpecAugment (arXiv 1904.08779, section 2) and TERA (arXiv 2007.06028, section III), where the number of hidden tokens follows
    from the drawn widths. Here it is exact, and widths are relative to each other and to the extent of the axis, uniform from 0 to
    1. The last lines to be hidden may be hidden in part.

    ratio: share of the tokens to hide.
    time: bands along time.
    height: bands along height.
    """

    ratio: Ratio = 0.3
    time: Count = 2
    height: Count = 2

    def __post_init__(self) -> None:
        if not self.time + self.height:
            raise ValueError("bands needs a band to hide; set time or height to 1 or more")

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        score = torch.full(coords.shape[:2], 1e3, device=coords.device)
        for axis, count in (("time", self.time), ("height", self.height)):
            along = coords[..., AXES.index(axis)]
            if count:
                score = torch.minimum(score, distance_to_bands(along, available, axis, count, draws))
        return ranks(draws.uniform("mask", coords.shape[1]), score), None


def distance_to_bands(
    along: Float[Tensor, "b n"], available: Bool[Tensor, "b n"], axis: str, count: int, draws: Draws
) -> Float[Tensor, "b n"]:
    """Distance of each token to the nearest middle of `count` bands, in their widths; far on an axis without extent."""
    low = along.masked_fill(~available, torch.inf).amin(1, keepdim=True)
    extent = (along.masked_fill(~available, -torch.inf).amax(1, keepdim=True) - low).nan_to_num(0.0, 0.0, 0.0)
    order = draws.uniform(f"{axis} middles", along.shape[1]).masked_fill(~available, 2).argsort(dim=1, stable=True)
    turn = torch.arange(count, device=along.device) % available.sum(1, keepdim=True).clamp(min=1)
    middle = along.gather(1, order.gather(1, turn))
    width = (1 - draws.uniform(f"{axis} widths", count)) * extent.clamp(min=1e-6)
    distance = ((along[:, :, None] - middle[:, None]).abs() / width[:, None]).amin(-1)
    return torch.where(extent > 0, distance, 1e3).clamp(max=1e3)

"""Several blocks to predict and one context to predict them from (I-JEPA)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.split import Ratio, Sampler, Split, free_tokens, in_order, share

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class MultiBlock(Sampler):
    """Target blocks and a context block without them (I-JEPA, arXiv 2301.08243, section 3 and appendix A).

    A target block is a box around a place drawn anywhere where the box fits. Its number of tokens is exact: those nearest to the
    middle of the box, in its shape. The paper draws one size of target for a whole batch, from 0.15 to 0.2 of the tokens; here it
    is always `scale`, so that shapes are static: the outermost line of tokens of a block may be incomplete. The context is a square
    block less all targets. The paper cuts every context to the smallest of its batch, from the lower end; here it is cut to a size
    that is always left, or to `keep`: those nearest to a random token of it, so that it is in one piece as there, and anywhere.

    blocks: target blocks of a sample; they may overlap, and each is predicted without knowing of the others.
    scale: share of the tokens in each target block.
    aspect: range of the ratio of a block's height to its width (of a spectrogram: to its time), drawn for each block.
    context: range of the share of the tokens in the context block, before targets are taken out.
    keep: share of the tokens that the context is cut to; null: what is always left. In the official code, with batches of 128, the
        smallest context has 0.18 of 8 x 8 tokens, 0.27 of 14 x 14 and 0.29 of 32 x 32.
    """

    blocks: Annotated[int, Field(gt=0)] = 4
    scale: Ratio = 0.175
    aspect: tuple[Positive, Positive] = (0.75, 1.5)
    context: tuple[Share, Share] = (0.85, 1.0)
    keep: Share | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in (("aspect", self.aspect), ("context", self.context)):
            if low > high:
                raise ValueError(f"{name} must be a range from low to high; got {[low, high]}")
        if self.blocks * self.scale >= 1:
            raise ValueError(
                f"blocks x scale must be below 1, or no context is left; got {self.blocks} x {self.scale}. Take fewer blocks"
            )

    def split(
        self,
        coords: Float[Tensor, "b n 4"],
        valid: Bool[Tensor, "b n"] | None,
        available: Bool[Tensor, "b n"] | None,
        draws: Draws,
    ) -> Split:
        free = free_tokens(coords, valid, available)
        real = torch.ones_like(free) if valid is None else valid
        total, limit = real.sum(1), free.sum(1)
        # Of a sample with too few tokens for blocks of one token each, later blocks repeat earlier ones.
        size = torch.minimum(share(limit, self.scale).clamp(min=1), torch.minimum(limit, total - 1).clamp(min=0))
        hide = int(size.max())
        place = torch.arange(hide, device=coords.device)
        order = self.distances(coords, free, draws).masked_fill(~free[:, None], 1e6).argsort(dim=-1, stable=True)[..., :hide]
        order = self.thinned(order, size, total)
        hidden_real = (place < size[:, None])[:, None].expand(order.shape)
        hidden, flags = order.flatten(1), hidden_real.flatten(1)
        targets = Split(hidden, hidden, hidden_real=flags).hidden_places(coords.shape[1])
        seen, seen_real = self.context_of(coords, real, targets, total, size, draws)
        complete = valid is None and available is None
        return Split(seen, hidden, None if complete else seen_real, None if complete else flags, groups=self.blocks)

    def thinned(self, order: Int[Tensor, "b g m"], size: Int[Tensor, " b"], total: Int[Tensor, " b"]) -> Int[Tensor, "b g m"]:
        """The blocks, of which a short sample repeats the first ones, so that at least one token is left to see."""
        fit = torch.where(size > 0, (total - 1) // size.clamp(min=1), 1).clamp(min=1)
        group = torch.arange(self.blocks, device=order.device) % fit[:, None]
        return order.gather(1, group[..., None].expand(order.shape))

    def distances(self, coords: Float[Tensor, "b n 4"], free: Bool[Tensor, "b n"], draws: Draws) -> Float[Tensor, "b g n"]:
        """Distance of every token to the middle of each target block, in half sides of the block; below 1 is inside."""
        stretch = draws.between("aspect", *self.aspect, self.blocks)
        volume = torch.full_like(stretch, self.scale)
        distance = distance_to_boxes(coords, free, volume, stretch, draws.uniform("middle", self.blocks, 4))
        # Tokens without geometry (the columns of a table) are ordered by chance.
        return distance + 1e-5 * draws.uniform("ties", coords.shape[1], self.blocks).transpose(1, 2)

    def context_of(
        self,
        coords: Float[Tensor, "b n 4"],
        real: Bool[Tensor, "b n"],
        targets: Bool[Tensor, "b n"],
        total: Int[Tensor, " b"],
        size: Int[Tensor, " b"],
        draws: Draws,
    ) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """The context's tokens: those of its block that no target has, from a random one outwards, then those nearest to the block.

        Always as many. Tokens without geometry come by chance.
        """
        keep = torch.minimum((total - self.blocks * size).clamp(min=1), share(total, self.context[0]).clamp(min=1))
        if self.keep is not None:
            keep = torch.minimum(keep, share(total, self.keep).clamp(min=1))
        keep = torch.minimum(keep, (real & ~targets).sum(1))
        volume = draws.between("context", *self.context, 1)
        middle = draws.uniform("context middle", 1, 4)
        distance = distance_to_boxes(coords, real, volume, torch.ones_like(volume), middle)[:, 0]
        chance, outside = draws.uniform("context ties", coords.shape[1]), torch.where(distance <= 1, 0.0, distance)
        lost = (targets | ~real).to(torch.uint8)
        one = in_order(chance, outside, lost)[:, :1, None].expand(-1, -1, 4)
        apart = (coords - coords.gather(1, one)).square().sum(-1)
        order = in_order(chance, apart, outside, lost)
        place = torch.arange(int(keep.max()), device=coords.device)
        return order[:, : len(place)], place < keep[:, None]


POWERS = (-0.5, 0.0, 0.5, -0.5)
"""How the sides along time, depth, height and width follow a block's ratio of height to width."""


def distance_to_boxes(
    coords: Float[Tensor, "b n 4"],
    among: Bool[Tensor, "b n"],
    volume: Float[Tensor, "b g"],
    stretch: Float[Tensor, "b g"],
    place: Float[Tensor, "b g 4"],
) -> Float[Tensor, "b g n"]:
    """Distance of every token to the middle of boxes, in half sides of a box; 0 for tokens without geometry.

    volume: of each box, as a share of the box around all tokens of `among`, which they never leave.
    stretch: ratio of height to width. place: where the box is, from 0 to 1 between both ends.
    """
    low, extent, used = extent_of(coords, among)
    side = box_sides(extent, used, volume, stretch)
    middle = low - 0.5 + side / 2 + place * (extent - side)
    gaps = (coords[:, None] - middle[:, :, None]).abs() / (side[:, :, None] / 2)
    return torch.where(used[:, :, None], gaps, 0.0).amax(-1)


def extent_of(
    coords: Float[Tensor, "b n 4"], among: Bool[Tensor, "b n"]
) -> tuple[Float[Tensor, "b 1 4"], Float[Tensor, "b 1 4"], Bool[Tensor, "b 1 4"]]:
    """The lowest coordinates of the tokens of `among`, the extents of the box around them, and which axes have an extent at all."""
    low = coords.masked_fill(~among[..., None], torch.inf).amin(1).nan_to_num(posinf=0.0)[:, None]
    high = coords.masked_fill(~among[..., None], -torch.inf).amax(1).nan_to_num(neginf=0.0)[:, None]
    return low, high - low + 1, high > low


def box_sides(
    extent: Float[Tensor, "b 1 4"], used: Bool[Tensor, "b 1 4"], volume: Float[Tensor, "b g"], stretch: Float[Tensor, "b g"]
) -> Float[Tensor, "b g 4"]:
    """Sides of boxes of such a share of the volume and ratio of height to width, none longer than the extent."""
    dims = used.sum(-1, keepdim=True).clamp(min=1)
    wanted = torch.where(used, extent, 1.0).prod(-1, keepdim=True) * volume[..., None]
    powers = torch.tensor(POWERS, device=extent.device) * (dims > 1)
    side = wanted ** (1 / dims) * stretch[..., None] ** powers
    # What an axis is too short for goes to the others.
    for _ in range(len(POWERS)):
        side = torch.minimum(side, extent)
        open_axes = used & (side < extent)
        missing = wanted / torch.where(used, side, 1.0).prod(-1, keepdim=True)
        grown = side * missing ** (1 / open_axes.sum(-1, keepdim=True).clamp(min=1))
        side = torch.where(open_axes, grown, side)
    return torch.minimum(side, extent)

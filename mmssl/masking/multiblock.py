"""Several blocks to predict and one context to predict them from (I-JEPA)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.split import Ratio, Sampler, Split, free_tokens, share


@dataclass(frozen=True, kw_only=True)
class MultiBlock(Sampler):
    """Target blocks and a context block without them (I-JEPA, arXiv 2301.08243, section 3 and appendix A.1).

    A target block is a box around a place drawn anywhere where the box fits. Its number of tokens is exact: those nearest to the
    middle of the box, in its shape. The paper draws one size of target for a whole batch, from 0.15 to 0.2 of the tokens; here it
    is always `scale`, so that shapes are static. The context are the tokens nearest to the middle of a square block, less all
    targets; the paper cuts every context to the smallest of its batch, here its size is what is left when no targets overlap.

    blocks: target blocks of a sample; they may overlap, and each is predicted without knowing of the others.
    scale: share of the tokens in each target block.
    aspect: range of the ratio of a block's sides (width to height, time to any other axis), drawn for each block.
    context: share of the tokens that the context has before targets are taken out.
    """

    blocks: Annotated[int, Field(gt=0)] = 4
    scale: Ratio = 0.175
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    context: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.aspect[0] > self.aspect[1]:
            raise ValueError(f"aspect must be a range from low to high; got {list(self.aspect)}")
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
        order = self.distances(coords, free, draws).masked_fill(~free[:, None], 1e6).argsort(-1)[..., :hide]
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
        """Distance of every token to the middle of each block, in half sides of the block; below 1 is inside."""
        low = coords.masked_fill(~free[..., None], torch.inf).amin(1).nan_to_num(posinf=0.0)
        high = coords.masked_fill(~free[..., None], -torch.inf).amax(1).nan_to_num(neginf=0.0)
        extent = (high - low + 1)[:, None]
        used = (high > low)[:, None]
        low_log, high_log = (torch.tensor(value).log().item() for value in self.aspect)
        stretch = draws.between("aspect", low_log, high_log, self.blocks, 1).exp()
        # The side along width (or time, in a sequence) is stretched, that along height shrunk; other axes keep their share.
        powers = torch.tensor([0.5, 0.0, -0.5, 0.5], device=coords.device) * (used.sum(-1, keepdim=True) > 1)
        dims = used.sum(-1, keepdim=True).clamp(min=1)
        # A cube of the wanted volume in grid units, then stretched, never beyond the grid.
        volume = torch.where(used, extent, 1.0).prod(-1, keepdim=True) * self.scale
        side = torch.minimum(volume ** (1 / dims) * stretch**powers, extent)
        middle = low[:, None] - 0.5 + side / 2 + draws.uniform("middle", self.blocks, 4) * (extent - side)
        ties = 1e-3 * draws.uniform("ties", self.blocks, coords.shape[1])
        gaps = (coords[:, None] - middle[:, :, None]).abs() / (side[:, :, None] / 2)
        # Tokens without geometry (the columns of a table) are ordered by chance.
        return gaps.where(used[:, :, None], 0.0).amax(-1) + ties

    def context_of(
        self,
        coords: Float[Tensor, "b n 4"],
        real: Bool[Tensor, "b n"],
        targets: Bool[Tensor, "b n"],
        total: Int[Tensor, " b"],
        size: Int[Tensor, " b"],
        draws: Draws,
    ) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """The context's tokens: those nearest to a random middle that no target has, as many as there always are."""
        keep = torch.minimum((total - self.blocks * size).clamp(min=1), (total * self.context).round().long().clamp(min=1))
        left = (real & ~targets).sum(1)
        keep = torch.minimum(keep, left)
        low = coords.masked_fill(~real[..., None], torch.inf).amin(1).nan_to_num(posinf=0.0)
        high = coords.masked_fill(~real[..., None], -torch.inf).amax(1).nan_to_num(neginf=0.0)
        middle = low + draws.uniform("context", 4) * (high - low)
        distance = (coords - middle[:, None]).abs().amax(-1) + 1e-3 * draws.uniform("context ties", coords.shape[1])
        if self.context == 1:
            distance = draws.uniform("context ties", coords.shape[1])
        order = (distance + 1e6 * targets + 1e6 * ~real).argsort(1)
        place = torch.arange(int(keep.max()), device=coords.device)
        return order[:, : len(place)], place < keep[:, None]

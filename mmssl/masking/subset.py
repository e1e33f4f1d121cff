"""A random subset to see and several random subsets to predict from it (T-JEPA)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.split import Ratio, Sampler, Split, free_tokens, share


@dataclass(frozen=True, kw_only=True)
class Subset(Sampler):
    """A subset of the columns to see, and subsets of the others to predict, each on its own (T-JEPA, arXiv 2410.05016, section 3).

    Every sample draws its own sizes (the paper: every batch). Shapes are those of the largest sizes, so they are static.

    subsets: target subsets of a sample; they may overlap.
    context: smallest and largest share of the tokens to see.
    target: smallest and largest share of the tokens in each target subset, as far as the context leaves them.
    """

    subsets: Annotated[int, Field(gt=0)] = 4
    context: tuple[Ratio, Ratio] = (0.1, 0.4)
    target: tuple[Ratio, Ratio] = (0.1, 0.4)

    def __post_init__(self) -> None:
        for name, (low, high) in (("context", self.context), ("target", self.target)):
            if low > high:
                raise ValueError(f"{name} must be a range from low to high; got {[low, high]}")

    def split(
        self,
        coords: Float[Tensor, "b n 4"],
        valid: Bool[Tensor, "b n"] | None,
        available: Bool[Tensor, "b n"] | None,
        draws: Draws,
    ) -> Split:
        free = free_tokens(coords, valid, available)
        real = torch.ones_like(free) if valid is None else valid
        n, total = coords.shape[1], real.sum(1)
        chance = draws.uniform("context", n)
        # The last available token is kept for the targets, so that there is always something to predict.
        kept = (chance + 2.0 * free).argmax(1, keepdim=True)
        late = torch.zeros_like(chance).scatter(1, kept, 4.0 * free.any(1, keepdim=True))
        order = (chance + late + 9.0 * ~real).argsort(dim=1, stable=True)
        size = torch.minimum(between(total, self.context, "context size", draws), (total - 1).clamp(min=1))
        size = torch.minimum(size, total)
        place = torch.arange(n, device=coords.device)
        seen = torch.zeros_like(real).scatter(1, order, place < size[:, None])
        widest = min(max(1, round(n * self.context[1])), max(1, n - 1))
        left = free & ~seen
        count = torch.minimum(between(total, self.target, "target size", draws), left.sum(1))
        most = min(max(1, round(n * self.target[1])), n - 1)
        targets = (
            draws.uniform("targets", n, self.subsets)
            .transpose(1, 2)
            .masked_fill(~left[:, None], 2)
            .argsort(dim=-1, stable=True)[..., :most]
        )
        hidden_real = (place[:most] < count[:, None])[:, None].expand(targets.shape).flatten(1)
        return Split(
            seen=order[:, :widest],
            hidden=targets.flatten(1),
            seen_real=place[:widest] < size[:, None],
            hidden_real=hidden_real,
            groups=self.subsets,
        )


def between(total: Int[Tensor, " b"], shares: tuple[float, float], purpose: str, draws: Draws) -> Int[Tensor, " b"]:
    """For each sample a whole number, all equally likely, from the first to the second of two shares of its tokens; 1 at least."""
    low, high = (share(total, one).clamp(min=1) for one in shares)
    return low + (draws.uniform(purpose, 1)[:, 0] * (high - low + 1)).long().clamp(max=high - low)

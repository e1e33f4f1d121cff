"""One box on a grid whose edges meet, hidden or seen (CAPI)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.multiblock import Positive, box_sides, extent_of
from mmssl.masking.split import Ratio, Scored, ranks, share


@dataclass(frozen=True, kw_only=True)
class RolledBlock(Scored):
    """One box, which goes on at the other edge where it leaves the grid, so that every place is in it equally often.

    The inverse block of CAPI (arXiv 2502.08769, section 3.3; `InverseBlockMasking` of its data.py, rolled). The number of hidden
    tokens is exact: sides are rounded up, and the last line of the box is cut. In a sequence the box is a span.

    ratio: share of the tokens to hide.
    aspect: range of the ratio of the box's height to its width (of a spectrogram: to its time); its logarithm is uniform.
    inverse: the box is seen and the rest is hidden.
    """

    ratio: Ratio = 0.65
    aspect: tuple[Positive, Positive] = (0.5, 2.0)
    inverse: bool = True

    def __post_init__(self) -> None:
        if self.aspect[0] > self.aspect[1]:
            raise ValueError(f"aspect must be a range from low to high; got {list(self.aspect)}")

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        limit = available.sum(1)
        hide = share(limit, self.ratio).clamp(min=1)
        inside = (limit - hide if self.inverse else hide).clamp(min=1)
        low, extent, used = extent_of(coords, available)
        narrow, wide = map(math.log, self.aspect)
        stretch = draws.between("aspect", narrow, wide, 1).exp()
        volume = (inside / limit.clamp(min=1))[:, None]
        # A hair is taken off, or what float32 adds to a whole number would be rounded up.
        side = (box_sides(extent, used, volume, stretch) - 1e-4).ceil()
        start = low + (draws.uniform("start", 1, 4) * extent).floor()
        offset = torch.where(used, (coords - start).remainder(extent), 0.0)
        beyond = torch.minimum(offset - side + 1, extent - offset).clamp(min=0) * used
        # In the box line by line, beyond it the nearest first; tokens without geometry (the columns of a table) come by chance.
        chance = draws.uniform("mask", coords.shape[1])
        score = ranks(chance, *offset.flip(-1).unbind(-1), beyond.amax(-1))
        return -score if self.inverse else score, None

"""Learned positions of a grid, which are resampled to grids of other sizes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

DEVIATION = 0.02
"""Of positions before any training (ViT, arXiv 2010.11929, its code)."""
SHARP, SHARP_ANTIALIASED = -0.75, -0.5
"""Parameter of the cubic kernel in torch's bicubic interpolation, without and with antialiasing."""


def cubic(distance: Float[Tensor, "*shape"], sharp: float) -> Float[Tensor, "*shape"]:
    """The kernel of cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711, eq. 4 with a = `sharp`)."""
    x = distance.abs()
    near = ((sharp + 2) * x - (sharp + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x - 4
    return torch.where(x <= 1, near, torch.where(x < 2, sharp * far, 0.0))


def resampling(sizes: Int[Tensor, " k"], count: int, length: int, *, antialias: bool) -> Float[Tensor, "k n m"]:
    """The linear map from `length` places to each of some sizes, at most `count`, which torch's bicubic `interpolate` applies.

    Behind the places of a size the map is zero. As a matrix it has no shape that depends on data, so that graphs can hold it.
    """
    place = torch.arange(count, device=sizes.device)
    step = length / sizes.to(torch.float32)[:, None]
    middle = (place + 0.5) * step
    if antialias:
        known = torch.arange(length, device=sizes.device) + 0.5
        weight = cubic((known - middle[..., None]) / step.clamp(min=1)[..., None], SHARP_ANTIALIASED)
        weight = weight / weight.sum(-1, keepdim=True).where(place[:, None] < sizes[:, None, None], 1)
    else:
        beside = torch.arange(-2, length + 2, device=sizes.device)  # places beyond an edge hold what lies on it
        spread = cubic(beside + 0.5 - middle[..., None], SHARP)
        edges = beside.clamp(0, length - 1)[:, None] == torch.arange(length, device=sizes.device)
        weight = spread @ edges.to(spread.dtype)
    return weight * (place < sizes[:, None])[..., None]


class GridPositions(nn.Module):
    """A learned vector for each place of a grid, row by row; other grids by bicubic interpolation (arXiv 2010.11929, 3.2).

    antialias: with a filter that widens where the other grid is coarser, as DINOv2 with registers and timm do.
    """

    def __init__(self, rows: int, columns: int, width: int, *, antialias: bool = False) -> None:
        super().__init__()
        self.rows, self.columns, self.antialias = rows, columns, antialias
        self.table = nn.Parameter(torch.empty(rows * columns, width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=DEVIATION)

    def forward(self, rows: int, columns: int, sizes: Int[Tensor, "b 2"] | None = None) -> Float[Tensor, "b n d"]:
        """Vectors of a grid of this size, row by row; interpolated in float32.

        sizes: rows and columns of each sample, of which each fills its own, with zeros behind them; None: all of them, for a batch
            of one, to be expanded.
        """
        device = self.table.device
        own = [torch.full((1,), side, device=device) for side in (rows, columns)] if sizes is None else list(sizes.unbind(1))
        with torch.autocast(device.type, enabled=False):
            down = resampling(own[0], rows, self.rows, antialias=self.antialias)
            across = resampling(own[1], columns, self.columns, antialias=self.antialias)
            grid = self.table.float().unflatten(0, (self.rows, self.columns))
            stretched = torch.einsum("brm,mkd->brkd", down, grid)
            return torch.einsum("bck,brkd->brcd", across, stretched).flatten(1, 2).to(self.table.dtype)

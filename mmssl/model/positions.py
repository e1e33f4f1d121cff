"""Learned positions of a grid, which are resampled to grids of other sizes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

DEVIATION = 0.02
"""Of positions before any training (ViT, arXiv 2010.11929, its code)."""


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

    def forward(self, rows: int, columns: int) -> Float[Tensor, "n d"]:
        """Vectors of a grid of this size, row by row; interpolated in float32."""
        if (rows, columns) == (self.rows, self.columns):
            return self.table
        grid = self.table.float().unflatten(0, (self.rows, self.columns)).permute(2, 0, 1)[None]
        other = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False, antialias=self.antialias)
        return other[0].permute(1, 2, 0).flatten(0, 1).to(self.table.dtype)

    def of_each(self, rows: int, columns: int, sizes: Int[Tensor, "b 2"] | None) -> Float[Tensor, "b n d"]:
        """Vectors of samples in a padded grid, of which each fills its own rows and columns; zero in the padding.

        sizes: rows and columns of each sample; None: all of them, for a batch of one, to be expanded.
        """
        if sizes is None:
            return self(rows, columns)[None]
        kinds, which = torch.unique(sizes, dim=0, return_inverse=True)
        padded = [
            F.pad(self(height, width).unflatten(0, (height, width)), (0, 0, 0, columns - width, 0, rows - height)).flatten(0, 1)
            for height, width in kinds.tolist()
        ]
        return torch.stack(padded)[which]

"""From tokens to the grid in which they lie, and back, by coordinates alone."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.masking import AXES
from mmssl.modality import Patch
from mmssl.tokens import Tokens


def assemble(content: Float[Tensor, "b n t"], coords: Float[Tensor, "b n 4"], patch: Patch) -> Float[Tensor, "b c h w"]:
    """The picture whose pieces the tokens are, which come row by row. ValueError if they do not fill a rectangle."""
    along = coords[0, :, patch.axes[0]]
    columns = int((along == along[0]).sum())
    if content.shape[1] % columns:
        raise ValueError(
            f"{content.shape[1]} tokens in rows of {columns} are no picture: a target of the whole picture needs them all"
        )
    grid = content.unflatten(1, (-1, columns)).unflatten(3, (patch.rows, patch.columns, patch.channels))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def disassemble(picture: Float[Tensor, "b f h w"], rows: int, columns: int) -> Float[Tensor, "b n t"]:
    """Pieces of so many rows and columns, row by row, each in the order (row, column, feature)."""
    grid = picture.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def cells(tokens: Tokens) -> tuple[Int[Tensor, "b n"], tuple[int, int]]:
    """Where each token lies in the smallest grid that holds a batch, as one number, row by row; and the grid's height and width.

    Padding lies behind the last cell. ValueError if tokens lie between the places of a grid, above each other, or along three axes.
    """
    valid = tokens.valid_or_ones()
    low = tokens.coords.masked_fill(~valid[..., None], torch.inf).amin((0, 1)).nan_to_num(posinf=0.0)
    high = tokens.coords.masked_fill(~valid[..., None], -torch.inf).amax((0, 1)).nan_to_num(neginf=0.0)
    used = [axis for axis, there in enumerate((high > low).tolist()) if there]
    if len(used) > 2:
        raise ValueError(
            f"a convolution over a grid needs tokens along two axes; these lie along {', '.join(AXES[i] for i in used)}"
        )
    first, second = [0, 0, *used][-2:]
    height, width = (int((high - low)[axis].round()) + 1 if axis in used else 1 for axis in (first, second))
    if len(used) < 2:
        height = 1
    place = (tokens.coords - low)[..., [first, second]]
    whole = place.round()
    cell = (whole[..., 0] * width * (height > 1) + whole[..., 1]).long().masked_fill(~valid, height * width)
    if ((place - whole).abs() > 1e-3)[valid].any() or crowded(cell, valid, height * width):
        raise ValueError(
            "a convolution over a grid needs tokens at whole coordinates, one at each place, as in pictures and "
            "spectrograms; these are not. Choose the predictor transformer; of images, leave out adapter.reference_grid"
        )
    return cell, (height, width)


def crowded(cell: Int[Tensor, "b n"], valid: Bool[Tensor, "b n"], count: int) -> bool:
    """Whether two valid tokens of a sample lie in one cell."""
    held = torch.zeros(len(cell), count + 1, dtype=torch.int64, device=cell.device).scatter_add(1, cell, valid.long())
    return bool((held > 1).any())

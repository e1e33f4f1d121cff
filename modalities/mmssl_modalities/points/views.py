"""Depth maps of clouds along the three axes, and where in them each group lies (I2P-MAE, arXiv 2212.06785, section 3.1)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.modality import Rendering

AXES = ((0, 1, 2), (2, 0, 1), (1, 2, 0))
"""Per view the axes that point right, down, and to the eye."""
STAMP = 2
"""A point is a square of 2 x 2 + 1 pixels at 224 pixels a side, as in the paper's code, and in proportion at other sizes."""
FAR = 0.2
"""Brightness of the farthest point; the nearest has 1, the background 0."""


@torch.no_grad()
def depth_maps(
    groups: Float[Tensor, "b g k 3"], centers: Float[Tensor, "b g 3"], valid: Bool[Tensor, "b g"] | None, size: int
) -> Rendering:
    """Three parallel projections, each cloud in the middle of its picture and as large as fits; the nearest point wins a pixel."""
    points = (groups + centers[:, :, None]).flatten(1, 2)
    real = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    if valid is not None:
        real = valid.repeat_interleave(groups.shape[2], 1)
    low = points.masked_fill(~real[..., None], torch.inf).amin(1, keepdim=True)
    high = points.masked_fill(~real[..., None], -torch.inf).amax(1, keepdim=True)
    middle, half = (low + high) / 2, ((high - low) / 2).amax(-1, keepdim=True).clamp(min=1e-6)
    stamp = round(STAMP * size / 224)
    scaled = (points - middle) / half  # in [-1, 1]
    inside = 1 - (2 * stamp + 1) / size  # a stamp at the rim stays within the picture
    pictures, places = [], []
    for right, down, eye in AXES:
        flat = scaled[..., [right, down]] * inside
        pictures.append(splat(flat, FAR + (1 - FAR) * (scaled[..., eye] + 1) / 2, real, size, stamp))
        places.append((centers - middle)[..., [right, down]] / half * inside)
    return Rendering(torch.stack(pictures, 1)[:, :, None].expand(-1, -1, 3, -1, -1), torch.stack(places, 1))


def splat(
    flat: Float[Tensor, "b n 2"], brightness: Float[Tensor, "b n"], real: Bool[Tensor, "b n"], size: int, stamp: int
) -> Float[Tensor, "b s s"]:
    """A picture of points at places in [-1, 1], each a square; the brightest of a pixel stays."""
    pixel = ((flat + 1) / 2 * size).floor().long().clamp(0, size - 1)
    picture = brightness.new_zeros(len(flat), size * size)
    light = brightness.masked_fill(~real, 0)
    for dx in range(-stamp, stamp + 1):
        for dy in range(-stamp, stamp + 1):
            x, y = ((pixel[..., i] + d).clamp(0, size - 1) for i, d in ((0, dx), (1, dy)))
            picture.scatter_reduce_(1, y * size + x, light, "amax")
    return picture.view(-1, size, size)

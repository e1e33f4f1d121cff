"""Random views of batched point clouds, on the device of the batch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs
from mmssl_modalities.points.processor import CENTERS, GROUPS

Probability = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class PointsAugment:
    """A turn, a stretch, a shift, noise, and lost points, each drawn per sample; a centre moves with its group. By default none.

    Point-MAE (arXiv 2203.06604) has scale [0.667, 1.5] and a shift of 0.2 unit-sphere radii, which are 0.8 of these patch units.

    rotate: z = a turn about the z axis, for things that stand upright; so3 = any turn; none.
    scale: smallest and largest factor of a stretch, drawn for each axis; null: no stretch.
    shift: largest shift along each axis, in patch units; it moves the centres only.
    jitter: standard deviation of noise on the coordinates of each point, in patch units, cut at three of them.
    drop: probability that a point of a group is lost; the point nearest to the centre takes its place.
    normals: number of the first of three feature channels that hold a normal, which turns with the cloud (the first is 0).
    """

    rotate: Literal["none", "z", "so3"] = "none"
    scale: tuple[Factor, Factor] | None = None
    shift: Length = 0.0
    jitter: Length = 0.0
    drop: Probability = 0.0
    normals: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale gives the smallest factor first; got {list(self.scale)}. Exchange the two")

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch. The view of a sample depends on its own key and points only."""
        groups, centers = inputs[GROUPS], inputs[CENTERS]
        with torch.autocast(groups.device.type, enabled=False):  # would round coordinates to bfloat16
            if self.rotate != "none" or self.scale is not None:
                groups, centers = self._turn_and_stretch(groups, centers, draws)
            if self.shift:
                centers = centers + draws.between("points shift", -self.shift, self.shift, 1, 3)
            if self.jitter:
                noise = self.jitter * draws.normal("points jitter", *groups.shape[1:3], 3).clamp(-3, 3)
                groups = groups + F.pad(noise, (0, groups.shape[3] - 3))
            if self.drop:
                lost = draws.uniform("points drop", *groups.shape[1:3]) < self.drop
                groups = torch.where(lost[..., None], groups[:, :, :1], groups)
            if self.scale is not None or self.jitter or self.drop:
                groups = by_distance(groups)
        return inputs | {GROUPS: groups, CENTERS: centers}

    def _turn_and_stretch(
        self, groups: Float[Tensor, "b g k p"], centers: Float[Tensor, "b g 3"], draws: Draws
    ) -> tuple[Float[Tensor, "b g k p"], Float[Tensor, "b g 3"]]:
        """Multiply coordinates by a matrix, and normals by the inverse of its transpose."""
        turn = self._rotations(draws)
        low, high = self.scale or (1.0, 1.0)
        stretch = draws.between("points scale", low, high, 1, 3)
        parts = [_apply(groups[..., :3], turn * stretch), groups[..., 3:]]
        if self.normals is not None:
            features, first = groups[..., 3:], self.normals
            if first + 3 > features.shape[3]:
                raise ValueError(
                    f"augment.normals must be the first of three feature channels; got {first} of {features.shape[3]} channels. "
                    "Set processor.features, or leave normals out"
                )
            normals = F.normalize(_apply(features[..., first : first + 3], turn / stretch), dim=-1)
            parts = [parts[0], features[..., :first], normals, features[..., first + 3 :]]
        return torch.cat(parts, -1), centers @ (turn * stretch)

    def _rotations(self, draws: Draws) -> Float[Tensor, "b 3 3"]:
        """Matrices that turn row vectors: about z, uniformly from all turns, or not at all."""
        if self.rotate == "none":
            return torch.eye(3, device=draws.keys.device).expand(len(draws.keys), 3, 3)
        if self.rotate == "z":
            half = math.pi * draws.uniform("points turn")
            zero = torch.zeros_like(half)
            quaternion = torch.stack([half.cos(), zero, zero, half.sin()], -1)
        else:
            quaternion = F.normalize(draws.normal("points turn", 4), dim=-1)
        w, x, y, z = quaternion.unbind(-1)
        rows = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
        rows += [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)]
        rows += [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
        return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _apply(vectors: Float[Tensor, "b g k 3"], matrices: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b g k 3"]:
    return (vectors.flatten(1, 2) @ matrices).view(vectors.shape)


def by_distance(groups: Float[Tensor, "b g k p"]) -> Float[Tensor, "b g k p"]:
    """The points of each group in the order of their distance to its centre."""
    order = groups[..., :3].square().sum(-1).argsort(dim=-1, stable=True)
    return groups.gather(2, order[..., None].expand(groups.shape))

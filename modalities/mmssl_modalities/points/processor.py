"""Raw point clouds to groups of points about centres, in patch units."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.modality import Content, Inputs, Processor, pad_stack
from mmssl_modalities.points.decode import num_channels, read_cloud
from mmssl_modalities.points.geometry import group_points
from mmssl_modalities.points.scales import DECIDED, Extremes, FullScale, scale_contents, scaled
from mmssl_modalities.points.voxels import hash_order, voxel_groups

GROUPS = "points_groups"
CENTERS = "points_centers"
VALID = "points_valid"

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

DISTANCE_BINS = 64
DISTANCE_POINTS = 1024
"""Points between which `features` measures all distances."""


class PointsProcessor(Processor):
    """A cloud of points to `points_groups`, float32 `[g, k, 3 + f]`, about `points_centers`, float32 `[g, 3]`.

    A raw cloud is an array, tensor or nested list `[n, 3 + f]`; a dict with `points` `[n, 3]` and features by name; or a path, or
    the bytes, of a .npy, .npz, PLY, OFF, LAS or LAZ file (a mesh in an OFF file: points on its surface). Any number of points will
    do, and their order has no influence.

    A group holds the coordinates of its points relative to its centre, and their features. All lengths are in patch units:
    neighbouring centres are about 1 apart.

    tokenizer: groups = `num_groups` centres by farthest-point sampling, each with its `group_size` nearest points (Point-MAE,
        arXiv 2203.06604); voxel = the occupied cells of a grid, in time linear in the number of points (in the manner of P3P-MAE,
        arXiv 2408.10007).
    num_groups: tokens per cloud; a cloud of fewer distinct points has one for each of them.
    group_size: points in a token; where there are fewer, they repeat.
    voxel_size: side of a cell, in normalised coordinates.
    max_tokens: largest number of cells; of more, a random but fixed choice is kept.
    num_points: of a larger cloud, use this many, a random but fixed choice; null: all.
    normalise: unit_sphere = centroid at the origin, farthest point at distance 1; centre = centroid at the origin; none.
    scale: patch units in one unit of normalised coordinates; null: half the root of num_groups, or 1 / voxel_size.
    features: channels of each named feature, in order ({color: 3, normal: 3, intensity: 1}), or the number of channels that follow
        the coordinates. Named colours and intensities in whole numbers, and colours of PLY files and of arrays [n, 3 + f], are
        scaled to [0, 1]; other values stay as they are.
    full_scale: the value that becomes 1, by feature ({color: 65535}), or by feature and how it is stored (uint8, uint16, whole,
        ply); null: bytes are divided by 255, 16-bit numbers too where none in the training clouds is above 255, else by 65,535;
        colours in other whole numbers and in decimals of PLY files and arrays by 255 (65,535) where some are above 1 (255).
    mesh_points: points that are taken from the surface of a mesh.
    max_points: largest number of points in a cloud, a guard against damaged files that announce billions.
    """

    def __init__(
        self,
        *,
        tokenizer: Literal["groups", "voxel"] = "groups",
        num_groups: Positive = 64,
        group_size: Positive = 32,
        voxel_size: PositiveFloat = 0.25,
        max_tokens: Annotated[int, Field(gt=0, lt=1 << 16)] = 512,
        num_points: Positive | None = None,
        normalise: Literal["unit_sphere", "centre", "none"] = "unit_sphere",
        scale: PositiveFloat | None = None,
        features: dict[str, Positive] | Annotated[int, Field(ge=0)] = 0,
        full_scale: FullScale | None = None,
        mesh_points: Positive = 2048,
        max_points: Positive = 10_000_000,
    ) -> None:
        self.tokenizer = tokenizer
        self.num_groups = num_groups
        self.group_size = group_size
        self.voxel_size = voxel_size
        self.max_tokens = max_tokens
        self.num_points = num_points
        self.normalise = normalise
        self.scale = scale
        self.named_features = features
        self.channels = num_channels(features)
        self.full_scale: FullScale = full_scale or {}
        if unknown := [name for name in self.full_scale if not isinstance(features, dict) or name not in features]:
            named = ", ".join(features) if isinstance(features, dict) else "none"
            raise ValueError(f"processor.full_scale names {unknown[0]!r}, which is none of processor.features by name: {named}")
        self.mesh_points = mesh_points
        self.max_points = max_points

    def settings(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "num_groups": self.num_groups,
            "group_size": self.group_size,
            "voxel_size": self.voxel_size,
            "max_tokens": self.max_tokens,
            "num_points": self.num_points,
            "normalise": self.normalise,
            "scale": self.scale,
            "features": self.named_features,
            "full_scale": self.full_scale or None,
            "mesh_points": self.mesh_points,
            "max_points": self.max_points,
        }

    @property
    def _undecided(self) -> list[str]:
        """Features whose full scale goes by the training clouds, and is not known."""
        named = self.named_features if isinstance(self.named_features, dict) else {}
        return [name for name in DECIDED if name in named and name not in self.full_scale]

    @property
    def fitted(self) -> bool:
        return not self._undecided

    def fit(self, samples: Iterable[Any]) -> None:
        """Find the full scale of colours and intensities in all clouds: a dark one alone does not tell 16 bits from 8.

        Clouds that cannot be read are passed over: the loader deals with them as `data.on_error` says.
        """
        extremes = Extremes()
        for raw in samples:
            with suppress(ValueError, TypeError, FileNotFoundError):
                read_cloud(raw, self.named_features, self.mesh_points, self.max_points, extremes.see)
        self.full_scale = self.full_scale | {name: extremes.full_scale(name) for name in self._undecided}

    def contents(self, samples: Iterable[Any]) -> list[Content]:
        """What colours and intensities are divided by."""
        return scale_contents(self.full_scale, self.named_features if isinstance(self.named_features, dict) else ())

    @property
    def unit(self) -> float:
        """Patch units in one unit of normalised coordinates."""
        if self.scale is not None:
            return self.scale
        # 64 groups on a unit sphere, whose surface is 4 pi, are 0.44 apart; on the smaller surfaces of things in it about 0.25.
        return 1 / self.voxel_size if self.tokenizer == "voxel" else self.num_groups**0.5 / 2

    def __call__(self, raw: Any) -> Inputs:
        points, features = read_cloud(raw, self.named_features, self.mesh_points, self.max_points, scaled(self.full_scale))
        order = hash_order(np.concatenate([points, features], 1))[: self.num_points]
        points, features = points[order], features[order]
        origin = points.mean(0)
        local, reach = _within_unit_cube(points - origin, np.abs(points).max())
        if self.normalise == "unit_sphere":
            # A cloud without extent has no size to be scaled to.
            reach, origin = 1 / max(np.linalg.norm(local, axis=1).max(), 1.0), np.zeros(3)
        elif self.normalise == "centre":
            origin = np.zeros(3)
        centers, members = self._group(local, reach, origin)
        relative = local[members] * reach + (origin - centers)[:, None]
        groups = np.concatenate([relative * self.unit, features[members]], 2)
        return {
            GROUPS: torch.from_numpy(groups.astype(np.float32)),
            CENTERS: torch.from_numpy((centers * self.unit).astype(np.float32)),
        }

    def _group(
        self, local: Float[np.ndarray, "n 3"], reach: float, origin: Float[np.ndarray, " 3"]
    ) -> tuple[Float[np.ndarray, "g 3"], Int[np.ndarray, "g k"]]:
        """Centres in normalised coordinates, and the points of each group, the nearest to its centre first."""
        if self.tokenizer == "voxel":
            points = local * reach + origin
            centers, members = voxel_groups(points, self.voxel_size, self.max_tokens, self.group_size)
            near = np.square(points[members] - centers[:, None]).sum(2).argsort(1, kind="stable")
            return centers, np.take_along_axis(members, near, 1)
        cloud = torch.from_numpy(local.astype(np.float32))[None]
        chosen, neighbours, new = (part[0].numpy() for part in group_points(cloud, self.num_groups, self.group_size))
        return local[chosen[new]] * reach + origin, neighbours[new]

    def many(self, raw: Any) -> list[Any]:
        """The clouds in a list or a 3-d array, or one cloud; a list of points is one cloud."""
        if isinstance(raw, np.ndarray | Tensor):
            return list(raw) if raw.ndim == 3 else [raw]
        if isinstance(raw, list | tuple) and raw and _is_point(raw[0]):
            return [raw]
        return super().many(raw)

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        """Stack clouds. If their numbers of groups differ, pad with zeros, and add `points_valid`, true for the real groups."""
        batch = {name: pad_stack([sample[name] for sample in samples]) for name in (GROUPS, CENTERS)}
        counts = torch.tensor([len(sample[CENTERS]) for sample in samples])
        if (counts != counts[0]).any():
            batch[VALID] = torch.arange(batch[CENTERS].shape[1]) < counts[:, None]
        return batch

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        centers = inputs[CENTERS]
        return {VALID: torch.ones(centers.shape[:2], dtype=torch.bool, device=centers.device)} | inputs

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """The D2 shape distribution: shares of 64 ranges of distance, up to the largest, among all pairs of up to 1,024 points.

        Osada et al. 2002, doi:10.1145/571647.571648, section 4.1, of the points that lie in any group.
        """
        points = (inputs[CENTERS][:, None] + inputs[GROUPS][..., :3]).flatten(0, 1).double()
        points = points / points.abs().max().clamp(min=1e-12)
        points = torch.unique((points * 1e5).round(), dim=0)
        kept = min(len(points), DISTANCE_POINTS)
        distances = torch.pdist(points[torch.arange(kept) * len(points) // kept])
        if not len(distances):
            return np.zeros(DISTANCE_BINS)
        counts = torch.histc(distances, DISTANCE_BINS, min=0, max=distances.max().item())
        return (counts / len(distances)).numpy()


def _within_unit_cube(offsets: Float[np.ndarray, "n 3"], magnitude: float) -> tuple[Float[np.ndarray, "n 3"], float]:
    """Coordinates in [-1, 1], and by how much they were divided; zeros, and 1, for points that differ by rounding alone."""
    reach = float(np.abs(offsets).max())
    if reach <= 1e-12 * magnitude:
        return np.zeros_like(offsets), 1.0
    return offsets / reach, reach


def _is_point(value: Any) -> bool:
    """Whether an element of a list is a point and not a cloud: a sequence of numbers."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 1
    return isinstance(value, list | tuple) and bool(value) and not isinstance(value[0], list | tuple | np.ndarray | Tensor)

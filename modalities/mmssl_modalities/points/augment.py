"""Random views of batched point clouds, on the device of the batch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, most
from mmssl.modality import Inputs, check_range
from mmssl.tokens import gather
from mmssl_modalities.points.geometry import group_points
from mmssl_modalities.points.processor import CENTERS, GROUPS, VALID

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Length = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class PointsAugment:
    """Some of the groups, a turn, a stretch, a shift, noise, lost points and features, each drawn per sample. By default none.

    A centre moves with its group.

    Point-MAE (arXiv 2203.06604) has scale [0.667, 1.5] and a shift of 0.2 unit-sphere radii, which are 0.8 of these patch units.

    crop: smallest and largest share of the groups in a view: a group and those whose centres lie nearest to its own, so that the
        view costs less than the cloud. null: all.
    groups: smallest and largest share of the groups in a view, chosen at random, of those in the crop. null: all.
    rotate: z = a turn about the z axis, for things that stand upright; so3 = any turn; none.
    scale: smallest and largest factor of a stretch, drawn for each axis; null: no stretch.
    regroup: share of the points in all groups that a view has, drawn at random after the turn and the stretch, and grouped anew
        from a random first centre, in as many groups as before, each of this share of its points. Point-MAE's code draws 1,024 of
        8,192 points at each access, and groups what became of them. null: groups stay as they are.
    shift: largest shift along each axis, in patch units; it moves the centres only.
    jitter: standard deviation of noise on the coordinates of each point, in patch units, cut at three of them.
    drop: probability that a point of a group is lost; the point nearest to the centre takes its place.
    drop_features: probability that a cloud loses its features: they become 0 (Sonata, arXiv 2503.16429, hides colours).
    normals: number of the first of three feature channels that hold a normal, which turns with the cloud (the first is 0).
    """

    crop: tuple[Share, Share] | None = None
    groups: tuple[Share, Share] | None = None
    rotate: Literal["none", "z", "so3"] = "none"
    scale: tuple[Factor, Factor] | None = None
    regroup: Share | None = None
    shift: Length = 0.0
    jitter: Length = 0.0
    drop: Probability = 0.0
    drop_features: Annotated[float, Field(ge=0, le=1)] = 0.0
    normals: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        check_range("crop", "share of the groups", self.crop)
        check_range("groups", "share of the groups", self.groups)
        check_range("scale", "factor", self.scale)

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch. The view of a sample depends on its own key and points only."""
        with torch.autocast(inputs[GROUPS].device.type, enabled=False):  # would round coordinates to bfloat16
            if self.crop is not None:
                inputs = _kept(inputs, _far_from_one(inputs, draws), self.crop, "points crop", draws)
            if self.groups is not None:
                chance = draws.uniform("points groups", inputs[GROUPS].shape[1])
                inputs = _kept(inputs, chance, self.groups, "points groups share", draws)
            groups, centers = inputs[GROUPS], inputs[CENTERS]
            if self.rotate != "none" or self.scale is not None:
                groups, centers = self._turn_and_stretch(groups, centers, draws)
            if self.regroup is not None:
                inputs = regrouped(inputs | {GROUPS: groups, CENTERS: centers}, self.regroup, draws)
                groups, centers = inputs[GROUPS], inputs[CENTERS]
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
            if self.drop_features:
                lost = draws.uniform("points drop features", 1, 1, 1) < self.drop_features
                groups = torch.cat([groups[..., :3], groups[..., 3:].masked_fill(lost, 0)], -1)
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


def regrouped(inputs: Inputs, share: float, draws: Draws) -> Inputs:
    """A share of the points of all groups, grouped anew."""
    centers, groups, there = inputs[CENTERS], inputs[GROUPS], _there(inputs)
    count, size = groups.shape[1], groups.shape[2]
    points = torch.cat([groups[..., :3] + centers[:, :, None], groups[..., 3:]], -1).flatten(1, 2)
    once = _once(points[..., :3], there.repeat_interleave(size, 1))
    wanted = (share * once.sum(1, keepdim=True)).round().long().clamp(min=1)
    chance = draws.uniform("points regroup", points.shape[1]).masked_fill(~once, 2)
    order = chance.argsort(dim=1, stable=True)[:, : int(wanted.max())]
    points, real = gather(points, order), torch.arange(order.shape[1], device=order.device) < wanted
    first = torch.zeros(len(points), dtype=torch.int64, device=order.device)  # the order is by chance
    chosen, members, new = group_points(points[..., :3], count, max(1, round(share * size)), real, first)
    middles = gather(points, chosen)[..., :3]
    found = gather(points, members.flatten(1)).unflatten(1, members.shape[1:])
    found = torch.cat([found[..., :3] - middles[:, :, None], found[..., 3:]], -1)
    new = new & (torch.arange(chosen.shape[1], device=new.device) < there.sum(1, keepdim=True))
    kept = {GROUPS: found.masked_fill(~new[..., None, None], 0), CENTERS: middles.masked_fill(~new[..., None], 0)}
    return inputs | kept | ({} if VALID not in inputs and bool(new.all()) else {VALID: new})


FINENESS = 1e-3
"""Patch units within which coordinates are those of one point: it is in several groups, of which each rounds it in its own way."""


def _once(points: Float[Tensor, "b n 3"], there: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Which points are the first of those at their place."""
    cells = (points / FINENESS).round().masked_fill(~there[..., None], torch.inf)
    order = torch.arange(points.shape[1], device=points.device).expand(len(points), -1)
    for axis in (2, 1, 0):
        order = order.gather(1, cells[..., axis].gather(1, order).argsort(dim=1, stable=True))
    ordered = gather(cells, order)
    fresh = F.pad((ordered[:, 1:] != ordered[:, :-1]).any(-1), (1, 0), value=True)
    return torch.zeros_like(there).scatter(1, order, fresh) & there


def _there(inputs: Inputs) -> Bool[Tensor, "b g"]:
    """Which groups are no padding; a batch says so only if clouds have different numbers of them."""
    shape = inputs[CENTERS].shape[:2]
    return inputs[VALID] if VALID in inputs else torch.ones(shape, dtype=torch.bool, device=inputs[CENTERS].device)


def _far_from_one(inputs: Inputs, draws: Draws) -> Float[Tensor, "b g"]:
    """How far each centre lies from that of a random group."""
    count, centers = _there(inputs).sum(1, keepdim=True), inputs[CENTERS]
    one = draws.start("points crop centre", torch.ones_like(count), count)
    return (centers - gather(centers, one)).square().sum(-1)


def _kept(inputs: Inputs, rank: Float[Tensor, "b g"], shares: tuple[float, float], purpose: str, draws: Draws) -> Inputs:
    """The groups of smallest rank, in their order, as many as a share of them that is drawn; padding comes after them."""
    there = _there(inputs)
    count = draws.part(purpose, shares, there.sum(1, keepdim=True))
    width = most(shares[1], there.shape[1])
    first = rank.masked_fill(~there, torch.inf).argsort(dim=1, stable=True)[:, :width]
    real = torch.arange(width, device=rank.device) < count
    order = first.masked_fill(~real, there.shape[1]).sort(dim=1).values
    kept = {name: gather(inputs[name], order.clamp(max=there.shape[1] - 1)) for name in (GROUPS, CENTERS)}
    if VALID not in inputs and shares[0] == shares[1]:
        return inputs | kept
    filled = {name: values.masked_fill(~real.view(*real.shape, *[1] * (values.dim() - 2)), 0) for name, values in kept.items()}
    return inputs | filled | {VALID: real}

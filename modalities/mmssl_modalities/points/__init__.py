"""Clouds of 3D points: one token per group of neighbours (Point-MAE, arXiv 2203.06604, section 3.1), or per cell of a grid."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.modality import Adapter, Axis, Inputs, MaskPreference, Modality, Rendering
from mmssl.tokens import Tokens
from mmssl_modalities.points.augment import PointsAugment
from mmssl_modalities.points.files import AMBIGUOUS, SUFFIXES
from mmssl_modalities.points.processor import CENTERS, GROUPS, VALID, PointsProcessor
from mmssl_modalities.points.starting import claim, suited
from mmssl_modalities.points.views import depth_maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["POINTS", "PointsAdapter", "PointsAugment", "PointsProcessor"]

PICTURED = 4
"""Clouds in a picture."""


class MiniPointNet(nn.Module):
    """Sets of points to vectors, whatever their order: an MLP on each point, a maximum, again on each point beside it, a maximum.

    Point-MAE, section 3.1, with LayerNorm in the place of BatchNorm, whose statistics would tie the samples of a batch together,
    and with the last linear map after the second maximum instead of before it: measured a quarter less time on CPU.
    """

    def __init__(self, size: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size, hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.widen = nn.Linear(hidden_size, 2 * hidden_size)
        # One linear map of a point beside the maximum, in two parts, so that the maximum is multiplied once per set.
        self.from_point = nn.Linear(2 * hidden_size, 2 * hidden_size)
        self.from_set = nn.Linear(2 * hidden_size, 2 * hidden_size, bias=False)
        self.norm2 = nn.LayerNorm(2 * hidden_size)
        self.leave = nn.Linear(2 * hidden_size, width)

    def forward(self, sets: Float[Tensor, "b g k p"]) -> Float[Tensor, "b g d"]:
        points = self.widen(F.relu(self.norm1(self.enter(sets))))
        joined = self.from_point(points) + self.from_set(points.amax(2, keepdim=True))
        return self.leave(F.relu(self.norm2(joined)).amax(2))


class PointsAdapter(Adapter):
    """One token per group, at the centre of the group: depth, height and width are its x, y and z.

    Target: `points`, the coordinates relative to the centre and the features of each point, the nearest to the centre first,
    `[b, g, k * (3 + f)]`, in patch units. The order of points means nothing: `point_dim` values each are a point of a set.

    A token holds its own group alone. But groups overlap in space (64 of 32 points cover 1,024 points twice): some of the points
    of a hidden group may lie in a visible one, at another place relative to another centre. Cells of a grid share none.

    hidden_size: width of the point-wise MLP; its second half has twice as much.
    """

    input_names = (GROUPS, CENTERS, VALID)
    rendered_views = 3

    def __init__(self, width: int, processor: PointsProcessor, *, hidden_size: Annotated[int, Field(gt=0)] = 64) -> None:
        super().__init__()
        self.point_dim = 3 + processor.channels
        self.target_sizes = {"points": processor.group_size * self.point_dim}
        self.axes = {name: {1: Axis("groups")} for name in self.input_names}
        self.pointnet = MiniPointNet(self.point_dim, hidden_size, width)

    def forward(self, inputs: Inputs) -> Tokens:
        groups = inputs[GROUPS].to(self.pointnet.enter.weight.dtype)
        return Tokens(self.pointnet(groups), F.pad(inputs[CENTERS].float(), (1, 0)), inputs.get(VALID))

    def made_up(self, count: int, size: int) -> Inputs:
        valid = torch.arange(size) < (size - torch.arange(count) % size)[:, None]
        groups = torch.randn(count, size, self.target_sizes["points"] // self.point_dim, self.point_dim)
        return {GROUPS: groups, CENTERS: 3 * torch.randn(count, size, 3), VALID: valid}

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        points = inputs[GROUPS].flatten(2).float()
        return {"points": points if VALID not in inputs else points.masked_fill(~inputs[VALID][..., None], torch.nan)}

    def render(self, inputs: Inputs, size: int) -> Rendering:
        """Depth maps along the three axes."""
        return depth_maps(inputs[GROUPS][..., :3].float(), inputs[CENTERS].float(), inputs.get(VALID), size)


def example(count: int, seed: int) -> list[Float[np.ndarray, "n 3"]]:
    """Made-up surfaces: stretched spheres, boxes and rings, every other one of fewer places than groups, each met 8 times."""
    random = np.random.default_rng(seed)
    clouds = []
    for number in range(count):
        n = int(random.integers(40, 60) if number % 2 else random.integers(200, 400))
        points = random.standard_normal((n, 3))
        if number % 3 == 1:
            points /= np.abs(points).max(1, keepdims=True)
        else:
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        if number % 3 == 2:
            points[:, :2] *= 1 + 1.5 / np.linalg.norm(points[:, :2], axis=1, keepdims=True)
        points = points * random.uniform(0.5, 1.5, 3) + random.uniform(-5, 5, 3)
        clouds.append(points.repeat(8, axis=0) if number % 2 else points)
    return clouds


def golden() -> tuple[dict[str, Any], dict[str, Any], list[list[float]], Float[Tensor, "n 4"], dict[str, Tensor]]:
    """Four points on a line, in two groups of two: the point farthest from the centroid at 5.75, then the one farthest from it."""
    points = [[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [10.0, 1.0, 2.0], [12.0, 1.0, 2.0]]
    settings = {"num_groups": 2, "group_size": 2, "normalise": "none", "scale": 1.0}
    targets = torch.tensor([[0.0, 0, 0, -2, 0, 0], [0, 0, 0, 1, 0, 0]])
    return settings, {}, points, torch.tensor([[0.0, 12, 1, 2], [0, 0, 1, 2]]), {"points": targets}


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], _processor: PointsProcessor) -> "Figure":
    """Up to four clouds, a row each: all groups, those that were seen, and with them the predictions of the hidden ones."""
    from matplotlib.figure import Figure  # only where something is drawn

    centers = inputs[CENTERS][:PICTURED, :, None].float().cpu()
    points = inputs[GROUPS][:PICTURED, ..., :3].float().cpu() + centers
    b, _, k, _ = points.shape
    guess = predictions["points"][:b].float().cpu().unflatten(2, (k, -1))[..., :3] + centers
    real = inputs[VALID][:b].cpu() if VALID in inputs else torch.ones(points.shape[:2], dtype=torch.bool)
    covered = hidden[:b].cpu() & real
    figure = Figure(figsize=(7.5, 2.5 * b), layout="constrained")
    for row in range(b):
        seen = real[row] & ~covered[row]
        shown = ([points[row, real[row]]], [points[row, seen]], [points[row, seen], guess[row, covered[row]]])
        extent = points[row, real[row]].flatten(0, 1)
        for column, (title, sets) in enumerate(zip(("input", "seen", "predicted"), shown, strict=True)):
            axes: Any = figure.add_subplot(b, 3, 3 * row + column + 1, projection="3d")
            _scatter(axes, sets, extent)
            if row == 0:
                axes.set_title(title, fontsize="small")
    return figure


def draw(axes: "Axes", inputs: Inputs, row: int, _processor: PointsProcessor) -> None:
    """One cloud from a corner above, near points dark."""
    real = inputs[VALID][row].cpu() if VALID in inputs else torch.ones(inputs[CENTERS].shape[1], dtype=torch.bool)
    points = (inputs[GROUPS][row, ..., :3] + inputs[CENTERS][row, :, None]).float().cpu()[real].flatten(0, 1).numpy()
    x, y, z = points.T
    right, depth, up = (x - y) / 2**0.5, (x + y) / 2**0.5, z
    axes.scatter(right, up + 0.5 * depth, s=2, c=depth, cmap="viridis", linewidths=0)
    axes.set_aspect("equal", "datalim")
    axes.set_axis_off()


def _scatter(axes: Any, sets: Sequence[Float[Tensor, "_ k 3"]], extent: Float[Tensor, "n 3"]) -> None:
    """Sets of points in the box of the whole cloud, the second in another colour."""
    middle, half = (extent.amax(0) + extent.amin(0)) / 2, (extent.amax(0) - extent.amin(0)).max().clamp(min=1e-6) / 2
    for points, colour in zip(sets, ("#31688e", "#d1495b"), strict=False):
        x, y, z = points.flatten(0, 1).numpy().T
        axes.scatter(x, y, z, s=2, c=colour, alpha=0.6, linewidths=0, depthshade=False)
    low, high = (middle - half).tolist(), (middle + half).tolist()
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect((1, 1, 1), zoom=1.5)
    axes.set_axis_off()


POINTS = Modality(
    name="points",
    keyword="points",
    columns=("points", "point_cloud", "xyz", "inputs"),
    processor=PointsProcessor,
    adapter=PointsAdapter,
    augment=PointsAugment,
    mask=MaskPreference("random", 0.6),
    example=example,
    golden=golden,
    picture=picture,
    draw=draw,
    suffixes=SUFFIXES,
    arrays=True,
    ambiguous=AMBIGUOUS,
    strong=(
        {"rotate": "so3", "scale": (0.7, 1.5), "shift": 0.5, "jitter": 0.05, "drop": 0.2, "drop_features": 0.5},
        {"crop": (0.4, 0.9), "groups": (0.5, 0.9), "rotate": "z", "jitter": 0.05},
    ),
    claim=claim,
    suited=suited,
)

"""Targets computed from the whole picture whose pieces the tokens are: histograms of gradients, and gradients at several scales."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmssl.modality import Patch
from mmssl.model import MMSSLModel
from mmssl.model.config import Positive
from mmssl.objectives.networks import Networks
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.grids import assemble, disassemble
from mmssl.objectives.predict.parts import Answer, Scene, Target
from mmssl.objectives.terms import Weight

EPSILON = 1e-5
"""Keeps blocks without any gradient finite: scikit-image's value."""
OFFSET = 1e-2
"""Added to values that start at 0 before their ratio is taken: that of SAR-JEPA's code."""


def patch_of(model: MMSSLModel, name: str, target: str) -> Patch:
    """How tokens of a modality lie in a picture. ValueError if they do not."""
    patch = model.adapter(name).patch
    if patch is None:
        raise ValueError(
            f"objective.targets: {target} needs tokens that are pieces of a picture, and those of {name!r} are none; choose raw"
        )
    return patch


def whole_picture(scene: Scene, target: str) -> tuple[Float[Tensor, "b c h w"], Patch, Tensor]:
    """The picture, NaN where there is nothing, the layout of its tokens, and `[b, n, 1]` where a token holds nothing."""
    patch = patch_of(scene.model, scene.name, target)
    (content,) = scene.content.values()
    return assemble(content.float(), scene.tokens.coords, patch), patch, content.isnan().all(-1, keepdim=True)


class Hog(Target):
    """Histograms of oriented gradients of each channel (MaskFeat, arXiv 2112.09133).

    A pixel counts for one orientation, without sign, with its magnitude.

    gradient: sobel = the Sobel filter, mirrored at the edge, as MaskFeat's code; central = central differences, zero at the edge,
        as scikit-image.
    bins: orientations.
    cells: cells along each side of a token, each with a histogram; MaskFeat has 2, of 8 pixels.
    normalise: L2 norm 1 of each cell's histogram (cell, as MaskFeat's code), or of all cells of a token together (token); none.
    loss: distance between prediction and target; null: squared error.
    weight: factor on its loss.
    """

    def __init__(
        self,
        *,
        gradient: Literal["sobel", "central"] = "sobel",
        bins: Positive = 9,
        cells: Positive = 2,
        normalise: Literal["cell", "token", "none"] = "cell",
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.gradient = slopes if gradient == "central" else sobel
        self.bins, self.cells, self.how = bins, cells, normalise

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        for name in modalities:
            patch = patch_of(networks.student, name, "hog")
            if patch.rows % self.cells or patch.columns % self.cells:
                raise ValueError(
                    f"objective.targets: hog has {self.cells} cells along each side of a token, but those of {name!r} have "
                    f"{patch.rows} x {patch.columns} values; choose cells that divide both"
                )

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"hog": self.cells**2 * self.bins * patch_of(model, name, "hog").channels}

    @torch.no_grad()
    def forward(self, scene: Scene) -> Answer:
        picture, patch, nothing = whole_picture(scene, "hog")
        cell = (patch.rows // self.cells, patch.columns // self.cells)
        histograms = histograms_of_gradients(*self.gradient(picture), self.bins, cell)
        if self.how == "cell":
            histograms = unit(histograms, 2)
        found = disassemble(histograms.flatten(1, 2), self.cells, self.cells)
        if self.how == "token":
            each = found.unflatten(2, (self.cells**2, patch.channels, self.bins))
            found = unit(each, (2, 4)).flatten(2)
        return Answer({"hog": found.masked_fill(nothing, torch.nan)})


def unit(values: Tensor, dims: int | tuple[int, int]) -> Tensor:
    """Values over their L2 norm along dimensions."""
    return values / (values.square().sum(dims, keepdim=True) + EPSILON**2).sqrt()


def slopes(picture: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Central differences downwards and to the right, as scikit-image bins them: zero at the edge, and beside what is missing."""
    down, right = torch.zeros_like(picture), torch.zeros_like(picture)
    down[..., 1:-1, :] = picture[..., 2:, :] - picture[..., :-2, :]
    right[..., 1:-1] = picture[..., 2:] - picture[..., :-2]
    return down.nan_to_num(0.0), right.nan_to_num(0.0)  # padding is an edge too


def sobel(picture: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Sobel's filters to the right and downwards, as MaskFeat's code bins them: mirrored at the edge, and at what is missing."""
    right, down = (_slope(picture, along, across) for along, across in ((3, 2), (2, 3)))
    return right.nan_to_num(0.0), down.nan_to_num(0.0)


def _slope(picture: Float[Tensor, "b c h w"], along: int, across: int) -> Float[Tensor, "b c h w"]:
    """Differences along one side, weighted 1, 2, 1 across it; NaN where the picture is."""
    before, after = _beside(picture, along)
    difference = (after - before).masked_fill(picture.isnan(), torch.nan)
    before, after = _beside(difference, across)
    return before + 2 * difference + after


def _beside(values: Float[Tensor, "b c h w"], dim: int) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """What lies before and behind each value along one side: where it is missing, what lies on the other side, else the value."""
    nothing = torch.full_like(values.narrow(dim, 0, 1), torch.nan)
    before = torch.cat([nothing, values.narrow(dim, 0, values.shape[dim] - 1)], dim)
    after = torch.cat([values.narrow(dim, 1, values.shape[dim] - 1), nothing], dim)
    mirrored = torch.where(before.isnan(), after, before), torch.where(after.isnan(), before, after)
    return torch.where(mirrored[0].isnan(), values, mirrored[0]), torch.where(mirrored[1].isnan(), values, mirrored[1])


def histograms_of_gradients(
    rise: Float[Tensor, "b c h w"], run: Float[Tensor, "b c h w"], bins: int, cell: tuple[int, int]
) -> Float[Tensor, "b c o i j"]:
    """For each cell and orientation of the gradient's angle the sum of its magnitudes, over the number of pixels of a cell."""
    angle = torch.atan2(rise, run).rad2deg() % 180
    orientation = (angle * (bins / 180)).long().clamp(max=bins - 1)
    shape = (*rise.shape[:2], bins, *rise.shape[2:])
    votes = torch.zeros(shape, device=rise.device).scatter_(2, orientation[:, :, None], torch.hypot(rise, run)[:, :, None])
    return F.avg_pool2d(votes.flatten(0, 1), cell).unflatten(0, shape[:2])


class Gradients(Target):
    """Magnitudes of the gradient at several scales, at every value of a token (SAR-JEPA, arXiv 2311.15153).

    The gradient by ratio of radar pictures, whose noise multiplies: at each scale the log of the ratio of the mean values on the
    two sides of a pixel, horizontally and vertically. Windows are cut at the edge. The smallest value of each picture and channel
    counts as zero, so that normalised values have a ratio too.

    scales: half the width of the windows, in values; the paper has 5, 9, 13 and 17 for patches of 16 pixels.
    loss: distance between prediction and target; null: squared error.
    weight: factor on its loss.
    """

    def __init__(
        self,
        *,
        scales: Annotated[list[Positive], Field(min_length=1)] | None = None,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.scales = [5, 9, 13, 17] if scales is None else scales

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        for name in modalities:
            patch_of(networks.student, name, "gradients")

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        patch = patch_of(model, name, "gradients")
        return {"gradients": patch.rows * patch.columns * patch.channels * len(self.scales)}

    @torch.no_grad()
    def forward(self, scene: Scene) -> Answer:
        picture, patch, nothing = whole_picture(scene, "gradients")
        there = ~picture.isnan()
        lowest = picture.nan_to_num(math.inf).amin((2, 3), keepdim=True).nan_to_num(posinf=0.0)
        positive = (picture - lowest + OFFSET).masked_fill(~there, 0)
        found = torch.cat([ratio_gradient(positive, there.float(), scale) for scale in self.scales], 1)
        return Answer({"gradients": disassemble(found, patch.rows, patch.columns).masked_fill(nothing, torch.nan)})


def ratio_gradient(values: Float[Tensor, "b c h w"], there: Float[Tensor, "b c h w"], r: int) -> Float[Tensor, "b c h w"]:
    """Magnitude of the log ratios of the means left and right, and above and below, of each value, which belongs to both sides."""
    sides = [(r, r, r, 0), (r, r, 0, r), (r, 0, r, r), (0, r, r, r)]
    left, right, above, below = (window_mean(values, there, *side) for side in sides)
    return torch.hypot((left / right).log(), (above / below).log()).masked_fill(there == 0, 0)


def window_mean(
    values: Float[Tensor, "b c h w"], there: Float[Tensor, "b c h w"], up: int, down: int, left: int, right: int
) -> Float[Tensor, "b c h w"]:
    """Mean of what is there in a window that reaches so far from each value."""
    window = (up + down + 1, left + right + 1)
    total, count = (F.avg_pool2d(F.pad(x, (left, right, up, down)), window, stride=1) for x in (values, there))
    return total / count

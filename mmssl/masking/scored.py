"""Samplers that score every token: the tokens with the lowest scores are hidden.

Geometry comes from coordinates alone, so one sampler serves pixels, spectrograms, series and points.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.split import AXES, Axis, Ratio, Sampler, Scored


@dataclass(frozen=True, kw_only=True)
class Random(Scored):
    """Every token alike (MAE, arXiv 2111.06377, section 3).

    ratio: share of the tokens to hide.
    guided: draw the seen tokens with a probability that grows with what a target says of their importance (I2P-MAE, arXiv
        2212.06785, section 3.2: its softmax over the sample).
    """

    ratio: Ratio = 0.75
    guided: bool = False

    def guided_by(self, saliency: Callable[[], Float[Tensor, "b n"]]) -> Sampler:
        return Guided(ratio=self.ratio, saliency=saliency()) if self.guided else self

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        return draws.uniform("mask", coords.shape[1]), None


@dataclass(frozen=True, kw_only=True, eq=False)
class Guided(Scored):
    """The seen tokens are drawn without replacement, each with a probability that is the softmax of its saliency.

    The tokens of largest saliency plus Gumbel noise are such a draw (arXiv 1903.06059).
    """

    ratio: Ratio
    saliency: Float[Tensor, "b n"]

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        uniform = draws.uniform("mask", coords.shape[1]).clamp(1e-7, 1 - 1e-7)
        return self.saliency.float() - (-uniform.log()).log(), None


def _distance_to_centres(
    coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], stretch: Float[Tensor, "b k 4"], draws: Draws
) -> Float[Tensor, "b n"]:
    """Distance of every token to the nearest of k random available tokens: the largest of its axis distances over `stretch`."""
    count = stretch.shape[1]
    order = draws.uniform("centres", coords.shape[1]).masked_fill(~available, 2).argsort(dim=1, stable=True)
    # Sequences shorter than k reuse their tokens: the remainder lands on an available one.
    pick = torch.arange(count, device=coords.device) % available.sum(1, keepdim=True).clamp(min=1)
    rows = torch.arange(len(coords), device=coords.device)[:, None]
    centres = coords[rows, order.gather(1, pick)]
    return ((coords[:, :, None] - centres[:, None]).abs() / stretch[:, None]).amax(-1).amin(-1)


@dataclass(frozen=True, kw_only=True)
class Block(Scored):
    """Boxes in coordinates around random tokens, grown together until the ratio is met (as in BEiT, arXiv 2106.08254).

    ratio: share of the tokens to hide.
    blocks: boxes per sample.
    aspect: largest ratio between two sides of a box; each box draws its own.
    """

    ratio: Ratio = 0.5
    blocks: Annotated[int, Field(gt=0)] = 4
    aspect: Annotated[float, Field(ge=1)] = 2.0

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        log_stretch = draws.between("aspect", -0.5, 0.5, self.blocks, 4) * torch.tensor(self.aspect).log().item()
        ties = 1e-3 * draws.uniform("mask", coords.shape[1])
        return _distance_to_centres(coords, available, log_stretch.exp(), draws) + ties, None


@dataclass(frozen=True, kw_only=True)
class Span(Scored):
    """Spans along one axis: all tokens within a span are hidden, whatever their other coordinates (wav2vec 2.0, arXiv 2006.11477).

    ratio: share of the tokens to hide.
    spans: spans per sample; they grow together until the ratio is met.
    axis: the axis along which spans lie.
    """

    ratio: Ratio = 0.5
    spans: Annotated[int, Field(gt=0)] = 4
    axis: Axis = "time"

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        axis = AXES.index(self.axis)
        only = torch.zeros_like(coords)
        only[..., axis] = coords[..., axis]
        stretch = torch.ones(len(coords), self.spans, 4, device=coords.device)
        ties = 1e-3 * draws.uniform("mask", coords.shape[1])
        return _distance_to_centres(only, available, stretch, draws) + ties, None


@dataclass(frozen=True, kw_only=True)
class Column(Scored):
    """Each column by itself with the same probability, so the number of hidden ones varies (VIME, NeurIPS 2020, section 4.1).

    At least one available token is hidden and one is seen. Meant for tables, where a token is a column.

    ratio: probability that a column is hidden.
    """

    ratio: Ratio = 0.3

    def refuse(self, lengths: Int[Tensor, " b"]) -> None:
        """Nothing: a probability leaves something to see sooner or later."""

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"]]:
        score = draws.uniform("mask", coords.shape[1])
        return score, ((score < self.ratio) & available).sum(1)

"""Which tokens are seen and which are predicted.

A sampler gives every token a score and every sample a count; the tokens with the lowest scores are hidden. Counts are exact, shapes
static wherever the sequences of a batch are equally long, and geometry comes from coordinates alone, so one sampler serves pixels,
spectrograms, series and points.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import MaskPreference

Ratio = Annotated[float, Field(gt=0, lt=1)]
Axis = Literal["time", "depth", "height", "width"]
AXES: tuple[Axis, ...] = ("time", "depth", "height", "width")


@dataclass(frozen=True)
class Split:
    """Index of seen and hidden tokens; a `real` mask marks the entries that count (None: all of them)."""

    seen: Int[Tensor, "b k"]
    hidden: Int[Tensor, "b m"]
    seen_real: Bool[Tensor, "b k"] | None = None
    hidden_real: Bool[Tensor, "b m"] | None = None


@runtime_checkable
class Sampler(Protocol):
    """Scores `[b, n]` (low is hidden first) and the number of tokens to hide `[b]` (None: the ratio of those available)."""

    @property
    def ratio(self) -> float: ...

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"] | None]: ...


@dataclass(frozen=True, kw_only=True)
class Random:
    """Every token alike (MAE, arXiv 2111.06377, section 3).

    ratio: share of the tokens to hide.
    """

    ratio: Ratio = 0.75

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        return draws.uniform("mask", coords.shape[1]), None


def _distance_to_centres(
    coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], stretch: Float[Tensor, "b k 4"], draws: Draws
) -> Float[Tensor, "b n"]:
    """Distance of every token to the nearest of k random available tokens: the largest of its axis distances over `stretch`."""
    count = stretch.shape[1]
    order = draws.uniform("centres", coords.shape[1]).masked_fill(~available, 2).argsort(1)
    # Sequences shorter than k reuse their tokens: the remainder lands on an available one.
    pick = torch.arange(count, device=coords.device) % available.sum(1, keepdim=True).clamp(min=1)
    rows = torch.arange(len(coords), device=coords.device)[:, None]
    centres = coords[rows, order.gather(1, pick)]
    return ((coords[:, :, None] - centres[:, None]).abs() / stretch[:, None]).amax(-1).amin(-1)


@dataclass(frozen=True, kw_only=True)
class Block:
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
class Span:
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
class Column:
    """Each column by itself with the same probability, so the number of hidden ones varies (VIME, NeurIPS 2020, section 4.1).

    At least one available token is hidden and one is seen. Meant for tables, where a token is a column.

    ratio: probability that a column is hidden.
    """

    ratio: Ratio = 0.3

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"]]:
        score = draws.uniform("mask", coords.shape[1])
        return score, ((score < self.ratio) & available).sum(1)


SAMPLERS: dict[str, Callable[..., Sampler]] = {"random": Random, "block": Block, "span": Span, "column": Column}


def preferred(preference: MaskPreference) -> Sampler:
    """The sampler that a modality asks for."""
    return SAMPLERS[preference.sampler](ratio=preference.ratio)


def split(
    sampler: Sampler,
    coords: Float[Tensor, "b n 4"],
    valid: Bool[Tensor, "b n"] | None,
    available: Bool[Tensor, "b n"] | None,
    draws: Draws,
) -> Split:
    """Divide every sequence into seen and hidden tokens.

    available: tokens that may be hidden, a subset of the valid ones (a missing cell has nothing to predict); None: all valid ones.
    A sample keeps at least one seen token; with two or more available tokens, at least one is hidden. Padding is neither.
    """
    free = available if available is not None else valid
    if free is None:
        free = torch.ones(coords.shape[:2], dtype=torch.bool, device=coords.device)
    score, count = sampler(coords, free, draws)
    if valid is None and available is None and count is None:
        return _even(score, round(coords.shape[1] * sampler.ratio))
    real = valid if valid is not None else torch.ones_like(free)
    return _ragged(score, count, free, real, sampler.ratio)


def _even(score: Float[Tensor, "b n"], hide: int) -> Split:
    """The same number of tokens for every sample: static shapes, no masks."""
    n = score.shape[1]
    hide = min(max(1, hide), n - 1)
    order = score.argsort(1)
    return Split(seen=order[:, hide:], hidden=order[:, :hide])


def _ragged(
    score: Float[Tensor, "b n"], count: Int[Tensor, " b"] | None, free: Bool[Tensor, "b n"], real: Bool[Tensor, "b n"], ratio: float
) -> Split:
    """Counts of their own for every sample, padded to the largest."""
    total, limit = real.sum(1), free.sum(1)
    if count is None:
        count = torch.tensor([round(size * ratio) for size in range(score.shape[1] + 1)], device=limit.device)[limit]
    count = torch.minimum(count.clamp(min=1), torch.minimum(limit, total - 1)).clamp(min=0)
    # Hidden candidates first (by score), then the other real tokens, padding last.
    order = (score + 1e6 * ~free + 1e6 * ~real).argsort(1)
    place = torch.arange(score.shape[1], device=score.device)
    hide, keep = int(count.max()), int((total - count).max())
    first = (place[:keep] + count[:, None]).clamp(max=score.shape[1] - 1)
    return Split(
        seen=order.gather(1, first),
        hidden=order[:, :hide],
        seen_real=place[:keep] < (total - count)[:, None],
        hidden_real=place[:hide] < count[:, None],
    )

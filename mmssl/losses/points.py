"""Distances between sets of points, for targets whose points have no order. A point that is not there (NaN) costs nothing."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SetDistance = Literal["chamfer", "chamfer_l1"]


def chamfer(
    a: Float[Tensor, "*batch n c"],
    b: Float[Tensor, "*batch m c"],
    a_valid: Bool[Tensor, "*batch n"] | None = None,
    b_valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    squared: bool = True,
) -> Float[Tensor, "*batch"]:
    """Chamfer distance of two sets: the mean distance from a point of `a` to the nearest of `b`, and that from `b` to `a`.

    In float32 or wider. Zero, with zero gradient, where one of the sets has no valid point.

    squared: the sum of both, of squared Euclidean distances (Chamfer-L2: Point-MAE, arXiv 2203.06604, eq. 3), or the mean of both,
        of distances (Chamfer-L1 as in Point-MAE's code).
    """
    kind = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(kind), b.to(kind)
    if a_valid is not None:  # or NaN in what is left out would reach the gradient
        a = a.masked_fill(~a_valid[..., None], 0)
    if b_valid is not None:
        b = b.masked_fill(~b_valid[..., None], 0)
    nearest_b, nearest_a = _nearest(a.detach(), b.detach(), a_valid, b_valid)
    there_a, there_b = _weights(a, a_valid, b_valid), _weights(b, b_valid, a_valid)
    both = _mean_distance(a, b, nearest_b, there_a, squared) + _mean_distance(b, a, nearest_a, there_b, squared)
    return both if squared else both / 2


def _nearest(
    a: Float[Tensor, "*batch n c"],
    b: Float[Tensor, "*batch m c"],
    a_valid: Bool[Tensor, "*batch n"] | None,
    b_valid: Bool[Tensor, "*batch m"] | None,
) -> tuple[Int[Tensor, "*batch n"], Int[Tensor, "*batch m"]]:
    """For each point of `a` the index of the nearest in `b`, and the other way round.

    From differences: squares and a product would cancel for points far from the origin. Without a gradient, which only the
    distances of the nearest pairs have.
    """
    pairs = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    to_b = pairs if b_valid is None else pairs.masked_fill(~b_valid[..., None, :], torch.inf)
    to_a = pairs if a_valid is None else pairs.masked_fill(~a_valid[..., :, None], torch.inf)
    return to_b.min(-1).indices, to_a.min(-2).indices


def _weights(
    one: Float[Tensor, "*batch n c"], valid: Bool[Tensor, "*batch n"] | None, other: Bool[Tensor, "*batch m"] | None
) -> Bool[Tensor, "*batch n"]:
    """Which points of one set count: the valid ones, if the other set has any."""
    there = torch.ones(one.shape[:-1], dtype=torch.bool, device=one.device) if valid is None else valid
    return there if other is None else there & other.any(-1, keepdim=True)


def _mean_distance(
    one: Float[Tensor, "*batch n c"],
    other: Float[Tensor, "*batch m c"],
    nearest: Tensor,
    there: Bool[Tensor, "*batch n"],
    squared: bool,
) -> Float[Tensor, "*batch"]:
    """Mean distance of the points that are there to their partners; the gradient of a distance of zero is zero."""
    gaps = one - other.take_along_dim(nearest[..., None], -2)
    distances = gaps.square().sum(-1) if squared else torch.linalg.vector_norm(gaps, dim=-1)
    return (distances * there).sum(-1) / there.sum(-1).clamp(min=1)


def set_regression(
    predicted: Float[Tensor, "b m t"], target: Float[Tensor, "b m t"], size: int, distance: SetDistance
) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Chamfer distance of each token, whose t values are points of `size` values each, and which tokens have any point.

    A point that lacks a value (NaN) is not there. ValueError if t is no multiple of `size`.
    """
    if size < 1 or target.shape[-1] % size:
        raise ValueError(
            f"a {distance} loss needs tokens that are sets of points; these have {target.shape[-1]} values, which are no points of "
            f"{size}. Choose mse, l1 or smooth_l1"
        )
    guess, true = predicted.unflatten(-1, (-1, size)), target.unflatten(-1, (-1, size))
    there = ~true.isnan().any(-1)
    return chamfer(guess, true, None, there, squared=distance == "chamfer"), there.any(-1)

"""Farthest-point sampling and k nearest neighbours: batched, with padding, in plain torch.

Distances come from differences of coordinates, one row per chosen centre, and serve both: the rows of farthest-point sampling are
those in which the neighbours are looked up.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@torch.no_grad()
def farthest_points(
    points: Float[Tensor, "b n 3"],
    count: int,
    valid: Bool[Tensor, "b n"] | None = None,
    first: Int[Tensor, " b"] | None = None,
) -> tuple[Int[Tensor, "b g"], Bool[Tensor, "b g"], Float[Tensor, "b g n"]]:
    """Points that each lie farthest from those chosen before them (PointNet++, arXiv 1706.02413, section 3.2).

    The first is the one farthest from the centroid, so the choice does not depend on the order of the points, but for ties, which
    the earlier point wins; or the one that is given. `g` is the smaller of `count` and `n`.

    Returns the indices; which of them are new places (once a cloud has no more, its points repeat); and the squared distances from
    each chosen point to all points, padding included.
    """
    b, n, _ = points.shape
    g = min(count, n)
    if valid is not None:
        points = points.masked_fill(~valid[..., None], 0)
    planes = points.permute(2, 0, 1).contiguous()
    total = planes.new_full((b, 1), n) if valid is None else valid.sum(1, keepdim=True).to(planes.dtype)
    centre = planes.sum(2, keepdim=True) / total[None].clamp(min=1)
    gaps = torch.empty_like(planes)
    index = torch.empty(g, b, dtype=torch.int64, device=points.device)
    reach, distances = planes.new_empty(g, b), planes.new_empty(g, b, n)
    # What is farthest from the centroid is chosen by the same step as the rest, but leaves no trace in `nearest`.
    farthest = torch.sub(planes, centre, out=gaps).square_().sum(0)
    nearest = planes.new_full((b, n), torch.inf)
    if valid is not None:
        farthest, nearest = farthest.masked_fill(~valid, -1), nearest.masked_fill(~valid, -1)
    torch.max(farthest, 1, out=(reach[0], index[0]))
    if first is not None:
        index[0] = first
    for i in range(g):
        centre = planes.gather(2, index[i].expand(3, b)[..., None])
        torch.sum(torch.sub(planes, centre, out=gaps).square_(), 0, out=distances[i])
        if i + 1 < g:
            torch.minimum(nearest, distances[i], out=nearest)
            torch.max(nearest, 1, out=(reach[i + 1], index[i + 1]))
    new = reach > 0
    new[0] = True if valid is None else valid.any(1)
    return index.T, new.T, distances.transpose(0, 1)


@torch.no_grad()
def nearest_points(distances: Float[Tensor, "b g n"], count: int, valid: Bool[Tensor, "b n"] | None = None) -> Int[Tensor, "b g k"]:
    """Index of the `count` nearest points in each row of distances, the nearest first; fewer points repeat in turn."""
    n = distances.shape[2]
    if valid is not None:
        distances = distances.masked_fill(~valid[:, None], torch.inf)
    found = distances.topk(min(count, n), largest=False).indices
    if valid is None and count <= n:
        return found
    there = torch.tensor([n], device=found.device) if valid is None else valid.sum(1)
    place = torch.arange(count, device=found.device) % there.clamp(min=1, max=found.shape[2])[:, None]
    return found.gather(2, place[:, None].expand(len(found), found.shape[1], count))


def group_points(
    points: Float[Tensor, "b n 3"],
    groups: int,
    size: int,
    valid: Bool[Tensor, "b n"] | None = None,
    first: Int[Tensor, " b"] | None = None,
) -> tuple[Int[Tensor, "b g"], Int[Tensor, "b g k"], Bool[Tensor, "b g"]]:
    """Cover clouds with overlapping groups of neighbours (Point-MAE, arXiv 2203.06604, section 3.1).

    first: the first centre; None: the point farthest from the centroid.

    Returns the indices of the centres, those of each centre's neighbours, the nearest (itself) first, and which groups are real.
    """
    centres, real, distances = farthest_points(points, groups, valid, first)
    return centres, nearest_points(distances, size, valid), real

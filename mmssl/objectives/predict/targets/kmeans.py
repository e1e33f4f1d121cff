"""k-means in plain torch.

On the CPU and in float32 with sums in float64, whatever the device of the model: sums by index are not repeatable on a GPU, and a
resumed run must find the same centroids. scikit-learn's MiniBatchKMeans was the alternative: its result depends on its version and
on the number of threads, and it cannot start from numbers that are counted rather than kept.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 8192
"""Vectors whose distances are held at a time."""


def nearest(vectors: Float[Tensor, "n w"], centroids: Float[Tensor, "k w"]) -> Int[Tensor, " n"]:
    """The centroid nearest to each vector; of several the first."""
    length = centroids.square().sum(-1)
    return torch.cat([(length - 2 * part @ centroids.T).argmin(-1) for part in vectors.split(CHUNK)])


def squared_distances(vectors: Float[Tensor, "n w"], centres: Float[Tensor, "#n w"]) -> Float[Tensor, " n"]:
    """Squared distance of each vector to its own centre."""
    return (vectors - centres).square().sum(-1)


def first_centroids(vectors: Float[Tensor, "n w"], uniform: Float[Tensor, " k"]) -> Float[Tensor, "k w"]:
    """k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a vector drawn by its squared distance to those before it.

    uniform: random numbers, one for each centroid. With fewer different vectors than centroids some are the same.
    """
    picks = [int(uniform[0] * len(vectors))]
    gaps = squared_distances(vectors, vectors[picks[0]][None])
    for number in uniform[1:].double():
        below = gaps.double().cumsum(0)
        picks.append(min(int(torch.searchsorted(below, number * below[-1], right=True)), len(vectors) - 1))
        gaps = torch.minimum(gaps, squared_distances(vectors, vectors[picks[-1]][None]))
    return vectors[picks].clone()


def lloyd(vectors: Float[Tensor, "n w"], centroids: Float[Tensor, "k w"], iterations: int) -> Float[Tensor, "k w"]:
    """Lloyd's iterations from `centroids`, until no vector changes its centroid.

    A centroid without vectors moves to the vector that is farthest from its own, as in scikit-learn.
    """
    codes = nearest(vectors, centroids)
    for _ in range(iterations):
        centroids = means(vectors, codes, centroids)
        after = nearest(vectors, centroids)
        if torch.equal(after, codes):
            break
        codes = after
    return centroids


def means(vectors: Float[Tensor, "n w"], codes: Int[Tensor, " n"], centroids: Float[Tensor, "k w"]) -> Float[Tensor, "k w"]:
    """The mean of the vectors of each code."""
    count = torch.bincount(codes, minlength=len(centroids))
    sums = torch.zeros_like(centroids, dtype=torch.float64).index_add_(0, codes, vectors.double())
    found = (sums / count.clamp(min=1)[:, None]).to(centroids.dtype)
    empty = (count == 0).nonzero().flatten()[: len(vectors)]
    if len(empty):
        far = squared_distances(vectors, centroids[codes]).argsort(descending=True, stable=True)
        found[empty] = vectors[far[: len(empty)]]
    return found


def residual(vectors: Float[Tensor, "n w"], codebooks: Float[Tensor, "r k w"]) -> Int[Tensor, "r n"]:
    """Codes by several codebooks in a row, each of what those before it leave (residual vector quantisation)."""
    found = []
    for centroids in codebooks:
        found.append(nearest(vectors, centroids))
        vectors = vectors - centroids[found[-1]]
    return torch.stack(found)


def fit_residual(
    vectors: Float[Tensor, "n w"], start: Float[Tensor, "r k w"] | None, uniform: Float[Tensor, "r k"], iterations: int
) -> Float[Tensor, "r k w"]:
    """Codebooks in a row, each by k-means of what those before it leave, from `start` or from k-means++."""
    found = []
    for number, draws in enumerate(uniform):
        first = first_centroids(vectors, draws) if start is None else start[number]
        centroids = lloyd(vectors, first, iterations)
        found.append(centroids)
        vectors = vectors - centroids[nearest(vectors, centroids)]
    return torch.stack(found)

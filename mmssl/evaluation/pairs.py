"""How well one space orders pairs: recall both ways, the gap between modalities, and classes that are named.

Vectors are of length 1, so that their products are cosines. What belongs together has one number, its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

CELLS = 2**24
"""Similarities that are held at a time: 128 MiB in float64, whatever the number of samples."""
TIE = 1e-6
"""Cosines that differ by less are equal. Padding alone moves what a model gives in float32 by about 1e-7."""
RECALLS = (1, 5, 10)


def block_ranks(similarities: Float[Tensor, "q g"], right: Bool[Tensor, "q g"]) -> Int[Tensor, " q"]:
    """The rank, from 1, of the most similar right answer of each query; of a query without one it is beyond the gallery.

    Only wrong answers count: of several right ones any will do. A right answer stands behind wrong ones that are as similar, so
    that a model that gives the same vector for everything finds nothing.
    """
    best = similarities.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + (~right & (similarities >= best - TIE)).sum(1)


def ranks(
    queries: Float[Tensor, "q e"],
    gallery: Float[Tensor, "g e"],
    query_group: Int[Tensor, " q"],
    gallery_group: Int[Tensor, " g"],
    cells: int = CELLS,
) -> Int[Tensor, " q"]:
    """`block_ranks` of queries whose right answers are those of their group, `cells` similarities at a time."""
    size = max(1, cells // max(1, len(gallery)))
    parts = zip(queries.split(size), query_group.split(size), strict=True)
    return torch.cat([block_ranks(some @ gallery.mT, own[:, None] == gallery_group) for some, own in parts])


def recall(found: Int[Tensor, " q"], k: int) -> float:
    """The share, in percent, of queries with a right answer among the first `k`."""
    return 100 * (found <= k).double().mean().item()


def right_answers(query_group: Int[Tensor, " q"], gallery_group: Int[Tensor, " g"]) -> Int[Tensor, " q"]:
    """How many right answers the gallery holds for each query."""
    groups, place = torch.cat([query_group, gallery_group]).unique(return_inverse=True)
    counts = torch.bincount(place[len(query_group) :], minlength=len(groups))
    return counts[place[: len(query_group)]]


def chance_recall(right: Int[Tensor, " q"], size: int, k: int) -> float:
    """What `recall` gives on average for a random order of a gallery of that size. right: right answers of each query."""
    missed = torch.ones(len(right), dtype=torch.float64)
    for place in range(min(k, size)):
        missed *= ((size - place - right.cpu()).double() / (size - place)).clamp(min=0)
    return 100 * (1 - missed).mean().item()


@dataclass(frozen=True)
class Gap:
    """How far two modalities lie apart in their space (arXiv 2203.02053), and how well pairs stand out of it.

    distance: between the means of their unit vectors. contrast: mean cosine of pairs less that of samples of different
        groups.
    """

    distance: float
    contrast: float


def modality_gap(a: Float[Tensor, "n e"], b: Float[Tensor, "n e"], group: Int[Tensor, " n"]) -> Gap:
    """The gap between two modalities, row i of both being a pair. Of one group alone the contrast is NaN."""
    distance = (a.mean(0) - b.mean(0)).norm().item()
    groups, place, counts = group.unique(return_inverse=True, return_counts=True)
    sums = [x.new_zeros(len(groups), x.shape[1]).index_add(0, place, x) for x in (a, b)]
    apart = (a.sum(0) @ b.sum(0)) - (sums[0] * sums[1]).sum()
    number = len(a) ** 2 - int(counts.square().sum())
    others = apart.item() / number if number else float("nan")
    return Gap(distance, (a * b).sum(1).mean().item() - others)


def class_vectors(prompts: Float[Tensor, "c t e"]) -> Float[Tensor, "c e"]:
    """One unit vector for each class: the mean over its templates (CLIP, arXiv 2103.00020, section 3.1.4)."""
    return normalize(normalize(prompts, dim=-1).mean(1), dim=-1)


def class_ranks(samples: Float[Tensor, "n e"], classes: Float[Tensor, "c e"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The rank of the class of each sample; 1: no other class is as similar."""
    return ranks(samples, classes, labels, torch.arange(len(classes), device=labels.device))


def mean_of_classes(found: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Accuracy in percent, each class that occurs counting alike."""
    hits = (found <= 1).double()
    return 100 * torch.stack([hits[labels == label].mean() for label in labels.unique()]).mean().item()


def filled(templates: Sequence[str], name: str) -> list[str]:
    """The prompts of a class."""
    return [template.replace("{}", name) for template in templates]

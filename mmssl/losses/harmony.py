"""Gradients that contradict each other, made to agree: gradient surgery on each sample (PCGrad, arXiv 2001.06782)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.losses.arithmetic import wide


@wide
def realigned(gradients: Float[Tensor, "k n d"], order: Int[Tensor, " k"]) -> Float[Tensor, "k n d"]:
    """Gradients of k losses at n representations, without what conflicts with the other losses (PCGrad, algorithm 1).

    A gradient whose product with that of another loss is below 0 is projected onto the plane normal to it, one loss after another.
    What is projected away is always along the other gradients as they came. Each of the n representations stands alone.

    order: in which the other losses are met; with two losses it does not matter.
    """
    found = []
    for number, own in enumerate(gradients):
        for other in (each for each in order.tolist() if each != number):
            against = gradients[other]
            product = (own * against).sum(-1, keepdim=True)
            square = against.square().sum(-1, keepdim=True)
            own = own - torch.where((product < 0) & (square > 0), product / torch.where(square > 0, square, 1), 0) * against
        found.append(own)
    return torch.stack(found)


@wide
def agreement(gradients: Float[Tensor, "k n d"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """The sum of the cosines of each two of k losses' gradients at a representation, and how many there are.

    A gradient of length 0 says nothing and has no cosine.
    """
    lengths = gradients.norm(dim=-1)
    products = torch.einsum("ind,jnd->ijn", gradients, gradients)
    scale = lengths[:, None] * lengths
    there: Bool[Tensor, "k k n"] = (scale > 0) & torch.ones(len(lengths), len(lengths), device=scale.device).triu(1).bool()[
        ..., None
    ]
    cosines = torch.where(there, products / torch.where(there, scale, 1), 0)
    return cosines.sum((0, 1)), there.sum((0, 1))

"""Balanced soft assignments of samples to clusters."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "*batch n k"], iterations: int, valid: Bool[Tensor, "*batch n"] | None = None
) -> Float[Tensor, "*batch n k"]:
    """exp(scores) with columns, then rows, scaled to sum 1, over and over (Sinkhorn-Knopp; SwAV, arXiv 2006.09882, section 3.1).

    Rows end with sum 1, columns near n / k of them. In float32.

    scores: over the temperature.
    valid: rows that count; the others become zero.
    """
    scores = scores.float()
    if valid is not None:
        scores = scores.masked_fill(~valid[..., None], -torch.inf)
    # A shift of a column changes nothing, as the column is scaled first.
    shares = (scores - scores.amax(-2, keepdim=True).nan_to_num(neginf=0.0)).exp()
    for _ in range(iterations):
        shares = shares / (shares.sum(-2, keepdim=True) + 1e-8)
        shares = shares / (shares.sum(-1, keepdim=True) + 1e-8)
    return shares

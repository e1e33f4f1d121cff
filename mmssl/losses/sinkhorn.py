"""Balanced soft assignments of samples to clusters."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "*batch n k"], iterations: int, valid: Bool[Tensor, "*batch n"] | None = None
) -> Float[Tensor, "*batch n k"]:
    """exp(scores) with columns, then rows, scaled to sum 1, over and over (Sinkhorn-Knopp; SwAV, arXiv 2006.09882, section 3.1).

    Rows end with sum 1, columns near n / k of them. In float32 and in logarithms: with a small constant in the divisions, as in the
    code of SwAV and CAPI, a row far from all clusters would end with a sum below 1.

    scores: over the temperature.
    valid: rows that count; the others become zero.
    """
    out = torch.zeros(scores.shape[:-1], dtype=torch.bool, device=scores.device) if valid is None else ~valid
    logs = scores.float().masked_fill(out[..., None], -torch.inf)
    for _ in range(iterations):
        logs = logs - logs.logsumexp(-2, keepdim=True)
        logs = (logs - logs.logsumexp(-1, keepdim=True)).masked_fill(out[..., None], -torch.inf)
    return logs.exp()

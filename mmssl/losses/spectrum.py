"""What shows that representations collapse."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def effective_rank(features: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """exp of the entropy of the singular values of centred features, as shares of their sum (RankMe, arXiv 2210.02885, eq. 1-2).

    Between 1 and min(b - 1, d); 1 also for features that are all alike.
    """
    centred = features.float() - features.float().mean(0)
    values = torch.linalg.svdvals(centred)
    shares = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(shares * (shares + 1e-12).log()).sum()).clamp(min=1)


def spread(rows: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Mean over channels of the standard deviation over all tokens, or samples, of a step: near 0 when all are alike (collapse)."""
    return rows.std(0).mean() if len(rows) > 1 else rows.new_zeros(())

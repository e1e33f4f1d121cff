"""Rows of a batch as mixtures of its other rows, weighted by how similar their summaries are."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def similarity_weights(summaries: Float[Tensor, "r e"], temperature: float) -> Float[Tensor, "r r"]:
    """Softmax of the cosine similarities of each row with the others, over `temperature` (SimMTM, arXiv 2302.00861, section 3).

    Each row sums to 1; a row has no weight on itself, unless it is the only one.
    """
    unit = F.normalize(summaries.to(torch.promote_types(summaries.dtype, torch.float32)), dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = unit @ unit.mT / temperature
    return (logits if len(unit) == 1 else logits.masked_fill(itself, -torch.inf)).softmax(-1)


def mixture(
    weights: Float[Tensor, "r r"], values: Float[Tensor, "r n d"], valid: Bool[Tensor, "r n"] | None = None
) -> Float[Tensor, "r n d"]:
    """Each row as the weighted mean of the rows, place by place (SimMTM, section 3); a row that lacks a place has no weight there.

    Zero at places that no row of any weight has.
    """
    if valid is None:
        return torch.einsum("rs,snd->rnd", weights.to(values.dtype), values)
    there = valid.to(weights.dtype)
    total = torch.einsum("rs,snd->rnd", weights, values.to(weights.dtype) * there[..., None])
    return (total / (weights @ there).clamp(min=1e-12)[..., None]).to(values.dtype)


def copies_loss(weights: Float[Tensor, "r r"], copies: int) -> Float[Tensor, ""]:
    """Mean over rows of the sum over the other copies of its sample of -log of a row's weight on them (SimMTM, section 3).

    The Kullback-Leibler divergence from weight 1 on each of them, as in SimMTM's code: a row is to weigh every copy, where the log
    of their sum would be content with one.

    copies: rows r and r + k x rows / copies are of one sample. Two or more.
    """
    sample = torch.arange(len(weights), device=weights.device) % (len(weights) // copies)
    itself = torch.eye(len(weights), dtype=torch.bool, device=weights.device)
    others = (sample[:, None] == sample[None]) & ~itself
    return -weights.masked_fill(~others, 1).clamp(min=1e-12).log().sum(-1).mean()

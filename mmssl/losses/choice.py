"""Which samples of a step are worth training on, together: joint example selection (JEST, arXiv 2406.17711)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.losses.arithmetic import wide


@wide
def joint_choice(
    scores: Float[Tensor, "n n"], uniform: Float[Tensor, "n c"], count: int, candidates: Bool[Tensor, " n"]
) -> Int[Tensor, " k"]:
    """`count` of the candidates, ascending, drawn in c chunks (JEST, algorithm 1).

    The first chunk is drawn without replacement by exp of a sample's own score, each further one by exp of that plus the scores,
    both ways, with all samples chosen before. Where there are fewer candidates, all of them.

    scores: of each two samples, their own ones on the diagonal. uniform: numbers in [0, 1), which decide.
    """
    chunks, count = uniform.shape[1], min(count, int(candidates.sum()))
    gumbel = -(-uniform.clamp(min=1e-12).log()).log()
    free, logits, chosen = candidates.clone(), scores.diagonal().clone(), list[Tensor]()
    for chunk in range(chunks):
        size = count * (chunk + 1) // chunks - count * chunk // chunks
        # The largest of logits and Gumbel noise are a draw without replacement.
        drawn = (logits + gumbel[:, chunk]).masked_fill(~free, -torch.inf).topk(size).indices
        logits = logits + scores[drawn].sum(0) + scores[:, drawn].sum(1)
        free[drawn] = False
        chosen.append(drawn)
    return torch.cat(chosen).sort().values


@wide
def joint_score(scores: Float[Tensor, "n n"], size: int) -> Float[Tensor, ""]:
    """What a sample scores, own and with the others, in the mean over all draws of so many of these samples."""
    n, own = len(scores), scores.diagonal().mean()
    between = (scores.sum() - scores.diagonal().sum()) / max(1, n * (n - 1))
    return own + (size - 1) * between

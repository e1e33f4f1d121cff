"""Losses that tell positives from negatives, over the whole optimizer step: a row for each anchor, a column for each candidate.

`positive` marks the columns that belong to a row; `counted` those that exist for it (None: all): not itself, nor one that looks the
same. A row without a positive costs exactly zero and has no gradient.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmssl.losses.arithmetic import unit, wide


@wide
def similarities(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Cosine similarity of each row of `a` with each of `b`; 0 for a vector of zeros."""
    return unit(a) @ unit(b).mT


@wide
def info_nce(
    logits: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    counted: Bool[Tensor, "n m"] | None = None,
    *,
    decoupled: bool = False,
) -> Float[Tensor, " n"]:
    """For each row the mean, over its positives, of -log of their softmax weight among the counted columns.

    InfoNCE (arXiv 1807.03748, eq. 4) for one positive, SupCon's L_out (arXiv 2004.11362, eq. 2) for several.

    decoupled: positives leave the denominator (DCL, arXiv 2110.06848); a row without negatives then costs nothing either.
    """
    there = torch.ones_like(positive) if counted is None else counted
    own = positive & there
    rivals = there & ~own if decoupled else there
    live = own.any(-1) & rivals.any(-1)
    count = own.sum(-1, keepdim=True).clamp(min=1)
    agreement = (logits.masked_fill(~own, 0) / count).sum(-1)
    return (_log_partition(logits, rivals, live) - agreement).masked_fill(~live, 0)


@wide
def soft_info_nce(
    logits: Float[Tensor, "n m"], target: Float[Tensor, "n m"], counted: Bool[Tensor, "n m"] | None = None
) -> Float[Tensor, " n"]:
    """Cross-entropy of each row's softmax over the counted columns with a target share for each (SoftCon, arXiv 2405.20462).

    target: not negative; its rows are scaled to sum 1 over the counted columns. A row of zeros costs nothing.
    """
    there = torch.ones_like(target, dtype=torch.bool) if counted is None else counted
    target = target.masked_fill(~there, 0)
    total = target.sum(-1, keepdim=True)
    live = total.squeeze(-1) > 0
    shares = target / torch.where(total > 0, total, 1)
    agreement = (shares * logits.masked_fill(~there, 0)).sum(-1)
    return (_log_partition(logits, there, live) - agreement).masked_fill(~live, 0)


def _log_partition(
    logits: Float[Tensor, "*shape m"], counted: Bool[Tensor, "*shape m"], live: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """log of the sum of exp over the counted columns. Rows that are not live have a finite value and no gradient."""
    nothing = torch.where(live, -torch.inf, 0.0).to(logits.dtype)[..., None]
    return torch.where(counted & live[..., None], logits, nothing).logsumexp(-1)


@wide
def sigmoid_pairs(
    logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"], counted: Bool[Tensor, "n m"] | None = None
) -> Float[Tensor, " n"]:
    """For each row the sum over counted columns of the binary cross-entropy of "do we belong together?" (SigLIP, arXiv 2303.15343).

    The paper's loss is the mean over rows. A row without positives still has negatives here, so it costs something.
    """
    there = torch.ones_like(positive) if counted is None else counted
    return sigmoid_of_pairs(logits.masked_fill(~there, 0), positive).masked_fill(~there, 0).sum(-1)


@wide
def sigmoid_of_pairs(logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """The binary cross-entropy of "do we belong together?" of each pair."""
    return -F.logsigmoid(torch.where(positive, logits, -logits))


@wide
def sigmoid_pairs_chunked(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    positive: Bool[Tensor, "n m"],
    counted: Bool[Tensor, "n m"] | None,
    chunk: int,
) -> Float[Tensor, " n"]:
    """`sigmoid_pairs` of scale x cosine similarity + bias, `chunk` rows at a time, which backward computes once more.

    The same values and gradients; the largest tensor of numbers is [chunk, m] instead of [n, m].
    """
    if chunk < 1:
        raise ValueError(f"chunk is a number of rows, 1 or more; got {chunk}")
    candidates = unit(b)

    def part(
        rows: Tensor, candidates: Tensor, scale: Tensor, bias: Tensor, positive: Tensor, counted: Tensor | None
    ) -> Float[Tensor, " c"]:
        return sigmoid_pairs(unit(rows) @ candidates.mT * scale + bias, positive, counted)

    losses = []
    for start in range(0, len(a), chunk):
        rows = slice(start, start + chunk)
        there = None if counted is None else counted[rows]
        losses.append(checkpoint(part, a[rows], candidates, scale, bias, positive[rows], there, use_reentrant=False))
    return torch.cat(losses) if losses else a.new_zeros(0)


@torch.no_grad()
@wide
def mixed_negatives(
    queries: Float[Tensor, "n d"],
    negatives: Float[Tensor, "m d"],
    between: Float[Tensor, "n s 3"],
    towards: Float[Tensor, "n t 2"],
    hardest: int,
    counted: Bool[Tensor, "n m"] | None = None,
) -> Float[Tensor, "n s+t d"]:
    """Negatives made for each query from its `hardest` ones, of length 1 (MoCHi, arXiv 2010.01028).

    First s mixtures of two different hard negatives, then t of a hard negative and the query, whose share is below one half. A
    query without a negative gets zeros.

    between: numbers in [0, 1): which negative, which other one, the share of the first.
    towards: numbers in [0, 1): which negative, twice the share of the query.
    """
    if hardest < 1:
        raise ValueError(f"hardest is a number of negatives, 1 or more; got {hardest}")
    own, other = unit(queries), unit(negatives)
    likeness = own @ other.mT
    there = torch.ones_like(likeness, dtype=torch.bool) if counted is None else counted
    order = likeness.masked_fill(~there, -torch.inf).topk(min(hardest, len(negatives)), dim=-1).indices
    count = there.sum(-1, keepdim=True).clamp(max=hardest)

    def chosen(rank: Tensor) -> Tensor:
        return other[order.gather(1, rank.clamp(min=0))]

    first = _pick(between[..., 0], count)
    second = _pick(between[..., 1], count - 1)
    second = torch.where(count > 1, second + (second >= first), first)
    share, mine = between[..., 2:], towards[..., 1:] / 2
    mixed = share * chosen(first) + (1 - share) * chosen(second)
    pulled = mine * own[:, None] + (1 - mine) * chosen(_pick(towards[..., 0], count))
    return unit(torch.cat([mixed, pulled], 1)) * (count > 0)[..., None]


def _pick(uniform: Float[Tensor, "n k"], count: Tensor) -> Tensor:
    """Whole numbers below `count`, by numbers in [0, 1); 0 where it is 0."""
    return torch.minimum((uniform * count).floor().long(), count - 1).clamp(min=0)


class Temperatures(NamedTuple):
    """What iSogCLR keeps of each sample.

    temperature: its own.
    log_mean: log of the moving mean of exp(similarity / temperature) over negatives; -inf: never seen.
    slope: moving mean of the derivative of the loss by the temperature; 0 at first.
    """

    temperature: Float[Tensor, " n"]
    log_mean: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]


@wide
def individual_temperatures(
    similarity: Float[Tensor, "r m"],
    positive: Bool[Tensor, "r m"],
    temperature: Float[Tensor, " n"],
    log_mean: Float[Tensor, " n"],
    slope: Float[Tensor, " n"],
    counted: Bool[Tensor, "r m"] | None = None,
    *,
    gamma: int | float = 0.8,
    rho: int | float = 6.0,
    rate: int | float = 0.001,
    memory: int | float = 0.1,
    lowest: int | float = 0.05,
    highest: int | float = 1.0,
    clip: int | float = 3.0,
) -> tuple[Float[Tensor, " r"], Temperatures]:
    """Contrastive loss with a learned temperature for each sample, and what to keep of the samples (iSogCLR, arXiv 2305.11965).

    A row's loss is temperature x log_mean - similarity of its positives, where log_mean has moved towards this step by gamma; the
    gradient is that of the authors' code for pictures (that for pairs leaves the positive among what it is told from). With gamma
    1 it is temperature x (decoupled InfoNCE - log of the number of negatives). A row without positives or negatives costs nothing
    and moves nothing.

    temperature, log_mean, slope: the fields of `Temperatures` for the n samples; rows r and r + n are views of one sample.
    gamma: weight of this step in log_mean; rho: the paper's bound on the divergence, which makes temperatures large or small.
    rate, memory: learning rate of the temperatures, and how much of the old slope remains. rate 0: the temperatures stay.
    lowest, highest: bounds of a temperature. clip: bound of a step's derivative.
    """
    if len(temperature) == 0 or len(similarity) % len(temperature):
        raise ValueError(
            f"rows are views of samples, a multiple of their number; got {len(similarity)} of {len(temperature)} samples"
        )
    views = len(similarity) // len(temperature)
    there = torch.ones_like(positive) if counted is None else counted
    own, rivals = positive & there, there & ~positive
    live = own.any(-1) & rivals.any(-1)
    tau = temperature.repeat(views)
    logits = similarity / tau[:, None]
    now = _log_partition(logits, rivals, live) - rivals.sum(-1).clamp(min=1).to(logits.dtype).log()
    with torch.no_grad():
        old = log_mean.repeat(views)
        moved = torch.logaddexp(old + _log(1 - gamma), now + _log(gamma))
        moved = torch.where(old == -torch.inf, now, moved)
        share = (now - moved).exp()
        weights = torch.where(rivals & live[:, None], logits, -torch.inf).softmax(-1).nan_to_num(0)
        derivative = moved + rho - share * (weights * logits.masked_fill(~rivals, 0)).sum(-1)
        # What is kept of a sample is the mean of its views.
        seen = live.view(views, -1)
        met, number = seen.any(0), seen.sum(0).clamp(min=1).to(logits.dtype)
        mean = _log_partition(moved.view(views, -1).mT, seen.mT, met) - number.log()
        step = (derivative.view(views, -1) * seen).sum(0) / number
        drift = memory * slope + (1 - memory) * step.clamp(-clip, clip)
        kept = Temperatures(
            torch.where(met, (temperature - rate * drift).clamp(lowest, highest), temperature),
            torch.where(met, mean, log_mean),
            torch.where(met, drift, slope),
        )
    count = own.sum(-1, keepdim=True).clamp(min=1)
    agreement = (similarity.masked_fill(~own, 0) / count).sum(-1)
    loss = tau * (moved + share * (now - now.detach())) - agreement
    return loss.masked_fill(~live, 0), kept


def _log(share: int | float) -> float:
    return math.log(share) if share > 0 else -math.inf


@wide
def hierarchical(
    a: Float[Tensor, "b t d"],
    b: Float[Tensor, "b t d"],
    alpha: int | float = 0.5,
    valid: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, " b"]:
    """Contrast of two views of series with other series and other times at every resolution (TS2Vec, arXiv 2106.10466).

    The mean over samples is the paper's loss: at each level alpha x the instance-wise + (1 - alpha) x the temporal loss, then the
    maximum of each two times in a row, until one is left; the mean over levels. By dot products, without a temperature. A single
    sample has no instance-wise loss, a single time no temporal one.

    valid: times that a sample has, the first ones; None: all. A sample that has come to its last time stays there.
    """
    valid = torch.ones(a.shape[:2], dtype=torch.bool, device=a.device) if valid is None else valid
    levels = []
    while True:
        instance = _both_ways(a.transpose(0, 1), b.transpose(0, 1), valid.mT).mT
        each = alpha * instance + (1 - alpha) * _both_ways(a, b, valid)
        levels.append((each * valid).sum(1) / valid.sum(1).clamp(min=1))
        if a.shape[1] == 1:
            return torch.stack(levels).mean(0)
        two = valid[:, : valid.shape[1] // 2 * 2].unflatten(1, (-1, 2))
        last = valid.sum(1, keepdim=True) == 1
        a, b = (F.max_pool1d(x.masked_fill(~valid[..., None], -torch.inf).mT, 2).mT for x in (a, b))
        valid = two.all(-1) | (last & two.any(-1))
        a, b = (x.masked_fill(~valid[..., None], 0) for x in (a, b))


def _both_ways(a: Float[Tensor, "g k d"], b: Float[Tensor, "g k d"], valid: Bool[Tensor, "g k"]) -> Float[Tensor, "g k"]:
    """InfoNCE of the k pairs of each group by dot products, its other vectors as negatives; the mean of both directions."""
    k = a.shape[1]
    both, there = torch.cat([a, b], 1), torch.cat([valid, valid], 1)
    logits = both @ both.mT
    itself = torch.eye(2 * k, dtype=torch.bool, device=logits.device)
    # The partner of a vector stays, so that the row of one that is not there is finite; it is not counted.
    barred = itself | ~(there[:, None] | itself.roll(k, 1))
    partition = logits.masked_fill(barred, -torch.inf).logsumexp(-1)
    return (partition[:, :k] + partition[:, k:]) / 2 - logits.diagonal(k, 1, 2)


@wide
def soft_sort(
    values: Float[Tensor, "n m"], steepness: int | float, there: Bool[Tensor, "n m"] | None = None
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m m"]]:
    """Values sorted upwards by a differentiable odd-even network, and how much of each value [row, value, place] is where.

    A comparator leaves its two as they are by atan(steepness x (right - left)) / pi + 1/2, and swaps them by the rest (Cauchy's
    distribution, arXiv 2203.09630).

    there: values that take part; a comparator with one that does not leaves both as they are.
    """
    size = values.shape[1]
    counted = torch.ones_like(values, dtype=torch.bool) if there is None else there
    # The last row holds the values, the others what they are made of; every comparator mixes two columns.
    eye = torch.eye(size, dtype=values.dtype, device=values.device).expand(len(values), -1, -1)
    state = torch.cat([eye, values.masked_fill(~counted, 0)[:, None]], 1)
    for layer in range(size):
        start = layer % 2
        stop = size - (size - start) % 2
        left, right = state[..., start:stop:2], state[..., start + 1 : stop : 2]
        stay = torch.atan(steepness * (right - left)[:, -1:]) / math.pi + 0.5
        both = counted[:, None, start:stop:2] & counted[:, None, start + 1 : stop : 2]
        stay = stay.masked_fill(~both, 1)
        mixed = torch.stack([stay * left + (1 - stay) * right, (1 - stay) * left + stay * right], -1).flatten(-2)
        state = torch.cat([state[..., :start], mixed, state[..., stop:]], -1)
    return torch.where(counted, state[:, -1], values), state[:, :-1]


@wide
def group_ordering(
    positives: Float[Tensor, "n p"],
    negatives: Float[Tensor, "n m"],
    counted: Bool[Tensor, "n m"] | None = None,
    *,
    hardest: int = 10,
    steepness: int | float = 1.0,
) -> Float[Tensor, " n"]:
    """How far each anchor's positives are from being nearer than its hardest negatives (GroCo, arXiv 2301.02009), as in its code.

    Both groups are sorted, the negatives put first, and all sent through `soft_sort`: the loss is the mean of -log of the share of
    each value that ends in its own group's places. An anchor without negatives costs nothing.

    positives, negatives: similarities to the anchor, larger is nearer.
    """
    there = torch.ones_like(negatives, dtype=torch.bool) if counted is None else counted
    # A negative that is not there is the first of all, where it takes part in nothing.
    hard = negatives.masked_fill(~there, -torch.inf).topk(min(hardest, negatives.shape[1]), dim=-1).values.flip(-1)
    values = torch.cat([hard, positives.sort(-1).values], -1)
    part = values > -torch.inf
    _, placed = soft_sort(values, steepness, part)
    split = hard.shape[1]
    kept = torch.cat([placed[:, :split, :split].sum(-1), placed[:, split:, split:].sum(-1)], -1)
    losses = -kept.clamp(math.exp(-100), 1).log()
    return (losses * part).sum(-1) / part.sum(-1).clamp(min=1)

"""Contrastive losses: tell what belongs together from distractors."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def pick_negatives(uniform: Float[Tensor, "b m k"], there: Bool[Tensor, "b m"], source: str) -> Int[Tensor, "b m k"]:
    """For each place k other places that are `there`, as index into all places of the batch in a row (with replacement).

    source: "sample" = of the same sample, "batch" = of any, "others" = of any other sample. A place without any other gets itself.
    """
    b, m = there.shape
    if source == "others":
        return pick_from_others(uniform, there)
    groups = there if source == "sample" else there.reshape(1, b * m)
    draws = uniform if source == "sample" else uniform.reshape(1, b * m, -1)
    rank = groups.cumsum(1) - 1
    count = groups.sum(1)[:, None, None]
    # A number among the others: those from the own rank on move up by one.
    other = (draws * (count - 1)).floor().long().clamp(min=0)
    other = other + ((other >= rank[..., None]) & groups[..., None] & (count > 1))
    order = (~groups).to(torch.uint8).argsort(dim=1, stable=True)
    picked = order[:, None].expand(-1, draws.shape[1], -1).gather(2, other.clamp(max=order.shape[1] - 1))
    offset = torch.arange(len(groups), device=there.device)[:, None, None] * groups.shape[1]
    return (picked + offset).reshape(b, m, -1)


def pick_from_others(uniform: Float[Tensor, "b m k"], there: Bool[Tensor, "b m"]) -> Int[Tensor, "b m k"]:
    """For each place k places of other samples that are `there`, as index into all places of the batch in a row."""
    b, m = there.shape
    own = there.sum(1)[:, None, None]
    before = own.cumsum(0) - own
    other = (uniform * (own.sum(0) - own)).floor().long()
    # A number among the places of others: those from the own sample on move up by its places.
    other = other + own * (other >= before)
    order = (~there.flatten()).to(torch.uint8).argsort(stable=True)
    picked = order[other.clamp(max=b * m - 1)]
    itself = torch.arange(b * m, device=there.device).view(b, m, 1)
    return torch.where(own.sum(0) > own, picked, itself)


def token_info_nce(
    predicted: Float[Tensor, "b m d"],
    target: Float[Tensor, "b m d"],
    there: Bool[Tensor, "b m"],
    temperature: float,
    *,
    across: bool = False,
    chosen: Int[Tensor, "b m k"] | None = None,
) -> Float[Tensor, "b m"]:
    """-log of the softmax weight of a place's own target among its distractors, by cosine similarity (arXiv 2006.11477, eq. 3).

    chosen: distractors of each place, as index into all places of the batch in a row; one that is the place itself does not count,
        nor does one whose target is the same, which happens to quantised targets (the paper's code leaves those out too). None: all
        places of the sample that are `there`, or of the batch where `across`.
    """
    b, m, _ = predicted.shape
    guess = F.normalize(predicted.float(), dim=-1)
    truth = F.normalize(target.float().masked_fill(~there[..., None], 0), dim=-1)
    if chosen is not None:
        own = torch.arange(b * m, device=chosen.device).view(b, m, 1)
        distractors = truth.flatten(0, 1)[chosen]
        same = (chosen == own) | (distractors == truth[:, :, None]).all(-1)
        others = (guess[:, :, None] * distractors).sum(-1).masked_fill(same, -torch.inf)
        logits = torch.cat([(guess * truth).sum(-1, keepdim=True), others], -1) / temperature
        return logits.logsumexp(-1) - logits[..., 0]
    if across:
        guess, truth, valid = guess.reshape(1, b * m, -1), truth.reshape(1, b * m, -1), there.reshape(1, 1, b * m)
    else:
        valid = there[:, None]
    with torch.autocast(guess.device.type, enabled=False):  # would round similarities to bfloat16
        logits = guess @ truth.mT / temperature
    # A place without a target keeps its own column, so that its row is finite; it is not counted.
    eye = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(~(valid | eye), -torch.inf)
    return (logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)).reshape(b, m)


def same_sample(
    predicted: Float[Tensor, "b m d"],
    target: Float[Tensor, "b m d"],
    there: Bool[Tensor, "b m"],
    temperature: float,
    *,
    alike: Int[Tensor, "b m k"],
    others: Int[Tensor, "b m k"],
) -> Float[Tensor, "b m"]:
    """Binary cross-entropy of "is this target of my sample?", by cosine similarity, over the own target and drawn ones.

    The utterance-wise contrastive loss of UniSpeech-SAT (arXiv 2110.05752, section 3.1), as in the authors' code.

    alike, others: places of the same and of other samples, as index into all places of the batch in a row; a place itself among the
        others stands for nothing.
    """
    b, m, _ = predicted.shape
    guess = F.normalize(predicted.float(), dim=-1)
    truth = F.normalize(target.float().masked_fill(~there[..., None], 0), dim=-1)
    own = torch.arange(b * m, device=predicted.device).view(b, m, 1)
    index = torch.cat([own, alike, others], -1)
    logits = (guess[:, :, None] * truth.flatten(0, 1)[index]).sum(-1) / temperature
    sign = torch.ones_like(logits)
    sign[..., 1 + alike.shape[-1] :] = -1
    counted = (sign > 0) | (index != own)
    return (F.softplus(-sign * logits) * counted).sum(-1) / counted.sum(-1)

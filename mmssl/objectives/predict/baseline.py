"""What a prediction that knows nothing loses: the yardstick of every loss of predicted tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.draws import Draws
from mmssl.objectives.predict.distances import InfoNce, Loss
from mmssl.objectives.terms import Mean, Metric

SMALL = 1e-8


@dataclass(frozen=True)
class Constant:
    """What a micro-batch says of the loss of a constant prediction of one part of a target.

    truth: the targets `[k, t]` or classes `[k]` of the tokens that count; None: the loss is `known` already, summed over them.
    """

    loss: Loss
    truth: Tensor | None
    classes: int
    known: Float[Tensor, ""] | None = None


@torch.no_grad()
def constant(
    loss: Loss, truth: Tensor, there: Bool[Tensor, "b m"], real: Bool[Tensor, "b m"] | None, draws: Draws, classes: int
) -> Constant:
    """The same prediction for all tokens: the mean of the targets, or the frequencies of their classes.

    there: the places that have a target and count. Of InfoNCE: the logarithm of the number of candidates. A loss over pairs of
    places is measured within the micro-batch.
    """
    if isinstance(loss, InfoNce):
        return Constant(loss, None, classes, (candidates(loss, there).log() * there).sum())
    if loss.over_batch:
        guess = truth[there].mean(0).expand_as(truth)
        return Constant(loss, None, classes, (loss(guess, truth, real, draws)[0] * there).sum())
    return Constant(loss, truth[there], classes)


@torch.no_grad()
def constant_loss(parts: Sequence[Constant]) -> Float[Tensor, ""]:
    """The sum over all tokens of the micro-batches of a step."""
    known = [part.known for part in parts if part.known is not None]
    if known:
        return torch.stack(known).sum()
    loss, classes = parts[0].loss, parts[0].classes
    truth = torch.cat([part.truth for part in parts if part.truth is not None])
    if not truth.is_floating_point():
        return entropy(torch.bincount(truth, minlength=classes).float()) * len(truth)
    there = ~truth.isnan()
    mean = torch.where(there, truth, 0).sum(0) / there.sum(0).clamp(min=1)
    if loss.classes:
        return entropy(mean) * len(truth)
    each, _ = loss(mean.expand_as(truth)[None], truth[None], None, Draws(torch.zeros(1, dtype=torch.int64, device=truth.device)))
    return each.sum()


def entropy(counts: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Entropy in nats of frequencies that need not sum to one."""
    shares = counts / counts.sum().clamp(min=SMALL)
    return -torch.xlogy(shares, shares).sum()


def candidates(loss: InfoNce, there: Bool[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Among how many places the right one is to be found."""
    if loss.count is not None:
        return torch.full(there.shape, 1.0 + loss.count, device=there.device)
    counted = there.sum(1, keepdim=True) if loss.negatives == "sample" else there.sum()
    return counted.clamp(min=1).float().expand(there.shape)


@dataclass(frozen=True)
class Yardstick:
    """A target's loss beside what a constant prediction of each of its parts loses."""

    factor: float
    loss: Mean
    constants: tuple[Constant, ...]


@dataclass(frozen=True)
class Unexplained(Metric):
    """The loss as a share of that of a constant prediction, all targets together; 1 where that has none to lose."""

    targets: tuple[Yardstick, ...]

    @classmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        loss = yardstick = torch.zeros(())
        for rows in zip(*(part.targets for part in parts), strict=True):
            factor, tokens = rows[0].factor, torch.stack([row.loss.weight for row in rows]).sum().clamp(min=1)
            constants = [constant_loss(each) for each in zip(*(row.constants for row in rows), strict=True)]
            yardstick = yardstick.to(tokens.device) + factor * torch.stack(constants).sum() / tokens
            loss = loss.to(tokens.device) + factor * Mean.join([row.loss for row in rows])
        return torch.where(yardstick > SMALL, loss / yardstick.clamp(min=SMALL), 1.0)


def variety(samples: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """How much samples differ before the encoder: standard deviation of their mean tokens, over their size. 0 for constant data."""
    values = samples.float()
    if len(values) < 2:
        return values.new_ones(())
    return values.std(0).mean() / values.square().mean().sqrt().clamp(min=SMALL)

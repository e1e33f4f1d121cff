"""What a prediction that knows nothing loses: the yardstick of every loss of predicted tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.draws import Draws
from mmssl.objectives.distances import InfoNce, Loss
from mmssl.tokens import Tokens

SMALL = 1e-8


@torch.no_grad()
def constant_loss(
    loss: Loss, truth: Tensor, there: Bool[Tensor, "b m"], real: Bool[Tensor, "b m"] | None, draws: Draws, classes: int
) -> Float[Tensor, "b m"]:
    """Loss of each token when all have the same prediction: the mean of the targets, or the frequencies of their classes.

    there: the places that have a target and count. Of InfoNCE: the logarithm of the number of candidates.
    """
    if isinstance(loss, InfoNce):
        return candidates(loss, there).log()
    if not truth.is_floating_point():
        counts = there.new_zeros(classes, dtype=torch.float32)
        counts.scatter_add_(0, truth.clamp(min=0).flatten(), there.flatten().float())
        return entropy(counts).expand(there.shape)
    known = there[..., None] & ~truth.isnan()
    mean = torch.where(known, truth, 0).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
    if loss.classes:
        return entropy(mean).expand(there.shape)
    return loss(mean.expand_as(truth), truth, real, draws)[0]


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


@torch.no_grad()
def share(loss: Float[Tensor, ""], constant: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """A loss as a share of that of the constant prediction; 1 where that has none to lose."""
    return torch.where(constant > SMALL, loss.detach() / constant.clamp(min=SMALL), 1.0)


@torch.no_grad()
def variety(tokens: Tokens) -> Float[Tensor, ""]:
    """How much samples differ before the encoder: standard deviation of the mean token over the batch, over its size.

    Of a single sample: of its tokens. 0 for data that are constant.
    """
    values = tokens.mean() if len(tokens.values) > 1 else tokens.values[0]
    if len(values) < 2:
        return values.new_ones(())
    values = values.float()
    return values.std(0).mean() / values.square().mean().sqrt().clamp(min=SMALL)

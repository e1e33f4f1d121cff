"""Losses of predicted tokens. A target value that is not there (NaN, or class -100) costs nothing."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.losses.arithmetic import unit, wide

Distance = Literal["mse", "l1", "smooth_l1"]


def normalise_tokens(
    target: Float[Tensor, "b n t"],
) -> tuple[Float[Tensor, "b n t"], Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Targets with zero mean and unit variance within each token, with that mean and standard deviation.

    Unbiased variance plus 1e-6, as in MAE (arXiv 2111.06377, section 4.1 and its reference code).
    ValueError for tokens of one value.
    """
    if target.shape[-1] < 2:
        raise ValueError("normalised targets need tokens of two values or more, these hold one; use target: raw")
    mean = target.mean(-1, keepdim=True)
    centred = target - mean
    # torch.var takes three times as long on a CPU.
    std = (centred.square().sum(-1, keepdim=True) / (target.shape[-1] - 1) + 1e-6).sqrt()
    return centred / std, mean, std


def regression(
    predicted: Float[Tensor, "b m t"], target: Float[Tensor, "b m t"], distance: Distance, beta: float = 1.0
) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Mean distance over the values of each token, in float32, and which tokens have any value; `beta` is that of smooth_l1."""
    there = ~target.isnan()
    truth = torch.where(there, target, predicted.detach()).float()
    if distance == "smooth_l1":
        error = F.smooth_l1_loss(predicted.float(), truth, reduction="none", beta=beta)
    else:
        error = {"mse": F.mse_loss, "l1": F.l1_loss}[distance](predicted.float(), truth, reduction="none")
    count = there.sum(-1)
    return error.sum(-1) / count.clamp(min=1), count > 0  # where there is no target, the error is zero


def cosine(predicted: Float[Tensor, "b m t"], target: Float[Tensor, "b m t"]) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """One minus the cosine similarity of each token in float32, and which tokens have all their values."""
    there = ~target.isnan().any(-1)
    truth = target.float().masked_fill(~there[..., None], 0)
    return 1 - F.cosine_similarity(predicted.float(), truth, dim=-1), there


@wide
def hidden_distance(
    predicted: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], distance: Literal["mse", "l1_cosine"]
) -> Float[Tensor, "b n"]:
    """How far each token is from its target.

    mse: mean squared error over the width (TinyBERT, arXiv 1909.10351, eq. 8). l1_cosine: mean absolute error - log sigmoid of the
    cosine similarity (DistilHuBERT, arXiv 2110.01900, eq. 1).
    """
    if distance == "mse":
        return (predicted - target).square().mean(-1)
    return (predicted - target).abs().mean(-1) - F.logsigmoid((unit(predicted) * unit(target)).sum(-1))


def classification(
    logits: Float[Tensor, "b m c"], target: Int[Tensor, "b m"], label_smoothing: float = 0.0
) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Cross-entropy of each token in float32, and which tokens have a class."""
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), reduction="none", ignore_index=-100, label_smoothing=label_smoothing
    )
    return loss.view(target.shape), target != -100


def soft_classification(
    logits: Float[Tensor, "b m c"], target: Float[Tensor, "b m c"]
) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Cross-entropy of each token against a probability for every class, in float32, and which tokens have one."""
    there = ~target.isnan().any(-1)
    truth = target.float().masked_fill(~there[..., None], 0)
    return -(truth * logits.float().log_softmax(-1)).sum(-1), there


def mean_where(loss: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the entries that `mask` marks; zero, with zero gradient, if there are none."""
    return (loss * mask).sum() / mask.sum().clamp(min=1)

"""Losses of predicted tokens. A target value that is not there (NaN, or class -100) costs nothing."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Distance = Literal["mse", "l1", "smooth_l1"]

_DISTANCES = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


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
    std = (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return (target - mean) / std, mean, std


def regression(
    predicted: Float[Tensor, "b m t"], target: Float[Tensor, "b m t"], distance: Distance
) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Mean distance over the values of each token, in float32, and which tokens have any value."""
    there = ~target.isnan()
    error = _DISTANCES[distance](predicted.float(), torch.where(there, target, predicted.detach()).float(), reduction="none")
    count = there.sum(-1)
    return (error * there).sum(-1) / count.clamp(min=1), count > 0


def classification(logits: Float[Tensor, "b m c"], target: Int[Tensor, "b m"]) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Cross-entropy of each token in float32, and which tokens have a class."""
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none", ignore_index=-100)
    return loss.view(target.shape), target != -100


def mean_where(loss: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the entries that `mask` marks; zero, with zero gradient, if there are none."""
    return (loss * mask).sum() / mask.sum().clamp(min=1)

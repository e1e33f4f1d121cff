"""An exponential moving average of a module's weights: the teacher of an objective, or the averaged model of a run."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def ema_copy(module: M) -> M:
    """A copy without gradients that `ema_update` moves after `module`."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """average <- momentum x average + (1 - momentum) x module, computed in float32; buffers are copied.

    The average should be held in float32: with momentum near 1 the change is lost in lower precision.
    """
    slow: list[Tensor] = list(average.parameters())
    fast = [parameter.detach().to(like.dtype) for parameter, like in zip(module.parameters(), slow, strict=True)]
    torch._foreach_lerp_(slow, fast, 1 - momentum)
    for old, new in zip(average.buffers(), module.buffers(), strict=True):
        old.copy_(new)

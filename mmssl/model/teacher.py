"""An exponential moving average of a module's weights: the teacher of an objective, or the averaged model of a run."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def ema_copy(module: M) -> M:
    """A copy without gradients that `ema_update` moves after `module`.

    It shares the weights that do not learn: those of a base model to which adapters are put, or of a frozen encoder.
    """
    shared = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
    return copy.deepcopy(module, shared).requires_grad_(False)


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """average <- momentum x average + (1 - momentum) x module, computed in float32; buffers are copied, shared weights stay.

    The average should be held in float32: with momentum near 1 the change is lost in lower precision.
    """
    pairs = [(old, new) for old, new in zip(average.parameters(), module.parameters(), strict=True) if old is not new]
    if pairs:
        slow: list[Tensor] = [old for old, _ in pairs]
        torch._foreach_lerp_(slow, [new.detach().to(old.dtype) for old, new in pairs], 1 - momentum)
    for old, new in zip(average.buffers(), module.buffers(), strict=True):
        old.copy_(new)

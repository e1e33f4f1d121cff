"""Objectives whose weights take no memory: to count what a model needs that is too large for this machine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def weightless() -> Iterator[None]:
    """A block in which the parameters of modules are on the meta device: they have a shape and no values.

    Single numbers, such as a temperature, are as ever, for they are read when an objective is built; so are buffers, on which
    masks, statistics and tables of a step depend.
    """
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta and parameter.numel() > 1:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def weigh(module: nn.Module) -> None:
    """Put zeros that take no memory as long as nobody writes in the place of parameters that are on the meta device.

    A parameter that several modules share stays one.
    """
    made = dict[int, nn.Parameter]()
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_meta:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(zeros(parameter.shape, parameter.dtype), parameter.requires_grad)
                part._parameters[name] = made[id(parameter)]


def zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Zeros that the system gives out of nothing: a page takes memory when it is written, not when it is read."""
    size = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(max(size, 1), np.uint8))[:size].view(dtype).view(shape)

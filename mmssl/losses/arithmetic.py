"""How losses compute: in float32 or wider, whatever the precision of the run, and with vectors of length one."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def wide(loss: Callable[P, R]) -> Callable[P, R]:
    """The function with autocast off and its floating tensors in one dtype: the widest of theirs, at least float32."""

    @functools.wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        floats = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point()]
        kind = functools.reduce(torch.promote_types, (value.dtype for value in floats), torch.float32)

        def cast(value: object) -> object:
            return value.to(kind) if isinstance(value, Tensor) and value.is_floating_point() else value

        with torch.autocast(floats[0].device.type, enabled=False):
            return loss(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return computed


def unit(x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """Vectors over their lengths. One shorter than 1e-12 stays as it is: `F.normalize` would multiply its gradient by 1e12."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > 1e-12, length, 1)

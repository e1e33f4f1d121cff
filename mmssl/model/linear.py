"""Several linear maps of the same input."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def cast_once(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` in the precision that autocast computes in, so that several projections of it do not each cast it."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def is_plain(linear: nn.Module) -> bool:
    """Whether a map is its weight and bias and nothing else: neither PEFT's nor quantised, none whose weights a hook fetches.

    ZeRO-3 fetches weights by hooks, accelerate's offloading by a `forward` of the instance.
    """
    hooks = linear._forward_pre_hooks, linear._forward_hooks, linear._backward_pre_hooks, linear._backward_hooks
    changed = any(hooks) or "forward" in vars(linear)
    return type(linear) is nn.Linear and type(linear.weight) is nn.Parameter and not changed


def in_one_product(x: Float[Tensor, "*shape d"], *maps: nn.Module) -> tuple[Float[Tensor, "*shape e"], ...]:
    """What maps of one size, all with a bias or all without, make of `x`.

    In training by one product with their stacked weights, if all of them are plain. Stacking costs as much as a product with some
    hundred tokens, so single samples at inference go through map by map.
    """
    if not torch.is_grad_enabled() or not all(is_plain(each) for each in maps):
        return tuple(each(x) for each in maps)
    plain = cast(tuple[nn.Linear, ...], maps)
    weight = torch.cat([each.weight for each in plain])
    bias = None if plain[0].bias is None else torch.cat([each.bias for each in plain])
    return F.linear(x, weight, bias).chunk(len(maps), -1)

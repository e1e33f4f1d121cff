"""Several linear maps of one input: one product of plain maps, each map by itself where one is more than that."""

from collections.abc import Callable

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraConfig
from torch import Tensor, nn

from mmssl.model.linear import in_one_product, is_plain


def three(seed: int = 0) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    return nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)


def test_plain_maps_give_what_each_gives_with_the_same_gradients() -> None:
    maps, x = three(), torch.randn(2, 5, 6, requires_grad=True)
    weights = [weight for each in maps for weight in each.parameters()]
    found = in_one_product(x, *maps)
    expected = [each(x) for each in maps]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    scales = [torch.randn_like(out) for out in expected]
    gradients = [torch.autograd.grad(list(outs), [x, *weights], scales) for outs in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def adapted(linear: nn.Linear) -> nn.Module:
    """LoRA whose second factor is not zero."""
    lora = LoraLinear(linear, "default", LoraConfig(r=2), r=2, lora_alpha=2)
    nn.init.ones_(lora.lora_B["default"].weight)
    return lora


def pre_hooked(linear: nn.Linear) -> nn.Module:
    linear.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return linear


def hooked_backward(linear: nn.Linear) -> nn.Module:
    linear.register_full_backward_hook(lambda module, given, found: None)
    return linear


def hooked(linear: nn.Linear) -> nn.Module:
    linear.register_forward_hook(lambda module, args, out: out + 1)
    return linear


def offloaded(linear: nn.Linear) -> nn.Module:
    weights = {name: weight.detach().clone() for name, weight in linear.named_parameters()}
    return add_hook_to_module(linear, AlignDevicesHook(execution_device="cpu", offload=True, weights_map=weights))


@pytest.mark.parametrize("change", [adapted, pre_hooked, hooked, hooked_backward, offloaded])
def test_a_map_that_is_more_than_its_weights_is_asked_itself(change: Callable[[nn.Linear], nn.Module]) -> None:
    query, key, value = three()
    x = torch.randn(2, 5, 6)
    before = key(x)
    changed = change(key)
    assert not is_plain(changed)
    found: tuple[Tensor, ...] = in_one_product(x, query, changed, value)
    torch.testing.assert_close(found[1], changed(x))
    assert torch.equal(found[0], query(x))
    if change not in (offloaded, hooked_backward):
        assert not torch.allclose(found[1], before)

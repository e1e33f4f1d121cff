"""The moving average of weights against its closed form."""

import pytest
import torch
from torch import nn

from mmssl.model.teacher import ema_copy, ema_update


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def move(module: nn.Module, seed: int) -> None:
    """Give every parameter and buffer new values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(torch.randint(-99, 99, tensor.shape, generator=generator) / 8)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999, 1.0])
def test_average_is_the_weighted_sum_of_all_states(momentum: float) -> None:
    """m^k w_0 + (1 - m) sum_i m^(k - i) w_i after k updates."""
    module, updates = make(), 6
    average = ema_copy(module)
    history = [{name: p.double().clone() for name, p in module.named_parameters()}]
    for number in range(updates):
        move(module, number)
        ema_update(average, module, momentum)
        history.append({name: p.double().clone() for name, p in module.named_parameters()})
    weights = [momentum**updates] + [(1 - momentum) * momentum ** (updates - i) for i in range(1, updates + 1)]
    assert sum(weights) == pytest.approx(1)
    for name, found in average.named_parameters():
        expected = sum(weight * state[name] for weight, state in zip(weights, history, strict=True))
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_average_of_a_fixed_module_stays_with_it() -> None:
    module = make()
    average = ema_copy(module)
    for _ in range(10):
        ema_update(average, module, 0.9)
    for (name, found), expected in zip(average.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name


def test_buffers_are_copied() -> None:
    module = make()
    average = ema_copy(module)
    move(module, 3)
    ema_update(average, module, 0.999)
    for found, expected in zip(average.buffers(), module.buffers(), strict=True):
        assert torch.equal(found, expected)


def test_the_copy_is_apart_and_has_no_gradient() -> None:
    module = make()
    average = ema_copy(module)
    before = {name: p.clone() for name, p in average.named_parameters()}
    move(module, 5)
    for name, parameter in average.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_small_steps_of_a_half_precision_module_are_kept() -> None:
    """An average in float32 of a module in bfloat16 moves where bfloat16 itself could not."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    average = ema_copy(module)
    module.to(torch.bfloat16)
    nn.init.constant_(module.weight, 2.0)
    for _ in range(10):
        ema_update(average, module, 0.9999)
    assert average.weight.dtype == torch.float32
    assert average.weight.item() == pytest.approx(2 - 0.9999**10, abs=1e-6)

"""The encoder's parts: prefix, stochastic depth, gradient checkpointing, and what its configuration refuses."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import Draws, keys
from mmssl.model import Encoder, MMSSLConfig, initialise_all
from mmssl.model.config import encoder_settings
from mmssl.model.layers import Chances, Drop, NoDrop
from mmssl.tokens import Tokens, cat

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def make(**settings: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(MMSSLConfig(**SMALL | settings))
    initialise_all(encoder, encoder.config)
    return encoder


def make_tokens(b: int = 3, n: int = 6) -> Tokens:
    torch.manual_seed(1)
    valid = torch.arange(n) < torch.tensor([[n], [n - 2], [1]])[:b]
    return Tokens(torch.randn(b, n, 32), torch.randn(b, n, 4), valid, torch.randn(b, n, 32))


# Prefix


@pytest.mark.parametrize(("cls_token", "registers"), [(True, 0), (False, 2), (True, 3)])
def test_prefix_stands_in_front_at_zero_and_is_valid(cls_token: bool, registers: int) -> None:
    encoder, tokens = make(cls_token=cls_token, num_register_tokens=registers), make_tokens()
    k = int(cls_token) + registers
    whole = encoder.prepend(tokens)
    assert encoder.num_prefix == k
    for row in range(3):
        assert torch.equal(whole.values[row, :k], encoder.prefix)
    assert torch.equal(whole.values[:, k:], tokens.values + tokens.identity + encoder.absolute(tokens.coords))
    assert not whole.coords[:, :k].any()
    assert torch.equal(whole.coords[:, k:], tokens.coords)
    assert whole.valid[:, :k].all()
    assert torch.equal(whole.valid[:, k:], tokens.valid)
    encoded = encoder(tokens)
    assert torch.equal(encoded.coords, whole.coords) and torch.equal(encoded.valid, whole.valid)


def test_without_prefix_nothing_is_added() -> None:
    encoder, tokens = make(cls_token=False, absolute_positions=False), make_tokens()
    assert encoder.prefix is None
    assert torch.equal(encoder.prepend(tokens).values, tokens.values + tokens.identity)
    assert encoder(tokens).values.shape == tokens.values.shape


@pytest.mark.parametrize("axis", range(4))
def test_an_axis_at_zero_adds_no_position(axis: int) -> None:
    """An unused axis says nothing, and each axis has a part of the vector for itself."""
    coords = torch.zeros(1, 3, 4)
    coords[..., axis] = torch.tensor([0.0, 1.0, 2.5])
    added = make().absolute(coords)[0]
    assert not added[0].any()
    own = torch.zeros(2, 4, 4, dtype=torch.bool)  # sines and cosines, axes, frequencies
    own[:, axis] = True
    assert added[1:, own.flatten()].all() and not added[1:, ~own.flatten()].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_half(dtype: torch.dtype) -> None:
    encoder, tokens = make(num_register_tokens=1).eval(), make_tokens()
    half = Tokens(tokens.values.to(dtype), tokens.coords, tokens.valid, tokens.identity.to(dtype))
    expected, found = encoder(tokens), make(num_register_tokens=1).eval().to(dtype)(half)
    assert found.values.dtype == dtype
    torch.testing.assert_close(found.values.float(), expected.values, rtol=0.05, atol=0.1)


def test_no_mask_where_every_token_is_real() -> None:
    """Attention stays on its fastest path."""
    tokens = make_tokens()
    assert make().mask(tokens.values, None) is None
    assert make().prepend(Tokens(tokens.values, tokens.coords)).valid is None


# Stochastic depth


def chances(count: int, tokens: int, seed: int = 0) -> Chances:
    return Chances(keys(seed, 0, torch.arange(count)), torch.arange(tokens)[None])


@pytest.mark.parametrize("keyed", [False, True])
def test_drop_path_drops_whole_samples_and_keeps_the_mean(keyed: bool) -> None:
    torch.manual_seed(0)
    drop, count = Drop(0.0, 0.3, "mlp 1").train(), 20000
    out = drop(torch.ones(count, 2, 3), chances(count, 2) if keyed else None).flatten(1)
    kept = out[:, 0] != 0
    assert torch.equal(out, torch.where(kept[:, None], 1 / 0.7, 0.0).expand_as(out))
    assert abs(kept.float().mean().item() - 0.7) < 4 * (0.3 * 0.7 / count) ** 0.5


@pytest.mark.parametrize("keyed", [False, True])
def test_dropout_drops_values_and_keeps_the_mean(keyed: bool) -> None:
    torch.manual_seed(0)
    out = Drop(0.2, 0.0, "mlp 1").train()(torch.ones(40, 30, 64), chances(40, 30) if keyed else None)
    kept = out != 0
    assert torch.equal(out, torch.where(kept, 1 / 0.8, 0.0))
    for part in (kept, kept[0], kept[:, 0], kept[..., 0]):
        assert abs(part.float().mean().item() - 0.8) < 4 * (0.2 * 0.8 / part.numel()) ** 0.5


def test_drop_path_rises_linearly_over_the_layers() -> None:
    layers = make(drop_path_rate=0.4).layers
    assert isinstance(layers[0].drop1, NoDrop) and isinstance(layers[0].drop2, NoDrop)
    assert [layer.drop1.rate for layer in layers[1:]] == pytest.approx([0.2, 0.4])
    assert isinstance(make(drop_path_rate=0.4, num_hidden_layers=1).layers[0].drop1, NoDrop)


def test_drop_path_and_dropout_are_off_in_evaluation() -> None:
    tokens, plain = make_tokens(), make()
    for dropping in (make(drop_path_rate=0.9), make(dropout=0.5)):
        assert torch.equal(dropping.eval()(tokens).values, plain.eval()(tokens).values)
        assert not torch.equal(dropping.train()(tokens).values, plain(tokens).values)


def test_a_dropped_branch_leaves_the_sample_as_it_was() -> None:
    layer = make(drop_path_rate=0.5).layers[-1].train()
    layer.drop1.rate = layer.drop2.rate = 1 - 1e-9
    x = torch.randn(4, 5, 32)
    turn = make().rotary(torch.zeros(4, 5, 4))
    assert torch.equal(layer(x, None, turn, 0), x)


def test_what_is_dropped_depends_on_the_sample_alone() -> None:
    """Alone, and with padding between its tokens, it has the same output. Views and masks have drops of their own."""
    encoder, draws = make(drop_path_rate=0.5, dropout=0.2, attn_implementation="sdpa").train(), Draws(keys(0, 3, torch.arange(5)))
    tokens = Tokens(torch.randn(5, 7, 32), torch.rand(5, 7, 4)).keyed(draws)
    expected = encoder(tokens).values
    assert torch.equal(encoder(tokens).values, expected)
    wide = torch.tensor([[0, 1, 2, 0, 0, 3, 4, 5, 6, 0]])
    real = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1, 1, 0]], dtype=torch.bool)
    kept = torch.cat([torch.ones(encoder.num_prefix, dtype=torch.bool), real[0]])
    for row in range(5):
        own = slice(row, row + 1)
        one = Tokens(tokens.values[own], tokens.coords[own], keys=draws.keys[own])
        assert_close(encoder(one).values[0], expected[row])
        assert_close(encoder(one.take(wide, real)).values[0][kept], expected[row])
    other = encoder(tokens.keyed(draws.fork(1))).values
    assert not any(torch.equal(a, b) for a, b in zip(other, expected, strict=True))
    twice = encoder(tokens.repeat(2)).values
    assert not any(torch.equal(a, b) for a, b in zip(*twice.chunk(2), strict=True))


def test_outputs_of_layers_come_from_the_layers() -> None:
    """So that hooks see them, as those of FSDP2 and of `output_hidden_states`."""
    encoder, seen = make().eval(), list[Tensor]()
    for layer in encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    found = encoder.layer_outputs(make_tokens(), len(encoder.layers))
    assert len(found) == len(seen) == len(encoder.layers)
    assert all(torch.equal(tokens.values, output) for tokens, output in zip(found, seen, strict=True))
    assert torch.equal(encoder.norm(found[-1].values), encoder(make_tokens()).values)


# Gradient checkpointing


def gradients(encoder: Encoder) -> tuple[dict[str, Tensor], int]:
    """Gradients by name, and the bytes that the forward pass kept for them, weights aside."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = make_tokens()
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = encoder(tokens, last=4).values.square().sum()
    loss.backward()
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    found = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    return found, sum(size for place, size in kept.items() if place not in weights)


def test_recomputing_gives_the_same_gradients_from_less_memory() -> None:
    """Also with stochastic depth and dropout, whose draws repeat."""
    plain, again = (make(drop_path_rate=0.5, dropout=0.1).train() for _ in range(2))
    again.recompute_activations()
    (expected, memory), (found, less) = gradients(plain), gradients(again)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert less < memory / 3


# Configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"hidden_size": 40, "num_attention_heads": 2},
            "hidden_size must be a multiple of 8 x num_attention_heads (each head shares its rotary pairs among four axes); "
            "got hidden_size=40, num_attention_heads=2",
        ),
        ({"pooling": "cls", "cls_token": False}, "pooling='cls' needs cls_token=true; set it, or choose pooling='mean'"),
        ({"rotary_base": (100.0, 100.0)}, "rotary_base needs four values (time, depth, height, width); got [100.0, 100.0]"),
    ],
)
def test_bad_configurations(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MMSSLConfig(**settings)


@pytest.mark.parametrize(
    ("mlp", "width", "size"),
    [("gelu", 48, 192), ("swiglu", 48, 128), ("swiglu", 384, 1024), ("swiglu", 1024, 2736), ("swiglu", 8, 24)],
)
def test_width_of_the_mlp(mlp: str, width: int, size: int) -> None:
    """4 x width; two thirds of that for swiglu, rounded up to a multiple of 8."""
    assert MMSSLConfig(hidden_size=width, num_attention_heads=1, mlp=mlp).mlp_size == size


def test_explicit_sizes_win_over_the_preset() -> None:
    settings = encoder_settings(size="tiny", num_hidden_layers=3, mlp_size=99)
    assert settings["hidden_size"] == 192 and settings["num_hidden_layers"] == 3 and settings["mlp_size"] == 99
    assert MMSSLConfig(**encoder_settings()).hidden_size == 384


def test_derived_configuration_keeps_the_rest() -> None:
    config = MMSSLConfig(**SMALL, norm="rmsnorm", attn_implementation="eager")
    derived = config.derive(hidden_size=16, mlp_size=None)
    assert (derived.hidden_size, derived.mlp_size, derived.norm, derived._attn_implementation) == (16, 64, "rmsnorm", "eager")
    assert config.hidden_size == 32


# Places that are the same for all samples


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("settings", [{}, {"rotary_positions": False}, {"absolute_positions": False, "num_register_tokens": 2}])
def test_answer_is_forward_of_the_chosen_places(depth: int, padded: bool, settings: dict[str, Any]) -> None:
    """The output, and the gradient of every weight, of the context and of the places."""
    encoder = make(num_hidden_layers=depth, **settings).double()
    torch.manual_seed(1)
    context = Tokens(torch.randn(3, 4, 32), torch.randn(3, 4, 4), torch.arange(4) < torch.tensor([[4], [2], [3]]))
    places = Tokens(torch.randn(1, 7, 32), torch.randn(1, 7, 4))
    context, places = (replace(each, values=each.values.double().requires_grad_()) for each in (context, places))
    index = torch.stack([torch.randperm(7)[:5] for _ in range(3)])
    valid = torch.arange(5) < torch.tensor([[5], [1], [4]]) if padded else None
    chosen = Tokens(places.values[0][index], places.coords[0][index], valid)
    expected = encoder(cat([context, chosen]), last=5)
    found = encoder.answer(context, places, index, valid)
    assert_close(found.coords, expected.coords)
    counts = expected.valid_or_ones()
    assert torch.equal(found.valid_or_ones(), counts)
    leaves = [context.values, places.values, *encoder.parameters()]
    weight = torch.randn(3, 5, 32, dtype=torch.float64) * counts[..., None]
    gradients = [torch.autograd.grad((each.values * weight).sum(), leaves) for each in (expected, found)]
    assert_close(found.values[counts], expected.values[counts], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

"""The encoder against loops over scalars in float64, against itself under other backends, and against published sizes."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.model import Encoder, MMSSLConfig, MMSSLModel, initialise_all
from mmssl.model.config import SIZES, encoder_settings
from mmssl.model.layers import Rotary, rotate
from mmssl.tokens import Tokens

Vector = list[float]
Weights = dict[str, Any]

ROTARY_BASE = (50.0, 20.0, 10.0, 30.0)
BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_size": 24, "rotary_base": ROTARY_BASE}


def make(attention: str = "eager", **settings: Any) -> Encoder:
    """A small encoder in float64 whose every parameter is random, so that each one matters."""
    torch.manual_seed(0)
    encoder = Encoder(MMSSLConfig(**BASE | settings, attn_implementation=attention)).double().eval()
    for name, parameter in encoder.named_parameters():
        centre = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gain")) else 0.0
        torch.nn.init.normal_(parameter, centre, 0.2)
    return encoder


def make_tokens(*, padded: bool, identity: bool = False, count: int = 5) -> Tokens:
    torch.manual_seed(1)
    valid = torch.tensor([[True] * count, [True, False] * (count // 2) + [True] * (count % 2)]) if padded else None
    values, names = torch.randn(2, 2, count, 32, dtype=torch.float64)
    return Tokens(values, 4 * torch.randn(2, count, 4), valid, names if identity else None)


# A transformer written out in numbers


def dot(x: Vector, y: Vector) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def plus(x: Vector, y: Vector, gain: Vector | None = None) -> Vector:
    return [a + g * b for a, b, g in zip(x, y, gain or [1.0] * len(x), strict=True)]


def linear(w: Weights, name: str, x: Vector) -> Vector:
    return plus([dot(row, x) for row in w[f"{name}.weight"]], w[f"{name}.bias"])


def norm(w: Weights, name: str, x: Vector, kind: str) -> Vector:
    """LayerNorm (arXiv 1607.06450, eq. 4) or RMSNorm (arXiv 1910.07467, eq. 4)."""
    mean = sum(x) / len(x) if kind == "layernorm" else 0.0
    size = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + 1e-6)
    scaled = [(value - mean) / size * gain for value, gain in zip(x, w[f"{name}.weight"], strict=True)]
    return plus(scaled, w[f"{name}.bias"]) if kind == "layernorm" else scaled


def turned(x: Vector, place: Vector) -> Vector:
    """Neighbouring pairs turned by the position: a quarter of the pairs for each axis, frequencies falling within it."""
    steps = len(x) // 8
    out = []
    for pair in range(len(x) // 2):
        axis, step = divmod(pair, steps)
        angle = place[axis] * ROTARY_BASE[axis] ** (-step / steps)
        a, b = x[2 * pair], x[2 * pair + 1]
        out += [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
    return out


def position(place: Vector, width: int) -> Vector:
    """Sines, then cosines less one, of each coordinate times its axis' frequencies (arXiv 1706.03762, section 3.5)."""
    steps = width // 8
    angles = [x * base ** (-step / steps) for x, base in zip(place, ROTARY_BASE, strict=True) for step in range(steps)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) - 1 for angle in angles]


def attention(w: Weights, name: str, xs: list[Vector], places: list[Vector], config: MMSSLConfig) -> list[Vector]:
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    parts: dict[str, list[list[Vector]]] = {}
    for part in ("q", "k", "v"):
        whole = [linear(w, f"{name}.{part}_proj", x) for x in xs]
        parts[part] = [[x[h * size : (h + 1) * size] for h in range(heads)] for x in whole]
        if config.qk_norm and part != "v":
            parts[part] = [[norm(w, f"{name}.{part}_norm", x, config.norm) for x in row] for row in parts[part]]
        if part != "v":
            parts[part] = [[turned(x, place) for x in row] for row, place in zip(parts[part], places, strict=True)]
    out = []
    for query in parts["q"]:
        mixed: Vector = []
        for h in range(heads):
            powers = [math.exp(dot(query[h], key[h]) / math.sqrt(size)) for key in parts["k"]]
            mixed += [dot(powers, [value[h][i] for value in parts["v"]]) / sum(powers) for i in range(size)]
        out.append(linear(w, f"{name}.o_proj", mixed))
    return out


def mlp(w: Weights, name: str, x: Vector, kind: str) -> Vector:
    up = linear(w, f"{name}.up_proj", x)
    if kind == "gelu":
        inner = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in up]
    else:
        gate = linear(w, f"{name}.gate_proj", x)
        inner = [g / (1 + math.exp(-g)) * value for g, value in zip(gate, up, strict=True)]
    return linear(w, f"{name}.down_proj", inner)


def reference(encoder: Encoder, values: Tensor, coords: Tensor) -> Tensor:
    """Encoded prefix and tokens of one sample without padding."""
    config = encoder.config
    w = {name: tensor.tolist() for name, tensor in encoder.state_dict().items()}
    prefix, places = w.get("prefix", []), coords.tolist()
    xs: list[Vector] = values.tolist()
    if config.absolute_positions:
        xs = [plus(x, position(place, len(x))) for x, place in zip(xs, places, strict=True)]
    xs, places = prefix + xs, [[0.0] * 4] * len(prefix) + places
    for number in range(config.num_hidden_layers):
        layer = f"layers.{number}"
        first, second = (w.get(f"{layer}.scale{i}.gain") for i in (1, 2))
        branch = attention(w, f"{layer}.attention", [norm(w, f"{layer}.norm1", x, config.norm) for x in xs], places, config)
        xs = [plus(x, y, first) for x, y in zip(xs, branch, strict=True)]
        branch = [mlp(w, f"{layer}.mlp", norm(w, f"{layer}.norm2", x, config.norm), config.mlp) for x in xs]
        xs = [plus(x, y, second) for x, y in zip(xs, branch, strict=True)]
    found = [norm(w, "norm", x, config.norm) for x in xs] if config.final_norm else xs
    return torch.tensor(found, dtype=torch.float64)


ARCHITECTURES = [
    {"mlp": "gelu", "norm": "layernorm", "cls_token": False, "absolute_positions": False},
    {"mlp": "gelu", "norm": "layernorm", "qk_norm": True, "cls_token": True},
    {"mlp": "gelu", "norm": "rmsnorm", "layer_scale": 0.1, "cls_token": True, "num_register_tokens": 2, "final_norm": False},
    {
        "mlp": "swiglu",
        "norm": "layernorm",
        "layer_scale": 0.1,
        "cls_token": False,
        "num_register_tokens": 1,
        "absolute_positions": False,
    },
    {"mlp": "swiglu", "norm": "rmsnorm", "qk_norm": True, "cls_token": True},
    {"mlp": "swiglu", "norm": "rmsnorm", "qk_norm": True, "layer_scale": 0.1, "num_register_tokens": 2, "num_attention_heads": 4},
]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda settings: " ".join(map(str, settings.values())))
@torch.no_grad()
def test_encoder_matches_loops(settings: dict[str, Any], padded: bool) -> None:
    encoder, tokens = make(**settings), make_tokens(padded=padded, identity=padded)
    encoded = encoder(tokens)
    values = tokens.values if tokens.identity is None else tokens.values + tokens.identity
    for row, kept in enumerate(tokens.valid_or_ones()):
        expected = reference(encoder, values[row, kept], tokens.coords[row, kept])
        found = encoded.values[row, encoded.valid_or_ones()[row]]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # rotation is in float32


# Rotary positions


def test_scores_depend_on_differences_of_coordinates() -> None:
    """Query and key at real coordinates: their product is that of the query at the difference and the key at zero."""
    torch.manual_seed(0)
    rotary = Rotary(MMSSLConfig(**BASE))
    query, key = torch.randn(2, 1, 64, 2, 16)
    here, there = torch.randn(2, 1, 64, 4)
    score = (rotate(query, rotary(here)) * rotate(key, rotary(there))).sum(-1)
    relative = (rotate(query, rotary(here - there)) * key).sum(-1)
    torch.testing.assert_close(score, relative, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score, (query * key).sum(-1), atol=0.1)


@pytest.mark.parametrize("axis", range(4), ids=["time", "depth", "height", "width"])
@torch.no_grad()
def test_moving_all_tokens_together_changes_nothing(axis: int) -> None:
    """But moving one of them does. Without prefix, which stays at zero, and without absolute positions."""
    encoder, tokens = make(cls_token=False, absolute_positions=False), make_tokens(padded=False)
    shift = torch.zeros(1, 1, 4)
    shift[..., axis] = 7.5
    moved = Tokens(tokens.values, tokens.coords + shift)
    torch.testing.assert_close(encoder(moved).values, encoder(tokens).values, rtol=1e-4, atol=1e-5)
    torn = Tokens(tokens.values, torch.cat([tokens.coords[:, :1] + shift, tokens.coords[:, 1:]], 1))
    assert (encoder(torn).values - encoder(tokens).values).abs().max() > 0.01
    absolute = make(cls_token=False)
    assert (absolute(moved).values - absolute(tokens).values).abs().max() > 0.01


@torch.no_grad()
def test_order_of_the_tokens_means_nothing() -> None:
    encoder, tokens = make(), make_tokens(padded=True)
    order = torch.tensor([[3, 1, 4, 0, 2], [2, 0, 1, 4, 3]])
    torch.testing.assert_close(
        encoder(tokens.take(order)).values[:, 1:], encoder(tokens).take(order + 1).values, rtol=1e-5, atol=1e-5
    )


# The last tokens only, and other backends


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("last", [1, 3, 6])
@torch.no_grad()
def test_last_tokens_are_those_of_the_whole(backend: str, padded: bool, last: int) -> None:
    encoder, tokens = make(backend), make_tokens(padded=padded)
    whole, part = encoder(tokens), encoder(tokens, last=last)
    assert part.values.shape[1] == last
    torch.testing.assert_close(part.values, whole.values[:, 6 - last :])
    torch.testing.assert_close(part.coords, whole.coords[:, 6 - last :])
    assert torch.equal(part.valid_or_ones(), whole.valid_or_ones()[:, 6 - last :])


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(
    "backend", ["sdpa", pytest.param("flex_attention", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")])]
)
@torch.no_grad()
def test_backends_agree(backend: str, padded: bool) -> None:
    """With eager attention; the last tokens too. Flex compiles its kernels: a minute on CPU, in float32."""
    tokens = make_tokens(padded=padded)
    dtype = torch.float32 if backend == "flex_attention" else torch.float64
    tokens = tokens.with_values(tokens.values.to(dtype))
    for last in (None, 3):
        expected, found = (make(attention).to(dtype)(tokens, last=last) for attention in ("eager", backend))
        real = expected.valid_or_ones()
        torch.testing.assert_close(found.values[real], expected.values[real], rtol=1e-5, atol=1e-5)


# Published sizes

PUBLISHED = {"tiny": 5_717_416, "small": 22_050_664, "base": 86_567_656, "large": 304_326_632, "huge": 632_045_800}
"""Parameters of DeiT-Ti/16, DeiT-S/16, ViT-B/16, ViT-L/16 and ViT-H/14 at 224 x 224 pixels with 1,000 classes, as timm counts."""


@pytest.mark.parametrize("size", SIZES)
def test_presets_have_the_published_number_of_parameters(size: str) -> None:
    """All but the table of positions, for which the encoder has rotary ones, and the classifier."""
    patch = 14 if size == "huge" else 16
    image = {"processor": {"size": 224, "mean": 0.5, "std": 0.5}, "adapter": {"patch_size": patch}}
    with torch.device("meta"):
        model = MMSSLModel(MMSSLConfig(modalities={"image": image}, **encoder_settings(size=size)))
    width = model.config.hidden_size
    positions, classifier = ((224 // patch) ** 2 + 1) * width, (width + 1) * 1000
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[size] - positions - classifier


def test_initial_weights_are_xavier_uniform() -> None:
    """MAE, appendix A.1: projections within sqrt(6 / (in + out)), biases 0, norms 1."""
    encoder = Encoder(MMSSLConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_register_tokens=30))
    initialise_all(encoder, encoder.config)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            values = module.weight.detach().flatten().sort().values
            uniform = torch.linspace(-bound, bound, len(values))
            assert (values - uniform).abs().max() < 0.1 * bound
            assert not module.bias.any()
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any()
    assert encoder.prefix.std().item() == pytest.approx(0.02, rel=0.1)


def test_every_setting_of_the_grid_is_met() -> None:
    """The loops above see every pair of MLP and norm, and every option on and off."""
    pairs = {(settings["mlp"], settings["norm"]) for settings in ARCHITECTURES}
    assert pairs == set(itertools.product(("gelu", "swiglu"), ("layernorm", "rmsnorm")))
    for option in ("absolute_positions", "final_norm"):
        assert {settings.get(option, True) for settings in ARCHITECTURES} == {True, False}
    for option in ("qk_norm", "layer_scale", "num_register_tokens"):
        assert {bool(settings.get(option)) for settings in ARCHITECTURES} == {True, False}

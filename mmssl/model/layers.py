"""Layers of the encoder: positions, attention, MLP, scales, and how their weights start."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from mmssl.draws import Draws
from mmssl.model.config import GATED, MMSSLConfig
from mmssl.model.linear import cast_once, in_one_product

LAYER = "residual_of_layer"
"""Attribute of a linear map whose output a layer adds to its tokens: the layer's number, from 1 on."""


@runtime_checkable
class ResetsParameters(Protocol):
    """A module that initialises the bare parameters that it owns."""

    def reset_parameters(self) -> None: ...


def initialise(module: nn.Module, config: MMSSLConfig) -> None:
    """Initialise the parameters that `module` itself owns.

    Projections by `config.initializer`: xavier = as MAE (arXiv 2111.06377, appendix A.1); trunc_normal = normal numbers of standard
    deviation `initializer_range`, those of what layer l (1 is the lowest) adds to its tokens, by attention and MLP, divided by
    sqrt(2 l) (BEiT, arXiv 2106.08254, section 2.5; I-JEPA's `fix_init_weight`, arXiv 2301.08243).
    """
    if isinstance(module, nn.Linear):
        if config.initializer == "trunc_normal":
            layer = vars(module).get(LAYER)
            nn.init.trunc_normal_(module.weight, std=config.initializer_range / (1.0 if layer is None else math.sqrt(2 * layer)))
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=config.initializer_range)
    elif isinstance(module, ResetsParameters):
        module.reset_parameters()


def initialise_all(module: nn.Module, config: MMSSLConfig) -> None:
    """Initialise every part of a module outside a `PreTrainedModel` (heads, decoders) as the encoder's parts are."""
    for part in module.modules():
        initialise(part, config)


def make_norm(config: MMSSLConfig, width: int) -> nn.Module:
    """LayerNorm or RMSNorm over the last dimension."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.norm_bias)


def rotate(x: Float[Tensor, "b n h e"], turn: Complex[Tensor, "b n 1 p"] | None) -> Float[Tensor, "b n h e"]:
    """Rotate neighbouring pairs of the last dimension by the angles of `turn`, in float32; None: not at all.

    As one complex product: measured two to three times faster on CPU than products with sines and cosines.
    """
    if turn is None:
        return x
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def axis_angles(coords: Float[Tensor, "b n k"], base: tuple[float, ...], steps: tuple[int, ...]) -> Float[Tensor, "b n a"]:
    """Each coordinate times its number of frequencies from 1 down to almost 1 / base of its axis, one axis after the other."""
    if len(set(steps)) > 1:
        parts = [axis_angles(coords[..., [axis]], (base[axis],), (count,)) for axis, count in enumerate(steps) if count]
        return torch.cat(parts, -1)
    exponent = torch.arange(steps[0], device=coords.device, dtype=torch.float32) / steps[0]
    frequency = torch.tensor(base, device=coords.device)[:, None] ** -exponent
    return (coords.float()[..., None] * frequency).flatten(2)


class Rotary(nn.Module):
    """Angles of axial rotary positions from real coordinates (arXiv 2104.09864, eq. 15; each axis has its share of the pairs).

    base: of all axes; None: those of the configuration.
    """

    def __init__(self, config: MMSSLConfig, base: float | None = None) -> None:
        super().__init__()
        self.base = tuple(float(base or each) for each in config.rotary_base)
        pairs = config.hidden_size // config.num_attention_heads // 2 // sum(config.rotary_share)
        self.steps = tuple(pairs * share for share in config.rotary_share)

    def forward(self, coords: Float[Tensor, "b n 4"]) -> Complex[Tensor, "b n 1 p"]:
        """The turn of every rotary pair as a unit complex number, one set for all heads."""
        angles = axis_angles(coords, self.base, self.steps).unsqueeze(2)
        return torch.polar(torch.ones_like(angles), angles)


class AbsolutePositions(nn.Module):
    """Sines and cosines of the coordinates, to be added to the tokens (arXiv 1706.03762, section 3.5, for each of four axes).

    Rotary positions tell where tokens lie towards each other; these tell where each lies, which a mean over tokens would lose. The
    vector is zero at coordinate zero, so an axis that a modality does not use adds nothing.
    """

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        self.base = tuple(float(base) for base in config.rotary_base)
        self.steps = (config.hidden_size // 8,) * 4

    def forward(self, coords: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n d"]:
        angles = axis_angles(coords, self.base, self.steps)
        return torch.cat([angles.sin(), angles.cos() - 1], -1)


def eager_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "b h n e"],
    key: Float[Tensor, "b h m e"],
    value: Float[Tensor, "b h m e"],
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "b n h e"], Float[Tensor, "b h n m"]]:
    """Attention written out, in the form of transformers' attention interface; returns the attention weights too."""
    weights = query @ key.mT * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.dropout(weights.softmax(-1, dtype=torch.float32).to(query.dtype), dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


Projections = tuple[Float[Tensor, "b m d"], Float[Tensor, "b n d"], Float[Tensor, "b n d"]]
"""Queries, keys and values before they are split into heads."""


class Unhooked(nn.Module):
    """A module whose pickles lack the hooks by which transformers records outputs: local functions, which no pickle takes."""

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: hook for key, hook in self._forward_hooks.items() if hook.__module__ != capture_outputs.__module__}
        return vars(self) | {"_forward_hooks": OrderedDict(kept)}


class MMSSLAttention(Unhooked):
    """Multi-head self-attention with rotary positions; sdpa, flash, flex and eager through transformers' interface."""

    is_causal = False

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        q_proj, k_proj, v_proj, o_proj = (nn.Linear(width, width, bias=config.attention_bias) for _ in range(4))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = q_proj, k_proj, v_proj, o_proj
        self.q_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()

    def project(self, x: Float[Tensor, "b n d"], first: int) -> Projections:
        """Queries of the tokens from number `first` on, keys and values of all."""
        x = cast_once(x)
        if first:
            return self.q_proj(x[:, first:]), *in_one_product(x, self.k_proj, self.v_proj)
        query, key, value = in_one_product(x, self.q_proj, self.k_proj, self.v_proj)
        return query, key, value

    def forward(
        self, projections: Projections, mask: Any, turn: Complex[Tensor, "b n 1 p"] | None
    ) -> tuple[Float[Tensor, "b m d"], Tensor | None]:
        """What the queries, which belong to the last of the tokens, get; and how much they attend to each token, if known."""
        query, key, value = (self.split_heads(each) for each in projections)
        own = None if turn is None else turn[:, -query.shape[1] :]
        query, key = rotate(self.q_norm(query), own).transpose(1, 2), rotate(self.k_norm(key), turn).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, weights = attend(self, query, key, value.transpose(1, 2), mask, scaling=self.scaling)
        return self.o_proj(out.flatten(2)), weights

    def split_heads(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n h e"]:
        return x.unflatten(-1, (-1, self.head_dim))


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The approximation of GELU by a sigmoid (arXiv 1606.08415, section 2), which OpenAI's CLIP computes with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swiglu": F.silu,
    "geglu": F.gelu,
}
"""The function of each kind of MLP."""


class Mlp(nn.Module):
    """Two projections around an activation."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.mlp_width, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.down_proj(self.activation(self.up_proj(x)))


class GatedMlp(nn.Module):
    """SwiGLU and GEGLU (arXiv 2002.05202, eq. 6)."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.mlp_width, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


def make_mlp(config: MMSSLConfig) -> Any:
    """The MLP of a layer; with modality experts one for each modality, by its name (SkillNet, arXiv 2205.06126)."""
    kind = GatedMlp if config.mlp in GATED else Mlp
    return nn.ModuleDict({name: kind(config) for name in config.modalities}) if config.has_experts else kind(config)


class LayerScale(nn.Module):
    """A learned gain per channel, small at the start (arXiv 2103.17239, eq. 4)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gain = nn.Parameter(torch.empty(width))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gain, self.initial)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.gain


def make_scale(config: MMSSLConfig) -> nn.Module:
    """LayerScale, or nothing where the configuration has none."""
    return nn.Identity() if config.layer_scale is None else LayerScale(config.hidden_size, config.layer_scale)


@dataclass(frozen=True)
class Chances:
    """What random draws in a layer depend on: the keys of the samples, and which token of its sample each is."""

    keys: Int[Tensor, " b"]
    numbers: Int[Tensor, "#b n"]


class Drop(nn.Module):
    """Dropout and stochastic depth of what a branch of a layer adds to the residual stream, while training.

    Dropout leaves out single values (arXiv 1706.03762, section 5.4), stochastic depth the branch for whole samples (arXiv
    1603.09382); what is left is scaled up. Both depend on the sample, its view, the layer and the branch, and on no other sample.
    Dropout takes no longer than torch's ([64, 65, 192], one CPU core).

    branch: name and number of the branch.
    """

    def __init__(self, dropout: float, rate: float, branch: str) -> None:
        super().__init__()
        self.dropout, self.rate, self.branch = dropout, rate, branch

    def forward(self, x: Float[Tensor, "b n d"], chances: Chances | None) -> Float[Tensor, "b n d"]:
        if not self.training:
            return x
        if self.dropout:
            x = torch.where(self.kept(x, chances), x / (1 - self.dropout), 0.0)
        if self.rate:
            chance = torch.rand(len(x), device=x.device) if chances is None else Draws(chances.keys).uniform(f"depth {self.branch}")
            x = x * (chance >= self.rate).to(x.dtype)[:, None, None] / (1 - self.rate)
        return x

    def kept(self, x: Float[Tensor, "b n d"], chances: Chances | None) -> Bool[Tensor, "b n d"]:
        """Which values dropout keeps. A hash has the bits of four of them, 16 for each."""
        if chances is None:
            return torch.rand(x.shape, device=x.device) >= self.dropout
        _, n, width = x.shape
        hashes = -(-width // 4)
        numbers = chances.numbers[:, -n:, None] * hashes + torch.arange(hashes, device=x.device)
        bits = Draws(chances.keys).bits(f"dropout {self.branch}", numbers.flatten(1)).view(torch.int16)
        lowest = min(round(self.dropout * (1 << 16)), (1 << 16) - 1) - (1 << 15)
        return bits.unflatten(1, (n, 4 * hashes))[..., :width] >= lowest


class NoDrop(nn.Module):
    """Nothing is left out."""

    def forward(self, x: Float[Tensor, "b n d"], chances: Chances | None) -> Float[Tensor, "b n d"]:
        return x


def make_drop(config: MMSSLConfig, rate: float, branch: str) -> nn.Module:
    """Dropout and stochastic depth of a branch, or nothing where there is neither."""
    return Drop(config.dropout, rate, branch) if config.dropout or rate else NoDrop()


@dataclass(frozen=True)
class Shared:
    """Tokens that all samples choose from: token j of sample i is `values[0, index[i, j]]`."""

    values: Float[Tensor, "1 n d"]
    index: Int[Tensor, "b m"]

    def choose(self, of_each: Float[Tensor, "1 n e"]) -> Float[Tensor, "b m e"]:
        """Something of each of the tokens, as the samples chose them. Its gradient is summed in float32."""
        return F.embedding(self.index, of_each[0].float()).to(of_each.dtype)


class MMSSLLayer(Unhooked, GradientCheckpointingLayer):  # type: ignore[misc]
    """Attention and MLP, pre-norm or post-norm, each with optional LayerScale and stochastic depth."""

    def __init__(self, config: MMSSLConfig, drop_path: float, number: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.post = config.norm_order == "post"
        self.norm1 = make_norm(config, width) if number or config.first_norm else nn.Identity()
        self.norm2 = make_norm(config, width)
        self.attention = MMSSLAttention(config)
        self.mlp = make_mlp(config)
        self.scale1, self.scale2 = make_scale(config), make_scale(config)
        self.drop1, self.drop2 = (make_drop(config, drop_path, f"{branch} {number}") for branch in ("attention", "mlp"))
        for name, part in self.named_modules():
            if name.endswith(("o_proj", "down_proj")):
                vars(part)[LAYER] = number + 1

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        mask: Any,
        turn: Complex[Tensor, "b n 1 p"] | None,
        first: int,
        expert: str | None = None,
        shared: Shared | None = None,
        chances: Chances | None = None,
        with_added: bool = False,
    ) -> Float[Tensor, "b m d"] | tuple[Float[Tensor, "b m d"], Float[Tensor, "b m d"]]:
        """The tokens from number `first` on after attending to all of them.

        shared: where the last tokens come from. with_added: also what the MLP added to them.
        """
        x = self.after(self.norm1, x[:, first:] + self.attend(x, mask, turn, first, shared, chances))
        added = self.feed_forward(x, expert, chances)
        out = self.after(self.norm2, x + added)
        return (out, added) if with_added else out

    def before(self, norm: nn.Module, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What a branch reads."""
        return x if self.post else norm(x)

    def after(self, norm: nn.Module, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The residual stream after a branch."""
        return norm(x) if self.post else x

    def attend(
        self,
        x: Float[Tensor, "b n d"],
        mask: Any,
        turn: Complex[Tensor, "b n 1 p"] | None,
        first: int,
        shared: Shared | None,
        chances: Chances | None,
    ) -> Float[Tensor, "b m d"]:
        """What attention adds to the tokens from number `first` on. Shared tokens are projected once for all samples."""
        own = x if shared is None else x[:, : x.shape[1] - shared.index.shape[1]]
        projections = self.attention.project(self.before(self.norm1, own), first)
        if shared is not None:
            theirs = shared.choose(torch.cat(self.attention.project(self.before(self.norm1, shared.values), 0), -1)).chunk(3, -1)
            query, key, value = (torch.cat(pair, 1) for pair in zip(projections, theirs, strict=True))
            projections = query, key, value
        out: Tensor = self.drop1(self.scale1(self.attention(projections, mask, turn)[0]), chances)
        return out

    def feed_forward(self, x: Float[Tensor, "b n d"], expert: str | None, chances: Chances | None) -> Float[Tensor, "b n d"]:
        """What the MLP adds to tokens that have attended."""
        mlp = self.mlp[expert] if expert is not None else self.mlp
        out: Tensor = self.drop2(self.scale2(mlp(self.before(self.norm2, x))), chances)
        return out

"""The configuration that travels with a model, and the size presets of a recipe."""

from dataclasses import field
from typing import Annotated, Any, Literal, get_args, no_type_check

from huggingface_hub.dataclasses import strict
from pydantic import Field
from transformers import PreTrainedConfig

from mmssl.model.pooling import Pooling, statistics

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
}
"""Width, depth and heads of the presets, after DeiT (arXiv 2012.12877, table 1) and ViT (arXiv 2010.11929, table 1)."""

IMPLEMENTATIONS = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
"""Keys of a configuration in which transformers takes `owner/name` for code of the Hub, a kernel, which it fetches and runs."""

Positive = Annotated[int, Field(gt=0)]
Size = Literal["tiny", "small", "base", "large", "huge"]
Norm = Literal["layernorm", "rmsnorm"]
Mlp = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "swiglu", "geglu"]
NormOrder = Literal["pre", "post"]
Share = Annotated[int, Field(ge=0)]
Initializer = Literal["xavier", "trunc_normal"]
CHOICES = {"mlp": Mlp, "norm": Norm, "norm_order": NormOrder, "initializer": Initializer, "pooling": Pooling}
"""Fields of a configuration that are one of several words."""
GATED = ("swiglu", "geglu")
"""Kinds of MLP with a third projection, which gates the second (arXiv 2002.05202)."""


@no_type_check  # the constructor takes more than the fields; jaxtyping's check of dataclasses would refuse the rest
@strict
class MMSSLConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of `MMSSLModel`, and of the encoders that serve as decoder and predictor (`modalities` empty).

    modalities: per modality name `{"processor": settings, "adapter": recipe keys}`, where the settings hold the processor's fitted
        statistics.
    mlp_size: hidden width of the MLP; None: 4 x hidden_size (2/3 of that for gated ones, rounded up to a multiple of 8).
    rotary_base: base of the rotary frequencies of the time, depth, height and width axes; the longest wavelength is about
        2 pi x base patch units.
    layer_scale: initial value of LayerScale (arXiv 2103.17239, eq. 4); None: off.
    final_norm: whether the last layer's output is normalised.
    norm_order: pre = branches read normalised tokens; post = the sum with a branch is normalised (arXiv 1706.03762, section 3.1).
    input_norm: whether what enters the first layer is normalised, positions and prefix tokens included.
    first_norm: whether attention of the first layer reads normalised tokens, as in all others.
    attention_bias, mlp_bias, norm_bias: whether these have biases.
    rotary_share: how the rotary pairs of a head are shared among the time, depth, height and width axes.
    attention_window: largest difference of any coordinate at which tokens attend to each other; None: no limit.
    global_every: with a window, every so many layers, from the first on, have none.
    local_rotary_base: base of the rotary frequencies in layers with a window; None: `rotary_base`.
    causal: whether a token attends only to itself and those before it.
    projections: per modality the settings of a `Head` that maps pooled outputs into one space that modalities share; None: there is
        none. logit_scale, logit_bias: the initial factor on similarities there, and what is added; None: none.
    initializer: how the weights of linear maps begin, `xavier` or `trunc_normal`; see `mmssl.model.layers.initialise`.
    label_head: the settings of a `LabelHead`, which predicts labels; None: there is none. `id2label` names its classes.
    """

    model_type = "mmssl"

    modalities: dict[str, Any] = field(default_factory=dict)
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    mlp_size: int | None = None
    mlp: str = "gelu"
    norm: str = "layernorm"
    norm_eps: float = 1e-6
    qk_norm: bool = False
    layer_scale: float | None = None
    final_norm: bool = True
    norm_order: str = "pre"
    input_norm: bool = False
    first_norm: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    modality_experts: bool = False
    dropout: float = 0.0
    drop_path_rate: float = 0.0
    cls_token: bool = True
    num_register_tokens: int = 0
    rotary_base: list[float] | tuple[float, ...] = (10000.0, 100.0, 100.0, 100.0)
    absolute_positions: bool = True
    rotary_positions: bool = True
    rotary_share: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    attention_window: int | None = None
    global_every: int = 1
    local_rotary_base: float | None = None
    causal: bool = False
    pooling: str = "mean"
    projections: dict[str, Any] | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    label_head: dict[str, Any] | None = None
    initializer: str = "xavier"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        width, heads = self.hidden_size, self.num_attention_heads
        for key, kind in CHOICES.items():
            if (value := vars(self)[key]) not in get_args(kind):
                raise ValueError(
                    f"{key} must be one of {', '.join(get_args(kind))}; got {value!r}. "
                    "If a newer mmssl saved the model, update yours"
                )
        if len(self.rotary_share) != 4 or not sum(self.rotary_share):
            raise ValueError(
                f"rotary_share needs four numbers (time, depth, height, width), not all zero; got {list(self.rotary_share)}"
            )
        placed = self.rotary_positions or self.absolute_positions
        unit = 2 * sum(self.rotary_share) if placed else 1
        if width % (unit * heads):
            why = " (each head shares its rotary pairs among four axes)" if placed else ""
            raise ValueError(
                f"hidden_size must be a multiple of {unit} x num_attention_heads{why}; "
                f"got hidden_size={width}, num_attention_heads={heads}"
            )
        if self.absolute_positions and width % 8:
            raise ValueError(f"hidden_size must be a multiple of 8 for absolute_positions; got {width}")
        if self.norm_order == "post" and not self.first_norm:
            raise ValueError("first_norm=false leaves out a norm in front of attention, of which norm_order='post' has none")
        if self.pooling == "cls" and not self.cls_token:
            raise ValueError("pooling='cls' needs cls_token=true; set it, or choose pooling='mean'")
        if len(self.rotary_base) != 4:
            raise ValueError(f"rotary_base needs four values (time, depth, height, width); got {list(self.rotary_base)}")
        self.mlp_size = self.mlp_width
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers. ValueError where the file names code to run."""
        refuse_kernels(config_dict)
        return super().from_dict(config_dict, **kwargs)

    @property
    def has_experts(self) -> bool:
        """Whether every modality has an MLP of its own in each layer."""
        return self.modality_experts and bool(self.modalities)

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP: `mlp_size`, or what stands for None."""
        if self.mlp_size is not None:
            return self.mlp_size
        return 8 * -(-self.hidden_size // 3) if self.mlp in GATED else 4 * self.hidden_size

    def is_local(self, number: int) -> bool:
        """Whether layer `number` has a window: tokens attend to what is near."""
        return self.attention_window is not None and number % self.global_every != 0

    @property
    def projection_dim(self) -> int:
        """Width of `pooler_output`, by the name under which sentence-transformers looks for it; of `concat` that of each token."""
        return self.hidden_size * max(1, len(statistics(self.pooling)))

    def derive(self, **changes: Any) -> "MMSSLConfig":
        """A configuration with some fields changed, with the same attention implementation."""
        return MMSSLConfig(**self.to_diff_dict() | changes, attn_implementation=self._attn_implementation)


def refuse_kernels(content: Any, where: str = "config.json") -> None:
    """ValueError if the content of a configuration file names a kernel of the Hub, at any depth: that would be a stranger's code.

    Whoever wants one names it in the call, `attn_implementation=`.
    """
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        named = value.values() if isinstance(value, dict) else [value]
        if key in IMPLEMENTATIONS and (wrong := [one for one in named if isinstance(one, str) and "/" in one]):
            raise ValueError(
                f"{where}: {key} names code of the Hub, {wrong[0]!r}, and a configuration never says what is run. Remove the key; "
                "if you trust that code, pass attn_implementation= to from_pretrained"
            )
        refuse_kernels(value, where)


def shape(size: Size | None, width: int | None, depth: int | None, heads: int | None, mlp_size: int | None) -> dict[str, Any]:
    """Numbers of a preset, small if none is named, with those that are given in the place of its own."""
    given = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "mlp_size": mlp_size}
    return SIZES[size or "small"] | {key: value for key, value in given.items() if value is not None}


def encoder_settings(
    *,
    size: Size | None = None,
    hidden_size: Positive | None = None,
    num_hidden_layers: Positive | None = None,
    num_attention_heads: Positive | None = None,
    mlp_size: Positive | None = None,
    mlp: Mlp = "gelu",
    norm: Norm = "layernorm",
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6,
    qk_norm: bool = False,
    initializer: Initializer = "xavier",
    layer_scale: Annotated[float, Field(gt=0)] | None = None,
    final_norm: bool = True,
    norm_order: NormOrder = "pre",
    input_norm: bool = False,
    first_norm: bool = True,
    attention_bias: bool = True,
    mlp_bias: bool = True,
    norm_bias: bool = True,
    modality_experts: bool = False,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    cls_token: bool = True,
    num_register_tokens: Annotated[int, Field(ge=0)] = 0,
    rotary_base: tuple[float, float, float, float] = (10000.0, 100.0, 100.0, 100.0),
    absolute_positions: bool = True,
    rotary_positions: bool = True,
    rotary_share: tuple[Share, Share, Share, Share] = (1, 1, 1, 1),
    attention_window: Positive | None = None,
    global_every: Positive = 1,
    local_rotary_base: Annotated[float, Field(gt=0)] | None = None,
    causal: bool = False,
    pooling: Pooling = "mean",
) -> dict[str, Any]:
    """Fields of `MMSSLConfig` from the `encoder` section of a recipe; explicit numbers win over the preset.

    size: preset of width, depth and heads: tiny, small (the default), base, large or huge.
    hidden_size: width of the tokens.
    num_hidden_layers: transformer layers.
    num_attention_heads: attention heads; hidden_size must be a multiple of 8 x heads.
    mlp_size: hidden width of the MLP; null: 4 x hidden_size.
    mlp: its activation: gelu, gelu_tanh (an approximation), quick_gelu (CLIP's), relu, silu; swiglu and geglu are gated by silu
        and gelu (arXiv 2002.05202).
    norm: layernorm or rmsnorm.
    norm_eps: epsilon of the norms.
    qk_norm: normalise queries and keys of every head (arXiv 2302.05442).
    initializer: how linear maps begin, those of predictors and heads too: xavier (MAE, arXiv 2111.06377), or trunc_normal: normal
        numbers of 0.02, for what layer l adds to its tokens divided by the root of 2 l (BEiT, arXiv 2106.08254; I-JEPA).
    layer_scale: initial value of LayerScale (arXiv 2103.17239); null: off.
    final_norm: normalise what the last layer gives; false keeps the size of tokens, which forecasts of a series need.
    norm_order: pre = attention and MLP read normalised tokens; post = what they add is normalised with the rest, as in BERT.
    input_norm: normalise what enters the first layer, positions and prefix tokens included, as BERT and CLIP do.
    first_norm: false: attention of the first layer reads its tokens as they are, as in ModernBERT (arXiv 2412.13663).
    attention_bias: biases of the projections in attention.
    mlp_bias: biases of the MLP.
    norm_bias: biases of the norms, where they are layernorm.
    modality_experts: an MLP of its own for each modality in every layer; attention stays shared.
    dropout: share of the values that attention and MLP add which is left out while training (arXiv 1706.03762, section 5.4).
    drop_path_rate: stochastic depth of the last layer, rising linearly from 0 at the first (arXiv 1603.09382).
    cls_token: prepend a CLS token.
    num_register_tokens: register tokens after CLS (arXiv 2309.16588).
    rotary_base: base of the rotary frequencies of the time, depth, height and width axes.
    absolute_positions: add sines and cosines of the coordinates to the tokens, beside the rotary positions in attention.
    rotary_positions: turn queries and keys by the coordinates; ViT and MAE do not, which makes a step some five percent faster.
    rotary_share: how the rotary pairs of a head are shared among time, depth, height and width; [1, 0, 0, 0]: all for time.
    attention_window: tokens attend to those whose coordinates differ by no more than that, such as words in a text; null: to all.
    global_every: with attention_window, every so many layers, the first included, attend to all.
    local_rotary_base: base of the rotary frequencies in layers with a window; null: rotary_base.
    causal: tokens attend only to those before them, as in CLIP's encoder of texts.
    pooling: what `pooler_output` is: cls, first or last token, learned attention, statistics of the valid tokens, or (concat, for
        tables) all tokens.
    """
    return shape(size, hidden_size, num_hidden_layers, num_attention_heads, mlp_size) | {
        "mlp": mlp,
        "norm": norm,
        "norm_eps": norm_eps,
        "qk_norm": qk_norm,
        "initializer": initializer,
        "layer_scale": layer_scale,
        "final_norm": final_norm,
        "norm_order": norm_order,
        "input_norm": input_norm,
        "first_norm": first_norm,
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "norm_bias": norm_bias,
        "modality_experts": modality_experts,
        "dropout": dropout,
        "drop_path_rate": drop_path_rate,
        "cls_token": cls_token,
        "num_register_tokens": num_register_tokens,
        "rotary_base": tuple(rotary_base),
        "absolute_positions": absolute_positions,
        "rotary_positions": rotary_positions,
        "rotary_share": tuple(rotary_share),
        "attention_window": attention_window,
        "global_every": global_every,
        "local_rotary_base": local_rotary_base,
        "causal": causal,
        "pooling": pooling,
    }

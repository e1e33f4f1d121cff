"""The configuration that travels with a model, and the size presets of a recipe."""

from dataclasses import field
from typing import Annotated, Any, Literal, no_type_check

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
Mlp = Literal["gelu", "swiglu"]


@no_type_check  # the constructor takes more than the fields; jaxtyping's check of dataclasses would refuse the rest
@strict
class MMSSLConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of `MMSSLModel`, and of the encoders that serve as decoder and predictor (`modalities` empty).

    modalities: per modality name `{"processor": settings, "adapter": recipe keys}`, where the settings hold the processor's fitted
        statistics.
    mlp_size: hidden width of the MLP; None: 4 x hidden_size (2/3 of that for swiglu, rounded up to a multiple of 8).
    rotary_base: base of the rotary frequencies of the time, depth, height and width axes; the longest wavelength is about
        2 pi x base patch units.
    layer_scale: initial value of LayerScale (arXiv 2103.17239, eq. 4); None: off.
    final_norm: whether the last layer's output is normalised.
    projections: per modality the settings of a `Head` that maps pooled outputs into one space that modalities share; None: there is
        none. logit_scale, logit_bias: the initial factor on similarities there, and what is added; None: none.
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
    modality_experts: bool = False
    dropout: float = 0.0
    drop_path_rate: float = 0.0
    cls_token: bool = True
    num_register_tokens: int = 0
    rotary_base: list[float] | tuple[float, ...] = (10000.0, 100.0, 100.0, 100.0)
    absolute_positions: bool = True
    rotary_positions: bool = True
    pooling: str = "mean"
    projections: dict[str, Any] | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    label_head: dict[str, Any] | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        width, heads = self.hidden_size, self.num_attention_heads
        if width % (8 * heads):
            raise ValueError(
                "hidden_size must be a multiple of 8 x num_attention_heads (each head shares its rotary pairs among four axes); "
                f"got hidden_size={width}, num_attention_heads={heads}"
            )
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
        return 4 * self.hidden_size if self.mlp == "gelu" else 8 * -(-self.hidden_size // 3)

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
    layer_scale: Annotated[float, Field(gt=0)] | None = None,
    final_norm: bool = True,
    modality_experts: bool = False,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    cls_token: bool = True,
    num_register_tokens: Annotated[int, Field(ge=0)] = 0,
    rotary_base: tuple[float, float, float, float] = (10000.0, 100.0, 100.0, 100.0),
    absolute_positions: bool = True,
    rotary_positions: bool = True,
    pooling: Pooling = "mean",
) -> dict[str, Any]:
    """Fields of `MMSSLConfig` from the `encoder` section of a recipe; explicit numbers win over the preset.

    size: preset of width, depth and heads: tiny, small (the default), base, large or huge.
    hidden_size: width of the tokens.
    num_hidden_layers: transformer layers.
    num_attention_heads: attention heads; hidden_size must be a multiple of 8 x heads.
    mlp_size: hidden width of the MLP; null: 4 x hidden_size.
    mlp: gelu, or the gated swiglu (arXiv 2002.05202).
    norm: layernorm or rmsnorm.
    norm_eps: epsilon of the norms.
    qk_norm: normalise queries and keys of every head (arXiv 2302.05442).
    layer_scale: initial value of LayerScale (arXiv 2103.17239); null: off.
    final_norm: normalise what the last layer gives; false keeps the size of tokens, which forecasts of a series need.
    modality_experts: an MLP of its own for each modality in every layer; attention stays shared.
    dropout: share of the values that attention and MLP add which is left out while training (arXiv 1706.03762, section 5.4).
    drop_path_rate: stochastic depth of the last layer, rising linearly from 0 at the first (arXiv 1603.09382).
    cls_token: prepend a CLS token.
    num_register_tokens: register tokens after CLS (arXiv 2309.16588).
    rotary_base: base of the rotary frequencies of the time, depth, height and width axes.
    absolute_positions: add sines and cosines of the coordinates to the tokens, beside the rotary positions in attention.
    rotary_positions: turn queries and keys by the coordinates; ViT and MAE do not, which makes a step some five percent faster.
    pooling: what `pooler_output` is: cls, learned attention, statistics of the valid tokens, or (concat, for tables) all tokens.
    """
    return shape(size, hidden_size, num_hidden_layers, num_attention_heads, mlp_size) | {
        "mlp": mlp,
        "norm": norm,
        "norm_eps": norm_eps,
        "qk_norm": qk_norm,
        "layer_scale": layer_scale,
        "final_norm": final_norm,
        "modality_experts": modality_experts,
        "dropout": dropout,
        "drop_path_rate": drop_path_rate,
        "cls_token": cls_token,
        "num_register_tokens": num_register_tokens,
        "rotary_base": tuple(rotary_base),
        "absolute_positions": absolute_positions,
        "rotary_positions": rotary_positions,
        "pooling": pooling,
    }

"""Layers as public encoders name their parts, whatever the encoder reads; {n} stands for the number of a layer."""

from mmssl.model.public.table import Of, Row
from mmssl.model.public.weights import Same, Stacked

LAYER = "encoder.layers.{n}"
ATTENTION = tuple(f"{LAYER}.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
UP, DOWN, GATE = (f"{LAYER}.mlp.{name}" for name in ("up_proj", "down_proj", "gate_proj"))
NORMS = (f"{LAYER}.norm1", f"{LAYER}.norm2")
SCALES = (f"{LAYER}.scale1.gain", f"{LAYER}.scale2.gain")

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Names of transformers, and ours."""
GATED = {"gelu": "geglu", "silu": "swiglu"}
"""Activations of gated MLPs."""

UNPLACED = {"absolute_positions": False, "rotary_positions": False, "pooling": "mean"}
"""Of encoders whose positions are learned, and belong to the adapter."""
SIZE = {
    "hidden_size": Of("hidden_size"),
    "num_hidden_layers": Of("num_hidden_layers"),
    "num_attention_heads": Of("num_attention_heads"),
    "mlp_size": Of("intermediate_size"),
    "mlp": Of("hidden_act", ACTIVATIONS),
    "norm_eps": Of("layer_norm_eps"),
}
"""Settings of most encoders of transformers."""


def pairs(theirs: str, names: tuple[str, ...], ours: tuple[str, ...]) -> list[Row]:
    """Rows for modules one by one; `theirs`: what stands in front of their names."""
    return [Row(f"{theirs}.{name}", own) for name, own in zip(names, ours, strict=True)]


VIT = pairs(
    "encoder.layer.{n}",
    (
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
        "layernorm_before",
        "layernorm_after",
    ),
    (*ATTENTION, UP, DOWN, *NORMS),
)
"""ViT, DeiT, I-JEPA and AST."""

DINO = [
    *pairs(
        "encoder.layer.{n}",
        (
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
            "mlp.fc1",
            "mlp.fc2",
            "mlp.weights_out",
            "norm1",
            "norm2",
        ),
        (*ATTENTION, UP, DOWN, DOWN, *NORMS),
    ),
    Row("encoder.layer.{n}.mlp.weights_in", (GATE, UP), Stacked((Same(), Same()))),
    *(Row(f"encoder.layer.{{n}}.layer_scale{k}.lambda1", own, parts=()) for k, own in enumerate(SCALES, 1)),
]
"""DINOv2, with registers and without."""

BERT = pairs(
    "encoder.layer.{n}",
    (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
        "attention.output.LayerNorm",
        "output.LayerNorm",
    ),
    (*ATTENTION, UP, DOWN, *NORMS),
)
"""BERT, RoBERTa and ELECTRA."""

CLIP = pairs(
    "encoder.layers.{n}",
    (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        "mlp.fc1",
        "mlp.fc2",
        "layer_norm1",
        "layer_norm2",
    ),
    (*ATTENTION, UP, DOWN, *NORMS),
)
"""CLIP and SigLIP, both towers."""

THREE = Stacked((Same(), Same(), Same()))
"""Projections to queries, keys and values in one."""


def open_clip(front: str) -> list[Row]:
    """Layers of an encoder of open_clip, whose names begin with `front`."""
    return [
        Row(f"{front}.{{n}}.attn.in_proj_weight", tuple(f"{name}.weight" for name in ATTENTION[:3]), THREE, ()),
        Row(f"{front}.{{n}}.attn.in_proj_bias", tuple(f"{name}.bias" for name in ATTENTION[:3]), THREE, ()),
        *pairs(
            f"{front}.{{n}}",
            ("attn.out_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"),
            (ATTENTION[3], UP, DOWN, *NORMS),
        ),
        *(Row(f"{front}.{{n}}.ls_{k}.gamma", own, parts=()) for k, own in enumerate(SCALES, 1)),
    ]

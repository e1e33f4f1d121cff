"""Public encoders of pictures in terms of mmssl's encoder and of `ImageAdapter`."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from mmssl.model.public.layers import (
    ATTENTION,
    CLIP,
    DINO,
    DOWN,
    GATE,
    LAYER,
    NORMS,
    SCALES,
    SIZE,
    THREE,
    UNPLACED,
    UP,
    VIT,
    open_clip,
    pairs,
)
from mmssl.model.public.source import OPEN_CLIP_CONFIG, Source
from mmssl.model.public.table import Config, Family, Of, Row
from mmssl.model.public.weights import Halves, How, Kernel, Prefixed, Same
from mmssl_modalities.image.native import dinov2, dinov3, native, plain, vit

PREPROCESSOR = "preprocessor_config.json"
BILINEAR, BICUBIC = 2, 3
"""Numbers of Pillow's filters."""
RESAMPLE = {0: "nearest", 1: "lanczos", BILINEAR: "bilinear", BICUBIC: "bicubic"}
LEFT = ("pooler.*", "classifier.*", "cls_classifier.*", "distillation_classifier.*", "*mask_token", "decoder.*", "head.*")


def processor(source: Source, config: Config) -> dict[str, Any]:
    """Size, cut, resampling and normalisation, as `preprocessor_config.json` says; without one as the encoder was built.

    ValueError for a preprocessing that ours lacks.
    """
    found = source.json(PREPROCESSOR)
    side, channels = side_of(config["image_size"]), int(config.get("num_channels", 3))
    settings: dict[str, Any] = {"size": side, "channels": channels, "multiple": side_of(config["patch_size"])}
    if not found:
        return settings | {"resize": "squash", "mean": 0.5, "std": 0.5}
    normal = found.get("do_normalize", True)
    settings |= {name: list(found[f"image_{name}"]) if normal else other for name, other in (("mean", 0.0), ("std", 1.0))}
    size, cut = box(found.get("size", side)), box(found.get("crop_size", side))
    if found.get("do_center_crop", False) and found.get("do_resize", True):
        settings |= {"size": side_of(cut), "resize": "crop", "cut": min(1.0, side_of(cut) / side_of(size))}
    else:
        settings |= {"size": side_of(size), "resize": "crop" if "shortest_edge" in size else "squash"}
    if (filter_ := int(found.get("resample", BICUBIC))) not in (BILINEAR, BICUBIC):
        raise ValueError(
            f"{PREPROCESSOR}: pictures are resampled by {RESAMPLE.get(filter_, filter_)}; mmssl has bilinear and bicubic"
        )
    return settings | {"resample": RESAMPLE[filter_]}


def box(size: Any) -> Mapping[str, Any]:
    """A size of transformers, which old files give as one number."""
    return size if isinstance(size, Mapping) else {"height": size, "width": size}


def side_of(size: Any) -> int:
    """The side of a square. ValueError for what is none."""
    if isinstance(size, Mapping):
        size = [size[name] for name in ("height", "width", "shortest_edge") if size.get(name)]
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise ValueError(f"pictures and patches are square in mmssl; got {sorted(sides)}")
    return int(sides.pop())


def grid(config: Config) -> list[int]:
    """Rows and columns of patches of the pictures that the encoder was trained on."""
    side = side_of(config["image_size"]) // side_of(config["patch_size"])
    return [side, side]


def patch(config: Config) -> int:
    """Side of a patch."""
    return side_of(config["patch_size"])


def prefixed(*counts: int, folded: int) -> Prefixed:
    return Prefixed(counts, folded)


def drop_path(config: Config) -> float:
    return float(config.get("drop_path_rate", 0.0))


PATCHES = {"patch_size": patch, "learned_positions": grid}
GRID = "adapter.positions.table"
PROJECTION = Row("embeddings.patch_embeddings.projection", "adapter.proj", Kernel())
NORM = Row("layernorm", "encoder.norm")
VIT_ENCODER = SIZE | UNPLACED | {"dropout": Of("hidden_dropout_prob", default=0.0)}
BIASES = {"qkv_bias": (True,)}


def dino_size(config: Config) -> int:
    """Hidden width of DINOv2's MLP; of its gated one two thirds, rounded up to a multiple of 8."""
    full = int(config["hidden_size"] * config["mlp_ratio"])
    return (int(full * 2 / 3) + 7) // 8 * 8 if config["use_swiglu_ffn"] else full


def dino_mlp(config: Config) -> str:
    return "swiglu" if config["use_swiglu_ffn"] else str(SIZE["mlp"].value(config, "DINOv2"))


DINO_ENCODER = VIT_ENCODER | {
    "mlp_size": dino_size,
    "mlp": dino_mlp,
    "layer_scale": Of("layerscale_value"),
    "drop_path_rate": drop_path,
}

VIT_FAMILY = Family(
    name="ViT",
    kinds=("vit",),
    encoder=VIT_ENCODER | {"attention_bias": Of("qkv_bias", {True: True}, True)},
    adapter=PATCHES,
    processor=processor,
    rows=[
        *VIT,
        Row(
            ("embeddings.cls_token", "embeddings.position_embeddings"),
            ("encoder.prefix", GRID),
            prefixed(1, folded=1),
            (),
        ),
        PROJECTION,
        NORM,
    ],
    left=LEFT,
    requires=BIASES,
    strip=("vit.",),
    native=native("vit", vit),
)
DEIT = Family(
    name="DeiT",
    kinds=("deit",),
    encoder=VIT_ENCODER | {"num_register_tokens": 1},
    adapter=PATCHES,
    processor=processor,
    rows=[
        *VIT,
        Row(
            ("embeddings.cls_token", "embeddings.distillation_token", "embeddings.position_embeddings"),
            ("encoder.prefix", GRID),
            prefixed(1, 1, folded=2),
            (),
        ),
        PROJECTION,
        NORM,
    ],
    left=LEFT,
    requires=BIASES,
    strip=("deit.",),
    native=native("deit", plain),
)
IJEPA = Family(
    name="I-JEPA",
    kinds=("ijepa",),
    encoder=VIT_ENCODER | {"cls_token": False},
    adapter=PATCHES,
    processor=processor,
    rows=[
        *VIT,
        Row("embeddings.position_embeddings", ("encoder.prefix", GRID), prefixed(folded=0), ()),
        PROJECTION,
        NORM,
    ],
    left=LEFT,
    requires=BIASES,
    strip=("ijepa.",),
    native=native("ijepa", plain),
)
DINOV2 = Family(
    name="DINOv2",
    kinds=("dinov2",),
    encoder=DINO_ENCODER,
    adapter=PATCHES,
    processor=processor,
    rows=[
        *DINO,
        Row(("embeddings.cls_token", "embeddings.position_embeddings"), ("encoder.prefix", GRID), prefixed(1, folded=1), ()),
        PROJECTION,
        NORM,
    ],
    left=LEFT,
    requires=BIASES,
    strip=("dinov2.",),
    native=native("dinov2", dinov2),
)
DINOV2_REGISTERS = Family(
    name="DINOv2 with registers",
    kinds=("dinov2_with_registers",),
    encoder=DINO_ENCODER | {"num_register_tokens": Of("num_register_tokens")},
    adapter=PATCHES | {"position_antialias": True},
    processor=processor,
    rows=[
        *DINO,
        Row(
            ("embeddings.cls_token", "embeddings.register_tokens", "embeddings.position_embeddings"),
            ("encoder.prefix", GRID),
            lambda config: prefixed(1, config["num_register_tokens"], folded=1),
            (),
        ),
        PROJECTION,
        NORM,
    ],
    left=LEFT,
    requires=BIASES,
    strip=("dinov2_with_registers.",),
    native=native("dinov2_with_registers", dinov2),
)

DINOV3_TURNED: tuple[How, ...] = (Halves(), Halves(), Same(), Same())
DINOV3_LAYERS = [
    *(
        Row(f"layer.{{n}}.attention.{name}", ours, how)
        for name, ours, how in zip(("q_proj", "k_proj", "v_proj", "o_proj"), ATTENTION, DINOV3_TURNED, strict=True)
    ),
    *(
        Row(f"layer.{{n}}.{name}", ours)
        for name, ours in zip(
            ("norm1", "norm2", "mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"), (*NORMS, UP, DOWN, GATE), strict=True
        )
    ),
    *(Row(f"layer.{{n}}.layer_scale{k}.lambda1", own, parts=()) for k, own in enumerate(SCALES, 1)),
]


def dinov3_mlp(config: Config) -> str:
    act = config["hidden_act"]
    return {"gelu": "geglu", "silu": "swiglu"}[act] if config["use_gated_mlp"] else str(SIZE["mlp"].value(config, "DINOv3"))


DINOV3 = Family(
    name="DINOv3",
    kinds=("dinov3_vit",),
    encoder=SIZE
    | {
        "mlp": dinov3_mlp,
        "layer_scale": Of("layerscale_value"),
        "drop_path_rate": drop_path,
        "num_register_tokens": Of("num_register_tokens"),
        "absolute_positions": False,
        "rotary_share": (0, 0, 1, 1),
        "rotary_base": lambda config: (float(config["rope_theta"]),) * 4,
    },
    adapter={"patch_size": patch, "coordinate_span": 2 * math.pi},
    processor=processor,
    rows=[
        *DINOV3_LAYERS,
        Row(
            ("embeddings.cls_token", "embeddings.register_tokens"),
            "encoder.prefix",
            lambda config: prefixed(1, config["num_register_tokens"], folded=0),
            (),
        ),
        Row("embeddings.patch_embeddings", "adapter.proj", Kernel()),
        Row("norm", "encoder.norm"),
    ],
    left=LEFT,
    strip=("dinov3_vit.",),
    native=native("dinov3_vit", dinov3),
)

CLIP_ENCODER = SIZE | UNPLACED | {"input_norm": True, "final_norm": False}
CLIP_VISION = Family(
    name="CLIP",
    kinds=("clip", "clip_vision_model"),
    encoder=CLIP_ENCODER,
    adapter=PATCHES,
    processor=processor,
    rows=[
        *CLIP,
        Row(
            ("embeddings.class_embedding", "embeddings.position_embedding.weight"),
            ("encoder.prefix", GRID),
            prefixed(1, folded=1),
            (),
        ),
        Row("embeddings.patch_embedding", "adapter.proj", Kernel()),
        Row("pre_layrnorm", "encoder.input_norm"),
    ],
    left=("post_layernorm.*", "visual_projection.*", *LEFT),
    strip=("vision_model.",),
    tower="vision_config",
    native=native("clip_vision_model", plain),
)
SIGLIP_VISION = Family(
    name="SigLIP",
    kinds=("siglip", "siglip_vision_model"),
    encoder=SIZE | UNPLACED | {"cls_token": False},
    adapter=PATCHES,
    processor=processor,
    rows=[
        *CLIP,
        Row("embeddings.position_embedding.weight", ("encoder.prefix", GRID), prefixed(folded=0), ()),
        Row("embeddings.patch_embedding", "adapter.proj", Kernel()),
        Row("post_layernorm", "encoder.norm"),
    ],
    left=LEFT,
    strip=("vision_model.",),
    tower="vision_config",
    native=native("siglip_vision_model", plain),
)


def vision(source: Source) -> dict[str, Any]:
    """The configuration of open_clip's encoder of pictures with its own defaults. ValueError for what is no plain ViT."""
    from open_clip.model import CLIPVisionCfg  # takes most of a second, which only those who use it should wait

    whole = source.json(OPEN_CLIP_CONFIG).get("model_cfg", {})
    given = whole.get("vision_cfg", {})
    found = {field.name: field.default for field in fields(CLIPVisionCfg)} | given
    if isinstance(found["layers"], list | tuple) or found["timm_model_name"]:
        raise ValueError("the encoder of pictures is no ViT of open_clip, but a ResNet or a model of timm")
    named = "quick_gelu" if whole.get("quick_gelu", False) else "gelu"
    return {**found, "act": named, "eps": (found["norm_kwargs"] or {}).get("eps", TORCH_EPS)}


def open_clip_processor(source: Source, config: Config) -> dict[str, Any]:
    """Normalisation and resizing as `open_clip_config.json` says, or as OpenAI's CLIP."""
    found = source.json(OPEN_CLIP_CONFIG).get("preprocess_cfg", {})
    mode = found.get("resize_mode", "shortest")
    if mode not in RESIZE:
        raise ValueError(f"resize_mode={mode!r} in {OPEN_CLIP_CONFIG} is a preprocessing that mmssl lacks")
    return {
        "size": side_of(config["image_size"]),
        "multiple": side_of(config["patch_size"]),
        "resize": RESIZE[mode],
        "resample": str(found.get("interpolation", "bicubic")),
        "mean": list(found.get("mean", OPENAI_MEAN)),
        "std": list(found.get("std", OPENAI_STD)),
    }


TORCH_EPS = 1e-5
"""Epsilon of torch's LayerNorm."""
RESIZE = {"shortest": "crop", "squash": "squash"}
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPEN_CLIP = Family(
    name="open_clip ViT",
    kinds=("open_clip",),
    encoder=UNPLACED
    | {
        "hidden_size": Of("width"),
        "num_hidden_layers": Of("layers"),
        "num_attention_heads": lambda config: config["width"] // config["head_width"],
        "mlp_size": lambda config: int(config["width"] * config["mlp_ratio"]),
        "mlp": Of("act"),
        "norm_eps": Of("eps"),
        "layer_scale": Of("ls_init_value"),
        "input_norm": lambda config: not config["no_ln_pre"],
        "pooling": Of("pool_type", {"tok": "cls", "avg": "mean", "none": "cls"}),
    },
    adapter=PATCHES | {"position_antialias": True},
    processor=open_clip_processor,
    rows=[
        *open_clip("transformer.resblocks"),
        Row(("class_embedding", "positional_embedding"), ("encoder.prefix", GRID), prefixed(1, folded=1), ()),
        Row("conv1", "adapter.proj", Kernel()),
        Row("ln_pre", "encoder.input_norm"),
        Row("ln_post", "encoder.norm"),
    ],
    left=("proj",),
    requires=dict.fromkeys(("attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn", "scale_fc"), (False,))
    | {"pos_embed_type": ("learnable",), "block_type": (None,), "act_kwargs": (None,), "final_ln_after_pool": (False,)},
    strip=("visual.",),
    tower="vision_cfg",
    describe=vision,
)


def timm_vit(source: Source) -> dict[str, Any]:
    """What timm builds for the configuration. ValueError for what is no plain ViT, with the part that is in the way."""
    import timm  # takes most of a second, which only those who use it should wait
    from timm.layers.attention import Attention
    from timm.layers.mlp import Mlp, SwiGLU
    from timm.models.vision_transformer import Block, VisionTransformer

    name, given = str(source.raw["architecture"]), dict(source.raw.get("model_args") or {})
    if name not in timm.list_models():
        raise ValueError(f"timm has no architecture {name!r}")
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, **given | {"num_classes": 0})
    if type(model) is not VisionTransformer:
        raise ValueError(f"the architecture {name!r} of timm is a {type(model).__name__}, no plain ViT")
    block: Any = model.blocks[0]
    parts = {
        "block": (block, Block),
        "attention": (getattr(block, "attn", None), Attention),
        "norm": (model.blocks[0].norm1, nn.LayerNorm),
    }
    for part, (found, wanted) in parts.items():
        if not isinstance(found, wanted):
            raise ValueError(f"the {part} of {name!r}, {type(found).__name__}, is a part that mmssl's encoder cannot express")
    act = block.mlp.act
    kind = next((ours for theirs, ours in TIMM_ACTIVATIONS.items() if type(act).__name__ == theirs), None)
    if isinstance(act, nn.GELU) and act.approximate == "tanh":
        kind = "gelu_tanh"
    if type(block.mlp) is SwiGLU and kind == "silu":
        kind = "swiglu"
    elif type(block.mlp) is not Mlp or kind is None:
        what = f"{type(block.mlp).__name__} with {type(act).__name__}"
        raise ValueError(f"the MLP of {name!r}, {what}, is a part that mmssl's encoder cannot express")
    norms = [block.attn.norm, block.mlp.norm]
    if any(not isinstance(norm, nn.Identity) for norm in norms) or not isinstance(model.norm, nn.LayerNorm | nn.Identity):
        raise ValueError(f"{name!r} has norms inside attention or MLP, a part that mmssl's encoder cannot express")
    scaled, registers = hasattr(block.ls1, "gamma"), 0 if model.reg_token is None else model.reg_token.shape[1]
    prefix = int(model.cls_token is not None) + registers
    return {
        "image_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "num_channels": model.patch_embed.proj.in_channels,
        "width": model.embed_dim,
        "layers": len(model.blocks),
        "heads": block.attn.num_heads,
        "mlp_size": block.mlp.fc2.in_features,
        "mlp": kind,
        "eps": block.norm1.eps,
        "scale": SCALE if scaled else None,
        "cls": model.cls_token is not None,
        "registers": registers,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "qkv_bias": block.attn.qkv.bias is not None,
        "input_norm": not isinstance(model.norm_pre, nn.Identity),
        "final_norm": isinstance(model.norm, nn.LayerNorm),
        "learned": model.pos_embed is not None,
        "folded": 0 if model.no_embed_class else prefix,
        "pooling": {"token": "cls", "avg": "mean"}.get(model.global_pool, "mean"),
    }


def timm_processor(source: Source, config: Config) -> dict[str, Any]:
    """Normalisation, cut and resampling as `pretrained_cfg` says."""
    found = source.raw.get("pretrained_cfg") or {}
    mode = found.get("crop_mode", "center")
    if mode not in TIMM_CROPS:
        raise ValueError(f"crop_mode={mode!r} in pretrained_cfg is a preprocessing that mmssl lacks")
    return {
        "size": side_of(config["image_size"]),
        "multiple": side_of(config["patch_size"]),
        "channels": config["num_channels"],
        "resize": TIMM_CROPS[mode],
        "cut": float(found.get("crop_pct") or 1.0),
        "resample": str(found.get("interpolation") or "bicubic"),
        "mean": list(found.get("mean", (0.5,) * 3)),
        "std": list(found.get("std", (0.5,) * 3)),
    }


def timm_prefix(config: Config) -> Prefixed:
    counts = [count for count in (int(config["cls"]), config["registers"]) if count]
    return Prefixed(tuple(counts), config["folded"])


SCALE = 1e-5
"""Initial value of LayerScale, which says nothing where the weights are given."""
TIMM_CROPS = {"center": "crop", "squash": "squash"}
TIMM_ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu", "ReLU": "relu"}
TIMM = Family(
    name="timm ViT",
    kinds=("timm",),
    encoder=UNPLACED
    | {
        "hidden_size": Of("width"),
        "num_hidden_layers": Of("layers"),
        "num_attention_heads": Of("heads"),
        "mlp_size": Of("mlp_size"),
        "mlp": Of("mlp"),
        "norm_eps": Of("eps"),
        "layer_scale": Of("scale"),
        "cls_token": Of("cls"),
        "num_register_tokens": Of("registers"),
        "qk_norm": Of("qk_norm"),
        "input_norm": Of("input_norm"),
        "final_norm": Of("final_norm"),
        "pooling": Of("pooling"),
    },
    adapter={
        "patch_size": patch,
        "learned_positions": lambda config: grid(config) if config["learned"] else None,
        "position_antialias": True,
    },
    processor=timm_processor,
    rows=[
        Row("blocks.{n}.attn.qkv", ATTENTION[:3], THREE),
        *pairs(
            "blocks.{n}",
            ("attn.proj", "mlp.fc1", "mlp.fc1_x", "mlp.fc1_g", "mlp.fc2", "norm1", "norm2"),
            (ATTENTION[3], UP, UP, GATE, DOWN, *NORMS),
        ),
        *pairs("blocks.{n}.attn", ("q_norm", "k_norm"), tuple(f"{LAYER}.attention.{name}" for name in ("q_norm", "k_norm"))),
        *(Row(f"blocks.{{n}}.ls{k}.gamma", own, parts=()) for k, own in enumerate(SCALES, 1)),
        Row(("cls_token", "reg_token", "pos_embed"), ("encoder.prefix", GRID), timm_prefix, ()),
        Row("patch_embed.proj", "adapter.proj", Kernel()),
        Row("norm_pre", "encoder.input_norm"),
        Row("norm", "encoder.norm"),
    ],
    left=("fc_norm.*", "head.*", "attn_pool.*"),
    describe=timm_vit,
)

FAMILIES = (VIT_FAMILY, DEIT, DINOV2, DINOV2_REGISTERS, DINOV3, IJEPA, CLIP_VISION, SIGLIP_VISION, OPEN_CLIP, TIMM)

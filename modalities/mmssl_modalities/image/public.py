"""Public encoders of pictures in terms of mmssl's encoder and of `ImageAdapter`."""

import math
from collections.abc import Mapping
from typing import Any

from mmssl.model.public.layers import ATTENTION, CLIP, DINO, DOWN, GATE, NORMS, SCALES, SIZE, UNPLACED, UP, VIT
from mmssl.model.public.source import Source
from mmssl.model.public.table import Config, Family, Of, Row
from mmssl.model.public.weights import Halves, Kernel, Prefixed, Same

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
        raise ValueError(f"{PREPROCESSOR}: pictures are resampled by {RESAMPLE.get(filter_, filter_)}; mmssl has bilinear and bicubic")
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
)
IJEPA = Family(
    name="I-JEPA",
    kinds=("ijepa",),
    encoder=VIT_ENCODER | {"cls_token": False},
    adapter=PATCHES,
    processor=processor,
    rows=[*VIT, Row("embeddings.position_embeddings", GRID, prefixed(folded=0), ()), PROJECTION, NORM],
    left=LEFT,
    requires=BIASES,
    strip=("ijepa.",),
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
)

DINOV3_LAYERS = [
    *(
        Row(f"layer.{{n}}.attention.{name}", ours, how)
        for name, ours, how in zip(
            ("q_proj", "k_proj", "v_proj", "o_proj"), ATTENTION, (Halves(), Halves(), Same(), Same()), strict=True
        )
    ),
    *(
        Row(f"layer.{{n}}.{name}", ours)
        for name, ours in zip(("norm1", "norm2", "mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"), (*NORMS, UP, DOWN, GATE), strict=True)
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
)
SIGLIP_VISION = Family(
    name="SigLIP",
    kinds=("siglip", "siglip_vision_model"),
    encoder=SIZE | UNPLACED | {"cls_token": False},
    adapter=PATCHES,
    processor=processor,
    rows=[
        *CLIP,
        Row("embeddings.position_embedding.weight", GRID, prefixed(folded=0), ()),
        Row("embeddings.patch_embedding", "adapter.proj", Kernel()),
        Row("post_layernorm", "encoder.norm"),
    ],
    left=LEFT,
    strip=("vision_model.",),
    tower="vision_config",
)

FAMILIES = (VIT_FAMILY, DEIT, DINOV2, DINOV2_REGISTERS, DINOV3, IJEPA, CLIP_VISION, SIGLIP_VISION)

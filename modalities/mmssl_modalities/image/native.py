"""The way back from a model of pictures to stock classes of transformers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, BitImageProcessor, ViTImageProcessor

from mmssl.model.public.layers import ACTIVATIONS
from mmssl.model.public.table import Config, Native, Ours

FILTERS = {"bilinear": 2, "bicubic": 3}
"""Pillow's numbers."""


def rescaled_side(processor: Mapping[str, Any]) -> int:
    """The shorter side to which pictures are resized before their middle is cut out."""
    return round(processor["size"] / processor["cut"])


def serve(folder: Path, ours: Ours, config: Config) -> None:
    """`preprocessor_config.json`: resized, cut and normalised as our processor does."""
    own = ours.processor
    mean, std = ([value] * own["channels"] if isinstance(value, float | int) else value for value in (own["mean"], own["std"]))
    common = {"image_mean": mean, "image_std": std, "resample": FILTERS[own["resample"]]}
    if own["size"] is None:  # named as a difference, as no stock processor keeps the sizes of pictures
        ViTImageProcessor(**common, size={"height": config["image_size"], "width": config["image_size"]}).save_pretrained(folder)
    elif own["resize"] == "squash":
        ViTImageProcessor(**common, size={"height": own["size"], "width": own["size"]}).save_pretrained(folder)
    else:
        side = {"height": own["size"], "width": own["size"]}
        cut = {"size": {"shortest_edge": rescaled_side(own)}, "crop_size": side, "do_center_crop": True}
        BitImageProcessor(**common, **cut).save_pretrained(folder)


def samples(ours: Ours) -> list[Any]:
    """Pictures of noise that need no resizing: two implementations of a filter differ in rounding."""
    own = ours.processor
    side = rescaled_side(own) if own["resize"] == "crop" else own["size"]
    shape = (2, side, side) if own["channels"] == 1 else (2, side, side, own["channels"])
    noise = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return [Image.fromarray(each) for each in noise.numpy()] if own["channels"] == 3 else list(noise.numpy())


@torch.no_grad()
def run(folder: Path, raws: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Tokens of pictures, all of them real."""
    grey = {"input_data_format": "channels_last"}
    pictures = [raw if isinstance(raw, Image.Image) else raw.reshape(*raw.shape[:2], -1) for raw in raws]
    options = {} if isinstance(pictures[0], Image.Image) else grey
    inputs = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)(list(pictures), return_tensors="pt", **options)
    tokens = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()(**inputs).last_hidden_state
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)


def sizes(ours: Ours) -> dict[str, Any]:
    """Sides of pictures and patches, in pixels."""
    patch, grid = ours.adapter["patch_size"], ours.adapter["learned_positions"]
    side = ours.processor["size"] or ours.processor["multiple"]
    return {"image_size": grid[0] * patch if grid else side, "patch_size": patch, "num_channels": ours.processor["channels"]}


def activation(ours: Ours) -> dict[str, Any]:
    """The name of the activation, where transformers has it."""
    mlp = {"swiglu": "silu", "geglu": "gelu"}.get(ours.encoder["mlp"], ours.encoder["mlp"])
    return {"hidden_act": next(name for name, own in ACTIVATIONS.items() if own == mlp)}


def plain(ours: Ours) -> dict[str, Any]:
    """ViT, DeiT and I-JEPA."""
    return sizes(ours)


def vit(ours: Ours) -> dict[str, Any]:
    """ViT, whose pooler is written as a map that changes nothing."""
    return sizes(ours) | {"pooler_act": "linear"}


def dinov2(ours: Ours) -> dict[str, Any]:
    """DINOv2; of a gated MLP the ratio of which two thirds are its width."""
    width, mlp, gated = ours.encoder["hidden_size"], ours.encoder["mlp_size"], ours.encoder["mlp"] == "swiglu"
    made = {ratio: (int(width * ratio * 2 / 3) + 7) // 8 * 8 if gated else width * ratio for ratio in range(1, 17)}
    ratio = next((ratio for ratio, size in made.items() if size == mlp), 4)
    return sizes(ours) | activation(ours) | {"mlp_ratio": ratio, "use_swiglu_ffn": gated} | depth(ours)


def depth(ours: Ours) -> dict[str, Any]:
    return {"drop_path_rate": float(ours.encoder["drop_path_rate"])}


def dinov3(ours: Ours) -> dict[str, Any]:
    """DINOv3, with biases wherever ours has them."""
    gated = ours.encoder["mlp"] in ("swiglu", "geglu")
    rotary = {"rope_theta": float(ours.encoder["rotary_base"][2]), "key_bias": True, "use_gated_mlp": gated}
    return sizes(ours) | activation(ours) | depth(ours) | rotary


FREE = frozenset({"multiple", "max_pixels", "enlarge", "channel_names"})
"""Keys of the processor that change nothing where pictures are resized to one size."""


def native(kind: str, config: Callable[[Ours], Mapping[str, Any]]) -> Native:
    """The way back to a class of transformers."""
    return Native(kind, config, serve, samples, run, FREE)

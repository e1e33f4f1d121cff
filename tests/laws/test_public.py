"""Laws of public encoders: random small models of transformers give the same, element by element, after they are brought in."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from mmssl.model import load_model
from mmssl.model.public import is_public, open_public

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 80}
PICTURES = SMALL | {"image_size": 32, "patch_size": 8}
CLOSE = {"rtol": 0.0, "atol": 1e-4}

IMAGES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "vit": (hf.ViTConfig, hf.ViTModel, PICTURES),
    "deit": (hf.DeiTConfig, hf.DeiTModel, PICTURES),
    "ijepa": (hf.IJepaConfig, hf.IJepaModel, PICTURES),
    "dinov2": (hf.Dinov2Config, hf.Dinov2Model, PICTURES | {"layerscale_value": 0.3}),
    "dinov2_gated": (hf.Dinov2Config, hf.Dinov2Model, PICTURES | {"use_swiglu_ffn": True}),
    "dinov2_registers": (hf.Dinov2WithRegistersConfig, hf.Dinov2WithRegistersModel, PICTURES | {"num_register_tokens": 3}),
    "dinov3": (hf.DINOv3ViTConfig, hf.DINOv3ViTModel, PICTURES | {"num_register_tokens": 2, "layerscale_value": 0.5}),
    "dinov3_gated": (hf.DINOv3ViTConfig, hf.DINOv3ViTModel, PICTURES | {"use_gated_mlp": True, "hidden_act": "silu"}),
    "clip": (hf.CLIPVisionConfig, hf.CLIPVisionModel, PICTURES),
    "siglip": (hf.SiglipVisionConfig, hf.SiglipVisionModel, PICTURES),
}
RESIZED = {"interpolate_pos_encoding": True}
"""What these families of transformers need to be told to take pictures of another size."""
TOLD = ("vit", "deit", "ijepa", "clip", "siglip")


def drawn(model: Any) -> Any:
    """The model with weights that are large enough to show every difference, norms and biases included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1) * 0.5)
    return model.eval()


def saved(name: str, folder: Path) -> Any:
    config, kind, settings = IMAGES[name]
    model = drawn(kind(config(**settings)))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (16, 40)])
@pytest.mark.parametrize("name", IMAGES)
def test_pictures_of_any_size_become_the_same(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = saved(name, tmp_path)
    assert is_public(str(tmp_path))
    ours = load_model(str(tmp_path)).eval()
    pixels = torch.randn(2, 3, *size)
    options = RESIZED if name in TOLD else {}
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels, **options).last_hidden_state
        found = ours(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("name", IMAGES)
def test_padded_pictures_are_each_as_alone(name: str, tmp_path: Path) -> None:
    theirs = saved(name, tmp_path)
    ours = load_model(str(tmp_path)).eval()
    sizes = [(32, 32), (24, 48), (40, 16)]
    pictures = [torch.randn(3, *size) for size in sizes]
    padded = torch.zeros(3, 3, 40, 48)
    for row, picture in zip(padded, pictures, strict=True):
        row[:, : picture.shape[1], : picture.shape[2]] = picture
    options = RESIZED if name in TOLD else {}
    with torch.no_grad():
        found = ours(pixel_values=padded, pixel_sizes=torch.tensor(sizes)).last_hidden_state
        prefix = ours.encoder.num_prefix
        for row, picture, (height, width) in zip(found, pictures, sizes, strict=True):
            grid = row[prefix:].unflatten(0, (5, 6))[: height // 8, : width // 8].flatten(0, 1)
            alone: Tensor = theirs(pixel_values=picture[None], **options).last_hidden_state[0]
            torch.testing.assert_close(torch.cat([row[:prefix], grid]), alone, **CLOSE)

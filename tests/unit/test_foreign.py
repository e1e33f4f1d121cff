"""Public encoders of pictures as frozen second networks."""

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from mmssl.model.heads import Head
from mmssl.objectives import Distill, Setup
from mmssl.objectives.agree.agree import TeacherOptions
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.foreign import load_foreign
from mmssl.objectives.views import Views
from mmssl.testing import batch_of, small_model, small_processor

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SHAPE = SMALL | {"image_size": 32}
TEXT = SMALL | {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 8}
MADE = {
    "vit": lambda: ViTModel(ViTConfig(**SHAPE, patch_size=16)),
    "vit without pooler": lambda: ViTModel(ViTConfig(**SHAPE, patch_size=16), add_pooling_layer=False),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SHAPE, patch_size=8)),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, patch_size=8)),
    "the tower of clip": lambda: CLIPModel(CLIPConfig(vision_config=SHAPE | {"patch_size": 8}, text_config=TEXT)),
    "the tower of siglip": lambda: SiglipModel(SiglipConfig(vision_config=SHAPE | {"patch_size": 8}, text_config=TEXT)),
}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def save(kind: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = MADE[kind]().eval()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", MADE)
def test_values_are_those_of_the_model_itself(kind: str, tmp_path: Path) -> None:
    model, pictures = save(kind, tmp_path), torch.rand(3, 3, 32, 32)
    pixels = (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        found = (model.vision_model if kind.startswith("the tower") else model)(pixel_values=pixels)
    expected = found.last_hidden_state[:, 0] if kind == "vit without pooler" else found.pooler_output
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(load_foreign(str(tmp_path))([*pictures]), expected, rtol=1e-5, atol=1e-5)
    assert load_foreign(str(tmp_path), 64)([*pictures]).shape == (3, 16), "pictures of another size"


def test_the_student_learns_what_a_public_model_sees(tmp_path: Path) -> None:
    """Values and gradients of the objective, against the formula on pictures as they were before any normalisation."""
    save("dinov2", tmp_path)
    model, processor = small_model("image"), small_processor("image")
    objective = Distill(
        model,
        Setup(views={"image": {"global": Views(1)}}),
        losses=[AGREEMENTS["distance"]()],
        projector=Head(layers=1, size=16, norm="none"),
        teacher=TeacherOptions(model=str(tmp_path)),
        mask=None,
    ).train()
    batch = batch_of("image", 4)
    terms = objective(batch)
    terms.loss.backward()
    trained = {name for name, each in objective.named_parameters() if each.grad is not None}
    assert trained and not any("copies" in name for name in trained)
    scale, offset = (torch.as_tensor(each).reshape(-1, 1, 1) for each in (processor.scale, processor.offset))
    sizes = batch.inputs["image"]["pixel_sizes"].tolist()
    assert len({*map(tuple, sizes)}) > 1
    raw = [
        ((each - offset) / scale)[:, :height, :width].clamp(0, 1)
        for each, (height, width) in zip(batch.inputs["image"]["pixel_values"], sizes, strict=True)
    ]
    teacher = load_foreign(str(tmp_path))
    with torch.no_grad():
        theirs = teacher(raw)
        mine = objective.heads[f"{objective.place}projector"]["image"](model.pool(model.encode("image", batch.inputs["image"])))
    similar = torch.nn.functional.cosine_similarity(mine, theirs)
    assert_close(terms.loss.detach(), (2 - 2 * similar).mean(), rtol=1e-4, atol=1e-5)


def test_a_model_of_open_clip(tmp_path: Path) -> None:
    tower = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "tiny-open.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": tower, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny-open.json")
    model = open_clip.create_model("tiny-open").eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    pictures = torch.rand(2, 3, 32, 32)
    shown = open_clip.get_model_preprocess_cfg(model)
    pixels = (pictures - torch.tensor(shown["mean"])[:, None, None]) / torch.tensor(shown["std"])[:, None, None]
    with torch.no_grad():
        expected = model.encode_image(pixels)
    assert_close(
        load_foreign(f"open_clip:tiny-open/{tmp_path / 'weights.safetensors'}")([*pictures]), expected, rtol=1e-5, atol=1e-5
    )


def bert(folder: Path) -> str:
    BertModel(BertConfig(**SMALL, vocab_size=20)).save_pretrained(folder)
    return str(folder)


def pickled(folder: Path) -> str:
    model = save("vit", folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


def holed(folder: Path) -> str:
    model = save("vit", folder)
    state = {name: value for name, value in model.state_dict().items() if not re.search(r"layers?[.]1[.]", name)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


BAD = {
    "no such open_clip model": (
        lambda _: "open_clip:ViT-B-33/openai",
        ValueError,
        "open_clip has no model 'ViT-B-33'; did you mean",
    ),
    "no such weights": (lambda _: "open_clip:ViT-B-32/opanai", ValueError, "no weights 'opanai' for ViT-B-32; did you mean openai"),
    "pickled weights of open_clip": (
        lambda folder: f"open_clip:ViT-B-32/{pickled(folder)}/pytorch_model.bin",
        ValueError,
        "weights are read from .safetensors files alone",
    ),
    "a model of texts": (bert, ValueError, "(bert) reads input_ids; a public model must be an encoder of pictures"),
    "pickled weights": (pickled, OSError, "model.safetensors"),
    "weights are missing": (holed, ValueError, "weights of its encoder, such as"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_models_are_refused(case: str, tmp_path: Path) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=re.escape(message)):
        load_foreign(make(tmp_path))


def test_what_a_public_model_cannot_follow_is_refused(tmp_path: Path) -> None:
    save("vit", tmp_path)
    options = TeacherOptions(model=str(tmp_path))
    with pytest.raises(ValueError, match=r"sees pictures, which samples of text are not"):
        Distill(small_model("text"), Setup(), losses=[AGREEMENTS["distance"]()], teacher=options, mask=None)
    with pytest.raises(ValueError, match=r"Gram compares tokens, of which .* gives none; use distance"):
        Distill(small_model("image"), Setup(), losses=[AGREEMENTS["gram"]()], teacher=options, mask=None)

"""Laws of public encoders: random small models of transformers give the same, element by element, after they are brought in."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import timm
import tokenizers
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


WORDS = {"vocab_size": 40, "max_position_embeddings": 20}
TEXTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (hf.BertConfig, hf.BertModel, SMALL | WORDS | {"hidden_act": "gelu"}),
    "bert_relu": (hf.BertConfig, hf.BertForMaskedLM, SMALL | WORDS | {"hidden_act": "relu"}),
    "roberta": (hf.RobertaConfig, hf.RobertaModel, SMALL | WORDS | {"pad_token_id": 1}),
    "electra": (hf.ElectraConfig, hf.ElectraModel, SMALL | WORDS | {"embedding_size": 48}),
    "distilbert": (
        hf.DistilBertConfig,
        hf.DistilBertModel,
        WORDS | {"dim": 48, "n_layers": 3, "n_heads": 3, "hidden_dim": 80},
    ),
    "modernbert": (
        hf.ModernBertConfig,
        hf.ModernBertModel,
        SMALL
        | WORDS
        | {"num_hidden_layers": 5, "global_attn_every_n_layers": 2, "local_attention": 6, "pad_token_id": 0}
        | {f"{name}_token_id": None for name in ("bos", "eos", "cls", "sep")},
    ),
    "clip": (hf.CLIPTextConfig, hf.CLIPTextModel, SMALL | WORDS | {"bos_token_id": 2, "eos_token_id": 3}),
    "siglip": (hf.SiglipTextConfig, hf.SiglipTextModel, SMALL | WORDS | {"bos_token_id": None, "eos_token_id": 3}),
}


def tokenizer(folder: Path) -> None:
    """A tokenizer of 30 words with special tokens around a text."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(ord("a") + i) for i in range(26))]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def saved_text(name: str, folder: Path) -> Any:
    config, kind, settings = TEXTS[name]
    model = drawn(kind(config(**settings)))
    model.save_pretrained(folder)
    tokenizer(folder)
    return getattr(model, model.base_model_prefix) if hasattr(model, "lm_head") or hasattr(model, "cls") else model


SENTENCES = ["a b c d e f g h i j k l m", "z y", "q r s t u v"]


@pytest.mark.parametrize("name", TEXTS)
def test_padded_texts_become_the_same(name: str, tmp_path: Path) -> None:
    theirs = saved_text(name, tmp_path)
    ours = load_model(str(tmp_path)).eval()
    inputs = open_public(str(tmp_path)).processor()(text=SENTENCES)
    shown = hf.AutoTokenizer.from_pretrained(tmp_path)
    if name == "siglip":  # it was trained on texts that are filled up with tokens which attention sees
        pad = theirs.config.pad_token_id
        ids = [shown(sentence)["input_ids"] for sentence in SENTENCES]
        batch = {"input_ids": torch.tensor([each + [pad] * (20 - len(each)) for each in ids])}
    else:
        batch = shown(SENTENCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        wanted = theirs(**batch).last_hidden_state
        found = ours(**inputs).last_hidden_state
    there = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones(wanted.shape[:2], dtype=torch.bool)
    assert torch.equal(inputs["input_ids"][there], batch["input_ids"][there])
    torch.testing.assert_close(found[there], wanted[there], **CLOSE)


@pytest.mark.parametrize("strides", [(10, 10), (16, 16), (6, 9)])
def test_sounds_become_the_same(strides: tuple[int, int], tmp_path: Path) -> None:
    settings = SMALL | {"max_length": 64, "num_mel_bins": 32, "frequency_stride": strides[0], "time_stride": strides[1]}
    theirs = drawn(hf.ASTModel(hf.ASTConfig(**settings)))
    theirs.save_pretrained(tmp_path)
    extractor = hf.ASTFeatureExtractor(max_length=64, num_mel_bins=32)
    extractor.save_pretrained(tmp_path)
    ours, processor = load_model(str(tmp_path)).eval(), open_public(str(tmp_path)).processor()
    sounds = [torch.randn(6000).numpy(), torch.randn(10480).numpy()]
    shown = extractor(sounds, sampling_rate=16000, return_tensors="pt").input_values
    inputs = processor(audio=[{"array": sound, "sampling_rate": 16000} for sound in sounds])
    with torch.no_grad():
        wanted = theirs(input_values=shown).last_hidden_state
        found = ours(**inputs).last_hidden_state
    rows, columns = (32 - 16) // strides[0] + 1, (64 - 16) // strides[1] + 1
    body = wanted[:, 2:].unflatten(1, (rows, columns)).transpose(1, 2).flatten(1, 2)  # ours run through time first
    torch.testing.assert_close(inputs["input_features"].flatten(1, 3), shown, rtol=0, atol=1e-3)
    torch.testing.assert_close(found, torch.cat([wanted[:, :2], body], 1), rtol=0, atol=1e-3)
    with torch.no_grad():
        same = ours(input_features=shown.unflatten(1, (4, 1, 16))).last_hidden_state
    torch.testing.assert_close(same, torch.cat([wanted[:, :2], body], 1), **CLOSE)


TIMM: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1},
    "pre_norm": {"pre_norm": True, "qk_norm": True, "class_token": False, "global_pool": "avg"},
    "no_bias": {"qkv_bias": False},
}


@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
@pytest.mark.parametrize("name", TIMM)
def test_vits_of_timm_become_the_same(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "dynamic_img_size": True}
    theirs = drawn(timm.create_model("vit_tiny_patch16_224", num_classes=0, **small | TIMM[name]))
    timm.models.save_for_hf(theirs, tmp_path, model_args=small | TIMM[name], safe_serialization=True)
    ours = load_model(str(tmp_path)).eval()
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixel_values=pixels).last_hidden_state, theirs.forward_features(pixels), **CLOSE)


@pytest.mark.parametrize("quick", [False, True])
def test_both_encoders_of_open_clip_become_the_same(quick: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "embed_dim": 32,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "ls_init_value": 0.1},
        "text_cfg": {"context_length": 16, "vocab_size": 50, "width": 48, "heads": 3, "layers": 2},
    }
    theirs = drawn(open_clip.model.CLIP(**settings, output_dict=False))
    safetensors.torch.save_model(theirs, str(tmp_path / "open_clip_model.safetensors"))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    tokenizer(tmp_path)
    with pytest.raises(ValueError, match="name one of these modalities"):
        load_model(str(tmp_path))
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.randint(0, 50, (2, 16))
    theirs.visual.output_tokens = True
    with torch.no_grad():
        x = theirs.transformer(theirs.token_embedding(ids) + theirs.positional_embedding, attn_mask=theirs.attn_mask)
        found = load_model(str(tmp_path), wanted=["image"]).eval()(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(found[:, 1:], theirs.visual(pixels)[1], **CLOSE)
        found = load_model(str(tmp_path), wanted=["text"]).eval()(input_ids=ids).last_hidden_state
        torch.testing.assert_close(found, theirs.ln_final(x), **CLOSE)


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    hf.ViTModel(hf.ViTConfig(**PICTURES, qkv_bias=False)).save_pretrained(tmp_path / "bias")
    with pytest.raises(ValueError, match="qkv_bias=False of this ViT is a part that mmssl's encoder cannot express"):
        load_model(str(tmp_path / "bias"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "mpnet"}))
    with pytest.raises(ValueError, match="cannot read encoders of the kind 'mpnet'"):
        load_model(str(tmp_path / "other"))
    saved("vit", tmp_path / "pickle")
    (tmp_path / "pickle" / "model.safetensors").rename(tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin alone, a pickle"):
        load_model(str(tmp_path / "pickle"))
    saved("dinov2", tmp_path / "less")
    file = tmp_path / "less" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: w for name, w in weights.items() if "layer.1.norm2" not in name}, file)
    with pytest.raises(ValueError, match=r"lacks weights of its encoder: encoder\.layers\.1\.norm2\.weight"):
        load_model(str(tmp_path / "less"))


def test_notes_say_what_was_mapped_and_what_was_left(tmp_path: Path) -> None:
    saved("dinov3", tmp_path)
    mapped, left, new = open_public(str(tmp_path)).notes
    assert "is a DINOv3" in mapped
    assert left == "init: left behind: embeddings.mask_token"
    assert new.startswith("init: new, and zero as the original has none: encoder.layers.0.attention.k_proj.bias")

"""Laws of native models: what was brought in goes out again, and recipes with the right settings make stock models."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers as hf

import mmssl_cli as cli
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel, load_model
from mmssl.model.public.bring import families
from mmssl.processor import MMSSLProcessor
from mmssl.publish import export_native, fresh

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 80}
WORDS = SMALL | {"vocab_size": 40, "max_position_embeddings": 24}
PICTURES = SMALL | {"image_size": 32, "patch_size": 8}
SPECIAL = {f"{name}_token_id": None for name in ("bos", "eos", "cls", "sep")}
STOCK: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "vit": (hf.ViTConfig, hf.ViTModel, PICTURES),
    "deit": (hf.DeiTConfig, hf.DeiTModel, PICTURES),
    "ijepa": (hf.IJepaConfig, hf.IJepaModel, PICTURES),
    "dinov2": (hf.Dinov2Config, hf.Dinov2Model, PICTURES | {"use_swiglu_ffn": True}),
    "dinov2_with_registers": (hf.Dinov2WithRegistersConfig, hf.Dinov2WithRegistersModel, PICTURES | {"num_register_tokens": 3}),
    "dinov3_vit": (hf.DINOv3ViTConfig, hf.DINOv3ViTModel, PICTURES | {"num_register_tokens": 2, "layerscale_value": 0.5}),
    "clip_vision_model": (hf.CLIPVisionConfig, hf.CLIPVisionModel, PICTURES),
    "siglip_vision_model": (hf.SiglipVisionConfig, hf.SiglipVisionModel, PICTURES),
    "bert": (hf.BertConfig, hf.BertModel, WORDS),
    "electra": (hf.ElectraConfig, hf.ElectraModel, WORDS | {"embedding_size": 48}),
    "distilbert": (
        hf.DistilBertConfig,
        hf.DistilBertModel,
        {"vocab_size": 40, "max_position_embeddings": 24, "dim": 48, "n_layers": 3, "n_heads": 3, "hidden_dim": 80},
    ),
    "modernbert": (
        hf.ModernBertConfig,
        hf.ModernBertModel,
        WORDS | {"num_hidden_layers": 5, "global_attn_every_n_layers": 2, "local_attention": 6, "pad_token_id": 0} | SPECIAL,
    ),
    "clip_text_model": (hf.CLIPTextConfig, hf.CLIPTextModel, WORDS | {"bos_token_id": 2, "eos_token_id": 3}),
    "siglip_text_model": (hf.SiglipTextConfig, hf.SiglipTextModel, WORDS | {"bos_token_id": None, "eos_token_id": 3}),
    "audio-spectrogram-transformer": (
        hf.ASTConfig,
        hf.ASTModel,
        SMALL | {"max_length": 64, "num_mel_bins": 32, "frequency_stride": 10, "time_stride": 10},
    ),
}
"""A small model of each class, by its `model_type`."""


def spread(model: Any) -> Any:
    """The model with weights that are large enough to show every difference."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1) * 0.5)
    return model.eval()


def write_tokenizer(folder: Path) -> None:
    """Words of one letter, with special tokens around a text."""
    import tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "The", "cook", "likes", "the", "sea", *(chr(ord("a") + i) for i in range(26))]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def test_every_class_of_transformers_is_tried() -> None:
    assert set(STOCK) == {family.native.kind for _, family in families() if family.native is not None}
    assert {family.name for _, family in families() if family.native is None} == {"open_clip ViT", "timm ViT"}


@pytest.mark.parametrize("kind", STOCK)
def test_what_is_brought_in_goes_out_again(kind: str, tmp_path: Path) -> None:
    config, model, settings = STOCK[kind]
    spread(model(config(**settings))).save_pretrained(tmp_path / "theirs")
    write_tokenizer(tmp_path / "theirs")
    if "audio" in kind:
        hf.ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(tmp_path / "theirs")
    done = export_native(str(tmp_path / "theirs"), tmp_path / "again", kind)
    assert done.difference is not None and done.difference <= 1e-4
    old, new = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    assert old.keys() <= new.keys() | {name for name in old if "pooler" in name}
    same = [name for name in old if name in new and old[name].shape == new[name].shape and torch.equal(old[name], new[name])]
    assert len([name for name in same if ".2." in name]) >= 6, "a layer's weights come back bit by bit"
    ours, back = (load_model(str(tmp_path / name)).state_dict() for name in ("theirs", "again"))
    for name, value in ours.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


PLAIN = {"absolute_positions": False, "rotary_positions": False}
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
POST = {"cls_token": False, "norm_order": "post", "input_norm": True, "final_norm": False}
RECIPES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "ViT": ("image", {"size": 32}, {"patch_size": 8, "learned_positions": [4, 4]}, PLAIN | {"pooling": "cls"}),
    "DINOv2": (
        "image",
        {"size": 32, "resize": "squash"},
        {"patch_size": 8, "learned_positions": [4, 4]},
        PLAIN | {"layer_scale": 1e-5, "mlp": "swiglu"},
    ),
    "BERT": ("text", {"tokenizer": "bpe", "max_tokens": 64}, {"norm": False, "learned_positions": 64}, PLAIN | POST),
    "ModernBERT": (
        "text",
        {},
        {"norm": False},
        {"cls_token": False, "input_norm": True, "first_norm": False, "absolute_positions": False, "rotary_share": (1, 0, 0, 0)}
        | {"attention_window": 4, "global_every": 2, "mlp": "geglu", "local_rotary_base": 100.0},
    ),
    "AST": (
        "audio",
        {"fill_frames": 64, "max_seconds": 0.655, "mel_bins": 32},
        {"stride": [10, 10], "learned_positions": [5, 2]},
        PLAIN | {"num_register_tokens": 1},
    ),
}
"""By the name of a class a modality, keys of its processor and adapter, and of the encoder, as a recipe has them."""


def trained(name: str, folder: Path, **other: Any) -> Path:
    """The folder of a model with the settings of a recipe."""
    modality, processor, adapter, encoder = RECIPES[name]
    made = find(modality).processor(**processor)
    if not made.fitted:
        made.fit(iter(find(modality).example(16, 1)))
    torch.manual_seed(0)
    modalities = {modality: {"processor": made.settings(), "adapter": adapter}}
    model = spread(MMSSLModel(MMSSLConfig(modalities=modalities, **SIZE | encoder | other)))
    model.save_pretrained(folder)
    MMSSLProcessor({modality: made}).save_pretrained(folder)
    return folder


ALONE = """
import json, runpy, sys
import numpy as np, torch
from safetensors.torch import save_file
sys.meta_path.insert(0, runpy.run_path(sys.argv[1])["NoMmssl"]())
import transformers as hf
place, found = sys.argv[2], {}
picture = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
sound = np.sin(np.arange(8000) / 9).astype(np.float32)
for name, kind in json.loads(sys.argv[3]).items():
    folder = f"{place}/{name}-native"
    model, loading = hf.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    if kind == "image":
        inputs = hf.AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
    elif kind == "audio":
        inputs = hf.AutoFeatureExtractor.from_pretrained(folder)(sound, sampling_rate=16000, return_tensors="pt")
    else:
        inputs = hf.AutoTokenizer.from_pretrained(folder)("the cook likes Lima", return_tensors="pt")
    with torch.no_grad():
        out = model.eval()(**inputs)
    found[name] = out.last_hidden_state[:, 2 if kind == "audio" else 0 if kind == "text" else 1:].mean(1)
    if name == "ViT":
        found["pooler"] = out.pooler_output
save_file({name: value.contiguous() for name, value in found.items()}, f"{place}/out.safetensors")
assert not [name for name in sys.modules if name.split(".")[0].startswith("mmssl")]
"""


def test_recipes_with_the_right_settings_load_without_mmssl(tmp_path: Path) -> None:
    for name in RECIPES:
        cli.main(["export", str(trained(name, tmp_path / name)), "--native", str(tmp_path / f"{name}-native")])
    kinds = {name: modality for name, (modality, *_) in RECIPES.items()}
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, "-I", str(tmp_path / "alone.py"), str(fresh.__file__), str(tmp_path), json.dumps(kinds)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    samples = {
        "image": np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3),
        "audio": {"array": np.sin(np.arange(8000) / 9).astype(np.float32), "sampling_rate": 16000},
        "text": "the cook likes Lima",
    }
    for name, modality in kinds.items():
        model, processor = load_model(tmp_path / name).eval(), MMSSLProcessor.from_pretrained(tmp_path / name)
        with torch.no_grad():
            out = model(**processor(**{find(modality).keyword: [samples[modality]]}))
        body = out.last_hidden_state[:, model.encoder.num_prefix :].mean(1)
        torch.testing.assert_close(found[name], body, rtol=0, atol=1e-4)
        if name == "ViT":
            torch.testing.assert_close(found["pooler"], out.pooler_output, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("ViT", {"rotary_positions": True}, "encoder.rotary_positions is true and would have to be false"),
        ("ViT", {"qk_norm": True}, "encoder.qk_norm is true and would have to be false"),
        ("BERT", {"norm": "rmsnorm"}, "encoder.norm is rmsnorm and would have to be layernorm"),
        ("AST", {"num_register_tokens": 0}, "encoder.num_register_tokens is 0 and would have to be 1"),
    ],
)
def test_a_setting_in_the_way_is_named(name: str, changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder = trained(name, tmp_path / "model", **changes)
    with pytest.raises(SystemExit, match=told):
        cli.main(["export", str(folder), "--native", str(tmp_path / "native")])
    assert not (tmp_path / "native").exists()

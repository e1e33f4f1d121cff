"""Public encoders go on learning through adapters, with labels and without, and come back whole from the PEFT folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertModel, BertTokenizerFast, BitImageProcessor, Dinov2Config, Dinov2Model

import mmssl
from mmssl import MMSSLProcessor
from mmssl.model import load_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "sleeps"]


def dinov2(folder: Path) -> str:
    config = Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    return str(folder)


def bert(folder: Path) -> str:
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **shape)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def rows(modality: str) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    if modality == "image":
        samples = list(draw.integers(0, 255, (16, 60, 60, 3), dtype=np.uint8))
    else:
        samples = [" ".join(draw.choice(WORDS[5:], 9)) for _ in range(16)]
    return [{modality: sample, "label": "ab"[number % 2]} for number, sample in enumerate(samples)]


@pytest.mark.parametrize(
    ("modality", "make", "without_labels"),
    [
        ("image", dinov2, {"name": "distill", "publish": "student"}),
        ("text", bert, {"name": "masked"}),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_adapters_in_a_public_model(
    modality: str, make: Any, without_labels: dict[str, Any], labelled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    public = make(tmp_path / "public")
    recipe: dict[str, Any] = {
        "modalities": {modality: {}},
        "init": public,
        "objective": {"name": "supervised"} if labelled else without_labels,
        "peft": {"name": "lora", "rank": 2},
        "data": {"columns": {"label": "label"}} if labelled else {},
        "train": {"max_steps": 2, "batch_size": 8, "lr": 1e-2},
        "run": {"dir": str(tmp_path), "name": "run"},
    }
    run = mmssl.train(recipe, rows=rows(modality))
    assert f"init: {public} is a " in capsys.readouterr().out
    processor = MMSSLProcessor.from_pretrained(run.model_folder)
    inputs = processor([row[modality] for row in rows(modality)[:3]])
    before, merged, adapted = (load_model(folder).eval() for folder in (public, run.model_folder, run.adapter_folder))
    with torch.no_grad():
        assert_close(adapted(**inputs).pooler_output, merged(**inputs).pooler_output, atol=1e-5, rtol=1e-4)
        assert (before(**inputs).last_hidden_state - merged(**inputs).last_hidden_state).abs().max() > 1e-4
    if labelled:
        assert list(merged.config.id2label.values()) == ["a", "b"]
        assert_close(adapted.heads["label"].weight, merged.heads["label"].weight)

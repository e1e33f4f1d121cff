"""Models of one modality in transformers' pipelines, and under the names of its Auto classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, pipeline

import mmssl
from mmssl import MMSSLForClassification, MMSSLModel, MMSSLProcessor
from mmssl.modality import find
from mmssl.training.run import Run

WORDS = ["a", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "sleeps"]


def trained(modality: str, folder: Path, processor: dict[str, Any] | None = None) -> tuple[Run, list[Any]]:
    """A model that learned labels for two steps, and the raw samples."""
    draw = np.random.default_rng(0)
    samples: dict[str, list[Any]] = {
        "image": [Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(8)],
        "audio": [{"array": draw.normal(0, 0.1, 8000).astype(np.float32), "sampling_rate": 16000} for _ in range(8)],
        "text": [" ".join(draw.choice(WORDS, 9)) for _ in range(8)],
    }
    rows = [{modality: sample, "label": "ab"[number % 2]} for number, sample in enumerate(samples[modality])]
    recipe = {
        "modalities": {modality: {"processor": processor or {}}},
        "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "objective": {"name": "supervised"},
        "data": {"columns": {"label": "label"}},
        "train": {"max_steps": 2, "batch_size": 4},
        "run": {"dir": str(folder), "name": modality},
    }
    return mmssl.train(recipe, rows=rows), samples[modality]


def expected(run: Run, modality: str, samples: list[Any]) -> list[dict[str, float]]:
    """The probabilities of the classes for each sample, by the model's own face."""
    model = MMSSLForClassification.from_pretrained(run.model_folder).eval()
    processor = MMSSLProcessor.from_pretrained(run.model_folder)
    with torch.no_grad():
        shares = model(**processor(**{find(modality).keyword: samples})).logits.softmax(1)
    return [dict(zip(model.config.id2label.values(), row, strict=True)) for row in shares.tolist()]


@pytest.mark.parametrize(("modality", "task"), [("image", "image-classification"), ("text", "text-classification")])
def test_classes_by_pipeline(modality: str, task: str, tmp_path: Path) -> None:
    run, samples = trained(modality, tmp_path, {"tokenizer": "bpe", "vocab_size": 300} if modality == "text" else None)
    found = pipeline(task, model=str(run.model_folder), top_k=None)(samples)
    for mine, wanted in zip(found, expected(run, modality, samples), strict=True):
        assert {each["label"]: each["score"] for each in mine} == pytest.approx(wanted, abs=1e-5)


def test_sounds_by_pipeline(tmp_path: Path) -> None:
    run, samples = trained("audio", tmp_path)
    served = pipeline("audio-classification", model=str(run.model_folder), top_k=None)
    wanted = expected(run, "audio", samples)
    for sample, shares in zip(samples, wanted, strict=True):
        mine = served({"raw": sample["array"], "sampling_rate": 16000})
        assert {each["label"]: each["score"] for each in mine} == pytest.approx(shares, abs=1e-5)
    assert AutoFeatureExtractor.from_pretrained(run.model_folder).sampling_rate == 16000


def test_features_by_pipeline(tmp_path: Path) -> None:
    run, samples = trained("image", tmp_path)
    served = pipeline("image-feature-extraction", model=str(run.model_folder), pool=True, return_tensors=True)
    processor = AutoImageProcessor.from_pretrained(run.model_folder)
    model = MMSSLModel.from_pretrained(run.model_folder).eval()
    with torch.no_grad():
        assert_close(served(samples[0]), model(**processor(samples[0], return_tensors="pt")).pooler_output)


def test_the_tokenizer_gives_the_ids_of_the_processor(tmp_path: Path) -> None:
    for kind in ({"tokenizer": "bytes"}, {"tokenizer": "bpe", "vocab_size": 300}):
        run, samples = trained("text", tmp_path, kind)
        ids = MMSSLProcessor.from_pretrained(run.model_folder)(text=samples[:1])["input_ids"]
        assert_close(AutoTokenizer.from_pretrained(run.model_folder)(samples[:1], return_tensors="pt")["input_ids"], ids)

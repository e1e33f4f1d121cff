"""What users of Hugging Face's libraries do out of habit: it works with our models as with others, or says what to do instead."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from mmssl.model import MMSSLForClassification, MMSSLForRegression, load_model
from mmssl.model.tasks import FACES, MMSSLForLabels, MMSSLForSemanticSegmentation, MMSSLForTokenClassification, load_predictor
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import inputs_of, small_model, small_processor


def saved(folder: Path, name: str, kind: type[MMSSLForLabels] | None = None, **changes: Any) -> Path:
    """A small model with its processor; of a class that predicts labels with a fresh head."""
    model = small_model(name)
    model = model if kind is None else kind(model.config.derive(**changes))
    model.save_pretrained(folder)
    MMSSLProcessor({name: small_processor(name)}).save_pretrained(folder)
    return folder


# Heads


@pytest.mark.parametrize("name", installed())
def test_another_number_of_labels_is_a_fresh_head(name: str, tmp_path: Path) -> None:
    folder, inputs = saved(tmp_path, name, MMSSLForClassification, num_labels=2), inputs_of(name)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        MMSSLForClassification.from_pretrained(folder, num_labels=5)
    model = MMSSLForClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert model(**inputs).logits.shape[1] == model.config.num_labels == model.label_head.size == 5
    several = MMSSLForClassification.from_pretrained(folder, problem_type="multi_label_classification")
    assert several.label_head.kind == "multi_label"
    assert MMSSLForClassification.from_pretrained(folder)(**inputs).logits.shape[1] == 2


@pytest.mark.parametrize("asked", [{"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"}])
def test_one_label_is_a_number_as_in_transformers(asked: dict[str, Any], tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved(tmp_path / "encoder", "text"), **asked).eval()
    assert type(model) is MMSSLForRegression
    inputs, wanted = inputs_of("text"), torch.arange(6.0)
    found = model(**inputs, labels=wanted)
    assert found.loss.item() == pytest.approx((found.logits[:, 0] - wanted).square().mean().item())
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(**inputs).logits, found.logits)
    assert not hasattr(small_model("text"), "label_head")


MADE: dict[str, tuple[str, type[MMSSLForLabels], dict[str, Any]]] = {
    "classes": ("image", MMSSLForClassification, {"num_labels": 3}),
    "numbers": ("image", MMSSLForRegression, {}),
    "maps": ("image", MMSSLForSemanticSegmentation, {"num_labels": 3}),
    "tags": ("text", MMSSLForTokenClassification, {"num_labels": 3}),
}


@pytest.mark.parametrize("made", MADE)
def test_the_head_of_another_task_is_refused(made: str, tmp_path: Path) -> None:
    name, own, changes = MADE[made]
    folder = saved(tmp_path, name, own, **changes)
    for face in FACES.values():
        if face is own:
            assert type(face.from_pretrained(folder)) is own
            continue
        with pytest.raises(ValueError, match=f"another task than {face.__name__}: open it with {own.__name__}"):
            face.from_pretrained(folder)


def test_labels_are_tensors() -> None:
    model = MMSSLForClassification(small_model("image").config.derive(num_labels=2))
    with pytest.raises(TypeError, match="labels must be a torch tensor; got list"):
        model(**inputs_of("image"), labels=[0, 1, 0, 1, 0, 1])


# Folders of another version, and damaged ones


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        (
            "config.json",
            ("modalities", "image", "adapter", "stem_2030"),
            "adapter of image was saved with stem_2030, .* Update",
        ),
        ("config.json", ("label_head", "heat_2030"), "label head was saved with heat_2030, .* Update mmssl"),
        ("config.json", ("mlp",), "mlp must be one of gelu, .*; got 'of 2030'. If a newer mmssl saved the model, update yours"),
        ("config.json", ("norm_order",), "norm_order must be one of pre, post; got 'of 2030'"),
        ("both", ("modalities", "image", "crop_2030"), "processor of image was saved with crop_2030, .* Update mmssl"),
    ],
)
@pytest.mark.parametrize("load", [load_predictor, AutoModelForImageClassification.from_pretrained])
def test_a_model_of_a_newer_version_says_so(
    file: str, keys: tuple[str, ...], message: str, load: Callable[[Path], Any], tmp_path: Path
) -> None:
    saved(tmp_path, "image", MMSSLForClassification, num_labels=2)
    for each in ("config.json", "processor_config.json") if file == "both" else (file,):
        content = json.loads((tmp_path / each).read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        (inner["processor"] if file == "both" and each == "config.json" else inner)[keys[-1]] = "of 2030"
        (tmp_path / each).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
    if file == "both":
        with pytest.raises(ValueError, match=message):
            MMSSLProcessor.from_pretrained(tmp_path)


def test_weights_of_other_sizes_are_named(tmp_path: Path) -> None:
    saved(tmp_path, "image")
    weights = load_file(tmp_path / "model.safetensors")
    name = next(key for key in weights if key.endswith("q_proj.weight"))
    save_file(weights | {name: weights[name][:16].contiguous()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"sizes of its config.json: {name} is \[16, 32\] there, and not \[32, 32\]"):
        load_model(tmp_path)


# Calls


def test_there_is_no_vocabulary_to_resize() -> None:
    with pytest.raises(TypeError, match="no vocabulary to resize"):
        small_model("text").resize_token_embeddings(300)


def test_a_column_of_datasets_is_a_list_of_samples() -> None:
    texts = ["one", "two three", "four"]
    processor = MMSSLProcessor({"text": small_processor("text")})
    assert torch.equal(processor(text=Dataset.from_dict({"text": texts})["text"])["input_ids"], processor(text=texts)["input_ids"])


# peft, used without mmssl's own commands

PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def warnings_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr("mmssl.model.tasks.logger.warning_once", told.append)
    return told


@PEFT
@pytest.mark.parametrize("name", installed())
def test_adapters_that_a_user_puts_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained with their head, saved, loaded into the base again, merged, and read by mmssl: the same outputs each time."""
    folder, inputs, told = saved(tmp_path / "base", name), inputs_of(name), warnings_of(monkeypatch)
    labels: Tensor = torch.arange(6) % 2
    config = LoraConfig(target_modules="all-linear", r=2, modules_to_save=["label"], exclude_modules=".*heads.*")

    def base() -> MMSSLForClassification:
        torch.manual_seed(len(list(tmp_path.iterdir())))  # a head that comes back fresh would be another one
        return MMSSLForClassification.from_pretrained(folder, num_labels=2)

    model = get_peft_model(base(), config).train()
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
    for _ in range(2):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    assert not told
    wanted = model.eval()(**inputs).logits
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**inputs).logits, wanted)
    torch.testing.assert_close(loaded.merge_and_unload()(**inputs).logits, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"is a PEFT folder without config.json.*model.config.save_pretrained"):
        load_predictor(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(load_predictor(tmp_path / "adapter").eval()(**inputs).logits, wanted, rtol=1e-4, atol=1e-5)


@PEFT
def test_a_head_that_does_not_learn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft's task_type looks for heads that are called classifier or score, and would leave ours out in silence."""
    told, labels = warnings_of(monkeypatch), torch.arange(6) % 2
    model = MMSSLForClassification(small_model("image").config.derive(num_labels=2)).train()
    model(**inputs_of("image"), labels=labels)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    adapted.eval()(**inputs_of("image"), labels=labels)
    assert not told
    adapted.train()(**inputs_of("image"), labels=labels)
    assert len(told) == 1 and "modules_to_save=['label']" in told[0]

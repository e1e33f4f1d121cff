"""Our models and processors in the hands of `datasets`, transformers' Trainer and sentence-transformers' trainer."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmssl.modality import find
from mmssl.model import MMSSLForClassification, MMSSLForTokenClassification
from mmssl.model.sentence import write_sentence_files
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import small_model, small_processor

LONG = "a text that is longer than eight tokens of bytes"
WINDOWS: dict[str, dict[str, Any]] = {
    "text": {"max_tokens": 8},
    "audio": {"max_seconds": 0.5, "mean": 0.0, "std": 1.0},
    "timeseries": {"window": 32},
}


def processor_of(name: str, **settings: Any) -> MMSSLProcessor:
    return MMSSLProcessor({name: find(name).processor(**settings) if settings else small_processor(name)})


# Rows of `datasets`


@pytest.mark.parametrize("name", WINDOWS)
def test_without_windows_there_is_a_row_for_each_sample(name: str) -> None:
    processor, raws = processor_of(name, **WINDOWS[name]), find(name).example(4, 0)
    keyword = find(name).keyword
    windows, alone = processor(**{keyword: raws}), processor(**{keyword: raws}, windows=False)
    assert len(next(iter(windows.values()))) > 4
    assert all(len(value) == 4 for value in alone.values())
    assert processor(**{keyword: raws, f"{keyword}_kwargs": {"windows": False}}).keys() == alone.keys()
    assert windows.keys() - alone.keys() == {f"{keyword}_sample"}


@pytest.mark.parametrize("name", installed())
def test_the_keys_are_the_same_whatever_the_samples(name: str) -> None:
    processor, raws, keyword = processor_of(name), find(name).example(6, 0), find(name).keyword
    expected = processor(**{keyword: raws}).keys()
    for raw in raws:
        assert processor(**{keyword: [raw]}).keys() == expected
    with torch.no_grad():
        found = torch.cat([small_model(name)(**processor(**{keyword: [raw]})).pooler_output for raw in raws])
        assert_close(found, small_model(name)(**processor(**{keyword: raws})).pooler_output, rtol=1e-4, atol=1e-5)


def test_the_rows_of_a_dataset_stay_in_step() -> None:
    processor = processor_of("text", max_tokens=8)
    ds = Dataset.from_dict({"text": [LONG, "short", LONG[5:], "x"], "labels": [0, 1, 0, 1]})
    seen = ds.with_transform(lambda b: {**processor(text=b["text"], windows=False), "labels": b["labels"]})
    assert bytes(seen[0]["input_ids"].tolist()) == LONG.encode()[:8]
    assert len(seen[[0, 1]]["input_ids"]) == len(seen[[0, 1]]["labels"]) == 2
    assert len(ds.map(lambda b: processor(text=b["text"], windows=False), batched=True)) == 4
    assert set(ds.map(lambda b: processor(text=b["text"], windows=False)).column_names) == {
        *ds.column_names,
        "input_ids",
        "text_lengths",
    }
    loader = DataLoader(ds, 2, collate_fn=lambda rows: processor(text=[row["text"] for row in rows]))
    found = torch.cat([small_model("text")(**batch).pooler_output for batch in loader])
    assert_close(found, small_model("text")(**processor(text=ds["text"][:])).pooler_output, rtol=1e-4, atol=1e-5)


def test_windows_out_of_step_are_refused() -> None:
    """The first of seven windows as if it were the text; rows of several calls stacked."""
    processor, model = processor_of("text", max_tokens=8), small_model("text")
    ds = Dataset.from_dict({"text": [LONG, "short"]}).with_transform(lambda b: processor(text=b["text"]))
    first = {key: value[None] for key, value in ds[0].items()}
    stacked = {key: torch.stack([ds[1][key]] * 3) for key in ds[1]}
    for batch in (first, stacked):
        with pytest.raises(ValueError, match=re.escape("text_sample: these rows are not those of one call of the processor")):
            model(**batch)


# Calls


@pytest.mark.parametrize("name", installed())
def test_one_modality_needs_no_keyword(name: str) -> None:
    processor, raws = processor_of(name), find(name).example(3, 0)
    found, expected = processor(raws, padding=True, truncation=False), processor(**{find(name).keyword: raws})
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key].nan_to_num(), expected[key].nan_to_num()) for key in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text_kwargs": {"lowercase": True}},
            "text_kwargs: no option 'lowercase'; there are windows, padding, truncation, return",
        ),
        ({"text_kwargs": {"max_length": 9}}, "text_kwargs: no option 'max_length'"),
        ({"padding": "max_length"}, "common_kwargs: padding='max_length' cannot be followed"),
        ({"smell_kwargs": {}}, "no modality has smell_kwargs; there are text_kwargs"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        processor_of("text")(text="a", **options)


def test_a_sampling_rate_beside_the_sounds_counts() -> None:
    processor, sound = processor_of("audio", mean=0.0, std=1.0), np.sin(np.arange(8000) / 9).astype(np.float32)
    found = processor(audio=[sound], audio_kwargs={"sampling_rate": 8000})
    assert torch.equal(found["input_features"], processor(audio=[(sound, 8000)])["input_features"])
    assert found["input_features"].shape != processor(audio=[(sound, 16000)])["input_features"].shape


# Trainers


@pytest.mark.parametrize("name", installed())
def test_the_trainer_of_transformers_makes_three_steps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    head, processor = MMSSLForClassification(small_model(name).config.derive(num_labels=2)), processor_of(name)
    raws, before = find(name).example(12, 0), {key: value.clone() for key, value in head.state_dict().items()}
    rows = [{"raw": raw, "labels": number % 2} for number, raw in enumerate(raws)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = processor(**{find(name).keyword: [row["raw"] for row in batch]})
        return {**inputs, "labels": torch.tensor([row["labels"] for row in batch])}

    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, remove_unused_columns=False, report_to=[], use_cpu=True
    )
    assert head.main_input_name in processor(**{find(name).keyword: raws})
    trainer = Trainer(head, arguments, data_collator=collate, train_dataset=rows, processing_class=processor)
    assert trainer.train().global_step == 3
    assert any(not torch.equal(value, before[key]) for key, value in head.state_dict().items())
    assert (tmp_path / "checkpoint-3" / "processor_config.json").exists()


@pytest.mark.parametrize("name", installed())
def test_the_trainer_drops_no_input_of_its_own_accord(name: str, tmp_path: Path) -> None:
    """With its default settings it keeps those columns of a dataset that `forward` names, and drops others."""
    head = MMSSLForClassification(small_model(name).config.derive(num_labels=2))
    inputs = processor_of(name)(**{find(name).keyword: find(name).example(8, 0)}, windows=False)
    columns = {key: value.tolist() for key, value in inputs.items()}
    dataset = Dataset.from_dict(columns | {"labels": [0, 1] * 4, "row": list(range(8))})
    arguments = TrainingArguments(str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True)
    trainer = Trainer(head, arguments, train_dataset=dataset)
    assert {*trainer._remove_unused_columns(dataset).column_names} == {*columns, "labels"}
    assert trainer.train().global_step == 2


def test_the_trainer_sees_the_inputs_of_a_head_for_places(tmp_path: Path) -> None:
    head = MMSSLForTokenClassification(small_model("text").config.derive(num_labels=2))
    inputs = processor_of("text")(text=["one", "two"])
    columns = {key: value.tolist() for key, value in inputs.items()}
    dataset = Dataset.from_dict(columns | {"labels": [[0, 1, 0], [1, 1, 0]]})
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True)
    assert Trainer(head, arguments, train_dataset=dataset).train().global_step == 1


def test_the_trainer_takes_the_mean_of_micro_batches(tmp_path: Path) -> None:
    """A model that takes any argument would seem to divide its loss by the samples of the step, as `num_items_in_batch` says."""
    inputs = processor_of("text")(text=["some text", "more text"] * 2)
    columns = {key: value.tolist() for key, value in inputs.items()} | {"labels": [0, 1, 1, 0]}
    losses = []
    for size in (4, 1):
        torch.manual_seed(0)
        head = MMSSLForClassification(small_model("text").config.derive(num_labels=2))
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            report_to=[],
            use_cpu=True,
        )
        losses.append(Trainer(head, arguments, train_dataset=Dataset.from_dict(columns)).train().training_loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in installed() if find(name).sentence])
def test_the_trainer_of_sentence_transformers_makes_three_steps(name: str, tmp_path: Path) -> None:
    small_model(name).save_pretrained(tmp_path / "m")
    processor_of(name).save_pretrained(tmp_path / "m")
    write_sentence_files(tmp_path / "m", [name])
    model = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    raws = find(name).example(12, 0)
    if name == "audio":
        raws = [{**raw, "array": np.asarray(raw["array"])[:3200]} for raw in raws]
    data = [{"one": a, "two": b, "label": float(i % 2)} for i, (a, b) in enumerate(zip(raws, raws[::-1], strict=True))]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=4, report_to=[], use_cpu=True
    )
    dataset = Dataset.from_list(data)
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=dataset, loss=CosineSimilarityLoss(model))
    assert trainer.train().global_step == 3
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_without_its_inputs_says_what_removed_them() -> None:
    with pytest.raises(ValueError, match=re.escape("In a Trainer set remove_unused_columns=False")):
        small_model("text")(num_items_in_batch=4)


@pytest.mark.parametrize("name", installed())
def test_a_processor_can_be_pickled(name: str) -> None:
    assert pickle.loads(pickle.dumps(processor_of(name))).settings() == processor_of(name).settings()

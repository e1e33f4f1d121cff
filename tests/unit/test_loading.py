"""Saved models that are damaged, foreign or in the wrong place: refused with a way out, never filled up with random weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmssl import api
from mmssl.modality import find
from mmssl.model import load_model, load_predictor
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import small_model, small_processor

Weights = dict[str, Tensor]


def saved(folder: Path, name: str = "image", **settings: object) -> Path:
    """A small model with its processor, as `save_pretrained` writes them."""
    small_model(name, **settings).save_pretrained(folder)
    MMSSLProcessor({name: small_processor(name)}).save_pretrained(folder)
    return folder


def rows_file(folder: Path) -> Path:
    """Five rows of a table."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in find("tabular").example(5, 0)), encoding="utf-8")
    return file


def damage(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


def wrapped(weights: Weights) -> Weights:
    return {f"module.{name}": value for name, value in weights.items()}


def shortened(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if "layers.1." not in name}


def lengthened(weights: Weights) -> Weights:
    return weights | {"encoder.layers.9.norm1.weight": torch.ones(32)}


def poisoned(weights: Weights) -> Weights:
    return {name: value * torch.nan if name == "encoder.norm.weight" else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrapped, "weights are missing, such as adapters.image.proj.bias"),
        (shortened, "16 weights are missing, such as encoder.layers.1."),
        (lengthened, "1 weights belong to no part of it, such as encoder.layers.9.norm1.weight"),
        (poisoned, "NaN or infinite values in 1 tensors, such as encoder.norm.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Callable[[Weights], Weights], message: str, tmp_path: Path) -> None:
    folder = damage(saved(tmp_path / "m"), change)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_model(folder)
    with pytest.raises(ValueError, match=re.escape(message)):
        api.embed(folder, "bundled:digits", tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path / "m") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=re.escape(f"the weights of {file.parent} cannot be read: ")):
        load_model(file.parent)


def test_parts_that_only_the_new_configuration_has_may_be_fresh(tmp_path: Path) -> None:
    """As `init` asks for: another modality, another pooling; and what it leaves out stays behind."""
    folder, before = saved(tmp_path / "m", modality_experts=True), small_model("image", modality_experts=True)
    config = before.config.derive(pooling="attention")
    config.modalities = config.modalities | {"tabular": small_model("tabular").config.modalities["tabular"]}
    both = load_model(folder, config)
    assert sorted(both.adapters) == ["image", "tabular"] and both.pooler is not None
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.equal(both.state_dict()[name], value), name
    both.save_pretrained(tmp_path / "both")
    alone = load_model(tmp_path / "both", before.config)
    assert list(alone.adapters) == ["image"] and alone.pooler is None


@pytest.mark.parametrize("name", installed())
def test_every_modality_loads_whole(name: str, tmp_path: Path) -> None:
    loaded, model = load_model(saved(tmp_path, name)), small_model(name)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_a_sample_whose_vector_is_no_number_is_named(tmp_path: Path) -> None:
    """Weights that are numbers, but so large that the samples overflow."""

    def grow(weights: Weights) -> Weights:
        return {name: value * 3e38 if name.startswith("encoder.norm") else value for name, value in weights.items()}

    folder, file = damage(saved(tmp_path / "m", "tabular"), grow), rows_file(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"row 0 of {file}: its embedding is NaN or infinite")):
        api.embed(folder, str(file), tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


# Folders that are no models


def run_with_model(folder: Path) -> Path:
    saved(folder / "model", "tabular")
    (folder / "run.json").write_text("{}")
    return folder


def test_a_run_is_told_where_its_model_is(tmp_path: Path) -> None:
    run = run_with_model(tmp_path / "x")
    for load in (load_model, MMSSLProcessor.from_pretrained):
        with pytest.raises(FileNotFoundError, match=re.escape(f"no model in {run}, which is a run; did you mean {run / 'model'}?")):
            load(str(run))
    assert api.embed(run, str(rows_file(tmp_path)), tmp_path / "e.parquet") == 5


@pytest.mark.parametrize("load", [load_model, MMSSLProcessor.from_pretrained])
def test_paths_that_hold_no_model(load: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_with_model(tmp_path / "runs")
    for path, message in {
        "runs/nope": "no model in runs/nope: there is no such folder. Give the `model` folder of a run, or a Hub id",
        "runs/run.json": "no model in runs/run.json: it is a file. Give",
        ".": "no model in .: it has no ",
    }.items():
        with pytest.raises(FileNotFoundError, match=re.escape(message)):
            load(path)


@pytest.mark.parametrize("load", [load_model, load_predictor, MMSSLProcessor.from_pretrained])
def test_a_name_that_is_neither_folder_nor_on_the_hub(load: Callable[[str], object]) -> None:
    with pytest.raises(OSError, match=re.escape("no model nope: there is no such folder here, and on the Hub there is none")):
        load("nope")


@pytest.mark.parametrize("name", installed())
def test_a_model_without_processor_is_read_by_its_configuration(name: str, tmp_path: Path) -> None:
    (saved(tmp_path, name) / "processor_config.json").unlink()
    loaded = MMSSLProcessor.from_pretrained(tmp_path)
    assert loaded.settings() == {name: small_processor(name).settings()}


def test_settings_that_differ_between_the_two_files_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, "text") / "processor_config.json"
    file.write_text(file.read_text().replace('"max_tokens": 512', '"max_tokens": 64'))
    with pytest.raises(ValueError, match=r"the settings of text in processor_config.json are not those in config.json"):
        MMSSLProcessor.from_pretrained(tmp_path)


def test_a_folder_of_another_library_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(FileNotFoundError, match=r"has no processor_config.json, and no config.json of mmssl"):
        MMSSLProcessor.from_pretrained(tmp_path)

"""Adapters of the peft library under every objective: the base stays, what is learned is saved, loaded and merged alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close

import mmssl
from mmssl import MMSSLForClassification, MMSSLModel
from mmssl.model import MMSSLConfig, load_model
from mmssl.model.adaptation import ADAPTATIONS, adapt, is_adapted, merged
from mmssl.model.teacher import ema_copy
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import RecipeError
from mmssl.testing import SINGLE, batch_of, small_model
from mmssl.training.run import Run
from mmssl_catalogue import points

PRESETS = [(name, {"target": target}) for name in ADAPTATIONS for target in ("attention", "mlp", "all-linear")]


def recipe(objective: str, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "modalities": {"image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 4}}},
        "encoder": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        "objective": {"name": objective},
        "data": {"path": "bundled:digits"},
        "train": {"max_steps": 3, "batch_size": 16, "lr": 1e-2},
        "run": {"dir": str(folder), "name": objective},
        **more,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mmssl.train(recipe("masked", tmp_path_factory.mktemp("base"))).model_folder


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("objective", SINGLE)
def test_adapters_alone_learn_under_every_objective(objective: str, base: Path, tmp_path: Path) -> None:
    run = mmssl.train(recipe(objective, tmp_path, init=str(base), peft={"name": "lora", "rank": 2}))
    before, after = load_model(base).state_dict(), load_model(run.model_folder).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {
        name for name in before if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"))
    }
    assert_the_folder_is_the_model(run, base)


def assert_the_folder_is_the_model(run: Run, base: Path) -> None:
    """As mmssl and as peft read it, heads included."""
    inputs = MMSSLProcessor.from_pretrained(run.adapter_folder)(images=torch.rand(3, 1, 8, 8))
    config = MMSSLConfig.from_pretrained(run.adapter_folder)
    kind = MMSSLModel if config.label_head is None else MMSSLForClassification
    own = kind.from_pretrained(run.model_folder).eval()
    theirs = PeftModel.from_pretrained(kind.from_pretrained(base, config=config), run.adapter_folder).eval()
    with torch.no_grad():
        key = "pooler_output" if kind is MMSSLModel else "logits"
        expected = own(**inputs)[key]
        assert_close(theirs(**inputs)[key], expected, atol=1e-5, rtol=1e-5)
        assert_close(
            load_model(run.adapter_folder).eval()(**inputs).pooler_output,
            load_model(run.model_folder).eval()(**inputs).pooler_output,
        )


@pytest.mark.parametrize(("name", "keys"), PRESETS)
@pytest.mark.parametrize("modality", sorted(points()))
def test_presets_touch_linear_maps_of_the_encoder_alone(name: str, keys: dict[str, Any], modality: str) -> None:
    torch.manual_seed(0)
    model = small_model(modality).eval()
    inputs = batch_of(modality).inputs[modality]
    untouched = model(**inputs).pooler_output.detach()
    adapt(model, ADAPTATIONS[name](**keys))
    assert_close(model(**inputs).pooler_output, untouched, msg="adapters say nothing at first")
    learned = [path for path, parameter in model.named_parameters() if parameter.requires_grad]
    assert learned and all(path.startswith("encoder.layers.") for path in learned)
    parts = {path.split(".")[4] for path in learned}
    attention, mlp = (
        ({"k_proj", "v_proj"}, {"down_proj"})
        if name == "ia3"
        else ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"up_proj", "down_proj"})
    )
    assert parts == {"attention": attention, "mlp": mlp, "all-linear": attention | mlp}[keys["target"]]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        plain = merged(model)
        assert not is_adapted(plain) and is_adapted(model)
        assert_close(plain(**inputs).pooler_output, model(**inputs).pooler_output, atol=1e-5, rtol=1e-5)
        assert (plain(**inputs).pooler_output - untouched).abs().max() > 1e-3


def test_a_teacher_shares_the_base_and_averages_the_adapters(base: Path, tmp_path: Path) -> None:
    model = load_model(base)
    adapt(model, ADAPTATIONS["lora"]())
    teacher = ema_copy(model)
    pairs = dict(model.named_parameters()), dict(teacher.named_parameters())
    for name, parameter in pairs[0].items():
        assert (pairs[1][name] is parameter) == ("lora" not in name)
    settings = {"objective": {"name": "distill", "publish": "teacher"}, "peft": {"name": "lora"}, "init": str(base)}
    run = mmssl.train({**recipe("distill", tmp_path), **settings})
    before, after = load_model(base).state_dict(), load_model(run.model_folder).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if "q_proj" in name)
    assert torch.equal(before["adapters.image.proj.weight"], after["adapters.image.proj.weight"])


@pytest.mark.parametrize("objective", ["supervised", "distill"])
def test_a_stopped_run_goes_on_to_the_same_adapters(objective: str, base: Path, tmp_path: Path) -> None:
    settings = {"init": str(base), "peft": {"name": "dora", "rank": 2}}
    train = {"max_steps": 4, "batch_size": 16, "lr": 1e-2, "checkpoint_every": 2}
    whole = mmssl.train({**recipe(objective, tmp_path / "whole"), **settings, "train": train})
    run = mmssl.train({**recipe(objective, tmp_path / "cut"), **settings, "train": train})
    for path in (run.model_folder, run.adapter_folder, run.checkpoints / "step-000000004"):
        shutil.rmtree(path)
    record = {key: value for key, value in run.read_record().items() if key not in ("trained", "finished")}
    (run.folder / "run.json").write_text(json.dumps(record))
    again = mmssl.train({**recipe(objective, tmp_path / "cut"), **settings, "train": train, "resume": "auto"})
    assert again.folder == run.folder
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        one, other = load_file(whole.folder / file), load_file(again.folder / file)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_peft_folder_is_a_start_and_a_predictor(base: Path, tmp_path: Path) -> None:
    first = mmssl.train(recipe("supervised", tmp_path, init=str(base), peft={"name": "lora"}))
    head = load_model(first.model_folder).heads["label"].weight
    settings = {"init": str(first.adapter_folder), "train": {"max_steps": 1, "batch_size": 16, "lr": 1e-9}}
    second = mmssl.train({**recipe("supervised", tmp_path), **settings})
    assert_close(load_model(second.model_folder).heads["label"].weight, head, atol=1e-6, rtol=1e-5)
    for name, folder in (("a", first.adapter_folder), ("b", first.model_folder)):
        mmssl.predict(folder, "bundled:digits", tmp_path / f"{name}.parquet")
    one, other = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in "ab")
    assert one["prediction"].equals(other["prediction"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft": {"name": "lora"}}, "peft: adapters need a trained model"),
        ({"peft": {"name": "lora", "target": ["nothing"]}, "init": "BASE"}, "names no linear map of this model.*q_proj"),
        ({"peft": {"name": "lora"}, "init": "BASE", "train": {"max_steps": 1, "freeze": "encoder"}}, "leave one of them out"),
        ({"peft": {"name": "lora", "rank": 0}, "init": "BASE"}, "peft.rank"),
        ({"peft": {"name": "prefix"}, "init": "BASE"}, "peft.name"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str, base: Path, tmp_path: Path) -> None:
    changes = {key: str(base) if value == "BASE" else value for key, value in changes.items()}
    with pytest.raises((RecipeError, ValueError), match=message):
        mmssl.check({**recipe("masked", tmp_path), **changes})


def test_a_folder_whose_base_is_gone_says_so(base: Path, tmp_path: Path) -> None:
    run = mmssl.train(recipe("supervised", tmp_path, init=str(base), peft={"name": "lora"}))
    file = run.adapter_folder / "adapter_config.json"
    file.write_text(file.read_text().replace(str(base), str(tmp_path / "gone")))
    with pytest.raises(ValueError, match=r"holds adapters of the model .*gone, which cannot be opened"):
        load_model(run.adapter_folder)

"""Every recipe that comes with mmssl is valid, opens with its header, and runs from raw samples to a published model."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, ViTConfig, ViTImageProcessor, ViTModel

import mmssl
from mmssl.data import open_streams
from mmssl.modality import find
from mmssl.model import LabelHead, MMSSLModel, faced
from mmssl.objectives import Clip, Setup
from mmssl.recipe import Recipe, load
from mmssl.recipe.yaml12 import parse
from mmssl.training.build import fit_processor
from mmssl.training.start import make_config
from mmssl_catalogue import header, recipes_found

ROWS = 12
SMALL = {
    "encoder.num_hidden_layers": 3,
    "train.batch_size": 4,
    "train.max_steps": 3,
    "train.max_epochs": None,
    "train.max_minutes": None,
    "train.compile": False,
    "train.trackers": [],
    "data.workers": 0,
    "data.group_size": 1,
    "evaluate": None,
    "init": None,
    "peft": None,
}
"""What a few steps on a few made-up samples need otherwise."""


STAGE = {key: value for key, value in SMALL.items() if key not in ("init", "peft", "encoder.num_hidden_layers")}
"""The same for a run that must fit the one before it."""
RUN = re.compile(r"runs/(\w+)/model")


def small_mmssl(folder: Path, recipe: dict[str, Any], depth: int = 2) -> str:
    """A model of the recipe itself with random weights, in the place of a saved one."""
    encoder, data = recipe["encoder"] | {"num_hidden_layers": depth}, recipe["data"] | {"columns": {}}
    checked = load(recipe | {"objective": {"name": "masked"}, "init": None, "encoder": encoder, "data": data})
    rows, _ = example_data(checked)
    processor = fit_processor(checked, open_streams(checked.section("data"), list(checked.modalities), rows))
    MMSSLModel(make_config(checked, processor)).save_pretrained(folder)
    return str(folder)


def small_vision(folder: Path, recipe: dict[str, Any]) -> str:
    """A vision transformer with random weights, in the place of one from the Hub."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=224, patch_size=56)).save_pretrained(folder)
    return str(folder)


def public_model(folder: Path, width: int) -> str:
    """A vision transformer of that width with random weights and its processor, in the place of a public teacher."""
    shape = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=16)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def small_clip(folder: Path, recipe: dict[str, Any]) -> str:
    """A model of the recipe itself with random weights and projections, in the place of one that clip trained with sigmoid."""
    model = AutoModel.from_pretrained(small_mmssl(folder, recipe))
    Clip(model, Setup(), bias=-10.0).published().save_pretrained(folder)
    return str(folder)


def small_labelled(folder: Path, recipe: dict[str, Any]) -> str:
    """A model of the recipe itself with random weights and a head for two classes."""
    model = AutoModel.from_pretrained(small_mmssl(folder, recipe))
    model.label(LabelHead(kind="classification", size=2), ["a", "b"])
    faced(model).save_pretrained(folder)
    return str(folder)


STAND_INS = {"teacher": small_mmssl, "rendered": small_vision}
"""Small models with random weights for the targets that name a trained one."""


def with_stand_ins(path: Path, folder: Path) -> dict[str, Any]:
    """The overrides that a recipe needs whose targets name trained models."""
    recipe = parse(path.read_text(encoding="utf-8"), path.name)
    targets = recipe["objective"].get("targets") or []
    named = [target for target in targets if isinstance(target.get("model"), str)]
    for number, target in enumerate(named):
        target["model"] = STAND_INS[target["name"]](folder / f"stand-in-{number}", recipe)
    changes: dict[str, Any] = {"objective.targets": targets} if named else {}
    if choose := recipe["objective"].get("choose"):
        changes["objective.choose"] = choose | {"reference": small_clip(folder / "reference", recipe)}
    teacher = recipe["objective"].get("teacher") or {}
    if layers := recipe["objective"].get("layers"):
        changes["encoder.num_hidden_layers"], depth = (max(numbers) for numbers in zip(*layers["pairs"], strict=True))
        changes["objective.teacher.model"] = small_mmssl(folder / "deep", recipe, depth)
    elif recipe["objective"]["name"] == "knowledge_distillation":
        changes["objective.teacher.model"] = small_labelled(folder / "labelled", recipe)
    elif isinstance(teacher.get("model"), str):
        changes["objective.teacher.model"] = public_model(folder / "public", recipe["objective"]["projector"]["size"])
    return changes


every_recipe = pytest.mark.parametrize("path", recipes_found().values(), ids=recipes_found().keys())


def example_data(recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """Made-up rows, by source where the recipe has several, and the keys that it needs to read them."""
    sources, keys = recipe.section("data").sources, own_columns(recipe)
    if recipe.section("data").forecast is not None:
        ((column, *_),) = (find(name).columns for name in recipe.modalities)
        held = [row[column] for row in example_rows(list(recipe.modalities))]
        rows = [{column: raw["values"] if isinstance(raw, dict) else raw} for raw in held]
        return rows, keys | {"data.columns": None, "data.series": None, "data.forecast": {"horizon": 4, "context": 16}}
    if recipe.label_kind == "dense":
        (name,) = recipe.modalities
        held = labelled_places(find(name).example(ROWS, 0))
        rows = [{find(name).columns[0]: raw, "label": label} for raw, label in held]
        return rows, keys | {"data.columns": {"label": "label"}, "objective.classes": None}
    if sources is None:
        columns = {"label": "label"} | ({"group": "label"} if "group" in (recipe.section("data").columns or {}) else {})
        return example_rows(list(recipe.modalities)), keys | {"data.columns": columns}
    rows = {name: example_rows(list(options.modalities or (name,))) for name, options in sources.items()}
    return rows, keys | {f"data.sources.{name}.columns": {"label": "label"} for name in sources}


def labelled_places(samples: list[Any]) -> list[tuple[Any, Any]]:
    """Pictures with label maps, texts, as lists of words, with tags, and series with a state for each step."""
    if isinstance(samples[0], str):
        words = [text.split() for text in samples]
        return [(each, ["ab"[len(word) % 2] for word in each]) for each in words]
    if isinstance(samples[0], dict | np.ndarray):
        values = [each["values"] if isinstance(each, dict) else each for each in samples]
        return [(each.tolist(), (np.nan_to_num(each[0]) > 0).astype(int).tolist()) for each in values]
    return [(image, np.asarray(image.convert("L")) // 128) for image in samples]


def own_columns(recipe: Recipe) -> dict[str, Any]:
    """What takes back the names of columns that only the recipe's own data have."""
    return {
        f"modalities.{name}.processor.{key}": None
        for name, parts in recipe.modalities.items()
        for key in parts["processor"]
        if key.endswith("_columns")
    }


def example_rows(modalities: list[str]) -> list[dict[str, Any]]:
    """Made-up rows with the columns that the modalities look for."""
    rows: list[dict[str, Any]] = [{"label": "ab"[number % 2]} for number in range(ROWS)]
    for name in modalities:
        modality = find(name)
        for row, raw in zip(rows, modality.example(ROWS, 0), strict=True):
            row |= {modality.columns[0]: raw} if modality.columns else raw
    return rows


def commands(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The trainings of a recipe's header: recipe and overrides of each, but for those that start from a reader's own model."""
    lines = [shlex.split(line.lstrip("# "), comments=True) for line in header(path).splitlines() if "mmssl train " in line]
    found = [(Path(line[2]).stem, dict(key.split("=", 1) for key in line[3:])) for line in lines if line[:2] == ["mmssl", "train"]]
    return [(name, keys) for name, keys in found if all(run in made_by(found) for run in RUN.findall(keys.get("init", "")))]


def made_by(trainings: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Recipes by the name of the run that they make, those of a header's trainings before all others."""
    named = {place.stem: name for name, place in recipes_found().items()}
    return named | {keys["run.name"]: named[recipe] for recipe, keys in trainings if "run.name" in keys}


def without_comments(path: Path) -> str:
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))


STAGED = {
    name: path
    for name, path in recipes_found().items()
    if RUN.search(without_comments(path)) or any("init" in keys for _, keys in commands(path))
}
"""Recipes that go on from another run, by a key or in a command of their header."""


@pytest.mark.parametrize("path", STAGED.values(), ids=STAGED.keys())
@pytest.mark.usefixtures("few_pictures")
def test_stages_of_a_recipe_follow_each_other(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of its header one after the other, three steps each; runs that they name and do not make are made before."""
    monkeypatch.chdir(tmp_path)
    trainings = commands(path)
    texts = [without_comments(path), *(keys.get("init", "") for _, keys in trainings)]
    known = made_by(trainings)
    made = {keys.get("run.name", recipe) for recipe, keys in trainings if recipe != path.stem}
    needed = [run for run in dict.fromkeys(RUN.findall(" ".join(texts))) if run not in made]
    for recipe, keys in [*((Path(known[run]).stem, {}) for run in needed), *trainings]:
        file = recipes_found()[made_by([])[recipe]]
        rows, own = example_data(load(file))
        asked = {key: parse(value, key) for key, value in keys.items() if not key.startswith(("data.", "evaluate"))}
        if "data.limit" in keys:  # fewer than all, as for a reader: what is fitted to them differs
            asked["data.limit"] = len(rows) - 1
        run = mmssl.train(file, STAGE | own | asked, rows=rows)
        assert [row["step"] for row in run.rows()] == [3]


@every_recipe
def test_recipe_is_valid_and_survives_being_written_down(path: Path) -> None:
    recipe = load(path)
    again = load(parse(recipe.to_yaml(), "resolved recipe"))
    assert again.resolved() == recipe.resolved()
    assert again.fingerprint == recipe.fingerprint


@every_recipe
def test_recipe_opens_with_a_header(path: Path) -> None:
    first = header(path).partition("\n")[0]
    assert len(first) > 20, "a recipe opens with a comment: what it is, paper, hardware, minutes, result, command"


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of the objective: views and neighbours are drawn in test_pictures.py, and take longer than the training."""
    for name in ("seen_views", "alike"):
        monkeypatch.setattr(f"mmssl.training.pictures.{name}", lambda *given: {})


@every_recipe
@pytest.mark.usefixtures("few_pictures")
def test_recipe_runs_from_raw_samples_to_a_published_model(path: Path, tmp_path: Path) -> None:
    rows, keys = example_data(load(path))
    run = mmssl.train(path, SMALL | keys | with_stand_ins(path, tmp_path) | {"run.dir": str(tmp_path)}, rows=rows)
    assert run.folder == tmp_path / path.stem
    assert [row["step"] for row in run.rows()] == [3]
    assert run.report_file.is_file()
    model, processor = AutoModel.from_pretrained(run.model_folder), AutoProcessor.from_pretrained(run.model_folder)
    for name in load(path).modalities:
        with torch.no_grad():
            output = model(**processor(**{find(name).keyword: find(name).example(2, 1)}))
        assert output.pooler_output.shape == (2, model.pooled_size(name))
        assert output.pooler_output.isfinite().all()

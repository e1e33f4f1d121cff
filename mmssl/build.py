"""From a recipe's sections, or a saved model, to processor, model and objective."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmssl.config import SIZES, MMSSLConfig
from mmssl.data import Labels, Source
from mmssl.modality import Modality, find
from mmssl.model import MMSSLModel
from mmssl.objectives import OBJECTIVES, Objective, Setup
from mmssl.processor import MMSSLProcessor
from mmssl.progress import track
from mmssl.recipe import Recipe, RecipeError

FREE = ("drop_path_rate", "pooling")
"""Encoder keys that may differ from a saved model's: no weight depends on them."""
READ = 1024
"""Rows read at a time while statistics are fitted."""


@dataclass(frozen=True)
class Pieces:
    """What a recipe describes, before any training."""

    processor: MMSSLProcessor
    objective: Objective


def build(recipe: Recipe, source: Source, labels: Labels | None, fitted: MMSSLProcessor | None = None) -> Pieces:
    """The processor (fitted on `source` unless given), and the objective with its model, weights drawn from the recipe's seed."""
    saved = saved_model(recipe)
    torch.manual_seed(recipe.section("run").seed)
    processor = fitted or (MMSSLProcessor.from_pretrained(saved) if saved else fit_processor(recipe, source))
    model = load_saved(recipe, saved) if saved else MMSSLModel(make_config(recipe, processor))
    augments = {name: find(name).augment(**parts["augment"]) for name, parts in recipe.modalities.items()}
    name, settings = recipe.objective
    return Pieces(processor, OBJECTIVES[name](model, Setup(augments, labels), **settings))


def run_to_continue(recipe: Recipe) -> Path | None:
    """The run whose weights, optimizer and schedule `init` asks to carry on, perhaps on new data; None if it names a model."""
    folder = Path(recipe.init or "")
    return folder if recipe.init and (folder / "checkpoints").is_dir() else None


def saved_model(recipe: Recipe) -> str | None:
    """The model, folder or Hub id, whose weights `init` asks for; None if there is none, or if it names a run to continue."""
    return None if run_to_continue(recipe) else recipe.init


def fit_processor(recipe: Recipe, source: Source) -> MMSSLProcessor:
    """The processors of a recipe's modalities, those with statistics or vocabularies fitted on all rows of `source`."""
    processors = {}
    for name, parts in recipe.modalities.items():
        modality = find(name)
        processor = modality.processor(**parts["processor"])
        if not processor.fitted:
            processor.fit(raw_samples(source, modality))
        processors[name] = processor
    return MMSSLProcessor(processors)


def raw_samples(source: Source, modality: Modality) -> Iterator[Any]:
    """All raw samples of a modality, in order."""
    narrow = source.only([modality])
    for start in track(range(0, len(source), READ), f"fitting {modality.name}", unit="reads"):
        for row in narrow.rows(range(start, min(start + READ, len(source)))):
            yield narrow.raw(modality, row)


def make_config(recipe: Recipe, processor: MMSSLProcessor) -> MMSSLConfig:
    """The configuration of a new model."""
    settings = processor.settings()
    modalities = {name: {"processor": settings[name], "adapter": parts["adapter"]} for name, parts in recipe.modalities.items()}
    return MMSSLConfig(modalities=modalities, **recipe.section("encoder"))


def load_saved(recipe: Recipe, saved: str) -> MMSSLModel:
    """The saved model with the recipe's modalities. RecipeError if the recipe describes another architecture."""
    config = MMSSLConfig.from_pretrained(saved)
    if wrong := [*encoder_differences(recipe, config), *modality_differences(recipe, config)]:
        raise RecipeError(f"init: {saved} has another architecture than the recipe:\n  " + "\n  ".join(wrong))
    config.modalities = {name: config.modalities[name] for name in recipe.modalities}
    for key in FREE:
        if key in recipe.given("encoder"):
            setattr(config, key, recipe.given("encoder")[key])
    model: MMSSLModel = MMSSLModel.from_pretrained(saved, config=config)
    return model


def encoder_differences(recipe: Recipe, config: MMSSLConfig) -> Iterator[str]:
    """Lines for the encoder keys that the recipe sets to something else than the saved model has."""
    given = recipe.given("encoder")
    wanted = SIZES.get(given.pop("size", None) or "", {}) | {key: value for key, value in given.items() if value is not None}
    saved = config.to_dict()
    for key, value in wanted.items():
        if key not in FREE and _listed(saved[key]) != _listed(value):
            yield f"encoder.{key}: {value} in the recipe, {saved[key]} in the model"


def modality_differences(recipe: Recipe, config: MMSSLConfig) -> Iterator[str]:
    """Lines for the modalities, and their processor and adapter keys, that the saved model does not have."""
    for name, parts in recipe.given("modalities").items():
        if name not in config.modalities:
            yield f"modalities.{name}: the model has {', '.join(config.modalities)}"
            continue
        for part in ("processor", "adapter"):
            saved = config.modalities[name][part]
            for key, value in parts.get(part, {}).items():
                if value is not None and key in saved and _listed(saved[key]) != _listed(value):
                    yield f"modalities.{name}.{part}.{key}: {value} in the recipe, {saved[key]} in the model"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""Where the weights of a run come from: a saved model, or a run that goes on."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel, load_model
from mmssl.model.config import SIZES
from mmssl.model.public import saved_config
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe, RecipeError

FREE = ("dropout", "drop_path_rate", "pooling", "initializer")
"""Encoder keys that may differ from a saved model's: no trained weight depends on them."""


def new_modalities(recipe: Recipe, saved: str, before: MMSSLProcessor) -> list[str]:
    """A note on the modalities of the recipe that the saved model lacks, if there are any."""
    new = [name for name in recipe.modalities if name not in before.processors]
    return [f"init: {saved} has {', '.join(before.processors)}; {', '.join(new)} starts from random weights"] if new else []


def with_changes(recipe: Recipe, before: MMSSLProcessor) -> MMSSLProcessor:
    """The processors of a saved model, with what the recipe sets otherwise of that on which no weight depends."""
    found = dict(before.processors)
    for name, parts in recipe.given("modalities").items():
        if name in found:
            kind = type(found[name])
            given = {key: value for key, value in parts.get("processor", {}).items() if key in kind.free}
            found[name] = kind(**found[name].settings() | given) if given else found[name]
    return MMSSLProcessor(found)


def freeze(model: MMSSLModel, trained: Sequence[str], known: Sequence[str]) -> None:
    """Let only the adapters of the `trained` modalities learn, and the experts of those that are not yet `known`."""
    model.requires_grad_(False)
    for name in trained:
        model.adapter(name).requires_grad_(True)
        if model.config.has_experts and name not in known:
            for layer in model.encoder.layers:
                layer.get_submodule(f"mlp.{name}").requires_grad_(True)


def brought_along(model: MMSSLModel, known: Collection[str]) -> list[nn.Parameter]:
    """The weights that came with a saved model: all but the adapters, and experts, of modalities that are not `known`."""
    new = [name for name in model.config.modalities if name not in known]
    parts: list[nn.Module] = [model.adapter(name) for name in new]
    if model.config.has_experts:
        parts += [layer.get_submodule(f"mlp.{name}") for layer in model.encoder.layers for name in new]
    fresh = {id(parameter) for part in parts for parameter in part.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in fresh]


def run_to_continue(recipe: Recipe) -> Path | None:
    """The run whose weights, optimizer and schedule `init` asks to carry on, perhaps on new data; None if it names a model."""
    folder = Path(recipe.init or "")
    return folder if recipe.init and any((folder / name).exists() for name in ("checkpoints", "run.json")) else None


def saved_model(recipe: Recipe) -> str | None:
    """The model, folder or Hub id, whose weights `init` asks for; None if there is none, or if it names a run to continue."""
    return None if run_to_continue(recipe) else recipe.init


def make_config(recipe: Recipe, processor: MMSSLProcessor) -> MMSSLConfig:
    """The configuration of a new model."""
    return MMSSLConfig(modalities=modality_settings(recipe, processor, list(recipe.modalities)), **recipe.section("encoder"))


def modality_settings(recipe: Recipe, processor: MMSSLProcessor, names: Sequence[str]) -> dict[str, Any]:
    """What a configuration says about modalities of a recipe."""
    settings = processor.settings()
    return {name: {"processor": settings[name], "adapter": recipe.modalities[name]["adapter"]} for name in names}


def load_saved(recipe: Recipe, saved: str, processor: MMSSLProcessor, *, keep: bool) -> MMSSLModel:
    """The saved model with the recipe's modalities, those that it lacks with random weights; `keep` its other modalities as well.

    RecipeError if the recipe describes another architecture.
    """
    config = saved_config(saved, list(recipe.modalities))
    if hasattr(config, "auto_map"):
        del config.auto_map  # the code beside a published model is not that of what is trained from it
    if wrong := [*encoder_differences(recipe, config), *modality_differences(recipe, config)]:
        raise RecipeError(f"init: {saved} has another architecture than the recipe:\n  " + "\n  ".join(wrong))
    for name, parts in config.modalities.items():
        parts["processor"] = processor.settings().get(name, parts["processor"])
    new = [name for name in recipe.modalities if name not in config.modalities]
    kept = {name: value for name, value in config.modalities.items() if keep or name in recipe.modalities}
    config.modalities = kept | modality_settings(recipe, processor, new)
    for key in FREE:
        if key in recipe.given("encoder"):
            setattr(config, key, recipe.given("encoder")[key])
    return load_model(saved, config).float()  # training needs float32, whatever the folder holds


def encoder_differences(recipe: Recipe, config: MMSSLConfig) -> Iterator[str]:
    """Lines for the encoder keys that the recipe sets to something else than the saved model has."""
    given = recipe.given("encoder")
    wanted = SIZES.get(given.pop("size", None) or "", {}) | {key: value for key, value in given.items() if value is not None}
    saved = config.to_dict()
    for key, value in wanted.items():
        if key not in FREE and _listed(saved[key]) != _listed(value):
            yield f"encoder.{key}: {value} in the recipe, {saved[key]} in the model"


def modality_differences(recipe: Recipe, config: MMSSLConfig) -> Iterator[str]:
    """Lines for the processor and adapter keys of the saved model's modalities that the recipe sets to something else."""
    for name, parts in recipe.given("modalities").items():
        if name not in config.modalities:
            continue
        for part in ("processor", "adapter"):
            saved = config.modalities[name][part]
            for key, value in parts.get(part, {}).items():
                if part == "processor" and key in find(name).processor.free:
                    continue
                if value is not None and key in saved and _listed(saved[key]) != _listed(value):
                    yield f"modalities.{name}.{part}.{key}: {value} in the recipe, {saved[key]} in the model"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""From a recipe's sections, or a saved model, to processor, model and objective."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmssl.config import SIZES, MMSSLConfig
from mmssl.data import Labels, Source, Stream, Track, cut, silent
from mmssl.data.loader import READ
from mmssl.modality import Modality, Processor, ReadsProcessor, find
from mmssl.model import MMSSLModel, load_model
from mmssl.objectives import OBJECTIVES, Objective, Setup
from mmssl.objectives.base import Augment
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe, RecipeError

FREE = ("dropout", "drop_path_rate", "pooling")
"""Encoder keys that may differ from a saved model's: no weight depends on them."""


@dataclass(frozen=True)
class Pieces:
    """What a recipe describes, before any training. notes: what whoever runs it should be told."""

    processor: MMSSLProcessor
    objective: Objective
    notes: tuple[str, ...] = ()


def build(
    recipe: Recipe,
    streams: Mapping[str, Stream],
    labels: Labels | None,
    fitted: MMSSLProcessor | None = None,
    *,
    track: Track = silent,
) -> Pieces:
    """The processor (fitted on its source unless given), and the objective with its model, weights drawn from the recipe's seed."""
    saved, frozen = saved_model(recipe), recipe.section("train").freeze is not None
    if frozen and recipe.init is None:
        raise RecipeError("train.freeze: a frozen encoder must come from a trained model; name it, as in init: runs/mae/model")
    torch.manual_seed(recipe.section("run").seed)
    before = MMSSLProcessor.from_pretrained(saved) if saved else None
    processor = fitted or fit_processor(recipe, streams, before, track=track)
    model = load_saved(recipe, saved, processor, keep=frozen) if saved else MMSSLModel(make_config(recipe, processor))
    if frozen:
        freeze(model, list(recipe.modalities), known=list(before.processors) if before else [])
    augments = {
        name: augment_of(find(name), parts["augment"], processor.processors[name]) for name, parts in recipe.modalities.items()
    }
    name, settings = recipe.objective
    notes = new_modalities(recipe, saved, before) if saved and before else []
    return Pieces(processor, OBJECTIVES[name](model, Setup(augments, labels), **settings), tuple(notes))


def new_modalities(recipe: Recipe, saved: str, before: MMSSLProcessor) -> list[str]:
    """A note on the modalities of the recipe that the saved model lacks, if there are any."""
    new = [name for name in recipe.modalities if name not in before.processors]
    return [f"init: {saved} has {', '.join(before.processors)}; {', '.join(new)} starts from random weights"] if new else []


def augment_of(modality: Modality, keys: Mapping[str, Any], processor: Processor) -> Augment:
    """The random view that a recipe asks for, of samples of a fitted processor."""
    augment = modality.augment(**keys)
    return augment.with_processor(processor) if isinstance(augment, ReadsProcessor) else augment


def freeze(model: MMSSLModel, trained: Sequence[str], known: Sequence[str]) -> None:
    """Let only the adapters of the `trained` modalities learn, and the experts of those that are not yet `known`."""
    model.requires_grad_(False)
    for name in trained:
        model.adapter(name).requires_grad_(True)
        if model.config.has_experts and name not in known:
            for layer in model.encoder.layers:
                layer.get_submodule(f"mlp.{name}").requires_grad_(True)


def run_to_continue(recipe: Recipe) -> Path | None:
    """The run whose weights, optimizer and schedule `init` asks to carry on, perhaps on new data; None if it names a model."""
    folder = Path(recipe.init or "")
    return folder if recipe.init and (folder / "checkpoints").is_dir() else None


def saved_model(recipe: Recipe) -> str | None:
    """The model, folder or Hub id, whose weights `init` asks for; None if there is none, or if it names a run to continue."""
    return None if run_to_continue(recipe) else recipe.init


def fit_processor(
    recipe: Recipe, streams: Mapping[str, Stream], before: MMSSLProcessor | None = None, *, track: Track = silent
) -> MMSSLProcessor:
    """The processors of a recipe's modalities, those with statistics or vocabularies fitted on all rows of their sources.

    before: the processors of a saved model, which stay as they are; those of modalities that the recipe does not train stay only
        where its encoder is frozen, as the others would no longer fit their encoder.
    """
    known = before.processors if before else {}
    keep = recipe.section("train").freeze is not None
    processors = {name: processor for name, processor in known.items() if keep or name in recipe.modalities}
    for name, parts in recipe.modalities.items():
        if name in known:
            continue
        modality = find(name)
        processor = modality.processor(**parts["processor"])
        if not processor.fitted:
            source = next(stream.source for stream in streams.values() if name in stream.modalities)
            processor.fit(raw_samples(source, modality, track))
        processors[name] = processor
    return MMSSLProcessor(processors)


def labels_of(recipe: Recipe, streams: Mapping[str, Stream]) -> Labels | None:
    """The labels, if the objective learns from them; ValueError if there are several sources.

    Rows that are held out have their say in what kind of labels there are, and which classes: scores go by all of them.
    """
    if not recipe.needs_labels:
        return None
    if len(streams) > 1:
        raise ValueError(
            f"objective {recipe.objective[0]} learns the labels of one source; got {', '.join(streams)}. Use data.path"
        )
    source = next(iter(streams.values())).source
    return source.labels(like=source.whole().labels() if source.num_held_out else None)


def modalities_of(stream: Stream, processor: MMSSLProcessor) -> dict[str, tuple[Modality, Processor]]:
    """The plug-ins and processors of the modalities of a source."""
    return {name: (find(name), processor.processors[name]) for name in stream.modalities}


def cut_stream(stream: Stream, processor: MMSSLProcessor, track: Track = silent) -> Stream:
    """The stream with a sample for every piece of a long row; see `mmssl.data.cut`."""
    return replace(stream, source=cut(stream.source, modalities_of(stream, processor), track=track))


def raw_samples(source: Source, modality: Modality, track: Track) -> Iterator[Any]:
    """All raw samples of a modality, in order."""
    narrow = source.only([modality])
    for start in track(range(0, len(source), READ), f"fitting {modality.name}", unit="reads"):
        for row in narrow.rows(range(start, min(start + READ, len(source)))):
            yield narrow.raw(modality, row)


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
    config = MMSSLConfig.from_pretrained(saved)
    if wrong := [*encoder_differences(recipe, config), *modality_differences(recipe, config)]:
        raise RecipeError(f"init: {saved} has another architecture than the recipe:\n  " + "\n  ".join(wrong))
    new = [name for name in recipe.modalities if name not in config.modalities]
    kept = {name: value for name, value in config.modalities.items() if keep or name in recipe.modalities}
    config.modalities = kept | modality_settings(recipe, processor, new)
    for key in FREE:
        if key in recipe.given("encoder"):
            setattr(config, key, recipe.given("encoder")[key])
    return load_model(saved, config)


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
                if value is not None and key in saved and _listed(saved[key]) != _listed(value):
                    yield f"modalities.{name}.{part}.{key}: {value} in the recipe, {saved[key]} in the model"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""From a recipe's sections, or a saved model, to processor, model and objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmssl.data import Labels, Stream, Track, cut, raw_samples, silent
from mmssl.data.loader import holdings
from mmssl.modality import Content, Modality, Processor, ReadsProcessor, find
from mmssl.model import MMSSLModel
from mmssl.model.adaptation import Adaptation, adapt
from mmssl.model.model import LABEL
from mmssl.model.public import saved_processor, told
from mmssl.objectives import OBJECTIVES, Objective, Setup
from mmssl.objectives.base import Augment
from mmssl.objectives.views import ViewOptions, Views
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe, RecipeError
from mmssl.training.start import (
    brought_along,
    freeze,
    load_saved,
    make_config,
    new_modalities,
    run_to_continue,
    saved_model,
    with_changes,
)

EXAMINED = 10_000
"""Samples of a source, evenly spaced, by which it is told what they hold."""


@dataclass(frozen=True)
class Pieces:
    """What a recipe describes, before any training.

    notes: what whoever runs it should be told. brought: weights of the objective that a saved model brought along.
    """

    processor: MMSSLProcessor
    objective: Objective
    notes: tuple[str, ...] = ()
    brought: tuple[nn.Parameter, ...] = ()


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
    adaptation: Adaptation | None = recipe.section("peft")
    if adaptation is not None:
        check_adapted(recipe)
    if frozen and recipe.init is None:
        raise RecipeError("train.freeze: a frozen encoder must come from a trained model; name it, as in init: runs/mae/model")
    if recipe.section("train").warm_heads and run_to_continue(recipe):
        raise RecipeError(
            f"train.warm_heads: the run {recipe.init} goes on with its heads; set it to 0, or init to {recipe.init}/model"
        )
    torch.manual_seed(recipe.section("run").seed)
    before = with_changes(recipe, saved_processor(saved, list(recipe.modalities))) if saved else None
    processor = fitted or fit_processor(recipe, streams, before, track=track)
    model = load_saved(recipe, saved, processor, keep=frozen) if saved else MMSSLModel(make_config(recipe, processor))
    if not (recipe.needs_labels or recipe.predicts):
        model.unlabel()
    kept = dict(model.heads or {}).get(LABEL)
    if adaptation is not None:
        adapt(model, adaptation)
    brought = brought_along(model, before.processors) if before else []
    if frozen:
        freeze(model, list(recipe.modalities), known=list(before.processors) if before else [])
    augments = {
        name: augment_of(find(name), parts["augment"], processor.processors[name]) for name, parts in recipe.modalities.items()
    }
    views = {
        name: {kind: views_of(find(name), keys, processor.processors[name]) for kind, keys in parts["views"].items()}
        for name, parts in recipe.modalities.items()
        if parts["views"]
    }
    labels = in_steps(labels, streams, processor)
    name, settings = recipe.objective
    if OBJECTIVES[name].pairs:
        check_pairs(streams, processor)
    notes = told(saved, list(recipe.modalities)) if saved else []
    notes += new_modalities(recipe, saved, before) if saved and before else []
    counted, grouped = partial(samples_of, streams, processor), partial(group_labels_of, streams)
    setup = Setup(augments, labels, views, samples=counted, group_labels=grouped)
    objective = OBJECTIVES[name](model, setup, **settings)
    notes += [
        f"{each} learns nothing, as no objective reads it: leave modalities.{each} out, or objective.modality"
        for each in recipe.modalities
        if each not in objective.views
    ]
    if kept is not None and dict(model.heads or {}).get(LABEL) is kept:
        notes.append(f"init: the label head of {saved} is trained on, with its {model.config.num_labels} outputs")
    if adaptation is not None and before:
        learn_beside(model, [name for name in recipe.modalities if name not in before.processors])
        notes.append(f"peft: {trainable(model):.2%} of the model's {sum(map(Tensor.numel, model.parameters())):,} parameters learn")
    used = {id(parameter) for parameter in objective.parameters()}  # heads of another shape give way to new ones
    return Pieces(processor, objective, tuple(notes), tuple(each for each in brought if id(each) in used))


def check_adapted(recipe: Recipe) -> None:
    """RecipeError unless there is a trained model to adapt."""
    if recipe.init is None:
        raise RecipeError("peft: adapters need a trained model to be put into; name it, as in init: runs/mae/model")
    if recipe.section("train").freeze is not None:
        raise RecipeError("peft and train.freeze both say what stays as it is; leave one of them out")
    if run_to_continue(recipe):
        raise RecipeError(f"peft: the run {recipe.init} goes on as it is; to adapt its model set init to {recipe.init}/model")


def learn_beside(model: MMSSLModel, new: Sequence[str]) -> None:
    """Let what is not the base's learn beside its adapters: heads, and the adapters of modalities that it lacked."""
    for part in (*([] if model.heads is None else [model.heads]), *(model.adapter(name) for name in new)):
        part.requires_grad_(True)


def trainable(model: MMSSLModel) -> float:
    """The share of a model's parameters that learns."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)


def samples_of(streams: Mapping[str, Stream], processor: MMSSLProcessor) -> int | None:
    """How many samples there are, long rows cut; None if they come from several sources."""
    return len(cut_stream(next(iter(streams.values())), processor).source) if len(streams) == 1 else None


def group_labels_of(streams: Mapping[str, Stream]) -> Int[Tensor, "g m"] | None:
    """The labels of each group of the only source; None if there are several, or nothing says what belongs together."""
    found = next(iter(streams.values())).source.group_labels() if len(streams) == 1 else None
    return None if found is None else torch.from_numpy(found)


def augment_of(modality: Modality, keys: Mapping[str, Any], processor: Processor) -> Augment:
    """The random view that a recipe asks for, of samples of a fitted processor."""
    augment = modality.augment(**keys)
    return augment.with_processor(processor) if isinstance(augment, ReadsProcessor) else augment


def check_pairs(streams: Mapping[str, Stream], processor: MMSSLProcessor) -> None:
    """ValueError if no row of any source holds two modalities; reads as far as the first that does."""
    for stream in streams.values():
        found = modalities_of(stream, processor)
        if len(found) > 1 and any(len(held) > 1 for held in holdings(stream.source, found)):
            return
    sources = ", ".join(f"{stream.source} ({', '.join(stream.modalities)})" for stream in streams.values())
    raise ValueError(
        f"no row holds two modalities, which are to be paired: {sources}. Check data.columns, and that their cells are not empty; "
        "of several sources list those that one holds together, as in modalities: [a, b]"
    )


def views_of(modality: Modality, keys: Mapping[str, Any], processor: Processor) -> Views:
    """A kind of views that a recipe asks for."""
    own = {field.name: keys[field.name] for field in fields(ViewOptions)}
    augment = {key: value for key, value in keys.items() if key not in own}
    return Views(augment=augment_of(modality, augment, processor), **own)


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
            try:
                processor.fit(raw_samples(source, modality, f"fitting {modality.name}", track=track))
            except (ValueError, TypeError) as error:
                raise type(error)(f"{source}, {name}: {error}") from error
        processors[name] = processor
    return MMSSLProcessor(processors)


def labels_of(recipe: Recipe, streams: Mapping[str, Stream]) -> Labels | None:
    """The labels, if the objective learns from them; ValueError if there are several sources.

    Rows that are held out have their say in what kind of labels there are, and which classes: scores go by all of them. Else the
    objective's key `kind` says what they are.
    """
    if not recipe.needs_labels:
        return None
    if len(streams) > 1:
        raise ValueError(
            f"objective {recipe.objective[0]} learns the labels of one source; got {', '.join(streams)}. Use data.path"
        )
    source = next(iter(streams.values())).source
    kind = recipe.label_kind
    found = source.labels(kind=kind, like=source.whole().labels(kind=kind) if source.num_held_out else None)
    if found is not None and source.background is not None and not found.segments:
        raise ValueError(
            f"data.background={source.background!r} is the class of steps outside of all segments (start, end, label); the labels "
            f"of {source} are none. Leave it out"
        )
    return found


def in_steps(labels: Labels | None, streams: Mapping[str, Stream], processor: MMSSLProcessor) -> Labels | None:
    """The labels, steps counted where they are segments of time: how many a sample has its processor knows."""
    (stream, *others) = streams.values()
    if labels is None or not labels.segments or others or len(stream.modalities) > 1:
        return labels
    (name,) = stream.modalities
    return stream.source.in_steps(find(name), processor.processors[name]).labels(like=labels)


def modalities_of(stream: Stream, processor: MMSSLProcessor) -> dict[str, tuple[Modality, Processor]]:
    """The plug-ins and processors of the modalities of a source."""
    return {name: (find(name), processor.processors[name]) for name in stream.modalities}


def cut_stream(stream: Stream, processor: MMSSLProcessor, track: Track = silent) -> Stream:
    """The stream with a sample for every piece of a long row; see `mmssl.data.cut`."""
    return replace(stream, source=cut(stream.source, modalities_of(stream, processor), track=track))


def contents_of(stream: Stream, processor: MMSSLProcessor, track: Track = silent) -> dict[str, list[Content]]:
    """What the modalities of a source took its samples for, by modality; of many samples `EXAMINED` are looked at."""
    some = stream.source.evenly(EXAMINED)
    return {
        name: each.contents(raw_samples(some, modality, f"looking at {name}", track=track))
        for name, (modality, each) in modalities_of(stream, processor).items()
    }

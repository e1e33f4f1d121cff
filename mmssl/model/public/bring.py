"""From a public encoder to a model of mmssl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl.modality import find
from mmssl.model.config import MMSSLConfig
from mmssl.model.model import MMSSLModel
from mmssl.model.public.source import CONFIG, MMSSL, OPEN_CLIP_CONFIG, Source
from mmssl.model.public.table import Config, Family, translated
from mmssl.model.public.weights import Prefixed, Shape
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor, check_folder

SENTENCE = {"mean_tokens": "mean", "mean": "mean", "cls_token": "first", "cls": "first", "lasttoken": "last"}
"""Poolings of sentence-transformers, and ours."""
SHOWN = 3
"""Names of weights in a message."""


@dataclass(frozen=True)
class Public:
    """A public encoder in mmssl's terms.

    modality: whose adapter it has. theirs: its configuration. config: of the model. weights: which of them became what.
    """

    source: Source
    family: Family
    modality: str
    theirs: Config
    config: MMSSLConfig
    weights: "Weights"

    def processor(self) -> MMSSLProcessor:
        """Its preprocessing."""
        return MMSSLProcessor.from_settings({self.modality: self.config.modalities[self.modality]["processor"]})

    def load(self, config: MMSSLConfig | None = None, kind: type[MMSSLModel] = MMSSLModel) -> MMSSLModel:
        """A model with its weights. config: in the place of its own, perhaps with modalities that start from random weights."""
        model = kind(config or self.config.derive())
        state, _ = brought(self.source, self.family, self.modality, self.theirs, self.config)
        model.load_state_dict(state, strict=False)
        return model

    @property
    def notes(self) -> list[str]:
        """What was mapped, what stays behind, and what is new, a sentence each."""
        found = [
            f"init: {self.source.path} is a {self.family.name}; {self.weights.mapped} of its weights are mapped into "
            f"the encoder and the adapter of {self.modality}"
        ]
        if self.weights.left:
            found.append(f"init: left behind: {briefly(self.weights.left)}")
        if self.weights.zeros:
            found.append(f"init: new, and zero as the original has none: {briefly(self.weights.zeros)}")
        return found


@dataclass(frozen=True)
class Weights:
    """What became of weights: how many of theirs are mapped, which stay behind, and which biases of ours they lack."""

    mapped: int
    left: tuple[str, ...]
    zeros: tuple[str, ...]


def briefly(names: Sequence[str]) -> str:
    """The first names of a list."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def is_public(model: str) -> bool:
    """Whether a folder or Hub id is an encoder that mmssl did not save. What is neither is none."""
    try:
        kind = Source(model).kind
    except OSError:
        return False
    return kind not in (None, MMSSL)


def saved_config(model: str | Path, wanted: Sequence[str] = ()) -> MMSSLConfig:
    """The configuration of a saved model, or of a public encoder in mmssl's terms, which may be changed."""
    if is_public(str(model)):
        return open_public(str(model), tuple(wanted)).config.derive()
    return MMSSLConfig.from_pretrained(model)


def saved_processor(model: str | Path, wanted: Sequence[str] = ()) -> MMSSLProcessor:
    """The processor of a saved model, or the preprocessing of a public encoder."""
    if is_public(str(model)):
        return open_public(str(model), tuple(wanted)).processor()
    return MMSSLProcessor.from_pretrained(model)


def told(model: str, wanted: Sequence[str] = ()) -> list[str]:
    """What should be told of a public encoder; nothing of a model that mmssl saved."""
    return open_public(model, tuple(wanted)).notes if is_public(model) else []


def families() -> list[tuple[str, Family]]:
    """What installed modalities read, with the name of the modality."""
    return [(name, family) for name in installed() for family in find(name).public()]


@lru_cache(maxsize=4)
def open_public(model: str, wanted: tuple[str, ...] = ()) -> Public:
    """The public encoder in a folder or Hub id, in mmssl's terms.

    wanted: modalities of which it should read one, for encoders of several; empty: any.
    ValueError: of an unknown kind, or with a part that our encoder cannot express; its name is in the message.
    """
    check_folder(model, (CONFIG, OPEN_CLIP_CONFIG))
    source = Source(model)
    try:
        modality, family, config = chosen(source, wanted)
        family.check(config)
        settings = family.processor(source, config)
        ours = MMSSLConfig(
            modalities={modality: {"processor": settings, "adapter": translated(family.adapter, config, family.name)}},
            **translated(family.encoder, config, family.name) | (sentence_pooling(source) if family.pooling else {}),
        )
        _, weights = brought(source, family, modality, config, ours)
        return Public(source, family, modality, config, ours, weights)
    except ValueError as error:
        raise ValueError(f"init: {model}: {error}") from error


def sentence_pooling(source: Source) -> dict[str, str]:
    """How files of sentence-transformers say that tokens are pooled; empty if they do not. ValueError for a way that we lack."""
    found = source.json("1_Pooling/config.json")
    named = [key for key, value in found.items() if key.startswith("pooling_mode") and value is True]
    if not named and "pooling_mode" not in found:
        return {}
    way = str(found.get("pooling_mode") or "+".join(key.removeprefix("pooling_mode_") for key in named))
    if way not in SENTENCE:
        raise ValueError(f"1_Pooling/config.json pools by {way}, which mmssl cannot; it has {', '.join(SENTENCE)}")
    return {"pooling": SENTENCE[way]}


def chosen(source: Source, wanted: Sequence[str]) -> tuple[str, Family, Config]:
    """The family that reads it, with its modality, and the configuration. ValueError if there is none, or more than one."""
    known = families()
    fitting = [(name, family) for name, family in known if source.kind in family.kinds]
    if not fitting:
        names = sorted({family.name for _, family in known})
        raise ValueError(f"mmssl cannot read encoders of the kind {source.kind!r}; it reads {', '.join(names)}")
    there = [each for each in fitting if not wanted or each[0] in wanted]
    if not there:
        raise ValueError(f"a {fitting[0][1].name} encodes {fitting[0][0]}; the recipe trains {', '.join(wanted)}")
    if len(there) > 1:
        raise ValueError(f"it has encoders of {' and '.join(name for name, _ in there)}; name one of these modalities")
    name, family = there[0]
    config = source.config if family.describe is None else family.describe(source)
    if family.tower is not None and family.tower in config:
        config = config[family.tower]
    return name, family, config


def brought(source: Source, family: Family, modality: str, config: Config, ours: MMSSLConfig) -> tuple[dict[str, Tensor], Weights]:
    """The weights by our names, and what became of them. Read anew each time, as they may be large."""
    with torch.device("meta"):
        wanted = MMSSLModel(ours.derive()).state_dict()
    theirs = stripped(family, source.files)
    shape = shape_of(ours, wanted, modality)
    state, used = dict[str, Tensor](), set[str]()
    for row in family.rows:
        for names, targets in row.names(ours.num_hidden_layers):
            there = [name for name in names if name in theirs]
            if not there:
                continue
            form = row.form(config)
            targets = targets[1:] if isinstance(form, Prefixed) and not form.counts else targets
            made = form.read([source.read(theirs[name]).float() for name in there], shape)
            used.update(there)
            state |= zip((target.replace("adapter.", f"adapters.{modality}.", 1) for target in targets), made, strict=False)
    outside = [name for name in source.files if name not in theirs.values()]
    left = [name for name in theirs if name not in used]
    check_state(family, state, wanted, [name for name in left if not family.is_left(name)])
    zeros = [name for name in wanted if name not in state]
    state |= {name: torch.zeros(wanted[name].shape) for name in zeros}
    return state, Weights(len(used), (*left, *outside), tuple(zeros))


def stripped(family: Family, files: Mapping[str, Any]) -> dict[str, str]:
    """Their names of weights without what stands in front of the encoder's, and as they are in the file."""
    for prefix in family.strip:
        if any(name.startswith(prefix) for name in files):
            inside = {name.removeprefix(prefix): name for name in files if name.startswith(prefix)}
            others = {name: name for name in files if not name.startswith(prefix) and family.tower is None}
            return others | inside
    return {name: name for name in files}


def shape_of(ours: MMSSLConfig, wanted: Mapping[str, Tensor], modality: str) -> Shape:
    """What the forms of weights depend on."""
    adapter = find(modality)
    with torch.device("meta"):
        parts = ours.modalities[modality]
        patch = adapter.adapter(ours.hidden_size, adapter.processor(**parts["processor"]), **parts["adapter"]).patch
    found = () if patch is None else (patch.rows, patch.columns, patch.channels)
    return Shape(ours.hidden_size, ours.num_attention_heads, found)


def check_state(family: Family, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], unknown: Sequence[str]) -> None:
    """ValueError for weights without a place in our encoder, missing ones, and those of another shape than configured."""
    if unknown or (unplaced := [name for name in state if name not in wanted]):
        names = unknown or unplaced
        raise ValueError(f"this {family.name} has weights that mmssl's encoder has no place for: {briefly(names)}")
    missing = [name for name in wanted if name not in state and not is_zero(name, state)]
    if missing:
        raise ValueError(f"this {family.name} lacks weights of its encoder: {briefly(missing)}")
    wrong = [name for name, tensor in state.items() if tensor.shape != wanted[name].shape]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"this {family.name} has weights of another shape than its configuration says: {name} is {list(state[name].shape)}, "
            f"not {list(wanted[name].shape)}"
        )


def is_zero(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a weight of ours that they lack is the bias of a map that they have without one."""
    return name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in state

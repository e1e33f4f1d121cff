"""From a model of mmssl to a public encoder: `Family` read backwards."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from mmssl.modality import find
from mmssl.model.config import MMSSLConfig
from mmssl.model.loading import no_weights_bar
from mmssl.model.model import MMSSLModel
from mmssl.model.public.bring import shape_of, stripped
from mmssl.model.public.source import Source
from mmssl.model.public.table import Family, Native, Of, Ours, translated
from mmssl.model.public.weights import Prefixed

UNSAID = {"dropout", "drop_path_rate", "initializer", "initializer_range", "pooling", "projections", "logit_scale", "logit_bias"}
"""Fields of a configuration that say nothing of the encoder's outputs."""
WEIGHTS = "model.safetensors"
POOLER = "pooler.dense."
"""What stock models put on the first token where ours have nothing: written as a map that changes nothing."""


@dataclass(frozen=True)
class Difference:
    """A setting of ours that a family has otherwise: its recipe key, our value, and the family's."""

    key: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.key} is {shown(self.ours)} and would have to be {shown(self.theirs)}"


def shown(value: Any) -> str:
    """A value as a recipe has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def ours_of(config: MMSSLConfig) -> tuple[str, Ours]:
    """The one modality of a model, and all settings. ValueError for a model of several."""
    if len(config.modalities) != 1:
        raise ValueError(f"a model of transformers encodes one modality; this one has {', '.join(config.modalities)}")
    ((name, parts),) = config.modalities.items()
    plugin = find(name)
    known = inspect.signature(plugin.adapter).parameters.values()
    adapter = {each.name: each.default for each in known if each.kind is each.KEYWORD_ONLY} | dict(parts["adapter"])
    return name, Ours(config.to_dict(), adapter, plugin.processor(**parts["processor"]).settings())


def native_config(family: Family, native: Native, ours: Ours) -> PreTrainedConfig:
    """Their configuration for our settings, as near as it comes."""
    found: dict[str, Any] = {}
    for settings, values in ((family.encoder, ours.encoder), (family.adapter, ours.adapter)):
        for name, setting in settings.items():
            if isinstance(setting, Of) and "." not in setting.key:
                theirs = (
                    [values[name]] if setting.names is None else [key for key, own in setting.names.items() if own == values[name]]
                )
                found |= {setting.key: theirs[0]} if theirs and theirs[0] is not None else {}
    return AutoConfig.for_model(native.kind, **found | dict(native.config(ours)))


def differences(family: Family, native: Native, name: str, ours: Ours, folder: Path) -> list[Difference]:
    """What stands in the way: their configuration and the processor in `folder`, read as a public encoder's, against ours."""
    source = Source(str(folder))
    theirs = source.config
    back = MMSSLConfig(
        modalities={name: {"processor": ours.processor, "adapter": translated(family.adapter, theirs, family.name)}},
        **translated(family.encoder, theirs, family.name),
    )
    read = family.processor(source, theirs)
    _, other = ours_of(back)
    known = find(name).processor(**dict(ours.processor) | read).settings()
    pairs = [
        *((f"encoder.{key}", said(ours.encoder, key), said(other.encoder, key)) for key in encoder_keys(ours.encoder)),
        *((f"modalities.{name}.adapter.{key}", value, other.adapter[key]) for key, value in ours.adapter.items()),
        *((f"modalities.{name}.processor.{key}", value, known[key]) for key, value in ours.processor.items()),
    ]
    return [
        Difference(key, own, value)
        for key, own, value in pairs
        if key.rpartition(".")[2] not in native.free and unlike(key, own, value)
    ]


def said(encoder: Mapping[str, Any], key: str) -> Any:
    """What a field of our configuration says: of the bases of rotary positions those of the axes that have some."""
    if key != "rotary_base":
        return encoder[key]
    return [base for base, share in zip(encoder[key], encoder["rotary_share"], strict=True) if share]


def encoder_keys(encoder: Mapping[str, Any]) -> list[str]:
    """The fields of our configuration that say what the encoder computes."""
    common = set(MMSSLConfig().to_dict()) & set(MMSSLConfig.__annotations__) - UNSAID - {"modalities", "label_head"}
    unused = set()
    if not encoder["rotary_positions"]:
        unused |= {"rotary_base", "rotary_share", "local_rotary_base"}
    if encoder["attention_window"] is None:
        unused |= {"global_every", "local_rotary_base"}
    if not encoder["modality_experts"]:
        unused |= {"modality_experts"}
    return sorted(common - unused)


def unlike(key: str, ours: Any, theirs: Any) -> bool:
    """Whether two values of a setting mean something else."""
    if key == "encoder.layer_scale":  # an initial value, of weights that are there
        return (ours is None) != (theirs is None)
    if isinstance(ours, list | tuple) or isinstance(theirs, list | tuple):
        own, other = (list(value) if isinstance(value, list | tuple) else value for value in (ours, theirs))
        if isinstance(own, list) and isinstance(other, list):
            return len(own) != len(other) or any(unlike("", a, b) for a, b in zip(own, other, strict=True))
        single, several = (own, other) if isinstance(other, list) else (other, own)
        return single is None or not isinstance(several, list) or any(unlike("", single, each) for each in several)
    if isinstance(ours, float) or isinstance(theirs, float):
        return ours is None or theirs is None or abs(ours - theirs) > 1e-6 * max(1.0, abs(theirs))
    return bool(ours != theirs)


def write_native(model: MMSSLModel, family: Family, native: Native, name: str, ours: Ours, folder: Path) -> None:
    """Fill a folder, which has the processor's files and the configuration, with a stock model that has our weights.

    ValueError if weights of theirs are left without a value, or ours without a place.
    """
    config, opener = AutoConfig.from_pretrained(folder, trust_remote_code=False), getattr(transformers, native.opener)
    make = AutoModel.from_config if opener is AutoModel else opener
    with torch.random.fork_rng([]), no_weights_bar():
        torch.manual_seed(0)
        make(config).float().save_pretrained(folder)
    source = Source(str(folder))
    names = stripped(family, source.files)
    wanted = {name: source.read(file) for name, file in names.items()}
    made = given(model, family, source.config, name, wanted)
    state = {names[key]: (made[key] if key in made else filled(key, tensor)).contiguous() for key, tensor in wanted.items()}
    state |= {key: source.read(key) for key in source.files if key not in state}
    for file in set(source.files.values()):
        save_file({key: state[key] for key, place in source.files.items() if place == file}, file, {"format": "pt"})


def given(
    model: MMSSLModel, family: Family, config: Mapping[str, Any], name: str, wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Their weights, by their names, from ours. ValueError where the two do not fill each other."""
    state = {key.replace(f"adapters.{name}.", "adapter.", 1): value.float() for key, value in model.state_dict().items()}
    encoder = {key for key in state if key.startswith(("encoder.", "adapter."))}
    shape = shape_of(model.config, model.state_dict(), name)
    found, used = dict[str, Tensor](), set[str]()
    for row in family.rows:
        form = row.form(config)
        for theirs, ours in row.names(model.config.num_hidden_layers):
            ours = ours[1:] if isinstance(form, Prefixed) and not form.counts else ours
            ours = [key for key in ours if key in state]
            if not ours or not any(key in wanted for key in theirs):
                continue
            used.update(ours)
            made = form.write([state[key] for key in ours], shape)
            there = [key for key in theirs if key in wanted]
            found |= {key: value.reshape(wanted[key].shape) for key, value in zip(there, made, strict=False)}
    lost = [key for key in encoder - used if state[key].any()]
    empty = [key for key in wanted if key not in found and not family.is_left(key)]
    if lost or empty:
        raise ValueError(f"a {family.name} has no place for {sorted(lost)[:3]}, or nothing for {empty[:3]}")
    return found


def filled(key: str, tensor: Tensor) -> Tensor:
    """A weight outside the encoder, which ours lack."""
    if POOLER not in key:
        return tensor
    return torch.eye(len(tensor)) if tensor.dim() == 2 else torch.zeros_like(tensor)

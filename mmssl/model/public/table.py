"""What is known of a family of public encoders: its configuration and its weights in our terms, as tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor

from mmssl.model.public.source import Source
from mmssl.model.public.weights import How, Same

MISSING = object()
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Of:
    """A setting that their configuration holds.

    key: its name there, with dots for what lies deeper. names: our value for each of theirs; others we cannot express.
    default: where it says nothing.
    """

    key: str
    names: Mapping[Any, Any] | None = None
    default: Any = MISSING

    def value(self, config: Config, family: str) -> Any:
        """Our value. ValueError for one that cannot be expressed, or is not there."""
        found: Any = config
        for part in self.key.split("."):
            found = found.get(part, MISSING) if isinstance(found, Mapping) else MISSING
        found = self.default if found is MISSING else found
        if found is MISSING:
            raise ValueError(f"the configuration of this {family} lacks {self.key}")
        if self.names is None:
            return found
        if found not in self.names:
            known = ", ".join(map(repr, self.names))
            raise ValueError(
                f"{self.key}={found!r} of this {family} is a part that mmssl's encoder cannot express; it has {self.key} in {known}"
            )
        return self.names[found]


Setting = Of | Callable[[Config], Any] | int | float | str | bool | None | tuple[Any, ...]
"""A value of ours: one of theirs, one that is computed of theirs, or one that all of the family share."""


def translated(settings: Mapping[str, Any], config: Config, family: str) -> dict[str, Any]:
    """Our settings for their configuration."""

    def value(setting: Any) -> Any:
        if isinstance(setting, Of):
            return setting.value(config, family)
        return setting(config) if callable(setting) else setting

    return {name: value(setting) for name, setting in settings.items()}


@dataclass(frozen=True)
class Row:
    """Weights of theirs that are weights of ours.

    theirs, ours: names of modules, or of parameters where `parts` is empty; {n} stands for the number of a layer, `adapter.` for
        the modality's adapter. Of several of theirs those count that are there.
    how: the change of form; a function of their configuration where it depends on that.
    parts: parameters of the modules.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    how: How | Callable[[Config], How] = field(default_factory=Same)
    parts: tuple[str, ...] = ("weight", "bias")

    def form(self, config: Config) -> How:
        """The change of form for this configuration."""
        return self.how(config) if callable(self.how) else self.how

    def names(self, layers: int) -> list[tuple[list[str], list[str]]]:
        """Parameter names of theirs and of ours that belong together, of all layers."""
        theirs = [self.theirs] if isinstance(self.theirs, str) else list(self.theirs)
        ours = [self.ours] if isinstance(self.ours, str) else list(self.ours)
        numbers = range(layers) if any("{n}" in name for name in theirs) else range(1)
        return [
            ([_named(name, n, part) for name in theirs], [_named(name, n, part) for name in ours])
            for n in numbers
            for part in self.parts or ("",)
        ]


def _named(name: str, number: int, part: str) -> str:
    return name.replace("{n}", str(number)) + (f".{part}" if part else "")


@dataclass(frozen=True)
class Ours:
    """Settings of a model of one modality, with all defaults: of the encoder, the adapter and the processor."""

    encoder: Mapping[str, Any]
    adapter: Mapping[str, Any]
    processor: Mapping[str, Any]


@dataclass(frozen=True)
class Native:
    """The way back: how a model of ours becomes one of the family.

    kind: its `model_type`. config: keys of its configuration that no `Of` of the family says, from our settings.
    serve: writes the files of its processor into a folder. samples: raw samples that both processors should read alike.
    run: what the model in a folder makes of raw samples, with its own processor: encoded tokens in our order, and which are real.
    free: names of our settings that need not come back. opener: the class of transformers that opens it.
    """

    kind: str
    config: Callable[[Ours], Mapping[str, Any]]
    serve: Callable[[Path, Ours, Config], None]
    samples: Callable[[Ours], list[Any]]
    run: Callable[[Path, Sequence[Any]], tuple[Tensor, Tensor]]
    free: frozenset[str] = frozenset()
    opener: str = "AutoModel"


@dataclass(frozen=True)
class Family:
    """A family of public encoders.

    name: as its papers call it. kinds: `model_type` of its configurations, or what else tells it (timm, open_clip).
    encoder: fields of `MMSSLConfig`. adapter: recipe keys of the modality's adapter.
    processor: the settings of the modality's processor, from the folder and the configuration.
    rows: its weights.
    left: patterns of weights that are no part of the encoder (heads, poolers), which stay behind.
    requires: settings of theirs that must have one of these values, as ours has nothing else.
    strip: what may stand in front of the names of weights: the part of a model with a head that is the encoder.
    tower: of a model of several encoders, the key of the configuration of this one; its weights begin with what `strip` says.
    describe: makes the configuration, where there is none in a file.
    pooling: whether files of sentence-transformers beside it may say how it pools.
    native: the way back; None: transformers has no such class.
    """

    name: str
    kinds: tuple[str, ...]
    encoder: Mapping[str, Any]
    adapter: Mapping[str, Any]
    processor: Callable[[Source, Config], dict[str, Any]]
    rows: Sequence[Row]
    left: tuple[str, ...] = ()
    requires: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    strip: tuple[str, ...] = ()
    tower: str | None = None
    describe: Callable[[Source], Config] | None = None
    pooling: bool = False
    native: Native | None = None

    def is_left(self, name: str) -> bool:
        """Whether a weight of theirs stays behind."""
        return any(fnmatch(name, pattern) for pattern in self.left)

    def check(self, config: Config) -> None:
        """ValueError for a configuration with a part that our encoder cannot express."""
        for key, allowed in self.requires.items():
            value = Of(key, default=allowed[0]).value(config, self.name)
            if value not in allowed:
                raise ValueError(
                    f"{key}={value!r} of this {self.name} is a part that mmssl's encoder cannot express; it reads those with {key} "
                    f"in {', '.join(map(repr, allowed))}"
                )

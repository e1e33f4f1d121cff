"""A recipe is data: YAML that is parsed, checked against the signatures of the constructors that it names, and never executed."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, create_model

from mmssl.modality import Suited
from mmssl.plugins import installed, needed, packages
from mmssl.recipe import yaml12
from mmssl.recipe.automatic import AUTO, automatic_keys, without
from mmssl.recipe.hub import HUB, fetch
from mmssl.recipe.messages import problems, shown, suggest
from mmssl.recipe.options import RunOptions, TrainOptions
from mmssl.recipe.schedules import SCHEDULES, Schedule
from mmssl.recipe.sections import Constructor, Frozen, Section, Variants, choice, group, schema_of, section
from mmssl_catalogue import recipes_found

OPTIONAL = ("evaluate", "peft")
"""Sections that may be null, and are by default."""

CHOSEN = {
    "objective": "The objective, chosen by its key `name`.",
    "peft": "What alone learns of the model that `init` names, beside heads: adapters of the peft library; null: all of it learns.",
}
INIT = "saved model to start from, a folder or a Hub id; null: from random weights"
RESUME = "never: a new run; auto: continue the latest run of this name, if there is one; or the folder of the run to continue"
MODALITIES = "What goes in: per modality the keys of its processor, its adapter and its augmentation."

VIEWS = (
    "Kinds of random views by name, for objectives in which views agree: keys of augment, which stands for those not named, and "
    "how many there are. A teacher sees the views of the kind global; null or empty: two of augment."
)

MemoryRows = Sequence[dict[str, Any]] | Mapping[str, Sequence[dict[str, Any]]]
"""Data in memory: `mmssl.data.options.Rows`, which importing a recipe does not import."""

_ABSENT = object()


class RecipeError(ValueError):
    """What is wrong with a recipe, one line for each problem."""


def sections() -> dict[str, Constructor | Mapping[str, Constructor]]:
    """The constructor of each section, or constructors to choose from by `name`. Imported here, as that takes seconds."""
    from mmssl.data import DataOptions
    from mmssl.evaluation import EvaluateOptions
    from mmssl.model.adaptation import ADAPTATIONS
    from mmssl.model.config import encoder_settings
    from mmssl.objectives import OBJECTIVES

    return {
        "encoder": encoder_settings,
        "objective": OBJECTIVES,
        "data": DataOptions,
        "train": TrainOptions,
        "evaluate": EvaluateOptions,
        "peft": ADAPTATIONS,
        "run": RunOptions,
    }


def variants() -> Variants:
    """Types of keys that are given as `{name: ..., other keys}`, and their constructors by name."""
    from mmssl.data.mix import MIXINGS, Mixing
    from mmssl.masking import SAMPLERS, Sampler
    from mmssl.objectives import OBJECTIVES
    from mmssl.objectives.agree.losses import AGREEMENTS
    from mmssl.objectives.agree.parts import Agreement
    from mmssl.objectives.agree.predictors import ANSWERS, Answer
    from mmssl.objectives.predict.distances import LOSSES, Loss
    from mmssl.objectives.predict.parts import Predictor, Target
    from mmssl.objectives.predict.predictors import PREDICTORS
    from mmssl.objectives.predict.targets import TARGETS
    from mmssl.objectives.total import Part, part_of

    return [
        (Mixing, MIXINGS),
        (Sampler, SAMPLERS),
        (Predictor, PREDICTORS),
        (Target, TARGETS),
        (Agreement, AGREEMENTS),
        (Answer, ANSWERS),
        (Part, {name: part_of(OBJECTIVES[name]) for name in OBJECTIVES.own if name != "sum"}),
        (Loss, LOSSES),
        (Schedule, SCHEDULES),
    ]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A checked recipe with every default filled in. Made by `load`."""

    name: str
    root: Section = field(repr=False)
    settled: Mapping[str, Suited] = field(default_factory=dict)
    """Keys that were `auto`, with what was taken from the data for them."""

    def section(self, name: str) -> Any:
        """What the constructor of `encoder`, `data`, `train`, `evaluate`, `peft` or `run` makes of its keys; None if null."""
        built = [key for key in sections() if key != "objective"]
        if name not in built:
            raise LookupError(f"section() builds {', '.join(built)}; got {name!r}. The others are attributes of a recipe")
        keys = self.root[name]
        return None if keys is None else keys.build()

    def given(self, section: str) -> dict[str, Any]:
        """The keys of a section that the recipe itself sets, defaults left out, as JSON values."""
        keys: Section | None = self.root[section]
        return {} if keys is None else keys.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def modalities(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Per modality the keyword arguments of its `processor`, `adapter` and `augment`, and of each kind of its `views`."""
        found: dict[str, Section] = self.root["modalities"].values()
        return {name: {part: _arguments(parts, part) for part in parts.values()} for name, parts in found.items()}

    @property
    def objective(self) -> tuple[str, dict[str, Any]]:
        """The objective's name and its keyword arguments, samplers and other nested parts built."""
        keys: Section = self.root["objective"]
        return keys["name"], keys.arguments()

    @property
    def init(self) -> str | None:
        init: str | None = self.root["init"]
        return init

    @property
    def resume(self) -> str:
        resume: str = self.root["resume"]
        return resume

    @property
    def needs_labels(self) -> bool:
        """Whether the objective, or one of those that it adds up, trains with labels."""
        return bool(self._learners)

    @property
    def _learners(self) -> list[Section]:
        """The sections of objectives that train with labels."""
        return [part for part in self._objectives if type(part).constructor.needs_labels]

    @property
    def _objectives(self) -> list[Any]:
        """The sections of objectives: the whole one, and what stands under its key `parts`."""
        whole: Section = self.root["objective"]
        return [whole, *(whole.values().get("parts") or [])]

    @property
    def predicts(self) -> bool:
        """Whether the model that is trained predicts labels."""
        return any(type(part).constructor.predicts for part in self._objectives)

    @property
    def label_kind(self) -> Literal["classification", "regression", "multi_label", "dense"] | None:
        """What the objective takes its labels for, if its key `kind` says it."""
        kinds = {part.values().get("kind") for part in self._learners}
        kinds = {"classification" if kind == "ordinal" else kind for kind in kinds}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of values that the recipe left to the data, a sentence each."""
        return tuple(f"auto: {key} is {shown(suited.value)}: {suited.why}" for key, suited in self.settled.items())

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ for recipes that differ in any key, defaults included."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()[:16]

    def resolved(self) -> dict[str, Any]:
        """All keys with every default filled in, as JSON values."""
        return self.root.plain()

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, which `load` reads back."""
        return yaml12.dump(self.resolved())

    @staticmethod
    def read_resolved(path: Path) -> dict[str, Any]:
        """What `to_yaml` wrote, unchecked: it may be from another version of mmssl."""
        return _read_mapping(path)


def load(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str] = (), rows: MemoryRows | None = None
) -> Recipe:
    """Read and check a recipe.

    source: a file, the name of a recipe that comes with mmssl (`mmssl list recipes`), the recipe as a dict, or `hf://owner/name`, a
        model of the Hub that mmssl published, whose recipe is read as any other and never executed.
    overrides: texts `train.lr=1e-3` with YAML values, or a dict. A dotted key replaces all that lies below it; in a dict, a dict
        under a key without dots is merged into the section of that name.

    Keys whose value is `auto` get one from the data, which are read for it (`mmssl.recipe.settle`), or from these `rows`.

    RecipeError lists all problems, one line each; FileNotFoundError if there is no such recipe.
    """
    if isinstance(source, Mapping):
        name, where, data = "recipe", "recipe", _merge({}, source)
    else:
        path, is_published = find_recipe(source), str(source).startswith(HUB)
        name = str(source).partition("@")[0].rstrip("/").rpartition("/")[2] if is_published else path.stem
        where = str(source if is_published else path)
        data = _read_mapping(path)
    data = override(data, overrides)
    if data.get("modalities") == {}:
        raise RecipeError(f"{where}: modalities: name at least one, as in modalities: {{image: {{}}}}")
    automatic = automatic_keys(data)
    if not automatic:
        return Recipe(name, _checked(data, where))
    from mmssl.recipe.settle import settle  # it opens data: other recipes are read without

    plain = Recipe(name, _checked(override(without(data, automatic), {"train.max_minutes": 1.0}), where))
    try:
        settled = settle(automatic, list(plain.modalities), plain.section("data"), rows)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    return Recipe(name, _checked(override(data, {key: suited.value for key, suited in settled.items()}), where), settled)


def _checked(data: Mapping[str, Any], where: str) -> Section:
    """The sections of a recipe's data. RecipeError lists all problems."""
    modalities = data.get("modalities")
    model = _root(list(modalities) if isinstance(modalities, dict) else [], packages(set(_named(data))))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [f"{key}: {text}" for key, text in problems(error, model, data).items()]
        head = f"{where}: " if len(lines) == 1 else f"{where}: {len(lines)} problems\n  "
        raise RecipeError(head + "\n  ".join(lines)) from None


def override(data: Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """A recipe's data with some of it replaced; see `load`. RecipeError if a key leads through something that has no keys."""
    if isinstance(overrides, str):
        raise TypeError(f"overrides must be a dict or a list of texts key=value; got the text {overrides!r}")
    changes = _merge({}, overrides) if isinstance(overrides, Mapping) else dict(map(_split, overrides))
    out = _merge({}, data)
    for key, value in changes.items():
        if "." not in key and isinstance(value, Mapping) and isinstance(overrides, Mapping):
            out = _merge(out, {key: value})
        else:
            _set(out, key, value)
    return out


def _split(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"an override must be key=value, as in train.lr=1e-3; got {text!r}")
    return key.strip(), _parse(value, text)


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for i, part in enumerate(sections):
        if data.get(part) is None:
            data[part] = {}
        held: Any = data[part]
        if not isinstance(held, dict):
            section = ".".join(sections[: i + 1])
            below = [*sections[i + 1 :], last]
            whole = "{" + ": {".join(below) + f": {json.dumps(value)}" + "}" * len(below)
            way_out = f". Set all of it: {section}='{whole}'" if held == AUTO else ""
            raise RecipeError(f"{key}: {section} is {shown(held)}, which has no keys{way_out}")
        data = held
    data[last] = value


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `old` with the values of `new`; mappings are merged."""
    out = dict(old)
    for key, value in new.items():
        before = out.get(key)
        out[key] = _merge(before if isinstance(before, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return out


def _parse(text: str, where: str) -> Any:
    try:
        return yaml12.parse(text, where)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _read_mapping(path: Path) -> dict[str, Any]:
    data = _parse(_read(path), str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections (modalities, {', '.join(sections())}), got {shown(data)}")
    return data


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: a recipe is a text file in UTF-8; byte {error.start} is not") from None


def _named(data: Any) -> Iterator[str]:
    """The value of every key `name`, at any depth: the parts that a recipe's data ask for, among other names."""
    for key, value in data.items() if isinstance(data, Mapping) else enumerate(data if isinstance(data, list) else ()):
        if key == "name" and isinstance(value, str):
            yield value
        yield from _named(value)


def _root(names: Sequence[str], others: Collection[str]) -> type[Section]:
    """The model of a recipe for the installed ones of these modalities, with the keys of parts of these other packages."""
    from mmssl.modality import find

    found = tuple((kind, tuple(needed(constructors, others).items())) for kind, constructors in variants())
    made = {name: tuple(needed(one, others).items()) if isinstance(one, Mapping) else one for name, one in sections().items()}
    known = installed()
    modalities = tuple((name, find(name)) for name in names if name in known)
    parts = tuple((name, each.processor, each.adapter, each.augment) for name, each in modalities)
    return _model(parts, tuple(known), tuple(made.items()), found)


@lru_cache(maxsize=64)
def _model(modalities: tuple[Any, ...], known: tuple[str, ...], made: tuple[Any, ...], frozen: Frozen) -> type[Section]:
    """One model for the same constructors: pydantic takes as long for a whole recipe as a small run takes to train."""
    found: Variants = [(kind, dict(constructors)) for kind, constructors in frozen]
    members: dict[str, tuple[Any, Any]] = {"modalities": (_modalities(modalities, known, found), Field())}
    for name, constructor in made:
        if isinstance(constructor, tuple):
            chosen, what = choice(dict(constructor), found), CHOSEN[name]
            members[name] = (
                (chosen | None, Field(default=None, description=what))
                if name in OPTIONAL
                else (
                    chosen,
                    Field(description=what),
                )
            )
        else:
            members[name] = _member(section(constructor, found), optional=name in OPTIONAL)
    members["init"] = (str | None, Field(default=None, description=INIT))
    members["resume"] = (str, Field(default="never", description=RESUME))
    return group("Recipe", "A recipe of mmssl.", members)


def _modalities(modalities: Sequence[Any], known: Sequence[str], variants: Variants) -> type[Section]:
    members = {}
    for name, processor, adapter, augment in modalities:
        parts: dict[str, Constructor] = {"processor": processor, "adapter": adapter, "augment": augment}
        models = {key: _member(section(constructor, variants)) for key, constructor in parts.items()}
        kinds: Any = _views_model(name, augment, variants)
        models["views"] = (dict[str, kinds], Field(default={}, description=VIEWS))
        members[name] = (group(name.title(), f"Keys of the modality {name}.", models), Field())
    return group("Modalities", MODALITIES, members, known=known)


def _views_model(name: str, augment: Constructor, variants: Variants) -> Any:
    """The section of a kind of views: the keys of an augmentation, and those of `ViewOptions`."""
    from mmssl.objectives.views import ViewOptions

    own, options = section(augment, variants), section(ViewOptions, variants)
    fields: dict[str, Any] = {key: (field.annotation, field) for key, field in options.model_fields.items()}
    model = create_model(f"{name.title()}Views", __base__=own, __doc__=own.__doc__, **fields)
    model.constructor = dict  # an augmentation is made of the keys that it takes
    return model


def _arguments(parts: Section, part: str) -> dict[str, Any]:
    """Keyword arguments of a part of a modality."""
    if part == "views":
        return {kind: _views(parts["augment"], keys) for kind, keys in parts[part].items()}
    found: dict[str, Any] = parts[part].arguments()
    return found


def _views(augment: Section, views: Section) -> dict[str, Any]:
    """Keyword arguments of a kind of views: keys that it does not set are those of the modality's augmentation."""
    own = views.arguments()
    inherited = {key: value for key, value in augment.arguments().items() if f"{key}_" not in views.model_fields_set}
    return own | inherited


def _member(model: type[Section], *, optional: bool = False) -> tuple[Any, Any]:
    """The type and field of a section that may be left out if no key of it is required."""
    if optional:
        return model | None, Field(default=None)
    return model, Field(default=... if any(key.is_required() for key in model.fields().values()) else {})


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe with the modalities and parts of all installed packages: for editors and for the reference."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema_of(_root(installed(), packages()))}
    modalities = schema["$defs"][schema["properties"]["modalities"]["$ref"].rpartition("/")[2]]
    modalities.pop("required", None)
    modalities["minProperties"] = 1
    return schema


FEW = 8
"""Files of a folder that a message names."""


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe given by its path (ending in .yaml or .yml), by its name among those that come with mmssl, or by hf://.

    FileNotFoundError, with the nearest name, if there is none.
    """
    if str(source).startswith(HUB):
        return fetch(str(source))
    path, found = Path(source), recipes_found()
    is_path = isinstance(source, Path) or path.suffix in (".yaml", ".yml")
    if is_path and path.is_file():
        return path
    matches = [] if is_path else [place for name, place in found.items() if str(source) in (name, place.stem)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(map(str, matches))
        raise FileNotFoundError(f"{len(matches)} recipes are called {str(source)!r}; give the path of one: {listed}")
    names = [short for name in found for short in (name, name.rpartition("/")[2])]
    hint = suggest(path.stem if is_path else str(source), names)
    beside = sorted(file.name for file in path.parent.glob("*.y*ml")) if is_path and path.parent.is_dir() else []
    there = f"; there are {', '.join(beside[:FEW])}{', ...' if len(beside) > FEW else ''}" if beside else ""
    raise FileNotFoundError(
        f"no recipe {str(source)!r}{hint} Give the path of a .yaml file{there}, or one of the {len(found)} names that "
        "`mmssl list recipes` shows"
    )


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line `path: old -> new` for each key that differs between two resolved recipes."""
    return _changes(old, new, ())


def _changes(old: Any, new: Any, path: tuple[str, ...]) -> list[str]:
    if old == new:
        return []
    keys = dict.fromkeys(key for side in (old, new) if isinstance(side, Mapping) for key in side)
    if keys:
        return [line for key in keys for line in _changes(_below(old, key), _below(new, key), (*path, key))]
    before, after = ("absent" if side is _ABSENT else shown(side) for side in (old, new))
    return [f"{'.'.join(path)}: {before} -> {after}"]


def _below(side: Any, key: str) -> Any:
    return side.get(key, _ABSENT) if isinstance(side, Mapping) else side

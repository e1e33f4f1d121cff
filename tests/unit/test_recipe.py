"""Recipes: YAML as plain data, checked against stand-in constructors; errors in the words of the author."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackagePath
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import mmssl_catalogue
from mmssl import modality
from mmssl.masking import Sampler
from mmssl.recipe import RecipeError, changed_keys, find_recipe, json_schema, load, override, recipe, yaml12
from mmssl.recipe.messages import shown
from mmssl.recipe.sections import read_docstring, section
from mmssl_catalogue import header, recipes_found

ROOT = Path(__file__).parents[2]

Curve = Callable[[float], float]


def cosine(*, warmup: Annotated[int | float, Field(ge=0)] = 0.05) -> Curve:
    """Half a cosine.

    warmup: steps, or a share.
    """
    if isinstance(warmup, float) and warmup >= 1:
        raise ValueError(f"warmup must be a share below 1; got {warmup}")
    return lambda progress: warmup * math.cos(progress)


def constant(*, level: float = 1.0) -> Curve:
    return lambda progress: level


@dataclass(frozen=True, kw_only=True)
class Random:
    """Every token alike.

    ratio: share of the tokens to hide,
        exactly.
    """

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75


@dataclass(frozen=True, kw_only=True)
class Block:
    blocks: Annotated[int, Field(gt=0)]


class Mask:
    """Stands in for the protocol of samplers."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A light transformer.

    depth: layers.
    """

    depth: Annotated[int, Field(gt=0)] = 2


class Masked:
    """Predict hidden tokens.

    mask: how to hide.
    """

    needs_labels = False

    def __init__(
        self, model: object, *, mask: Mask | None = None, decoder: Decoder | None = None, copy: Literal["raw", "fine"] = "raw"
    ) -> None:
        raise AssertionError("an objective is not built while a recipe is read")


class Supervised:
    needs_labels = True

    def __init__(self, model: object, *, smoothing: float = 0.0) -> None:
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Data:
    """path: where."""

    path: str
    columns: dict[str, str | list[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long and how fast.

    lr: peak | learning rate.
    """

    batch_size: Annotated[int, Field(gt=0)] = 8
    max_steps: int | None = 10
    lr: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Curve = field(default_factory=cosine)
    fallback: Mask = field(default_factory=lambda: Random(ratio=0.5))  # type: ignore[assignment, arg-type]
    compile: bool = False
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_steps is None:
            raise ValueError("the run needs a budget: set train.max_steps")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    every: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0


def encoder(*, size: Literal["tiny", "huge"] | None = None, layers: int | None = None) -> dict[str, Any]:
    return {"size": size or "tiny", "layers": layers}


class PixelProcessor:
    def __init__(self, *, size: int = 8) -> None:
        raise AssertionError("a processor is not built while a recipe is read")


def pixel_adapter(width: int, processor: PixelProcessor, *, patch_size: int = 2, scale: tuple[int, int] = (1, 1)) -> None: ...


def pixel_augment(*, flip: bool = False) -> None: ...


OBJECTIVES = {"masked": Masked, "supervised": Supervised}
SAMPLERS = {"random": Random, "block": Block}
CURVES = {"cosine": cosine, "constant": constant}
PIXEL = SimpleNamespace(processor=PixelProcessor, adapter=pixel_adapter, augment=pixel_augment)
SECTIONS = {"encoder": encoder, "objective": OBJECTIVES, "data": Data, "train": Train, "evaluate": Evaluate, "run": Run}

SMALL = {"modalities": {"pixel": {}}, "objective": {"name": "masked"}, "data": {"path": "bundled:digits"}}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "sections", lambda: SECTIONS)
    monkeypatch.setattr(recipe, "variants", lambda: [(Mask, SAMPLERS), (Curve, CURVES), (Sampler, SAMPLERS)])
    monkeypatch.setattr(recipe, "installed", lambda: ["pixel", "word"])
    monkeypatch.setattr(modality, "find", {"pixel": PIXEL, "word": PIXEL}.__getitem__)


def complaint(*overrides: str, data: dict[str, Any] | None = None) -> list[str]:
    """The problems that a recipe is refused for."""
    with pytest.raises(RecipeError) as caught:
        load(SMALL if data is None else data, list(overrides))
    lines = str(caught.value).removeprefix("recipe: ").split("\n  ")
    return lines if len(lines) == 1 else lines[1:]


# YAML


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_dump_and_parse_are_inverse(data: dict[str, Any]) -> None:
    assert yaml12.parse(yaml12.dump(data), "text") == data


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_scalars_are_those_of_json(value: float | bool | None) -> None:
    read = yaml12.parse(json.dumps(value), "text")
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("+.5", 0.5),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("on", "on"),
        ("no", "no"),
        ("e5", "e5"),
        ("bundled:digits", "bundled:digits"),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("!!str 5", "5"),
        ("[&a {b: 1}, *a]", [{"b": 1}, {"b": 1}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert yaml12.parse(text, "text") == value


@given(st.sampled_from(["on", "yes", "1e-3", "0o17", "010", "~", "null", "1:30", "2024-01-01", "=", "<<", "1_0", ".inf", ""]))
def test_text_stays_text_for_readers_of_yaml_1_1_too(text: str) -> None:
    assert yaml.safe_load(yaml12.dump({"key": text})) == {"key": text}


@given(st.text(alphabet="ab:-?[]{}#&*!|>'\"%@`\\\n\t ,.0123456789eExXuU~<=\x85\ud800\0é", max_size=60))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    try:
        json.dumps(yaml12.parse(text, "r.yaml"))
    except ValueError as error:
        assert str(error).startswith("r.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml, line 3: the key 'a' is given twice"),
        ("a:\n\tb: 1", "r.yaml, line 2: YAML cannot be indented with tabs; use spaces"),
        ("a: [1,\nb: 2", "r.yaml, line 2: "),
        ("a: 1\n---\nb: 2", "r.yaml, line 2: but found another document"),
        ("a: *b", "r.yaml, line 1: found undefined alias 'b'"),
        ("1: a", "r.yaml, line 1: a key must be text, got 1; put it in quotes"),
        ("? [a]\n: b", "a key must be text, got ['a']"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
        ),
        ("a: !!python/name:os.system", "is not allowed: write plain data"),
        ("a: !mine {b: 1}", "the tag '!mine' is not allowed"),
        ("a: !!set {b}", "the tag 'tag:yaml.org,2002:set' is not allowed"),
        ("a: !!binary aGk=", "the tag 'tag:yaml.org,2002:binary' is not allowed"),
        ("a: !!timestamp 2024-01-01", "is not allowed"),
        ("a: !!int x", "line 1: 'x' is not of the type !!int"),
        ("a: !!bool yes", "'yes' is not of the type !!bool"),
        ("a: " + "9" * 5000, "has too many digits"),
        ('a: "\\UFFFFFFFF"', "r.yaml: "),
        ('a: "\\uD800"', "r.yaml, line 1: half of a surrogate pair is not text"),
        ("a: \0", "r.yaml: unacceptable character"),
        (BOMB, "more than 50000 values, aliases written out"),
        ("a: &a [*a]", "an anchor that contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + "[" * 20_000, "r.yaml: nested too deeply"),
        ("#" * 200_001, "r.yaml: the text may have 200000 characters; it has 200001"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load("r.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_must_be_a_mapping_in_utf_8(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(RecipeError, match=r"a recipe is a mapping of sections \(modalities, encoder, .*\), got \['a'\]"):
        load(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(RecipeError, match="got null"):
        load(tmp_path / "empty.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(RecipeError, match="a recipe is a text file in UTF-8; byte 6 is not"):
        load(tmp_path / "latin.yaml")


# Overrides


def test_overrides_replace_at_a_dotted_key_and_merge_dicts() -> None:
    data = {"a": {"b": 1, "c": {"d": 2}}, "e": None}
    assert override(data, ["a.b=1e-3", "e.f=[x, 2]", "g=null"]) == {
        "a": {"b": 1e-3, "c": {"d": 2}},
        "e": {"f": ["x", 2]},
        "g": None,
    }
    assert override(data, ["a.c={x: 1}"])["a"] == {"b": 1, "c": {"x": 1}}
    assert override(data, {"a.c": {"x": 1}, "a": {"b": 3}})["a"] == {"b": 3, "c": {"x": 1}}
    assert override(data, {"a": {"c": {"x": 1}}})["a"] == {"b": 1, "c": {"d": 2, "x": 1}}
    assert data == {"a": {"b": 1, "c": {"d": 2}}, "e": None}


def test_overrides_leave_the_callers_dicts_alone() -> None:
    changes = {"a.b": {"c": 1}, "a.b.c": 2}
    assert override({}, changes) == {"a": {"b": {"c": 2}}}
    assert changes == {"a.b": {"c": 1}, "a.b.c": 2}


def test_bad_overrides() -> None:
    with pytest.raises(RecipeError, match=r"an override must be key=value, as in train.lr=1e-3; got 'train.lr'"):
        override({}, ["train.lr"])
    with pytest.raises(RecipeError, match=r"train.lr.x: train.lr is 3, which has no keys"):
        override({"train": {"lr": 3}}, ["train.lr.x=1"])
    with pytest.raises(RecipeError, match=r"^a=\[1, line 1: "):
        override({}, ["a=[1"])
    with pytest.raises(TypeError, match=r"overrides must be a dict or a list of texts key=value; got the text 'a=1'"):
        override({}, "a=1")
    with pytest.raises(RecipeError, match=r"evaluate is 'auto', which has no keys. Set all of it: evaluate='\{probe: false\}'"):
        override({"evaluate": "auto"}, {"evaluate.probe": False})


# Checks and defaults


@pytest.mark.usefixtures("stand_ins")
def test_resolved_has_every_default() -> None:
    assert load(SMALL).resolved() == {
        "modalities": {
            "pixel": {
                "processor": {"size": 8},
                "adapter": {"patch_size": 2, "scale": [1, 1]},
                "augment": {"flip": False},
                "views": {},
            }
        },
        "encoder": {"size": None, "layers": None},
        "objective": {"name": "masked", "mask": None, "decoder": None, "copy": "raw"},
        "data": {"path": "bundled:digits", "columns": None},
        "train": {
            "batch_size": 8,
            "max_steps": 10,
            "lr": 1e-3,
            "betas": [0.9, 0.95],
            "schedule": {"name": "cosine", "warmup": 0.05},
            "fallback": {"name": "random", "ratio": 0.5},
            "compile": False,
            "trackers": [],
        },
        "evaluate": None,
        "run": {"name": None, "seed": 0},
        "init": None,
        "resume": "never",
    }


@pytest.mark.usefixtures("stand_ins")
def test_sections_are_built_by_their_constructors() -> None:
    read = load(
        SMALL, ["train.schedule={name: constant, level: 3}", "objective.mask={name: block, blocks: 2}", "objective.decoder={}"]
    )
    train = read.section("train")
    assert (train.lr, train.betas, train.schedule(0.3), train.fallback) == (1e-3, (0.9, 0.95), 3.0, Random(ratio=0.5))
    assert read.section("encoder") == {"size": "tiny", "layers": None}
    assert read.section("evaluate") is None
    assert load(SMALL, ["evaluate.every=3"]).section("evaluate") == Evaluate(every=3)
    assert read.objective == ("masked", {"mask": Block(blocks=2), "decoder": Decoder(depth=2), "copy": "raw"})
    assert read.modalities == {
        "pixel": {"processor": {"size": 8}, "adapter": {"patch_size": 2, "scale": (1, 1)}, "augment": {"flip": False}, "views": {}}
    }
    assert not read.needs_labels and load(SMALL, ["objective={name: supervised}"]).needs_labels
    with pytest.raises(LookupError, match=r"section\(\) builds encoder, data, train, evaluate, run; got 'objective'"):
        read.section("objective")


@pytest.mark.usefixtures("stand_ins")
def test_numbers() -> None:
    resolved = load(SMALL, ["train.lr=1", "train.schedule.name=cosine", "train.schedule.warmup=5"]).resolved()["train"]
    assert type(resolved["lr"]) is float and type(resolved["schedule"]["warmup"]) is int
    assert complaint("train.batch_size=8.0") == ["train.batch_size: expected a whole number > 0, got 8.0"]
    assert complaint("train.batch_size=true") == ["train.batch_size: expected a whole number > 0, got true"]
    assert complaint("train.lr='1'") == ["train.lr: expected a number > 0, got '1'"]
    assert complaint("train.lr=false") == ["train.lr: expected a number > 0, got false"]
    assert complaint("train.lr=.inf") == ["train.lr: expected a number > 0, got inf, which is not finite"]
    assert complaint("train.compile=1") == ["train.compile: expected true or false, got 1"]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.lr=fast", "train.lr: expected a number > 0, got 'fast'"),
        ("train.learning_rate=1", "train.learning_rate: unknown key; did you mean 'lr'? Known keys: batch_size, max_steps, lr, "),
        ("train.batchsize=1", "train.batchsize: unknown key; did you mean 'batch_size'?"),
        ("train.zzz=1", "train.zzz: unknown key. Known keys: "),
        ("lr=1", "lr: unknown key; did you mean 'train.lr'? Known keys: modalities, encoder, "),
        ("trian={}", "trian: unknown key; did you mean 'train'?"),
        ("train=3", "train: expected a mapping with keys of: batch_size, max_steps, "),
        ("train.betas=[0.9]", "train.betas: expected a list of 2, each a number, got [0.9]"),
        ("train.betas=[0.9, x]", "train.betas: expected a list of 2, each a number, got [0.9, 'x']"),
        ("train.trackers=wandb", "train.trackers: expected a list, each text, got 'wandb'"),
        ("train.max_steps=null", "train: the run needs a budget: set train.max_steps"),
        ("train.schedule=cosine", "train.schedule: expected a mapping with a name, one of: constant, cosine, got 'cosine'"),
        (
            "train.schedule.name=cosin",
            "train.schedule.name: unknown name 'cosin'; did you mean 'cosine'? Known names: cosine, constant",
        ),
        ("train.schedule.warmup=3", "train.schedule.name: missing; expected one of: cosine, constant"),
        ("train.schedule={name: cosine, warmup: 1.5}", "train.schedule: warmup must be a share below 1; got 1.5"),
        (
            "train.schedule={name: cosine, warmup: -1}",
            "train.schedule.warmup: expected a whole number >= 0 or a number >= 0, got -1",
        ),
        ("objective.name=mask", "objective.name: unknown name 'mask'; did you mean 'masked'? Known names: masked, supervised"),
        ("objective={}", "objective.name: missing; expected one of: masked, supervised"),
        ("objective.mask={name: block}", "objective.mask.blocks: missing; expected a whole number > 0"),
        ("objective.mask={name: random, ratio: 2}", "objective.mask.ratio: expected a number > 0 and < 1, got 2"),
        ("objective.mask={name: random, blocks: 2}", "objective.mask.blocks: unknown key. Known keys: name, ratio"),
        ("objective.decoder.depth=0", "objective.decoder.depth: expected a whole number > 0, got 0"),
        ("objective.copy=rough", "objective.copy: expected one of: raw, fine, got 'rough'"),
        ("data=null", "data: expected a mapping with keys of: path, columns, got null"),
        ("data={}", "data.path: missing; expected text"),
        ("data.columns.label=[3]", "data.columns: expected a mapping from text to (text or a list, each text) or null, got {"),
        ("encoder.size=tony", "encoder.size: expected one of: tiny, huge or null, got 'tony'"),
        ("modalities.pixl={}", "modalities.pixl: unknown key; did you mean 'pixel'? Known keys: pixel, word"),
        (
            "modalities.pixel=null",
            "modalities.pixel: expected a mapping with keys of: processor, adapter, augment, views, got null",
        ),
        ("modalities.pixel.adapter.patch=2", "modalities.pixel.adapter.patch: unknown key; did you mean 'patch_size'?"),
        ("modalities.pixel.adapter.width=2", "modalities.pixel.adapter.width: unknown key"),
        ("modalities={}", "modalities: name at least one"),
        ("modalities=[pixel]", "modalities: expected an empty mapping"),
        ("init=3", "init: expected text or null, got 3"),
    ],
)
def test_each_problem_in_words(given: str, expected: str) -> None:
    (line,) = complaint(given)
    assert line.startswith(expected)
    assert not any(word in line for word in ("pydantic", "type=", "Input should", "_type"))


@pytest.mark.usefixtures("stand_ins")
def test_all_problems_are_listed_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("modalities: {pixel: {}}\nobjective: {name: masked, mask: {name: x}}\ntrain: {lr: no, steps: 3}\n")
    with pytest.raises(RecipeError) as caught:
        load(path)
    head, *lines = str(caught.value).split("\n  ")
    assert head == f"{path}: 4 problems"
    assert [line.partition(":")[0] for line in lines] == ["objective.mask.name", "data", "train.lr", "train.steps"]


@pytest.mark.usefixtures("stand_ins")
def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    first = load(SMALL, ["train.schedule={name: constant, level: 1e-5}", "run.name='1e-3'", "evaluate={}"])
    path = tmp_path / "again.yaml"
    path.write_text(first.to_yaml())
    again = load(path)
    assert again.resolved() == first.resolved() == first.read_resolved(path)
    assert again.fingerprint == first.fingerprint != load(SMALL).fingerprint
    assert (first.name, again.name) == ("recipe", "again")
    assert len(first.fingerprint) == 16 and int(first.fingerprint, 16)


@pytest.mark.usefixtures("stand_ins")
def test_given_is_what_the_recipe_states() -> None:
    read = load(
        SMALL | {"encoder": {"size": "tiny"}}, ["train.schedule={name: constant}", "train.betas=[0.9, 0.95]", "evaluate=null"]
    )
    assert read.given("encoder") == {"size": "tiny"}
    assert read.given("train") == {"schedule": {"name": "constant"}, "betas": [0.9, 0.95]}
    assert read.given("modalities") == {"pixel": {}}
    assert read.given("run") == read.given("evaluate") == {}


@pytest.mark.usefixtures("stand_ins")
def test_a_recipe_cannot_be_changed() -> None:
    read = load(SMALL)
    read.resolved()["train"]["lr"] = 5
    assert read.resolved()["train"]["lr"] == 1e-3
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        read.name = "x"  # type: ignore[misc]


@pytest.mark.usefixtures("stand_ins")
def test_changed_keys() -> None:
    old = load(SMALL).resolved()
    new = load(SMALL, ["train.lr=2", "evaluate={}", "train.betas=[0.9, 0.99]", "train.schedule={name: constant}"]).resolved()
    assert changed_keys(old, old) == []
    assert changed_keys(old, new) == [
        "train.lr: 0.001 -> 2.0",
        "train.betas: [0.9, 0.95] -> [0.9, 0.99]",
        "train.schedule.name: 'cosine' -> 'constant'",
        "train.schedule.warmup: 0.05 -> absent",
        "train.schedule.level: absent -> 1.0",
        "evaluate.every: null -> 0",
    ]


# From signatures to sections


def test_only_keyword_only_parameters_are_keys() -> None:
    def build(width: int, *, copy: int, schema: str = "x", model_dump: bool = False) -> None: ...

    model = section(build)
    read = model.model_validate({"copy": 3})
    assert read.arguments() == read.plain() == {"copy": 3, "schema": "x", "model_dump": False}


def test_a_type_that_no_recipe_can_hold() -> None:
    def build(*, source: Path | Masked) -> None: ...

    with pytest.raises(TypeError, match=r"a keyword-only parameter of build is nothing that a recipe can hold: .*Masked"):
        section(build)


def test_descriptions_come_from_the_docstring() -> None:
    text = """Does this.

    More on this.

    a: one, which
        goes on.
    b, c: two.
    ValueError if it fails: always
    """
    assert read_docstring(text) == ("Does this.", {"a": "one, which goes on.", "b": "two.", "c": "two."})
    assert read_docstring("") == ("", {})
    assert read_docstring("a: one") == ("", {"a": "one"})


def test_values_are_shown_as_a_recipe_would_write_them() -> None:
    assert [shown(value) for value in (None, True, "x", 1.5)] == ["null", "true", "'x'", "1.5"]
    assert len(shown("x" * 1000)) == 60


@pytest.mark.usefixtures("stand_ins")
def test_json_schema_describes_what_load_accepts() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert schema["required"] == ["modalities", "objective", "data"] and schema["additionalProperties"] is False
    modalities = definitions["Modalities"]
    assert list(modalities["properties"]) == ["pixel", "word"]
    assert "required" not in modalities and modalities["minProperties"] == 1
    assert schema["properties"]["objective"]["discriminator"]["mapping"] == {
        "masked": "#/$defs/Masked",
        "supervised": "#/$defs/Supervised",
    }
    assert definitions["Random"] == {
        "type": "object",
        "title": "Random",
        "description": "Every token alike.",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"const": "random", "type": "string", "description": "Every token alike."},
            "ratio": {
                "type": "number",
                "exclusiveMinimum": 0,
                "exclusiveMaximum": 1,
                "default": 0.75,
                "description": "share of the tokens to hide, exactly.",
            },
        },
    }
    assert definitions["Train"]["properties"]["schedule"]["default"] == {"name": "cosine"}
    json.dumps(schema, allow_nan=False)


def reference(schema: dict[str, Any]) -> str:
    spec = spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    page: str = module.reference(schema)
    return page


@pytest.mark.usefixtures("stand_ins")
def test_reference_has_a_row_for_every_key() -> None:
    page = reference(json_schema())
    assert "| `ratio` | number | `0.75` | a number > 0 and < 1 | share of the tokens to hide, exactly. |" in page
    assert "| `lr` | number | `0.001` | a number > 0 | peak \\| learning rate. |" in page
    assert "| `path` | text | required |  | where. |" in page
    assert "| `decoder` | mapping or null | `null` |  | A light transformer. |\n| `decoder.depth` | whole number | `2` |" in page
    assert "| `compile` | true or false | `false` |  |  |" in page
    assert "| `processor.size` | whole number | `8` |  |  |" in page
    for heading in (
        "## `train`",
        "### `modalities.word`",
        "### `objective: {name: supervised}`",
        "##### `objective.mask: {name: block}`",
    ):
        assert f"\n{heading}\n" in page


# Recipes on disk


def test_recipes_found_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "setup.cfg").touch()
    monkeypatch.setattr(mmssl_catalogue, "__file__", str(tmp_path / "mmssl_catalogue.py"))
    assert recipes_found() == {}
    for name in ("quickstart", "image/mae_digits", "image/twice", "table/twice"):
        path = tmp_path / "recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# Paper: one\n#   two\n\n# not this\na: 1\n")
    assert list(recipes_found()) == ["image/mae_digits", "image/twice", "quickstart", "table/twice"]
    digits = tmp_path / "recipes" / "image" / "mae_digits.yaml"
    assert find_recipe("mae_digits") == find_recipe("image/mae_digits") == find_recipe(digits) == find_recipe(str(digits)) == digits
    assert header(digits) == "Paper: one\n  two"
    with pytest.raises(FileNotFoundError, match=r"2 recipes are called 'twice'; give the path of one: .*twice.yaml"):
        find_recipe("twice")
    with pytest.raises(
        FileNotFoundError, match=r"no recipe 'mae_digit'; did you mean 'mae_digits'\? Give the path of a .yaml file"
    ):
        find_recipe("mae_digit")
    with pytest.raises(
        FileNotFoundError,
        match=r"no recipe 'quickstat.yaml'; did you mean 'quickstart'\? .* one of the 4 names that `mmssl list recipes` ",
    ):
        find_recipe("quickstat.yaml")
    with pytest.raises(FileNotFoundError, match=r"Give the path of a .yaml file; there are mae_digits.yaml, twice.yaml, or"):
        find_recipe(digits.with_name("nothing.yaml"))


def test_recipes_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = [PackagePath("mmssl/a.py"), PackagePath("share/mmssl/recipes/b/c.yaml")]
    for file in packaged:
        file.dist = SimpleNamespace(locate_file=tmp_path.joinpath)  # type: ignore[assignment]
    monkeypatch.setattr(mmssl_catalogue, "__file__", str(tmp_path / "site" / "mmssl_catalogue.py"))
    monkeypatch.setattr(mmssl_catalogue, "files", lambda name: packaged)
    assert recipes_found() == {"b/c": tmp_path / "share/mmssl/recipes/b/c.yaml"}

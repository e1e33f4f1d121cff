"""Signatures of constructors as pydantic models: what a section of a recipe may hold, and what is wrong with one in plain words."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, cleandoc, signature
from re import MULTILINE, finditer
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, create_model, model_validator
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

Constructor = Callable[..., Any]
Variants = Sequence[tuple[Any, Mapping[str, Constructor]]]
"""Types that a recipe gives as `{name: ..., other keys}`, each with its constructors by name."""
JsonSchema = dict[str, Any]
Place = tuple[str | int, ...]

BOUNDS = {
    "exclusiveMinimum": "> ",
    "minimum": ">= ",
    "exclusiveMaximum": "< ",
    "maximum": "<= ",
    "multipleOf": "a multiple of ",
    "minLength": "of length >= ",
    "maxLength": "of length <= ",
    "minItems": "of length >= ",
    "maxItems": "of length <= ",
    "pattern": "that matches ",
}
PLAIN = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "string": "text", "null": "null"}
_PARAMETER_LINE = r"^(\w+(?:, \w+)*): (.*(?:\n[ \t]+.*)*)"


class Section(BaseModel):
    """The keyword-only parameters of one constructor.

    The key `lr` is the field `lr_`, so that no key collides with a name of pydantic.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
        alias_generator=lambda name: name.removesuffix("_"),
    )
    constructor: ClassVar[Constructor] = dict
    variant: ClassVar[str | None] = None
    """The value of `name` that chooses this section among others."""
    known: ClassVar[Sequence[str]] = ()
    """Keys to offer to somebody who misspelt one; empty: those of the model."""

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        return {name.removesuffix("_"): field for name, field in cls.model_fields.items()}

    def __getitem__(self, key: str) -> Any:
        return self.values()[key]

    def values(self) -> dict[str, Any]:
        """The value of each key; nested sections are sections."""
        return {name.removesuffix("_"): value for name, value in self}

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the constructor, nested sections built."""
        return {key: _built(value) for key, value in self.values().items() if self.variant is None or key != "name"}

    def build(self) -> Any:
        """What the constructor makes of the keys."""
        return type(self).constructor(**self.arguments())

    def plain(self) -> dict[str, Any]:
        """The keys with every default filled in, as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @model_validator(mode="after")
    def _check_together(self) -> "Section":
        """Let options and variants check what no single key shows; other constructors need more than keys, or cost time."""
        constructor = type(self).constructor
        if is_dataclass(constructor) or (self.variant is not None and not _positional(constructor)):
            self.build()
        return self


def _built(value: Any) -> Any:
    if isinstance(value, Section):
        return value.build()
    if isinstance(value, list | tuple):
        return type(value)(_built(item) for item in value)
    if isinstance(value, dict):
        return {key: _built(item) for key, item in value.items()}
    return value


def _positional(constructor: Constructor) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in kinds and p.default is Parameter.empty for p in signature(constructor).parameters.values())


def section(constructor: Constructor, variants: Variants = (), *, variant: str | None = None) -> type[Section]:
    """The model of a constructor's keyword-only parameters, with the descriptions in its docstring's lines `parameter: text`.

    variant: adds the key `name` with this one value.
    TypeError if a parameter has a type that no recipe can hold.
    """
    summary, texts = read_docstring(constructor.__doc__ or "")
    found: dict[str, Any] = {"name_": (Literal[variant], Field(description=summary))} if variant is not None else {}
    factories = {f.name: f.default_factory for f in fields(constructor) if f.init} if is_dataclass(constructor) else {}
    for name, parameter in signature(constructor, eval_str=True).parameters.items():
        if parameter.kind is not Parameter.KEYWORD_ONLY:
            continue
        default = _default(parameter.default, factories.get(name, MISSING), variants)
        found[f"{name}_"] = (_translate(parameter.annotation, variants), Field(default, description=texts.get(name)))
    try:
        model = create_model(constructor.__name__, __base__=Section, __doc__=summary, **found)
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"a keyword-only parameter of {constructor.__name__} is nothing that a recipe can hold: {error}") from None
    model.constructor, model.variant = constructor, variant
    return model


def choice(constructors: Mapping[str, Constructor], variants: Variants = ()) -> Any:
    """The type of a section that one of several constructors reads, chosen by its key `name`."""
    models = tuple(section(constructor, variants, variant=name) for name, constructor in constructors.items())
    return Annotated[Union[models], Field(discriminator="name_")] if len(models) > 1 else models[0]  # noqa: UP007 (computed)


def group(name: str, description: str, members: Mapping[str, tuple[Any, Any]], *, known: Sequence[str] = ()) -> type[Section]:
    """A section of sections, each with its type and `pydantic.Field`."""
    found: dict[str, Any] = {f"{key}_": member for key, member in members.items()}
    model = create_model(name, __base__=Section, __doc__=description, **found)
    model.known = known
    return model


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """First paragraph, and the texts of the lines `parameter: text`, which may go on in indented lines."""
    text = cleandoc(text)
    lines = list(finditer(_PARAMETER_LINE, text, MULTILINE))
    texts = {name: " ".join(line[2].split()) for line in lines for name in line[1].split(", ")}
    head = text[: lines[0].start()] if lines else text
    return " ".join(head.split("\n\n")[0].split()), texts


def _translate(annotation: Any, variants: Variants) -> Any:
    """An annotation with sections in the place of dataclasses and variants; lists and tuples accept YAML's sequences."""
    for kind, constructors in variants:
        if annotation == kind:
            return choice(constructors, variants)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return section(annotation, variants)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(_translate(arguments[0], variants), arguments[1:])
    translated = tuple(_translate(argument, variants) for argument in arguments)
    if origin in (Union, UnionType):
        return Union[translated]  # noqa: UP007 (computed)
    if origin in (list, tuple):
        return Annotated[origin[translated], Strict(False)]
    return origin[translated] if origin is dict else annotation


def _annotated(kind: Any, metadata: tuple[Any, ...]) -> Any:
    """A type with its bounds, which on a union belong to each member: pydantic leaves them out of the JSON schema otherwise."""
    if get_origin(kind) not in (Union, UnionType):
        return Annotated[kind, *metadata]
    members = tuple(member if member is NoneType else Annotated[member, *metadata] for member in get_args(kind))
    return Union[members]  # noqa: UP007 (computed)


def _default(value: Any, factory: Any, variants: Variants) -> Any:
    """The default of a parameter as a recipe would write it; `...` if there is none."""
    if factory is not MISSING:
        names = [name for _, constructors in variants for name, constructor in constructors.items() if constructor is factory]
        return {"name": names[0]} if names else _as_keys(factory(), variants)
    return ... if value is Parameter.empty else _as_keys(value, variants)


def _as_keys(value: Any, variants: Variants) -> Any:
    if not is_dataclass(value) or isinstance(value, type):
        return value
    names = [name for _, constructors in variants for name, constructor in constructors.items() if constructor is type(value)]
    keys = {field.name: _as_keys(vars(value)[field.name], variants) for field in fields(value) if field.init}
    return {"name": names[0], **keys} if names else keys


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that somebody probably meant: a similar one, or the initials (`learning_rate`, `lr`)."""
    known = list(known)
    initials = "".join(part[:1] for part in word.split("_"))
    return initials if initials in known else next(iter(difflib.get_close_matches(word, known, n=1)), None)


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or a full stop."""
    return _hint(nearest(word, known))


def _hint(near: str | None) -> str:
    return "." if near is None else f"; did you mean {near!r}?"


def problems(error: ValidationError, model: type[Section], data: Mapping[str, Any]) -> dict[str, str]:
    """One line of text for each key that is wrong, by its dotted path."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        path, text = _explain(detail, model, data)
        found.setdefault(dotted(path), text)
    return found


def dotted(path: Place) -> str:
    return ".".join(map(str, path))


def _explain(detail: ErrorDetails, model: type[Section], data: Mapping[str, Any]) -> tuple[Place, str]:
    path, here = _place(model, detail["loc"])
    key = path[-1] if path else ""
    match detail["type"]:
        case "value_error":
            return path, str(detail["ctx"]["error"])
        case "union_tag_invalid" | "union_tag_not_found":
            return (*path, "name"), _name_problem(detail, here, next(str(part) for part in reversed(path) if isinstance(part, str)))
    if key not in here.fields():
        return path, _unknown(path, model, here)
    expected = f"expected {describe_key(here, key)}"
    try:
        value = _lookup(data, path)
    except KeyError:
        return path, f"missing; {expected}"
    finite = ", which is not finite" if detail["type"] == "finite_number" else ""
    return path, f"{expected}, got {shown(value)}{finite}"


def _name_problem(detail: ErrorDetails, here: type[Section], key: str) -> str:
    names = [str(model.variant) for model in _sections(here.fields()[key].annotation)]
    if detail["type"] == "union_tag_not_found":
        return f"missing; expected one of: {', '.join(names)}"
    given = str(detail["ctx"]["tag"])
    return f"unknown name {given!r}{suggest(given, names)} Known names: {', '.join(names)}"


def _unknown(path: Place, model: type[Section], here: type[Section]) -> str:
    key, known = str(path[-1]), list(here.known or here.fields())
    places = paths(model)
    of_another_variant = dotted(path) in places
    elsewhere = None if of_another_variant else next((place for place in places if place.endswith(f".{key}")), None)
    near = nearest(key, known) or elsewhere
    return f"unknown key{_hint(near)} Known keys: {', '.join(known)}"


def paths(model: type[Section], prefix: str = "") -> list[str]:
    """Dotted paths of all keys."""
    found = []
    for key, field in model.fields().items():
        inner = [path for model in _sections(field.annotation) for path in paths(model, f"{prefix}{key}.")]
        found += [prefix + key, *inner]
    return list(dict.fromkeys(found))


def _place(model: type[Section], loc: Place) -> tuple[Place, type[Section]]:
    """The path, as the user wrote it, of the key that pydantic's `loc` lies in, and the section of that key.

    A `loc` also names the variants and the members of unions that it passes.
    """
    path: list[str | int] = []
    here, rest = model, list(loc)
    while rest:
        path.append(rest.pop(0))
        field = here.fields().get(str(path[-1]))
        inner = [] if field is None else _sections(field.annotation)
        if rest and inner and (isinstance(rest[0], int) or _is_mapping(field)):
            path.append(rest.pop(0))
        if not rest or not inner:
            break
        here = inner[0] if len(inner) == 1 else {model.variant: model for model in inner}[str(rest.pop(0))]
    return tuple(path), here


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections that a value of this type may be; none where it may also be something else (but null)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, list):
        return _sections(arguments[0])
    if origin is dict:
        return _sections(arguments[1])
    if origin not in (Union, UnionType):
        return []
    members = [_sections(argument) for argument in arguments if argument is not NoneType]
    return [model for member in members for model in member] if all(members) else []


def _is_mapping(field: FieldInfo | None) -> bool:
    """Whether a key holds sections by names of the user's choice."""
    annotation = None if field is None else field.annotation
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(get_origin(member) is dict for member in members)


def _lookup(data: Any, path: Place) -> Any:
    for part in path:
        data = data[part]
    return data


def shown(value: Any) -> str:
    """A value as a recipe would write it, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Untitled(GenerateJsonSchema):
    """Without a title for each key, which would repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(model: type[Section]) -> JsonSchema:
    """The JSON schema of a section and of all that it contains."""
    return model.model_json_schema(by_alias=True, schema_generator=_Untitled)


def describe_key(model: type[Section], key: str | int) -> str:
    """What a key may hold, in words."""
    schema = schema_of(model)
    return describe(schema["properties"][key], schema.get("$defs", {}))


def describe(schema: JsonSchema, definitions: Mapping[str, JsonSchema]) -> str:
    """A JSON schema in words: `a number > 0 or null`."""
    if "$ref" in schema:
        return describe(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "discriminator" in schema:
        return f"a mapping with a name, one of: {', '.join(schema['discriminator']['mapping'])}"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(describe(option, definitions) for option in schema["anyOf"]))
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return f"one of: {', '.join(map(str, schema['enum']))}"
    kind = schema.get("type")
    if kind == "array":
        return _describe_list(schema, definitions)
    if kind == "object":
        return _describe_mapping(schema, definitions)
    return " ".join([PLAIN.get(str(kind), "any value"), *_bounds(schema)])


def _bounds(schema: JsonSchema) -> list[str]:
    values = {words: schema[key] for key, words in BOUNDS.items() if key in schema}
    limits = [f"{words}{value:g}" if isinstance(value, float) else f"{words}{value}" for words, value in values.items()]
    return [" and ".join(limits)] if limits else []


def _describe_list(schema: JsonSchema, definitions: Mapping[str, JsonSchema]) -> str:
    if "prefixItems" not in schema:
        items = f", each {_inner(schema['items'], definitions)}" if schema.get("items") else ""
        return " ".join(["a list", *_bounds(schema)]) + items
    each = [_inner(item, definitions) for item in schema["prefixItems"]]
    same = f", each {each[0]}" if len(set(each)) == 1 else f": {', '.join(each)}"
    return f"a list of {len(each)}{same}"


def _describe_mapping(schema: JsonSchema, definitions: Mapping[str, JsonSchema]) -> str:
    if "properties" in schema:
        return f"a mapping with keys of: {', '.join(schema['properties'])}" if schema["properties"] else "an empty mapping, {}"
    values = schema.get("additionalProperties")
    return f"a mapping from text to {_inner(values, definitions)}" if isinstance(values, dict) and values else "a mapping"


def _inner(schema: JsonSchema, definitions: Mapping[str, JsonSchema]) -> str:
    text = describe(schema, definitions)
    return f"({text})" if " or " in text else text

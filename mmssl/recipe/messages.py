"""What is wrong with a section of a recipe, and what its keys may hold, in plain words."""

import difflib
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mmssl.recipe.sections import JsonSchema, Section, schema_of

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
        path.append(_key(rest.pop(0), here))
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
    if origin in (Annotated, list) or (origin is tuple and arguments[1:] == (...,)):
        return _sections(arguments[0])
    if origin is dict:
        return _sections(arguments[1])
    if origin not in (Union, UnionType):
        return []
    members = [_sections(argument) for argument in arguments if argument is not NoneType]
    return [model for member in members for model in member] if all(members) else []


def _key(part: str | int, here: type[Section]) -> str | int:
    """A key as the user writes it: of a default pydantic names the field, which has an underscore behind."""
    if isinstance(part, str) and part not in here.fields() and part.removesuffix("_") in here.fields():
        return part.removesuffix("_")
    return part


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

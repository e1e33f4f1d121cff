"""Signatures of constructors as pydantic models: what a section of a recipe may hold, and what is wrong with one in plain words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from inspect import Parameter, cleandoc, signature
from re import MULTILINE, finditer
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Strict, create_model, model_validator
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

Constructor = Callable[..., Any]
Variants = Sequence[tuple[Any, Mapping[str, Constructor]]]
"""Types that a recipe gives as `{name: ..., other keys}`, each with its constructors by name."""
Frozen = tuple[tuple[Any, tuple[tuple[str, Constructor], ...]], ...]
"""`Variants` that can be a key."""
JsonSchema = dict[str, Any]
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
    return _section(constructor, tuple((kind, tuple(found.items())) for kind, found in variants), variant)


@lru_cache(maxsize=4096)
def _section(constructor: Constructor, frozen: Frozen, variant: str | None) -> type[Section]:
    """One model for one constructor: pydantic takes milliseconds for each, and a recipe's sections nest many times over."""
    variants: Variants = [(kind, dict(found)) for kind, found in frozen]
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


class _Untitled(GenerateJsonSchema):
    """Without a title for each key, which would repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(model: type[Section]) -> JsonSchema:
    """The JSON schema of a section and of all that it contains."""
    return model.model_json_schema(by_alias=True, schema_generator=_Untitled)

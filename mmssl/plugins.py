"""What other packages add: modalities and parts of objectives, found by name, and imported when they are needed.

A package names them as entry points, in the group of their kind:

    [options.entry_points]
    mmssl.targets =
        energy = acme.targets:Energy
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, TypeVar

MODALITIES = "mmssl.modalities"
PARTS = ("mmssl.objectives", "mmssl.targets", "mmssl.predictors", "mmssl.samplers", "mmssl.losses")
"""The groups of parts."""

T = TypeVar("T")


@cache
def points(group: str = MODALITIES) -> dict[str, EntryPoint]:
    """The entry points of all installed packages in a group, sorted by name. ValueError if two packages claim a name."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        if point.name in found:
            raise ValueError(
                f"{package(found[point.name])} and {package(point)} both register {point.name!r} as one of {group}; uninstall one"
            )
        found[point.name] = point
    return found


def installed() -> list[str]:
    """Names of all installed modalities."""
    return list(points())


def package(point: EntryPoint) -> str:
    """The installed package that an entry point belongs to."""
    assert point.dist is not None  # only those made by hand have none
    return point.dist.name


def packages(names: Collection[str] | None = None) -> set[str]:
    """The packages that register a part of one of these names; None: of any name."""
    found = (point for group in PARTS for point in points(group).values())
    return {package(point) for point in found if names is None or point.name in names}


def load(point: EntryPoint) -> Any:
    """What an entry point names. ImportError with the package and the cause if it cannot be imported."""
    try:
        return point.load()
    except Exception as error:  # importing runs code of others, which may raise anything
        raise ImportError(
            f"{point.name!r} of {point.group} cannot be imported: package {package(point)}, {point.value}: "
            f"{type(error).__name__}: {error}. Repair the package, or uninstall it"
        ) from error


class Unread:
    """A part of another package that no key names, so that it was not imported."""


class Parts(Mapping[str, T]):
    """All parts of a kind by name: those of mmssl, and those of other packages, each imported when it is looked up.

    group: that of the entry points. base: the class that every part extends. own: the parts of mmssl.

    Looking one up raises ImportError if it cannot be imported, and TypeError if it is no subclass of `base`.
    """

    def __init__(self, group: str, base: type, own: Mapping[str, T]) -> None:
        self.group, self.base, self.own = group, base, own

    def __getitem__(self, name: str) -> T:
        return self.own[name] if name in self.own else self.load(points(self.group)[name])

    def __iter__(self) -> Iterator[str]:
        return iter({**self.own, **points(self.group)})

    def __len__(self) -> int:
        return len({**self.own, **points(self.group)})

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in points(self.group)

    def load(self, point: EntryPoint) -> T:
        """The part of an entry point."""
        found: T = load(point)
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise TypeError(
                f"{point.name!r} of {point.group} must be a subclass of {self.base.__module__}.{self.base.__qualname__}; "
                f"package {package(point)} gives {point.value}, which is {found!r}"
            )
        return found


def needed(parts: Mapping[str, T], packages: Collection[str]) -> Mapping[str, T | type[Unread]]:
    """Parts by name, with `Unread` in the place of those of all packages but these. ValueError if two have one name."""
    if not isinstance(parts, Parts):
        return parts
    others = distinct(parts.own, parts.group)
    return {**parts.own, **{name: parts.load(one) if package(one) in packages else Unread for name, one in others.items()}}


def distinct(own: Collection[str], group: str) -> dict[str, EntryPoint]:
    """The entry points of a group. ValueError if one has the name of a part of mmssl."""
    found = points(group)
    for name in found.keys() & set(own):
        raise ValueError(
            f"{package(found[name])} registers {name!r} as one of {group}, which is a name of mmssl's own; rename it, or uninstall "
            "the package"
        )
    return found


def first_lines(table: str, group: str) -> dict[str, str]:
    """First docstring line of every part of a kind, read from the sources: importing them takes seconds.

    table: where mmssl's own are listed, `module:NAME`.
    """
    module, _, name = table.partition(":")
    own = {key: first_line(module, value) for key, value in listed(module, name).items()}
    return own | {key: first_line(point.module, point.attr) for key, point in distinct(own, group).items()}


def listed(module: str, name: str) -> dict[str, str]:
    """The dict of classes that a module assigns to a name, or to a call around it: the names of the classes by their keys."""
    for node in parsed(spec_of(module)).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name and node.value:
            found = next(inner for inner in ast.walk(node.value) if isinstance(inner, ast.Dict))
            return {ast.literal_eval(key): ast.unparse(value) for key, value in zip(found.keys, found.values, strict=True) if key}
    raise LookupError(f"{module} assigns no dict to {name}")


def first_line(module: str, name: str) -> str:
    """First docstring line of a class of a module, or of where the module has it from; empty where no source tells."""
    spec = spec_of(module)
    for node in parsed(spec).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if spec and isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return first_line(resolve_name("." * node.level + (node.module or ""), spec.parent), alias.name)
    return ""


def parsed(spec: ModuleSpec | None) -> ast.Module:
    """The source of a module; nothing if there is none, or none that Python reads: whoever imports the module is told."""
    path = Path(spec.origin) if spec and spec.origin else Path()
    try:
        return ast.parse(path.read_bytes() if path.suffix == ".py" else "")
    except (OSError, SyntaxError):
        return ast.parse("")


def spec_of(module: str) -> ModuleSpec | None:
    """Where a module lies, without importing the packages that it is in."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    for name in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    return spec

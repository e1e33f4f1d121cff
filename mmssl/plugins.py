"""What other packages add: modalities and parts of objectives, found by name, and imported when they are needed.

A package names them as entry points, in the group of their kind:

    [options.entry_points]
    mmssl.targets =
        energy = acme.targets:Energy
"""

from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from mmssl_catalogue import distinct, package
from mmssl_catalogue import points as points

PARTS = (
    "mmssl.objectives",
    "mmssl.targets",
    "mmssl.predictors",
    "mmssl.samplers",
    "mmssl.losses",
    "mmssl.agreements",
    "mmssl.answers",
)
"""The groups of parts."""

T = TypeVar("T")


def installed() -> list[str]:
    """Names of all installed modalities."""
    return list(points())


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

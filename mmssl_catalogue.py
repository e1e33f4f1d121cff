"""What is installed, found without importing it: recipes, modalities and parts of objectives.

A module outside the package: importing mmssl takes seconds, `mmssl list` should not.
"""

import ast
from collections.abc import Collection
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points, files
from importlib.util import find_spec, resolve_name
from itertools import takewhile
from pathlib import Path
from textwrap import shorten

MODALITIES = "mmssl.modalities"


LISTED = 130
"""Characters of a sentence in a list."""
LAUNCH = "launch/"
"""Where, beside the recipes, files lie that say how to launch one."""


def recipes_found() -> dict[str, Path]:
    """The recipes that come with mmssl, by their path in the folder of recipes without its suffix."""
    checkout = Path(__file__).parent
    if (checkout / "setup.cfg").is_file():
        paths = list((checkout / "recipes").rglob("*.yaml"))
    else:
        paths = [Path(str(file.locate())) for file in files("mmssl") or () if file.match("*.yaml") and "recipes" in file.parts]
    named = {"/".join(path.with_suffix("").parts[_after_recipes(path) :]): path for path in paths}
    return dict(sorted((name, path) for name, path in named.items() if not name.startswith(LAUNCH)))


def header(path: Path) -> str:
    """The comment that a recipe opens with: paper, hardware, result and command."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ").rstrip() for line in lines)


def opening(path: Path) -> str:
    """The first sentence of that comment, or what of it fits into a line of a list."""
    paragraph = " ".join(header(path).partition("\n\n")[0].split())
    return shorten(paragraph.partition(". ")[0].removesuffix("."), LISTED, placeholder=" ...")


def _after_recipes(path: Path) -> int:
    return len(path.parts) - path.parts[::-1].index("recipes")


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


def package(point: EntryPoint) -> str:
    """The installed package that an entry point belongs to."""
    assert point.dist is not None  # only those made by hand have none
    return point.dist.name


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

"""English prose that every installation has: docstrings of the packages that this one needs, the package as label."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mmssl.data.tables import Row

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch", "transformers")
EACH = 200
"""Docstrings of a package: the first ones, files in alphabetical order."""
LARGEST = 40_000
"""Bytes of a file that is read: parsing larger ones takes too long."""
SHORTEST, LONGEST = 80, 1000
"""Characters of a docstring; longer ones are cut."""


@cache
def docstrings() -> list[Row]:
    """`text` and `target` of each; their number and words depend on the versions that are installed."""
    return [{"text": text, "target": package} for package in PACKAGES for text in _of_package(package)]


def _of_package(name: str) -> list[str]:
    spec = find_spec(name)
    if spec is None or not spec.origin:
        return []
    found = dict[str, None]()
    for file in sorted(Path(spec.origin).parent.rglob("*.py")):
        if "tests" not in file.parts and file.stat().st_size <= LARGEST:
            found |= dict.fromkeys(_of_file(file))
        if len(found) >= EACH:
            break
    return list(found)[:EACH]


def _of_file(file: Path) -> Iterator[str]:
    """The docstrings of a file's functions and classes that are long enough."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            if len(text) >= SHORTEST:
                yield text[:LONGEST]

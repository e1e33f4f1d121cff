"""The recipes that come with mmssl, in a module outside the package: importing mmssl takes seconds, `mmssl list` should not."""

from importlib.metadata import files
from itertools import takewhile
from pathlib import Path


def recipes_found() -> dict[str, Path]:
    """The recipes that come with mmssl, by their path in the folder of recipes without its suffix."""
    checkout = Path(__file__).parent
    if (checkout / "setup.cfg").is_file():
        paths = list((checkout / "recipes").rglob("*.yaml"))
    else:
        paths = [Path(str(file.locate())) for file in files("mmssl") or () if file.match("*.yaml") and "recipes" in file.parts]
    named = {"/".join(path.with_suffix("").parts[_after_recipes(path) :]): path for path in paths}
    return dict(sorted(named.items()))


def header(path: Path) -> str:
    """The comment that a recipe opens with: paper, hardware, result and command."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ").rstrip() for line in lines)


def _after_recipes(path: Path) -> int:
    return len(path.parts) - path.parts[::-1].index("recipes")

"""The starter recipes: which there are, and the text that a first recipe for some modalities is made from."""

from collections.abc import Collection
from functools import cache
from pathlib import Path

from mmssl.modality import find
from mmssl.recipe import Recipe
from mmssl_catalogue import recipes_found

FOLDER = "start/"
"""Names of starter recipes begin so."""
MODALITIES = "modalities"


@cache
def starters_by_modalities() -> dict[tuple[tuple[str, ...], str | None], Path]:
    """The starter recipes that come with mmssl, by the modalities that they read, and the kind of labels that they learn."""
    paths = [path for name, path in recipes_found().items() if name.startswith(FOLDER)]
    read = [(path, Recipe.read_resolved(path)) for path in paths]
    return {(tuple(recipe[MODALITIES]), recipe["objective"].get("kind")): path for path, recipe in read}


def starter_text(modalities: Collection[str], kind: str | None) -> str:
    """A starter recipe for modalities, without its header. kind: of labels, where a starter may be for one.

    Several modalities for which there is none find each other as those of the starter for pairs do, each with the settings of its
    own starter, but that it takes samples whole: the pieces of a long one would have no partner. ValueError where one has none.
    """
    starters = {(frozenset(names), kind): path for (names, kind), path in starters_by_modalities().items()}
    own = frozenset(modalities)
    path = starters.get((own, kind), starters.get((own, None)))
    if path is not None:
        return "".join(part for parts in _sections(path).values() for part in parts)
    if lacking := sorted(name for name in own if (frozenset([name]), None) not in starters):
        raise ValueError(f"no starter recipe for {', '.join(lacking)}; there are {', '.join(map(str, starters.values()))}")
    pair = next(path for (names, _), path in starters.items() if len(names) > 1)
    each = [_whole(name, _sections(starters[frozenset([name]), None])[MODALITIES][1:]) for name in modalities]
    sections = _sections(pair)
    sections[MODALITIES] = [sections[MODALITIES][0], *(line for lines in each for line in lines)]
    return "".join(line for lines in sections.values() for line in lines)


def _whole(name: str, lines: list[str]) -> list[str]:
    """The lines of a modality, with the key of its processor that takes samples whole."""
    if not (said := find(name).processor.whole):
        return lines
    key, found = f"      {said.partition(':')[0]}:", f"      {said}  # whole: its pieces would have no partner\n"
    if any(line.startswith(key) for line in lines):
        return [found if line.startswith(key) else line for line in lines]
    first = lines.index("    processor:\n") + 1
    return [*lines[:first], found, *lines[first:]]


def _sections(path: Path) -> dict[str, list[str]]:
    """The lines of a recipe by their section, without its header."""
    sections = dict[str, list[str]]()
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            sections[line.partition(":")[0]] = []
        if sections:
            sections[next(reversed(sections))].append(line)
    return sections

"""A folder of pictures with a folder of label maps beside it: each picture has the map of its name."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmssl.data.dense import MAP_SUFFIXES
from mmssl.data.folder import DataFile, media_files
from mmssl.data.formats import suffix_of
from mmssl.data.walk import SHOWN, Parts
from mmssl.modality import VOID

SAMPLES = ("images", "imgs", "pictures", "photos", "jpegimages")
MAPS = ("masks", "labels", "labelmaps", "label_maps", "annotations", "segmentationclass")
"""How people call the folder of the pictures, and that of the label maps, in lower case; with or without the last s."""


@dataclass(frozen=True)
class Mapped:
    """Pictures with the label map of each, in the same order, and label maps that have no picture."""

    pictures: list[Parts]
    maps: list[Parts]
    over: list[Parts]

    def files(self, folder: Path, path: str) -> list[DataFile]:
        """The pictures with their splits: folders that are called so lie above or below those of pictures and maps."""
        found = media_files(folder, [without(parts) for parts in self.pictures], path)
        return [replace(file, path=folder.joinpath(*parts), label=None) for file, parts in zip(found, self.pictures, strict=True)]

    def notes(self, path: str) -> list[str]:
        """A sentence on maps that nothing is read for, if there are any."""
        if not self.over:
            return []
        shown = ", ".join("/".join(parts) for parts in self.over[:SHOWN])
        more = f" and {len(self.over) - SHOWN:,} more" if len(self.over) > SHOWN else ""
        one = len(self.over) == 1
        are = f"{'label map has' if one else 'label maps have'} no picture and {'is' if one else 'are'} left out"
        return [f"{path}: {len(self.over):,} {are}: {shown}{more}."]


def mapped(media: Sequence[Parts], path: str) -> Mapped | None:
    """The pictures of a folder with their label maps; None where its folders are not called so, or hold something else.

    Each file lies, at any depth, in a folder of `SAMPLES` or of `MAPS`, and the maps have `MAP_SUFFIXES`. A picture and its map
    have the same place and name, but for these folders and the suffix.
    ValueError that names the file for a picture without a map, and for two files of one name.
    """
    places = [place_of(parts) for parts in media]
    kinds = {None if place is None else plural(parts[place]) in MAPS for parts, place in zip(media, places, strict=True)}
    if kinds != {False, True}:
        return None
    found: dict[bool, dict[Parts, list[Parts]]] = {False: defaultdict(list), True: defaultdict(list)}
    for parts in media:
        found[is_map(parts)][key_of(parts)].append(parts)
    if any(suffix_of(parts[-1]) not in MAP_SUFFIXES for each in found[True].values() for parts in each):
        return None
    for alike in (each for of_kind in found.values() for each in of_kind.values() if len(each) > 1):
        both = " and ".join("/".join(each) for each in alike[:2])
        raise ValueError(f"folder {path}: {both} have one name, and a picture has one label map. Rename or remove one")
    if lacking := [each[0] for key, each in found[False].items() if key not in found[True]]:
        shown = ", ".join("/".join(parts) for parts in lacking[:SHOWN])
        more = f" and {len(lacking) - SHOWN:,} more" if len(lacking) > SHOWN else ""
        beside = "/".join(next(iter(found[True].values()))[0])
        raise ValueError(
            f"folder {path}: {len(lacking):,} of {len(found[False]):,} pictures have no label map of their name: {shown}{more}; "
            f"there is, for example, {beside}. Add the maps ({VOID} in each pixel without a label), or move the pictures away"
        )
    pictures = [each[0] for each in found[False].values()]
    maps = [found[True][key_of(parts)][0] for parts in pictures]
    return Mapped(pictures, maps, [each[0] for key, each in found[True].items() if key not in found[False]])


def plural(name: str) -> str:
    """The name of a folder as `SAMPLES` and `MAPS` have it."""
    return f"{name.lower().removesuffix('s')}s"


def place_of(parts: Parts) -> int | None:
    """Which of the folders above a file says what it is."""
    return next((number for number, name in enumerate(parts[:-1]) if plural(name) in (*SAMPLES, *MAPS)), None)


def is_map(parts: Parts) -> bool:
    """Whether a file lies in a folder of label maps."""
    place = place_of(parts)
    return place is not None and plural(parts[place]) in MAPS


def without(parts: Parts) -> Parts:
    """The place of a file without the folder that says what it is."""
    place = place_of(parts)
    return parts if place is None else (*parts[:place], *parts[place + 1 :])


def key_of(parts: Parts) -> Parts:
    """What a picture and its label map share."""
    *folders, name = without(parts)
    return (*folders, name.removesuffix(Path(name).suffix))

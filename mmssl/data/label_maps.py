"""A folder of pictures with a folder of label maps beside it: each picture has the map of its name."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmssl.data.dense import MAP_SUFFIXES
from mmssl.data.folder import DataFile, media_files
from mmssl.data.formats import suffix_of
from mmssl.data.walk import Parts, counted, is_or_are, places_told
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
        count = counted(self.over, "label map has", "label maps have")
        return [f"{path}: {count} no picture and {is_or_are(self.over)} left out: {places_told(self.over)}."]


def mapped(media: Sequence[Parts], path: str) -> Mapped | None:
    """The pictures of a folder with their label maps; None where its folders are not called so, or hold something else.

    Each file lies, at any depth, in a folder of `SAMPLES` or of `MAPS`, and the maps have `MAP_SUFFIXES`. A picture and its map
    have the same place and name, but for these folders and the suffix.
    ValueError that names the file for a picture without a map, and for two files of one name.
    """
    if {kind_of(folders) for folders in {parts[:-1] for parts in media}} != {False, True}:
        return None
    found: dict[bool, dict[Parts, list[Parts]]] = {False: defaultdict(list), True: defaultdict(list)}
    for parts in media:
        found[kind_of(parts[:-1]) is True][key_of(parts)].append(parts)
    if any(suffix_of(parts[-1]) not in MAP_SUFFIXES for each in found[True].values() for parts in each):
        return None
    for alike in (each for of_kind in found.values() for each in of_kind.values() if len(each) > 1):
        both = " and ".join("/".join(each) for each in alike[:2])
        raise ValueError(f"folder {path}: {both} have one name, and a picture has one label map. Rename or remove one")
    if lacking := [each[0] for key, each in found[False].items() if key not in found[True]]:
        beside = "/".join(next(iter(found[True].values()))[0])
        raise ValueError(
            f"folder {path}: {len(lacking):,} of {len(found[False]):,} pictures have no label map of their name: "
            f"{places_told(lacking)}; "
            f"there is, for example, {beside}. Add the maps ({VOID} in each pixel without a label), or move the pictures away"
        )
    pictures = [each[0] for each in found[False].values()]
    maps = [found[True][key_of(parts)][0] for parts in pictures]
    return Mapped(pictures, maps, [each[0] for key, each in found[True].items() if key not in found[False]])


def plural(name: str) -> str:
    """The name of a folder as `SAMPLES` and `MAPS` have it."""
    return f"{name.lower().removesuffix('s')}s"


def place_of(folders: Parts) -> int | None:
    """Which of the folders above a file says what it is."""
    return next((number for number, name in enumerate(folders) if plural(name) in (*SAMPLES, *MAPS)), None)


def kind_of(folders: Parts) -> bool | None:
    """Whether files in these folders are label maps; None: nothing says what they are."""
    place = place_of(folders)
    return None if place is None else plural(folders[place]) in MAPS


def without(parts: Parts) -> Parts:
    """The place of a file without the folder that says what it is."""
    place = place_of(parts[:-1])
    return parts if place is None else (*parts[:place], *parts[place + 1 :])


def key_of(parts: Parts) -> Parts:
    """What a picture and its label map share."""
    *folders, name = without(parts)
    return (*folders, name.removesuffix(Path(name).suffix))

"""Text files of segments beside sounds, as Audacity exports label tracks: `a.txt` beside `a.wav`; a line has start, end, label."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.data.formats import suffix_of
from mmssl.data.lines import decoded
from mmssl.data.segments import END, LABEL, START
from mmssl.data.walk import Parts, named_alike, places_told

SUFFIX = ".txt"
NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
LINE = re.compile(rf"\s*({NUMBER})\t({NUMBER})\t(.*\S)\s*")
NOTE = "\\"
"""What a line begins with that holds the frequencies of the label above it."""


@dataclass(frozen=True)
class Tracks:
    """The file of segments of each sample."""

    files: dict[Parts, Parts]

    def labels(self, folder: Path, parts: Parts) -> list[dict[str, Any]]:
        """The segments of a sample. ValueError as of `read_track`."""
        return read_track(folder.joinpath(*self.files[parts]))


def tracks(folder: Path, media: Sequence[Parts], over: Sequence[Parts], path: str) -> Tracks | None:
    """The text files beside samples that hold segments; None where there are none.

    media: samples of a folder. over: what lies there beside them. ValueError for a sample without such a file, where others have
    one.
    """
    found = named_alike(media, [parts for parts in over if suffix_of(parts[-1]) == SUFFIX])
    if not any(is_track(folder.joinpath(*text)) for text in found.values()):
        return None
    if lacking := [parts for parts in media if parts not in found]:
        raise ValueError(
            f"folder {path}: {len(lacking):,} of {len(media):,} files have no label file of their name: {places_told(lacking)}; "
            f"there is, for example, {'/'.join(next(iter(found.values())))}. Add the files (empty ones where nothing is labelled), "
            "or move these away"
        )
    return Tracks(found)


def is_track(file: Path) -> bool:
    """Whether the first line of a file that is not blank holds a segment."""
    with file.open("rb") as content:
        first = next((line for line in content if line.strip()), b"")
    return LINE.fullmatch(first.decode("utf-8-sig", errors="replace")) is not None


def read_track(file: Path) -> list[dict[str, Any]]:
    """The segments in a file: start, tab, end, tab, label. ValueError that names the line of something else."""
    found = []
    with file.open("rb") as content:
        for number, line in enumerate(content, 1):
            text = decoded(line, file, number).rstrip("\r\n")
            if not text.strip() or text.startswith(NOTE):
                continue
            match = LINE.fullmatch(text)
            if match is None:
                raise ValueError(
                    f"{file}, line {number}: expected start, end and label with tabs between them, as in 0.5<TAB>1.25<TAB>word; "
                    f"got {text!r:.60}. Correct the line, or remove it"
                )
            found.append({START: float(match[1]), END: float(match[2]), LABEL: match[3]})
    return found

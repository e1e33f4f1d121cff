"""Raw samples of one modality, read in large steps."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmssl.data.loader import READ
from mmssl.data.source import Source
from mmssl.data.track import Track, silent
from mmssl.modality import Modality


def raw_samples(
    source: Source, modality: Modality, title: str, *, ids: Sequence[int] | None = None, track: Track = silent
) -> Iterator[Any]:
    """The raw samples of a modality, in order; ids: of these samples alone. title: what `track`, the progress display, says."""
    narrow, ids = source.only([modality]), range(len(source)) if ids is None else ids
    for start in track(range(0, len(ids), READ), title, unit="reads"):
        for row in narrow.rows(ids[start : start + READ]):
            yield narrow.raw(modality, row)

"""What a search found, as a self-contained page with a picture of each hit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmssl import files
from mmssl.data import Source, batches, cut
from mmssl.evaluation.predictions import ROW
from mmssl.evaluation.search import COSINE, RANK, Hits, Search
from mmssl.modality import Processor, find
from mmssl.report.contents import cut as shortened
from mmssl.report.page import picture, template

PAGE = ".html"
"""Ending of a page of hits."""
SIDE = 1.5
"""Inches of a picture."""
LONGEST = 48
"""Characters of a cell."""


@dataclass(frozen=True)
class Pictured:
    """A picture as a data URL, or why there is none."""

    url: str | None
    missing: str = ""


def pictures(source: Source, name: str, processor: Processor, rows: Sequence[int]) -> list[Pictured]:
    """Rows of a dataset, by their numbers, as their modality draws them; of a long sample the first piece."""
    return [drawn(source.select(np.array([row])), name, processor) for row in rows]


def drawn(source: Source, name: str, processor: Processor) -> Pictured:
    """The first row of a source."""
    from matplotlib.figure import Figure  # only where something is drawn

    modality = find(name)
    if modality.draw is None:
        return Pictured(None, f"samples of {name} cannot be drawn")
    modalities = {name: (modality, processor)}
    try:
        batch = next(iter(batches(cut(source, modalities), modalities, 1)))
    except ValueError as error:
        return Pictured(None, str(error))
    figure = Figure(figsize=(SIDE, SIDE), layout="constrained")
    modality.draw(figure.subplots(), batch.inputs[name], 0, processor)
    return Pictured(picture(figure))


def cells(hits: Hits) -> Iterator[list[tuple[str, str]]]:
    """What the index says of each hit: names of columns and short texts."""
    own = (RANK, ROW, COSINE)
    for row in hits.table().to_pylist():
        yield [(name, shown(value)) for name, value in row.items() if name not in own and value is not None]


def shown(value: Any) -> str:
    """A cell in a line. Of a path the end says more than the beginning."""
    text = str(value)
    return (
        text if len(text) <= 48 and "\n" not in text else f"...{text[-45:]}" if "/" in text and " " not in text else shortened(text)
    )


def write_hits(path: Path, hits: Hits, search: Search, data: str | Path | None = None) -> None:
    """Write what a search just found as one HTML file without scripts, that loads nothing from elsewhere.

    Hits have pictures where the embedded data are still there; else a note says why not.
    data: where they are now. ValueError or an OSError if they are not there.
    """
    stamp, notes, found, asked = search.index.stamp, list[str](), list[Pictured](), None
    processors, own = search.processor.processors, [] if search.own is None else [search.own]
    try:
        source = stamp.source(data)
    except (OSError, LookupError, ValueError) as error:
        if data is not None:
            raise
        notes.append(f"There are no pictures of the hits: {error}. Say where the data are with --data.")
    else:
        found = pictures(source, stamp.modality, processors[stamp.modality], [*hits.rows, *own])
        asked = found.pop() if own else None
    if search.asked is not None:
        asked = drawn(search.asked.source, search.asked.modality, processors[search.asked.modality])
    told = "projected" if search.projected else f"layer {search.layer}"
    facts = {
        "query": f"{hits.query} ({hits.modality})",
        "index": f"{hits.index}, {hits.size:,} embeddings of {stamp.modality}, {told}",
        "data": str(stamp.data if data is None else data),
        "model": f"{search.folder} ({stamp.fingerprint})",
    }
    page = template("hits.html.j2").render(
        query=hits.query,
        asked=asked,
        facts=list(facts.items()),
        notes=notes,
        hits=[
            {"rank": rank, "row": row, "cosine": f"{cosine:.3f}", "cells": columns, "picture": found[rank - 1] if found else None}
            for rank, (row, cosine, columns) in enumerate(zip(hits.rows, hits.cosines, cells(hits), strict=True), 1)
        ],
    )
    files.write_text(path, page)

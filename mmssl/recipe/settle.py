"""Values for keys of a recipe that are `auto`, taken from the data, each with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmssl.data import Source, open_streams
from mmssl.data.labels import missing
from mmssl.data.options import DataOptions, Rows, SourceOptions
from mmssl.data.source import LABEL
from mmssl.modality import Suited, find
from mmssl.recipe.automatic import AUTO

LOOKED_AT = 1000
"""Samples of a source, evenly spaced, that values are taken from."""
BATCHES = (2, 4, 8, 16, 32, 64, 128)
FEW = 8
"""Samples of a step where a quarter of all would be fewer."""
MINUTES = {2_000: 1.0, 5_000: 3.0}
"""Minutes of training for at most so many samples; `MOST_MINUTES` for more."""
MOST_MINUTES = 10.0


@dataclass(frozen=True)
class Size:
    """What the general keys depend on: how many samples there are, whether they have labels, and whether rows are pairs.

    tested: whether there is a part of the data called test, which only pairs are asked for.
    """

    samples: int
    labelled: bool = False
    paired: bool = False
    tested: bool = False


def _batch_size(size: Size) -> Suited:
    """A power of two, so that a pass over the data has four steps or more; of few samples `FEW`, or as many as there are."""
    most = max(size.samples // 4, min(FEW, size.samples))
    return Suited(max((each for each in BATCHES if each <= most), default=BATCHES[0]), f"{size.samples:,} samples")


def _minutes(size: Size) -> Suited:
    value = next((minutes for limit, minutes in MINUTES.items() if size.samples <= limit), MOST_MINUTES)
    return Suited(value, f"{size.samples:,} samples")


def _evaluate(size: Size) -> Suited:
    if size.paired:
        scores = {"probe": False, "retrieval": ["test"]} if size.tested else None
        return Suited(scores, "pairs are scored on the part test" if size.tested else "no part of the pairs is called test")
    return (
        Suited({}, "there are labels to score by")
        if size.labelled
        else Suited(None, "no column is known to hold labels that differ")
    )


RULES: Mapping[str, Callable[[Size], Suited]] = {
    "train.batch_size": _batch_size,
    "train.max_minutes": _minutes,
    "evaluate": _evaluate,
}
"""What says the value of each of `mmssl.recipe.automatic.GENERAL`."""


def settle(keys: list[str], modalities: list[str], data: DataOptions, rows: Rows | None = None) -> dict[str, Suited]:
    """A value for each automatic key, from samples of the data.

    rows: data in memory, as in `open_streams`, whose errors it raises. ValueError for a key for which a modality has no value.
    """
    streams = open_streams(data, modalities, rows)
    found = dict[str, Suited]()
    for stream in streams.values():
        for modality in stream.modalities:
            if any(key.startswith(f"modalities.{modality}.") for key in keys):
                found |= {f"modalities.{modality}.{key}": value for key, value in suited(stream.source, modality).items()}
    sources = [stream.source for stream in streams.values()]
    paired = len(modalities) > len(streams)
    size = Size(
        samples=sum(map(len, sources)),
        labelled=any(isinstance(name := source.columns.get(LABEL), str) and differ(source, name) for source in sources),
        paired=paired,
        tested=paired and rows is None and _has_test(next(iter(data.split_up(modalities).values()))),
    )
    found |= {key: rule(size) for key, rule in RULES.items()}
    if unknown := [key for key in keys if key not in found]:
        known = ", ".join(found)
        raise ValueError(f"{unknown[0]}: {AUTO} has no meaning there; keys that can be taken from the data are {known}")
    return {key: found[key] for key in keys}


def differ(source: Source, column: str) -> bool:
    """Whether some rows have another label than others: what all have scores nothing."""
    cells = source.cells(column)
    return len({str(cell) for cell, without in zip(cells, missing(cells), strict=True) if not without}) > 1


def _has_test(place: SourceOptions) -> bool:
    """Whether the data have a part called test."""
    try:
        Source(path=place.path or "", split="test", table_format=place.table_format)
    except LookupError:
        return False
    return True


def suited(source: Source, modality: str) -> Mapping[str, Suited]:
    """The values that a modality takes from samples of a source, by key below the modality."""
    plug_in = find(modality)
    some = source.only([plug_in]).evenly(LOOKED_AT)
    rows = some.rows(range(len(some)))
    return plug_in.suited([some.raw(plug_in, row) for row in rows])

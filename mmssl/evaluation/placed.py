"""Some test samples with the labels of their places, and with those that a model says, as the report shows them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmssl.data import Source
from mmssl.data.dense import Places
from mmssl.modality import Inputs, Processor, find

EXAMPLES = 4


@dataclass(frozen=True)
class PlacedExample:
    """A sample. words: of which it consists, where these have the labels; draw: (matplotlib axes) draws it; None: it cannot be."""

    title: str
    truth: Places
    said: Places
    words: list[str] | None
    draw: Callable[[Any], None] | None


def shown_rows(source: Source) -> list[int]:
    """Rows of a source, evenly spaced, by their places in it."""
    return sorted({number * source.num_rows // EXAMPLES for number in range(EXAMPLES)})


def example_of(source: Source, name: str, processor: Processor, row: int, truth: Places, said: Places) -> PlacedExample:
    """A row of a source as it is shown; a sample that is too long to be one piece cannot be drawn."""
    modality = find(name)
    narrow = source.only([modality])
    (held,) = narrow.rows([row]) if not source.is_cut else narrow.evenly(source.num_rows).rows([row])
    raw, draw = narrow.raw(modality, held), modality.draw
    words = processor.words(raw)
    pieces = [] if draw is None or words is not None else processor.pieces(raw)
    drawn = None
    if draw is not None and len(pieces) == 1:
        drawn = partial(_drawn, draw, processor.collate([processor(pieces[0])]), processor)
    return PlacedExample(f"row {source.row_number(row)}", truth, said, words, drawn)


def _drawn(draw: Callable[[Any, Inputs, int, Any], None], inputs: Inputs, processor: Processor, axes: Any) -> None:
    draw(axes, inputs, 0, processor)

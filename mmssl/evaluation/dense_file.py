"""What a model says of the places of every row of a source, as a table that is written to a file, and label maps beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from mmssl import files
from mmssl.data import Source, processes
from mmssl.data.dense import Places
from mmssl.data.segments import joined
from mmssl.evaluation.dense import Counted, Told, own_words, told
from mmssl.evaluation.judged import Judged, class_names
from mmssl.evaluation.predictions import HELD_OUT, PREDICTION, ROW, Unseen, as_stored, kept_columns
from mmssl.evaluation.truth import Truth
from mmssl.modality import VOID, Modality, Processor, find
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

MAPS = "_maps"
"""What follows the name of a table in that of the folder of its label maps."""


def dense_source(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    output: Path,
    *,
    keep: Sequence[str],
    scored: bool,
    unseen: Unseen,
    **options: Any,
) -> tuple[pa.Table, Judged | None] | None:
    """What a model says of the places of each row, as a table, and what it is worth; None on other processes.

    Columns: `row`, those to keep, `held_out` where a part of the rows was held out of training, and `prediction`: a list of
    classes, one for each word, null for a word that has no token; of a model that learned segments of time a list of such, with
    start, end, label, and the mean probability of its steps; or of pictures the file of a label map, class numbers in each
    pixel, in the folder `<output>_maps` beside `output`. A row that could not be read has none.
    scored: whether the rows have labels to compare with. options: as of `told`.
    """
    head, names = model.label_head, class_names(model)
    source = source.in_steps(find(name), processor.processors[name]) if head.segments and scored else source
    found = told(model, processor.processors[name], source, name, own_words(model, name), sure=bool(head.segments), **options)
    truth = Truth(source, names, most=0)  # each row is asked for once
    counted = Counted.of(iter(()), truth)
    judged_rows = unseen.among(torch.arange(source.num_rows)).numpy()
    said: list[Any] = [None] * source.num_rows

    def count(one: Told, before: Counted) -> Counted:
        return before.with_row(one, truth) if scored and judged_rows[one.row] else before

    if head.places == "map" and processes.is_first():
        folder = output.with_name(f"{output.stem}{MAPS}")
        with files.new_folder(folder) as new:
            for one in found:
                counted = count(one, counted)
                file = f"{source.row_number(one.row):06d}.png"
                picture(one.places, len(names)).save(new / file)
                said[one.row] = f"{folder.name}/{file}"
    elif head.segments:
        stretches = Stretches.of(source, name, processor, names, head.background)
        for one in found:
            counted = count(one, counted)
            said[one.row] = stretches(one)
    else:
        stored = as_stored(names)
        for one in found:
            counted = count(one, counted)
            said[one.row] = [None if number < 0 else stored[number] for number in one.places.tolist()]
    if not processes.is_first():
        return None
    assert head.places is not None, "it labels places"
    judged = counted.judged(head.task, head.places, names) if counted.samples else None
    return table_of(source, said, keep, unseen, judged_rows), judged


@dataclass(frozen=True)
class Stretches:
    """Makes segments of what is said of the steps of a row. source: gives the samples. names: of the classes, as data hold them."""

    source: Source
    modality: Modality
    processor: Processor
    names: list[Any]
    background: int | None

    @classmethod
    def of(cls, source: Source, name: str, processor: MMSSLProcessor, names: list[str], background: str | None) -> "Stretches":
        """Of the rows of a source."""
        modality = find(name)
        narrow = source.only([modality]).evenly(source.num_rows)
        number = None if background is None else names.index(background)
        return cls(narrow, modality, processor.processors[name], as_stored(names), number)

    def __call__(self, one: Told) -> list[dict[str, Any]]:
        (row,) = self.source.rows([one.row])
        times = self.processor.step_times(self.source.raw(self.modality, row))
        assert one.sure is not None, "it was asked for"
        return joined(one.places, one.sure, times, self.names, self.background)


def table_of(source: Source, said: list[Any], keep: Sequence[str], unseen: Unseen, held: Any) -> pa.Table:
    """The rows of the file."""
    rows = pa.array([source.row_number(i) for i in range(source.num_rows)], pa.int64())
    columns: dict[str, Any] = {ROW: pa.chunked_array([rows])} | kept_columns(source, keep)
    if unseen.rows is not None:
        columns[HELD_OUT] = pa.array(held)
    return pa.table(columns | {PREDICTION: pa.array(said)})


def picture(places: Places, classes: int) -> Image.Image:
    """A label map as a picture, of 16 bits where there are more classes than 8 can tell beside `VOID`."""
    return Image.fromarray(places.astype(np.uint8 if classes <= VOID else np.uint16))

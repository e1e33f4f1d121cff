"""Predictions of a model for every row of a source, beside what the row holds, as a table that is written to a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl import files
from mmssl.data import Batch, Labels, Source, Track, silent
from mmssl.data.source import OnError
from mmssl.evaluation.features import embed
from mmssl.evaluation.history import History
from mmssl.evaluation.judged import Judged, class_names, kind_of, logits_of, renumbered
from mmssl.evaluation.sources import fifth_of
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

ROW, PREDICTION, PROBABILITY, HELD_OUT = "row", "prediction", "probability_", "held_out"
SUFFIXES = (".parquet", ".csv")
KEPT_AT_ONCE = 4096
"""Rows whose other columns are read at a time."""


PLAIN = (str, bool, int, float, date, time, Decimal, list, dict)
"""What a cell may be to be written: anything else holds a picture or a sound."""
MEDIA = object()


@dataclass(frozen=True)
class Unseen:
    """What of a source a model was not trained on with labels. rows: numbers of those held out, where others were trained on; None:
    nothing was held out. note: what a reader of scores should know."""

    rows: Int[np.ndarray, " k"] | None = None
    note: str | None = None

    @classmethod
    def of(cls, history: History, source: Source) -> "Unseen":
        """By the record of a model."""
        learned = [entry for entry in history.trained if entry.label is not None and entry.overlaps(source)]
        if not learned:
            return cls()
        kept = [fifth_of(source, entry.held_out).rows for entry in learned if entry.held_out is not None and entry.same(source)]
        if len(kept) < len(learned):
            return cls(
                None, "the model was trained on rows of these data with their labels, so the scores say nothing about others"
            )
        return cls(reduce(np.intersect1d, kept), "the scores are of the rows that were held out of training")

    def among(self, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which of these rows are to be scored."""
        return torch.ones_like(ids, dtype=torch.bool) if self.rows is None else torch.isin(ids, torch.from_numpy(self.rows))


def is_ours(column: str) -> bool:
    """Whether a column of predictions is called so."""
    return column in (ROW, PREDICTION, HELD_OUT) or column.startswith(PROBABILITY)


def check_columns(source: Source, keep: Sequence[str], is_ours: Callable[[str], bool], clash: str) -> list[str]:
    """The columns of a source that are to be written, each once. LookupError for one that is not there, or that is called as one
    that is written beside them; clash: says so."""
    for name in keep:
        if name not in source.column_names:
            raise LookupError(f"--keep {name}: {source} has no such column; it has {', '.join(source.column_names)}")
        if is_ours(name):
            raise LookupError(f"--keep {name}: {clash}")
    return list(dict.fromkeys(keep))


def columns_to_keep(source: Source, keep: Sequence[str] | None) -> list[str]:
    """The columns to write beside predictions; None: all. LookupError as of `check_columns`."""
    clash = f"{source} has it, and the predictions would both be called so; name others with --keep"
    return check_columns(source, source.stored_columns if keep is None else keep, is_ours, clash)


def labels_of(source: Source, model: MMSSLModel) -> Labels:
    """The true labels of a source, read as a model predicts them."""
    found = source.labels(kind=kind_of(model.label_head))
    assert found is not None, "the column is named"
    return found


def judge(model: MMSSLModel, found: Sequence[tuple[Tensor, Batch]], labels: Labels, unseen: Unseen) -> Judged | None:
    """What predictions are worth beside the true labels of their rows, those held out if some were; None where there are none."""
    if not found:
        return None
    ids, logits = torch.cat([batch.ids for _, batch in found]), torch.cat([given for given, _ in found])
    scored = unseen.among(ids)
    if not scored.any():
        return None
    truth = renumbered(labels.tensor()[ids], labels, model)
    return Judged.of(model.label_head, class_names(model), logits[scored], truth[scored])


def check_output(output: Path, *others: str) -> None:
    """ValueError unless it is a file that `write` may write, or one with one of the `others` for its ending."""
    endings = (*SUFFIXES, *others)
    if output.suffix not in endings or output.is_dir():
        raise ValueError(f"--output must be a file that ends in {', '.join(endings[:-1])} or {endings[-1]}; got {output}")


def predicted(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    *,
    batch_size: int = 256,
    on_error: OnError = "raise",
    track: Track = silent,
) -> Iterator[tuple[Tensor, Batch]]:
    """Logits `[b, k]` of the rows of a source, each beside its batch, in their order; see `mmssl.evaluation.features.embed`.

    ValueError that names the first row whose prediction is not finite.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "track": track, "title": "predictions"}
    for logits, batch in embed(model, processor, source, name, then=partial(logits_of, model), **options):
        bad = (~logits.isfinite()).any(1)
        if bad.any():
            row = source.row_number(int(batch.ids[bad.cpu()][0]))
            raise ValueError(
                f"row {row} of {source}: the prediction is not finite; the model has diverged, or the sample is extreme"
            )
        yield logits.float().cpu(), batch


def table_of(
    model: MMSSLModel, found: Sequence[tuple[Tensor, Batch]], source: Source, keep: Sequence[str], unseen: Unseen
) -> pa.Table:
    """A row for each row of the source: its number, the columns to keep, whether it was held out of training,
    the prediction, the probability of each class.

    A row that could not be read has no prediction.
    """
    head, names = model.label_head, class_names(model)
    logits = torch.cat([values for values, _ in found]) if found else torch.empty(0, head.size)
    ids = torch.cat([batch.ids for _, batch in found]) if found else torch.empty(0, dtype=torch.int64)
    place = torch.full((source.num_rows,), -1).index_put((ids,), torch.arange(len(ids)))
    rows = pa.array([source.row_number(i) for i in range(source.num_rows)], pa.int64())
    columns = {ROW: pa.chunked_array([rows])} | kept_columns(source, keep)
    if unseen.rows is not None:
        columns[HELD_OUT] = pa.array(unseen.among(torch.arange(source.num_rows)).numpy())
    where = pa.array(place.numpy(), mask=(place < 0).numpy())
    if head.kind == "regression":
        numbers = pa.array(logits[:, 0].numpy()) if head.shape is None else nested(head.shaped(logits), len(head.shape))
        columns[PREDICTION] = pc.take(numbers, where)
        return pa.table(columns)
    shares = head.probabilities(logits)
    if head.kind == "multi_label":
        chosen = [[name for name, yes in zip(names, row, strict=True) if yes] for row in (shares > 0.5).tolist()]
        columns[PREDICTION] = pc.take(pa.array(chosen, pa.list_(pa.string())), where)
    else:
        columns[PREDICTION] = pc.take(pa.array(as_stored(names)), pc.take(pa.array(shares.argmax(1).numpy()), where))
    columns |= {f"{PROBABILITY}{name}": pc.take(pa.array(shares[:, i].numpy()), where) for i, name in enumerate(names)}
    return pa.table(columns)


def nested(values: Float[Tensor, " n *shape"], depth: int) -> pa.Array:
    """A list of float32, or of lists of them, for each row."""
    kind = pa.float32()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.array(values.tolist(), kind)


def as_stored(names: Sequence[str]) -> list[Any]:
    """Class names as the values that a column of labels holds: whole numbers, true and false, else text."""
    if set(names) == {"False", "True"}:
        return [name == "True" for name in names]
    try:
        numbers = [int(name) for name in names]
    except ValueError:
        return list(names)
    return numbers if [str(number) for number in numbers] == list(names) else list(names)


def kept_columns(source: Source, keep: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Columns of the rows that a source keeps; of a cell that is a file its path. Columns whose cells hold media are left out."""
    tables, media = list[pa.Table](), set[str]()
    for start in range(0, source.num_rows if keep else 0, KEPT_AT_ONCE):
        rows = source.evenly(source.num_rows).rows(range(start, min(start + KEPT_AT_ONCE, source.num_rows)))
        cells = {name: [told(row[name]) for row in rows] for name in keep}
        media |= {name for name in keep if any(cell is MEDIA for cell in cells[name])}
        tables.append(pa.table({name: pa.array(cells[name], from_pandas=True) for name in keep if name not in media}))
    whole = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
    return {name: whole.column(name) for name in keep if name not in media}


def told(cell: Any) -> Any:
    """A cell as a table holds it."""
    if isinstance(cell, dict) and "path" in cell and set(cell) <= {"path", "bytes"}:
        return MEDIA if cell["path"] is None else cell["path"]
    cell = cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell
    return cell if cell is None or isinstance(cell, PLAIN) else MEDIA


def write(table: pa.Table, output: Path) -> None:
    """Write a table as its file's name says; lists in a csv file are JSON. The file appears when it is complete."""
    files.sweep(output.parent, output.name)
    with files.new_file(output) as part:
        if output.suffix == ".parquet":
            pq.write_table(table, part)
            return
        is_nested: Callable[[pa.DataType], bool] = pa.types.is_nested
        flat = {
            name: pa.array([None if cell is None else json.dumps(cell) for cell in column.to_pylist()], pa.string())
            if is_nested(column.type)
            else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        pa_csv.write_csv(pa.table(flat), part)

"""The vectors of a dataset on their way to a file, beside what says which row each is of."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from mmssl import files
from mmssl.data import Source
from mmssl.data.source import LABEL
from mmssl.evaluation.predictions import ROW, check_columns, kept_columns
from mmssl.evaluation.readout import COORDINATES, EMBEDDING, POOLED, TOKENS, Readout, Vectors
from mmssl.evaluation.stamp import STAMP, STAMP_FILE, Stamp
from mmssl.modality import find

PARQUET, NPY = ".parquet", ".npy"
GROUP = 256
"""Rows of a row group of a parquet file, or a few more."""


def check_output(output: Path, readout: Readout = POOLED) -> None:
    """ValueError unless vectors can be written there: a parquet or npy file, or a new folder."""
    if output.suffix == NPY and (readout.tokens or len(readout.layers) > 1):
        raise ValueError(
            f"--output {output}: an npy file holds one vector of each row, and several layers or tokens are asked for; write a "
            f"{PARQUET} file or a new folder"
        )
    kinds = f"a file that ends in {PARQUET} or {NPY}, or a new folder, whose name has no dot, for the datasets library"
    if output.exists() and output.is_dir():
        raise ValueError(f"--output must be {kinds}; {output} is a folder already. Name a file in it, or another folder")
    if output.suffix not in (PARQUET, NPY, ""):
        raise ValueError(f"--output must be {kinds}; got {output}")
    if not output.suffix and output.exists():
        raise ValueError(f"--output must be {kinds}; {output} is a file already")
    if not output.suffix and find_spec("datasets") is None:
        raise ModuleNotFoundError(f"writing a folder ({output}) needs the package datasets: pip install datasets", name="datasets")


def rows_beside(output: Path) -> Path:
    """The parquet file that says which row each vector of an npy file is of."""
    return output.with_suffix(".rows.parquet")


def to_keep(source: Source, name: str, keep: Sequence[str] | None) -> list[str]:
    """The columns of a source to write beside the vectors of modality `name`; None: those that say which file a row is, and its
    label. LookupError for a column that is not there, or that would be called as ours are."""
    if keep is None:
        place, label = source.places(find(name)), source.columns.get(LABEL)
        cell = source.rows([0])[0][place] if isinstance(place, str) else None
        named = [place] if isinstance(cell, dict) and cell.get("path") else []
        return [each for each in (*named, label) if isinstance(each, str) and not is_ours(each)] if named else []
    return check_columns(source, keep, is_ours, "a column that is written is called so; name others, or rename it in the data")


def is_ours(column: str) -> bool:
    """Whether a column that is written beside those to keep may be called so."""
    return column in (ROW, TOKENS, COORDINATES) or column.startswith(EMBEDDING)


def write_vectors(found: Iterable[Vectors], source: Source, output: Path, keep: Sequence[str], stamp: Stamp) -> int:
    """Write vectors as they come, with `row` and the columns to keep; returns their number. The output appears when complete.

    parquet: columns row, those to keep, embedding, and what else was read. npy: the vectors alone, float32 `[n, width]`, and the
    others, in their order, in `NAME.rows.parquet` beside it. A folder: the same columns as a dataset of the `datasets` library
    (`load_from_disk`). stamp: goes with them, in the metadata of the parquet file, or as a file in the folder.
    """
    coming = iter(found)
    first = next(coming, None)
    if first is None:
        raise ValueError(f"no row of {source} could be read, so there is nothing to write")
    kept = pa.table(dict(kept_columns(source.located(list(keep)), keep))) if keep else pa.table({})
    own = [(name, type_of(name, values.shape[1])) for name, values in first.values.items()]
    schema = pa.schema([(ROW, pa.int64()), *kept.schema, *own], {STAMP: stamp.to_json()})
    tables = tables_of(chain([first], coming), source, kept, schema)
    files.sweep(output.parent, output.name)
    if output.suffix == PARQUET:
        with files.new_file(output) as part:
            return to_parquet(tables, schema, part)
    if output.suffix == NPY:
        with files.new_file(rows_beside(output)) as rows, files.new_file(output) as part:
            return to_npy(tables, schema, part, rows)
    with files.new_folder(output) as folder, TemporaryDirectory(dir=output.parent, prefix=".embed.") as away:
        count = to_parquet(tables, schema, Path(away) / "part.parquet")
        to_dataset(Path(away), folder)
        files.write_text(folder / STAMP_FILE, stamp.to_json())
    return count


def type_of(column: str, width: int) -> pa.DataType:
    """A vector for each row, or a list of them, one for each token."""
    vector = pa.list_(pa.float32(), width)
    return pa.list_(vector) if column in (TOKENS, COORDINATES) else vector


def tables_of(found: Iterable[Vectors], source: Source, kept: pa.Table, schema: pa.Schema) -> Iterator[pa.Table]:
    """Vectors of some rows after the other as tables."""
    for vectors in found:
        ids = vectors.ids.tolist()
        rows = [source.row_number(i) for i in ids]
        columns = [pa.array(rows, pa.int64()), *(kept.column(name).take(pa.array(ids, pa.int64())) for name in kept.column_names)]
        for name in schema.names[len(columns) :]:
            values = vectors.values[name]
            counts = vectors.counts if name in (TOKENS, COORDINATES) else None
            owners = rows if counts is None else np.repeat(rows, counts.numpy()).tolist()
            check_finite(values, owners, str(source))
            kind = schema.field(name).type
            flat = pa.array(values.numpy().ravel())
            if counts is None:
                columns.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            else:
                ends = pa.array(np.concatenate([[0], np.cumsum(counts.numpy())]), pa.int32())
                columns.append(pa.ListArray.from_arrays(ends, pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)))
        yield pa.table(columns, schema=schema)


def to_parquet(tables: Iterable[pa.Table], schema: pa.Schema, file: Path) -> int:
    """Write tables one behind the other, some together as a row group; returns the number of rows."""
    count, held = 0, list[pa.Table]()
    with pq.ParquetWriter(file, schema) as writer:
        for table in tables:
            held.append(table)
            count += table.num_rows
            if sum(len(part) for part in held) >= GROUP:
                writer.write_table(pa.concat_tables(held))
                held.clear()
        if held:
            writer.write_table(pa.concat_tables(held))
    return count


def to_npy(tables: Iterable[pa.Table], schema: pa.Schema, file: Path, rows: Path) -> int:
    """Write the vectors to one file and what is beside them to another; returns their number."""
    place = len(schema) - 1
    width = schema.field(place).type.list_size

    def header(count: int) -> None:
        # numpy leaves room in it for the number of rows to grow.
        stream.seek(0)
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})

    with file.open("wb") as stream:
        header(0)

        def told() -> Iterator[pa.Table]:
            for table in tables:
                stream.write(table.column(place).combine_chunks().flatten().to_numpy().astype("<f4").tobytes())
                yield table.remove_column(place)

        count = to_parquet(told(), schema.remove(place), rows)
        header(count)
    return count


def to_dataset(away: Path, folder: Path) -> None:
    """Write the parquet files in one folder as a dataset in another."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        table = datasets.Dataset.from_parquet([str(file) for file in sorted(away.glob("*.parquet"))], cache_dir=str(away / "cache"))
        table.save_to_disk(str(folder))
    finally:
        if shown:
            datasets.enable_progress_bars()


def check_finite(values: Float[Tensor, "b ..."], rows: Iterable[int], of: str) -> None:
    """ValueError that names the first row whose values are NaN or infinite; values: those of each of the rows of a source."""
    for row, good in zip(rows, values.isfinite().flatten(1).all(1).tolist(), strict=True):
        if not good:
            raise ValueError(
                f"row {row} of {of}: its embedding is NaN or infinite. If all are, the model's numbers are out of range; "
                "if only this one is, so is the sample: look at it"
            )

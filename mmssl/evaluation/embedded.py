"""Files of embeddings, as `mmssl embed` writes them, read again."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from mmssl.data.column_types import is_list
from mmssl.evaluation.predictions import ROW
from mmssl.evaluation.readout import COORDINATES, LAST, TOKENS, Layer, column_of
from mmssl.evaluation.stamp import STAMP, STAMP_FILE, Stamp
from mmssl.evaluation.vectors import NPY, PARQUET, rows_beside


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a dataset. rows: of the dataset, one for each vector. others: what else the file says of each row."""

    path: Path
    stamp: Stamp
    vectors: Float[np.ndarray, "n d"]
    rows: Int[np.ndarray, " n"]
    others: pa.Table

    @classmethod
    def read(cls, path: str | Path, layer: Layer = LAST) -> "Embedded":
        """What `mmssl embed` wrote: a parquet file, an npy file with its rows beside it, or a folder of a dataset.

        layer: whose vectors to read. FileNotFoundError, LookupError or ValueError say what is missing, for anything else.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no index {path}: give the file or folder that `mmssl embed` wrote")
        table, stamp = _of_folder(path) if path.is_dir() else _of_file(path)
        if layer not in stamp.layers:
            known = ", ".join(map(str, stamp.layers))
            raise LookupError(f"{path} holds no embeddings of layer {layer}; it holds those of {known} (--layer)")
        column = column_of(layer)
        vectors = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix == NPY else _vectors(table, column, path)
        if vectors.ndim != 2 or len(vectors) != len(table):
            raise ValueError(f"{path} must hold a vector for each of {len(table)} rows; it holds {vectors.shape}. Embed again")
        if not len(vectors):
            raise ValueError(f"{path} holds no embedding, so nothing can be found in it")
        bad = ~np.isfinite(vectors).all(1)
        rows = table.column(ROW).to_numpy()
        if bad.any():
            raise ValueError(f"{path}: the embedding of row {rows[bad.argmax()]} is NaN or infinite; embed again")
        ours = (ROW, TOKENS, COORDINATES, *map(column_of, stamp.layers))
        kept = [name for name in table.column_names if name not in ours]
        return cls(path, stamp, vectors, rows, table.select(kept))

    def place(self, row: int) -> int:
        """Where the vector of a row of the dataset is. LookupError if there is none."""
        found = np.flatnonzero(self.rows == row)
        if not len(found):
            low, high = self.rows.min(), self.rows.max()
            raise LookupError(f"{self.path} has no embedding of row {row}; it has {len(self.rows):,} of rows {low} to {high}")
        return int(found[0])


def _of_file(path: Path) -> tuple[pa.Table, Stamp]:
    """The table of a file, or of the one beside an npy file, and what it remembers."""
    if path.suffix not in (PARQUET, NPY):
        raise ValueError(f"{path} is no index: that is a .parquet or .npy file, or a folder, which `mmssl embed` wrote")
    file = path if path.suffix == PARQUET else rows_beside(path)
    if not file.exists():
        raise FileNotFoundError(f"{path} has no {file.name} beside it, which says what its rows are: `mmssl embed` wrote both")
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read as a parquet file: {error}") from None
    stamp = (table.schema.metadata or {}).get(STAMP.encode())
    if stamp is None or ROW not in table.column_names:
        raise ValueError(
            f"{file} does not say which model its vectors are of, so that no query can be compared with them: `mmssl embed` of "
            "another version, or another tool, wrote it. Embed the data again"
        )
    return table, Stamp.from_json(stamp, file)


def _of_folder(path: Path) -> tuple[pa.Table, Stamp]:
    """The table of a folder of the `datasets` library, and what it remembers."""
    import datasets

    if not (path / STAMP_FILE).exists():
        raise ValueError(f"{path} is no folder of embeddings: it has no {STAMP_FILE}, which `mmssl embed --output {path}` writes")
    table = datasets.load_from_disk(str(path)).with_format("arrow")[:]
    return table, Stamp.from_json((path / STAMP_FILE).read_bytes(), path / STAMP_FILE)


def _vectors(table: pa.Table, column: str, path: Path) -> Float[np.ndarray, "n d"]:
    """The vectors in a column."""
    held = [field.name for field in table.schema if is_list(field.type) and pa.types.is_floating(field.type.value_type)]
    if column not in held:
        raise LookupError(f"{path} has no embeddings in a column {column!r}; it has {', '.join(held) or 'none'}")
    cells = table.column(column).combine_chunks()
    lengths = pc.unique(pc.list_value_length(cells)).to_pylist()
    if len(lengths) > 1 or lengths == [None]:
        raise ValueError(f"{path}, column {column}: embeddings must all have one width; got {lengths}")
    return np.asarray(cells.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(table), lengths[0] if lengths else 0)

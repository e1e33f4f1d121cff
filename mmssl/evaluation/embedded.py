"""Files of embeddings as `mmssl embed` writes them, and what they remember of the model and the data that they are of."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Float, Int
from pydantic import TypeAdapter
from torch import nn

from mmssl.data import Source
from mmssl.data.column_types import is_list
from mmssl.data.identity import content_digits
from mmssl.data.source import Columns
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.data.walk import MAGIC
from mmssl.evaluation.sources import columns_of
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

ROW, EMBEDDING = "row", "embedding"
STAMP = "mmssl"
"""Key of the metadata of a file of embeddings."""
STAMP_FILE = "mmssl.json"
"""The same in the folder of a dataset, which keeps no metadata."""
CHANGEABLE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of a configuration that say nothing of what a model gives."""


def fingerprint(model: MMSSLModel, processor: MMSSLProcessor) -> str:
    """16 digits that two models share which make the same vectors: of weights, configuration and processors."""
    digest = xxhash.xxh3_64()
    said = {key: value for key, value in model.config.to_diff_dict().items() if key not in CHANGEABLE}
    digest.update(json.dumps([said, processor.settings()], sort_keys=True, default=str).encode())
    module: nn.Module = model
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a file of embeddings remembers.

    model: folder or Hub id of the model that made them. fingerprint: what it is known by, wherever it lies; see `fingerprint`.
    modality: that was read. projected: whether they lie in the space that modalities share, or are pooled outputs.
    data, split, columns, table_format: what was read, as `Source` takes it. content: what the data are known by.
    """

    model: str
    fingerprint: str
    modality: str
    projected: bool
    data: str
    split: str | None
    columns: Columns | None
    table_format: Mapping[str, Any]
    content: str | None

    @classmethod
    def of(
        cls,
        folder: str | Path,
        model: MMSSLModel,
        processor: MMSSLProcessor,
        name: str,
        source: Source,
        *,
        projected: bool = False,
        table_format: TableFormat = PLAIN,
    ) -> "Stamp":
        """That of the vectors of a source. folder: what the model was loaded from."""
        return cls(
            model=absolute(folder),
            fingerprint=fingerprint(model, processor),
            modality=name,
            projected=projected,
            data=absolute(source.path),
            split=source.split,
            columns=source.columns,
            table_format=asdict(table_format),
            content=content_digits(source, columns_of(source, name)),
        )

    def to_json(self) -> str:
        """For the metadata of a file."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> "Stamp":
        """What the file at `path` remembers. ValueError if it is none that this version of mmssl can read."""
        found = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.keys() != known:
            raise ValueError(
                f"{path} was written by another version of mmssl, which remembered other things of its embeddings: embed the data "
                "again"
            )
        return cls(**found)

    def source(self, data: str | Path | None = None) -> Source:
        """The data that were embedded, or the same elsewhere. ValueError if they hold something else by now."""
        path = self.data if data is None else str(data)
        table_format = TypeAdapter(TableFormat).validate_python(self.table_format)
        source = Source(path=path, split=self.split, columns=self.columns, table_format=table_format)
        if content_digits(source, columns_of(source, self.modality)) != self.content:
            raise ValueError(f"{source} is not what was embedded: it holds other rows")
        return source


def absolute(path: str | Path) -> str:
    """The whole path of a file, a folder or a pattern of files; anything else, as a Hub id, as it is."""
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() or MAGIC.search(str(path)) else str(path)


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a dataset. rows: of the dataset, one for each vector. others: what else the file says of each row."""

    path: Path
    stamp: Stamp
    vectors: Float[np.ndarray, "n d"]
    rows: Int[np.ndarray, " n"]
    others: pa.Table

    @classmethod
    def read(cls, path: str | Path, column: str = EMBEDDING) -> "Embedded":
        """What `mmssl embed` wrote: a parquet file, an npy file with its rows beside it, or a folder of a dataset.

        column: of the vectors. FileNotFoundError or ValueError, which say what is missing, for anything else.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no index {path}: give the file or folder that `mmssl embed` wrote")
        table, stamp = _of_folder(path) if path.is_dir() else _of_file(path)
        vectors = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix == ".npy" else _vectors(table, column, path)
        if vectors.ndim != 2 or len(vectors) != len(table):
            raise ValueError(f"{path} must hold a vector for each of {len(table)} rows; it holds {vectors.shape}. Embed again")
        if not len(vectors):
            raise ValueError(f"{path} holds no embedding, so nothing can be found in it")
        bad = ~np.isfinite(vectors).all(1)
        rows = table.column(ROW).to_numpy()
        if bad.any():
            raise ValueError(f"{path}: the embedding of row {rows[bad.argmax()]} is NaN or infinite; embed again")
        kept = [name for name in table.column_names if name != ROW and not _holds_vectors(table.schema.field(name).type)]
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
    if path.suffix not in (".parquet", ".npy"):
        raise ValueError(f"{path} is no index: that is a .parquet or .npy file, or a folder, which `mmssl embed` wrote")
    file = path if path.suffix == ".parquet" else rows_file(path)
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


def rows_file(path: Path) -> Path:
    """What the rows of an npy file are."""
    return path.with_suffix(".rows.parquet")


def _vectors(table: pa.Table, column: str, path: Path) -> Float[np.ndarray, "n d"]:
    """The vectors in a column."""
    held = [name for name in table.column_names if _holds_vectors(table.schema.field(name).type)]
    if column not in held:
        raise LookupError(f"{path} has no embeddings in a column {column!r}; it has {', '.join(held) or 'none'}")
    cells = table.column(column).combine_chunks()
    lengths = pc.unique(pc.list_value_length(cells)).to_pylist()
    if len(lengths) > 1 or lengths == [None]:
        raise ValueError(f"{path}, column {column}: embeddings must all have one width; got {lengths}")
    return np.asarray(cells.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(table), lengths[0] if lengths else 0)


def _holds_vectors(kind: pa.DataType) -> bool:
    """Whether cells are lists of floats, or lists of such."""
    deep = is_list(kind)
    while is_list(kind):
        kind = kind.value_type
    return deep and pa.types.is_floating(kind)

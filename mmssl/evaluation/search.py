"""A query among embeddings: a row of the index, a file, a text or a raw sample, of any modality that shares its space."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from mmssl.data import Source
from mmssl.data.formats import all_formats, is_table, suffix_of
from mmssl.evaluation.embedded import Embedded
from mmssl.evaluation.nearest import Kind, Nearest, faiss
from mmssl.evaluation.pair_data import holds, reads_text
from mmssl.evaluation.predictions import ROW
from mmssl.evaluation.readout import LAST, Layer, Readout, column_of, read
from mmssl.evaluation.stamp import fingerprint
from mmssl.modality import find
from mmssl.model import MMSSLModel, load_model
from mmssl.processor import MMSSLProcessor

Query = str | Path | int | Any
"""A row of the index, a file, a text, or a raw sample in memory."""
RANK, COSINE = "rank", "cosine"


@dataclass(frozen=True)
class Asked:
    """A query that was read: one row of a source, and the modality that it is of."""

    source: Source
    modality: str


@dataclass(frozen=True)
class Hits:
    """What a query found, the nearest first.

    query: in words. modality: of the query. index: what was searched. size: embeddings in it.
    rows: of the embedded dataset. cosines: with the query. others: what the index says of these rows.
    """

    query: str
    modality: str
    index: Path
    size: int
    rows: list[int]
    cosines: list[float]
    others: pa.Table

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> pa.Table:
        """A row for each hit: `rank` from 1 on, `row`, `cosine`, and the other columns of the index."""
        own = {
            RANK: pa.array(range(1, len(self) + 1), pa.int64()),
            ROW: pa.array(self.rows, pa.int64()),
            COSINE: pa.array(self.cosines, pa.float64()),
        }
        return pa.table(own | {name: self.others.column(name) for name in self.others.column_names if name not in own})


def row_of(query: Query, modality: str | None) -> int | None:
    """The row of the index that a query names; None for one that is something else, as a text of digits whose modality is named."""
    if isinstance(query, bool):
        return None
    if isinstance(query, int):
        return query
    if not isinstance(query, str) or not query.isdecimal() or modality is not None or Path(query).exists():
        return None
    return int(query)


def read_query(query: Query, modality: str | None, processor: MMSSLProcessor, row: int | None = None) -> Asked:
    """A query that is no row of the index, as one row of a source.

    modality: None: the one of the model that reads such files, texts or rows. row: of a query that is a table file.
    FileNotFoundError, LookupError or ValueError say what the model does not read, or what must be chosen.
    """
    known = list(processor.processors)
    if modality is not None and modality not in known:
        raise LookupError(f"the model has no modality {modality!r}; it has {', '.join(known)}")
    if isinstance(query, str | Path) and Path(query).expanduser().is_file():
        return _read_file(str(query), modality, known, row)
    if row is not None:
        raise ValueError(f"a row of the query is one of a table file, and {query!r} is none: leave it out")
    if isinstance(query, Path):
        raise FileNotFoundError(f"no file {query}, which is to be searched for")
    if isinstance(query, str):
        return _read_text(query, modality, processor)
    return _read_raw(query, modality, known)


def _read_file(path: str, modality: str | None, known: Sequence[str], row: int | None) -> Asked:
    suffix = suffix_of(Path(path).name)
    if is_table(path):
        source = Source(path=path)
        name = _one_of([each for each in known if holds(source, each)], modality, known, f"reads {path}")
        if row is None and len(source) > 1:
            raise ValueError(f"{path} has {len(source):,} rows, and a query is one of them: say which with --query-row")
        place = row or 0
        if not 0 <= place < len(source):
            raise LookupError(f"{path} has no row {place}; its rows are 0 to {len(source) - 1}")
        return Asked(source.select(np.array([place])), name)
    if row is not None:
        raise ValueError(f"a row of the query is one of a table file, and {path} is none: leave it out")
    if not any(suffix in find(name).suffixes for name in known):
        reads = [f"{name} ({', '.join(find(name).suffixes)})" for name in known if find(name).suffixes]
        raise ValueError(
            f"the model reads no {suffix or 'such'} files, as {path} is; it has {', '.join(reads) or ', '.join(known)}"
        )
    name = _one_of([each for each in known if suffix in find(each).suffixes], modality, known, f"reads {suffix} files")
    return Asked(Source(path=path), name)


def _read_text(query: str, modality: str | None, processor: MMSSLProcessor) -> Asked:
    known = list(processor.processors)
    whole = [name for name in known if not find(name).columns]
    if query.lstrip().startswith("{") and whole and modality in (None, *whole):
        try:
            row = json.loads(query)
        except json.JSONDecodeError as error:
            raise ValueError(f"the query begins as a row in JSON, but is none: {error}") from None
        return Asked(Source.from_rows([row]), _one_of(whole, modality, known, "reads a row"))
    if suffix_of(Path(query).name) in all_formats() and len(query.split()) == 1 and modality is None:
        raise FileNotFoundError(f"no file {query}; if it is a text to search for, name its modality with --modality")
    reading = [name for name in known if reads_text(processor, name)]
    if not reading or modality not in (None, *reading):
        who = modality or f"the model, of {', '.join(known)},"
        raise ValueError(f"{query!r} is no file, and {who} reads no text: give a file, or the number of a row of the index")
    name = _one_of(reading, modality, known, "reads text")
    return Asked(Source.from_rows([{find(name).columns[0]: query}]), name)


def _read_raw(query: Any, modality: str | None, known: Sequence[str]) -> Asked:
    whole = [name for name in known if not find(name).columns]
    likely = whole if whole and isinstance(query, dict) and len(known) > 1 else known
    name = _one_of(list(likely), modality, known, f"may read a {type(query).__name__}")
    columns = find(name).columns
    return Asked(Source.from_rows([{columns[0]: query} if columns else query]), name)


def _one_of(found: Sequence[str], modality: str | None, known: Sequence[str], what: str) -> str:
    """The modality that is named, or the only one that fits."""
    if modality is not None:
        if modality not in found:
            raise ValueError(f"{modality} is not what {what}; of the model's modalities {', '.join(found) or 'none'} does")
        return modality
    if not found:
        raise ValueError(f"none of the model's modalities {', '.join(known)} {what}")
    if len(found) > 1:
        raise ValueError(f"several modalities may be meant ({', '.join(found)}): choose one with --modality {found[0]}")
    return found[0]


def check_model(index: Embedded, folder: str | Path, model: MMSSLModel, processor: MMSSLProcessor) -> None:
    """ValueError unless it is the model that made the index."""
    if fingerprint(model, processor) == index.stamp.fingerprint:
        return
    if str(folder) == index.stamp.model:
        raise ValueError(f"the model {folder} is not what it was when {index.path} was embedded with it: embed the data again")
    raise ValueError(
        f"{index.path} was embedded by another model than {folder}: the vectors of two models say nothing to each other. Search "
        f"with its own, {index.stamp.model}, or embed the data again"
    )


def check_space(index: Embedded, name: str, projected: bool) -> None:
    """ValueError for a query of another modality than the index, if it does not hold projected vectors."""
    stamp = index.stamp
    if name != stamp.modality and not projected:
        raise ValueError(
            f"{index.path} holds pooled outputs of {stamp.modality}, which those of {name} cannot be compared with. A model that "
            f"maps both into one space, as the objective clip trains, makes an index for both: mmssl embed ... --modality "
            f"{stamp.modality} --project"
        )


class Search:
    """An index to search in. layer: that its vectors are of.

    folder: where the model that made it lies. named: whether somebody said so.
    """

    def __init__(self, index: Embedded, layer: Layer, folder: str | Path, device: str, *, named: bool = False) -> None:
        self.index, self.layer, self.folder, self.device, self.named = index, layer, folder, device, named
        self.asked: Asked | None = None
        self.own: int | None = None

    @classmethod
    def open(cls, index: str | Path, model: str | Path | None = None, device: str = "cpu", layer: Layer = LAST) -> "Search":
        """Open what `mmssl embed` wrote. model: where its model lies now; None: where it was."""
        faiss()
        found = Embedded.read(index, layer)
        return cls(found, layer, found.stamp.model if model is None else model, device, named=model is not None)

    @property
    def projected(self) -> bool:
        """Whether the vectors lie in the space that modalities share."""
        return self.index.stamp.projected and self.layer == LAST

    @cached_property
    def processor(self) -> MMSSLProcessor:
        """That of the model. FileNotFoundError that says how to name a model that was moved."""
        if not self.named and Path(self.folder).is_absolute() and not Path(self.folder).exists():
            raise FileNotFoundError(
                f"{self.index.path} was embedded by the model {self.folder}, which is no longer there: name it with --model"
            )
        return MMSSLProcessor.from_pretrained(self.folder)

    @cached_property
    def model(self) -> MMSSLModel:
        """The model. ValueError if it is another one than that of the index."""
        processor, model = self.processor, load_model(self.folder).to(self.device)
        check_model(self.index, self.folder, model, processor)
        return model

    def __call__(
        self, query: Query, *, modality: str | None = None, row: int | None = None, top: int = 10, kind: Kind = "exact"
    ) -> Hits:
        """The `top` rows whose vectors are nearest to that of a query; arguments as in `mmssl.search`."""
        if top < 1:
            raise ValueError(f"--top must be at least 1; got {top}")
        if self.named:
            check_model(self.index, self.folder, self.model, self.processor)
        self.own, self.asked = row_of(query, modality), None
        if self.own is not None:
            place = self.index.place(self.own)
            return self._nearest(self.index.vectors[place], top, kind, f"row {self.own}", self.index.stamp.modality, place)
        self.asked = read_query(query, modality, self.processor, row)
        said = str(query) if isinstance(query, str | Path) else f"a {type(query).__name__}"
        said = said if row is None else f"{said}, row {row}"
        return self._nearest(self.vector(self.asked), top, kind, said, self.asked.modality, None)

    def vector(self, asked: Asked) -> Float[np.ndarray, " d"]:
        """The vector of a query, made as those of the index were."""
        name = asked.modality
        check_space(self.index, name, self.projected)
        (found,) = read(self.model, self.processor, asked.source, name, Readout((self.layer,), projected=self.projected))
        (vector,) = found.values[column_of(self.layer)].numpy()
        if not np.isfinite(vector).all():
            raise ValueError("the embedding of the query is NaN or infinite: look at the sample")
        return vector

    def _nearest(self, vector: Float[np.ndarray, " d"], top: int, kind: Kind, query: str, modality: str, but: int | None) -> Hits:
        """but: a place of the index to leave out."""
        index = self.index
        places, cosines = Nearest(index.vectors, kind, index.path)(vector, top + (but is not None))
        kept = np.ones(len(places), dtype=bool) if but is None else places != but
        places, cosines = places[kept][:top], cosines[kept][:top]
        others = index.others.take(pa.array(places))
        return Hits(query, modality, index.path, len(index.vectors), index.rows[places].tolist(), cosines.tolist(), others)

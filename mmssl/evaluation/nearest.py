"""Which of many vectors are nearest to one, by cosine, with faiss."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from jaxtyping import Float, Int

from mmssl import files

Kind = Literal["exact", "ivf", "hnsw"]
"""exact: all vectors are compared. ivf: those of the nearest clusters. hnsw: those that a graph leads to (arXiv 1603.09320)."""
KINDS: tuple[Kind, ...] = ("exact", "ivf", "hnsw")

ALIKE = 1e-6
"""Cosines that differ by less may have changed places in float32: they are compared in float64."""
PROBED = 8
"""Of so many clusters of `ivf` one is searched."""
PER_CLUSTER = 39
"""Vectors that faiss wants to see of each cluster."""
NEIGHBOURS, BUILT_WITH, ASKED = 32, 200, 256
"""Of `hnsw`: neighbours of each vector in the graph, and candidates that are kept while it is built, and while it is asked."""


def faiss() -> Any:
    """The library. ModuleNotFoundError that names the extra which brings it."""
    try:
        return import_module("faiss")
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise ModuleNotFoundError("mmssl search needs the package faiss-cpu: pip install 'mmssl[search]'", name="faiss") from None


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """A copy in float32 whose rows have length 1; a row of zeros stays one, and is alike to nothing."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


class Nearest:
    """Vectors that can be asked which of them are nearest to another one.

    beside: a file beside which what takes long to build (`ivf`, `hnsw`) is kept, for the next time; None: it is not kept.
    """

    def __init__(self, vectors: Float[np.ndarray, "n d"], kind: Kind = "exact", beside: Path | None = None) -> None:
        self._faiss, self._vectors, self._kind = faiss(), unit(vectors), kind
        kept = None if beside is None or kind == "exact" else self._file(beside)
        if kept is not None and kept.exists():
            self._index = self._faiss.read_index(str(kept))
        else:
            self._index = self._build()
            if kept is not None:
                with files.new_file(kept) as part:
                    self._faiss.write_index(self._index, str(part))

    def _file(self, beside: Path) -> Path:
        """Where an index of just these vectors is kept."""
        return beside.with_name(f"{beside.name}.{self._kind}.{xxhash.xxh3_64_hexdigest(self._vectors.tobytes())}.faiss")

    def _build(self) -> Any:
        library, (count, width) = self._faiss, self._vectors.shape
        index = library.IndexFlatIP(width)
        if self._kind == "ivf":
            clusters = max(1, min(int(4 * count**0.5), count // PER_CLUSTER))
            self._quantizer = index  # faiss does not keep it
            index = library.IndexIVFFlat(index, width, clusters, library.METRIC_INNER_PRODUCT)
            index.train(self._vectors)
        elif self._kind == "hnsw":
            index = library.IndexHNSWFlat(width, NEIGHBOURS, library.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILT_WITH
        index.add(self._vectors)
        return index

    def __call__(self, query: Float[np.ndarray, " d"], count: int) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Places of the `count` nearest vectors, fewer where there are not so many, and their cosines in float64.

        The nearest come first; of equal ones those with the smaller place. `exact` is right to the last digit of float64.
        """
        (own,) = unit(query[None])
        wanted, total = min(count, len(self._vectors)), len(self._vectors)
        asked = wanted
        while True:
            asked = min(total, asked + max(8, asked))
            values, places = self._ask(own, asked)
            # Only past the wanted ones by more than rounding is it certain that none is missing.
            if len(places) < asked or asked == total or values[-1] < values[wanted - 1] - ALIKE:
                break
        exact = (self._vectors[places].astype(np.float64) * own.astype(np.float64)).sum(1)
        order = np.lexsort((places, -exact))[:wanted]
        return places[order], exact[order]

    def _ask(self, query: Float[np.ndarray, " d"], count: int) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """What the index finds; one that is not exact may find fewer."""
        library, options = self._faiss, None
        if self._kind == "ivf":
            options = library.SearchParametersIVF(nprobe=max(1, self._index.nlist // PROBED))
        elif self._kind == "hnsw":
            options = library.SearchParametersHNSW(efSearch=max(ASKED, 2 * count))
        values, places = self._index.search(query[None], count, params=options)
        found = places[0] >= 0
        return values[0][found], places[0][found].astype(np.int64)

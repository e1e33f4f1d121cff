"""The labels of the places of test samples, which every row of a table is compared with."""

from collections.abc import Sequence

import numpy as np

from mmssl.data import Source
from mmssl.data.dense import Places

MOST_KEPT = 1 << 30
"""Bytes of labels that are kept; those of further rows are read again for each row of a table."""


class Truth:
    """The class numbers of the places of a source's rows, each read and decoded once, and kept in few bytes.

    names: of the classes. most: bytes that are kept.
    """

    def __init__(self, source: Source, names: Sequence[str], most: int = MOST_KEPT) -> None:
        self.source, self.names, self.left = source, list(names), most
        self._kept = dict[int, np.ndarray]()
        self._type = next(kind for kind in (np.int8, np.int16, np.int32) if len(names) <= np.iinfo(kind).max + 1)

    def __call__(self, row: int) -> Places:
        """The labels of a row, by its place in the source. ValueError as of `Source.dense_labels`."""
        if row in self._kept:
            return self._kept[row].astype(np.int64)
        (places,) = self.source.dense_labels([row], self.names)
        small = places.astype(self._type)
        if small.nbytes <= self.left:
            self.left -= small.nbytes
            self._kept[row] = small
        return places

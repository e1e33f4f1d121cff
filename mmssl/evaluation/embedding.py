"""A dataset to a file of embeddings, by one process or several, in parts that a later call goes on from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmssl.data import Source, Track, silent
from mmssl.data.identity import files_digits
from mmssl.evaluation import vectors
from mmssl.evaluation.parts import Parts
from mmssl.evaluation.readout import Readout, Vectors, read
from mmssl.evaluation.stamp import Stamp
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

FORMAT = 1
"""Of parts: those that another version of mmssl wrote are not gone on from."""


@dataclass(frozen=True)
class Embedding:
    """What is to be embedded, by what, and what is written beside.

    keep: columns of the source. options: batch_size and on_error of `read`.
    """

    model: MMSSLModel
    processor: MMSSLProcessor
    name: str
    source: Source
    readout: Readout
    keep: Sequence[str]
    stamp: Stamp
    options: Mapping[str, Any]

    def parts(self, output: Path) -> Parts:
        """What an earlier call left of the same work."""
        settings = {
            "format": FORMAT,
            "stamp": asdict(self.stamp),
            "tokens": self.readout.tokens,
            "rows": self.source.num_rows,
            "files": files_digits(self.source),
            "options": dict(self.options),
        }
        return Parts.beside(output, settings)

    def fresh(self, parts: Parts, track: Track = silent) -> Iterator[Vectors]:
        """What is still to be read; of several processes the first one gets it."""
        rest = parts.rest(self.source)
        if rest is not None:
            yield from read(self.model, self.processor, rest, self.name, self.readout, track=track, **self.options)

    def help(self, parts: Parts) -> int:
        """Take turns with the first process, which gets all: none is left here."""
        return sum(map(len, self.fresh(parts)))

    def write(self, parts: Parts, output: Path, track: Track) -> int:
        """Write the file; returns the number of vectors. What was done is kept where this is stopped, and its error says so."""
        with parts.open():
            try:
                with closing(parts.with_stored(self.fresh(parts, track))) as found:
                    return vectors.write_vectors(found, self.source, output, self.keep, self.stamp)
            except KeyboardInterrupt as stop:
                stop.add_note(f"stopped after {parts.done:,} of {self.source.num_rows:,} rows; the same command goes on from there")
                raise

"""Embeddings on their way to a file: kept in parts as they come, so that a command that was stopped goes on where it was."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmssl import files
from mmssl.data import Source
from mmssl.evaluation.readout import Vectors

SECONDS = 30.0
"""Work that may be lost: a part is written so often."""
BYTES = 2**28
"""Vectors that wait in memory for their part to be written."""
SETTINGS = "settings.json"
IDS, COUNTS, UNTIL = "ids", "counts", "until"
VALUES = "values."
"""What names of tensors of a part begin with that are columns."""


@dataclass
class Parts:
    """The parts of one file that is being written, in a hidden folder beside it.

    settings: all that the vectors depend on, as JSON values: parts of other settings are thrown away.
    done: rows of the source, counted from its first one, that the parts are of.
    """

    folder: Path
    settings: Mapping[str, Any]
    done: int = 0

    @classmethod
    def beside(cls, output: Path, settings: Mapping[str, Any]) -> "Parts":
        """Those of a file; what is there of other settings is not looked at."""
        parts = cls(output.with_name(f".{output.name}.parts"), settings)
        stored = parts.folder / SETTINGS
        if stored.exists() and files.read_json(stored) == parts.settings:
            parts.done = max((part_end(file) for file in parts.stored()), default=0)
        return parts

    def stored(self) -> list[Path]:
        """Files of parts, in their order."""
        return sorted(self.folder.glob("part-*.safetensors"))

    def rest(self, source: Source) -> Source | None:
        """The rows that are still to be embedded; None: there are none."""
        if self.done >= source.num_rows:
            return None
        return source.select(np.array([source.row_number(i) for i in range(self.done, source.num_rows)])) if self.done else source

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder, which vanishes when the block ends well. RuntimeError if another process holds it."""
        with files.exclusive(self.folder, "the folder of unfinished embeddings", "or write to another file"):
            if not self.done:
                for file in self.stored():
                    file.unlink()
                files.write_json(self.folder / SETTINGS, self.settings)
            files.sweep(self.folder)
            yield
        shutil.rmtree(self.folder)

    def with_stored(self, fresh: Iterator[Vectors], size: int, num_rows: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Vectors]:
        """What the parts hold, and then what comes fresh, which is kept in further ones.

        fresh: of `rest`; `ids` of what is returned are those of the whole source. size: rows of a batch. num_rows: of the source.
        """
        start, number = self.done, len(self.stored())
        for file in self.stored():
            yield read_part(file)
        waiting, written = list[Vectors](), clock()
        for vectors in fresh:
            whole = Vectors(vectors.ids + start, vectors.values, vectors.counts)
            waiting.append(whole)
            # A batch ends where the next one would begin, were rows left out that cannot be read.
            last = int(vectors.ids[-1]) + 1
            self.done = min(num_rows, start + -(-last // size) * size) if len(whole) <= size else start + last
            held = sum(tensor.nbytes for each in waiting for tensor in each.values.values())
            if clock() - written >= SECONDS or held >= BYTES:
                write_part(self.folder / f"part-{number:06}.safetensors", waiting, self.done)
                waiting, written, number = [], clock(), number + 1
            yield whole


def part_end(file: Path) -> int:
    """Rows of the source up to the end of a part."""
    with safe_open(file, framework="pt") as stored:
        return int(stored.metadata()[UNTIL])


def write_part(file: Path, vectors: list[Vectors], until: int) -> None:
    """Write what was read; until: rows of the source that have been."""
    tensors: dict[str, Tensor] = {IDS: torch.cat([each.ids for each in vectors])}
    for name in vectors[0].values:
        tensors[VALUES + name] = torch.cat([each.values[name] for each in vectors])
    counts = [each.counts for each in vectors if each.counts is not None]
    if counts:
        tensors[COUNTS] = torch.cat(counts)
    with files.new_file(file) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {UNTIL: str(until)})


def read_part(file: Path) -> Vectors:
    """What `write_part` wrote."""
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, not a dict
    values = {name.removeprefix(VALUES): tensor for name, tensor in tensors.items() if name.startswith(VALUES)}
    return Vectors(tensors[IDS], values, tensors.get(COUNTS))

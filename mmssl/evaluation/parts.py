"""Embeddings on their way to a file: kept in parts as they come, so that a command that was stopped goes on where it was."""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
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
"""What names of tensors of a part begin with that are columns; the place of the column, and its name, follow."""


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
        parts = cls(output.with_name(f".{output.name}.parts"), json.loads(json.dumps(settings)))
        stored = parts.folder / SETTINGS
        if stored.exists() and json.loads(stored.read_text(encoding="utf-8")) == parts.settings:
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

    def with_stored(self, fresh: Iterator[Vectors], clock: Callable[[], float] = time.monotonic) -> Generator[Vectors, None, None]:
        """What the parts hold, and then what comes fresh, of `rest`; `ids` are those of the whole source.

        What came fresh and was taken is kept in further parts, at the latest where this is closed, or `fresh` fails.
        """
        start, files_ = self.done, self.stored()
        for file in files_:
            yield read_part(file)
        waiting, written, number = list[Vectors](), clock(), len(files_)
        try:
            for vectors in fresh:
                whole = Vectors(vectors.ids + start, vectors.values, vectors.counts)
                yield whole
                waiting.append(whole)
                self.done = int(whole.ids[-1]) + 1
                if clock() - written >= SECONDS or sum(each.nbytes for each in waiting) >= BYTES:
                    write_part(self.folder, number, waiting)
                    waiting, written, number = [], clock(), number + 1
        except BaseException:
            if waiting:
                write_part(self.folder, number, waiting)
            raise


def part_end(file: Path) -> int:
    """Rows of the source up to the end of a part."""
    with safe_open(file, framework="pt") as stored:
        return int(stored.metadata()[UNTIL])


def write_part(folder: Path, number: int, vectors: list[Vectors]) -> None:
    """Write what was read of some rows."""
    tensors: dict[str, Tensor] = {IDS: torch.cat([each.ids for each in vectors])}
    for place, name in enumerate(vectors[0].values):
        tensors[f"{VALUES}{place:06}.{name}"] = torch.cat([each.values[name] for each in vectors])
    counts = [each.counts for each in vectors if each.counts is not None]
    if counts:
        tensors[COUNTS] = torch.cat(counts)
    until = {UNTIL: str(int(tensors[IDS][-1]) + 1)}
    with files.new_file(folder / f"part-{number:06}.safetensors") as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, until)


def read_part(file: Path) -> Vectors:
    """What `write_part` wrote."""
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, not a dict
    values = {name.split(".", 2)[2]: tensors[name] for name in sorted(tensors) if name.startswith(VALUES)}
    return Vectors(tensors[IDS], values, tensors.get(COUNTS))

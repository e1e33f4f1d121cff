"""A tensor that several processes, or several files, hold in pieces: contiguous parts of it once it is flattened, row by row.

FSDP2 shards rows, ZeRO-3 a flattened parameter, ZeRO-1 and ZeRO-2 the flattened group that a parameter lies in: all of them are
such pieces, so that one strategy reads what another wrote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """What this process holds of a tensor: entries `start` to `start + len(values)` of it, flattened; perhaps none.

    shape: of the whole tensor, which has the dtype of `values`.
    """

    values: Shaped[Tensor, " n"]
    start: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Entries `start` to `stop` of a flattened tensor; perhaps a view of a file, which is read where it is looked at."""

    start: int
    stop: int
    values: Shaped[Tensor, " n"]


class Parts:
    """A tensor that lies in parts, perhaps in files, of which only that is read that is asked for.

    ValueError if the parts do not make up all of it.

    name: what a message calls it. parts: in any order.
    """

    def __init__(self, name: str, shape: Sequence[int], dtype: torch.dtype, parts: Sequence[Part]) -> None:
        self.name, self.shape, self.dtype = name, torch.Size(shape), dtype
        self.parts = sorted(parts, key=lambda part: part.start)
        end = 0
        for part in self.parts:
            if part.start != end:
                raise ValueError(f"{name} lacks its entries {end} to {part.start}, or has them twice: the checkpoint is damaged")
            end = part.stop
        if end != math.prod(shape):
            raise ValueError(f"{name} lacks its entries from {end} on, of {math.prod(shape)}: the checkpoint is damaged")

    def flat(self, start: int, stop: int) -> Shaped[Tensor, " n"]:
        """Some of its entries; only the parts that hold them are read."""
        found = [
            part.values[max(start, part.start) - part.start : min(stop, part.stop) - part.start]
            for part in self.parts
            if part.start < stop and part.stop > start
        ]
        return torch.cat(found) if found else torch.empty(0, dtype=self.dtype)

    def whole(self) -> Tensor:
        """All of it, in memory of its own."""
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def flat(value: Tensor | Parts, start: int, stop: int) -> Shaped[Tensor, " n"]:
    """Entries of a flattened tensor, however it lies."""
    return value.flat(start, stop) if isinstance(value, Parts) else value.reshape(-1)[start:stop]


def whole(value: Tensor | Parts) -> Tensor:
    """All of a tensor, however it lies."""
    return value.whole() if isinstance(value, Parts) else value

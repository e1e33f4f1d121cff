"""How weights of a public encoder become ours, and ours its own again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """What the weights do not say of themselves.

    width, heads: of the encoder. patch: rows, columns and channels of a patch; empty: there are none.
    """

    width: int
    heads: int
    patch: tuple[int, ...] = ()


@runtime_checkable
class How(Protocol):
    """A change of form of tensors that loses nothing."""

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        """Ours of theirs."""
        ...

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        """Theirs of ours."""
        ...


@dataclass(frozen=True)
class Same:
    """As they are."""

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        return list(theirs)

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        return list(ours)


@dataclass(frozen=True)
class Halves:
    """Rotary projections whose pairs are entry i of the first and of the second half of a head: ours are neighbours.

    Attention scores do not change when queries and keys are rearranged alike.
    """

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        return [each.unflatten(0, (shape.heads, 2, -1)).transpose(1, 2).flatten(0, 2) for each in theirs]

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        return [each.unflatten(0, (shape.heads, -1, 2)).transpose(1, 2).flatten(0, 2) for each in ours]


@dataclass(frozen=True)
class Stacked:
    """Several of ours on top of each other in one of theirs; each in a form of its own."""

    parts: tuple[How, ...]

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        pieces = theirs[0].chunk(len(self.parts))
        return [part.read([piece], shape)[0] for part, piece in zip(self.parts, pieces, strict=True)]

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        return [torch.cat([part.write([each], shape)[0] for part, each in zip(self.parts, ours, strict=True)])]


@dataclass(frozen=True)
class Kernel:
    """The kernel of a convolution `[d, channels, rows, columns]`: ours is a map of a patch in the order (row, column, channel).

    turned: theirs has columns before rows, as kernels over spectrograms with frequency first.
    """

    turned: bool = False

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        order = (0, 3, 2, 1) if self.turned else (0, 2, 3, 1)
        return [each.permute(order).flatten(1) if each.dim() == 4 else each for each in theirs]

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        order = (0, 3, 2, 1) if self.turned else (0, 3, 1, 2)
        return [each.unflatten(1, shape.patch).permute(order) if each.dim() == 2 else each for each in ours]


@dataclass(frozen=True)
class Prefixed:
    """Learned tokens, then learned positions, of which the first belong to the tokens: ours are prefix and positions of a grid.

    The positions of prefix tokens are added to them; written back they are zero.
    counts: tokens in each of theirs that holds some; what comes behind them are the positions, if there are any. folded: prefix
        tokens that have positions. turned: rows and columns of their grid, which ours has the other way round.
    """

    counts: tuple[int, ...]
    folded: int
    turned: tuple[int, int] | None = None

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        rows = [each.reshape(-1, shape.width) for each in theirs]
        prefix, positions = rows[: len(self.counts)], rows[len(self.counts) :]
        found = [torch.cat(prefix)] if prefix else []
        if not positions:
            return found
        own, grid = positions[0][: self.folded], positions[0][self.folded :]
        if found:
            found = [torch.cat([found[0][: self.folded] + own, found[0][self.folded :]])]
        if self.turned is not None:
            grid = grid.unflatten(0, self.turned).transpose(0, 1).flatten(0, 1)
        return [*found, grid]

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        has_prefix = bool(self.counts)
        tokens = [each[None] for each in ours[0].split(list(self.counts))] if has_prefix else []
        if len(ours) == int(has_prefix):
            return tokens
        grid = ours[-1]
        if self.turned is not None:
            grid = grid.unflatten(0, self.turned[::-1]).transpose(0, 1).flatten(0, 1)
        return [*tokens, torch.cat([grid.new_zeros(self.folded, shape.width), grid])[None]]


@dataclass(frozen=True)
class Embedded:
    """Learned positions of a sequence, and what is added to each token of a first segment: ours are one table.

    skipped: rows of their positions that belong to no place, as RoBERTa's. segments: rows of the second table; 0: there is none.
    """

    skipped: int = 0
    segments: int = 0

    def read(self, theirs: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        places = theirs[0][self.skipped :]
        return [places + theirs[1][0] if len(theirs) > 1 else places]

    def write(self, ours: Sequence[Tensor], shape: Shape) -> list[Tensor]:
        places = torch.cat([ours[0].new_zeros(self.skipped, shape.width), ours[0]])
        return [places, ours[0].new_zeros(self.segments, shape.width)] if self.segments else [places]

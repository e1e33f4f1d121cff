"""Boxes of a few tokens, one after the other until enough is hidden, or seen."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, below
from mmssl.masking.multiblock import extent_of
from mmssl.masking.split import Ratio, Scored, ranks, share, some
from mmssl.tokens import gather

AT_ONCE = 32
"""Boxes that are placed before the next look whether they are enough."""

Side = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Clusters(Scored):
    """Boxes around random tokens, one after the other until the ratio is met; the last one is cut to the exact number.

    The clusters of SSAST (arXiv 2110.09784, algorithm 1) as it stands. Others are settings: the connected groups of GMML
    (arXiv 2205.14986, section 3) are `side: [1, 4], drawn: axis`; the inverse blocks of data2vec 2.0 (arXiv 2212.07525, section 3)
    are `side: [3, 3], inverse: true, extra: 0.07`. In a sequence boxes are spans.

    ratio: share of the tokens to hide.
    side: shortest and longest side of a box, in tokens; sides are whole numbers, all equally likely.
    drawn: what a side is drawn for: sample = all boxes of a sample; box = each of them; axis = each axis of each box.
    inverse: the boxes are seen and the rest is hidden.
    extra: boxes of one side for so much more than the share of the tokens that they are to hold, around random tokens, of which
        some may be the same; then single tokens join or leave by chance until the number is met, as in the code of data2vec 2.0
        (`mask_prob_adjust`: 0.07 with `side: [3, 3]`). null: as many boxes as that takes.
    """

    ratio: Ratio = 0.5
    side: tuple[Side, Side] = (3, 5)
    drawn: Literal["sample", "box", "axis"] = "sample"
    inverse: bool = False
    extra: Annotated[float, Field(ge=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        if self.side[0] > self.side[1]:
            raise ValueError(f"side must be a range from low to high; got {list(self.side)}")
        if self.extra is not None and self.side[0] < self.side[1]:
            raise ValueError(
                f"extra counts boxes of one side; got a side from {self.side[0]} to {self.side[1]}. Set both to one number"
            )

    def refuse(self, lengths: Int[Tensor, " b"]) -> None:
        """ValueError as of any ratio, and if half of the samples have fewer tokens than one side of a box."""
        super().refuse(lengths)
        short = int(((lengths < self.side[0]) & (lengths > 1)).sum())
        if 2 * short >= len(lengths):
            raise ValueError(
                f"a box of {self.side[0]} tokens a side is longer than {some(short, lengths)}: tokens would be hidden one by one. "
                f"Set its side to at most {max(1, int(lengths.median()) // 2)}, or make tokens of smaller parts"
            )

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], None]:
        limit = available.sum(1)
        hide = share(limit, self.ratio).clamp(min=1)
        enough = (limit - hide if self.inverse else hide).clamp(min=1)
        # Within a box, and among the tokens that no box reached, the order is by chance.
        arrival = self.arrival if self.extra is None else self.fixed
        score = ranks(draws.uniform("mask", coords.shape[1]), arrival(coords, available, enough, draws))
        return -score if self.inverse else score, None

    def fixed(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], enough: Int[Tensor, " b"], draws: Draws
    ) -> Int[Tensor, "b n"]:
        """0 for the tokens of the boxes, whose number the size of a sample decides, and 1 for all others."""
        assert self.extra is not None
        sizes, axes = available.sum(1), extent_of(coords, available)[2].sum((1, 2)).clamp(min=1)
        volume = float(self.side[0]) ** axes
        wanted = (1 - self.ratio if self.inverse else self.ratio) + self.extra
        count = (sizes * wanted / volume + 1e-6).floor()
        most = max(1, int(count.max()))
        chosen = below(sizes.clamp(min=1)[:, None], draws.uniform("places", most))
        order = (~available).to(torch.uint8).argsort(dim=1, stable=True)
        start = gather(coords, order.gather(1, chosen)) - self.side[0] // 2
        after, before = coords[:, :, None] >= start[:, None], coords[:, :, None] < start[:, None] + self.side[0]
        counted = torch.arange(most, device=coords.device) < count[:, None]
        return 1 - ((after & before).all(-1) & counted[:, None]).any(-1).long()

    def arrival(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], enough: Int[Tensor, " b"], draws: Draws
    ) -> Int[Tensor, "b n"]:
        """The number of the first box that holds each token, until boxes hold `enough` of the available ones; then `n`."""
        n = coords.shape[1]
        order = draws.uniform("places", n).masked_fill(~available, 2).argsort(dim=1, stable=True)
        # No token is drawn twice, so that n boxes hold all; beyond the available ones they repeat.
        turn = torch.arange(n, device=coords.device) % available.sum(1, keepdim=True).clamp(min=1)
        place = coords.gather(1, order.gather(1, turn)[..., None].expand(-1, -1, 4))
        side = self.sides(n, draws)
        # The token is anywhere in its box: boxes of an even side have no middle.
        start = place - (draws.uniform("corner", n, 4) * side).floor()
        stop, first = start + side, torch.full(coords.shape[:2], n, device=coords.device)
        done = torch.zeros(len(coords), 1, dtype=torch.bool, device=coords.device)
        for low in range(0, n, AT_ONCE):
            some = slice(low, low + AT_ONCE)
            after = coords[:, :, None] >= start[:, None, some]
            inside = (after & (coords[:, :, None] < stop[:, None, some])).all(-1)
            number = torch.arange(low, low + inside.shape[-1], device=coords.device)
            # A sample that has enough gets no more while others of its batch do.
            first = torch.minimum(first, torch.where(inside & ~done[..., None], number, n).amin(-1))
            done = ((first < n) & available).sum(1, keepdim=True) >= enough[:, None]
            if bool(done.all()):
                break
        return first

    def sides(self, count: int, draws: Draws) -> Float[Tensor, "b k 4"]:
        """Sides of `count` boxes."""
        low, high = self.side
        shape = {"sample": (1, 1), "box": (count, 1), "axis": (count, 4)}[self.drawn]
        return (low + draws.integers("side", high - low + 1, *shape)).float().expand(-1, count, 4)

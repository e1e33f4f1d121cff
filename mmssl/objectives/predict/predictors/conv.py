"""A light convolutional decoder over the grid of all places: data2vec 2.0."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.model.config import Positive
from mmssl.objectives.predict.grids import cells
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.tokens import Tokens, gather, of_own


class Conv(Predictor):
    """Encode the visible tokens alone, put them back at their places with noise at all others, and decode by convolutions.

    data2vec 2.0 (arXiv 2212.07525). Each layer is a grouped convolution, a LayerNorm without gains and GELU, with a
    residual connection. It knows places by their neighbours alone, so tokens need a grid. Where it holds no token it is zero.

    hidden_size: channels, a multiple of `groups`, as the encoder's width must be.
    num_hidden_layers: layers.
    kernel: width of the convolutions, odd.
    groups: groups of channels that do not mix.
    noise: standard deviation of what stands at the hidden places.
    axes: 2 = over rows and columns, found in the coordinates; 1 = along a sequence.
    """

    def __init__(
        self,
        *,
        hidden_size: Positive = 128,
        num_hidden_layers: Positive = 4,
        kernel: Positive = 3,
        groups: Positive = 16,
        noise: Annotated[float, Field(ge=0)] = 0.01,
        axes: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        if not kernel % 2:
            raise ValueError(f"objective.predictor: kernel must be odd, so that the middle is a token; got {kernel}")
        self.width, self.depth, self.kernel, self.groups = hidden_size, num_hidden_layers, kernel, groups
        self.noise, self.axes = noise, axes

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        if config.hidden_size % self.groups or self.width % self.groups:
            raise ValueError(
                f"objective.predictor: groups must divide its hidden_size and the encoder's; got {self.groups} groups with "
                f"{self.width} and {config.hidden_size}"
            )
        if identities:
            raise ValueError(
                "objective.predictor: conv needs tokens on a grid, and a table's columns have no places; choose transformer"
            )
        kernel = (self.kernel, self.kernel) if self.axes == 2 else (1, self.kernel)
        widths = [config.hidden_size, *[self.width] * self.depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding="same", groups=self.groups) for before, after in pairwise(widths)
        )

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        seen = encoder(tokens.take(parts.seen, parts.seen_real)).tail(parts.seen.shape[1]).values
        noise = self.noise * of_own(draws.normal("conv", tokens.values.shape[1], seen.shape[2]), tokens.valid).to(seen.dtype)
        cell, (height, width) = cells(tokens) if self.axes == 2 else in_a_row(tokens)
        full = put(put(seen.new_zeros(len(seen), height * width, seen.shape[2]), cell, noise), *self.visible(cell, parts, seen))
        held = put(full.new_zeros(*full.shape[:2], 1), cell, full.new_ones(*cell.shape, 1)) > 0
        decoded = self.decode(*(each.mT.unflatten(2, (height, width)) for each in (full, held))).flatten(2).mT
        hidden = gather(cell, parts.hidden).clamp(max=height * width - 1)
        return Predicted(gather(decoded, hidden), parts.hidden, parts.hidden_real)

    def visible(self, cell: Tensor, parts: Split, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The cells of the visible tokens and what they hold; entries that do not count lie behind the last cell."""
        at = gather(cell, parts.seen)
        behind = cell.new_full((), torch.iinfo(cell.dtype).max)
        return at if parts.seen_real is None else torch.where(parts.seen_real, at, behind), seen

    def decode(self, x: Float[Tensor, "b d h w"], held: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b e h w"]:
        """All layers; the first one has no residual connection where it changes the width.

        held: cells that hold a token; the others stay zero, so that the largest sample of a batch does not show in the others.
        """
        for conv in self.layers:
            y = F.gelu(F.layer_norm(conv(x).movedim(1, -1), (self.width,)).movedim(-1, 1))
            x = torch.where(held, x + y if x.shape == y.shape else y, 0.0)
        return x


def in_a_row(tokens: Tokens) -> tuple[Tensor, tuple[int, int]]:
    """The tokens in their order as cells of one row. ValueError unless they lie along one axis."""
    valid = tokens.valid_or_ones()
    spread = tokens.coords.masked_fill(~valid[..., None], 0).flatten(0, 1)
    if int((spread.amax(0) > spread.amin(0)).sum()) > 1:
        raise ValueError("objective.predictor: axes: 1 needs tokens along one axis, and these lie along several; choose axes: 2")
    n = valid.shape[1]
    return (valid.long().cumsum(1) - 1).masked_fill(~valid, n), (1, n)


def put(full: Float[Tensor, "b c d"], cell: Tensor, values: Float[Tensor, "b m d"]) -> Float[Tensor, "b c d"]:
    """`full` with values in the given cells; cells behind the last one are dropped."""
    wider = F.pad(full, (0, 0, 0, 1))
    index = cell.clamp(max=full.shape[1])[..., None].expand(-1, -1, full.shape[2])
    return wider.scatter(1, index, values.to(full.dtype))[:, :-1]

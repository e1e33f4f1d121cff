"""Tokens of other samples that take the place of hidden ones: drawn by the sample's own numbers, and never padding."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.draws import Draws, below
from mmssl.tokens import Tokens, gather


def of_own(drawn: Shaped[Tensor, "b n ..."], tokens: Tokens) -> Shaped[Tensor, "b n ..."]:
    """What was drawn for token after token, by the number of each among the valid ones: padding between them changes nothing."""
    return drawn if tokens.valid is None else gather(drawn, _number(tokens.valid))


def anywhere(pool: Tokens, tokens: Tokens, draws: Draws) -> Float[Tensor, "b n d"]:
    """For each of `tokens` the content of one of the valid tokens of `pool`, all equally likely."""
    count = pool.values[..., 0].numel() if pool.valid is None else pool.valid.sum()
    chosen = below(count, of_own(draws.uniform("swap", tokens.values.shape[1]), tokens))
    if pool.valid is not None:
        chosen = _valid_first(pool.valid.flatten(), 0)[chosen]
    return pool.values.flatten(0, 1)[chosen]


def same_place(pool: Tokens, place: Int[Tensor, " b"], tokens: Tokens, draws: Draws) -> Float[Tensor, "b n d"]:
    """For each of `tokens` the content of its place in another sample of `pool` that has this place; its own if none has.

    place: which sample of the pool each of `tokens` is of.
    """
    rows, n = len(pool.values), tokens.values.shape[1]
    drawn = of_own(draws.uniform("swap rows", n), tokens)
    number = torch.arange(n, device=place.device).expand(len(place), n) if tokens.valid is None else _number(tokens.valid)
    if pool.valid is None:
        return pool.values[(place[:, None] + 1 + below(max(1, rows - 1), drawn)) % rows, number]
    # The place of a token is that of the same token in the pool, before which there may be more padding.
    column = _valid_first(pool.valid, 1)[place].gather(1, number)
    having = pool.valid.sum(0)[column].clamp(min=1)
    own = (pool.valid.cumsum(0) - 1).clamp(min=0)[place].gather(1, column)
    row = (own + 1 + below((having - 1).clamp(min=1), drawn)) % having
    return pool.values[_valid_first(pool.valid, 0)[row, column], column]


def _number(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Which of the valid tokens of its sample each is, from 0."""
    return (valid.cumsum(1) - 1).clamp(min=0)


def _valid_first(valid: Bool[Tensor, "..."], dim: int) -> Int[Tensor, "..."]:
    """The order along a dimension that has the valid ones first."""
    return (~valid).to(torch.uint8).argsort(dim=dim, stable=True)

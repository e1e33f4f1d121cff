"""Tokens of other samples that take the place of hidden ones: drawn by the sample's own numbers, and never padding."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.draws import Draws, below
from mmssl.tokens import Tokens, numbered, of_own


def anywhere(pool: Tokens, tokens: Tokens, draws: Draws) -> Float[Tensor, "b n d"]:
    """For each of `tokens` the content of one of the valid tokens of `pool`, all equally likely."""
    count = pool.values[..., 0].numel() if pool.valid is None else pool.valid.sum()
    chosen = below(count, of_own(draws.uniform("swap", tokens.values.shape[1]), tokens.valid))
    if pool.valid is not None:
        chosen = _valid_first(pool.valid.flatten(), 0)[chosen]
    return pool.values.flatten(0, 1)[chosen]


def stretch(tokens: Tokens, draws: Draws) -> Float[Tensor, "b n d"]:
    """For each token the content of one of its own sample, as far away as for all others: neighbours get neighbours.

    The first tokens follow the last one; a sample of one token keeps it.
    """
    n = tokens.values.shape[1]
    valid = tokens.valid_or_ones()
    count = valid.sum(1, keepdim=True).clamp(min=1)
    away = 1 + below((count - 1).clamp(min=1), draws.uniform("swap stretch", 1))
    number = (numbered(valid) + away) % count
    return tokens.values.take_along_dim(_valid_first(valid, 1).gather(1, number.clamp(max=n - 1))[..., None], 1)


def same_place(pool: Tokens, place: Int[Tensor, " b"], tokens: Tokens, draws: Draws) -> Float[Tensor, "b n d"]:
    """For each of `tokens` the content of its place in another sample of `pool` that has this place; its own if none has.

    place: which sample of the pool each of `tokens` is of.
    """
    rows, n = len(pool.values), tokens.values.shape[1]
    drawn = of_own(draws.uniform("swap rows", n), tokens.valid)
    number = torch.arange(n, device=place.device).expand(len(place), n) if tokens.valid is None else numbered(tokens.valid)
    if pool.valid is None:
        return pool.values[(place[:, None] + 1 + below(max(1, rows - 1), drawn)) % rows, number]
    # The place of a token is that of the same token in the pool, before which there may be more padding.
    column = _valid_first(pool.valid, 1)[place].gather(1, number)
    having = pool.valid.sum(0)[column].clamp(min=1)
    own = (pool.valid.cumsum(0) - 1).clamp(min=0)[place].gather(1, column)
    row = (own + 1 + below((having - 1).clamp(min=1), drawn)) % having
    return pool.values[_valid_first(pool.valid, 0)[row, column], column]


def _valid_first(valid: Bool[Tensor, "..."], dim: int) -> Int[Tensor, "..."]:
    """The order along a dimension that has the valid ones first."""
    return (~valid).to(torch.uint8).argsort(dim=dim, stable=True)

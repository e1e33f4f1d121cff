"""One vector per sample from its encoded tokens."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.tokens import Tokens, gather

Pooling = Literal["cls", "first", "last", "mean", "attention", "mean_max", "mean_std", "mean_max_min", "mean_std_max", "concat"]

SMALLEST_VARIANCE = 1e-6
"""Keeps the gradient of a standard deviation finite where all tokens are alike, as where there is only one."""


def mean(tokens: Tokens) -> Float[Tensor, "b d"]:
    """Mean of the valid tokens; zero for a sequence without any."""
    return tokens.mean()


def largest(tokens: Tokens) -> Float[Tensor, "b d"]:
    """Largest value of each feature over the valid tokens; zero for a sequence without any."""
    if tokens.valid is None:
        return tokens.values.amax(1)
    there = tokens.valid[..., None]
    found = tokens.values.masked_fill(~there, -torch.inf).amax(1)
    return found.masked_fill(~there.any(1), 0)


def smallest(tokens: Tokens) -> Float[Tensor, "b d"]:
    """Smallest value of each feature over the valid tokens; zero for a sequence without any."""
    return -largest(tokens.with_values(-tokens.values))


def deviation(tokens: Tokens) -> Float[Tensor, "b d"]:
    """Standard deviation of each feature over the valid tokens, in float32 inside; never below 0.001."""
    wide = tokens.with_values(tokens.values.float())
    centred = wide.values - wide.mean()[:, None]
    variance = tokens.with_values(centred.square()).mean()
    return variance.clamp(min=SMALLEST_VARIANCE).sqrt().to(tokens.values.dtype)


STATISTICS: dict[str, Callable[[Tokens], Float[Tensor, "b d"]]] = {
    "mean": mean,
    "max": largest,
    "min": smallest,
    "std": deviation,
}
"""Parts of the names of poolings that concatenate statistics."""


def statistics(pooling: str) -> list[str]:
    """What a pooling concatenates: `mean_max` is the mean, then the largest values; empty for other poolings."""
    parts = pooling.split("_")
    return parts if set(parts) <= set(STATISTICS) else []


def every_token(tokens: Tokens) -> Float[Tensor, "b p"]:
    """All tokens, one after the other; zero where there is none."""
    values = tokens.values if tokens.valid is None else tokens.values.masked_fill(~tokens.valid[..., None], 0)
    return values.flatten(1)


def concatenated(tokens: Tokens, parts: list[str]) -> Float[Tensor, "b p"]:
    """The statistics of the valid tokens, one after the other."""
    return torch.cat([STATISTICS[part](tokens) for part in parts], 1)


def first(tokens: Tokens) -> Float[Tensor, "b d"]:
    """The first valid token."""
    if tokens.valid is None:
        return tokens.values[:, 0]
    return gather(tokens.values, tokens.valid.int().argmax(1, keepdim=True))[:, 0]


def last(tokens: Tokens) -> Float[Tensor, "b d"]:
    """The last valid token."""
    if tokens.valid is None:
        return tokens.values[:, -1]
    from_end = tokens.valid.int().flip(1).argmax(1, keepdim=True)
    return gather(tokens.values, tokens.valid.shape[1] - 1 - from_end)[:, 0]


EDGES: dict[str, Callable[[Tokens], Float[Tensor, "b d"]]] = {"first": first, "last": last}
"""Poolings that take one of the tokens."""


def in_a_row(tokens: Tokens, place: Int[Tensor, "b n"], count: int) -> Float[Tensor, "b p"]:
    """All tokens of a sample in one vector, each at its place among `count`; zeros where one is missing.

    ValueError for a token that has no place: the sample is longer than those that were trained on.
    """
    there = tokens.valid_or_ones()
    if not torch.compiler.is_compiling() and bool(((place >= count) & there).any()):
        last = int(place.masked_fill(~there, 0).max())
        raise ValueError(
            f"the head reads {count} tokens in a row, and a sample has one at place {last}: it is longer than those of training. "
            "Give as many steps as the model was trained to see"
        )
    b, n, d = tokens.values.shape
    row = tokens.values.new_zeros(b, count + 1, d)  # the last place takes what is no token
    at = place.masked_fill(~there, count)[..., None].expand(b, n, d)
    return row.scatter(1, at, tokens.values)[:, :count].flatten(1)

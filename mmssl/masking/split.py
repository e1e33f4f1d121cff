"""What a mask is: index of the seen and of the hidden tokens of every sample, exact in number, padded where samples differ."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.tokens import Sequences, Tokens, gather

Ratio = Annotated[float, Field(gt=0, lt=1)]
Axis = Literal["time", "depth", "height", "width"]
AXES: tuple[Axis, ...] = ("time", "depth", "height", "width")


@dataclass(frozen=True)
class Split:
    """Index of seen and hidden tokens; a `real` mask marks the entries that count (None: all of them).

    groups: hidden tokens come in so many groups of equal size, one after the other, that are predicted apart from each other; a
        token may be in several.
    """

    seen: Int[Tensor, "b k"]
    hidden: Int[Tensor, "b m"]
    seen_real: Bool[Tensor, "b k"] | None = None
    hidden_real: Bool[Tensor, "b m"] | None = None
    groups: int = 1

    def hidden_places(self, count: int) -> Bool[Tensor, "b n"]:
        """True at the hidden ones of `count` tokens."""
        real = torch.ones_like(self.hidden, dtype=torch.bool) if self.hidden_real is None else self.hidden_real
        places = torch.zeros(len(self.hidden), count, dtype=torch.int64, device=self.hidden.device)
        return places.scatter_add(1, self.hidden, real.long()) > 0


class Sampler(ABC):
    """Which tokens are seen and which are hidden, from coordinates alone."""

    def guided_by(self, saliency: Callable[[], Float[Tensor, "b n"]]) -> "Sampler":
        """The sampler for a batch whose tokens matter that much: itself, unless it asks for that."""
        return self

    def refuse(self, lengths: Int[Tensor, " b"]) -> None:
        """ValueError if samples of so many tokens, those of a run's first step, are no samples for these settings.

        The message begins with what is wrong: `look_at` puts the key of the recipe before it.
        """

    @abstractmethod
    def split(
        self,
        coords: Float[Tensor, "b n 4"],
        valid: Bool[Tensor, "b n"] | None,
        available: Bool[Tensor, "b n"] | None,
        draws: Draws,
    ) -> Split:
        """Divide every sequence into seen and hidden tokens.

        available: tokens that may be hidden, a subset of the valid ones (a missing cell has nothing to predict); None: all valid
            ones. A sample keeps at least one seen token; with two or more available tokens, at least one is hidden. Padding is
            neither.
        """


def look_at(sampler: Sampler, tokens: Tokens, key: str) -> None:
    """ValueError if the sampler refuses the samples, each of their sequences by itself. key: where the recipe has the sampler."""
    there, sequences = tokens.valid_or_ones(), tokens.sequences()
    if not len(there):
        return
    try:
        sampler.refuse((there if sequences is None else sequences.gather(there)).sum(1))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def some(count: int, lengths: Int[Tensor, " b"]) -> str:
    """So many of the samples of the first step, in words."""
    low, high = int(lengths.min()), int(lengths.max())
    held = str(low) if low == high else f"{low} to {high}"
    return f"{count} of the {len(lengths)} samples of the first step, which have {held} tokens"


def split_in_order(
    sampler: Sampler,
    saliency: Callable[[], Float[Tensor, "b n"]],
    coords: Float[Tensor, "b n 4"],
    valid: Bool[Tensor, "b n"] | None,
    available: Bool[Tensor, "b n"] | None,
    draws: Draws,
    sequences: Sequences | None = None,
) -> Split:
    """`Sampler.split`, and `guided_by` before it, of sequences with padding anywhere: it is put last for the sampler.

    What is drawn for the k-th token of a sample then depends on the sample alone. In a batch of pictures of various widths padding
    lies between their rows, as much as the widest asks for.

    sequences: those of samples that hold several, each of which is divided by itself; None: each sample is one.
    """
    if sequences is not None:
        guided = sampler.guided_by(lambda: sequences.gather(saliency()))
        free = sequences.gather(available)
        if free is not None and sequences.real is not None:
            free = free & sequences.real
        return of_samples(sequences, guided.split(sequences.gather(coords), sequences.real, free, sequences.draws(draws)))
    if valid is None:
        return sampler.guided_by(saliency).split(coords, None, available, draws)
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    guided = sampler.guided_by(lambda: saliency().gather(1, order))
    parts = guided.split(gather(coords, order), gather(valid, order), gather(available, order), draws)
    return replace(parts, seen=order.gather(1, parts.seen), hidden=order.gather(1, parts.hidden))


def of_samples(sequences: Sequences, parts: Split) -> Split:
    """What is seen and hidden of samples, by what is of each of their sequences."""
    return Split(
        sequences.fold(sequences.index.gather(1, parts.seen)),
        sequences.fold(sequences.index.gather(1, parts.hidden), parts.groups),
        sequences.there(parts.seen, parts.seen_real),
        sequences.there(parts.hidden, parts.hidden_real, parts.groups),
        parts.groups,
    )


def of_sequences(sequences: Sequences, parts: Split) -> Split:
    """The inverse of `of_samples`."""
    seen_real, hidden_real = parts.seen_real, parts.hidden_real
    return Split(
        sequences.unfold(sequences.place.gather(1, parts.seen)),
        sequences.unfold(sequences.place.gather(1, parts.hidden), parts.groups),
        None if seen_real is None else sequences.unfold(seen_real),
        None if hidden_real is None else sequences.unfold(hidden_real, parts.groups),
        parts.groups,
    )


class Scored(Sampler):
    """A sampler that gives every token a score and every sample a count; the tokens with the lowest scores are hidden.

    ratio: of the tokens that may be hidden, how many are where it gives no count; None: it gives one for every batch.
    """

    ratio: float | None = None

    def refuse(self, lengths: Int[Tensor, " b"]) -> None:
        """ValueError if half of the samples are so short that the ratio is all of their tokens; single tokens are none."""
        if self.ratio is None:
            return
        short = int(((share(lengths, self.ratio) >= lengths) & (lengths > 1)).sum())
        if 2 * short >= len(lengths):
            middle = int(lengths.median())
            raise ValueError(
                f"a ratio of {self.ratio:g} leaves nothing to see of {some(short, lengths)}. Set its ratio to at most "
                f"{math.floor(100 * (middle - 1) / middle) / 100:g}, or make tokens of smaller parts"
            )

    @abstractmethod
    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"] | None]:
        """Scores `[b, n]` (low is hidden first) and the number of tokens to hide `[b]` (None: the ratio of those available)."""

    def split(
        self,
        coords: Float[Tensor, "b n 4"],
        valid: Bool[Tensor, "b n"] | None,
        available: Bool[Tensor, "b n"] | None,
        draws: Draws,
    ) -> Split:
        free = free_tokens(coords, valid, available)
        score, count = self(coords, free, draws)
        whole = valid is None and available is None
        if count is None:
            assert self.ratio is not None, f"{type(self).__name__} gives neither a count nor has a ratio"
            if whole:
                return even(score, round(coords.shape[1] * self.ratio))
            count = share(free.sum(1), self.ratio)
        elif whole and int(count.min()) == (most := int(count.max())):
            return even(score, most)
        real = valid if valid is not None else torch.ones_like(free)
        return ragged(score, count, free, real)


def free_tokens(
    coords: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"] | None, available: Bool[Tensor, "b n"] | None
) -> Bool[Tensor, "b n"]:
    """Tokens that may be hidden, as a tensor."""
    free = available if available is not None else valid
    return torch.ones(coords.shape[:2], dtype=torch.bool, device=coords.device) if free is None else free


def share(sizes: Int[Tensor, " b"], ratio: float) -> Int[Tensor, " b"]:
    """`ratio` of each size, rounded as Python rounds, so that padded and unpadded samples hide alike."""
    table = torch.tensor([round(size * ratio) for size in range(int(sizes.max()) + 1)], device=sizes.device)
    return table[sizes]


def in_order(*keys: Shaped[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The order of the tokens by the last of the keys, equal ones by the one before it, and so on; at last as they come.

    By a sum of keys, of which one is large, the small one would lose its digits.
    """
    order = keys[0].argsort(dim=1, stable=True)
    for key in keys[1:]:
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def ranks(*keys: Shaped[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The number of each token in the order of the keys, as a score."""
    order = in_order(*keys)
    number = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, number).float()


def even(score: Float[Tensor, "b n"], hide: int) -> Split:
    """The same number of tokens for every sample: static shapes, no masks."""
    n = score.shape[1]
    hide = min(max(1, hide), n - 1)
    order = score.argsort(dim=1, stable=True)
    return Split(seen=order[:, hide:], hidden=order[:, :hide])


def ragged(score: Float[Tensor, "b n"], count: Int[Tensor, " b"], free: Bool[Tensor, "b n"], real: Bool[Tensor, "b n"]) -> Split:
    """Counts of their own for every sample, padded to the largest."""
    total, limit = real.sum(1), free.sum(1)
    count = torch.minimum(count.clamp(min=1), torch.minimum(limit, total - 1)).clamp(min=0)
    # Hidden candidates first (by score), then the other real tokens, padding last.
    order = in_order(score, (~free).to(torch.uint8) + (~real).to(torch.uint8))
    place = torch.arange(score.shape[1], device=score.device)
    hide, keep = int(count.max()), int((total - count).max())
    first = (place[:keep] + count[:, None]).clamp(max=score.shape[1] - 1)
    return Split(
        seen=order.gather(1, first),
        hidden=order[:, :hide],
        seen_real=place[:keep] < (total - count)[:, None],
        hidden_real=place[:hide] < count[:, None],
    )

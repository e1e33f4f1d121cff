"""The one contract between a modality and everything else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.draws import Draws


@overload
def gather(source: Tensor, index: Int[Tensor, "b k"]) -> Tensor: ...


@overload
def gather(source: None, index: Int[Tensor, "b k"]) -> None: ...


def gather(source: Tensor | None, index: Int[Tensor, "b k"]) -> Tensor | None:
    """`source[i, index[i, j]]` for every row i: selects along dimension 1 of a `[b, n, ...]` tensor; None stays None."""
    if source is None:
        return None
    rows = source.shape[1] * torch.arange(index.shape[0], device=index.device)[:, None]
    return source.flatten(0, 1).index_select(0, (rows + index).flatten()).unflatten(0, index.shape)


def put(values: Float[Tensor, "b k d"], index: Int[Tensor, "b k"] | None, count: int) -> Float[Tensor, "b n d"]:
    """The inverse of `gather`: `count` places along dimension 1, zeros where `index` names none; None: the values as they are."""
    if index is None:
        return values
    places = index[..., None].expand_as(values)
    return values.new_zeros(len(values), count, values.shape[2]).scatter(1, places, values)


def both_valid(a: Bool[Tensor, "b n"] | None, b: Bool[Tensor, "b n"] | None) -> Bool[Tensor, "b n"] | None:
    """Logical and of two validity masks, where None stands for all True."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


def numbered(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Which of the valid tokens of its sample each is, from 0."""
    return (valid.cumsum(1) - 1).clamp(min=0)


def of_own(drawn: Shaped[Tensor, "b n ..."], valid: Bool[Tensor, "b n"] | None) -> Shaped[Tensor, "b n ..."]:
    """What was drawn for token after token, by the number of each among the valid ones: padding between them changes nothing."""
    return drawn if valid is None else gather(drawn, numbered(valid))


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences: what they hold, where they are, which of them are real.

    Every modality places its tokens in one 4-d coordinate frame (time, depth, height, width; unused axes are zero), in its own
    patch units, so masking and prediction need no knowledge of the modality. Content and position stay apart until the encoder,
    so that a mask token can stand at the place of a hidden token.

    values: what a token holds.
    coords: real-valued position of each token.
    valid: False marks padding; None means that every token is real, which keeps attention on its fastest path.
    identity: what a token is when geometry does not say it (the column of a table); independent of its content. The encoder adds
        it to `values`; a mask token receives the identity of the token that it replaces.
    expert: name of the MLP expert that the sequences go through, in an encoder that has them; None in all others.
    keys: of the draws that an encoder makes for each sequence while training (see `mmssl.draws`); None: torch's generator.
    """

    values: Float[Tensor, "b n d"]
    coords: Float[Tensor, "b n 4"]
    valid: Bool[Tensor, "b n"] | None = None
    identity: Float[Tensor, "b n d"] | None = None
    expert: str | None = None
    keys: Int[Tensor, " b"] | None = None

    def take(self, index: Int[Tensor, "b k"], real: Bool[Tensor, "b k"] | None = None) -> "Tokens":
        """The tokens at `index`; `real` marks the entries of `index` that count (None: all)."""
        valid = both_valid(gather(self.valid, index), real)
        return replace(
            self,
            values=gather(self.values, index),
            coords=gather(self.coords, index),
            valid=valid,
            identity=gather(self.identity, index),
        )

    def packed(self) -> tuple["Tokens", Int[Tensor, "b k"] | None]:
        """The same tokens without padding that no sequence needs, the rest of it behind; and where they stood, None: right there.

        A graph has no sizes that depend on data: in one that is being traced all padding stays.
        """
        if self.valid is None or torch.compiler.is_compiling():
            return self, None
        fewest, most = torch.stack(self.valid.sum(1).aminmax()).tolist()
        if fewest == self.valid.shape[1]:
            return replace(self, valid=None), None
        if most in (0, self.valid.shape[1]):
            return self, None
        index = (~self.valid).int().argsort(dim=1, stable=True)[:, :most]
        found = self.take(index)
        return (replace(found, valid=None) if fewest == most else found), index

    def repeat(self, times: int) -> "Tokens":
        """The batch so many times over, one whole batch after the other."""
        if times == 1:
            return self
        return replace(
            self,
            values=self.values.repeat(times, 1, 1),
            coords=self.coords.repeat(times, 1, 1),
            valid=None if self.valid is None else self.valid.repeat(times, 1),
            identity=None if self.identity is None else self.identity.repeat(times, 1, 1),
            keys=None if self.keys is None else Draws(self.keys).repeat(times).keys,
        )

    @property
    def same_places(self) -> bool:
        """Whether every sample of several has its tokens at the same places, known because they are one tensor expanded."""
        parts = [self.coords] if self.identity is None else [self.coords, self.identity]
        return len(self.values) > 1 and all(part.stride(0) == 0 for part in parts)

    def first(self) -> "Tokens":
        """The first sample alone, and none of its padding."""
        identity = None if self.identity is None else self.identity[:1]
        return replace(self, values=self.values[:1], coords=self.coords[:1], valid=None, identity=identity, keys=None)

    def keyed(self, draws: Draws) -> "Tokens":
        """The tokens with the keys of the samples' draws."""
        return replace(self, keys=draws.keys)

    def numbers(self) -> Int[Tensor, "#b n"]:
        """Which of the valid tokens of its sequence each is, from 0: padding between them changes nothing."""
        if self.valid is None:
            return torch.arange(self.values.shape[1], device=self.values.device)[None]
        return (self.valid.cumsum(1) - 1).clamp(min=0)

    def tail(self, count: int) -> "Tokens":
        """The last `count` tokens of every sequence."""
        first = self.values.shape[1] - count
        valid = None if self.valid is None else self.valid[:, first:]
        identity = None if self.identity is None else self.identity[:, first:]
        return replace(self, values=self.values[:, first:], coords=self.coords[:, first:], valid=valid, identity=identity)

    def split(self, sizes: list[int]) -> list["Tokens"]:
        """Parts of the batch of these sizes, in order."""

        def cut(whole: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * len(sizes) if whole is None else whole.split(sizes)

        parts = zip(*map(cut, (self.values, self.coords, self.valid, self.identity, self.keys)), strict=True)
        return [
            Tokens(values, coords, valid, identity, self.expert, keys)
            for values, coords, valid, identity, keys in parts
            if values is not None and coords is not None
        ]

    def with_values(self, values: Float[Tensor, "b n e"]) -> "Tokens":
        """The same places with other contents (identity is spent: it went into the values)."""
        return replace(self, values=values, identity=None)

    def valid_or_ones(self) -> Bool[Tensor, "b n"]:
        """The validity mask as a tensor, also where it is None."""
        if self.valid is not None:
            return self.valid
        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)

    def mean(self) -> Float[Tensor, "b d"]:
        """Mean of the valid tokens; zero for a sequence without any."""
        if self.valid is None:
            return self.values.mean(1)
        weight = self.valid.unsqueeze(-1).to(self.values.dtype)
        return (self.values * weight).sum(1) / weight.sum(1).clamp(min=1)


def cat(parts: list[Tokens]) -> Tokens:
    """Join token sequences of one batch along the sequence. Identities must have been spent."""
    assert all(part.identity is None for part in parts)
    valid = None
    if any(part.valid is not None for part in parts):
        valid = torch.cat([part.valid_or_ones() for part in parts], 1)
    values, coords = (torch.cat(found, 1) for found in ([p.values for p in parts], [p.coords for p in parts]))
    return Tokens(values, coords, valid, keys=parts[0].keys)


def joined_batches(parts: list[Tokens]) -> Tokens:
    """Batches of equally many tokens as one batch, one after the other. All have validity, identities and keys, or none."""
    if len(parts) == 1:
        return parts[0]

    def joined(found: list[Tensor | None]) -> Tensor | None:
        there = [each for each in found if each is not None]
        return torch.cat(there) if there else None

    values, coords = (torch.cat(found) for found in ([part.values for part in parts], [part.coords for part in parts]))
    valid, identity = joined([part.valid for part in parts]), joined([part.identity for part in parts])
    return Tokens(values, coords, valid, identity, parts[0].expert, joined([part.keys for part in parts]))

"""The one contract between a modality and everything else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.draws import Draws

if TYPE_CHECKING:
    Count = int
else:
    Count = int | torch.SymInt
    """A number that may stand for any in a graph that is being traced."""


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
    sequence: which sequence of its sample each token belongs to, from 0, where a sample has several that never attend to each other
        (the channels of a series); None: each sample is one. num_sequences: how many there may be.
    """

    values: Float[Tensor, "b n d"]
    coords: Float[Tensor, "b n 4"]
    valid: Bool[Tensor, "b n"] | None = None
    identity: Float[Tensor, "b n d"] | None = None
    expert: str | None = None
    keys: Int[Tensor, " b"] | None = None
    sequence: Int[Tensor, "b n"] | None = None
    num_sequences: Count = 1

    def take(self, index: Int[Tensor, "b k"], real: Bool[Tensor, "b k"] | None = None) -> "Tokens":
        """The tokens at `index`; `real` marks the entries of `index` that count (None: all)."""
        valid = both_valid(gather(self.valid, index), real)
        return replace(
            self,
            values=gather(self.values, index),
            coords=gather(self.coords, index),
            valid=valid,
            identity=gather(self.identity, index),
            sequence=gather(self.sequence, index),
        )

    def rows(self, index: Int[Tensor, " k"]) -> "Tokens":
        """Some samples of the batch; what one tensor holds for all of them stays one tensor."""

        def part(whole: Tensor | None) -> Any:
            if whole is None:
                return None
            return whole[:1].expand(len(index), *whole.shape[1:]) if len(whole) > 1 and whole.stride(0) == 0 else whole[index]

        names = ("values", "coords", "valid", "identity", "keys", "sequence")
        return replace(self, **{name: part(getattr(self, name)) for name in names})

    def sequences(self, kept: Int[Tensor, " s"] | None = None) -> "Sequences | None":
        """Its sequences, each of which is to be a row of a batch; None where each sample is one.

        kept: the rows to keep, as `Sequences.rows`; None: those that hold a token, and the first of a sample without any.
        """
        return None if self.sequence is None else Sequences.of(self.sequence, self.valid, self.num_sequences, kept)

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
            sequence=None if self.sequence is None else self.sequence.repeat(times, 1),
        )

    @property
    def same_places(self) -> bool:
        """Whether every sample of several has its tokens at the same places, known because they are one tensor expanded."""
        parts = [self.coords] if self.identity is None else [self.coords, self.identity]
        return len(self.values) > 1 and all(part.stride(0) == 0 for part in parts)

    def first(self) -> "Tokens":
        """The first sample alone, and none of its padding."""
        identity, sequence = (None if x is None else x[:1] for x in (self.identity, self.sequence))
        return replace(
            self, values=self.values[:1], coords=self.coords[:1], valid=None, identity=identity, keys=None, sequence=sequence
        )

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
        valid, identity, sequence = (None if x is None else x[:, first:] for x in (self.valid, self.identity, self.sequence))
        values, coords = self.values[:, first:], self.coords[:, first:]
        return replace(self, values=values, coords=coords, valid=valid, identity=identity, sequence=sequence)

    def split(self, sizes: list[int]) -> list["Tokens"]:
        """Parts of the batch of these sizes, in order."""

        def cut(whole: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * len(sizes) if whole is None else whole.split(sizes)

        whole = (self.values, self.coords, self.valid, self.identity, self.keys, self.sequence)
        return [
            Tokens(values, coords, valid, identity, self.expert, keys, sequence, self.num_sequences)
            for values, coords, valid, identity, keys, sequence in zip(*map(cut, whole), strict=True)
            if values is not None and coords is not None
        ]

    def with_values(self, values: Float[Tensor, "b n e"]) -> "Tokens":
        """The same places with other contents (identity is spent: it went into the values)."""
        return replace(self, values=values, identity=None)

    def encoded(self, values: Float[Tensor, "b n e"]) -> "Tokens":
        """The same places with what an encoder made of them; what of them may attend to what is spent, too."""
        return replace(self, values=values, identity=None, sequence=None, num_sequences=1)

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
    """Join token sequences of one batch along the sequence. Identities must have been spent, and each sample be one sequence."""
    assert all(part.identity is None and part.sequence is None for part in parts)
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
    keys, sequence = joined([part.keys for part in parts]), joined([part.sequence for part in parts])
    return Tokens(values, coords, valid, identity, parts[0].expert, keys, sequence, max(part.num_sequences for part in parts))


@dataclass(frozen=True)
class Sequences:
    """How samples that hold several sequences become a batch with a sequence in each row, without padding between, and back.

    In a graph that is being traced no size depends on data: there all rows stay, with as many places as the tokens of a sample need
    that are shared out evenly.

    rows: which sequences these are, `sample * count + sequence`, ascending. count: sequences of a sample. all: none is missing.
    index: of the tokens of each row in their sample. real: which of them count; None: all.
    place: where in its row each token of the samples stands. of_row: the row of each. valid: tokens of the samples that are real.
    """

    rows: Int[Tensor, " s"]
    count: Count
    index: Int[Tensor, "s m"]
    real: Bool[Tensor, "s m"] | None
    place: Int[Tensor, "b n"]
    of_row: Int[Tensor, "b n"]
    valid: Bool[Tensor, "b n"] | None
    all: bool

    @classmethod
    def of(
        cls,
        sequence: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"] | None,
        count: Count,
        kept: Int[Tensor, " s"] | None = None,
    ) -> "Sequences":
        """The sequences of samples, their tokens in the order of the sample."""
        b, n = sequence.shape
        number = torch.arange(n, device=sequence.device)
        there = torch.ones_like(sequence, dtype=torch.bool) if valid is None else valid
        # No stable sort, which ONNX lacks: the numbers to sort by differ.
        order = (torch.where(there, sequence, count) * n + number).argsort(dim=1)
        sizes = torch.zeros(b, count, dtype=torch.int64, device=sequence.device).scatter_add(1, sequence, there.long())
        tracing = torch.compiler.is_compiling()
        most = -(-n // count) if tracing else max(1, int(sizes.max()))
        start, column = sizes.cumsum(1) - sizes, torch.arange(most, device=sequence.device)
        index = order.gather(1, (start[..., None] + column).clamp(max=n - 1).flatten(1)).view(b * count, most)
        real: Bool[Tensor, "s m"] | None = (column < sizes[..., None]).view(b * count, most)
        rank = torch.zeros_like(order).scatter(1, order, number.expand(b, n))
        place = (rank - start.gather(1, sequence)).clamp(0, most - 1)
        rows, whole = torch.arange(b * count, device=sequence.device), True
        of_row = count * torch.arange(b, device=sequence.device)[:, None] + sequence
        if not tracing:
            present = sizes > 0
            present[:, 0] |= ~present.any(1)
            rows = present.flatten().nonzero()[:, 0] if kept is None else kept
            whole = len(rows) == b * count
            of_row = torch.zeros(b * count, dtype=torch.int64, device=rows.device).scatter(
                0, rows, torch.arange(len(rows), device=rows.device)
            )[of_row]
            assert real is not None
            index, real = index[rows], real[rows]
            real = None if bool(real.all()) else real
        return cls(rows, count, index, real, place, of_row, valid, whole)

    @property
    def sample(self) -> Int[Tensor, " s"]:
        """The sample that each row is of."""
        return self.rows // self.count

    def draws(self, draws: Draws) -> Draws:
        """Random numbers of the rows, by those of the samples; the first sequence of a sample has those of the sample."""
        return draws.of_sequences(self.sample, self.rows % self.count)

    @overload
    def gather(self, source: Tensor) -> Tensor: ...

    @overload
    def gather(self, source: None) -> None: ...

    def gather(self, source: Tensor | None) -> Tensor | None:
        """Something of each token of the samples, `[b, n, ...]`, in rows, `[s, m, ...]`; None stays None."""
        if source is None:
            return None
        return source.flatten(0, 1)[self.sample[:, None] * source.shape[1] + self.index]

    def take(self, tokens: Tokens) -> Tokens:
        """The tokens in rows."""
        return Tokens(
            self.gather(tokens.values),
            self.gather(tokens.coords),
            self.real,
            self.gather(tokens.identity),
            tokens.expert,
            None if tokens.keys is None else self.draws(Draws(tokens.keys)).keys,
        )

    def put(self, values: Float[Tensor, "s m d"]) -> Float[Tensor, "b n d"]:
        """The inverse of `gather`; zero for tokens that are not real."""
        found = values.flatten(0, 1)[self.of_row * values.shape[1] + self.place]
        return found if self.valid is None else found.masked_fill(~self.valid[..., None], 0)

    def fold(self, values: Shaped[Tensor, "s k ..."], groups: int = 1) -> Shaped[Tensor, "b h ..."]:
        """What belongs to each row, for the whole sample: the rows one after the other, zero for those that are not there.

        groups: of equal size, one after the other, in which `values` come; then so does the result.
        """
        full, b = values, self.place.shape[0]
        if not self.all:
            full = values.new_zeros(b * self.count, *values.shape[1:]).index_copy(0, self.rows, values)
        return full.view(b, self.count, groups, -1, *values.shape[2:]).transpose(1, 2).flatten(1, 3)

    def unfold(self, values: Shaped[Tensor, "b h ..."], groups: int = 1) -> Shaped[Tensor, "s k ..."]:
        """The inverse of `fold`."""
        apart = values.view(len(values), groups, self.count, -1, *values.shape[2:]).transpose(1, 2)
        return apart.flatten(2, 3).flatten(0, 1)[self.rows]

    def there(self, values: Shaped[Tensor, "s k"], real: Bool[Tensor, "s k"] | None, groups: int = 1) -> Bool[Tensor, "b h"] | None:
        """`fold` of which of the values of each row count; None: all do, and all rows are there."""
        if real is None and self.all:
            return None
        return self.fold(torch.ones_like(values, dtype=torch.bool) if real is None else real, groups)

    def mean(self, values: Float[Tensor, "s k d"]) -> Float[Tensor, "b k d"]:
        """The mean over the rows of each sample that hold a token."""
        if self.real is None and self.valid is None and self.all:
            return self.fold(values).unflatten(1, (self.count, -1)).mean(1)
        held = torch.ones_like(self.rows, dtype=torch.bool) if self.real is None else self.real.any(1)
        weight = held.to(values.dtype)[:, None, None]
        total, count = (self.fold(x).unflatten(1, (self.count, -1)).sum(1) for x in (values * weight, weight))
        return total / count.clamp(min=1)

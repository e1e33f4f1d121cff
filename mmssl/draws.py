"""Random numbers that depend only on (seed, step, sample, purpose).

A counter-based generator: each number is a hash of its own coordinates, computed as batched integer operations on any device. A
resumed, re-sharded or re-ordered run therefore draws the same masks and views for the same sample, with no state to keep.
The mixer is the finalizer of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
"""

import hashlib
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """The 64-bit two's complement value of an unsigned 64-bit integer, as torch.int64 holds it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch shifts arithmetically)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A bijection of 64-bit integers whose output bits look random."""
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def hash_text(text: str) -> int:
    """A signed 64-bit hash of a string, the same in every process."""
    return _signed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def keys(seed: int, step: int, ids: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """One 64-bit key per sample of a step."""
    base = mix(torch.tensor(_signed((seed + 1) * _GOLDEN + step), dtype=torch.int64)).to(ids.device)
    return mix(base + (ids + 1) * _GOLDEN)


def below(count: int | Int[Tensor, "..."], uniform: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Uniform numbers in [0, 1) as integers in [0, count)."""
    return (uniform * count).long().clamp(max=count - 1)


def most(share: int | float, count: int) -> int:
    """The largest number that `Draws.part` gives of so many things, or of fewer, for shares up to this one."""
    return int(_most(share, torch.tensor(count)))


def _most(share: int | float, counts: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A share of things, rounded up, but for what float32 adds: 0.6 of 35 is 21."""
    return (share * (1 - 1e-6) * counts).ceil().long().clamp(min=1)


class Draws:
    """Draws for one batch of sample keys; each purpose (a short name) gives an independent stream."""

    def __init__(self, keys: Int[Tensor, " b"]) -> None:
        self.keys = keys

    def fork(self, number: int) -> "Draws":
        """Independent draws for the same samples: of view `number`, for example."""
        return Draws(mix(self.keys + _signed((number + 1) * _GOLDEN)))

    def repeat(self, times: int) -> "Draws":
        """Draws for the batch so many times over, each time independent."""
        return Draws(torch.cat([self.fork(number).keys for number in range(times)]))

    def of_sequences(self, sample: Int[Tensor, " s"], number: Int[Tensor, " s"]) -> "Draws":
        """Independent draws for sequences, by their sample and their number in it; those of number 0 are its sample's own."""
        own = self.keys[sample]
        return Draws(torch.where(number == 0, own, mix((own ^ hash_text("sequence")) + number * _GOLDEN)))

    def uniform(self, purpose: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform numbers in [0, 1) of shape `[b, *shape]`, float32."""
        return self.at(purpose, torch.arange(math.prod(shape), device=self.keys.device)[None]).view(len(self.keys), *shape)

    def at(self, purpose: str, numbers: Int[Tensor, "#b n"]) -> Float[Tensor, "b n"]:
        """The uniform numbers of these places of a stream, counted from 0: what `uniform` gives there."""
        return _shift_right(self.bits(purpose, numbers), 40).to(torch.float32) / (1 << 24)

    def bits(self, purpose: str, numbers: Int[Tensor, "#b n"]) -> Int[Tensor, "b n"]:
        """The 64 random bits of these places of a stream, counted from 0."""
        return mix(mix(self.keys ^ hash_text(purpose))[:, None] + (numbers + 1) * _GOLDEN)

    def normal(self, purpose: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers of shape `[b, *shape]`, float32 (Box-Muller)."""
        u, v = self.uniform(purpose, *shape, 2).unbind(-1)
        return (-2 * (1 - u).log()).sqrt() * (2 * math.pi * v).cos()

    def between(self, purpose: str, low: int | float, high: int | float, *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform numbers in [low, high) of shape `[b, *shape]`."""
        return low + (high - low) * self.uniform(purpose, *shape)

    def integers(self, purpose: str, count: int, *shape: int) -> Int[Tensor, "b ..."]:
        """Uniform integers in [0, count) of shape `[b, *shape]`."""
        return below(count, self.uniform(purpose, *shape))

    def part(self, purpose: str, shares: tuple[int | float, int | float], counts: Int[Tensor, "b 1"]) -> Int[Tensor, "b 1"]:
        """How many of `counts` things a share of them is that is drawn between two: rounded up, at least one."""
        drawn = (self.between(purpose, *shares, 1) * counts).ceil().long()
        return drawn.clamp(min=1).minimum(_most(shares[1], counts))

    def start(self, purpose: str, part: Int[Tensor, "b 1"], counts: Int[Tensor, "b 1"]) -> Int[Tensor, "b 1"]:
        """Where a run of `part` of `counts` things begins, all places equally likely."""
        return (self.uniform(purpose, 1) * (counts - part + 1)).long().minimum(counts - part)

    def shared(self, purpose: str, labels: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """A random integer in [0, 2^63) for each label: equal ones of a sample share theirs."""
        stream = mix(self.keys ^ hash_text(purpose))[:, None]
        return _shift_right(mix(stream + mix(labels) * _GOLDEN), 1)

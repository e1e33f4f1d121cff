"""Batches of samples of similar length that cost the same number of tokens, as a pure function of (lengths, seed, number)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mmssl.data.order import shuffled


class BudgetOrder:
    """Batches of about `tokens` tokens, padding included: many short samples, or few long ones.

    The samples are sorted into buckets of similar length once. In every epoch each bucket is shuffled and cut into equal batches,
    as large as its longest sample allows, and all batches are shuffled, so that any batch of any epoch can be asked for at any
    time. The last batch of a bucket is filled up with a few samples from its beginning.

    lengths: tokens of each sample. shares: into how many parts a batch will be cut (processes x micro-batches). Batches are the
        same for any number of them: a batch of fewer samples, of a length that few have, leaves some parts empty.
    ValueError if a batch cannot hold a sample of the longest for each share.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, seed: int, *, shares: int = 1, shuffle: bool = True) -> None:
        self.num_samples, self.tokens, self.seed, self.shuffle = len(lengths), tokens, seed, shuffle
        sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
        longest = int(sizes.max())
        if tokens < shares * longest:
            raise ValueError(
                f"a step of {tokens} tokens cannot hold {shares} samples of {longest} tokens, the longest there are; raise "
                f"train.batch_tokens to at least {shares * longest}, or cut the samples shorter"
            )
        self._buckets: list[Int[np.ndarray, " n"]] = []
        self._shapes: list[tuple[int, int]] = []
        order = np.argsort(sizes, kind="stable")
        above = 0.0
        for limit in _limits(longest):
            bucket = order[(sizes[order] <= limit) & (sizes[order] > above)]
            above = limit
            if len(bucket):
                self._buckets.append(bucket)
                count = -(-len(bucket) // (tokens // int(sizes[bucket].max())))
                self._shapes.append((count, -(-len(bucket) // count)))
        self._epoch: tuple[int, list[Int[np.ndarray, " k"]]] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return sum(count for count, _ in self._shapes)

    def batch(self, number: int) -> Int[np.ndarray, " k"]:
        """The samples of batch `number`, counted over all epochs."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(epoch)
        return self._epoch[1][place]

    def _batches(self, epoch: int) -> list[Int[np.ndarray, " k"]]:
        found = []
        for number, (bucket, shape) in enumerate(zip(self._buckets, self._shapes, strict=True)):
            places = shuffled(len(bucket), self.seed + number, epoch) if self.shuffle else np.arange(len(bucket))
            found += list(np.resize(bucket[places], shape))
        order = shuffled(len(found), self.seed, epoch) if self.shuffle else np.arange(len(found))
        return [found[i] for i in order]


GROWTH = 1.25
"""Ratio of the lengths at the two ends of a bucket: at most a fifth of a batch is padding."""

SHORT = 8
"""Samples of fewer tokens share a bucket: of a batch of lone tokens alone, masked modelling could neither hide nor show one."""


def _limits(longest: int) -> list[float]:
    """The upper ends of the buckets, the longest last."""
    limits = [float(longest)]
    while limits[-1] > SHORT:
        limits.append(limits[-1] / GROWTH)
    return limits[::-1]

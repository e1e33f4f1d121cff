"""Which rows a run visits, as a pure function of position."""

import numpy as np
import torch
from jaxtyping import Int

from mmssl.draws import hash_text, keys, mix

_PURPOSE = hash_text("data.order")


class Order:
    """The endless concatenation of one permutation of all rows per epoch.

    Each permutation depends on (seed, epoch) alone, so any position can be asked for at any time, in any process, and there is no
    state to save. Sorting hashed row numbers, rather than numpy's shuffle, keeps the order the same in every version of numpy.

    groups: of every sample; `together` samples of a group, drawn anew in every epoch, then follow each other, as far as it has so
        many: a batch holds positives.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        shuffle: bool = True,
        groups: Int[np.ndarray, " n"] | None = None,
        together: int = 1,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"an order needs at least one sample; got num_samples={num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.groups, self.together = groups, together
        self._epochs: dict[int, Int[np.ndarray, " n"]] = {}

    def rows(self, start: int, count: int) -> Int[np.ndarray, " k"]:
        """The rows at positions start .. start + count; a range may cross from one epoch into the next."""
        if start < 0 or count < 0:
            raise ValueError(f"positions of an order start at 0; got start={start}, count={count}")
        parts = [np.empty(0, dtype=np.int64)]
        end = start + count
        while start < end:
            epoch, offset = divmod(start, self.num_samples)
            part = self._epoch(epoch)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> Int[np.ndarray, " n"]:
        """The permutation of an epoch; the last two used are kept, for batches that cross from one to the next."""
        if epoch not in self._epochs:
            if len(self._epochs) == 2:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = self._permutation(epoch)
        return self._epochs[epoch]

    def _permutation(self, epoch: int) -> Int[np.ndarray, " n"]:
        if not self.shuffle:
            return np.arange(self.num_samples)
        order = shuffled(self.num_samples, self.seed, epoch)
        return order if self.groups is None or self.together == 1 else _in_groups(order, self.groups[order], self.together)


def shuffled(count: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """A permutation of 0 .. count - 1 that depends on (seed, epoch) alone."""
    # Both hashes are bijections of the number, so there are no ties.
    return np.argsort(mix(keys(seed, epoch, torch.arange(count)) ^ _PURPOSE).numpy())


def _in_groups(order: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], together: int) -> Int[np.ndarray, " n"]:
    """The order with chunks of `together` samples of a group side by side, each chunk where its first sample stood."""
    by_group = np.argsort(groups, kind="stable")
    first = np.r_[True, groups[by_group][1:] != groups[by_group][:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    number = np.arange(len(order)) - start
    leader = by_group[start + number // together * together]
    place = np.empty(len(order), dtype=np.int64)
    place[by_group] = leader * together + number % together
    return order[np.argsort(place, kind="stable")]

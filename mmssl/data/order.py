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
    """

    def __init__(self, num_samples: int, seed: int, shuffle: bool = True) -> None:
        if num_samples < 1:
            raise ValueError(f"an order needs at least one sample; got num_samples={num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
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
        return shuffled(self.num_samples, self.seed, epoch) if self.shuffle else np.arange(self.num_samples)


def shuffled(count: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """A permutation of 0 .. count - 1 that depends on (seed, epoch) alone."""
    # Both hashes are bijections of the number, so there are no ties.
    return np.argsort(mix(keys(seed, epoch, torch.arange(count)) ^ _PURPOSE).numpy())

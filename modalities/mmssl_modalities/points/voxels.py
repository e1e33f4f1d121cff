"""An order of points that depends on their values alone, and a tokenizer for large clouds: both in linear time."""

import numpy as np
from jaxtyping import Float, Int, UInt64

CELLS = 1 << 20
"""Cells from the origin to either side along an axis, at most: three of their numbers share one 64-bit integer."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finalizer of SplitMix64, as in `mmssl.draws`."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def hash_rows(rows: Float[np.ndarray, "n c"]) -> UInt64[np.ndarray, " n"]:
    """A hash of each row's values; 0.0 and -0.0 are the same."""
    state = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        bits = (column.astype(np.float64) + 0.0).view(np.uint64)
        state = _mix((state + _ODD) ^ bits)
    return state


def hash_order(rows: Float[np.ndarray, "n c"]) -> Int[np.ndarray, " n"]:
    """The rows in an order that looks random, but depends on their values alone: by hash.

    A radix sort of the four 16-bit parts of the hash, for which numpy has a linear sort.
    """
    order = np.arange(len(rows))
    for part in hash_rows(rows).astype("<u8").view("<u2").reshape(len(rows), 4).T:
        order = order[np.argsort(part[order], kind="stable")]
    return order


def voxel_groups(
    points: Float[np.ndarray, "n 3"], voxel_size: float, max_voxels: int, group_size: int
) -> tuple[Float[np.ndarray, "m 3"], Int[np.ndarray, "m k"]]:
    """Centres of the occupied cells of a grid, and the first `group_size` points in each; fewer points repeat in turn.

    With more than `max_voxels` cells, those of the lowest hash are kept, which lie evenly among the others. Cells come in the order
    of their coordinates. ValueError if the grid is too fine for the cloud's extent.
    """
    import pandas as pd  # takes half a second, and few need it

    cells = np.floor(points / voxel_size)
    if np.abs(cells).max() >= CELLS:
        raise ValueError(
            f"the cloud is too wide for processor.voxel_size={voxel_size:g}: a cell lies {np.abs(cells).max():.3g} cells from the "
            f"origin, at most {CELLS:,} are possible. Raise voxel_size, or set processor.normalise to unit_sphere or centre"
        )
    x, y, z = (cells.astype(np.int64) + CELLS).T
    number, found = pd.factorize((x << 42) | (y << 21) | z)
    kept = np.arange(len(found))
    if len(found) > max_voxels:
        kept = np.argpartition(_mix(found.astype(np.uint64)), max_voxels)[:max_voxels]
    kept = kept[np.argsort(found[kept])]
    rank = np.full(len(found), len(kept))
    rank[kept] = np.arange(len(kept))
    rank = rank[number]
    # Cells that are left out come last. 16 bits, for which numpy's stable sort is linear.
    order = np.argsort(rank.astype(np.uint16), kind="stable")
    counts = np.bincount(rank, minlength=len(kept) + 1)[: len(kept)]
    first = np.cumsum(counts) - counts
    index = order[first[:, None] + np.arange(group_size) % counts[:, None]]
    corner = np.stack([found[kept] >> 42, (found[kept] >> 21) & (2 * CELLS - 1), found[kept] & (2 * CELLS - 1)], 1) - CELLS
    return (corner + 0.5) * voxel_size, index

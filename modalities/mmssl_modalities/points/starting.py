"""What clouds of points are known by, and sizes that suit them, for a first recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmssl.modality import Claim, Suited, readable
from mmssl_modalities.points.decode import read_cloud
from mmssl_modalities.points.scales import scaled

POINTS = (64, 128, 256, 512, 1024)
"""Points of a cloud that may be taken."""
GROUP = 32
"""Points of a group: every point is in about two."""
MESH_POINTS, MOST = 2048, 10_000_000
"""Of a mesh, and the most in a file."""
READ = 50
"""Clouds that are looked at."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Lists of triples, many in each."""
    for name, cells in columns.items():
        there = [cell for cell in cells if cell is not None][:3]
        if there and all(isinstance(cell, list | np.ndarray) and len(cell) > 3 for cell in there):
            shapes = readable(there, lambda cell: np.asarray(cell, dtype=float).shape)
            if len(shapes) == len(there) and all(len(shape) == 2 and shape[1] == 3 for shape in shapes):
                return Claim(name, 0.95, f"column {name} holds lists of points (x, y, z)")
    return None


def _count(raw: Any) -> int:
    """Points of a raw cloud."""
    return len(read_cloud(raw, 0, MESH_POINTS, MOST, scaled({}))[0])


def suited(samples: Sequence[Any]) -> dict[str, Suited]:
    """Points and groups by how many points the clouds have."""
    found = readable(samples[:READ], _count) or [POINTS[-1]]
    few = int(np.quantile(found, 0.1))
    points = max((number for number in POINTS if number <= few), default=POINTS[0])
    return {
        "processor.num_points": Suited(points, f"clouds have {min(found):,} to {max(found):,} points"),
        "processor.num_groups": Suited(points // 16, f"{points // 16} tokens of {GROUP} points"),
    }

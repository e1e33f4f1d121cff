"""What clouds of points are known by, and sizes that suit them, for a first recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from mmssl.modality import Claim, Suited, readable
from mmssl_modalities.points.decode import read_cloud, table_of
from mmssl_modalities.points.scales import scaled

POINTS = (64, 128, 256, 512, 1024)
"""Points of a cloud that may be taken."""
GROUP = 32
"""Points of a group: every point is in about two."""
MESH_POINTS, MOST = 2048, 10_000_000
"""Of a mesh, and the most in a file."""
NORMAL, COLOR = "normal", "color"
MOST_OF = 0.95
"""Share of the points whose normal has length 1."""
READ = 50
"""Clouds that are looked at."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Lists of triples, many in each, with normals or colours or without."""
    for name, cells in columns.items():
        there = [cell for cell in cells if cell is not None][:3]
        if there and all(isinstance(cell, list | np.ndarray) and len(cell) > 3 for cell in there):
            shapes = readable(there, lambda cell: np.asarray(cell, dtype=float).shape)
            if len(shapes) == len(there) and all(len(shape) == 2 and shape[1] == 3 for shape in shapes):
                return Claim(name, 0.95, f"column {name} holds lists of points (x, y, z)")
            if len(shapes) == len(there) and isinstance(known := _features([np.asarray(cell) for cell in there])[0], dict):
                return Claim(name, 0.95, f"column {name} holds lists of points (x, y, z) with {' and '.join(known)}")
    return None


def _features(tables: Sequence[Shaped[np.ndarray, "..."]]) -> tuple[dict[str, int] | int, str]:
    """What follows the coordinates in tables of points, and why: normals by their length, colours by their values.

    0: nothing, or what is neither: numbers in rows may be no points at all.
    """
    widths = {table.shape[-1] if table.ndim == 2 else 3 for table in tables}
    if len(widths) != 1 or (width := widths.pop()) <= 3:
        return 0, "nothing follows the coordinates, or not in all"
    found: dict[str, int] = {}
    for first in range(3, width, 3):
        parts = [table[:, first : first + 3].astype(np.float64) for table in tables]
        if parts[0].shape[1] == 3 and NORMAL not in found and all(map(_are_normals, parts)):
            found[NORMAL] = 3
        elif parts[0].shape[1] == 3 and COLOR not in found and all(map(_are_bytes, parts)):
            found[COLOR] = 3
        else:
            return 0, "what follows the coordinates is not known"
    why = {NORMAL: "three of length 1", COLOR: "three whole numbers up to 255"}
    return found, f"the coordinates are followed by {' and '.join(why[name] for name in found)}"


def _are_normals(part: Float[np.ndarray, "n 3"]) -> bool:
    return bool(np.mean(np.abs(np.linalg.norm(part, axis=1) - 1) < 0.01) > MOST_OF)


def _are_bytes(part: Float[np.ndarray, "n 3"]) -> bool:
    return bool((part == part.round()).all() and part.min() >= 0 and 1 < part.max() <= 255)


def _count(raw: Any) -> int:
    """Points of a raw cloud."""
    table = table_of(raw, MESH_POINTS, MOST)
    return len(read_cloud(raw if table is None or table.ndim < 2 else table[:, :3], 0, MESH_POINTS, MOST, scaled({}))[0])


def _table(raw: Any) -> Shaped[np.ndarray, "..."] | None:
    return table_of(raw, MESH_POINTS, MOST)


def suited(samples: Sequence[Any]) -> dict[str, Suited]:
    """Points and groups by how many points the clouds have, and the features that follow the coordinates."""
    found = readable(samples[:READ], _count) or [POINTS[-1]]
    few = int(np.quantile(found, 0.1))
    points = max((number for number in POINTS if number <= few), default=POINTS[0])
    tables = [table for table in readable(samples[:READ], _table) if table is not None]
    features, why = _features(tables) if len(tables) == len(found) else (0, "files name their features")
    normals = 3 * list(features).index(NORMAL) if isinstance(features, dict) and NORMAL in features else None
    return {
        "processor.features": Suited(features, why),
        "augment.normals": Suited(
            normals, "their channel, as they turn with the cloud" if normals is not None else "none is known"
        ),
        "processor.num_points": Suited(points, f"clouds have {min(found):,} to {max(found):,} points"),
        "processor.num_groups": Suited(points // 16, f"{points // 16} tokens of {GROUP} points"),
    }

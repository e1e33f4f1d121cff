"""Meshes, and points that are spread over them."""

import json
import struct
from collections.abc import Mapping
from importlib import import_module
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, Int

MESHES = {".obj": "OBJ", ".stl": "STL", ".glb": "GLB", ".gltf": "glTF"}
"""Suffixes of meshes that trimesh reads, and what they are called."""

_GOLDEN = (0.7548776662466927, 0.5698402909980532)
"""Steps of the R2 sequence, powers of the inverse of the plastic number: its points fill a square evenly."""
_GLB_HEADER = 20


def sample_surface(corners: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "t 3"], count: int) -> Float[np.ndarray, "n 3"]:
    """Points spread evenly over the area of a mesh, the same for every call; the corners if all faces are flat to a line."""
    return spread(corners, faces, count, {"points": corners})["points"]


def spread(
    corners: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "t 3"], count: int, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What corners of a mesh hold, at points spread evenly over its area; at the corners if all faces are flat to a line.

    Equal steps along the summed areas choose the triangles, and the R2 sequence the places in them. ValueError for faces at corners
    that there are not.
    """
    if not len(faces):
        return dict(values)
    if not (faces.min() >= 0 and faces.max() < len(corners)):
        raise ValueError(
            f"a face has the corner {faces.max() if faces.min() >= 0 else faces.min()}, and there are {len(corners):,}"
        )
    a, b, c = corners[faces].transpose(1, 0, 2)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1).cumsum()
    if not areas[-1] > 0:
        return dict(values)
    steps = np.arange(count)
    chosen = np.searchsorted(areas, (steps + 0.5) / count * areas[-1], side="right").clip(max=len(faces) - 1)
    u, v = ((0.5 + steps * step) % 1 for step in _GOLDEN)
    u, v = np.where(u + v > 1, 1 - u, u)[:, None], np.where(u + v > 1, 1 - v, v)[:, None]
    found = {}
    for name, held in values.items():
        a, b, c = held[faces[chosen]].astype(np.float64).transpose(1, 0, 2)
        mixed = a + u * (b - a) + v * (c - a)
        found[name] = np.rint(mixed).astype(held.dtype) if held.dtype.kind in "iu" and name != "points" else mixed
    return found


def read_mesh(kind: str, data: bytes, path: Path | None, count: int) -> dict[str, np.ndarray]:
    """Points on the surface of a mesh of one of `MESHES`, all parts of a scene in their places.

    path: where it lies, as a .gltf may have its numbers in a file beside it. ValueError for a mesh without faces.
    """
    trimesh = import_module("trimesh")
    resolver = None
    if kind in (".glb", ".gltf"):
        _check_accessors(data, kind)
    if kind == ".gltf":
        data, resolver = _plain(data, path)
    scene = trimesh.load_scene(BytesIO(data), file_type=kind[1:], resolver=resolver, process=False)
    mesh = scene.to_mesh()
    faces = np.asarray(mesh.faces, dtype=np.int64).reshape(-1, 3)
    if not len(faces):
        raise ValueError(
            "it has no faces, so there is no surface to take points from. Save its points as "
            ".xyz or .ply if it is a cloud, or drop it"
        )
    return {"points": sample_surface(np.asarray(mesh.vertices, dtype=np.float64), faces, count)}


def _check_accessors(data: bytes, kind: str) -> None:
    """Refuse arrays that are larger than the file: they would be allocated first."""
    header: Any = data
    if kind == ".glb":
        header = data[_GLB_HEADER : _GLB_HEADER + struct.unpack_from("<I", data, 12)[0]]
    content = json.loads(header)
    for accessor in content.get("accessors", ()) if kind == ".glb" else ():
        if int(accessor.get("count", 0)) > len(data):
            raise ValueError(f"it announces {int(accessor['count']):,} values, but it has {len(data):,} bytes")


def _plain(data: bytes, path: Path | None) -> tuple[bytes, dict[str, bytes]]:
    """A .gltf without its pictures, and the files beside it that hold its numbers."""
    content = json.loads(data)
    for key in ("images", "textures", "materials", "samplers"):
        content.pop(key, None)
    for mesh in content.get("meshes", ()):
        for primitive in mesh.get("primitives", ()):
            primitive.pop("material", None)
    files: dict[str, bytes] = {}
    for buffer in content.get("buffers", ()):
        name = str(buffer.get("uri", ""))
        if name.startswith("data:"):
            continue
        if path is None or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            raise ValueError(f"its numbers lie in {name or 'no file'!r}, which is not beside it. Save it as .glb, which holds all")
        files[name] = (path.parent / name).read_bytes()
    size = sum(map(len, files.values())) + len(data)
    if any(int(accessor.get("count", 0)) > size for accessor in content.get("accessors", ())):
        raise ValueError(f"it announces more values than it has bytes, {size:,}")
    return json.dumps(content).encode(), files

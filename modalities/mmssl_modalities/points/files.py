"""Point cloud files: numpy's .npy and .npz, PLY, OFF, LAS, LAZ and PCD, told apart by their first bytes; others by their suffix."""

import re
import struct
from collections.abc import Callable, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from zipfile import ZipFile

import numpy as np
from jaxtyping import Int, Shaped

from mmssl_modalities.points.meshes import MESHES, read_mesh, sample_surface, spread
from mmssl_modalities.points.plain import TEXTS, is_pcd, read_pcd, read_text_cloud

SUFFIXES = (".npy", ".npz", ".ply", ".off", ".las", ".laz", ".pcd", *MESHES, *TEXTS)
AMBIGUOUS = (".txt", ".asc")

BYTES_PER_POINT = 256
"""What one point may take in an archive when it is unpacked: 32 numbers of 8 bytes."""

_EXTRA = "pip install mmssl[points]"
_OFF = re.compile(rb"(?:\s|#[^\n]*\n)*(?:ST)?C?N?4?n?OFF")
_PLY_COUNT = re.compile(rb"^[ \t]*element[ \t]+(\S+)[ \t]+(\d+)", re.MULTILINE)
_PLY_COMMENT = re.compile(rb"(?<=[\r\n])(?:comment|obj_info)\b[^\r\n]*(?:\r\n|\r|\n)")
_PLY_END = re.compile(rb"(?<=[\r\n])end_header\b")
_PLY_CHANNELS = {
    "color": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normal": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
    "intensity": (("intensity",), ("scalar_Intensity",), ("scalar_intensity",)),
}
_LAS_CHANNELS = {"color": ("red", "green", "blue"), "intensity": ("intensity",)}
_VLR_BYTES = 54
_LAZ_LAYERS = {6: 9, 7: 10, 8: 11, 9: 10, 10: 12}
"""Compressed layers of a chunk by point format, without those of extra bytes (LAS 1.4's formats; earlier ones have no layers)."""

Content = dict[str, np.ndarray] | np.ndarray
"""Arrays by name, coordinates as `points`; or one array."""


def read_file(data: bytes, name: str, features: Sequence[str], mesh_points: int, max_points: int) -> Content:
    """What a file holds: coordinates, and of the features named those that it has.

    mesh_points: points that are drawn from the surface of a mesh. max_points: refuse files that announce more.
    ValueError for what is damaged or of no format known; ImportError naming the extra for a library that is not installed.
    """
    if data[:6] == b"\x93NUMPY":
        return _decoded(name, lambda: _read_npy(data))
    if data[:2] == b"PK":
        return _decoded(name, lambda: _read_npz(data, max_points))
    if is_ply(data):
        plyfile = _library("plyfile", "PLY")
        return _decoded(name, lambda: _read_ply(plyfile, data, features, mesh_points, max_points))
    if data[:4] == b"LASF":
        laspy = _library("laspy", "LAS and LAZ")
        return _decoded(name, lambda: _read_las(laspy, data, features, max_points))
    if _OFF.match(data[:4096]):
        off = _library("trimesh.exchange.off", "OFF")
        return _decoded(name, lambda: _read_off(off, data, mesh_points))
    if is_pcd(data):
        return _decoded(name, lambda: _named(read_pcd(data, lambda count: _check_count(count, max_points)), features))
    suffix = ".glb" if data[:4] == b"glTF" else Path(name).suffix.lower()
    if suffix in MESHES and data:
        _library("trimesh", MESHES[suffix])
        return _decoded(name, lambda: read_mesh(suffix, data, Path(name), mesh_points))
    if suffix in TEXTS and data:
        return _decoded(name, lambda: _named(read_text_cloud(data), features))
    what = f"{len(data):,} bytes that start with {data[:8]!r}" if data else "no bytes"
    raise ValueError(
        f"{name} is no .npy, .npz, PLY, OFF, LAS, LAZ, PCD, OBJ, STL, glTF or .xyz file; got {what}. Convert it, replace it or "
        "drop it"
    )


def is_ply(data: bytes) -> bool:
    """Whether a file is PLY."""
    return data[:3] == b"ply"


def _library(module: str, formats: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"reading {formats} files needs {package}: {_EXTRA}", name=package) from error


def _decoded(name: str, read: Callable[[], Content]) -> Content:
    """The result of a decoder. What decoders raise for damaged files is as varied as the damage, down to MemoryError."""
    try:
        return read()
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is damaged or cannot be used: {text:.300}. Replace it or drop it") from error


def _read_npy(data: bytes) -> Shaped[np.ndarray, "..."]:
    array: np.ndarray = np.load(BytesIO(data), allow_pickle=False)
    return array


def _read_npz(data: bytes, max_points: int) -> Content:
    """The arrays of an archive; a single array may have any name."""
    with ZipFile(BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    limit = max_points * BYTES_PER_POINT
    if size > limit:
        raise ValueError(f"it unpacks to {size:,} bytes, more than {limit:,} that max_points={max_points:,} points may take")
    with np.load(BytesIO(data), allow_pickle=False) as found:
        arrays = {key: found[key] for key in found.files}
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _read_ply(plyfile: Any, data: bytes, features: Sequence[str], mesh_points: int, max_points: int) -> Content:
    """The vertices, or points on the surface if there are faces; comments, which are in any encoding, are passed over."""
    header, data = _without_comments(data)
    for element, digits in _PLY_COUNT.findall(header.replace(b"\r", b"\n")):
        count = int(digits[:18])
        if count > len(data):  # every row takes a byte or more; without this check rows without a property would never end
            raise ValueError(
                f"its header announces {count:,} rows of {element.decode(errors='replace')}, but it has {len(data):,} bytes"
            )
        if element == b"vertex":
            _check_count(count, max_points)
    # Rows of numbers are mapped from a file, some 100 times faster than plyfile reads them one by one; text is not.
    with BytesIO() if re.search(rb"[\r\n]format[ \t]+ascii", data[:4096]) else TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        content = plyfile.PlyData.read(stream)
        if "vertex" not in content:
            raise ValueError(f"it has no element 'vertex', but {', '.join(element.name for element in content) or 'none'}")
        found = _of_records(content["vertex"].data, features)
        if "tristrips" in content:
            raise ValueError("its faces are strips of triangles, which are not read. Save it with faces (MeshLab, trimesh)")
        if "face" in content and len(content["face"].data):
            faces = _triangles(content["face"].data)
            if np.isfinite(found["points"]).all():
                return spread(found["points"].astype(np.float64), faces, mesh_points, found)
        return found


def _named(rows: Shaped[np.ndarray, "..."], features: Sequence[str]) -> Content:
    """Coordinates and features of records; an array as it is."""
    return rows if rows.dtype.names is None else _of_records(rows, features)


def _of_records(rows: Shaped[np.ndarray, " n"], features: Sequence[str]) -> dict[str, np.ndarray]:
    """Coordinates and features of records."""
    assert rows.dtype.names is not None
    found = {"points": _columns(rows, ("x", "y", "z"))}
    for feature in features:
        choices = _PLY_CHANNELS.get(feature, ((feature,),))
        names = next((names for names in choices if set(names) <= set(rows.dtype.names)), None)
        if names is not None:
            found[feature] = _columns(rows, names)
    return found


def _triangles(faces: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, "t 3"]:
    """The corners of faces, those of more than three cut into triangles from their first corner."""
    name = next((name for name in ("vertex_indices", "vertex_index") if name in (faces.dtype.names or ())), None)
    if name is None:
        raise ValueError(f"its faces have no property vertex_indices; they have {', '.join(faces.dtype.names or ()) or 'none'}")
    found: list[np.ndarray] = []
    sizes = np.array([len(face) for face in faces[name]])
    for size in np.unique(sizes[sizes > 2]):
        corners = np.stack(list(faces[name][sizes == size])).astype(np.int64)
        found += [corners[:, [0, i, i + 1]] for i in range(1, size - 1)]
    return np.concatenate(found) if found else np.empty((0, 3), np.int64)


def _without_comments(data: bytes) -> tuple[bytes, bytes]:
    """The header of a PLY file, and the whole file, both without comments."""
    end = _PLY_END.search(data)
    if end is None:
        return b"", data
    header = _PLY_COMMENT.sub(b"", data[: end.end()])
    return header, header + data[end.end() :]


def _columns(rows: Shaped[np.ndarray, " n"], names: Sequence[str]) -> Shaped[np.ndarray, "n c"]:
    """Fields of records, side by side, in a type that is no longer mapped to a file."""
    missing = [name for name in names if name not in (rows.dtype.names or ())]
    if missing:
        raise ValueError(
            f"its vertices have no property {', '.join(missing)}; they have {', '.join(rows.dtype.names or ()) or 'none'}"
        )
    kinds = {rows.dtype[name].name for name in names}
    if len(kinds) > 1:
        return np.stack([rows[name].astype(np.float64) for name in names], 1)
    columns = np.stack([rows[name] for name in names], 1)
    return columns.astype(columns.dtype.newbyteorder("="))


def _read_las(laspy: Any, data: bytes, features: Sequence[str], max_points: int) -> Content:
    """The points of all returns, in the file's unit."""
    offset, records = struct.unpack_from("<II", data, 96)
    if offset > len(data) or records * _VLR_BYTES > len(data):
        raise ValueError(
            f"its header announces {records:,} records and points from byte {offset:,} on, but it has {len(data):,} bytes"
        )
    with laspy.open(BytesIO(data), laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False) as reader:
        header = reader.header
        _check_count(header.point_count, max_points)
        if not header.are_points_compressed and header.point_count * header.point_format.size > len(data) - offset:
            raise ValueError(f"its header announces {header.point_count:,} points, but the file ends before the last")
        if header.are_points_compressed:
            _check_chunks(data, offset, header)
        rows = reader.read_points(-1)
    if len(rows) != header.point_count:
        raise ValueError(f"its header announces {header.point_count:,} points, but it holds {len(rows):,}")
    found = {"points": np.stack([np.asarray(axis, dtype=np.float64) for axis in (rows.x, rows.y, rows.z)], 1)}
    known = set(header.point_format.dimension_names)
    for feature in features:
        names = _LAS_CHANNELS.get(feature, (feature,))
        if set(names) <= known:
            found[feature] = np.stack([np.asarray(rows[name]) for name in names], 1)
    return found


def _check_chunks(data: bytes, offset: int, header: Any) -> None:
    """Refuse a LAZ file that announces more bytes than it has: the decompressor would first allocate them, up to 4 GiB a layer."""
    lazrs = import_module("lazrs")
    table = struct.unpack_from("<q", data, offset)[0]
    if struct.unpack_from("<II", data, table if table >= 0 else struct.unpack_from("<q", data, len(data) - 8)[0])[1] > len(data):
        raise ValueError("its table of chunks is longer than the file")
    stream = BytesIO(data)
    stream.seek(offset)
    record = header.vlrs[header.vlrs.index("LasZipVlr")].record_data
    layers = _LAZ_LAYERS.get(header.point_format.id, 0)
    place = offset + 8
    for _, size in lazrs.read_chunk_table(stream, lazrs.LazVlr(record)):
        sizes = struct.unpack_from(f"<{layers}I", data, place + header.point_format.size + 4)
        if place + size > len(data) or sum(sizes) > size:
            raise ValueError("one of its chunks is longer than the file")
        place += size


def _check_count(count: int, max_points: int) -> None:
    if count > max_points:
        raise ValueError(f"its header announces {count:,} points, more than processor.max_points={max_points:,}")


def _read_off(off: Any, data: bytes, mesh_points: int) -> Content:
    """Points on the surface of a mesh; its corners if it has no faces."""
    mesh = off.load_off(BytesIO(data))
    corners = np.asarray(mesh["vertices"], dtype=np.float64)
    faces = np.asarray(mesh["faces"], dtype=np.int64).reshape(-1, 3)
    return {"points": sample_surface(corners, faces, mesh_points) if len(faces) and np.isfinite(corners).all() else corners}

"""Point cloud files, told apart by their first bytes: numpy's .npy and .npz, PLY, OFF, LAS and LAZ."""

import re
import struct
from collections.abc import Callable, Sequence
from importlib import import_module
from io import BytesIO
from tempfile import TemporaryFile
from typing import Any
from zipfile import ZipFile

import numpy as np
from jaxtyping import Float, Int, Shaped

BYTES_PER_POINT = 256
"""What one point may take in an archive when it is unpacked: 32 numbers of 8 bytes."""

_EXTRA = "pip install mmssl[points]"
_OFF = re.compile(rb"(?:\s|#[^\n]*\n)*(?:ST)?C?N?4?n?OFF")
_PLY_COUNT = re.compile(rb"^[ \t]*element[ \t]+(\S+)[ \t]+(\d+)", re.MULTILINE)
_PLY_COMMENT = re.compile(rb"(?<=[\r\n])(?:comment|obj_info)\b[^\r\n]*(?:\r\n|\r|\n)")
_PLY_END = re.compile(rb"(?<=[\r\n])end_header\b")
_PLY_CHANNELS = {
    "color": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normal": (("nx", "ny", "nz"),),
    "intensity": (("intensity",), ("scalar_Intensity",), ("scalar_intensity",)),
}
_LAS_CHANNELS = {"color": ("red", "green", "blue"), "intensity": ("intensity",)}
_VLR_BYTES = 54
_LAZ_LAYERS = {6: 9, 7: 10, 8: 11, 9: 10, 10: 12}
"""Compressed layers of a chunk by point format, without those of extra bytes (LAS 1.4's formats; earlier ones have no layers)."""
_GOLDEN = (0.7548776662466927, 0.5698402909980532)
"""Steps of the R2 sequence, powers of the inverse of the plastic number: its points fill a square evenly."""

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
        return _decoded(name, lambda: _read_ply(plyfile, data, features, max_points))
    if data[:4] == b"LASF":
        laspy = _library("laspy", "LAS and LAZ")
        return _decoded(name, lambda: _read_las(laspy, data, features, max_points))
    if _OFF.match(data[:4096]):
        off = _library("trimesh.exchange.off", "OFF")
        return _decoded(name, lambda: _read_off(off, data, mesh_points))
    what = f"{len(data):,} bytes that start with {data[:8]!r}" if data else "no bytes"
    raise ValueError(f"{name} is no .npy, .npz, PLY, OFF, LAS or LAZ file; got {what}. Convert it, replace it or drop it")


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


def _read_ply(plyfile: Any, data: bytes, features: Sequence[str], max_points: int) -> Content:
    """The vertices; faces are passed over, and comments, which are in any encoding."""
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
        rows = content["vertex"].data
        found = {"points": _columns(rows, ("x", "y", "z"))}
        for feature in features:
            choices = _PLY_CHANNELS.get(feature, ((feature,),))
            names = next((names for names in choices if set(names) <= set(rows.dtype.names)), None)
            if names is not None:
                found[feature] = _columns(rows, names)
        return found


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


def sample_surface(corners: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "t 3"], count: int) -> Float[np.ndarray, "n 3"]:
    """Points spread evenly over the area of a mesh, the same for every call; the corners if all faces are flat to a line.

    Equal steps along the summed areas choose the triangles, and the R2 sequence the places in them.
    """
    a, b, c = corners[faces].transpose(1, 0, 2)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1).cumsum()
    if not areas[-1] > 0:
        return corners
    steps = np.arange(count)
    chosen = np.searchsorted(areas, (steps + 0.5) / count * areas[-1], side="right").clip(max=len(faces) - 1)
    u, v = ((0.5 + steps * step) % 1 for step in _GOLDEN)
    u, v = np.where(u + v > 1, 1 - u, u)[:, None], np.where(u + v > 1, 1 - v, v)[:, None]
    a, b, c = a[chosen], b[chosen], c[chosen]
    return a + u * (b - a) + v * (c - a)

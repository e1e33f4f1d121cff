"""Everything that users hold a point cloud in, to coordinates and features in float64."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor, strided

from mmssl_modalities.points.files import is_ply, read_file
from mmssl_modalities.points.scales import Scale

Cloud = tuple[np.ndarray, np.ndarray]
"""Coordinates `[n, 3]` and features `[n, f]`, float64."""
Features = dict[str, int] | int
"""Channels of each named feature, or the number of channels that follow the coordinates."""

LARGEST = 1e15
"""The largest coordinate: squares of distances stay within float32."""

_COORDINATES = ("points", "xyz", "positions", "point_cloud")
_NAMES = {
    "color": ("color", "colors", "colour", "colours", "rgb"),
    "normal": ("normal", "normals"),
    "intensity": ("intensity", "intensities"),
}
"""Keys under which a dict may hold the well-known features; others go by their own name."""


def num_channels(features: Features) -> int:
    """Values of a point beside its coordinates."""
    return sum(features.values()) if isinstance(features, dict) else features


def read_cloud(raw: Any, features: Features, mesh_points: int, max_points: int, scale: Scale) -> Cloud:
    """Coordinates and features of one raw cloud.

    raw: array, tensor or nested list `[n, 3 + f]`; dict of arrays; path or bytes of a file; or dict with "bytes" or "path" as the
        datasets library has it.
    scale: brings the values of named features to [0, 1]; those of an array, whose type is that of the coordinates, as of PLY files.
    Raises FileNotFoundError, TypeError or ValueError, which name the file when it is known.
    """
    if isinstance(raw, str | Path):
        return _of_file(_bytes_of(raw), str(raw), features, mesh_points, max_points, scale)
    if isinstance(raw, bytes | bytearray | memoryview):
        return _of_file(bytes(raw), "the point cloud", features, mesh_points, max_points, scale)
    if isinstance(raw, Mapping):
        if any(raw.get(key) is not None for key in ("bytes", "path")):
            return _of_record(raw, features, mesh_points, max_points, scale)
        return _checked(*_of_mapping(raw, "a point cloud", features, scale), "a point cloud", max_points)
    if isinstance(raw, np.ndarray | Tensor | Sequence):
        name = "a point cloud"
        return _checked(*_of_table(as_numbers(raw, name), name, features, scale), name, max_points)
    raise TypeError(
        "a point cloud is an array, tensor or nested list [n, 3] of coordinates (with features after them), a dict with 'points', "
        f"or the path or bytes of a file; got {type(raw).__name__}"
    )


def _bytes_of(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no point cloud file {path}; paths are relative to {Path.cwd()}, and in a table first to the table's folder"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot read the point cloud file {path!s:.100}: {why}. Give the path of one file") from error


def _of_record(record: Mapping[str, Any], features: Features, mesh_points: int, max_points: int, scale: Scale) -> Cloud:
    """The dict of an undecoded file column of the datasets library."""
    data, path = record.get("bytes"), record.get("path")
    if data is None:
        return read_cloud(str(path), features, mesh_points, max_points, scale)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"'bytes' of a point cloud are the content of a file; got {type(data).__name__}")
    return _of_file(bytes(data), str(path or "the point cloud"), features, mesh_points, max_points, scale)


def _of_file(data: bytes, name: str, features: Features, mesh_points: int, max_points: int, scale: Scale) -> Cloud:
    found = read_file(data, name, tuple(features) if isinstance(features, dict) else (), mesh_points, max_points)
    if isinstance(found, dict):
        parts = _of_mapping(found, name, features, scale, of_ply=is_ply(data))
    else:
        parts = _of_table(as_numbers(found, name), name, features, scale)
    return _checked(*parts, name, max_points)


def table_of(raw: Any, mesh_points: int, max_points: int) -> Shaped[np.ndarray, "..."] | None:
    """The numbers of a raw cloud whose coordinates and features lie side by side; None where features have names.

    Raises what `read_cloud` does for a file that cannot be read.
    """
    if isinstance(raw, Mapping):
        if not any(raw.get(key) is not None for key in ("bytes", "path")):
            return None
        data = raw.get("bytes")
        data, name = _bytes_of(str(raw["path"])) if data is None else bytes(data), str(raw.get("path") or "the point cloud")
    elif isinstance(raw, str | Path):
        data, name = _bytes_of(raw), str(raw)
    else:
        return as_numbers(raw, "a point cloud")
    found = read_file(data, name, (), mesh_points, max_points)
    return None if isinstance(found, dict) else as_numbers(found, name)


def as_numbers(values: Any, name: str) -> Shaped[np.ndarray, "..."]:
    """An array of real numbers, of the type that it came in."""
    if isinstance(values, Tensor):
        if values.layout != strided or values.is_quantized or values.is_meta:
            raise TypeError(f"{name} given as a tensor must be dense; got {values.layout} on {values.device}")
        values = (values.float() if values.is_floating_point() and values.element_size() < 4 else values).detach().cpu()
        values = values.resolve_conj().resolve_neg()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} needs the same number of values for each point: {error}") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} holds real numbers; got {_what(array)}. Convert it, and leave points that lack a value out")
    return array


def _what(array: Shaped[np.ndarray, "..."]) -> str:
    """The type of an array, and of an element that is no number."""
    if array.dtype.kind != "O" or not array.size:
        return f"values of type {array.dtype}"
    odd = next((value for value in array.flat if not isinstance(value, int | float)), array.flat[0])
    return f"{odd!r:.60} ({type(odd).__name__})"


def _of_table(table: Shaped[np.ndarray, "..."], name: str, features: Features, scale: Scale) -> Cloud:
    """Coordinates and features that lie side by side; those that have names are scaled."""
    width = 3 + num_channels(features)
    if table.size == 0:
        raise ValueError(f"{name} needs at least one point; got an empty array of shape {list(table.shape)}. Leave the sample out")
    if table.ndim != 2 or table.shape[1] != width:
        raise ValueError(
            f"{name} needs shape [n, {width}]: x, y, z{_told(features)}; got {list(table.shape)}. {_advice(table.shape, width)}"
        )
    if not isinstance(features, dict):
        table = table.astype(np.float64)
        return table[:, :3], table[:, 3:]
    ends = 3 + np.cumsum([0, *features.values()])
    parts = [scale(part, table[:, a:b], True, name) for part, a, b in zip(features, ends[:-1], ends[1:], strict=True)]
    return table[:, :3].astype(np.float64), np.concatenate([table[:, 3:3].astype(np.float64), *parts], 1)


def _told(features: Features) -> str:
    if isinstance(features, dict):
        return "".join(f", {name} ({count})" for name, count in features.items())
    return f" and {features} features" if features else ""


def _advice(shape: tuple[int, ...], width: int) -> str:
    if len(shape) == 2 and shape[0] == width:
        return "Transpose it"
    if len(shape) == 2 and shape[1] > 3:
        return (
            f"If these are x, y, z and {shape[1] - 3} features, set processor.features to {shape[1] - 3}, else drop columns; "
            "colours by name, {color: 3}, are scaled"
        )
    if len(shape) == 3:
        return "Pass several clouds as a list"
    return "Set processor.features to the number of columns after x, y, z, and give each point a third coordinate"


def _of_mapping(found: Mapping[str, Any], name: str, features: Features, scale: Scale, *, of_ply: bool = False) -> Cloud:
    """Coordinates under one key, features under theirs; keys that `features` does not name are passed over."""
    key = next((key for key in _COORDINATES if found.get(key) is not None), None)
    if key is None:
        raise ValueError(f"{name} given as a dict needs the coordinates as 'points' [n, 3]; got the keys {_keys(found)}")
    points = as_numbers(found[key], f"{name}: {key!r}")
    if not features or points.ndim != 2 or points.shape[1] != 3:
        return _of_table(points, f"{name}: {key!r}", features, scale)
    coordinates, none = _of_table(points, f"{name}: {key!r}", 0, scale)
    wanted = features if isinstance(features, dict) else {"features": features}
    columns = {part: _feature(found, part, count, len(coordinates), name) for part, count in wanted.items()}
    parts = [scale(part, values, of_ply, name) for part, values in columns.items()]
    return coordinates, np.concatenate([none, *parts], 1)


def _feature(found: Mapping[str, Any], part: str, channels: int, n: int, name: str) -> Shaped[np.ndarray, "n c"]:
    key = next((key for key in _NAMES.get(part, (part,)) if found.get(key) is not None), None)
    if key is None:
        raise ValueError(
            f"{name} lacks {part!r}, of which processor.features wants {channels} values for each point; it has {_keys(found)}. "
            "Add them, or change features: those of files have names, as in {color: 3}"
        )
    values = as_numbers(found[key], f"{name}: {key!r}")
    if values.ndim == 1:
        values = values[:, None]
    if values.shape != (n, channels):
        raise ValueError(
            f"{name}: {key!r} needs shape [{n}, {channels}], a row for each point; got {list(values.shape)}. Correct it, or the "
            f"number of channels in processor.features"
        )
    return values


def _keys(found: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(repr, found))) or "none"


def _checked(points: Float[np.ndarray, "n 3"], features: Float[np.ndarray, "n f"], name: str, max_points: int) -> Cloud:
    """The cloud, if it has points, not too many, and all values are finite."""
    if len(points) > max_points:
        raise ValueError(
            f"{name} has {len(points):,} points, more than processor.max_points={max_points:,}. Cut it up, or raise max_points"
        )
    for part, what in ((points, "coordinates"), (features, "features")):
        bad = np.count_nonzero(~np.isfinite(part).all(1))
        if bad:
            raise ValueError(
                f"{name} needs finite {what}; {bad:,} of {len(part):,} points have NaN or infinite ones. Leave these points out"
            )
    largest = np.abs(points).max()
    if largest > LARGEST:
        raise ValueError(f"{name} needs coordinates of at most {LARGEST:g}; the largest is {largest:g}. Choose a larger unit")
    if features.size and np.abs(features).max() > LARGEST:
        raise ValueError(f"{name} needs features of at most {LARGEST:g}; the largest is {np.abs(features).max():g}. Scale them")
    return points, features

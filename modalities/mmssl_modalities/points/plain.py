"""Clouds in files that no library of ours reads: PCD, and numbers as text."""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

TEXTS = (".xyz", ".pts", ".txt", ".asc")
"""Suffixes of files with a point in every line."""

_SIGNS = re.compile(rb"[,;\t]")
_TYPES = {"F": "f", "I": "i", "U": "u"}
_KEYS = ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA")
MAX_FACTOR = 256
"""Times its size that a compressed file may unpack to; LZF packs at most some 90 to 1."""


def is_pcd(data: bytes) -> bool:
    """Whether a file is one of the Point Cloud Library."""
    return re.match(rb"(?:\s*#[^\n]*\n)*\s*VERSION\s", data[:4096]) is not None


def read_text_cloud(data: bytes) -> Shaped[np.ndarray, "..."]:
    """Numbers of points, one point a line, as records if a first line names them, else as an array."""
    lines = _SIGNS.sub(b" ", data).decode("utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith(("#", "//"))]
    if not lines:
        raise ValueError("it has no line with a point")
    names = _names(lines[0])
    if names is None and len(lines) > 1 and lines[0].split() == [str(len(lines) - 1)]:
        lines = lines[1:]  # .pts begins with the number of points
    if names is not None and len(lines) == 1:
        raise ValueError(f"it has no line with a point below the names of columns ({' '.join(names)[:80]})")
    rows = np.loadtxt(lines[1:] if names else lines, dtype=np.float64, ndmin=2, comments=None)
    if names is None:
        return rows
    if rows.shape[1] != len(names):
        raise ValueError(f"its first line names {len(names)} columns ({' '.join(names)}), the others have {rows.shape[1]}")
    return _records(dict(zip(names, rows.T, strict=True)))


def _names(line: str) -> list[str] | None:
    """The names of columns, if a line holds such."""
    words = line.split()
    if len(words) < 3 or any(re.match(r"[-+.\d]|nan|inf", word, re.IGNORECASE) for word in words):
        return None
    return [word.strip('"').lower() for word in words]


def read_pcd(data: bytes, check_count: Callable[[int], None]) -> Shaped[np.ndarray, " n"]:
    """The points of a PCD file as records; those without any coordinate, which stand for rays that met nothing, are left out."""
    header, start = _header(data)
    count = int(header["POINTS"][0])
    check_count(count)
    kind = _dtype(header)
    form = header["DATA"][0].lower()
    if form == "ascii":
        table = np.loadtxt(data[start:].decode().splitlines(), dtype=np.float64, ndmin=2, comments=None)
        rows = _of_text(table, kind, count)
    elif form == "binary":
        if count * kind.itemsize > len(data) - start:
            raise ValueError(f"its header announces {count:,} points, but the file ends before the last")
        rows = np.frombuffer(data, kind, count, start).copy()
    elif form == "binary_compressed":
        rows = _of_columns(data[start:], kind, count)
    else:
        raise ValueError(f"its data are {form!r}; PCD has ascii, binary and binary_compressed")
    seen = ~np.all([np.isnan(rows[name].astype(np.float64)) for name in "xyz" if name in (rows.dtype.names or ())], axis=0)
    return _with_colours(rows[seen])


def _header(data: bytes) -> tuple[dict[str, list[str]], int]:
    found: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in found:
        end = data.find(b"\n", start)
        if end < 0:
            raise ValueError("its header has no line DATA")
        key, *values = data[start:end].decode("ascii", "replace").split() or ["#"]
        if not key.startswith("#"):
            found[key.upper()] = values
        start = end + 1
    if missing := [key for key in _KEYS if not found.get(key)]:
        raise ValueError(f"its header has no {', '.join(missing)}")
    return found, start


def _dtype(header: dict[str, list[str]]) -> np.dtype:
    names, sizes, types = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise ValueError("FIELDS, SIZE, TYPE and COUNT of its header differ in length")
    parts: list[tuple[Any, ...]] = []
    for number, (name, size, kind, count) in enumerate(zip(names, sizes, types, counts, strict=True)):
        own = name if name != "_" else f"_{number}"
        parts.append((own, f"<{_TYPES[kind.upper()]}{int(size)}", *([(int(count),)] if int(count) != 1 else [])))
    return np.dtype(parts)


def _of_text(table: Shaped[np.ndarray, "n c"], kind: np.dtype, count: int) -> Shaped[np.ndarray, " n"]:
    names = kind.names or ()
    if table.shape != (count, len(names)):
        raise ValueError(f"its header announces {count:,} points of {len(names)} values; got {list(table.shape)}")
    rows = np.zeros(count, kind)
    for number, name in enumerate(names):
        rows[name] = table[:, number]
    return rows


def _of_columns(data: bytes, kind: np.dtype, count: int) -> Shaped[np.ndarray, " n"]:
    packed, size = struct.unpack_from("<II", data)
    if size != count * kind.itemsize or packed > len(data) - 8 or size > MAX_FACTOR * max(packed, 1):
        raise ValueError(
            f"it announces {size:,} bytes in {packed:,}, for {count:,} points of {kind.itemsize} bytes in {len(data):,}"
        )
    content = _lzf(data[8 : 8 + packed], size)
    rows, start = np.zeros(count, kind), 0
    for name in kind.names or ():
        part = kind[name]
        values = np.frombuffer(content, part.base, count * (part.itemsize // part.base.itemsize), start)
        rows[name] = values.reshape(count, *part.shape)
        start += part.itemsize * count
    return rows


def _lzf(data: bytes, size: int) -> bytes:
    """LibLZF: a run of literal bytes, or a copy of bytes that came before."""
    out, place = bytearray(), 0
    while place < len(data) and len(out) <= size:
        control = data[place]
        place += 1
        if control < 32:
            out += data[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[place]
            place += 1
        back = len(out) - ((control & 31) << 8) - data[place] - 1
        place += 1
        if back < 0:
            raise ValueError("its compressed data refer to what was before their beginning")
        for step in range(length + 2):
            out.append(out[back + step])
    if len(out) != size:
        raise ValueError(f"its compressed data hold {len(out):,} bytes, not {size:,}")
    return bytes(out)


def _with_colours(rows: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Records with red, green and blue in the place of the four bytes into which PCD packs a colour."""
    names: Sequence[str] = rows.dtype.names or ()
    packed = next((name for name in ("rgb", "rgba") if name in names), None)
    if packed is None or rows.dtype[packed].itemsize != 4:
        return rows
    bits = np.ascontiguousarray(rows[packed]).view(np.uint32)
    parts = {name: rows[name] for name in names if name != packed}
    colours = {name: ((bits >> shift) & 255).astype(np.uint8) for name, shift in (("red", 16), ("green", 8), ("blue", 0))}
    return _records(parts | colours)


def _records(columns: Mapping[str, np.ndarray]) -> Shaped[np.ndarray, " n"]:
    """Columns side by side, by their names."""
    found = np.empty(
        len(next(iter(columns.values()))), [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    )
    for name, values in columns.items():
        found[name] = values
    return found

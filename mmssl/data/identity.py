"""What tells whether two sources hold the same rows, wherever they lie and however they are named."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.source import Source

SAMPLED = 64
"""Rows whose contents are compared; labels are compared in all rows."""
READ_BYTES = 2**20
"""Beginning of a file that is compared."""
LISTED = 1024
"""Parts of a source that a record keeps: of more files those with the smallest names, which are a random sample."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def content_digits(source: Source, columns: Sequence[str]) -> str | None:
    """What the rows of a whole dataset hold in some columns, as 16 digits; None if it lacks one of them.

    Looks at the number of rows, and at `SAMPLED` of them, evenly spaced: a copy has the same digits, whatever its name; a shuffled
    or a partial copy has not.
    """
    whole = source.whole()
    if not set(columns) <= set(whole.column_names):
        return None
    places = np.unique(np.arange(SAMPLED) * len(whole) // SAMPLED)
    cells = (cell_bytes(row[name]) for row in whole.located(columns).rows(places) for name in columns)
    return _digits([str(len(whole)).encode(), *cells])


def column_digits(source: Source, column: str) -> str | None:
    """What a column holds in all rows of a whole dataset, as 16 digits; None if there is no such column."""
    whole = source.whole()
    return _digits(map(cell_bytes, whole.cells(column))) if column in whole.column_names else None


def parts_of(source: Source) -> frozenset[str]:
    """What a source is read from. Full names of files are hashed: a record may travel to where they are nobody's business."""
    names = ("file:" + _digits([os.path.realpath(part).encode()]) if isinstance(part, Path) else part for part in source.parts)
    return frozenset(name + source.span for name in names)


def files_digits(source: Source) -> str | None:
    """The names and sizes of the files that a source is read from, in their order, as 16 digits; None if it is read from none.

    Names count from the folder that holds all of them, so that the data may lie elsewhere.
    """
    files = [str(part.absolute()) for part in source.parts if isinstance(part, Path)]
    if not files:
        return None
    top = len(os.path.commonpath([os.path.dirname(file) for file in files]))  # noqa: PTH120 (fast)
    return _digits(f"{file[top:]}\0{os.stat(file).st_size}".encode(errors="surrogateescape") for file in files)  # noqa: PTH116


def listed(parts: frozenset[str]) -> tuple[str, ...]:
    """The parts that a record keeps."""
    return tuple(sorted(parts)[:LISTED])


def share_rows(a: Iterable[str], b: Iterable[str]) -> bool:
    """Whether two sources have a part in common; two slices of one split, such as `name/train[:80%]`, are taken to be apart."""
    first, second = frozenset(a), frozenset(b)
    return bool(first & second or _unsliced(first) & second or first & _unsliced(second))


def _unsliced(parts: frozenset[str]) -> frozenset[str]:
    return frozenset(part.partition("[")[0] for part in parts)


def cell_bytes(cell: Any) -> bytes:
    """What a cell holds: the beginning of a file, the numbers of an array or list, else its text."""
    if isinstance(cell, dict):
        if cell.keys() == {"path", "bytes"}:
            return _file_bytes(cell)
        return b"".join(str(key).encode() + cell_bytes(value) for key, value in cell.items())
    if isinstance(cell, bytes):
        return cell[:READ_BYTES]
    try:
        array = np.asarray(cell)
    except ValueError:  # a ragged list
        array = np.empty(0, dtype=object)
    return array.tobytes() if array.dtype.kind in "biuf" else _ADDRESS.sub("", str(cell)).encode()


def _file_bytes(cell: dict[str, Any]) -> bytes:
    """The beginning of a file; its name where it cannot be read: whoever reads the sample will say so."""
    if cell["bytes"] is not None:
        return bytes(cell["bytes"][:READ_BYTES])
    try:
        with Path(cell["path"]).open("rb") as file:
            return file.read(READ_BYTES)
    except OSError:
        return str(cell["path"]).encode()


def _digits(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()[:16]

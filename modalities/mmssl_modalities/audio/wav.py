"""WAV files that were written to a pipe: their header was never told how long they became."""

from struct import pack, unpack_from

_HEAD = 8
"""Bytes of a chunk before what it holds: its name and size."""


def with_size(data: bytes) -> bytes | None:
    """A WAV file whose chunk of samples claims to be empty, with the size that it has; None for any other file.

    Samples then last to the end of the file, which is told from a truly empty chunk by what follows: other chunks, or nothing.
    """
    if data[:4] not in (b"RIFF", b"RIFX") or data[8:12] != b"WAVE":
        return None
    order = "<" if data[:4] == b"RIFF" else ">"
    place, block = 12, 0
    while place + _HEAD <= len(data):
        name, size = data[place : place + 4], unpack_from(f"{order}I", data, place + 4)[0]
        if name == b"fmt " and place + _HEAD + 14 <= len(data):
            block = unpack_from(f"{order}H", data, place + _HEAD + 12)[0]
        if name == b"data":
            break
        place += _HEAD + size + size % 2
    start = place + _HEAD
    rest = len(data) - start
    if not block or rest < block or size or _are_chunks(data, start, order):
        return None
    known = pack(f"{order}I", min(rest - rest % block, 2**32 - 1))
    whole = pack(f"{order}I", min(len(data) - 8, 2**32 - 1))
    return data[:4] + whole + data[8 : place + 4] + known + data[start : start + rest - rest % block]


def _are_chunks(data: bytes, place: int, order: str) -> bool:
    """Whether the bytes from `place` to the end are chunks, each with a name and its size."""
    while place + _HEAD <= len(data):
        name, size = data[place : place + 4], unpack_from(f"{order}I", data, place + 4)[0]
        if not all(32 <= letter < 127 for letter in name):
            return False
        place += _HEAD + size + size % 2
    return place in (len(data), len(data) + 1)

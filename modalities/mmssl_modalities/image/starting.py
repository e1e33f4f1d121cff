"""What pictures are known by, and sizes that suit them, for a first recipe."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from mmssl.modality import Claim, Suited, readable
from mmssl_modalities.image.decode import MAX_PIXELS, read_image, size_of

PATCHES = {8: 2, 16: 2, 32: 4, 64: 8, 128: 16}
"""Sides that pictures may get, with the side of a patch: 16 to 64 tokens, which a CPU trains in minutes."""
SMALLEST = 8
"""Pixels of a side from which on an array may be a picture."""
READ = 100
"""Pictures that are looked at."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Pictures in memory, or bytes that decode to pictures; arrays of their sizes, grey ones less surely."""
    for name, cells in columns.items():
        there = [cell for cell in cells if cell is not None][:3]
        if there and all(isinstance(cell, np.ndarray) for cell in there):
            certainty = min(map(_as_picture, there))
            if certainty:
                return Claim(name, certainty, f"column {name} holds arrays of {' x '.join(map(str, there[0].shape))} pixels")
            continue
        if there and all(isinstance(cell, Image.Image) or _holds_bytes(cell) for cell in there):
            sizes = readable(there, _size)
            if len(sizes) == len(there):
                return Claim(name, 1.0, f"column {name} holds pictures")
    return None


def _as_picture(array: Shaped[np.ndarray, "..."]) -> float:
    """How sure it is that an array is a picture, by its axes: those of a grey one may also be channels and steps."""
    sides = [size for size in array.shape if size >= SMALLEST]
    if array.ndim == 3 and len(sides) == 2 and {array.shape[0], array.shape[2]} & {1, 3, 4}:
        return 1.0
    if array.ndim != 2 or len(sides) < 2 or max(sides) > 2 * min(sides) or array.dtype.kind not in ("b", "u", "f"):
        return 0.0
    return 1.0 if array.dtype.kind in ("b", "u") else 0.9


def _holds_bytes(cell: Any) -> bool:
    return isinstance(cell, bytes) or (isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes))


def _size(raw: Any) -> tuple[int, int]:
    return size_of(read_image(raw, 3, MAX_PIXELS))


def suited(samples: Sequence[Any]) -> dict[str, Suited]:
    """Side, patch and channels by the pictures' own: none is made larger than most are, and grey ones stay grey."""
    pictures = readable(samples[:READ], lambda raw: read_image(raw, 3, MAX_PIXELS))
    sides = [min(size_of(picture)) for picture in pictures] or [max(PATCHES)]
    middle = int(median(sides))
    size = max((side for side in PATCHES if side <= middle), default=min(PATCHES))
    shown = f"{min(sides)} to {max(sides)}" if min(sides) < max(sides) else str(middle)
    why = f"shorter sides are {shown} pixels"
    if middle > max(PATCHES):
        why += f"; {max(PATCHES)} is the most that trains on a CPU"
    grey = bool(pictures) and all(_is_grey(picture) for picture in pictures)
    return {
        "processor.size": Suited(size, why),
        "processor.channels": Suited(1 if grey else 3, "all are grey" if grey else "in colour"),
        "adapter.patch_size": Suited(PATCHES[size], f"{(size // PATCHES[size]) ** 2} tokens a picture"),
    }


def _is_grey(picture: Any) -> bool:
    if not isinstance(picture, Image.Image):
        return bool((picture == picture[:1]).all())
    channels = picture.convert("RGB").split()
    return channels[0].tobytes() == channels[1].tobytes() == channels[2].tobytes()

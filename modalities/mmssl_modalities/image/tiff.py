"""TIFF files that Pillow does not read as one picture: several bands or pages, 16-bit colour, floats. Needs the extra `image`."""

import logging
import lzma
import math
import struct
import zlib
from io import BytesIO

import numpy as np
from jaxtyping import Shaped

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""What tifffile raises for damaged files: found by changing random bytes, as for Pillow."""


def is_tiff(data: bytes) -> bool:
    """Whether the bytes start as a TIFF or BigTIFF file does."""
    return data[:4] in _SIGNATURES


def read_tiff(data: bytes, name: str, channels: int, max_pixels: int) -> Shaped[np.ndarray, "c h w"]:
    """The planes of a TIFF file as they are stored: bands, pages and samples of a pixel, in the order of the file.

    Of images of different sizes in one file (previews) the first is taken. ValueError for a damaged or oversized file, before it is
    decoded where its header says so; ImportError without tifffile.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f"{name} is a TIFF file that needs tifffile to be read: pip install mmssl[image]") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damage is reported below, once
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            series = file.series[0]
            axes, shape = series.axes, series.shape
            refusal = _refusal(axes, shape, name, channels, max_pixels)
            values = np.asarray(series.asarray()) if refusal is None else None
    except _BROKEN as error:
        raise ValueError(_damage(name, error)) from error
    if values is None:
        raise ValueError(refusal)
    if values.shape != shape:
        raise ValueError(_damage(name, ValueError(f"it should hold values of shape {shape}, and holds {values.shape}")))
    planes = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (-2, -1))
    return planes.reshape(-1, *planes.shape[-2:])


def _refusal(axes: str, shape: tuple[int, ...], name: str, channels: int, max_pixels: int) -> str | None:
    """Why a file is not to be decoded, although its header is whole."""
    if "Y" not in axes or "X" not in axes:
        return f"{name} is no image: its axes are {axes!r}, without Y and X. Replace or drop it"
    height, width = shape[axes.index("Y")], shape[axes.index("X")]
    if not 0 < height * width <= max_pixels or math.prod(shape) > max_pixels * max(channels, 4):
        planes = math.prod(shape) // max(height * width, 1)
        return (
            f"{name} has {width} x {height} pixels in {planes} planes; at least 1 x 1 and at most max_pixels={max_pixels:,} are "
            f"allowed, in at most {max(channels, 4)} planes of that size, since a small file can fill the memory. Drop it, make it "
            "smaller, or raise processor.max_pixels"
        )
    return None


def _damage(name: str, error: Exception) -> str:
    if "imagecodecs" in str(error):
        return f"{name} is compressed in a way that needs another package: {error}. pip install imagecodecs, or convert the file"
    return f"{name} is damaged: {error}. Replace it, or set data.on_error: skip to leave such samples out"

"""Bad and odd images: each gives one clear error, or an image as documented. See also test_image_decode.py."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmssl.processor import MMSSLProcessor
from mmssl_modalities.image import ImageAdapter, ImageProcessor

RAW: dict[str, Any] = {"mean": 0.5, "std": 0.5, "max_pixels": 1_000_000}
PROCESSORS: dict[str, dict[str, Any]] = {
    "square": {"size": 16},
    "own size": {"multiple": 4},
    "budget": {"multiple": 4, "max_tokens": 16},
    "bands": {"size": 16, "channel_names": ["a", "b", "c"]},
    "five": {"size": 16, "channel_names": ["a", "b", "c", "d", "e"]},
}
ERRORS = (ValueError, TypeError, OSError)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def encoded(kind: str, array: np.ndarray | None = None, **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(noise(24, 20, 3) if array is None else array).save(stream, kind, **options)
    return stream.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header claims a size, with whatever pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def claiming(width: int, height: int) -> bytes:
    """A TIFF whose directory claims a size that its data do not have."""
    data = bytearray(tiff(noise(8, 8), photometric="minisblack"))
    with tifffile.TiffFile(BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for name, value in (("ImageWidth", width), ("ImageLength", height)):
            tag = tags[name]
            data[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", value)
    return bytes(data)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no bytes": (lambda: b"", "no image in a format that Pillow reads; got no bytes"),
    "one byte": (lambda: b"\x89", "no image in a format"),
    "text": (lambda: b"not an image", "no image in a format that Pillow reads; got 12 bytes"),
    "zeros": (lambda: bytes(1000), "no image in a format"),
    "a signature alone": (lambda: b"\x89PNG\r\n\x1a\n", "no image|damaged"),
    "half a PNG": (lambda: encoded("PNG")[:600], "damaged: .*data.on_error: skip"),
    "half a JPEG": (lambda: encoded("JPEG")[:400], "damaged: .*data.on_error: skip"),
    "half a WebP": (lambda: encoded("WEBP")[:200], "damaged|no image"),
    "half a TIFF": (lambda: encoded("TIFF")[:800], "damaged|no image"),
    "half a GIF": (lambda: encoded("GIF")[:200], "damaged|no image"),
    "half a BMP": (lambda: encoded("BMP")[:200], "damaged"),
    "a PNG without pixels": (lambda: png(8, 8), "damaged"),
    "a PNG of no width": (lambda: png(0, 8), "damaged|at least 1 x 1|no image"),
    "a PNG that claims too much": (lambda: png(60_000, 60_000), "is refused|max_pixels"),
    "a PNG over the limit": (lambda: png(2000, 1000), "has 2000 x 1000 pixels; .* at most max_pixels=1,000,000"),
    "a bomb": (lambda: encoded("PNG", np.zeros((1200, 1200), np.uint8)), "has 1200 x 1200 pixels"),
    "a TIFF signature alone": (lambda: b"II*\0", "damaged|no image"),
    "a BigTIFF signature alone": (lambda: b"II+\0\x08\0\0\0", "damaged|no image"),
    "a TIFF without pages": (lambda: b"II*\0\x08\0\0\0\0\0", "damaged|no image"),
    "a TIFF that points nowhere": (lambda: b"II*\0\xff\xff\xff\x7f", "damaged|no image"),
    "a TIFF that points at itself": (lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "damaged|no image"),
    "None": (lambda: None, "an image is a PIL image, .*; got NoneType"),
    "a number": (lambda: 3, "an image is a PIL image, .*; got int"),
    "a list": (lambda: [[0, 1]], "an image is a PIL image, .*; got list"),
    "a frame": (lambda: pd.DataFrame([[1.0]]), "an image is a PIL image, .*; got DataFrame"),
    "an empty dict": (dict, r"needs 'bytes' or 'path'; got the keys \[\]"),
    "a dict of nothing": (lambda: {"bytes": None, "path": None}, "neither with a value"),
    "a dict of text": (lambda: {"bytes": "abc"}, "'bytes' of an image given as a dict are the bytes of a file; got str"),
    "a missing file": (lambda: "no/such.png", "no image file no/such.png; paths are relative"),
    "a folder": (lambda: Path("/"), "cannot read the image file /: Is a directory"),
    "a name with a zero": (lambda: "a\0b", "null byte|no image file|cannot read"),
    "an empty array": (lambda: np.zeros((0, 0, 3), np.uint8), "at least one pixel; got an empty array"),
    "one dimension": (lambda: np.zeros(9, np.uint8), r"2 or 3 dimensions; got shape \(9,\)"),
    "four dimensions": (lambda: np.zeros((2, 8, 8, 3), np.uint8), "2 or 3 dimensions; .*Pass several images as a list"),
    "a scalar": (lambda: np.float32(1), "an image is a PIL image|2 or 3 dimensions"),
    "whole numbers": (lambda: np.zeros((8, 8, 3), np.int64), "an image array holds uint8 .*; got int64. Convert it"),
    "complex numbers": (lambda: np.zeros((8, 8, 3), np.complex64), "an image array holds uint8 .*; got complex64"),
    "objects": (lambda: np.full((8, 8, 3), None), "an image array holds uint8 .*; got object"),
    "text in an array": (lambda: np.full((8, 8, 3), "a"), "an image array holds uint8 .*; got <U1|got str"),
    "not a number": (lambda: np.full((8, 8, 3), np.nan), "needs finite values; 192 of 192 are NaN or infinite"),
    "one infinity": (lambda: np.pad([[[np.inf]]], ((0, 7), (0, 7), (0, 2))), "1 of 192 are NaN or infinite"),
    "beyond float32": (lambda: np.full((8, 8, 3), 1e300), "192 of 192 are NaN or infinite"),
    "two channels": (lambda: noise(8, 8, 2), "needs 3 channels|needs the 3 channels a, b, c"),
    "seven channels": (lambda: torch.zeros(7, 8, 8), "needs 3 channels|needs the 3 channels a, b, c"),
    "a sparse tensor": (lambda: torch.zeros(3, 8, 8).to_sparse(), "."),
    "no pixels of Pillow's": (lambda: Image.new("RGB", (0, 4)), "has 0 x 4 pixels; at least 1 x 1"),
    "a closed image": (lambda: closed(), "."),
}


def closed() -> Image.Image:
    image = Image.open(BytesIO(encoded("PNG")))
    image.close()
    return image


@pytest.mark.parametrize("kind", ["square", "own size", "budget", "bands"])
@pytest.mark.parametrize("name", BAD)
def test_bad_images(name: str, kind: str) -> None:
    make, message = BAD[name]
    processor = ImageProcessor(**RAW, **PROCESSORS[kind])
    with pytest.raises(ERRORS, match=message) as caught:
        processor(make())
    assert len(str(caught.value)) < 600
    with pytest.raises(ERRORS, match=r"^images\[1\]: "):
        MMSSLProcessor({"image": processor})(images=[noise(16, 16, 3), make()])


ODD: dict[str, Callable[[], Any]] = {
    "one pixel": lambda: noise(1, 1, 3),
    "one row": lambda: noise(1, 300, 3),
    "one column": lambda: noise(300, 1, 3),
    "constant": lambda: np.full((20, 20, 3), 7, np.uint8),
    "black": lambda: np.zeros((20, 20, 3), np.float32),
    "large floats": lambda: np.full((20, 20, 3), 1.9, np.float32),
    "negative strides": lambda: noise(20, 20, 3)[::-1, ::-1],
    "big-endian": lambda: noise(20, 20, 3).astype(">u2"),
    "read only": lambda: np.broadcast_to(np.uint8(3), (20, 20, 3)),
    "fortran order": lambda: np.asfortranarray(noise(20, 20, 3)),
    "with a gradient": lambda: torch.rand(3, 20, 20, requires_grad=True),
    "bfloat16": lambda: torch.rand(3, 20, 20, dtype=torch.bfloat16),
    "bytearray": lambda: bytearray(encoded("PNG")),
    "memoryview": lambda: memoryview(encoded("JPEG")),
    "trailing rubbish": lambda: encoded("PNG") + b"rubbish",
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("kind", ["square", "budget", "bands"])
@pytest.mark.parametrize("name", ODD)
def test_odd_images(name: str, kind: str) -> None:
    processor = ImageProcessor(**RAW, **PROCESSORS[kind])
    inputs = processor(ODD[name]())
    assert inputs["pixel_values"].isfinite().all()
    adapter = ImageAdapter(8, processor, patch_size=4)
    assert adapter(processor.collate([inputs, inputs])).values.isfinite().all()
    assert np.isfinite(processor.features(inputs)).all()


def test_a_tiff_that_claims_more_than_it_has() -> None:
    with pytest.raises(ValueError, match=r"has 50000 x 50000 pixels in 1 planes; .* at most max_pixels=1,000,000"):
        ImageProcessor(**RAW, size=16, channel_names=["a"])(claiming(50_000, 50_000))
    try:
        found = ImageProcessor(**RAW, size=16, channel_names=["a"])(claiming(500, 500))["pixel_values"]
    except ValueError as error:
        assert "damaged" in str(error)
    else:
        assert found.isfinite().all()


FILES = {
    "pages": tiff(noise(5, 12, 10), photometric="minisblack"),
    "floats": tiff(noise(5, 12, 10).astype(np.float32), photometric="minisblack"),
    "packed": tiff(noise(5, 12, 10), photometric="minisblack", compression="zlib"),
    "contig": tiff(noise(12, 10, 5), photometric="minisblack", planarconfig="contig"),
    "big": tiff(noise(5, 12, 10), photometric="minisblack", bigtiff=True),
}


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_any_damage_to_a_tiff_gives_an_image_or_a_value_error(kind: str, cut: float, changes: list[tuple[float, int]]) -> None:
    data = bytearray(FILES[kind])
    for place, value in changes:
        data[int(place**3 * (len(data) - 1))] = value  # mostly near the start, where the directory is
    try:
        found = ImageProcessor(**RAW, **PROCESSORS["five"])(bytes(data[: int(cut * len(data)) + 1]))["pixel_values"]
    except ValueError as error:
        assert "image" in str(error)
    else:
        assert found.shape == (5, 16, 16)
        assert found.isfinite().all()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(0, 9), max_size=4),
    st.sampled_from(["uint8", "uint16", "int16", "float16", "float32", "float64", "bool", "int32", "complex64"]),
    st.sampled_from(sorted(PROCESSORS)),
    st.booleans(),
)
def test_any_array_gives_an_image_or_an_error(shape: list[int], dtype: str, kind: str, as_tensor: bool) -> None:
    array = np.ones(shape, dtype)
    processor = ImageProcessor(**RAW, **PROCESSORS[kind])
    try:
        raw = torch.from_numpy(array) if as_tensor and dtype != "uint16" else array
        found = processor(raw)["pixel_values"]
    except (ValueError, TypeError) as error:
        assert "image" in str(error)
    else:
        assert found.isfinite().all()
        assert len(found) == processor.channels


def test_a_float_image_of_bytes_is_refused() -> None:
    """0..255 as floats would be normalised to hundreds."""
    processor = ImageProcessor(mean=0.5, std=0.25)
    image = np.full((16, 16, 3), 200, np.float32)
    with pytest.raises(ValueError, match=r"between 0 and 1; this one goes up to 200\. Divide it by 255, or pass uint8"):
        processor(image)
    assert processor(image / 255)["pixel_values"].abs().max() < 2
    assert ImageProcessor(mean=127.0, std=50.0)(image)["pixel_values"].abs().max() < 2

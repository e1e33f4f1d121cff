"""Everything that an image may be held in, and what is no image: values, channels, orientation, sizes, damage."""

import copy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from mmssl_modalities.image import ImageProcessor

RAW: dict[str, Any] = {"mean": 0.0, "std": 1.0}
"""Leaves values in [0, 1]."""


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """An RGB image that survives JPEG."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * y, 4 * x, 128 + 0 * x], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def planes(image: np.ndarray) -> Tensor:
    """The values that an 8-bit array of channels last should give."""
    return torch.from_numpy(image.astype(np.float32) / 255).movedim(-1, 0)


def pixels(raw: Any, **settings: Any) -> Tensor:
    return ImageProcessor(**{**RAW, "multiple": 1} | settings)(raw)["pixel_values"]


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# What an image may be given as


@pytest.mark.parametrize(
    ("kind", "options", "atol"),
    [
        ("PNG", {}, 1e-6),
        ("BMP", {}, 1e-6),
        ("TIFF", {"compression": "tiff_lzw"}, 1e-6),
        ("WEBP", {"lossless": True}, 1e-6),
        ("WEBP", {"quality": 95}, 0.05),
        ("JPEG", {"quality": 98}, 0.05),
        ("GIF", {}, 0.2),
    ],
)
def test_file_formats(kind: str, options: dict[str, Any], atol: float, tmp_path: Path) -> None:
    image = smooth(32, 48)
    data = encoded(Image.fromarray(image), kind, **options)
    file = tmp_path / "image"
    file.write_bytes(data)
    expected = pixels(data)
    assert_close(expected, planes(image), atol)
    for form in (
        bytearray(data),
        memoryview(data),
        file,
        str(file),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(file)},
    ):
        assert_close(pixels(form), expected, 0)


def test_forms_in_memory() -> None:
    image = noise(5, 7, 3)
    floats = (image / 255).astype(np.float32)
    forms = [Image.fromarray(image), image, image.transpose(2, 0, 1), torch.from_numpy(image).movedim(-1, 0)]
    forms += [floats, floats.astype(np.float64), torch.from_numpy(floats).movedim(-1, 0)]
    forms += [
        np.asfortranarray(image),
        image[::-1][::-1],
        (image.astype(np.uint16) * 257),
        (image.astype(">u2") * 257).astype(">u2"),
    ]
    for form in forms:
        assert_close(pixels(form), planes(image))
    half = torch.from_numpy(floats).movedim(-1, 0).bfloat16()
    assert_close(pixels(half), half.float(), 0)
    assert_close(pixels(image[..., 0] > 127, channels=1), torch.from_numpy(image[None, ..., 0] > 127).float(), 0)


def test_where_the_channels_are() -> None:
    cube, other = noise(3, 5, 3), noise(3, 5, 1)
    assert_close(pixels(cube), planes(cube))  # both ends could be channels: the last wins
    assert_close(pixels(torch.from_numpy(cube)), planes(cube.transpose(1, 2, 0)))  # of a tensor the first
    assert_close(pixels(other), planes(other.transpose(1, 2, 0)))  # three wanted: the axis of three wins over that of one
    assert_close(pixels(other, channels=1), planes(other))
    spectra = np.random.default_rng(0).random((6, 4, 5), np.float32)
    assert_close(pixels(spectra, channels=5), torch.from_numpy(spectra).movedim(-1, 0), 0)
    assert_close(pixels(spectra, channels=6), torch.from_numpy(spectra), 0)


def test_raw_samples_are_left_alone() -> None:
    for image in (noise(8, 8, 3), np.ones((3, 8, 8), np.float32), torch.ones(3, 8, 8), Image.fromarray(noise(8, 8, 3))):
        before = copy.deepcopy(image)
        pixels(image, mean=0.5, std=0.1)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(before))


# Channels, depth, transparency


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_rgb_and_rgba_become_each_other(channels: int) -> None:
    grey, rgb = noise(5, 6), noise(5, 6, 3)
    opaque = np.concatenate([rgb, np.full((5, 6, 1), 255, np.uint8)], -1)
    luma = np.round(rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    expected = {1: (luma, 1.1 / 255), 3: (rgb, 1e-6), 4: (opaque, 1e-6)}[channels]
    for form in (rgb, Image.fromarray(rgb), Image.fromarray(opaque), opaque, encoded(Image.fromarray(opaque), "PNG")):
        assert_close(pixels(form, channels=channels), planes(expected[0]), expected[1])
    full = {1: grey[..., None], 3: np.stack([grey] * 3, -1), 4: np.stack([grey] * 3 + [0 * grey + 255], -1)}[channels]
    for form in (grey, grey[None], grey / 255, Image.fromarray(grey), grey.astype(np.uint16) * 257):
        assert_close(pixels(form, channels=channels), planes(full))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_shows_white(kind: str) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, [0, 128, 255]
    data = encoded(Image.fromarray(rgba), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    alpha = rgba[..., 3:] / 255
    expected = torch.from_numpy((rgba[..., :3] / 255 * alpha + 1 - alpha).astype(np.float32)).movedim(-1, 0)
    assert_close(pixels(data), expected, 1.1 / 255)
    assert_close(pixels(data, channels=4), planes(rgba))


def test_transparency_of_palettes_and_grey() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert_close(pixels(encoded(palette, "PNG")), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 1.0]]]))
    assert_close(pixels(encoded(palette, "PNG", transparency=0)), torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]]))
    assert_close(pixels(Image.new("LA", (1, 1), (0, 0)), channels=1), torch.ones(1, 1, 1))
    assert_close(pixels(Image.new("CMYK", (1, 1), (0, 255, 255, 0))), torch.tensor([1.0, 0.0, 0.0])[:, None, None])
    assert_close(pixels(Image.new("1", (1, 1), 1)), torch.ones(3, 1, 1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_kept(kind: str) -> None:
    values = np.array([[0, 1, 257, 40000, 65535]], np.uint16)
    found = pixels(encoded(Image.fromarray(values), kind), channels=1)
    assert_close(found, torch.from_numpy(values / 65535).float()[None], 1e-7)
    assert_close(pixels(Image.fromarray(values)), found.expand(3, -1, -1), 0)


def test_floats_of_a_tiff_are_kept() -> None:
    values = np.array([[-3.5, 0.0, 1e6]], np.float32)
    assert_close(pixels(encoded(Image.fromarray(values), "TIFF"), channels=1), torch.from_numpy(values)[None], 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """Against the definition: which corner of the stored image is shown at the top left, and which way its rows run."""
    upright = smooth(16, 32)
    upright[:8, :8] = 255
    transposed = upright.transpose(1, 0, 2)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: transposed,
        6: transposed[::-1],
        7: transposed[::-1, ::-1],
        8: transposed[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    data = encoded(
        image,
        kind,
        exif=exif,
        **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}),
    )
    assert_close(pixels(data), planes(upright), 0.02 if kind == "JPEG" else 1e-6)
    assert_close(pixels(Image.open(BytesIO(data))), pixels(data), 0)


# Sizes


def test_the_square_in_the_middle() -> None:
    wide, high = np.zeros((8, 16, 3), np.uint8), np.zeros((16, 8, 3), np.uint8)
    wide[:, 4:12], high[4:12] = 255, 255
    for image in (wide, high, wide / 255, high / 255):
        assert_close(pixels(image, size=8), torch.ones(3, 8, 8))
    squashed = pixels(wide, size=8, resize="squash")
    assert_close(squashed[..., [0, 7]], torch.zeros(3, 8, 2), 0.01)
    assert_close(squashed[..., 3:5], torch.ones(3, 8, 2), 0.01)


@pytest.mark.parametrize("shape", [(40, 60), (24, 17), (10, 10)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_resizing_is_that_of_torch(shape: tuple[int, int], resize: Any) -> None:
    """Bicubic with antialiasing; away from the edge of a crop, which torch cuts out before it filters."""
    y, x = np.mgrid[: shape[0], : shape[1]] / 10
    image = np.stack([np.sin(x), np.cos(y), np.sin(x + y)]).astype(np.float32) / 2 + 0.5
    side = min(shape)
    top, left = ((s - side) // 2 for s in shape)
    part = image if resize == "squash" else image[:, top : top + side, left : left + side]
    expected = F.interpolate(torch.from_numpy(part)[None], (20, 20), mode="bicubic", antialias=True)[0]
    assert_close(pixels(image, size=20, resize=resize)[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], 0.02)
    bytes_ = (image * 255).round().astype(np.uint8)
    assert_close(pixels(bytes_, size=20, resize=resize), pixels(image, size=20, resize=resize), 0.02)


@pytest.mark.parametrize(("side", "expected"), [(16, 16), (23, 16), (24, 32), (40, 48), (47, 48), (48, 48)])
def test_own_sizes_are_rounded_to_the_nearest_multiple(side: int, expected: int) -> None:
    assert pixels(noise(side, 32, 3), multiple=16).shape == (3, expected, 32)
    assert pixels(noise(32, side, 3), multiple=16).shape == (3, 32, expected)


def test_many_images() -> None:
    processor = ImageProcessor()
    batch = noise(5, 4, 4, 3)
    assert len(processor.many(batch)) == len(processor.many(torch.from_numpy(batch))) == len(processor.many(list(batch))) == 5
    for single in (batch[0], batch[0, ..., 0], Image.fromarray(batch[0]), "a.png", b"x", {"bytes": b"x", "path": None}):
        (found,) = processor.many(single)
        assert found is single


def test_padding_and_sizes_only_where_sizes_differ() -> None:
    processor = ImageProcessor(**RAW, multiple=2, channels=1)
    small, large = ({"pixel_values": torch.ones(1, *shape)} for shape in ((2, 6), (4, 2)))
    assert processor.collate([small, small]).keys() == {"pixel_values"}
    batch = processor.collate([small, large])
    expected = torch.zeros(2, 1, 4, 6)
    expected[0, :, :2] = 1
    expected[1, :, :, :2] = 1
    assert_close(batch["pixel_values"], expected, 0)
    assert batch["pixel_sizes"].tolist() == [[2, 6], [4, 2]]
    assert batch["pixel_sizes"].dtype == torch.int64


# Bad images


@pytest.mark.parametrize(
    ("raw", "settings", "error", "message"),
    [
        (b"", {}, ValueError, "the image is no image in a format that Pillow reads; got no bytes. Replace or drop it"),
        (
            b"<html>oops",
            {},
            ValueError,
            "the image is no image in a format that Pillow reads; got 10 bytes that start with b'<html>oo'",
        ),
        ({"bytes": b"abc", "path": "x/1.png"}, {}, ValueError, r"x/1\.png is no image in a format"),
        (
            {"bytes": None, "path": None},
            {},
            ValueError,
            r"given as a dict needs 'bytes' or 'path'; got the keys \['bytes', 'path'\], nei",
        ),
        ({}, {}, ValueError, r"given as a dict needs 'bytes' or 'path'; got the keys \[\], neither with a value"),
        (None, {}, TypeError, "an image is a PIL image, .* or a dict with 'bytes' or 'path'; got NoneType"),
        ([[0, 1]], {}, TypeError, "an image is a PIL image, .*; got list"),
        ("missing.png", {}, FileNotFoundError, r"no image file missing\.png; paths are relative to the working directory, /"),
        ("/", {}, ValueError, "cannot read the image file /: Is a directory"),
        (np.zeros((0, 4, 3), np.uint8), {}, ValueError, r"at least one pixel; got an empty array of shape \(0, 4, 3\)"),
        (Image.new("RGB", (0, 4)), {}, ValueError, "the image has 0 x 4 pixels; at least 1 x 1"),
        (
            noise(5, 5, 2),
            {},
            ValueError,
            r"needs 3 channels as \[H, W, 3\] or \[3, H, W\]; got shape \(5, 5, 2\) of uint8. Convert it",
        ),
        (noise(4, 4, 3).astype(np.uint16), {"channels": 1}, ValueError, r"needs 1 channels as .*; got shape \(4, 4, 3\) of uint16"),
        (noise(4, 4), {"channels": 5}, ValueError, r"needs 5 channels as \[5, H, W\]; got shape \(1, 4, 4\)"),
        (
            torch.zeros(4, 4, 3),
            {},
            ValueError,
            r"needs 3 channels as \[3, H, W\]; got shape \(4, 4, 3\) of float32. Convert it, or set",
        ),
        (
            Image.new("RGB", (4, 4)),
            {"channels": 5},
            ValueError,
            r"has 1, 3 or 4 channels; the processor has channels=5. Pass arrays \[5,",
        ),
        (noise(2, 4, 4, 3), {}, ValueError, r"has 2 or 3 dimensions; got shape \(2, 4, 4, 3\). Pass several images as a list"),
        (np.zeros(9, np.float32), {}, ValueError, r"has 2 or 3 dimensions; got shape \(9,\)"),
        (
            np.zeros((4, 4, 3), np.int64),
            {},
            TypeError,
            r"holds uint8 \(0 to 255\), .* taken as they are; got int64. Convert it, for exam",
        ),
        (
            np.full((4, 4), np.nan),
            {},
            ValueError,
            "needs finite values; 16 of 16 are NaN or infinite. Replace them, or drop the image",
        ),
        (np.array([[0, np.inf]], np.float32), {}, ValueError, "1 of 2 are NaN or infinite"),
        (np.array([[0, 1e300]]), {}, ValueError, "1 of 2 are NaN or infinite"),
        (
            Image.fromarray(np.array([[-1, 2]], np.int32)),
            {},
            ValueError,
            "must hold 16-bit values, 0 to 65535; this one has -1 to 2",
        ),
        (Image.new("La", (1, 1)), {}, ValueError, "cannot use an image of mode La: .* Convert it to RGB first"),
        (
            noise(15, 40, 3),
            {"multiple": 16},
            ValueError,
            "at least processor.multiple=16 pixels high and wide; this one is 15 high and 40",
        ),
        (
            Image.new("L", (9, 8)),
            {"max_pixels": 71},
            ValueError,
            "has 9 x 8 pixels; .* at most max_pixels=71 in all .* a small file can",
        ),
    ],
)
def test_what_is_no_image(raw: Any, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pixels(raw, **settings)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    data = encoded(Image.new("1", (20000, 10000)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png is refused: Image size \(200000000 pixels\) exceeds limit"):
        pixels({"bytes": data, "path": "bomb.png"})
    with pytest.raises(ValueError, match=r"the image has 100 x 100 pixels; .* max_pixels=5,000"):
        pixels(encoded(Image.new("1", (100, 100)), "PNG"), max_pixels=5000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(64, 64, 3)), kind)
    file = tmp_path / "half"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"/half is (damaged: .*data\.on_error: skip|no image in a format)"):
        pixels(file)


FILES = {kind: encoded(Image.fromarray(noise(12, 10, 3)), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")}


@given(st.sampled_from(sorted(FILES)), st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_any_damage_gives_an_image_or_a_value_error(kind: str, cut: float, changes: list[tuple[float, int]]) -> None:
    data = bytearray(FILES[kind])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        found = pixels(bytes(data[: int(cut * len(data)) + 1]), size=8, max_pixels=10_000)
    except ValueError as error:
        assert str(error).startswith("the image ")
    else:
        assert found.shape == (3, 8, 8)

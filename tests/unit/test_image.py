"""The image modality: every way to hold an image, bad images, sizes, statistics, patches, views."""

import json
import math
import pickle
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

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl.schema import section
from mmssl_modalities.image import IMAGE, ImageAdapter, ImageAugment, ImageProcessor, patchify, unpatchify

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
        before = np.array(image)
        pixels(image, mean=0.5, std=0.1)
        np.testing.assert_array_equal(np.array(image), before)


# Channels, depth, transparency


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_rgb_and_rgba_become_each_other(channels: int) -> None:
    grey, rgb = noise(4, 6), noise(4, 6, 3)
    opaque = np.concatenate([rgb, np.full((4, 6, 1), 255, np.uint8)], -1)
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
    data = encoded(image, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}))
    assert_close(pixels(data), planes(upright), 0.1 if kind == "JPEG" else 1e-6)
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
            noise(4, 4, 2),
            {},
            ValueError,
            r"needs 3 channels as \[H, W, 3\] or \[3, H, W\]; got shape \(4, 4, 2\) of uint8. Convert it",
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
        (Image.new("LAB", (1, 1)), {}, ValueError, "cannot use an image of mode LAB: .* Convert it to RGB first"),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [0.5, 0.5], "std": 1.0}, r"processor.mean needs one number, or one for each of the 3 channels; got \[0.5, 0.5\]"),
        ({"mean": 0.5, "std": [1.0, 1.0, 0.0]}, r"processor.std must be positive; got \[1.0, 1.0, 0.0\]. Use 1.0 for a channel"),
    ],
)
def test_bad_statistics(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageProcessor(**settings)


# Statistics and settings


def test_fit_is_the_mean_and_deviation_of_all_pixels() -> None:
    images = [noise(16, 32, 3, seed=1), noise(48, 16, 3, seed=2) // 2]
    processor = ImageProcessor()
    assert not processor.fitted
    processor.fit(iter(images))
    values = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    np.testing.assert_allclose(processor.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(processor.std, values.std(0), rtol=1e-6)
    normalised = np.concatenate([processor(image)["pixel_values"].flatten(1).numpy() for image in images], 1)
    np.testing.assert_allclose(normalised.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(1), 1, rtol=1e-5)
    for image in images:
        expected = (image / 255 - values.mean(0)) / values.std(0)
        assert_close(processor(image)["pixel_values"], torch.from_numpy(expected.astype(np.float32)).movedim(-1, 0), 1e-5)


def test_fit_leaves_what_is_given_and_reads_2000_images() -> None:
    processor = ImageProcessor(mean=0.25, channels=1, multiple=1)
    stream = iter([np.full((1, 1), value) for value in [0.0, 1.0] * 1000] + [object()] * 5)
    processor.fit(stream)
    assert (processor.mean, processor.std) == (0.25, [0.5])
    assert len(list(stream)) == 5


def test_fit_passes_over_bad_images_but_needs_one() -> None:
    processor = ImageProcessor(channels=1, multiple=1)
    processor.fit([b"", np.full((2, 2), 0.1), "missing.png"])
    assert processor.settings() | {"mean": [pytest.approx(0.1)], "std": [1.0]} == processor.settings()
    with pytest.raises(ValueError, match="got no bytes"):
        ImageProcessor().fit([b""])
    with pytest.raises(ValueError, match=r"fitted on one image or more; got none\. Or set processor.mean and std"):
        ImageProcessor().fit([])
    with pytest.raises(ValueError, match=r"are not known yet: call fit\(images\) with the training images, or set both"):
        ImageProcessor(mean=0.5)(noise(16, 16, 3))


@pytest.mark.parametrize(
    "settings", [{}, {"size": 8, "resize": "squash", "channels": 1, "std": 0.3}, {"max_pixels": 10_000, "multiple": 8}]
)
def test_settings_survive_json_and_pickle(settings: dict[str, Any]) -> None:
    images = IMAGE.example(4, 0)
    processor = ImageProcessor(**settings)
    assert not ImageProcessor(**json.loads(json.dumps(processor.settings()))).fitted
    processor.fit(images)
    plain = json.loads(json.dumps(processor.settings(), allow_nan=False))
    for copy in (ImageProcessor(**plain), ImageProcessor(**section(ImageProcessor).model_validate(plain).arguments())):
        assert copy.settings() == processor.settings()
        for other in (copy, pickle.loads(pickle.dumps(copy))):
            for image in images:
                assert_close(other(image)["pixel_values"], processor(image)["pixel_values"], 0)


def test_features_are_pixels_of_at_most_32_by_32() -> None:
    small = ImageProcessor(size=8, **RAW)
    inputs = small(noise(8, 8, 3))
    np.testing.assert_array_equal(small.features(inputs), inputs["pixel_values"].flatten())
    even = np.full((96, 64, 3), 51, np.uint8)
    for processor in (ImageProcessor(**RAW), ImageProcessor(size=64, **RAW)):
        np.testing.assert_allclose(processor.features(processor(even)), np.full(3 * 32 * 32, 0.2), rtol=1e-5)


# Patches


def by_loops(image: Tensor, p: int) -> Tensor:
    """Patches of `[c, h, w]` by the definition of their order."""
    c, h, w = image.shape
    grid = [(top, left) for top in range(0, h, p) for left in range(0, w, p)]
    order = [(i, j, channel) for i in range(p) for j in range(p) for channel in range(c)]
    return torch.stack([torch.stack([image[channel, top + i, left + j] for i, j, channel in order]) for top, left in grid])


@pytest.mark.parametrize(("shape", "p"), [((3, 4, 6), 2), ((1, 6, 3), 3), ((5, 4, 8), 4), ((4, 3, 2), 1)])
def test_patches_against_loops_and_back(shape: tuple[int, int, int], p: int) -> None:
    images = torch.randn(2, *shape)
    patches = patchify(images, p)
    assert_close(patches, torch.stack([by_loops(image, p) for image in images]), 0)
    assert_close(unpatchify(patches, p, *shape[1:]), images, 0)
    assert_close(patchify(images.to(memory_format=torch.channels_last), p), patches, 0)


def test_tokens_are_a_linear_map_of_patches_at_their_places() -> None:
    adapter = ImageAdapter(8, ImageProcessor(size=6, **RAW), patch_size=2)
    images = torch.randn(3, 3, 6, 6)
    tokens = adapter({"pixel_values": images})
    patches = torch.stack([by_loops(image, 2) for image in images])
    assert_close(tokens.values, patches @ adapter.proj.weight.T + adapter.proj.bias)
    assert tokens.coords[1].tolist() == [[0, 0, row, column] for row in range(3) for column in range(3)]
    assert tokens.valid is None
    assert_close(adapter.target({"pixel_values": images})["pixels"], patches, 0)
    assert adapter.target_sizes == {"pixels": 12}
    assert adapter.bfloat16()({"pixel_values": images}).values.dtype == torch.bfloat16


def test_padding_is_not_valid_and_has_no_target() -> None:
    processor = ImageProcessor(**RAW, multiple=2)
    images = [torch.randn(3, 4, 2), torch.randn(3, 2, 6)]
    batch = processor.collate([{"pixel_values": image} for image in images])
    adapter = ImageAdapter(8, processor, patch_size=2)
    tokens, target = adapter(batch), adapter.target(batch)["pixels"]
    assert tokens.valid is not None
    assert tokens.valid.tolist() == [[True, False, False, True, False, False], [True, True, True, False, False, False]]
    for image, valid, patches, coords in zip(images, tokens.valid, target, tokens.coords, strict=True):
        assert_close(patches[valid], by_loops(image, 2), 0)
        assert patches[~valid].isnan().all()
        assert_close(coords[valid], adapter({"pixel_values": image[None]}).coords[0], 0)


def test_sides_that_are_no_multiple_of_the_patch() -> None:
    message = (
        "processor.size must be a multiple of adapter.patch_size; got size=8 and patch_size=16. Set processor.size to 16, or patch"
    )
    with pytest.raises(ValueError, match=message):
        ImageAdapter(8, ImageProcessor(size=8, **RAW))
    with pytest.raises(
        ValueError, match=r"processor\.multiple must be .* got multiple=16 and patch_size=12. Set processor.multiple to 24"
    ):
        ImageAdapter(8, ImageProcessor(**RAW), patch_size=12)
    adapter = ImageAdapter(8, ImageProcessor(**RAW))
    with pytest.raises(ValueError, match=r"must be multiples of patch_size=16; got 16 x 20\. Use the model's own processor"):
        adapter({"pixel_values": torch.zeros(1, 3, 16, 20)})


def test_the_adapter_on_the_meta_device() -> None:
    with torch.device("meta"):
        adapter = ImageAdapter(8, ImageProcessor(**RAW))
        tokens = adapter({"pixel_values": torch.zeros(2, 3, 32, 48), "pixel_sizes": torch.zeros(2, 2, dtype=torch.int64)})
    assert (tokens.values.shape, tokens.values.device.type) == ((2, 6, 8), "meta")
    assert not list(adapter.buffers())


# Views


VIEWS: dict[str, dict[str, Any]] = {
    "crop": {"crop": (0.2, 1.0)},
    "shift": {"shift": 3},
    "flip": {"flip": 0.5},
    "colour": {"color_jitter": 1.0, "grayscale": 0.2},
    "all": {"crop": (0.08, 1.0), "shift": 2, "flip": 0.5, "color_jitter": 0.5, "grayscale": 0.2},
}
by_view = pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)


def draws_of(ids: Tensor) -> Draws:
    return Draws(keys(0, 3, ids))


def batch_of(count: int, *shape: int) -> Inputs:
    return {"pixel_values": torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))}


def padded_batch() -> tuple[Inputs, list[Tensor]]:
    images = [torch.randn(3, *shape) for shape in ((8, 12), (16, 8), (4, 4), (16, 16))]
    return ImageProcessor(**RAW).collate([{"pixel_values": image} for image in images]), images


@by_view
def test_a_view_depends_on_its_own_sample_only(settings: dict[str, Any]) -> None:
    augment, inputs, ids = ImageAugment(**settings), batch_of(16, 3, 9, 12), torch.arange(16)
    whole = augment(inputs, draws_of(ids))["pixel_values"]
    order = torch.randperm(16)
    mixed = augment({"pixel_values": inputs["pixel_values"][order]}, draws_of(order))["pixel_values"]
    assert_close(mixed, whole[order], 1e-5)
    for i in (0, 7):
        alone = augment({"pixel_values": inputs["pixel_values"][i : i + 1]}, draws_of(ids[i : i + 1]))["pixel_values"]
        assert_close(alone, whole[i : i + 1], 1e-5)
    assert (whole != inputs["pixel_values"]).any()
    assert (augment(inputs, draws_of(ids + 16))["pixel_values"] != whole).any()


@by_view
def test_padding_has_no_part_in_a_view(settings: dict[str, Any]) -> None:
    (batch, images), augment, ids = padded_batch(), ImageAugment(**settings), torch.arange(4)
    found = augment(batch, draws_of(ids))
    assert found["pixel_sizes"] is batch["pixel_sizes"]
    for i, image in enumerate(images):
        _, h, w = image.shape
        alone = augment({"pixel_values": image[None]}, draws_of(ids[i : i + 1]))["pixel_values"][0]
        assert_close(found["pixel_values"][i, :, :h, :w], alone, 1e-4)
        assert not found["pixel_values"][i, :, h:].any()
        assert not found["pixel_values"][i, :, :, w:].any()


def test_by_default_nothing_changes() -> None:
    inputs = batch_of(2, 3, 4, 4)
    assert ImageAugment()(inputs, draws_of(torch.arange(2)))["pixel_values"] is inputs["pixel_values"]


def test_a_flip_exchanges_left_and_right_of_half_of_the_samples() -> None:
    inputs = batch_of(400, 1, 3, 4)
    images, views = inputs["pixel_values"], ImageAugment(flip=0.5)(inputs, draws_of(torch.arange(400)))["pixel_values"]
    same, mirrored = ((views == other).flatten(1).all(1) for other in (images, images.flip(-1)))
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240
    assert_close(ImageAugment(flip=1.0)(inputs, draws_of(torch.arange(400)))["pixel_values"], images.flip(-1), 0)


def test_a_shift_is_a_crop_of_the_image_padded_by_reflection() -> None:
    inputs = batch_of(300, 2, 6, 5)
    views = ImageAugment(shift=2)(inputs, draws_of(torch.arange(300)))["pixel_values"]
    padded = F.pad(inputs["pixel_values"], (2, 2, 2, 2), mode="reflect")
    matches = torch.stack([(padded[..., y : y + 6, x : x + 5] == views).flatten(1).all(1) for y in range(5) for x in range(5)])
    assert matches.any(0).all()
    assert matches.any(1).all()  # every shift occurs
    assert_close(
        ImageAugment(shift=9)(batch_of(8, 1, 1, 1), draws_of(torch.arange(8)))["pixel_values"],
        batch_of(8, 1, 1, 1)["pixel_values"],
        0,
    )


def test_a_crop_shows_a_box_of_the_wanted_area_and_aspect() -> None:
    """Of an image that holds its own coordinates, every view shows where its corners came from."""
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    inputs = {"pixel_values": torch.stack([y, x]).expand(500, 2, 30, 40)}
    views = ImageAugment(crop=(0.2, 0.6))(inputs, draws_of(torch.arange(500)))["pixel_values"]
    rows, columns = views[:, 0, :, 20], views[:, 1, 15]
    assert_close(views, torch.stack([rows[:, :, None].expand(-1, -1, 40), columns[:, None].expand(-1, 30, -1)], 1), 1e-3)
    height = (rows[:, 20] - rows[:, 10]) * 3
    width = (columns[:, 25] - columns[:, 15]) * 4
    area, aspect = height * width / 1200, width / height
    assert area.min() > 0.19
    assert area.max() < 0.601
    assert 0.35 < area.mean() < 0.45
    free = height < 29.9
    assert (aspect[free] > 0.749).all()
    assert (aspect[free] < 1.334).all()
    assert (rows >= 0).all()
    assert (rows <= 29).all()
    assert (columns.diff(dim=1) > -1e-4).all()
    assert rows[:, 0].std() > 3  # the place varies


def test_a_whole_crop_is_the_image() -> None:
    inputs = batch_of(4, 3, 8, 8)
    views = ImageAugment(crop=(1.0, 1.0))(inputs, draws_of(torch.arange(4)))["pixel_values"]
    boxes_are_whole = [i for i in range(4) if torch.allclose(views[i], inputs["pixel_values"][i], atol=1e-4)]
    assert len(boxes_are_whole) < 4  # a box of another aspect is cut to the image
    assert ImageAugment(crop=(1.0, 1.0), flip=1.0)(inputs, draws_of(torch.arange(4)))["pixel_values"].shape == (4, 3, 8, 8)


def test_the_smallest_area_of_a_crop_comes_first() -> None:
    with pytest.raises(ValueError, match=r"gives the smallest share of the area first; got \[1.0, 0.2\]. Exchange the two"):
        ImageAugment(crop=(1.0, 0.2))


def test_grayscale_is_luma_in_every_channel() -> None:
    inputs = batch_of(5, 3, 4, 4)
    views = ImageAugment(grayscale=1.0)(inputs, draws_of(torch.arange(5)))["pixel_values"]
    luma = torch.einsum("bchw,c->bhw", inputs["pixel_values"], torch.tensor([0.299, 0.587, 0.114]))
    assert_close(views, luma[:, None].expand(-1, 3, -1, -1))


def test_jitter_of_grey_pixels_is_a_scale_and_a_shift() -> None:
    grey = batch_of(200, 1, 4, 4)["pixel_values"]
    ids = torch.arange(200)
    one = ImageAugment(color_jitter=1.0)({"pixel_values": grey}, draws_of(ids))["pixel_values"]
    three = ImageAugment(color_jitter=1.0)({"pixel_values": grey.expand(-1, 3, -1, -1)}, draws_of(ids))["pixel_values"]
    assert_close(three, one.expand(-1, 3, -1, -1), 1e-4)  # saturation and hue leave grey as it is
    scale = one.flatten(1).std(1) / grey.flatten(1).std(1)
    shift = one.flatten(1).mean(1) - grey.flatten(1).mean(1)
    assert_close(
        (one - one.mean((1, 2, 3), keepdim=True)), (grey - grey.mean((1, 2, 3), keepdim=True)) * scale[:, None, None, None], 1e-4
    )
    assert scale.min() > 0.199
    assert scale.max() < 1.801
    assert shift.abs().max() < 1.601
    unchanged = (one == grey).flatten(1).all(1)
    assert 0.1 < unchanged.float().mean() < 0.3


def test_hue_keeps_the_sum_of_the_channels_and_their_distance_to_grey() -> None:
    inputs = batch_of(50, 3, 2, 2)["pixel_values"]
    matrix = ImageAugment(color_jitter=0.0)._colour_matrix(torch.zeros(50), draws_of(torch.arange(50)))
    assert_close(matrix, torch.eye(3).expand(50, 3, 3))
    strength = torch.full((50,), 0.8)
    draws = draws_of(torch.arange(50))
    matrix = ImageAugment()._colour_matrix(strength, draws)
    saturation = 1 + strength * draws.between("image saturation", -1, 1)
    turned = torch.einsum("bij,bjhw->bihw", matrix, inputs)
    luma = torch.tensor([0.299, 0.587, 0.114])
    spread = turned - torch.einsum("bchw,c->bhw", turned, luma)[:, None]
    about_luma = spread / saturation[:, None, None, None]
    chroma, before = ((x - x.mean(1, keepdim=True)).flatten(2).norm(dim=1) for x in (about_luma, inputs))
    assert_close(chroma, before, 1e-4)


def test_views_ignore_autocast() -> None:
    inputs, augment = batch_of(4, 3, 8, 8), ImageAugment(**VIEWS["all"])
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(inputs, draws_of(torch.arange(4)))["pixel_values"]
    assert_close(found, augment(inputs, draws_of(torch.arange(4)))["pixel_values"], 0)


# Examples and pictures


def test_examples_repeat_and_have_two_sizes() -> None:
    images, again, other = IMAGE.example(4, 0), IMAGE.example(4, 0), IMAGE.example(4, 1)
    assert {image.size for image in images} == {(64, 48), (64, 64)}
    assert images == again
    assert images != other


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_picture_shows_input_seen_and_predicted(channels: int) -> None:
    processor = ImageProcessor(**RAW, multiple=2, channels=channels)
    images = [torch.rand(channels, 4, 6), torch.rand(channels, 2, 4)]
    batch = processor.collate([{"pixel_values": image} for image in images])
    target = ImageAdapter(8, processor, patch_size=2).target(batch)["pixels"]
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[0, 1] = hidden[1, 0] = True
    figure = IMAGE.picture(batch, hidden, {"pixels": target.masked_fill(~hidden[..., None], math.nan)})
    axes = figure.axes
    assert [axis.get_title() for axis in axes] == ["input", "seen", "predicted", "", "", ""]
    kept = 3 if channels >= 3 else 1
    for row, (image, corner) in enumerate(zip(images, [(0, 2), (0, 0)], strict=True)):
        scaled = ((image - image.min()) / (image.max() - image.min()))[:kept].movedim(0, -1).squeeze(-1)
        shown = [axis.get_images()[0].get_array().data.squeeze() for axis in axes[3 * row : 3 * row + 3]]
        seen = scaled.clone()
        seen[corner[0] : corner[0] + 2, corner[1] : corner[1] + 2] = 0.5
        for found, expected in zip(shown, (scaled, seen, scaled), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_picture_shows_eight_samples() -> None:
    inputs = batch_of(9, 3, 4, 4)
    figure = IMAGE.picture(inputs, torch.ones(9, 4, dtype=torch.bool), {"pixels": torch.zeros(9, 4, 12)})
    assert len(figure.axes) == 24
    assert (figure.axes[1].get_images()[0].get_array() == 0.5).all()
    figure.canvas.draw()

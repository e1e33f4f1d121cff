"""Images of any size in a budget of tokens, and of any channels with names: arrays, Pillow's formats, TIFF."""

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.processor import MMSSLProcessor
from mmssl_modalities.image import IMAGE, ImageAdapter, ImageProcessor
from mmssl_modalities.image.processor import largest_grid

RAW: dict[str, Any] = {"mean": 0.0, "std": 1.0}
BANDS = ["red", "green", "blue", "nir", "swir"]


def noise(*shape: int, seed: int = 0, high: int = 256, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(high, size=shape).astype(dtype)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def pixels(raw: Any, **keys: Any) -> Tensor:
    return ImageProcessor(**{**RAW, "multiple": 1} | keys)(raw)["pixel_values"]


def assert_close(found: Tensor, expected: Any, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(np.asarray(expected, np.float32)), rtol=0, atol=atol)


# A budget of tokens


def by_trying(height: int, width: int, side: int, limit: int, largest: float) -> tuple[int, int]:
    """The grid at the largest scale that fits, by trying every scale at which a row or a column is added."""
    steps = {(2 * k + 1) * side / (2 * length) for length in (height, width) for k in range(1, limit + 1)}
    best = (1, 1)
    for scale in sorted(step for step in steps if step <= largest):
        grid = tuple(max(1, math.floor(length * scale * (1 + 1e-12) / side + 0.5)) for length in (height, width))
        if grid[0] * grid[1] > limit:
            break
        best = grid
    return best


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 4, 7, 16]), st.integers(1, 80))
def test_the_largest_grid_against_trying(height: int, width: int, side: int, limit: int) -> None:
    grid = largest_grid(height, width, side, limit, enlarge=True)
    assert grid == by_trying(height, width, side, limit, math.inf)
    assert 1 <= grid[0] * grid[1] <= limit
    native = [max(1, (2 * length + side) // (2 * side)) for length in (height, width)]
    small = largest_grid(height, width, side, limit, enlarge=False)
    assert small == (tuple(native) if native[0] * native[1] <= limit else by_trying(height, width, side, limit, 1.0))
    assert all(a <= b for a, b in zip(small, grid, strict=True))


@pytest.mark.parametrize(
    ("height", "width", "limit", "expected"),
    [
        (64, 64, 16, (4, 4)),
        (64, 64, 24, (4, 4)),
        (64, 128, 8, (2, 4)),
        (64, 16, 9, (6, 1)),
        (1000, 3, 50, (50, 1)),
        (480, 640, 256, (14, 18)),
    ],
)
def test_grids_by_hand(height: int, width: int, limit: int, expected: tuple[int, int]) -> None:
    assert largest_grid(height, width, 16, limit, enlarge=True) == expected
    assert largest_grid(width, height, 16, limit, enlarge=True) == expected[::-1]


def test_images_keep_their_aspect_within_the_budget() -> None:
    processor = ImageProcessor(**RAW, multiple=4, max_tokens=16)
    images = [noise(40, 40, 3), noise(20, 80, 3), noise(90, 30, 3), noise(3, 200, 3)]
    found = [processor(image)["pixel_values"].shape[1:] for image in images]
    assert [tuple(shape) for shape in found] == [(16, 16), (8, 32), (28, 8), (4, 64)]
    adapter = ImageAdapter(8, processor, patch_size=4)
    counts = [adapter({"pixel_values": torch.zeros(1, 3, *shape)}).values.shape[1] for shape in found]
    assert counts == [16, 16, 14, 16]


def test_small_images_need_not_grow() -> None:
    for enlarge, side in ((True, 16), (False, 8)):
        assert pixels(noise(8, 8, 3), multiple=4, max_tokens=16, enlarge=enlarge).shape == (3, side, side)
    exact = noise(8, 12, 3)
    assert_close(pixels(exact, multiple=4, max_tokens=16, enlarge=False), exact.transpose(2, 0, 1) / 255)


def test_a_budget_excludes_a_size() -> None:
    with pytest.raises(ValueError, match=r"processor.size=8 and max_tokens=16 both say how large images become. Leave out one"):
        ImageProcessor(size=8, max_tokens=16)


def test_a_reference_grid_gives_all_images_one_range() -> None:
    processor = ImageProcessor(**RAW, multiple=2, max_tokens=8)
    adapter = ImageAdapter(8, processor, patch_size=2, reference_grid=8)
    images = [{"pixel_values": torch.zeros(3, 4, 8)}, {"pixel_values": torch.zeros(3, 4, 4)}]
    together = adapter(processor.collate(images))
    assert together.valid is not None
    wide, square = together.coords[0], together.coords[1]
    assert wide[:4, 3].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert wide[:, 2].unique().tolist() == [0.5, 2.5]  # the aspect stays
    assert square[together.valid[1]][:, 3].unique().tolist() == [1.5, 5.5]
    for image, coords, valid in zip(images, together.coords, together.valid, strict=True):
        torch.testing.assert_close(adapter(processor.collate([image])).coords[0], coords[valid])
    plain = ImageAdapter(8, processor, patch_size=2)(processor.collate(images))
    assert plain.coords[0, :4, 3].tolist() == [0, 1, 2, 3]


# Channels with names


def test_named_channels_are_taken_as_they_are() -> None:
    image = noise(6, 8, 5)
    expected = image.transpose(2, 0, 1) / 255
    for form in (image, expected.astype(np.float32), torch.from_numpy(image.transpose(2, 0, 1).copy())):
        assert_close(pixels(form, channel_names=BANDS), expected)
    rgba = noise(6, 8, 4, seed=1)
    assert_close(pixels(Image.fromarray(rgba), channel_names=BANDS[:4]), rgba.transpose(2, 0, 1) / 255)
    grey = noise(6, 8)
    assert_close(pixels(Image.fromarray(grey), channel_names=["pan"]), grey[None] / 255)
    assert_close(pixels(grey, channel_names=["pan"]), grey[None] / 255)
    two = noise(6, 8, 2)
    assert_close(pixels(Image.fromarray(two, "LA"), channel_names=["vv", "vh"]), two.transpose(2, 0, 1) / 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_the_fourth_band_is_no_opacity(kind: str) -> None:
    image = noise(8, 8, 4)
    stream = BytesIO()
    Image.fromarray(image).save(stream, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert_close(pixels(stream.getvalue(), channel_names=BANDS[:4]), image.transpose(2, 0, 1) / 255)
    half = pixels(stream.getvalue(), channel_names=BANDS[:4], size=4)
    alone = [pixels(image[..., band], channel_names=["one"], size=4) for band in range(4)]
    assert_close(half, np.concatenate([band.numpy() for band in alone]), 0.01)


@pytest.mark.parametrize(
    ("raw", "names", "found"),
    [
        (noise(6, 8, 4), BANDS, r"got 4 or 6, in shape \(6, 8, 4\) of uint8"),
        (noise(6, 8), BANDS[:3], r"got 1, in shape \(1, 6, 8\)"),
        (Image.fromarray(noise(6, 8)), BANDS[:3], r"got \d or \d|got 1"),
        (Image.fromarray(noise(6, 8, 4)), BANDS[:3], r"got 4, in shape \(6, 8, 4\)"),
        (Image.fromarray(noise(6, 8, 3)), BANDS[:4], "got 3"),
        (torch.zeros(6, 8, 5), BANDS, "got 6"),
        (tiff(noise(4, 6, 8), photometric="minisblack"), BANDS, r"got 4, in shape \(4, 6, 8\)"),
    ],
)
def test_another_number_of_channels_is_an_error_that_names_those_expected(raw: Any, names: list[str], found: str) -> None:
    message = (
        rf"^an image needs the {len(names)} channels {', '.join(names)}; ({found}).*Leave the sample out.*processor.channel_names"
    )
    with pytest.raises(ValueError, match=message):
        pixels(raw, channel_names=names)


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"processor.channel_names needs different names; got red, red"):
        ImageProcessor(channel_names=["red", "red"])
    with pytest.raises(ValueError, match=r"channel_names has 5 names, but processor.channels=4. Leave out channels"):
        ImageProcessor(channel_names=BANDS, channels=4)
    with pytest.raises(ValueError, match=r"processor.mean needs one number, or one for each of the 5 channels; got \[0.0, 0.0\]"):
        ImageProcessor(channel_names=BANDS, mean=[0.0, 0.0], std=1.0)


def test_statistics_and_settings_of_named_channels() -> None:
    images = [noise(16, 16, 5, seed=seed, high=40 * (seed + 1)) for seed in range(3)]
    processor = ImageProcessor(channel_names=BANDS, max_tokens=4, multiple=4)
    processor.fit(images)
    assert isinstance(processor.mean, list)
    assert len(processor.mean) == 5
    again = ImageProcessor(**json.loads(json.dumps(processor.settings())))
    assert (again.settings(), again.channels) == (processor.settings(), 5)
    inputs = again(images[0])
    assert_close(inputs["pixel_values"], processor(images[0])["pixel_values"].numpy(), 0)
    adapter = ImageAdapter(8, again, patch_size=4)
    assert adapter.target_sizes == {"pixels": 80}
    batch = again.collate([inputs])
    assert adapter(batch).values.shape == (1, 4, 8)
    assert IMAGE.picture(batch, torch.ones(1, 4, dtype=torch.bool), adapter.target(batch), again)


# TIFF


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["pages", "planes", "pixels", "imagej"])
def test_bands_of_a_tiff(dtype: Any, layout: str, tmp_path: Path) -> None:
    values = noise(5, 6, 8, high=100, dtype=dtype)
    options: dict[str, dict[str, Any]] = {
        "pages": {"photometric": "minisblack"},
        "planes": {"photometric": "minisblack", "planarconfig": "separate"},
        "pixels": {"photometric": "minisblack", "planarconfig": "contig"},
        "imagej": {"imagej": True},
    }
    if layout == "imagej" and dtype not in (np.uint8, np.uint16, np.float32):
        pytest.skip("no type of ImageJ's")
    stored = values.transpose(1, 2, 0) if layout == "pixels" else values
    data = tiff(stored, **options[layout])
    expected = values.astype(np.float64) / {"uint8": 255, "uint16": 65535, "int16": 32767}.get(np.dtype(dtype).name, 1)
    file = tmp_path / "bands.tif"
    file.write_bytes(data)
    for form in (data, file, {"bytes": data, "path": None}, {"bytes": None, "path": str(file)}):
        assert_close(pixels(form, channel_names=BANDS), expected, 1e-5)
    assert_close(pixels(data, channels=5), expected, 1e-5)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_deep_colour(compression: Any) -> None:
    image = noise(6, 8, 3, high=65536, dtype=np.uint16)
    data = tiff(image, photometric="rgb", compression=compression)
    assert_close(pixels(data, channel_names=BANDS[:3]), image.transpose(2, 0, 1) / 65535)
    assert_close(pixels(data), image.transpose(2, 0, 1) / 65535, 1 / 255)  # Pillow's eight bits
    floats = np.random.default_rng(0).random((6, 8, 3), np.float32)
    for keys in ({}, {"channel_names": BANDS[:3]}):  # which Pillow does not read
        assert_close(pixels(tiff(floats, photometric="rgb", compression=compression), **keys), floats.transpose(2, 0, 1))


def test_of_previews_the_first_picture_is_taken() -> None:
    stream = BytesIO()
    image = noise(5, 12, 8)
    with tifffile.TiffWriter(stream) as writer:
        writer.write(image, photometric="minisblack")
        writer.write(image[:, ::2, ::2], photometric="minisblack")
    assert_close(pixels(stream.getvalue(), channel_names=BANDS), image / 255)


def test_a_tiff_without_tifffile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"the image is a TIFF file that needs tifffile to be read: pip install mmssl\[image\]"):
        pixels(tiff(noise(5, 6, 8), photometric="minisblack"), channel_names=BANDS)
    with pytest.raises(
        ValueError, match=r"no image in a format that Pillow reads, and the image is a TIFF file that needs tifffile"
    ):
        pixels(b"II*\0 and then something else")


def test_a_tiff_bomb_is_refused_before_it_is_decoded() -> None:
    data = tiff(np.zeros((5, 4000, 4000), np.uint8), photometric="minisblack", compression="zlib")
    assert len(data) < 200_000
    with pytest.raises(
        ValueError, match=r"the image has 4000 x 4000 pixels in 5 planes; .* at most max_pixels=1,000,000 are allowed"
    ):
        pixels(data, channel_names=BANDS, max_pixels=1_000_000)
    deep = tiff(np.zeros((500, 64, 64), np.uint8), photometric="minisblack", compression="zlib")
    with pytest.raises(ValueError, match=r"the image has 64 x 64 pixels in 500 planes; .* in at most 5 planes of that size"):
        pixels(deep, channel_names=BANDS, max_pixels=64 * 64)


# Padding


@pytest.mark.parametrize("seed", range(3))
def test_padding_of_pictures_of_all_shapes_is_not_encoded(seed: int) -> None:
    """As many tokens go through the layers as the picture of most tokens has, and each picture comes out as it does alone."""
    draw, limit = np.random.default_rng(seed), 24
    sides = [(80, 640), (640, 80), *draw.integers(8, 300, (4, 2)).tolist()]
    pictures = [noise(height, width, 3, seed=seed) for height, width in sides]
    processor = MMSSLProcessor({"image": ImageProcessor(**RAW, multiple=8, max_tokens=limit)})
    settings = {"image": {"processor": processor.settings()["image"], "adapter": {"patch_size": 8}}}
    config = MMSSLConfig(modalities=settings, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, pooling="mean")
    model = MMSSLModel(config).eval()
    entered = list[int]()
    model.encoder.layers[0].register_forward_pre_hook(lambda _, given: entered.append(given[0].shape[1]))
    with torch.no_grad():
        together = model(**processor(images=pictures)).pooler_output
        counts = model.count_tokens("image", dict(processor(images=pictures)))
        alone = torch.cat([model(**processor(images=[picture])).pooler_output for picture in pictures])
    padded = math.prod(processor(images=pictures)["pixel_values"].shape[2:]) // 64
    assert entered[0] == int(counts.max()) + model.encoder.num_prefix <= limit + model.encoder.num_prefix < padded
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)

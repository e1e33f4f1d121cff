"""The image modality: statistics, settings, batches, patches, pictures."""

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.recipe.sections import section
from mmssl_modalities.image import IMAGE, ImageAdapter, ImageProcessor, patchify, unpatchify

RAW: dict[str, Any] = {"mean": 0.0, "std": 1.0}
"""Leaves values in [0, 1]."""


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


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
    for again in (ImageProcessor(**plain), ImageProcessor(**section(ImageProcessor).model_validate(plain).arguments())):
        assert again.settings() == processor.settings()
        for other in (again, pickle.loads(pickle.dumps(again))):
            for image in images:
                assert_close(other(image)["pixel_values"], processor(image)["pixel_values"], 0)


def test_features_are_pixels_of_at_most_32_by_32() -> None:
    small = ImageProcessor(size=8, **RAW)
    inputs = small(noise(8, 8, 3))
    np.testing.assert_array_equal(small.features(inputs), inputs["pixel_values"].flatten())
    even = np.full((96, 64, 3), 51, np.uint8)
    for processor in (ImageProcessor(**RAW), ImageProcessor(size=64, **RAW)):
        np.testing.assert_allclose(processor.features(processor(even)), np.full(3 * 32 * 32, 0.2), rtol=1e-5)


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


# Examples and pictures


def test_examples_repeat_and_have_various_widths_and_heights() -> None:
    images, again, other = IMAGE.example(8, 0), IMAGE.example(8, 0), IMAGE.example(8, 1)
    widths, heights = zip(*(image.size for image in images), strict=True)
    assert set(widths) == set(heights) == {32, 48, 64}
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
    figure = IMAGE.picture(batch, hidden, {"pixels": target.masked_fill(~hidden[..., None], math.nan)}, processor)
    axes = figure.axes
    assert [axis.get_title() for axis in axes] == ["input", "seen", "predicted", "", "", ""]
    kept = 3 if channels >= 3 else 1
    for row, (image, corner) in enumerate(zip(images, [(0, 2), (0, 0)], strict=True)):
        image = image[:kept]
        scaled = ((image - image.min()) / (image.max() - image.min())).movedim(0, -1).squeeze(-1)
        shown = [axis.get_images()[0].get_array().data.squeeze() for axis in axes[3 * row : 3 * row + 3]]
        seen = scaled.clone()
        seen[corner[0] : corner[0] + 2, corner[1] : corner[1] + 2] = 0.5
        for found, expected in zip(shown, (scaled, seen, scaled), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_picture_shows_eight_samples() -> None:
    batch, hidden = {"pixel_values": torch.randn(9, 3, 4, 4)}, torch.ones(9, 4, dtype=torch.bool)
    figure = IMAGE.picture(batch, hidden, {"pixels": torch.zeros(9, 4, 12)}, ImageProcessor(**RAW))
    assert len(figure.axes) == 24
    assert (figure.axes[1].get_images()[0].get_array() == 0.5).all()
    figure.canvas.draw()


def test_the_picture_has_the_colours_of_the_image() -> None:
    names = ["nir", "blue", "green", "red"]
    processor = ImageProcessor(mean=[0.5, 0.2, 0.3, 0.4], std=[0.1, 0.2, 0.3, 0.4], channel_names=names, multiple=2)
    image = np.random.default_rng(0).random((4, 4, 4), dtype=np.float32)
    batch = processor.collate([processor(image)])
    target = ImageAdapter(8, processor, patch_size=2).target(batch)
    figure = IMAGE.picture(batch, torch.ones(1, 4, dtype=torch.bool), target, processor)
    colours = image[..., [3, 2, 1]]
    scaled = (colours - colours.min()) / (colours.max() - colours.min())
    for axis in (figure.axes[0], figure.axes[2]):
        np.testing.assert_allclose(axis.get_images()[0].get_array().data, scaled, atol=1e-5)

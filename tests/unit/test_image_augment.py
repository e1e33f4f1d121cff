"""Random views of images: against their definitions, and each a function of its own sample."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2.functional import resized_crop

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl_modalities.image import ImageAdapter, ImageAugment, ImageProcessor


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


VIEWS: dict[str, dict[str, Any]] = {
    "crop": {"crop": (0.2, 1.0)},
    "shift": {"shift": 3},
    "flip": {"flip": 0.5},
    "colour": {"color_jitter": 1.0, "grayscale": 0.2},
    "blur": {"blur": 0.5},
    "solarize": {"solarize": 0.5},
    "all": {"crop": (0.08, 1.0), "shift": 2, "flip": 0.5, "color_jitter": 0.5, "grayscale": 0.2, "blur": 0.5, "solarize": 0.2},
}
by_view = pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)


def draws_of(ids: Tensor) -> Draws:
    return Draws(keys(0, 3, ids))


def batch_of(count: int, *shape: int) -> Inputs:
    return {"pixel_values": torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))}


def padded_batch() -> tuple[Inputs, list[Tensor]]:
    images = [torch.randn(3, *shape) for shape in ((8, 12), (16, 8), (4, 4), (16, 16))]
    return ImageProcessor().collate([{"pixel_values": image} for image in images]), images


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


def test_the_smallest_area_of_a_crop_comes_first() -> None:
    with pytest.raises(ValueError, match=r"gives the smallest share of the area first; got \[1.0, 0.2\]. Exchange the two"):
        ImageAugment(crop=(1.0, 0.2))


def test_grayscale_is_luma_in_every_channel() -> None:
    inputs = batch_of(5, 3, 4, 4)
    views = ImageAugment(grayscale=1.0)(inputs, draws_of(torch.arange(5)))["pixel_values"]
    luma = torch.einsum("bchw,c->bhw", inputs["pixel_values"], torch.tensor([0.299, 0.587, 0.114]))
    assert_close(views, luma[:, None].expand(-1, 3, -1, -1))


def test_jitter_of_grey_pixels_is_contrast_and_brightness() -> None:
    grey, ids = batch_of(200, 1, 4, 4)["pixel_values"], torch.arange(200)
    one = ImageAugment(color_jitter=1.0)({"pixel_values": grey}, draws_of(ids))["pixel_values"]
    three = ImageAugment(color_jitter=1.0)({"pixel_values": grey.expand(-1, 3, -1, -1)}, draws_of(ids))["pixel_values"]
    assert_close(three, one.expand(-1, 3, -1, -1), 1e-4)  # saturation and hue leave grey as it is
    before, after = (x.mean((1, 2, 3), keepdim=True) for x in (grey, one))
    brightness = (after + 2) / (before + 2)  # contrast keeps the mean, and black is at -2
    contrast = (one - after).flatten(1).norm(dim=1) / (grey - before).flatten(1).norm(dim=1) / brightness.flatten()
    assert_close(one, brightness * (contrast[:, None, None, None] * (grey - before) + before + 2) - 2, 1e-4)
    unchanged = (one == grey).flatten(1).all(1)
    assert 0.1 < unchanged.float().mean() < 0.3
    for factor in (brightness, contrast):
        assert 0.199 < factor.min() < 0.4
        assert 1.6 < factor.max() < 1.801


def test_hue_keeps_the_sum_of_the_channels_and_their_distance_to_grey() -> None:
    inputs = batch_of(50, 3, 2, 2)["pixel_values"]
    matrix = ImageAugment(color_jitter=0.0)._colour_matrix(torch.zeros(50), draws_of(torch.arange(50)))
    assert_close(matrix, torch.eye(3).expand(50, 3, 3))
    strength = torch.full((50,), 0.8)
    draws = draws_of(torch.arange(50))
    matrix = ImageAugment()._colour_matrix(strength, draws)
    saturation = 1 + strength * draws.between("image saturation", -1.0, 1.0)
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


# Blur, mirrored values


@pytest.mark.parametrize("sides", [(9, 12), (3, 40)])
def test_a_blur_is_gaussian_with_a_width_of_each_sample(sides: tuple[int, int]) -> None:
    inputs, draws = batch_of(12, 3, *sides), draws_of(torch.arange(12))
    views = ImageAugment(blur=1.0, blur_sigma=(0.3, 3.0))(inputs, draws)["pixel_values"].numpy()
    sigmas = draws.between("image blur sigma", 0.3, 3.0, 1).flatten().tolist()
    assert max(sigmas) > 2
    for image, view, sigma in zip(inputs["pixel_values"].double().numpy(), views, sigmas, strict=True):
        options: dict[str, Any] = {"sigma": (0, sigma, sigma), "mode": "constant", "truncate": 20}
        expected = gaussian_filter(image, **options) / gaussian_filter(np.ones_like(image), **options)
        np.testing.assert_allclose(view, expected, rtol=0, atol=1e-5)


def test_a_blur_meets_its_share_of_the_samples_and_leaves_the_others() -> None:
    inputs = batch_of(400, 1, 4, 4)
    views = ImageAugment(blur=0.3, blur_sigma=(0.5, 1.0))(inputs, draws_of(torch.arange(400)))["pixel_values"]
    same = (views == inputs["pixel_values"]).flatten(1).all(1)
    assert 0.65 < same.float().mean() < 0.75
    with pytest.raises(ValueError, match=r"augment.blur_sigma gives the smallest standard deviation first; got \[2.0, 0.1\]"):
        ImageAugment(blur_sigma=(2.0, 0.1))


def test_solarized_values_are_mirrored_at_the_middle_of_the_raw_range() -> None:
    processor = ImageProcessor(size=4, mean=[0.5, 0.2, 0.4], std=[0.1, 0.5, 0.3])
    raw = np.random.default_rng(0).integers(256, size=(300, 4, 4, 3), dtype=np.uint8)
    inputs = processor.collate([processor(image) for image in raw])
    mirrored = processor.collate([processor(image) for image in np.where(raw >= 128, 255 - raw, raw)])["pixel_values"]
    views = ImageAugment(solarize=0.4).with_processor(processor)(inputs, draws_of(torch.arange(300)))["pixel_values"]
    chosen = (views != inputs["pixel_values"]).flatten(1).any(1)
    assert 0.33 < chosen.float().mean() < 0.47
    assert_close(views[chosen], mirrored[chosen], 1e-5)
    plain = ImageAugment(solarize=1.0)(inputs, draws_of(torch.arange(300)))["pixel_values"]
    assert_close(plain, -inputs["pixel_values"].abs(), 1e-5)


# Smaller views


@pytest.mark.parametrize("side", [8, 16, 40])
@pytest.mark.parametrize("box", [(0, 0, 30, 40), (3, 5, 20, 25)], ids=["whole", "part"])
def test_a_small_view_is_a_crop_resized_with_smoothing(
    box: tuple[int, int, int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torchvision, where boxes are of whole pixels; at the edges of a box it repeats pixels, and the view looks beyond them."""
    top, left, height, width = box
    drawn = torch.tensor([[top, left]]).float().expand(2, -1), torch.tensor([[height, width]]).float().expand(2, -1)
    monkeypatch.setattr("mmssl_modalities.image.augment.crop_boxes", lambda *_: drawn)
    inputs, draws = batch_of(2, 3, 30, 40), draws_of(torch.arange(2))
    found = ImageAugment(crop=(0.5, 1.0), size=side)(inputs, draws)["pixel_values"]
    edge = 0 if height == 30 else max(2, side // height)
    inner = (..., slice(edge, side - edge), slice(edge, side - edge))
    assert_close(found[inner], resized_crop(inputs["pixel_values"], *box, [side, side], antialias=True)[inner], 1e-5)
    mirrored = ImageAugment(crop=(0.5, 1.0), size=side, flip=1.0)(inputs, draws)["pixel_values"]
    assert_close(mirrored, found.flip(-1), 1e-5)


def test_small_views_show_boxes_of_the_wanted_area_and_aspect() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    inputs = {"pixel_values": torch.stack([y, x]).expand(300, 2, 64, 64)}
    views = ImageAugment(crop=(0.1, 0.3), size=16)(inputs, draws_of(torch.arange(300)))["pixel_values"]
    rows, columns = views[:, 0, :, 8], views[:, 1, 8]
    height, width = ((line[:, 11] - line[:, 4]) * 16 / 7 for line in (rows, columns))
    area, aspect = height * width / 64**2, width / height
    assert area.min() > 0.095 and area.max() < 0.305
    assert aspect.min() > 0.73 and aspect.max() < 1.36
    assert rows[:, 8].std() > 3


def test_small_views_of_images_of_different_sizes_are_alike_in_size() -> None:
    (batch, images), augment, ids = padded_batch(), ImageAugment(crop=(0.3, 1.0), size=8, shift=1, blur=1.0), torch.arange(4)
    found = augment(batch, draws_of(ids))
    assert found.keys() == {"pixel_values"} and found["pixel_values"].shape == (4, 3, 8, 8)
    for i, image in enumerate(images):
        alone = augment({"pixel_values": image[None]}, draws_of(ids[i : i + 1]))["pixel_values"][0]
        assert_close(found["pixel_values"][i], alone, 1e-5)


def test_a_view_is_no_larger_than_the_stored_image() -> None:
    augment, processor = ImageAugment(crop=(0.1, 0.4), size=24), ImageProcessor(size=16, mean=0.5, std=0.5)
    with pytest.raises(ValueError, match=r"at most processor.size, .*; got a view of size=24 and images of size=16"):
        augment.with_processor(processor)
    augment.with_processor(ImageProcessor(size=24, mean=0.5, std=0.5))
    augment.with_processor(ImageProcessor(mean=0.5, std=0.5))
    with pytest.raises(ValueError, match=r"augment.size is the side of a crop, so it needs augment.crop; got size=8 without crop"):
        ImageAugment(size=8)


def test_the_adapter_refuses_views_that_are_no_whole_patches() -> None:
    adapter = ImageAdapter(8, ImageProcessor(size=32, mean=0.5, std=0.5), patch_size=8)
    view = ImageAugment(crop=(0.1, 0.4), size=20)(batch_of(2, 3, 32, 32), draws_of(torch.arange(2)))
    with pytest.raises(ValueError, match=r"must be multiples of patch_size=8; got 20 x 20"):
        adapter(view)

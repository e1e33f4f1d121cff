"""Targets of whole pictures: histograms of gradients against scikit-image, gradients by ratio against loops in float64."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from skimage.feature import hog
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.masking import Random
from mmssl.modality import Inputs, Patch
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.grids import assemble, disassemble
from mmssl.objectives.predict.parts import Target
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.objectives.predict.targets import Gradients, Hog
from mmssl.testing import inputs_of, small_model

PATCH, CHANNELS, HEIGHT, WIDTH = 8, 3, 16, 24


def found(target: Target, inputs: Inputs, **adapter: Any) -> Tensor:
    """The one part of a target for a batch of pictures."""
    torch.manual_seed(0)
    image = {"processor": {"multiple": PATCH, "mean": 0.0, "std": 1.0}, "adapter": {"patch_size": PATCH, **adapter}}
    config = MMSSLConfig(modalities={"image": image}, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    objective = Masked(MMSSLModel(config), Setup(), mask=Random(ratio=0.5), predictor=MaskToken(), targets=[target])
    ids = torch.arange(len(inputs["pixel_values"]))
    scene, _ = objective.predict("image", inputs, Batch({"image": inputs}, keys(0, 0, ids), ids))
    (values,) = target(scene).values.values()
    assert values.shape[-1] == next(iter(target.sizes(objective.model, "image").values()))
    return values


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def hog_by_scikit_image(picture: np.ndarray, bins: int, cells: int, how: str) -> np.ndarray:
    """`[n, t]`: tokens row by row, each with its cells row by row, channels, orientations."""
    side, block = PATCH // cells, 1 if how == "cell" else cells
    channels = [
        hog(channel, bins, (side, side), (block, block), block_norm="L2", feature_vector=False)[::block, ::block]
        for channel in picture
    ]
    blocks = np.stack(channels, 4)  # block row, block column, cell row, cell column, channel, orientation
    cell_grid = blocks.transpose(0, 2, 1, 3, 4, 5).reshape(HEIGHT // side, WIDTH // side, CHANNELS, bins)
    tokens = cell_grid.reshape(HEIGHT // PATCH, cells, WIDTH // PATCH, cells, CHANNELS, bins).transpose(0, 2, 1, 3, 4, 5)
    return tokens.reshape((HEIGHT // PATCH) * (WIDTH // PATCH), -1)


@pytest.mark.parametrize("how", ["cell", "token"])
@pytest.mark.parametrize(("bins", "cells"), [(9, 2), (8, 1), (6, 4)])
def test_hog_is_that_of_scikit_image(bins: int, cells: int, how: str) -> None:
    pixels = pictures()
    expected = np.stack([hog_by_scikit_image(picture.double().numpy(), bins, cells, how) for picture in pixels])
    values = found(Hog(gradient="central", bins=bins, cells=cells, normalise=how), {"pixel_values": pixels})
    assert_close(values.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_hog_of_a_flat_picture_is_zero_and_of_a_ramp_one_orientation() -> None:
    assert not found(Hog(), {"pixel_values": torch.full((1, CHANNELS, HEIGHT, WIDTH), 0.3)}).any()
    ramp = torch.arange(float(HEIGHT))[:, None].expand(1, CHANNELS, HEIGHT, WIDTH).contiguous()
    values = found(Hog(gradient="central", bins=9, cells=1), {"pixel_values": ramp}).unflatten(2, (CHANNELS, 9))
    expected = torch.zeros_like(values)
    expected[..., 4] = 1  # 80 to 100 degrees: straight down
    assert_close(values, expected)


def maskfeat(picture: Tensor, bins: int, side: int) -> Tensor:
    """SlowFast's operators.py, HOGLayerC: `[channels, bins, rows of cells, columns of cells]`, by loops over pixels."""
    channels, height, width = picture.shape
    taps = ((-1, 1), (0, 2), (1, 1))
    cells = torch.zeros(channels, bins, height // side, width // side, dtype=torch.float64)

    def at(channel: int, y: int, x: int) -> float:
        y, x = (abs(i) if i < size else 2 * size - 2 - i for i, size in ((y, height), (x, width)))
        return picture[channel, y, x].item()

    for channel, y, x in itertools.product(range(channels), range(height), range(width)):
        gx = sum(weight * (at(channel, y + k, x - 1) - at(channel, y + k, x + 1)) for k, weight in taps)
        gy = sum(weight * (at(channel, y - 1, x + k) - at(channel, y + 1, x + k)) for k, weight in taps)
        phase = math.floor(math.atan2(gx, gy) / math.pi * bins) % bins
        cells[channel, phase, y // side, x // side] += math.hypot(gx, gy)
    return torch.nn.functional.normalize(cells, dim=1)


def test_hog_is_that_of_the_code_of_maskfeat() -> None:
    (pixels,) = pictures(1)
    cells = maskfeat(pixels.double(), 9, 4).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    expected = cells.permute(2, 4, 3, 5, 0, 1).flatten(2).flatten(0, 1)
    assert_close(found(Hog(bins=9, cells=2), {"pixel_values": pixels[None]})[0].double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", [Hog(), Hog(normalise="token"), Gradients(scales=[1, 3])], ids=["cell", "token", "gradients"])
@pytest.mark.parametrize("adapter", [{}, {"reference_grid": 4}], ids=["patches", "reference"])
def test_padding_changes_nothing(target: Target, adapter: dict[str, Any]) -> None:
    small = pictures(1)[..., :8, :16]
    padded = torch.cat([torch.nn.functional.pad(small, (0, 8, 0, 8), value=0.0), pictures(1)])
    sizes = torch.tensor([[8, 16], [16, 24]])
    together = found(target, {"pixel_values": padded, "pixel_sizes": sizes}, **adapter)
    assert_close(together[0, :2], found(target, {"pixel_values": small}, **adapter)[0])
    assert together[0, 2:].isnan().all()
    assert_close(together[1:], found(target, {"pixel_values": pictures(1)}, **adapter))


def gradients_by_loops(picture: np.ndarray, scales: list[int]) -> np.ndarray:
    """`[n, t]`: tokens row by row, each with its rows, columns, scales and channels."""
    shifted = picture - picture.min((1, 2), keepdims=True) + 1e-2
    features = np.zeros((HEIGHT, WIDTH, len(scales), CHANNELS))
    for number, r in enumerate(scales):
        for c in range(CHANNELS):
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    above, below = max(0, y - r), y + r + 1
                    left, right = max(0, x - r), x + r + 1
                    plane = shifted[c]
                    horizontal = math.log(plane[above:below, left : x + 1].mean() / plane[above:below, x:right].mean())
                    vertical = math.log(plane[above : y + 1, left:right].mean() / plane[y:below, left:right].mean())
                    features[y, x, number, c] = math.hypot(horizontal, vertical)
    tokens = features.reshape(HEIGHT // PATCH, PATCH, WIDTH // PATCH, PATCH, -1).transpose(0, 2, 1, 3, 4)
    return tokens.reshape((HEIGHT // PATCH) * (WIDTH // PATCH), -1)


def test_gradients_are_log_ratios_of_means() -> None:
    pixels, scales = pictures(), [1, 2, 5]
    expected = np.stack([gradients_by_loops(picture.double().numpy(), scales) for picture in pixels])
    values = found(Gradients(scales=scales), {"pixel_values": pixels})
    assert_close(values.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_gradients_do_not_change_when_a_picture_gets_brighter_by_a_factor() -> None:
    """What multiplicative noise asks for; exactly so only where the offset is small against the values."""
    pixels = 100 * pictures()
    pixels[..., 0, 0] = 0
    values = found(Gradients(scales=[2, 4]), {"pixel_values": pixels})
    assert_close(found(Gradients(scales=[2, 4]), {"pixel_values": 3 * pixels}), values, rtol=2e-2, atol=2e-3)


def test_picture_of_pieces_is_the_picture() -> None:
    patch = Patch(2, 3, 2)
    picture = torch.randn(2, 2, 6, 9)
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    coords = torch.stack([torch.zeros(9), torch.zeros(9), rows.flatten(), columns.flatten()], 1).expand(2, -1, -1)
    pieces = disassemble(picture, patch.rows, patch.columns)
    assert_close(pieces[0, 4], picture[0, :, 2:4, 3:6].permute(1, 2, 0).flatten())
    assert_close(assemble(pieces, coords, patch), picture)
    with pytest.raises(ValueError, match="8 tokens in rows of 3 are no picture"):
        assemble(pieces[:, :8], coords[:, :8], patch)


def test_spectrogram_of_sounds_is_assembled_from_their_tokens() -> None:
    model, inputs = small_model("audio"), inputs_of("audio")
    adapter = model.adapter("audio")
    (content,) = adapter.target(inputs).values()
    assert adapter.patch is not None
    picture = assemble(content, adapter(inputs).coords, adapter.patch)
    spectrogram = inputs["fbank"] if "fbank" in inputs else next(value for value in inputs.values() if value.dim() == 5)
    expected = spectrogram.transpose(1, 2).flatten(2, 3)
    assert_close(torch.where(picture.isnan(), expected, picture), expected)


def test_what_is_no_picture_is_refused() -> None:
    for target in (Hog(), Gradients()):
        with pytest.raises(ValueError, match="needs tokens that are pieces of a picture, and those of 'text' are none"):
            Masked(small_model("text"), Setup(), targets=[target])
    with pytest.raises(ValueError, match="3 cells along each side of a token, but those of 'image' have 16 x 16 values"):
        Masked(small_model("image"), Setup(), targets=[Hog(cells=3)])

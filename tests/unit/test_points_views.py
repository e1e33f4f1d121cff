"""Depth maps of clouds, and masks and targets that a model of pictures makes of them."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from transformers import ViTConfig, ViTModel

from mmssl.draws import Draws, keys
from mmssl.masking import Random
from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.predict.targets import Raw, Rendered
from mmssl.testing import batch_of, inputs_of, small_model
from mmssl_modalities.points.views import AXES, FAR, depth_maps

SIZE = 32
CORNERS = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


def single(points: Tensor) -> tuple[Tensor, Tensor]:
    """Groups of one point each, at their centres."""
    return torch.zeros(1, len(points), 1, 3), points[None]


def test_corners_of_a_cube_fall_on_the_corners_of_each_picture() -> None:
    pictures = depth_maps(*single(3 * CORNERS + 7), None, SIZE).pictures[0]
    for number in range(3):
        for row in range(SIZE):
            for column in range(SIZE):
                # The two corners of a line of sight share a pixel, and the near one, of brightness 1, wins.
                expected = 1.0 if row in (0, SIZE - 1) and column in (0, SIZE - 1) else 0.0
                assert pictures[number, :, row, column].tolist() == pytest.approx([expected] * 3), (number, row, column)


def test_points_fall_on_their_pixels() -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    pictures = depth_maps(*single(points), None, SIZE).pictures[0, :, 0]
    low, high = points.amin(0).tolist(), points.amax(0).tolist()
    half = max((b - a) / 2 for a, b in zip(low, high, strict=True))
    for number, (right, down, eye) in enumerate(AXES):
        expected = torch.zeros(SIZE, SIZE)
        for point in points.tolist():
            scaled = [(value - (a + b) / 2) / half for value, a, b in zip(point, low, high, strict=True)]
            x, y = (min(SIZE - 1, math.floor((scaled[i] * (1 - 1 / SIZE) + 1) / 2 * SIZE)) for i in (right, down))
            expected[y, x] = max(expected[y, x].item(), FAR + (1 - FAR) * (scaled[eye] + 1) / 2)
        assert_close(pictures[number], expected)


def test_places_point_at_the_tokens() -> None:
    points = CORNERS * torch.tensor([1.0, 0.8, 0.6]) + 0.05 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    rendering = depth_maps(*single(points), None, SIZE)
    found = F.grid_sample(rendering.pictures[0], rendering.places[0][:, None], mode="nearest", align_corners=False)
    assert (found > 0).all()


def test_padding_and_position_have_no_influence() -> None:
    groups, centers = torch.randn(1, 6, 5, 3), torch.randn(1, 6, 3)
    valid = torch.tensor([[True] * 4 + [False] * 2])
    whole = depth_maps(groups[:, :4], centers[:, :4], None, SIZE)
    padded = depth_maps(groups, centers, valid, SIZE)
    moved = depth_maps(2 * groups[:, :4], 2 * centers[:, :4] + 4, None, SIZE)
    assert_close(padded.pictures, whole.pictures)
    assert_close(padded.places[:, :, :4], whole.places)
    assert_close(moved.places, whole.places, rtol=1e-4, atol=1e-5)
    assert ((moved.pictures - whole.pictures).abs() > 1e-4).float().mean() < 0.01  # a point on the rim of a pixel may fall beside


def test_seen_tokens_are_drawn_in_proportion() -> None:
    """One of four tokens is seen; how often is the softmax of its saliency."""
    count, saliency = 20000, torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    draws = Draws(keys(0, 0, torch.arange(count)))
    sampler = Random(ratio=0.75, guided=True).guided_by(lambda: saliency.expand(count, 4))
    seen = sampler.split(torch.zeros(count, 4, 4), None, None, draws).seen
    assert seen.shape == (count, 1)
    assert_close(torch.bincount(seen[:, 0], minlength=4) / count, saliency.exp(), rtol=0, atol=0.015)


def test_a_sampler_that_is_not_guided_asks_for_nothing() -> None:
    def never() -> Tensor:
        raise AssertionError("asked")

    sampler = Random(ratio=0.5)
    assert sampler.guided_by(never) is sampler


@torch.no_grad()
def test_features_are_those_of_the_patch_that_a_token_lies_in(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=SIZE, patch_size=8)).save_pretrained(tmp_path)
    target, model, inputs = Rendered(model=str(tmp_path), size=SIZE), small_model("points"), inputs_of("points")
    batch, objective = batch_of("points"), Masked(model, Setup(), targets=[Raw(), target], predictor=Transformer(predict="all"))
    scene = objective.scene("points", inputs, batch)
    features, saliency = target.read(scene)
    rendering = model.adapter("points").render(inputs, SIZE)
    b, v, n, _ = rendering.places.shape
    assert features.shape == (b, n, v * 16) and saliency.shape == (b, n)
    pictures = (rendering.pictures[0] - target.mean) / target.std
    output = target.eye(pixel_values=pictures, output_attentions=True)
    token = 3
    attention = 0.0
    for view in range(v):
        grid = output.last_hidden_state[view, 1:].reshape(4, 4, 16)
        weights = output.attentions[-1][view].mean(0)[0, 1:].reshape(4, 4)
        x, y = (((place + 1) * 4 - 1) / 2 for place in rendering.places[0, view, token].tolist())
        total, share = torch.zeros(16), 0.0
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                i, j = min(max(row, 0), 3), min(max(column, 0), 3)
                total += weight * grid[i, j]
                share += weight * weights[i, j].item()
        assert_close(features[0, token, 16 * view : 16 * view + 16], total, rtol=1e-4, atol=1e-5)
        attention += share / v
    assert saliency[0, token].item() == pytest.approx(math.log(attention), rel=1e-4)
    assert target.read(scene)[0] is features, "a scene is looked at once"

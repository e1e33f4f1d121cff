"""The points modality: groups, cells, order and scale of points, settings, tokens, pictures."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.modality import Inputs
from mmssl.recipe.sections import section
from mmssl_modalities.points import POINTS, PointsAdapter, PointsProcessor
from mmssl_modalities.points.voxels import hash_order, voxel_groups


def cloud(n: int = 100, seed: int = 0, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def grid(side: int) -> np.ndarray:
    """A cube of points with many equal distances."""
    return np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3).astype(np.float64)


def assert_same(a: Inputs, b: Inputs, atol: float = 0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


def absolute(inputs: Inputs, number: int = 0) -> Tensor:
    """The points of one group where they lie."""
    return inputs["points_groups"][number, :, :3] + inputs["points_centers"][number]


# Groups


def test_groups_are_points_of_the_normalised_cloud_about_their_centres() -> None:
    raw = cloud(200)
    processor = PointsProcessor(num_groups=16, group_size=8)
    inputs = processor(raw)
    assert processor.unit == 2.0
    assert {name: list(tensor.shape) for name, tensor in inputs.items()} == {"points_groups": [16, 8, 3], "points_centers": [16, 3]}
    assert all(tensor.dtype == torch.float32 for tensor in inputs.values())
    normal = raw - raw.mean(0)
    normal = torch.from_numpy(2 * normal / np.linalg.norm(normal, axis=1).max()).float()
    for number in range(16):
        distances, order = (normal - inputs["points_centers"][number]).norm(dim=1).sort()
        assert distances[0] < 1e-5
        torch.testing.assert_close(absolute(inputs, number), normal[order[:8]], rtol=0, atol=1e-5)
    assert inputs["points_centers"].norm(dim=1).max() == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"tokenizer": "voxel"}, {"num_points": 150}, {"normalise": "none", "features": 2}])
@pytest.mark.parametrize("raw", [cloud(300, width=5), np.concatenate([grid(6), grid(6)[:, :2]], 1)], ids=["random", "grid"])
def test_the_order_of_the_points_has_no_influence(settings: dict[str, Any], raw: np.ndarray) -> None:
    raw = raw if "features" in settings else raw[:, :3]
    processor = PointsProcessor(**settings)
    expected = processor(raw)
    for seed in range(3):
        assert_same(processor(np.random.default_rng(seed).permutation(raw)), expected)


def test_a_few_points_make_a_few_groups_of_points_that_repeat() -> None:
    inputs = PointsProcessor(num_groups=8, group_size=7)(cloud(3))
    assert list(inputs["points_groups"].shape) == [3, 7, 3]
    first = inputs["points_groups"][0]
    torch.testing.assert_close(first[3:6], first[:3])
    torch.testing.assert_close(first[6], first[0])
    assert len(first.unique(dim=0)) == 3


@pytest.mark.parametrize("tokenizer", ["groups", "voxel"])
@pytest.mark.parametrize(
    "raw",
    [[[1, 2, 3]], np.full((50, 3), 1e6 + 0.1), np.zeros((5, 3)), np.full((9, 3), 1e-320)],
    ids=["one", "same", "zero", "tiny"],
)
def test_a_cloud_of_one_place_is_one_token_at_the_origin(raw: Any, tokenizer: Any) -> None:
    inputs = PointsProcessor(tokenizer=tokenizer, group_size=4)(raw)
    assert list(inputs["points_groups"].shape) == [1, 4, 3]
    centre = inputs["points_centers"] + inputs["points_groups"][0, :1]
    assert centre.abs().max() == 0


def test_duplicates_share_a_group() -> None:
    raw = np.repeat(cloud(4), 5, axis=0)
    inputs = PointsProcessor(group_size=5)(raw)
    assert inputs["points_groups"].shape[0] == 4
    assert inputs["points_groups"].abs().max() < 1e-6


def test_normalisation() -> None:
    raw = np.array([[10.0, 0, 0], [14, 0, 0], [10, 3, 0]])
    settings: dict[str, Any] = {"num_groups": 3, "group_size": 1, "scale": 2.0}
    centers = {
        name: PointsProcessor(normalise=name, **settings)(raw)["points_centers"] for name in ("none", "centre", "unit_sphere")
    }
    places = {tuple(row) for row in (2 * raw).tolist()}
    assert {tuple(row) for row in centers["none"].tolist()} == places
    offset = torch.tensor(raw.mean(0) * 2).float()
    torch.testing.assert_close(centers["centre"] + offset, centers["none"])
    far = np.linalg.norm(raw - raw.mean(0), axis=1).max()
    torch.testing.assert_close(centers["unit_sphere"] * far, centers["centre"])


def test_far_from_the_origin_groups_keep_their_precision() -> None:
    raw = cloud(100)
    near, far = (PointsProcessor(normalise="none", num_groups=10)(raw + shift) for shift in (0, np.array([5e5, 6e6, 100])))
    torch.testing.assert_close(far["points_groups"], near["points_groups"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-200, 1e-9, 1e9, 1e14])
def test_clouds_of_any_size(size: float) -> None:
    raw = cloud(64)
    expected = PointsProcessor()(raw)
    assert_same(PointsProcessor()(size * raw), expected, 1e-4)
    for normalise in ("centre", "none"):
        inputs = PointsProcessor(normalise=normalise)(size * raw)
        assert all(tensor.isfinite().all() for tensor in inputs.values())


def test_a_fixed_choice_of_many_points() -> None:
    raw = cloud(5000)
    processor = PointsProcessor(num_points=100, num_groups=100, group_size=1, normalise="none", scale=1.0)
    chosen = {tuple(row) for row in processor(raw)["points_centers"].tolist()}
    assert len(chosen) == 100
    assert chosen <= {tuple(row) for row in raw.astype(np.float32).tolist()}
    assert abs(np.array(list(chosen)).mean()) < 0.3, "the choice is not spread over the cloud"


# Cells


def test_cells_against_loops() -> None:
    points = cloud(500) / 2
    centres, index = voxel_groups(points, 0.5, 1000, 4)
    cells: dict[tuple[int, ...], list[int]] = {}
    for i, point in enumerate(points):
        cells.setdefault(tuple(int(np.floor(x / 0.5)) for x in point), []).append(i)
    assert [tuple(cell) for cell in (centres / 0.5 - 0.5).round().astype(int).tolist()] == sorted(cells)
    for members, cell in zip(index.tolist(), sorted(cells), strict=True):
        inside = cells[cell]
        assert members == [inside[i % len(inside)] for i in range(4)]


def test_of_too_many_cells_an_even_choice_is_kept() -> None:
    points = cloud(4000)
    all_centres, _ = voxel_groups(points, 0.25, 4000, 3)
    centres, index = voxel_groups(points, 0.25, 100, 3)
    assert len(centres) == 100 < len(all_centres)
    assert {tuple(row) for row in centres.tolist()} <= {tuple(row) for row in all_centres.tolist()}
    assert (np.abs(points[index] - centres[:, None]) <= 0.125 + 1e-9).all()
    assert np.abs(centres.mean(0) - all_centres.mean(0)).max() < 0.3


def test_a_token_per_cell_at_its_centre() -> None:
    raw = cloud(2000)
    processor = PointsProcessor(tokenizer="voxel", voxel_size=0.2, group_size=8)
    inputs = processor(raw)
    centers, groups = inputs["points_centers"], inputs["points_groups"]
    torch.testing.assert_close(centers - 0.5, (centers - 0.5).round(), rtol=0, atol=1e-5)
    assert len(centers.unique(dim=0)) == len(centers)
    assert groups.abs().max() <= 0.5 + 1e-5
    distances = groups.norm(dim=2)
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    assert len(PointsProcessor(tokenizer="voxel", voxel_size=0.2, max_tokens=30)(raw)["points_centers"]) == 30


def test_the_order_by_hash_depends_on_values_only() -> None:
    rows = cloud(1000, width=4)
    order = hash_order(rows)
    assert sorted(order.tolist()) == list(range(1000))
    shuffled = np.random.default_rng(0).permutation(rows)
    np.testing.assert_array_equal(shuffled[hash_order(shuffled)], rows[order])
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    np.testing.assert_array_equal(hash_order(np.array([[0.0, 1, 2], [3, 4, 5]])), hash_order(np.array([[-0.0, 1, 2], [3, 4, 5]])))


# Settings, batches, features


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tokenizer": "voxel", "voxel_size": 0.1, "features": {"color": 3, "normal": 3}},
        {"features": 2, "scale": 3.0, "num_points": 64},
    ],
)
def test_settings_survive_json_and_pickle(settings: dict[str, Any]) -> None:
    processor = PointsProcessor(**settings)
    processor.fit([])
    assert processor.fitted
    plain = json.loads(json.dumps(processor.settings(), allow_nan=False))
    raw = cloud(width=3 + processor.channels)
    for again in (PointsProcessor(**plain), PointsProcessor(**section(PointsProcessor).model_validate(plain).arguments())):
        for other in (again, pickle.loads(pickle.dumps(again))):
            assert other.settings() == processor.settings()
            assert_same(other(raw), processor(raw))


def test_only_batches_of_different_clouds_have_padding() -> None:
    processor = PointsProcessor(num_groups=8, group_size=4)
    large, small = processor(cloud(50)), processor(cloud(5, seed=1))
    assert processor.collate([large, large]).keys() == {"points_groups", "points_centers"}
    batch = processor.collate([large, small])
    assert batch["points_valid"].tolist() == [[True] * 8, [True] * 5 + [False] * 3]
    torch.testing.assert_close(batch["points_groups"][1, :5], small["points_groups"])
    assert not batch["points_groups"][1, 5:].any()


def test_features_are_the_histogram_of_all_distances() -> None:
    raw = cloud(40)
    processor = PointsProcessor(num_groups=40, group_size=1)
    found = processor.features(processor(raw))
    distances = np.linalg.norm(raw[:, None] - raw[None], axis=2)[np.triu_indices(40, 1)]
    expected = np.histogram(distances, 64, (0, distances.max()))[0] / len(distances)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - expected).sum() < 0.02
    turned = processor.features(processor(3 * raw @ np.linalg.qr(cloud(3))[0]))
    assert np.abs(found - turned).sum() < 0.02
    for few in (cloud(1), np.zeros((4, 3))):
        assert processor.features(processor(few)).tolist() == [0.0] * 64
    big = PointsProcessor()
    assert big.features(big(cloud(3000))).sum() == pytest.approx(1)


# Tokens


def adapted(*, features: int = 0, counts: tuple[int, ...] = (40, 40)) -> tuple[PointsAdapter, Inputs]:
    torch.manual_seed(0)
    processor = PointsProcessor(num_groups=10, group_size=6, features=features)
    batch = processor.collate([processor(cloud(n, seed=i, width=3 + features)) for i, n in enumerate(counts)])
    return PointsAdapter(16, processor, hidden_size=8), batch


def test_tokens_lie_at_their_centres_and_targets_are_their_points() -> None:
    adapter, batch = adapted(features=2)
    tokens = adapter(batch)
    assert tokens.values.shape == (2, 10, 16)
    assert tokens.valid is None
    torch.testing.assert_close(tokens.coords[..., 1:], batch["points_centers"])
    assert not tokens.coords[..., 0].any()
    target = adapter.target(batch)["points"]
    assert adapter.point_dim == 5
    assert adapter.target_sizes == {"points": 30}
    torch.testing.assert_close(target.unflatten(2, (6, 5)), batch["points_groups"])
    assert not target.unflatten(2, (6, 5))[:, :, 0, :3].any(), "the nearest point to a centre is itself"
    assert adapter.bfloat16()(batch).values.dtype == torch.bfloat16


def test_padding_is_not_valid_and_has_no_target() -> None:
    adapter, batch = adapted(counts=(40, 4))
    tokens = adapter(batch)
    assert tokens.valid is not None and tokens.valid.sum(1).tolist() == [10, 4]
    assert torch.equal(adapter.target(batch)["points"].isnan().all(-1), ~tokens.valid)


def test_the_order_of_points_and_their_repeats_do_not_change_a_token() -> None:
    adapter, batch = adapted()
    expected = adapter(batch).values
    groups = batch["points_groups"]
    for other in (groups.flip(2), torch.cat([groups, groups[:, :, :3]], 2)):
        torch.testing.assert_close(adapter(batch | {"points_groups": other}).values, expected, rtol=0, atol=1e-6)


def test_the_pointnet_against_one_matrix_for_a_point_beside_the_maximum() -> None:
    """The maximum beside each point, multiplied by one matrix: written out."""
    adapter, batch = adapted()
    net, groups = adapter.pointnet, batch["points_groups"]
    points = net.widen(net.norm1(net.enter(groups)).relu())
    both = torch.cat([points.amax(2, keepdim=True).expand_as(points), points], -1)
    weight = torch.cat([net.from_set.weight, net.from_point.weight], 1)
    joined = both @ weight.T + net.from_point.bias
    torch.testing.assert_close(adapter(batch).values, net.leave(net.norm2(joined).relu().amax(2)))


def test_the_adapter_on_the_meta_device() -> None:
    with torch.device("meta"):
        adapter = PointsAdapter(8, PointsProcessor())
        tokens = adapter({"points_groups": torch.zeros(2, 5, 32, 3), "points_centers": torch.zeros(2, 5, 3)})
    assert (tokens.values.shape, tokens.values.device.type) == ((2, 5, 8), "meta")


# Examples and pictures


def test_examples_repeat_and_differ_in_size() -> None:
    clouds, again = POINTS.example(6, 0), POINTS.example(6, 0)
    for one, other in zip(clouds, again, strict=True):
        np.testing.assert_array_equal(one, other)
    tokens = [len(PointsProcessor()(one)["points_centers"]) for one in clouds]
    assert tokens[::2] == [64] * 3
    assert max(tokens[1::2]) < 64


@pytest.mark.parametrize("features", [0, 2])
def test_the_picture_shows_input_seen_and_predicted(features: int) -> None:
    adapter, batch = adapted(features=features, counts=(40, 4, 40, 40, 40))
    hidden = torch.zeros(5, 10, dtype=torch.bool)
    hidden[:, :3] = True
    target = adapter.target(batch)["points"]
    figure = POINTS.picture(batch, hidden, {"points": (target + 1).masked_fill(~hidden[..., None], torch.nan)}, PointsProcessor())
    assert len(figure.axes) == 12
    assert [axes.get_title() for axes in figure.axes[:3]] == ["input", "seen", "predicted"]
    sizes = [[len(part.get_offsets()) for part in axes.collections] for axes in figure.axes]
    assert sizes[:6] == [[60], [42], [42, 18], [24], [6], [6, 18]]
    figure.canvas.draw()

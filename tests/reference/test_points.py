"""Chamfer distance, farthest-point sampling and nearest neighbours against loops over single points in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.losses.points import SetDistance, chamfer, set_regression
from mmssl_modalities.points import PointsAugment, PointsProcessor
from mmssl_modalities.points.geometry import farthest_points, group_points, nearest_points

sizes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
Point = list[float]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def choices(*shape: int, seed: int, share: float) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def squared(a: Point, b: Point) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def by_loops(a: list[Point], b: list[Point], *, root: bool) -> float:
    """Chamfer distance of two lists of points, of which Point-MAE's ChamferDistanceL1 halves the sum; zero if one has none."""
    if not a or not b:
        return 0.0
    distance = (lambda p, q: math.sqrt(squared(p, q))) if root else squared
    there = sum(min(distance(p, q) for q in b) for p in a) / len(a)
    back = sum(min(distance(p, q) for p in a) for q in b) / len(b)
    return (there + back) / 2 if root else there + back


def kept(points: Tensor, valid: Tensor) -> list[Point]:
    return points[valid].tolist()


# Chamfer distance


@pytest.mark.parametrize("root", [False, True])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(size=sizes, seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.5, 0.9]))
def test_chamfer(root: bool, size: tuple[int, int, int, int], seed: int, share: float) -> None:
    batch, n, m, c = size
    a, b = numbers(batch, n, c, seed=seed), numbers(batch, m, c, seed=seed + 1)
    a_valid, b_valid = choices(batch, n, seed=seed, share=share), choices(batch, m, seed=seed + 1, share=share)
    found = chamfer(a, b, squared=not root)
    masked = chamfer(
        a.masked_fill(~a_valid[..., None], math.nan), b.masked_fill(~b_valid[..., None], 1e9), a_valid, b_valid, squared=not root
    )
    half = chamfer(a, b, b_valid=b_valid, squared=not root)
    for i in range(batch):
        assert found[i].item() == pytest.approx(by_loops(a[i].tolist(), b[i].tolist(), root=root))
        assert masked[i].item() == pytest.approx(by_loops(kept(a[i], a_valid[i]), kept(b[i], b_valid[i]), root=root))
        assert half[i].item() == pytest.approx(by_loops(a[i].tolist(), kept(b[i], b_valid[i]), root=root))
    torch.testing.assert_close(chamfer(b, a, b_valid, a_valid, squared=not root), chamfer(a, b, a_valid, b_valid, squared=not root))


@pytest.mark.parametrize("root", [False, True])
def test_the_gradient_of_chamfer(root: bool) -> None:
    a, b = numbers(2, 4, 3).requires_grad_(), numbers(2, 5, 3, seed=1).requires_grad_()
    valid = torch.tensor([[True, True, False, True], [True, False, False, False]])
    assert torch.autograd.gradcheck(lambda x, y: chamfer(x, y, squared=not root), (a, b))
    assert torch.autograd.gradcheck(lambda x, y: chamfer(x, y, valid, squared=not root), (a, b))


def test_chamfer_of_a_set_and_itself_in_another_order_is_zero_with_a_gradient_of_zeros() -> None:
    a = numbers(3, 7, 3).float().requires_grad_()
    for flag in (True, False):
        distance = chamfer(a, a.detach().flip(1), squared=flag)
        distance.sum().backward()
        assert not distance.any()
        assert a.grad is not None and not a.grad.any()


def test_chamfer_takes_any_batch_and_half_precision_and_points_far_from_the_origin() -> None:
    a, b = numbers(2, 3, 4, 3), numbers(2, 3, 6, 3, seed=1)
    plain = chamfer(a, b)
    assert plain.shape == (2, 3)
    torch.testing.assert_close(chamfer(a.flatten(0, 1), b.flatten(0, 1)), plain.flatten())
    assert chamfer(a[0, 0], b[0, 0]).shape == ()
    half = chamfer(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), chamfer(a.bfloat16().double(), b.bfloat16().double()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(chamfer(a.float() + 1000, b.float() + 1000).double(), plain, rtol=2e-3, atol=1e-3)


def test_nothing_to_compare_with_costs_nothing() -> None:
    a, b = numbers(1, 4, 3).requires_grad_(), torch.full((1, 2, 3), math.nan, dtype=torch.float64)
    for flag in (True, False):
        loss = chamfer(a, b, b_valid=torch.zeros(1, 2, dtype=torch.bool), squared=flag)
        loss.sum().backward()
        assert not loss.any()
        assert a.grad is not None and not a.grad.any()


@pytest.mark.parametrize("distance", ["chamfer", "chamfer_l1"])
def test_tokens_that_are_sets(distance: SetDistance) -> None:
    predicted, target = numbers(2, 3, 8).requires_grad_(), numbers(2, 3, 8, seed=1)
    target[0, 1] = math.nan
    target[1, 2, 4:6] = math.nan
    loss, there = set_regression(predicted, target, 2, distance)
    assert there.tolist() == [[True, False, True], [True, True, True]]
    for i in range(2):
        for j in range(3):
            points = [p for p in target[i, j].view(4, 2).tolist() if not math.isnan(sum(p))]
            expected = by_loops(predicted[i, j].view(4, 2).tolist(), points, root=distance == "chamfer_l1")
            assert loss[i, j].item() == pytest.approx(expected)
    loss.sum().backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all() and not predicted.grad[0, 1].any()
    with pytest.raises(ValueError, match=r"these have 8 values, which are no points of 3\. Choose mse"):
        set_regression(predicted, target, 3, distance)
    with pytest.raises(ValueError, match="which are no points of 0"):
        set_regression(predicted, target, 0, distance)


# Groups


def farthest_by_loops(points: list[Point], count: int) -> list[int]:
    """Indices of the chosen points, by the definition; of equal ones the first."""
    centroid = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
    chosen = [max(range(len(points)), key=lambda i: squared(points[i], centroid))]
    while len(chosen) < min(count, len(points)):
        chosen.append(max(range(len(points)), key=lambda i: min(squared(points[i], points[j]) for j in chosen)))
    return chosen


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(1, 20), count=st.integers(1, 24), k=st.integers(1, 24), seed=st.integers(0, 1000))
def test_groups(n: int, count: int, k: int, seed: int) -> None:
    points = numbers(2, n, 3, seed=seed)
    centres, neighbours, real = group_points(points, count, k)
    assert real.all()
    for cloud, chosen, groups in zip(points.tolist(), centres.tolist(), neighbours.tolist(), strict=True):
        assert chosen == farthest_by_loops(cloud, count)
        for centre, group in zip(chosen, groups, strict=True):
            order = sorted(range(n), key=lambda i: squared(cloud[i], cloud[centre]))
            assert group == [order[i % len(order)] for i in range(k)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    count=st.integers(1, 14),
    k=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_groups_of_padded_clouds_are_those_of_each_alone(lengths: list[int], count: int, k: int, seed: int) -> None:
    n = max(1, *lengths) if len(lengths) > 1 else max(1, lengths[0])
    points = numbers(len(lengths), n, 3, seed=seed)
    valid = torch.arange(n) < torch.tensor(lengths)[:, None]
    centres, neighbours, real = group_points(points.masked_fill(~valid[..., None], math.nan), count, k, valid)
    for i, length in enumerate(lengths):
        expected = min(length, count)
        assert real[i].tolist() == [True] * expected + [False] * (real.shape[1] - expected)
        if length:
            alone, near, _ = group_points(points[i : i + 1, :length], count, k)
            assert centres[i, :expected].tolist() == alone[0].tolist()
            assert neighbours[i, :expected].tolist() == near[0].tolist()


def test_distances_are_those_from_each_centre() -> None:
    points = numbers(3, 30, 3)
    centres, _, distances = farthest_points(points, 5)
    expected = torch.cdist(points.gather(1, centres[..., None].expand(-1, -1, 3)), points).square()
    torch.testing.assert_close(distances, expected)
    assert torch.equal(nearest_points(distances, 1)[..., 0], centres)


def test_places_that_repeat_are_not_real() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [4, 0, 0]]])
    centres, _, real = group_points(points, 5, 2)
    assert real.tolist() == [[True, True, True, False, False]]
    assert centres[0, :3].tolist() == [4, 0, 1]
    _, neighbours, real = group_points(torch.ones(1, 4, 3), 3, 2)
    assert real.tolist() == [[True, False, False]]
    assert neighbours.shape == (1, 3, 2)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_groups_drawn_anew_are_those_of_point_mae(share: float) -> None:
    """ShapeNet55Dataset.py draws some of the points at each access; Group of Point_MAE.py takes farthest points of these, the first
    of which is any (furthest_point_sample begins at the first of shuffled points), and the nearest points about each."""
    processor = PointsProcessor(num_groups=12, group_size=8, num_points=60)
    clouds = [np.random.default_rng(seed).standard_normal((200, 3)) for seed in range(6)]
    batch = processor.collate([processor(points) for points in clouds])
    known = (batch["points_groups"] + batch["points_centers"][:, :, None]).flatten(1, 2).double()
    augment, firsts = PointsAugment(regroup=share), set[tuple[int, int]]()
    for epoch in range(3):
        view = augment(batch, Draws(keys(0, epoch, torch.arange(6))))
        assert view.keys() == batch.keys()
        size = round(8 * share)
        assert view["points_groups"].shape == (6, 12, size, 3)
        points = (view["points_groups"] + view["points_centers"][:, :, None]).double()
        for row, (own, every) in enumerate(zip(points, known, strict=True)):
            places = torch.unique((every / 1e-3).round(), dim=0) * 1e-3
            assert len(places) <= 60
            members = torch.cdist(own.flatten(0, 1), places).min(1)
            assert members.values.max() < 2e-3, "points of the cloud, none of them made up"
            index = members.indices.view(12, size)
            assert all(len(set(group)) == size for group in index.tolist()), "no point is twice in a group"
            centre = torch.cdist(view["points_centers"][row].double(), places).min(1)
            assert torch.equal(centre.indices, index[:, 0])
            drawn = places[index.flatten().unique()]
            assert len(drawn) <= round(share * len(places))
            distances = torch.cdist(view["points_centers"][row].double(), drawn)
            gaps = (own - view["points_centers"][row].double()[:, None]).norm(dim=-1)
            assert (gaps.diff(dim=1) > -2e-3).all(), "the nearest come first"
            assert (gaps[:, -1:] <= distances.topk(size, largest=False).values[:, -1:] + 4e-3).all(), "and are the nearest"
            for number in range(1, 12):
                reach = distances[:number].min(0).values
                assert reach.max() <= reach[(drawn == places[index[number, 0]]).all(1)].max() + 4e-3
            firsts.add((row, int(index[0, 0])))
    assert len(firsts) > 12, "the first centre is another one each time"

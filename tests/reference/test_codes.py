"""Codes of tokens: a random quantiser and k-means against loops in float64 and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor
from torch.testing import assert_close

from mmssl.objectives.predict.targets.kmeans import first_centroids, fit_residual, lloyd, nearest, residual
from mmssl.objectives.predict.targets.random_codes import RandomQuantiser, used
from mmssl.objectives.predict.targets.vectors import WIDEST, Vectors, moments


def digits() -> Tensor:
    return torch.from_numpy(load_digits().data.astype(np.float32))


def test_random_codes_are_the_nearest_normalised_entries() -> None:
    torch.manual_seed(0)
    quantiser = RandomQuantiser(10, codebooks=3, codes=50, width=6)
    assert not list(quantiser.parameters()), "nothing of it is trained"
    vectors = torch.randn(2, 40, 10)
    found = quantiser(vectors)
    bound = math.sqrt(6 / 16)
    assert 0.9 * bound < quantiser.projection.abs().max() <= bound
    for book, codes in enumerate(found):
        for i, j in itertools.product(range(2), range(40)):
            point = vectors[i, j].double().numpy() @ quantiser.projection[book].double().numpy()
            point = point / np.linalg.norm(point)
            entries = quantiser.codebook[book].double().numpy()
            gaps = [np.linalg.norm(entry / np.linalg.norm(entry) - point) for entry in entries]
            assert codes[i, j].item() == int(np.argmin(gaps))
    assert not torch.equal(found[0], found[1])


def test_kmeans_equals_scikit_learn_from_the_same_start() -> None:
    vectors = digits()
    start = first_centroids(vectors, torch.rand(20, generator=torch.Generator().manual_seed(0)))
    expected = KMeans(20, init=start.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(vectors.numpy())
    found = lloyd(vectors, start, 300)
    assert_close(found, torch.from_numpy(expected.cluster_centers_), rtol=1e-4, atol=1e-3)
    assert nearest(vectors, found).tolist() == expected.labels_.tolist()
    assert torch.equal(found, lloyd(vectors, start, 300))


def test_clusters_without_members_move_to_the_farthest_vectors_as_in_scikit_learn() -> None:
    vectors = digits()[:200]
    start = vectors[:8].clone()
    start[5:] = 1e3 + torch.arange(3.0)[:, None]
    expected = KMeans(8, init=start.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(vectors.numpy())
    assert_close(lloyd(vectors, start, 300), torch.from_numpy(expected.cluster_centers_), rtol=1e-4, atol=1e-3)


def test_first_centroids_are_drawn_by_squared_distance() -> None:
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    count = 20_000
    draws = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    pairs = torch.stack([first_centroids(vectors, row) for row in draws]).squeeze(-1)
    for i, j in itertools.permutations(range(3), 2):
        a, b = vectors[i].item(), vectors[j].item()
        expected = (b - a) ** 2 / sum((x - a) ** 2 for x in (0.0, 1.0, 3.0)) / 3
        share = ((pairs[:, 0] == a) & (pairs[:, 1] == b)).float().mean().item()
        assert share == pytest.approx(expected, abs=0.015)
    same = first_centroids(torch.ones(4, 2), torch.rand(6))
    assert torch.equal(same, torch.ones(6, 2))


def test_residual_codebooks_cluster_what_is_left() -> None:
    vectors = digits()
    uniform = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    books = fit_residual(vectors, None, uniform, 50)
    codes = residual(vectors, books)
    left = vectors.double().numpy()
    errors = [np.square(left).sum()]
    for book in range(3):
        entries = books[book].double().numpy()
        expected = np.square(left[:, None] - entries).sum(-1).argmin(1)
        assert (codes[book].numpy() == expected).mean() > 0.999
        left = left - entries[codes[book].numpy()]
        errors.append(np.square(left).sum())
    assert errors == sorted(errors, reverse=True)
    again = fit_residual(vectors, books, uniform, 50)
    assert_close(again, books, rtol=0, atol=1e-4)


def test_moments_of_sets_of_points_do_not_depend_on_their_order() -> None:
    torch.manual_seed(0)
    points = torch.randn(2, 3, 5, 3)
    points[1, 2, 3:] = torch.nan
    points[0, 0] = torch.nan
    found = moments(points.flatten(2), 3)
    assert found.shape == (2, 3, 9)
    assert_close(moments(points[:, :, torch.randperm(5)].flatten(2), 3), found, equal_nan=True)
    assert found[0, 0].isnan().all()
    real = points[1, 2, :3].double().numpy()
    covariance = np.cov(real.T, bias=True)
    expected = np.concatenate([real.mean(0), covariance[np.triu_indices(3)]])
    assert_close(found[1, 2], torch.from_numpy(expected).float())


def test_vectors_are_standardised_by_the_first_step_that_is_trained_on() -> None:
    torch.manual_seed(0)
    vectors = Vectors({"numbers": 3, "classes": 4}, 0)
    numbers = torch.randn(5, 6, 3) * torch.tensor([1.0, 10.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    numbers[2, 3] = torch.nan
    content = {"numbers": numbers, "classes": torch.randint(0, 4, (5, 6)).masked_fill(torch.rand(5, 6) < 0.3, -100)}
    assert_close(vectors(content)[..., :3], numbers.nan_to_num())
    halves = [{key: value[part] for key, value in content.items()} for part in (slice(2), slice(2, 5))]
    vectors.fit(halves)  # two micro-batches of one step
    found = vectors(content)
    real = numbers[~numbers.isnan().any(-1)].double()
    expected = (numbers.double() - real.mean(0)) / torch.where(real.std(0) > 1e-3, real.std(0, correction=0), 1.0)
    assert_close(found[..., :3], expected.nan_to_num().float(), rtol=1e-4, atol=1e-5)
    for i, j in itertools.product(range(5), range(6)):
        code = int(content["classes"][i, j])
        assert found[i, j, 3:].tolist() == [float(code == k) for k in range(4)]
    later = {"numbers": numbers + 100, "classes": content["classes"]}
    assert (vectors(later)[..., 0].nan_to_num() - found[..., 0])[~numbers.isnan().any(-1)].abs().min() > 50


def test_wide_contents_are_projected_and_keep_their_distances() -> None:
    torch.manual_seed(0)
    wide = Vectors({"numbers": 4 * WIDEST}, 0).eval()
    values = torch.randn(1, 30, 4 * WIDEST)
    ratio = torch.pdist(wide({"numbers": values})[0]) / torch.pdist(values[0])
    assert wide.width < WIDEST
    assert ratio.sub(1).abs().max() < 0.25
    classes = Vectors({"ids": 3 * WIDEST}, 0)({"ids": torch.tensor([[7, -100, 9, 7]])})
    assert torch.equal(classes[0, 0], classes[0, 3])
    assert not classes[0, 1].any()
    assert not torch.equal(classes[0, 0], classes[0, 2])


def test_number_of_codes_in_use() -> None:
    assert used(torch.tensor([0, 1, 2, 3]), 10).value.item() == pytest.approx(4)
    assert used(torch.zeros(5, dtype=torch.int64), 10).value.item() == pytest.approx(1)
    assert used(torch.zeros(0, dtype=torch.int64), 10).value.isfinite()

"""Losses of predicted tokens against loops over single values in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmssl.losses.tokens import Distance, classification, mean_where, normalise_tokens, regression

DISTANCES = {
    "mse": lambda error: error**2,
    "l1": abs,
    "smooth_l1": lambda error: error**2 / 2 if abs(error) < 1 else abs(error) - 0.5,
}
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))


def numbers(shape: tuple[int, ...], seed: int, missing: float = 0.0) -> Tensor:
    """Normal numbers in float64, a share of them NaN."""
    generator = torch.Generator().manual_seed(seed)
    values = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.masked_fill(torch.rand(shape, generator=generator) < missing, math.nan)


@pytest.mark.parametrize("distance", DISTANCES)
@given(shape=shapes, seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.5, 1.0]))
def test_regression(distance: Distance, shape: tuple[int, int, int], seed: int, missing: float) -> None:
    predicted, target = numbers(shape, seed), numbers(shape, seed + 1, missing)
    loss, there = regression(predicted, target, distance)
    for i in range(shape[0]):
        for j in range(shape[1]):
            pairs = zip(predicted[i, j].tolist(), target[i, j].tolist(), strict=True)
            errors = [DISTANCES[distance](a - b) for a, b in pairs if not math.isnan(b)]
            assert there[i, j].item() == bool(errors)
            assert loss[i, j].item() == pytest.approx(sum(errors) / len(errors) if errors else 0.0, rel=1e-5, abs=1e-6)


@given(shape=shapes, seed=st.integers(0, 1000))
def test_classification(shape: tuple[int, int, int], seed: int) -> None:
    logits = numbers(shape, seed)
    target = torch.randint(-1, shape[2], shape[:2], generator=torch.Generator().manual_seed(seed))
    target[target == -1] = -100
    loss, there = classification(logits, target)
    for i in range(shape[0]):
        for j in range(shape[1]):
            row, wanted = logits[i, j].tolist(), target[i, j].item()
            expected = math.log(sum(math.exp(x) for x in row)) - row[wanted] if wanted != -100 else 0.0
            assert there[i, j].item() == (wanted != -100)
            assert loss[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 5)), seed=st.integers(0, 1000))
def test_normalise_tokens(shape: tuple[int, int, int], seed: int) -> None:
    target = numbers(shape, seed)
    found, means, stds = normalise_tokens(target)
    for i in range(shape[0]):
        for j in range(shape[1]):
            row = target[i, j].tolist()
            mean = sum(row) / len(row)
            std = math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1) + 1e-6)
            assert means[i, j].item() == pytest.approx(mean)
            assert stds[i, j].item() == pytest.approx(std)
            assert found[i, j].tolist() == pytest.approx([(x - mean) / std for x in row])


@given(st.lists(st.tuples(st.floats(-10, 10), st.booleans()), min_size=1, max_size=12))
def test_mean_where(entries: list[tuple[float, bool]]) -> None:
    marked = [value for value, mark in entries if mark]
    values = torch.tensor([value for value, _ in entries], dtype=torch.float64)
    found = mean_where(values, torch.tensor([mark for _, mark in entries]))
    assert found.item() == pytest.approx(sum(marked) / len(marked) if marked else 0.0, abs=1e-9)


def test_mean_where_takes_any_shape() -> None:
    values, mask = numbers((2, 3, 4), 0), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    torch.testing.assert_close(mean_where(values, mask), values[mask].mean())

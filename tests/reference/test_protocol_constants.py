"""The constants of the frozen protocol, each pinned by a score: with another value a score would need another name."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.evaluation import PROTOCOL, probes

GOLDEN = (
    *((10, 4.0, 1e-4), (1, 4.0, 1e-3), (3, 2.0, 1e-2), (3, 1.0, 1e-1)),
    *((3, 0.1, 1.0), (3, 0.03, 1e1), (0, 0.0, 1e2)),
)
"""Seed and noise of drawn data, and the inverse strength of the penalty that the probe chooses on them."""


def drawn(seed: int, noise: float, rows: int = 240, width: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and values of training and test samples: a linear map of the features, with noise."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, width))
    values = features @ draw.normal(size=width) + noise * draw.normal(size=rows)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(values).float()
    half = rows // 2
    return x[:half], y[:half], x[half:], y[half:]


def by_hand(neighbours: int, temperature: float) -> float:
    """R2 of the weighted mean of the neighbours, in float64."""
    train, values, test, truth = (part.double().numpy() for part in drawn(0, 0.5))
    unit, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))
    found = []
    for row in asked @ unit.T:
        near = np.argsort(-row)[:neighbours]
        weight = np.exp(row[near] / temperature)
        found.append((weight * values[near]).sum() / weight.sum())
    return float(1 - ((truth - np.array(found)) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def near() -> float:
    train, values, test, truth = drawn(0, 0.5)
    return probes.r2(probes.knn_regress(train, values, test), truth)


def test_name_of_the_protocol() -> None:
    assert PROTOCOL == "mmssl-frozen-v3", "scores by other constants must not stand under this name"


def test_neighbours_and_temperature() -> None:
    assert near() == pytest.approx(by_hand(20, 0.07), abs=1e-6)
    assert all(abs(near() - by_hand(*other)) > 1e-4 for other in ((19, 0.07), (21, 0.07), (20, 0.06), (20, 0.08)))


@pytest.mark.parametrize(("seed", "noise", "best"), GOLDEN)
def test_strengths_of_the_penalty(seed: int, noise: float, best: float) -> None:
    train, values, test, _ = drawn(seed, noise)
    assert probes.linear_regress(train, values, test, seed=0).strength == best


def test_every_strength_is_pinned() -> None:
    assert [best for _, _, best in GOLDEN] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2] == list(probes.STRENGTHS)

"""The yardstick of losses: what a constant prediction loses, against loops in float64."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.objectives.predict.baseline import Unexplained, Yardstick, constant, constant_loss, variety
from mmssl.objectives.predict.distances import L1, Chamfer, Cosine, CrossEntropy, InfoNce, Loss, Mse, SmoothL1
from mmssl.objectives.terms import Mean

DRAWS = Draws(keys(0, 0, torch.arange(3)))
THERE = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


def values(width: int = 6) -> Tensor:
    return torch.randn(3, 4, width, generator=torch.Generator().manual_seed(0)) * 2 + 1


def measured(loss: Loss, truth: Tensor, there: Tensor = THERE, classes: int = 6) -> float:
    """The loss of a constant prediction, the mean over tokens; the same from micro-batches of a sample each."""
    whole = constant_loss([constant(loss, truth, there, None, DRAWS, classes)]) / there.sum()
    if not (isinstance(loss, InfoNce) and loss.negatives == "batch"):
        rows = zip(truth.split(1), there.split(1), DRAWS.keys.split(1), strict=True)
        parts = [constant(loss, row, one, None, Draws(key), classes) for row, one, key in rows]
        assert constant_loss(parts) / there.sum() == pytest.approx(float(whole), rel=1e-5)
    return float(whole)


def mean_token(truth: Tensor) -> list[float]:
    """The mean of the tokens that count, value by value."""
    rows = [truth[i, j].tolist() for i in range(3) for j in range(4) if THERE[i, j]]
    columns = [[value for value in column if not math.isnan(value)] for column in zip(*rows, strict=True)]
    return [sum(column) / len(column) for column in columns]


def smooth(error: float) -> float:
    return error**2 / 2 if abs(error) < 1 else abs(error) - 0.5


@pytest.mark.parametrize(
    ("loss", "distance"), [(Mse(), lambda e: e * e), (L1(), abs), (SmoothL1(), smooth)], ids=["mse", "l1", "smooth_l1"]
)
@pytest.mark.parametrize("missing", [False, True])
def test_regression_is_measured_from_the_mean_of_the_targets(loss: Loss, distance: object, missing: bool) -> None:
    truth = values()
    if missing:
        truth[0, 0, 2] = math.nan
    mean, tokens = mean_token(truth), []
    for i, j in THERE.nonzero().tolist():
        errors = [distance(v - m) for v, m in zip(truth[i, j].tolist(), mean, strict=True) if not math.isnan(v)]  # type: ignore[operator]
        tokens.append(sum(errors) / len(errors))
    assert measured(loss, truth) == pytest.approx(sum(tokens) / len(tokens), rel=1e-5)


def test_squared_error_of_the_mean_is_the_variance() -> None:
    truth, everything = values(), torch.ones(3, 4, dtype=torch.bool)
    assert measured(Mse(), truth, everything) == pytest.approx(
        float(truth.flatten(0, 1).double().var(0, correction=0).mean()), rel=1e-5
    )


def test_cosine_and_chamfer_are_finite_and_that_of_the_mean() -> None:
    truth = values()
    mean = torch.tensor(mean_token(truth))
    for loss in (Cosine(), Chamfer(point_dim=3)):
        expected = loss(mean.expand_as(truth), truth, None, DRAWS)[0][THERE].mean()
        assert measured(loss, truth) == pytest.approx(float(expected), rel=1e-4)


def test_classes_are_measured_from_their_frequencies() -> None:
    truth = torch.tensor([[2, 0, -100, 2], [1, -100, 3, 0], [2, 2, 0, 4]])
    counted = Counter(int(truth[i, j]) for i, j in THERE.nonzero().tolist())
    expected = -sum(n / counted.total() * math.log(n / counted.total()) for n in counted.values())
    for loss in (Mse(), CrossEntropy()):
        assert measured(loss, truth, classes=5) == pytest.approx(expected, rel=1e-5)


def test_equally_frequent_classes_lose_the_logarithm_of_their_number() -> None:
    truth = torch.arange(12).view(3, 4)
    assert measured(CrossEntropy(), truth, torch.ones(3, 4, dtype=torch.bool), 12) == pytest.approx(math.log(12))


def test_probabilities_of_classes_are_measured_from_their_mean() -> None:
    truth = values().softmax(-1)
    expected = -sum(p * math.log(p) for p in mean_token(truth))
    assert measured(CrossEntropy(), truth) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (InfoNce(), (3 * math.log(3) + 0 + 4 * math.log(4)) / 8),
        (InfoNce(negatives="batch"), math.log(8)),
        (InfoNce(count=20), math.log(21)),
    ],
    ids=["sample", "batch", "count"],
)
def test_info_nce_is_measured_from_a_guess_among_its_candidates(loss: Loss, expected: float) -> None:
    assert measured(loss, values()) == pytest.approx(expected, rel=1e-6)


def unexplained(loss: float, truth: Tensor) -> float:
    there = torch.ones(truth.shape[:2], dtype=torch.bool)
    yardstick = Yardstick(2.0, Mean(torch.tensor(loss * 12), there.sum()), (constant(Mse(), truth, there, None, DRAWS, 6),))
    return float(Unexplained((yardstick,)).value)


def test_a_share_of_nothing_is_one() -> None:
    truth = values()
    variance = float(truth.flatten(0, 1).double().var(0, correction=0).mean())
    assert unexplained(0.3 * variance, truth) == pytest.approx(0.3, rel=1e-5)
    assert unexplained(0.3, torch.ones(3, 4, 6)) == 1


def test_variety_is_that_of_samples_whatever_the_scale() -> None:
    samples = values().mean(1)
    expected = samples.double().std(0).mean() / samples.double().square().mean().sqrt()
    assert variety(samples) == pytest.approx(float(expected), rel=1e-5)
    assert variety(1e-3 * samples) == pytest.approx(float(expected), rel=1e-5)


def test_variety_of_equal_samples_is_0() -> None:
    assert variety(values().mean(1)[:1].expand(5, -1)) < 1e-6
    assert variety(torch.ones(1, 6)) == 1, "one sample alone says nothing"


def test_all_tensors_of_a_metric_move() -> None:
    """However deep they lie: what is sent to other processes holds nothing of an accelerator."""
    truth, there = torch.arange(12.0).view(2, 3, 2), torch.ones(2, 3, dtype=torch.bool)
    yardstick = Yardstick(2.0, Mean(torch.tensor(6.0), there.sum()), (constant(Mse(), truth, there, None, DRAWS, 6),))
    moved = Unexplained((yardstick,)).map(lambda tensor: tensor.to(torch.device("meta")))
    assert isinstance(moved, Unexplained)
    (found,) = moved.targets
    tensors = [found.loss.total, found.loss.weight, *(each.truth for each in found.constants if each.truth is not None)]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 3

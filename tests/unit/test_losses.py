"""Losses at the edges: nothing there, low precision, gradients of what is missing."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from mmssl.losses.tokens import Distance, classification, mean_where, normalise_tokens, regression


@pytest.mark.parametrize("distance", ["mse", "l1", "smooth_l1"])
def test_missing_values_have_no_gradient(distance: Distance) -> None:
    predicted = torch.randn(2, 2, 3, requires_grad=True)
    target = torch.randn(2, 2, 3)
    target[0, 0, 1] = target[1] = math.nan
    loss, there = regression(predicted, target, distance)
    mean_where(loss, there).backward()
    assert torch.equal(predicted.grad != 0, ~target.isnan())
    assert predicted.grad.isfinite().all()


def test_missing_classes_have_no_gradient() -> None:
    logits = torch.randn(2, 2, 3, requires_grad=True)
    target = torch.tensor([[0, -100], [-100, 2]])
    mean_where(*classification(logits, target)).backward()
    assert torch.equal((logits.grad != 0).all(-1), target != -100)


@pytest.mark.parametrize(
    "loss",
    [*(partial(regression, distance=distance) for distance in ("mse", "l1", "smooth_l1")), classification],
    ids=["mse", "l1", "smooth_l1", "classification"],
)
def test_nothing_there_costs_nothing(loss: partial[tuple[Tensor, Tensor]]) -> None:
    """Zero, and a gradient of zeros: no NaN from a mean over nothing."""
    predicted = torch.randn(2, 3, 4, requires_grad=True)
    target = torch.full((2, 3), -100) if loss is classification else torch.full((2, 3, 4), math.nan)
    total = mean_where(*loss(predicted, target))
    total.backward()
    assert total.item() == 0
    assert not predicted.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    """The square of 300 is no float16."""
    predicted, target = torch.full((1, 1, 2), 300.0, dtype=dtype), torch.zeros(1, 1, 2, dtype=dtype)
    loss, _ = regression(predicted, target, "mse")
    assert loss.dtype == torch.float32
    assert loss.item() == 90000
    scores, _ = classification(torch.tensor([[[10.0, 0.0]]], dtype=dtype), torch.tensor([[1]]))
    assert scores.dtype == torch.float32
    assert scores.item() == pytest.approx(math.log(1 + math.exp(10)))


def test_tokens_that_do_not_vary_stay_finite() -> None:
    found, mean, std = normalise_tokens(torch.full((1, 2, 4), 3.0))
    assert not found.any()
    assert mean.flatten().tolist() == [3.0, 3.0]
    assert std.flatten().tolist() == pytest.approx([1e-3, 1e-3])


def test_tokens_of_one_value_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match=r"normalised targets need tokens of two values or more, these hold one; use target: raw"):
        normalise_tokens(torch.randn(2, 3, 1))

"""Terms, metrics and networks: closed forms and loops, and the same from parts of a step."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mmssl.objectives.networks import AVERAGE, Clock, Frozen, Moving, Networks, Snapshot
from mmssl.objectives.terms import Largest, Mean, Metric, Rows, State, Term, Terms, Used, joined
from mmssl.testing import small_model


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def entropy(codes: list[int]) -> float:
    return -sum(n / len(codes) * math.log(n / len(codes)) for n in Counter(codes).values())


def test_tokens_of_a_step_count_alike_however_it_is_cut() -> None:
    """Value and gradient of the mean over all counted tokens, from micro-batches of other lengths."""
    loss = drawn(6, 7).requires_grad_()
    counted = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.9, 0.5, 0.3, 1.0, 0.0])[:, None]
    expected = loss[counted].mean()
    (gradient,) = torch.autograd.grad(expected, loss)
    for sizes in ([6], [3, 3], [2, 2, 2], [1, 5]):
        parts = [Term.tokens(*pair) for pair in zip(loss.split(sizes), counted.split(sizes), strict=True)]
        total = torch.stack([part.weight.sum() for part in parts]).sum()
        found = torch.stack([Terms({"a": part}).loss({"a": total}) for part in parts]).sum()
        assert_close(found, expected)
        assert_close(torch.autograd.grad(found, loss, retain_graph=True)[0], gradient)
    assert_close(Terms({"a": Term.tokens(loss, counted)}).loss(), expected)


def test_weighted_samples_and_factors() -> None:
    loss, weight = drawn(5), torch.tensor([1.0, 0.0, 2.5, 0.5, 3.0], dtype=torch.float64)
    terms = Terms({"a": Term.samples(loss, weight, factor=0.3), "b": Term.samples(loss).times(2.0), "c": Term.whole(loss[0])})
    expected = 0.3 * sum(x * w for x, w in zip(loss.tolist(), weight.tolist(), strict=True)) / 7 + 2 * loss.mean() + loss[0]
    assert_close(terms.loss(), torch.as_tensor(expected))
    assert Term.samples(loss, torch.zeros(5)).mean() == 0, "nobody says anything"


def test_a_mean_is_no_term() -> None:
    with pytest.raises(ValueError, match=r"a term needs a loss for each sample, \[batch\]; got the shape \[\]\. A mean could not"):
        Term.samples(drawn(5).mean())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda rows: Mean.of(rows[:, 0], rows[:, 1] > 0), lambda rows: rows[:, 0][rows[:, 1] > 0].mean()),
        (lambda rows: Largest(rows.max()), lambda rows: rows.max()),
        (lambda rows: Rows(rows, lambda all_rows: all_rows.std(0).mean()), lambda rows: rows.std(0).mean()),
        (lambda rows: State(torch.tensor(3.0)), lambda rows: torch.tensor(3.0)),
        (
            lambda rows: Used(torch.bincount(rows[:, 0].long().clamp(0, 3), minlength=4)[None].float()),
            lambda rows: torch.tensor(math.exp(entropy([int(code) for code in rows[:, 0].long().clamp(0, 3)]))),
        ),
    ],
    ids=["mean", "largest", "rows", "state", "used"],
)
def test_metrics_of_parts_are_those_of_the_whole(make: Any, expected: Any) -> None:
    rows = 3 * drawn(12, 3)
    for sizes in ([12], [5, 7], [1, 1, 10]):
        parts: list[dict[str, Metric]] = [{"x": make(part)} for part in rows.split(sizes)]
        assert joined(parts)["x"].item() == pytest.approx(expected(rows).item(), rel=1e-6)


def test_networks_move_freeze_and_take_snapshots() -> None:
    networks = Networks(small_model("text"))
    teacher, frozen = networks.want("teacher", Moving(0.5, 0.9)), networks.want("frozen", Frozen())
    early, late = networks.want("snapshot", Snapshot(0.4)), networks.want("snapshot", Snapshot(0.8))
    assert networks.want("teacher", Moving(0.5, 0.9)) == teacher, "one teacher for two that ask alike"
    assert networks.want("teacher", Moving(0.5, 1.0)) == "teacher_2"
    average = networks.want(AVERAGE, Moving(0.5, 0.9))
    assert average == AVERAGE
    assert not networks.copies, "made when first used"
    networks.make()
    weight = next(networks.student.parameters())
    start, expected, warmed = (weight.detach().clone() for _ in range(3))
    seen = []
    for step in range(1, 6):
        with torch.no_grad():
            weight.add_(step)
        networks.after_step(Clock(step, step / 5))
        momentum = 0.5 + 0.4 * step / 5
        expected = momentum * expected + (1 - momentum) * weight.detach()
        capped = min(momentum, (1 + step) / (10 + step))
        warmed = capped * warmed + (1 - capped) * weight.detach()
        seen.append(weight.detach().clone())
    first = {name: next(networks[name].parameters()) for name in networks.copies}
    assert_close(first[teacher].detach(), expected)
    assert_close(first[average].detach(), warmed)
    assert torch.equal(first[frozen], start)
    assert torch.equal(first[early], seen[1]) and torch.equal(first[late], seen[3])
    assert not any(parameter.requires_grad for parameter in networks.copies.parameters())
    assert networks.train().student.training and not any(network.training for network in networks.copies.values())
    assert networks.published("student") is networks[AVERAGE], "the average, where the run keeps one"
    assert networks.teachers == ["teacher", "teacher_2"]

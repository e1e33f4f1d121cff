"""The teacher of latent targets: its schedule, the rule for other batch sizes, and resuming."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.model import MMSSLModel
from mmssl.objectives import Clock, Setup
from mmssl.objectives.predict import Jepa
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.predict.targets import Latent
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant
from mmssl.testing import batch_of, small_model
from mmssl.training import checkpoint
from mmssl.training.loop import Training, fit

Weights = dict[str, Tensor]


def jepa(target: Latent) -> Jepa:
    predictor = Transformer(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return Jepa(small_model("image"), Setup(), predictor=predictor, targets=[target])


def weights_of(model: MMSSLModel) -> Weights:
    return {key: value.double().clone() for key, value in model.state_dict().items()}


def distance(one: Weights, other: Weights) -> float:
    return sum(float((one[key] - other[key]).square().sum()) for key in one) ** 0.5


# The schedule


@pytest.mark.parametrize(
    ("momentum", "progress", "expected"),
    [
        ((0.996, 1.0), 0.0, 0.996),
        ((0.996, 1.0), 0.5, 0.998),
        ((0.996, 1.0), 1.0, 1.0),
        ((0.9, 0.99), 0.25, 0.9225),
        ((0.5, 0.5), 0.3, 0.5),
    ],
)
@pytest.mark.parametrize("kappa", [1.0, 2.0, 0.5, 8.0])
def test_momentum_rises_linearly_and_scales_by_a_power(
    momentum: tuple[float, float], progress: float, expected: float, kappa: float
) -> None:
    assert Latent(momentum=momentum, momentum_scale=kappa).rule.momentum(progress) == pytest.approx(expected**kappa, abs=1e-12)


@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_the_teacher_follows_the_schedule(kappa: float) -> None:
    """After k steps: sum over i of (1 - m_i) prod over j > i of m_j times the student at i, with m_i of step i of k."""
    steps, target = 5, Latent(momentum=(0.6, 0.9), momentum_scale=kappa)
    objective = jepa(target)
    training = Training(objective, TrainOptions(batch_size=6, max_steps=steps, schedule=constant(warmup=0), lr=1e-2))
    history = [weights_of(objective.model)]
    logged = []

    def remember(row: dict[str, float]) -> bool:
        history.append(weights_of(objective.model))
        logged.append(row["momentum"])
        return False

    fit(training, iter([batch_of("image")] * steps), remember)
    used = [(0.6 + 0.3 * step / steps) ** kappa for step in range(1, steps + 1)]
    for key, found in objective.networks["teacher"].state_dict().items():
        expected = history[0][key]
        for momentum, state in zip(used, history[1:], strict=True):
            expected = momentum * expected + (1 - momentum) * state[key]
        assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    assert logged == pytest.approx([0.6**kappa, *used[:-1]])


def test_the_schedule_goes_on_after_resuming(tmp_path: Path) -> None:
    """Teacher and momentum are those of an uninterrupted run, bit by bit, in the middle of the schedule."""
    batch = batch_of("image")

    def feed(start: int, stop: int) -> list[Batch]:
        return [Batch(batch.inputs, keys(0, step, batch.ids), batch.ids) for step in range(start, stop)]

    def fresh() -> Training:
        target = Latent(momentum=(0.5, 1.0), momentum_scale=2.0)
        return Training(jepa(target), TrainOptions(batch_size=6, max_steps=6, schedule=constant(warmup=0), lr=1e-2))

    through = fresh()
    momenta: list[float] = []
    fit(through, iter(feed(0, 6)), lambda row: momenta.append(row["momentum"]) or False)

    stopped = fresh()
    fit(stopped, iter(feed(0, 3)), lambda row: stopped.counters.step == 3)
    checkpoint.save(tmp_path / "step", stopped.state())
    resumed = fresh()
    resumed.restore(checkpoint.load(tmp_path / "step"))
    later: list[float] = []
    fit(resumed, iter(feed(3, 6)), lambda row: later.append(row["momentum"]) or False)
    assert later == momenta[3:]
    teachers = [one.objective.networks["teacher"].state_dict() for one in (resumed, through)]
    assert_close(*teachers, rtol=0, atol=0)
    assert len(set(momenta)) == 6


# The scaling rule (arXiv 2307.13813, definition 1.2)


def teacher_after(objective: Jepa, batches: list[Batch], lr: float) -> Weights:
    """The teacher's weights after plain SGD, a step for each batch."""
    optimizer = torch.optim.SGD(objective.parameters(), lr)
    objective.train()
    for number, batch in enumerate(batches):
        objective(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(Clock(number + 1, (number + 1) / len(batches)))
    return weights_of(objective.networks["teacher"])


def test_the_scaled_momentum_follows_small_batches_at_matched_samples() -> None:
    """k batches in one with k times the rate: rho^k gives the teacher that small batches give, rho one that lags behind."""
    small, kappa, steps, momentum, lr = 4, 4, 64, 0.95, 0.01
    whole = batch_of("image", small * kappa)

    def rows(first: int, count: int) -> Batch:
        chosen = slice(first, first + count)
        inputs = {name: {key: value[chosen] for key, value in group.items()} for name, group in whole.inputs.items()}
        return Batch(inputs, whole.keys[chosen], whole.ids[chosen])

    def student(scale: float) -> Jepa:
        return jepa(Latent(momentum=(momentum, momentum), momentum_scale=scale))

    few = [rows(small * (step % kappa), small) for step in range(steps)]
    many = [whole] * (steps // kappa)
    start = weights_of(student(1.0).model)
    reference = teacher_after(student(1.0), few, lr)
    scaled = teacher_after(student(float(kappa)), many, lr * kappa)
    unscaled = teacher_after(student(1.0), many, lr * kappa)
    moved = distance(reference, start)
    assert distance(scaled, reference) < 0.15 * moved
    assert distance(unscaled, reference) > 3 * distance(scaled, reference)

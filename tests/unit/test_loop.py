"""What a step does beside the gradient: clipping, the learning rate, and what moves after it."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import Encoder
from mmssl.objectives import Setup
from mmssl.objectives.predict import Jepa
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.predict.targets import Latent
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import Schedule, constant, cosine
from mmssl.testing import small_model, small_processor
from mmssl.training import checkpoint
from mmssl.training.loop import Training, fit, kernel_of

SAMPLES = 8


def jepa(seed: int = 0) -> Jepa:
    """A small objective with a teacher that moves fast."""
    torch.manual_seed(seed)
    predictor = Transformer(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return Jepa(small_model("text"), Setup(), predictor=predictor, targets=[Latent(momentum=(0.5, 0.5))])


def batches(parts: int = 1) -> Iterator[Batch]:
    """Texts of different lengths, the same in every step, each step in so many micro-batches that are padded on their own."""
    processor, ids = small_processor("text"), torch.arange(SAMPLES)
    rows = [processor(raw) for raw in find("text").example(SAMPLES, 0)]
    for step in count():
        for part in ids.split(SAMPLES // parts):
            yield Batch({"text": processor.collate([rows[i] for i in part])}, keys(0, step, part), part)


def training(objective: Jepa, **options: Any) -> Training:
    known = {"batch_size": SAMPLES, "max_steps": 4, "schedule": constant(warmup=0)}
    return Training(objective, TrainOptions(**known | options))


def train(one: Training, steps: int) -> list[dict[str, float]]:
    """The rows of the next steps."""
    rows: list[dict[str, float]] = []
    fit(one, batches(one.options.accumulation), lambda row: rows.append(row) or len(rows) == steps)
    return rows


def weights(objective: Jepa) -> dict[str, Tensor]:
    """Copies of all trained weights."""
    return {name: p.detach().clone() for name, p in objective.named_parameters() if p.requires_grad}


def teachers(one: Training) -> dict[str, Tensor]:
    """Copies of the teacher's weights and of the average."""
    return {key: value.clone() for key, value in one.objective.networks.copies.state_dict().items()}


# Clipping


@pytest.mark.parametrize("parts", [1, 2])
def test_clipped_step_is_the_one_made_by_hand(parts: int) -> None:
    """Of the whole gradient, however the step is cut; the norm that is logged is that before clipping."""
    limit, lr, start = 0.05, 0.1, weights(jepa())
    by_hand = jepa().train()
    by_hand.networks.make()
    by_hand(next(batches())).loss.backward()
    gradient = {name: p.grad.double() for name, p in by_hand.named_parameters() if p.requires_grad}
    norm = torch.stack([value.square().sum() for value in gradient.values()]).sum().sqrt().item()
    assert norm > 2 * limit, "or nothing would be clipped"
    # An epsilon of 1: or AdamW's first step would hardly depend on the size of the gradient.
    one = training(jepa(), accumulation=parts, clip_norm=limit, eps=1.0, lr=lr, weight_decay=0.0)
    (row,) = train(one, 1)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for name, value in weights(one.objective).items():
        clipped = gradient[name] * (limit / norm)
        expected = start[name].double() - lr * clipped / (clipped.abs() + 1.0)
        assert_close(value.double() - start[name].double(), expected - start[name].double(), rtol=1e-3, atol=1e-7)


def test_a_gradient_within_the_limit_is_left_alone() -> None:
    found = []
    for limit in (None, 1e3):
        one = training(jepa(), clip_norm=limit, eps=1.0)
        rows = train(one, 2)
        found.append((weights(one.objective), [row["grad_norm"] for row in rows]))
    assert_close(found[0], found[1], rtol=0, atol=0)


# Learning rate


@pytest.mark.parametrize("schedule", [cosine(warmup=2, final=0.1), constant(warmup=3)], ids=["cosine", "constant"])
def test_step_k_has_the_learning_rate_of_k_steps_made(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, used = 5, list[float]()
    one = training(jepa(), max_steps=steps, lr=0.01, schedule=schedule)
    move = AcceleratedOptimizer.step

    def remember(self: AcceleratedOptimizer) -> None:
        used.append(self.param_groups[0]["lr"])
        move(self)

    monkeypatch.setattr(AcceleratedOptimizer, "step", remember)
    rows = train(one, steps)
    expected = [0.01 * schedule(step, step / steps) for step in range(steps)]
    assert len(set(expected)) > 2
    assert [row["lr"] for row in rows] == used == expected


# What moves after a step


def test_teacher_and_average_stay_where_the_optimizer_skipped_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fp16's scaler does where a gradient overflows."""
    one = training(jepa(), ema=0.5)
    train(one, 1)
    before, known, move = teachers(one), weights(one.objective), AcceleratedOptimizer.step
    monkeypatch.setattr(AcceleratedOptimizer, "step", lambda self: None)
    monkeypatch.setattr(AcceleratedOptimizer, "step_was_skipped", property(lambda self: True))
    called: list[Any] = []
    monkeypatch.setattr(one.objective, "after_step", called.append)
    train(one, 1)
    assert one.counters.step == 2
    assert_close(weights(one.objective), known, rtol=0, atol=0)
    assert_close(teachers(one), before, rtol=0, atol=0)
    assert called == []
    monkeypatch.undo()
    assert AcceleratedOptimizer.step is move
    train(one, 1)
    assert not any(torch.equal(value, before[key]) for key, value in teachers(one).items() if "norm.weight" in key)


def test_average_of_the_weights_is_restored(tmp_path: Path) -> None:
    one = training(jepa(), ema=0.9)
    train(one, 2)
    checkpoint.save(tmp_path / "step", one.state())
    expected = {key: value.clone() for key, value in one.published().state_dict().items()}
    other = training(jepa(seed=1), ema=0.9)
    other.restore(checkpoint.load(tmp_path / "step"))
    assert other.published() is not other.objective.model
    assert_close(other.published().state_dict(), expected, rtol=0, atol=0)
    assert not torch.equal(expected["encoder.norm.weight"], other.objective.model.state_dict()["encoder.norm.weight"])
    train(one, 1)
    train(other, 1)
    assert_close(other.published().state_dict(), one.published().state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("device", "precision", "kernel"),
    [("cpu", "no", "sdpa"), ("cpu", "bf16", "eager"), ("cpu", "fp16", "eager"), ("cuda", "no", "sdpa"), ("cuda", "bf16", "sdpa")],
)
def test_auto_is_the_kernel_that_was_measured_to_be_fast(device: str, precision: str, kernel: str) -> None:
    assert kernel_of("auto", torch.device(device), precision) == kernel
    for asked in ("eager", "sdpa"):
        assert kernel_of(asked, torch.device(device), precision) == asked


@pytest.mark.parametrize(("precision", "kernel"), [("fp32", "sdpa"), ("bf16", "eager")])
def test_a_run_on_a_cpu_takes_the_kernel_of_its_precision(precision: str, kernel: str) -> None:
    one = training(jepa(), precision=precision)
    kernels = {module.config._attn_implementation for module in one.objective.modules() if isinstance(module, Encoder)}
    assert kernels == {kernel}


def test_kernels_of_attention_end_in_the_same_weights_but_for_rounding() -> None:
    ends = {}
    for kernel in ("eager", "sdpa"):
        one = training(jepa(), attention=kernel)
        train(one, 4)
        ends[kernel] = torch.cat([p.flatten() for p in weights(one.objective).values()])
    assert (ends["eager"] - ends["sdpa"]).norm() < 1e-4 * ends["eager"].norm()

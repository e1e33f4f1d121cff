"""Heads warmed up alone on a model that comes from `init`: what moves meanwhile, and that a run continues through the end of it."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import mmssl
from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model.heads import Head
from mmssl.objectives import Contrast, Distill, Setup
from mmssl.objectives.views import Views
from mmssl.recipe import RecipeError
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant
from mmssl.testing import small_model, small_processor
from mmssl.training import checkpoint
from mmssl.training.loop import Training, fit
from mmssl.training.start import brought_along

SAMPLES, STEPS = 4, 6
BROUGHT, HEADS = "networks.student.encoder", "networks.student.heads"


def training(parts: int = 1, warm_heads: float = 0.5, eps: float = 1e-8) -> Training:
    """Self-distillation that starts from a saved model: three of six steps are of the heads alone."""
    torch.manual_seed(0)
    model = small_model("image")
    brought = brought_along(model, ["image"])
    views = {"image": {"global": Views(2, find("image").augment(flip=0.5, color_jitter=0.5))}}
    losses = {"projector": Head(hidden=16, size=8)}
    objective = Distill(model, Setup(views=views), mask=None, **losses)
    options = {
        "batch_size": SAMPLES,
        "max_steps": STEPS,
        "lr": 1e-2,
        "schedule": constant(warmup=0),
        "layer_decay": 0.8,
        "eps": eps,
    }
    return Training(objective, TrainOptions(warm_heads=warm_heads, accumulation=parts, **options), brought=brought)


def batches(parts: int, first: int = 0) -> Iterator[Batch]:
    processor, ids = small_processor("image"), torch.arange(SAMPLES)
    rows = [processor(raw) for raw in find("image").example(SAMPLES, 0)]
    for step in count(first):
        for part in ids.split(SAMPLES // parts):
            yield Batch({"image": processor.collate([rows[i] for i in part])}, keys(0, step, part), part)


def train(one: Training, until: int) -> None:
    rest = until - one.counters.step
    rows: list[dict[str, float]] = []
    fit(one, batches(one.options.accumulation, one.counters.step), lambda row: rows.append(row) or len(rows) == rest)


def state(one: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.objective.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("parts", [1, 2])
def test_what_init_brought_waits_and_then_learns(parts: int) -> None:
    one = training(parts)
    start = state(one)
    train(one, 3)
    warm = moved(start, state(one))
    assert any(name.startswith(HEADS) for name in warm)
    assert any(name.startswith("networks.copies.teacher.heads") for name in warm), "the teacher's heads follow"
    assert {name for name in warm if ".heads." not in name and name.startswith("networks.")} == set()
    held = {id(parameter) for parameter in one.brought}
    assert held.isdisjoint(map(id, one.optimizer.optimizer.state)), "no moments of what waits"
    middle = state(one)
    train(one, 4)
    assert any(name.startswith(BROUGHT) for name in moved(middle, state(one)))


def test_the_first_step_of_the_encoder_is_that_of_a_new_optimizer() -> None:
    """Nothing of the gradients that random heads sent is left in its moments."""
    one = training()
    train(one, 4)
    counted = {float(found["step"]) for key, found in one.optimizer.optimizer.state.items() if id(key) in set(map(id, one.brought))}
    assert counted == {1.0}


@pytest.mark.parametrize(("parts", "stop"), [(1, 2), (2, 3), (2, 4)])
def test_a_run_continues_bit_by_bit_through_the_end_of_the_warm_up(parts: int, stop: int, tmp_path: Path) -> None:
    whole = training(parts)
    train(whole, STEPS)
    first = training(parts)
    train(first, stop)
    path = checkpoint.step_path(tmp_path, stop)
    checkpoint.save(path, first.state())
    second = training(parts)
    second.restore(checkpoint.load(path))
    train(second, STEPS)
    assert moved(state(whole), state(second)) == set()


def test_micro_batches_are_one_step() -> None:
    # An epsilon of 1: or Adam would make much of rounding.
    whole = training(1, eps=1.0)
    train(whole, 4)
    cut = training(2, eps=1.0)  # only now: Accelerate keeps the number of micro-batches once for all of its objects
    train(cut, 4)
    assert_close(state(cut), state(whole), rtol=1e-3, atol=1e-5)


def test_all_learns_where_no_share_is_asked_for() -> None:
    one = training(warm_heads=0.0)
    start = state(one)
    train(one, 1)
    assert any(name.startswith(BROUGHT) for name in moved(start, state(one)))


def test_nothing_to_warm_up() -> None:
    model = small_model("image")
    objective = Contrast(model, Setup(), projector=Head(layers=0))
    with pytest.raises(ValueError, match="no heads to warm up; set it to 0"):
        Training(objective, TrainOptions(max_steps=1, warm_heads=0.1), brought=list(model.parameters()))


RECIPE: dict[str, Any] = {
    "modalities": {"image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 4}, "augment": {"flip": 0.5}}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "contrast", "projector": {"layers": 1, "size": 8, "norm": "none"}},
    "data": {"path": "bundled:digits", "limit": 16},
    "train": {"batch_size": 8, "max_steps": 4, "warm_heads": 0.5, "lr": 0.01},
}


def test_a_recipe_warms_up_the_heads_of_a_saved_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})
    monkeypatch.setattr("mmssl.report.page.charts", lambda metrics, table: [])
    where = {"run.dir": str(tmp_path)}
    first = mmssl.train(RECIPE, where)
    start, known = first.model_folder, {"init": str(first.model_folder), **where}
    warm = mmssl.train(RECIPE, known | {"train.warm_heads": 0.99})
    learned = mmssl.train(RECIPE, known)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (start, warm.model_folder, learned.model_folder)]
    assert weights[0] == weights[1] != weights[2]
    with pytest.raises(RecipeError, match="goes on with its heads; set it to 0, or init to"):
        mmssl.train(RECIPE, {"init": str(first.folder), **where})

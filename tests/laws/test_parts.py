"""Parts of prediction on every modality: they learn, keep their state and their teachers, and use nothing that is hidden."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTConfig, ViTModel

from mmssl.masking import Random
from mmssl.objectives.predict import Predict
from mmssl.objectives.predict.predictors import PREDICTORS, MaskToken, Similar, Transformer
from mmssl.objectives.predict.targets import Hidden, Raw, Rendered, Teacher
from mmssl.plugins import installed
from mmssl.testing import hidden_content_is_not_used, objective_of, small_model

NARROW: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
Settings = Callable[[], dict[str, Any]]


def predictor(kind: str, **settings: Any) -> Any:
    return PREDICTORS[kind](**(NARROW if kind == "transformer" else {}) | settings)


MASKED: dict[str, Settings] = {
    "hidden": lambda: {"predictor": MaskToken(corruption="swap", predict="all"), "targets": [Hidden(), Raw(weight=2.0)]},
    "teacher-pooled": lambda: {"predictor": Transformer(**NARROW), "targets": [Raw(), Teacher()]},
    "teacher-tokens": lambda: {"predictor": Transformer(**NARROW), "targets": [Raw(), Teacher(compare="tokens")], "masks": 2},
    "teacher-predicted": lambda: {"predictor": Transformer(**NARROW), "targets": [Teacher(compare="predicted")]},
    "similar": lambda: {"predictor": Similar(), "masks": 3},
    "seen-and-hidden": lambda: {
        "predictor": Transformer(**NARROW, predict="all"),
        "targets": [Raw(places="hidden"), Raw(places="seen", weight=0.5)],
    },
}
PAIRS = [(part, name) for part in MASKED for name in installed()]


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    """A vision transformer with random weights, as a folder."""
    ViTModel(ViTConfig(**NARROW, intermediate_size=16, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    return tmp_path


def small(name: str, settings: Settings, seed: int = 0) -> tuple[Predict, Any]:
    torch.manual_seed(seed)
    objective, batch = objective_of("masked", name, **settings())
    assert isinstance(objective, Predict)
    return objective.train(), batch


def check_learning(name: str, settings: Settings) -> Predict:
    """The loss falls on one batch, every trained weight gets a finite gradient, and frozen weights stay as they are."""
    objective, batch = small(name, settings)
    objective.networks.make()
    frozen = {key: value.clone() for key, value in objective.named_parameters() if not value.requires_grad}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3, weight_decay=0)
    losses = []
    for _ in range(20):
        loss = objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.tensor(losses).isfinite().all()
    assert losses[-1] < 0.95 * losses[0], losses
    for key, value in objective.named_parameters():
        if key in frozen:
            assert value.grad is None and torch.equal(value, frozen[key]), f"{key} is not frozen"
        else:
            assert value.grad is not None and value.grad.isfinite().all(), f"{key} has no gradient"
    return objective


def check_round_trip(name: str, settings: Settings, trained: Predict) -> None:
    """A fresh objective with the state of another one has its loss."""
    other, batch = small(name, settings, seed=1)
    other.networks.make()
    other.load_state_dict(trained.state_dict())
    assert_close(other.eval()(batch).loss, trained.eval()(batch).loss, rtol=0, atol=0)


@pytest.mark.parametrize(("part", "name"), PAIRS)
def test_part_learns_and_keeps_its_state(part: str, name: str) -> None:
    check_round_trip(name, MASKED[part], check_learning(name, MASKED[part]))


def test_views_of_points_teach_and_guide(vision: Path) -> None:
    def settings() -> dict[str, Any]:
        seeing = Rendered(model=str(vision), size=32)
        return {
            "mask": Random(ratio=0.8, guided=True),
            "predictor": Transformer(**NARROW, predict="all"),
            "targets": [Raw(places="hidden"), seeing],
        }

    check_round_trip("points", settings, check_learning("points", settings))


# The others show hidden content by design (the next token, another view, tokens without places), or need a grid of tokens: their
# own tests are in test_predict_parts.py.
@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("kind", ["transformer", "mask_token", "cross_attention", "similar"])
def test_nothing_hidden_is_used(kind: str, name: str) -> None:
    for objective in ("masked", "jepa"):
        built, batch = objective_of(objective, name, predictor=predictor(kind))
        assert isinstance(built, Predict)
        hidden_content_is_not_used(built, batch)


def test_leak_is_noticed() -> None:
    objective, batch = objective_of("masked", "image", predictor=MaskToken(keep=0.5))
    assert isinstance(objective, Predict)
    with pytest.raises(AssertionError, match="hidden content reaches the loss"):
        hidden_content_is_not_used(objective, batch)


@pytest.mark.parametrize("compare", ["pooled", "tokens"])
def test_teacher_that_is_the_student_is_at_no_distance(compare: Any, tmp_path: Path) -> None:
    small_model("text").save_pretrained(tmp_path)
    for target in (Teacher(compare=compare), Teacher(model=str(tmp_path), compare=compare)):
        objective, batch = objective_of("masked", "text", targets=[Raw(), target])
        assert objective.eval()(batch).metrics["teacher_distance"].value == 0


def test_what_makes_no_sense_is_refused(vision: Path, tmp_path: Path) -> None:
    small_model("text").save_pretrained(tmp_path / "text")
    small_model("image", hidden_size=64).save_pretrained(tmp_path / "wide")
    seeing = Rendered(model=str(vision), size=32)
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("image", "predictor.predict: all", {"targets": [Hidden()]}),
        ("image", "predictor.predict: all", {"targets": [Raw(places="seen")]}),
        ("image", "the teacher .* knows text, but not image", {"targets": [Teacher(model=str(tmp_path / "text"))]}),
        ("image", "choose compare: predicted", {"targets": [Teacher(model=str(tmp_path / "wide"))]}),
        ("text", "views of a sample from outside, which 'text' does not have", {"predictor": Similar(), "targets": [seeing]}),
        (
            "points",
            "a multiple of the patches of .*, 8; got 36",
            {"predictor": Similar(), "targets": [Rendered(model=str(vision), size=36)]},
        ),
    ]
    for name, message, settings in wrong:
        with pytest.raises(ValueError, match=message):
            objective_of("masked", name, **settings)
    objective, batch = objective_of("masked", "points", mask=Random(guided=True))
    with pytest.raises(ValueError, match="guided needs a target that says what matters"):
        objective(batch)

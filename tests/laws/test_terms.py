"""What an objective says of a batch adds up: weights known beforehand are those of the terms, and saying it changes nothing."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmssl.data import Batch
from mmssl.objectives import OBJECTIVES, Clock, Masked, Objective, Setup, Step
from mmssl.objectives.predict.distances import LOSSES, Chamfer, InfoNce, Loss, SameSample
from mmssl.objectives.predict.predictors import PREDICTORS, Causal, CrossAttention, MaskToken, Similar, Transformer, Unordered
from mmssl.objectives.predict.targets import (
    TARGETS,
    Assignments,
    Clusters,
    Embedding,
    Encoding,
    Hidden,
    Latent,
    Normalised,
    Quantised,
    RandomCodes,
    Raw,
    Teacher,
)
from mmssl.objectives.terms import Metric
from mmssl.plugins import installed
from mmssl.testing import SINGLE, batch_of, objective_of, small_model

NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "seen and hidden": lambda: {
        "predictor": Transformer(predict="all", **NARROW),
        "targets": [Raw(places="seen"), Raw(places="hidden", weight=0.5)],
    },
    "swapped cells": lambda: {
        "predictor": MaskToken(corruption="swap", predict="all"),
        "targets": [Hidden(), Raw()],
        "masks": 2,
    },
    "two teachers": lambda: {"targets": [Latent(layers=2, part="ffn"), Latent(momentum=(0.9, 0.9))], "masks": 2},
    "assignments": lambda: {"predictor": CrossAttention(), "targets": [Assignments(clusters=8)]},
    "codes": lambda: {
        "predictor": MaskToken(),
        "targets": [
            RandomCodes(codes=16, width=8),
            Clusters(codes=[6, 5], layers=[1], starts=[0.3], sample=40),
            Quantised(codes=8, code_width=16, width=16, loss=SameSample(count=3)),
        ],
    },
    "frozen": lambda: {"targets": [Raw(), Teacher(), Teacher(compare="tokens"), Teacher(compare="predicted", weight=0.2)]},
    "next": lambda: {"predictor": Causal(), "targets": [Embedding(loss=InfoNce(negatives="batch"))]},
    "unordered": lambda: {"predictor": Unordered(), "targets": [Embedding(stop_gradient=False)]},
    "similar": lambda: {"predictor": Similar(), "targets": [Raw()], "masks": 2},
    "encoding": lambda: {"predictor": CrossAttention(decoder_layers=1), "targets": [Raw(), Encoding()]},
    "normalised": lambda: {"targets": [Normalised()]},
}
STEP = Step(Clock(3, 0.5), diagnose=True)


def build(kind: str, name: str) -> tuple[Objective, Batch]:
    """An objective that has seen a step already; skips where a modality refuses the parts."""
    if kind in OBJECTIVES:
        objective, batch = objective_of(kind, name)
    else:
        batch = batch_of(name)
        try:
            objective = Masked(small_model(name), Setup(), **SETTINGS[kind]())
        except ValueError as error:
            pytest.skip(str(error))
    objective.train()
    try:
        objective(batch)
    except ValueError as error:  # tokens of one value have nothing to normalise
        pytest.skip(str(error))
    objective.after_step(STEP.clock)
    return objective, batch


every_case = pytest.mark.parametrize(("kind", "name"), list(itertools.product([*SINGLE, *SETTINGS], installed())))


@every_case
def test_weights_are_those_of_the_terms(kind: str, name: str) -> None:
    objective, batch = build(kind, name)
    objective.observe([batch], STEP)
    found = objective.terms(batch, STEP)
    expected = {key: term.weight.sum().item() for key, term in found.terms.items()}
    assert {key: weight.item() for key, weight in objective.weights(batch, STEP).items()} == expected
    assert all(term.total.dim() == 1 and term.total.shape == term.weight.shape for term in found.terms.values())
    assert all(isinstance(metric, Metric) and metric.value.isfinite() for metric in found.metrics.values())
    assert not any(metric.value.requires_grad for metric in found.metrics.values())


@every_case
def test_saying_it_changes_nothing(kind: str, name: str) -> None:
    """A second call says the same, and everything that is saved stays as it was."""
    objective, batch = build(kind, name)
    objective.observe([batch], STEP)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    first, second = objective.terms(batch, STEP).loss(), objective.terms(batch, STEP).loss()
    assert torch.equal(first, second)
    after = objective.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", sorted(LOSSES.own))
def test_there_is_what_a_loss_counts(name: str) -> None:
    """Values are missing one by one and token by token."""
    loss: Loss = LOSSES[name]()
    truth = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    truth[0, 1], truth[1, 2, 3], truth[2, 0, :3] = torch.nan, torch.nan, torch.nan
    if isinstance(loss, Chamfer):
        assert loss.there(truth).sum() == 14
    draws = batch_of("text", 3).draws
    assert torch.equal(loss.there(truth), loss(torch.zeros_like(truth), truth, None, draws)[1])
    if loss.classes:
        classes = torch.tensor([[1, -100, 2, 0, 5]] * 3)
        assert torch.equal(loss.there(classes), loss(torch.zeros_like(truth), classes, None, draws)[1])


def test_everything_built_in_is_looked_at() -> None:
    parts = [part for settings in SETTINGS.values() for part in settings()["targets"]]
    other = {"hog", "gradients", "position", "aspect", "rendered"}  # of pictures and sounds only: by the default `outline`
    assert {kind for kind in TARGETS.own if not any(type(part) is TARGETS.own[kind] for part in parts)} == other
    assert {"conv", "siamese"} >= set(PREDICTORS.own) - {
        next(key for key, kind in PREDICTORS.own.items() if type(settings().get("predictor") or Transformer()) is kind)
        for settings in SETTINGS.values()
    }

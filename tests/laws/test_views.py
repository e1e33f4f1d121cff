"""Objectives see the random views that a recipe asks for; targets see the same, or with `view: clean` the samples as they are."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mmssl.data import Batch, Labels
from mmssl.modality import Augment, Inputs, find
from mmssl.objectives import OBJECTIVES, Objective, Setup
from mmssl.objectives.predict import Masked
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.objectives.predict.targets import Clusters, Latent, Normalised, RandomCodes, Raw, Target, Teacher
from mmssl.plugins import installed
from mmssl.testing import SINGLE, batch_of, small_model

SAMPLES = 6
every_modality = pytest.mark.parametrize("name", installed())


def build(kind: str, name: str, augment: Augment, **settings: Any) -> Objective:
    labels = Labels("classification", ["a", "b"], (torch.arange(SAMPLES) % 2).numpy())
    predictor = {"predictor": MaskToken()} if kind in ("masked", "jepa") else {}
    torch.manual_seed(0)
    return OBJECTIVES[kind](small_model(name), Setup({name: augment}, labels), **predictor, **settings).eval()


def remembered(adapter: nn.Module) -> list[Inputs]:
    """What an adapter makes tokens of, from now on."""
    seen: list[Inputs] = []
    adapter.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    return seen


def check_same(found: Inputs, expected: Inputs) -> None:
    for key, value in expected.items():
        assert_close(found[key], value, rtol=0, atol=0, equal_nan=True)


def differ(one: Inputs, other: Inputs) -> bool:
    return any(key not in other or not torch.equal(value.nan_to_num(), other[key].nan_to_num()) for key, value in one.items())


@every_modality
@pytest.mark.parametrize("kind", SINGLE)
def test_the_encoder_sees_the_view_of_the_recipe(kind: str, name: str) -> None:
    modality, batch = find(name), batch_of(name, SAMPLES, torch.arange(SAMPLES) % 2)
    for settings in modality.strong:
        augment = modality.augment(**settings)
        objective = build(kind, name, augment)
        seen = remembered(objective.model.adapter(name))
        objective(batch)
        view = augment(batch.inputs[name], batch.draws.fork(0))
        assert differ(view, batch.inputs[name])
        check_same(seen[0], view)
        objective(replace(batch, keys=batch.keys + 1))
        assert differ(seen[-1], view), "another step, another view"


@every_modality
@pytest.mark.parametrize("view", ["same", "clean"])
def test_a_teacher_sees_what_the_recipe_says(view: str, name: str) -> None:
    modality, batch = find(name), batch_of(name)
    augment = modality.augment(**modality.strong[0])
    if view == "clean" and name in ("text", "timeseries"):
        augment = modality.augment()  # or the tokens would lie at other places
    objective = build("jepa", name, augment, view=view)
    objective.networks.make()
    (teacher,) = objective.networks.copies.children()
    seen = remembered(teacher.adapter(name))
    objective(batch)
    inputs = batch.inputs[name]
    check_same(seen[0], inputs if view == "clean" else augment(inputs, batch.draws.fork(0)))


TARGETS: dict[str, Callable[[], Target]] = {
    "raw": Raw,
    "normalised": Normalised,
    "latent": Latent,
    "random_codes": lambda: RandomCodes(codes=64, width=8),
    "clusters": lambda: Clusters(codes=[16], sample=40),
    "teacher": lambda: Teacher(compare="predicted"),
}


def loss_of(name: str, target: str, view: str, seen: Inputs, batch: Batch) -> Tensor:
    """Loss of a batch whose random view is always `seen`."""
    torch.manual_seed(0)
    objective = Masked(
        small_model(name), Setup({name: lambda inputs, draws: seen}), predictor=MaskToken(), targets=[TARGETS[target]()], view=view
    )
    objective.networks.make()
    objective.train()(batch)  # codes are made from the first batch
    return objective.eval()(batch).loss


@every_modality
@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_of_the_view_or_of_the_samples_as_they_are(target: str, name: str) -> None:
    if target == "normalised" and name in ("points", "tabular"):
        pytest.skip("has no meaning for sets of points, nor for cells of one value")
    batch = batch_of(name, SAMPLES)
    view = batch.inputs[name]
    changed = replace(batch, inputs={name: other_content(view)})
    same = [loss_of(name, target, "same", view, one) for one in (batch, changed)]
    clean = [loss_of(name, target, "clean", view, one) for one in (batch, changed)]
    assert torch.equal(same[0], same[1]), "the samples as they are reach a target of the view"
    assert torch.equal(clean[0], same[0]), "where the view is the sample as it is, both are alike"
    assert not torch.equal(clean[1], clean[0]), "the target does not see the samples as they are"


def other_content(inputs: Inputs) -> Inputs:
    """Other values at the same places."""
    if any(value.is_floating_point() for value in inputs.values()):
        return {key: value * value.abs() if value.is_floating_point() else value for key, value in inputs.items()}
    return {key: value & ~1 if value.shape[1:].numel() > 1 else value for key, value in inputs.items()}

"""The supervised objective against float64 loops over its own predictions."""

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mmssl.data import Batch, Labels
from mmssl.draws import Draws
from mmssl.modality import Inputs
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Setup, Step, Supervised
from mmssl.recipe import RecipeError, load
from mmssl.testing import SAMPLES, batch_of, small_model, small_processor
from mmssl_catalogue import recipes_found

CLASSES = Labels("classification", ["ash", "elm", "oak"], np.arange(SAMPLES) % 3)
NUMBERS = Labels("regression", [], np.linspace(100, 700, 25, dtype=np.float32))
MEAN, STD = 400.0, 600 / 24 * math.sqrt((25**2 - 1) / 12)
"""Of 25 evenly spaced numbers, in closed form."""


def objective_of(labels: Labels | None, **settings: Any) -> Supervised:
    return Supervised(small_model("tabular"), Setup(labels=labels), **settings)


def layer(objective: Supervised) -> nn.Linear:
    """The linear map that predicts."""
    return cast(nn.Linear, cast(nn.ModuleDict, objective.model.heads)["label"])


def batch_with(labels: Labels) -> Batch:
    return batch_of("tabular", labels=labels.tensor()[:SAMPLES])


@torch.no_grad()
def predictions(objective: Supervised, batch: Batch) -> list[list[float]]:
    """What the head makes of the model's pooled output, through the model's public face."""
    pooled = objective.model(**batch.inputs["tabular"]).pooler_output.double()
    weight, bias = layer(objective).weight.double(), layer(objective).bias.double()
    return (pooled @ weight.T + bias).tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_classes_are_learned_by_smoothed_cross_entropy(smoothing: float) -> None:
    objective, batch = objective_of(CLASSES, label_smoothing=smoothing), batch_with(CLASSES)
    total, right = 0.0, 0
    for number, logits in enumerate(predictions(objective, batch)):
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        for position, logit in enumerate(logits):
            share = smoothing / 3 + (1 - smoothing) * (position == number % 3)
            total -= share * (logit - log_sum)
        right += max(range(3), key=logits.__getitem__) == number % 3
    output = objective(batch)
    assert output.loss.item() == pytest.approx(total / SAMPLES, rel=1e-5)
    assert output.metrics["accuracy"].value.item() == pytest.approx(right / SAMPLES)
    assert not output.metrics["accuracy"].value.requires_grad


def test_numbers_are_learned_by_squared_error_in_units_of_their_spread() -> None:
    objective, batch = objective_of(NUMBERS), batch_with(NUMBERS)
    targets = [(float(value) - MEAN) / STD for value in NUMBERS.values[:SAMPLES]]
    errors = [(value - target) ** 2 for (value,), target in zip(predictions(objective, batch), targets, strict=True)]
    output = objective(batch)
    assert output.loss.item() == pytest.approx(sum(errors) / SAMPLES, rel=1e-5)
    assert output.metrics == {}


def test_labels_that_do_not_vary_are_only_centred() -> None:
    constant = Labels("regression", [], np.full(SAMPLES, 7.0, dtype=np.float32))
    objective, batch = objective_of(constant), batch_with(constant)
    expected = sum(value**2 for (value,) in predictions(objective, batch)) / SAMPLES
    assert objective(batch).loss.item() == pytest.approx(expected, rel=1e-5)


def test_head_has_an_output_per_class_and_starts_like_the_other_projections() -> None:
    torch.manual_seed(0)
    objective = objective_of(Labels("classification", [str(i) for i in range(200)], np.arange(200)))
    assert layer(objective).weight.shape == (200, 32)
    assert layer(objective).weight.abs().max() <= math.sqrt(6 / (200 + 32)), "Xavier's bound"
    assert layer(objective).weight.std().item() == pytest.approx(math.sqrt(2 / (200 + 32)), rel=0.05)
    assert not layer(objective).bias.any()
    assert layer(objective_of(NUMBERS)).weight.shape == (1, 32)


def test_view_is_that_of_the_recipe() -> None:
    seen: list[Tensor] = []

    def zeros(inputs: Inputs, draws: Draws) -> Inputs:
        seen.append(draws.keys)
        return {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}

    model, batch = small_model("tabular"), batch_with(CLASSES)
    objective = Supervised(model, Setup({"tabular": zeros}, CLASSES))
    blank = Batch({"tabular": zeros(batch.inputs["tabular"], batch.draws)}, batch.keys, batch.ids, batch.labels)
    plain = Supervised(model, Setup(labels=CLASSES))
    assert objective(batch).loss.item() == plain(blank).loss.item() != plain(batch).loss.item()
    assert torch.equal(seen[-1], batch.draws.fork(0).keys)


def test_published_model_is_the_one_that_learns() -> None:
    objective = objective_of(CLASSES)
    assert objective.published() is objective.model
    assert objective.needs_labels


def test_missing_labels_say_how_to_name_them() -> None:
    with pytest.raises(ValueError, match=r"the supervised objective needs labels: name their column, data\.columns\.label=COLUMN"):
        objective_of(None)


def test_smoothing_of_numbers_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"objective\.label_smoothing is about one class of several, but the labels are for regression"
    ):
        objective_of(NUMBERS, label_smoothing=0.1)


def test_recipe_bounds_the_smoothing() -> None:
    recipe = {"modalities": {"tabular": {}}, "objective": {"name": "supervised"}, "data": {"path": "x"}, "train": {"max_steps": 1}}
    name, settings = load(recipe, ["objective.label_smoothing=0.1"]).objective
    assert name == "supervised" and settings["label_smoothing"] == 0.1
    assert settings == load(recipe).objective[1] | {"label_smoothing": 0.1}
    with pytest.raises(RecipeError, match=r"objective\.label_smoothing: expected a number >= 0 and < 1, got 1"):
        load(recipe, ["objective.label_smoothing=1"])


def test_in_a_sum_the_label_is_told_from_one_modality_of_the_rows_that_hold_it() -> None:
    recipe = load(recipes_found()["pairs/all_in_one_glyphs"])
    assert recipe.needs_labels and not load(recipes_found()["pairs/tips_glyphs"]).needs_labels
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}} for name in ("image", "text")}
    model = MMSSLModel(MMSSLConfig(modalities=modalities, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    objective = Supervised(model, Setup(labels=CLASSES), modality="text").train(False)
    texts, pictures, labels = batch_of("text"), batch_of("image"), CLASSES.tensor()[:SAMPLES]
    held = torch.tensor([0, 2])
    some = replace(texts, labels=labels).take(held)
    rows = {"image": torch.arange(SAMPLES), "text": held}
    both = Batch({"image": pictures.inputs["image"], **some.inputs}, texts.keys, texts.ids, labels, rows=rows)
    assert_close(objective(both).loss, objective(some).loss)
    assert objective.weights(both, Step())["loss"] == 2
    none = Batch(pictures.inputs, pictures.keys, pictures.ids, labels, rows={"image": torch.arange(SAMPLES)})
    assert objective(none).loss == 0 and objective.weights(none, Step())["loss"] == 0
    with pytest.raises(ValueError, match=r"objective.modality is 'sound', but the recipe has image, text"):
        Supervised(model, Setup(labels=CLASSES), modality="sound")

"""Every predictor and target of hide-and-predict on every modality: it learns, keeps its state, leaks nothing, or says why not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.distances import InfoNce
from mmssl.objectives.predict.predictors import Causal, Conv, CrossAttention, MaskToken, Siamese, Unordered
from mmssl.objectives.predict.targets import Assignments, Embedding, Encoding, Gradients, Hog, Latent, Position, Raw
from mmssl.plugins import installed
from mmssl.testing import OBJECTIVE_LAWS, batch_of, small_model

STEPS = 50
PICTURES = ["audio", "image"]
NO_PICTURE = "needs tokens that are pieces of a picture"
PLACES = {"audio": (64, 1, 8, 1), "image": (1, 1, 4, 4), "text": (64, 1, 1, 1)}
"""The grids in which the examples of a modality lie; those of the others have no numbered places."""
NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@dataclass(frozen=True)
class Parts:
    """Settings of masked modelling by modality, and what it says to modalities for which they make no sense."""

    settings: Callable[[str], dict[str, Any]]
    refused: dict[str, str]


PARTS = {
    "hog": Parts(
        lambda name: {"predictor": MaskToken(), "targets": [Hog()]}, dict.fromkeys({*installed()} - {*PICTURES}, NO_PICTURE)
    ),
    "gradients": Parts(
        lambda name: {"predictor": MaskToken(), "targets": [Gradients(scales=[1, 3])]},
        dict.fromkeys({*installed()} - {*PICTURES}, NO_PICTURE),
    ),
    "position": Parts(
        lambda name: {"predictor": Unordered(), "targets": [Position(grid=PLACES.get(name, (1, 1, 1, 1)))]},
        {"points": "with numbered places", "tabular": "with numbered places", "timeseries": "lie elsewhere"},
    ),
    "next embedding": Parts(lambda name: {"predictor": Causal(), "targets": [Embedding(head=False)]}, {}),
    "fitting piece": Parts(
        lambda name: {"predictor": CrossAttention(), "targets": [Embedding(stop_gradient=False, loss=InfoNce())]}, {}
    ),
    "aligned": Parts(
        lambda name: {"predictor": CrossAttention(decoder_layers=1), "targets": [Raw(), Encoding(head=False, weight=2.0)]}, {}
    ),
    "assignments": Parts(lambda name: {"predictor": CrossAttention(**NARROW), "targets": [Assignments(clusters=6)]}, {}),
    "conv": Parts(
        lambda name: {"predictor": Conv(hidden_size=32), "masks": 2, "targets": [Latent(part="ffn", layers=None)]},
        {"points": "along depth, height, width", "tabular": "columns have no place", "timeseries": "at whole coordinates"},
    ),
    "conv in a row": Parts(
        lambda name: {"predictor": Conv(hidden_size=32, axes=1)},
        {"tabular": "columns have no place"} | dict.fromkeys(["audio", "image", "points", "timeseries"], "choose axes: 2"),
    ),
    "siamese": Parts(lambda name: {"predictor": Siamese(**NARROW)}, {}),
}
CASES = [(kind, name) for kind, parts in PARTS.items() for name in installed() if name not in parts.refused]
REFUSED = [(kind, name, message) for kind, parts in PARTS.items() for name, message in sorted(parts.refused.items())]

LAWS = ["every_weight_learns", "loss_falls", "loss_is_a_function_of_batch_and_state", "weights_are_those_of_the_terms"]
"""Of objectives; resuming and micro-batches are looked at in test_objectives.py and test_step.py."""

every_case = pytest.mark.parametrize(("kind", "name"), CASES)


def build(kind: str, name: str) -> Masked:
    return Masked(small_model(name), Setup(), **PARTS[kind].settings(name))


@every_case
@pytest.mark.parametrize(
    "law", ["every_weight_learns", "loss_falls", "loss_is_a_function_of_batch_and_state", "weights_are_those_of_the_terms"]
)
def test_law(law: str, kind: str, name: str) -> None:
    OBJECTIVE_LAWS[law](lambda model, setup: Masked(model, setup, **PARTS[kind].settings(name)), name)


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[0] not in ("position", "next embedding")])
@torch.no_grad()
def test_hidden_content_does_not_reach_the_prediction(kind: str, name: str) -> None:
    """With other content in hidden tokens, and the same targets, the prediction and so the loss is the same."""
    objective, batch = build(kind, name).eval(), batch_of(name)
    scene, predicted = objective.predict(name, batch.inputs[name], batch)
    tokens = scene.tokens.repeat(len(scene.parts.hidden) // len(batch))
    hidden = scene.parts.hidden_places(tokens.values.shape[1])
    other = replace(tokens, values=torch.where(hidden[..., None], torch.randn_like(tokens.values), tokens.values))
    views = [tokens] * (objective.predictor.views - 1)
    again = objective.predictor(objective.model.encoder, other, scene.parts, scene.draws, views)
    real = torch.ones_like(predicted.index, dtype=torch.bool) if predicted.real is None else predicted.real
    assert real.any()
    assert_close(again.values[real], predicted.values[real])
    assert not torch.equal(other.values, tokens.values)


@pytest.mark.parametrize(("kind", "name", "message"), REFUSED)
def test_what_makes_no_sense_is_said(kind: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(kind, name)(batch_of(name))

"""Parameter groups of the objectives, and AdamW against its algorithm in plain numbers."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from mmssl.objectives import Objective
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.testing import objective_of
from mmssl.training.optim import adamw, decays, parameter_groups, set_lr

CASES = [
    ("masked", "image", {}),
    ("masked", "tabular", {}),
    ("masked", "tabular", {"predictor": MaskToken}),
    ("supervised", "image", {}),
]
every_case = pytest.mark.parametrize(("kind", "modality", "settings"), CASES, ids=lambda value: str(value))


def groups_of(objective: Objective, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    return parameter_groups(objective, objective.model.encoder, weight_decay=0.1, layer_decay=layer_decay)


def by_name(objective: Objective, key: str, **settings: float) -> dict[str, float]:
    """A value of the group that each trainable parameter is in."""
    names = {parameter: name for name, parameter in objective.named_parameters()}
    return {names[parameter]: group[key] for group in groups_of(objective, **settings) for parameter in group["params"]}


@every_case
def test_groups_divide_the_trainable_parameters(kind: str, modality: str, settings: dict[str, Any]) -> None:
    objective, _ = objective_of(kind, modality, **{key: make() for key, make in settings.items()})
    objective.model.encoder.layers[0].requires_grad_(False)
    placed = [parameter for group in groups_of(objective, 0.5) for parameter in group["params"]]
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert len(placed) == len(set(placed)) == len(trainable)
    assert set(placed) == set(trainable)


@every_case
def test_only_projections_decay(kind: str, modality: str, settings: dict[str, Any]) -> None:
    """Weights of linear maps; no bias, norm, embedding, prefix, mask token or vector of a column."""
    objective, _ = objective_of(kind, modality, **{key: make() for key, make in settings.items()})
    linear = {f"{path}.weight" for path, module in objective.named_modules() if isinstance(module, nn.Linear)}
    found = by_name(objective, "weight_decay")
    assert found == {name: 0.1 if name in linear else 0.0 for name, _ in objective.named_parameters()}
    spared = {name.rsplit(".", 1)[-1] for name, decay in found.items() if decay == 0}
    assert spared >= {"bias", "prefix", "weight"}  # weight: of norms and embeddings
    assert (kind == "masked") == ("mask_token" in spared)


def test_embeddings_do_not_decay_and_convolutions_do() -> None:
    kinds = {nn.Embedding(3, 4): False, nn.LayerNorm(3): False, nn.Conv2d(3, 4, 2): True, nn.Linear(3, 4): True}
    for module, expected in kinds.items():
        assert decays(module, "weight", module.weight) is expected
    linear = nn.Linear(3, 4)
    assert not decays(linear, "bias", linear.bias)


@every_case
def test_layers_learn_slower_the_deeper_they_lie(kind: str, modality: str, settings: dict[str, Any]) -> None:
    """Two layers: heads, decoder and final norm 1, then a factor of 0.5 per layer, adapters and prefix last."""
    objective, _ = objective_of(kind, modality, **{key: make() for key, make in settings.items()})
    assert len(objective.model.encoder.layers) == 2
    starts = {
        "networks.student.encoder.layers.1.": 0.5,
        "networks.student.encoder.layers.0.": 0.25,
        "networks.student.encoder.prefix": 0.125,
        "networks.student.adapters.": 0.125,
    }
    for name, scale in by_name(objective, "scale", layer_decay=0.5).items():
        expected = [value for start, value in starts.items() if name.startswith(start)]
        assert scale == (expected[0] if expected else 1.0), name
    assert set(by_name(objective, "scale").values()) == {1.0}


def test_learning_rate_reaches_each_group_with_its_scale() -> None:
    objective, _ = objective_of("masked", "image")
    optimizer = adamw(groups_of(objective, 0.5), lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    set_lr(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2 * group["scale"] for group in optimizer.param_groups]
    assert {group["scale"] for group in optimizer.param_groups} == {0.125, 0.25, 0.5, 1.0}


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_matches_its_algorithm(weight_decay: float) -> None:
    """Algorithm 2 of arXiv 1711.05101, with a learning rate that changes from step to step."""
    torch.manual_seed(0)
    beta1, beta2, eps = 0.8, 0.9, 1e-3
    parameter = nn.Parameter(torch.randn(5, dtype=torch.float64))
    groups = [{"params": [parameter], "weight_decay": weight_decay, "scale": 0.5}]
    optimizer = adamw(groups, lr=1.0, betas=(beta1, beta2), eps=eps)
    theta, first, second = parameter.tolist(), [0.0] * 5, [0.0] * 5
    for step in range(1, 6):
        lr, gradient = 0.1 * step, torch.randn(5, dtype=torch.float64)
        parameter.grad = gradient.clone()
        set_lr(optimizer, lr)
        optimizer.step()
        for i, g in enumerate(gradient.tolist()):
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g * g
            m, v = first[i] / (1 - beta1**step), second[i] / (1 - beta2**step)
            theta[i] -= 0.5 * lr * (m / (math.sqrt(v) + eps) + weight_decay * theta[i])
        assert parameter.tolist() == pytest.approx(theta, rel=1e-9)

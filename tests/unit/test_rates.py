"""Rates and decays over time and of parts: what a recipe says of them, and what the optimizer does."""

import math
from typing import Any

import pytest
import torch

from mmssl.recipe import RecipeError, load
from mmssl.recipe.options import PartOptions
from mmssl.testing import objective_of
from mmssl.training.optim import adamw, parameter_groups, set_lr, set_weight_decay

PROTOTYPES = PartOptions(match="prototypes", lr=0.5, weight_decay=0.01)


def groups_of(kind: str, *parts: PartOptions, **settings: Any) -> tuple[list[dict[str, Any]], dict[torch.nn.Parameter, str]]:
    objective, _ = objective_of(kind, "image")
    names = {parameter: name for name, parameter in objective.named_parameters()}
    known = {"weight_decay": (0.04, 0.4), "layer_decay": 1.0} | settings
    return parameter_groups(objective, objective.model.encoder, parts=parts, **known), names


def by_name(kind: str, key: str, *parts: PartOptions, **settings: Any) -> dict[str, Any]:
    groups, names = groups_of(kind, *parts, **settings)
    return {names[parameter]: group[key] for group in groups for parameter in group["params"]}


def test_weight_decay_goes_by_half_a_cosine_over_the_budget() -> None:
    """CosineWDSchedule of I-JEPA: final + (reference - final) (1 + cos(pi step / steps)) / 2; what does not decay never does."""
    groups, _ = groups_of("masked")
    optimizer = adamw(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    for progress in (0.0, 0.25, 0.5, 1.0):
        set_weight_decay(optimizer, progress)
        wanted = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * progress))
        found = {group["weight_decay"] for group in optimizer.param_groups}
        assert sorted(found) == pytest.approx([0.0, wanted])
    constant = adamw(groups_of("masked", weight_decay=0.05)[0], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    set_weight_decay(constant, 0.3)
    assert {group["weight_decay"] for group in constant.param_groups} == {0.0, 0.05}


def test_a_pair_groups_the_parameters_as_a_constant_does() -> None:
    """So that a checkpoint of either fits the other."""
    pair, constant = groups_of("masked")[0], groups_of("masked", weight_decay=0.05)[0]
    assert [[p.shape for p in group["params"]] for group in pair] == [[p.shape for p in group["params"]] for group in constant]


def test_parts_have_rates_and_decays_of_their_own() -> None:
    parts = (PROTOTYPES, PartOptions(match="adapters", lr=0.2), PartOptions(match=r"layers\.0\.", lr=0.1))
    scales, courses = (by_name("distill", key, *parts) for key in ("scale", "course"))
    assert any("prototypes" in name for name in scales)
    for name, scale in scales.items():
        wanted = 0.5 if "prototypes" in name else 0.2 if ".adapters." in name else 0.1 if "layers.0." in name else 1.0
        assert scale == wanted, name
        if courses[name] != (0.0, 0.0):
            assert courses[name] == ((0.01, 0.01) if "prototypes" in name else (0.04, 0.4)), name


def test_the_first_part_that_matches_counts_beside_layer_decay() -> None:
    scales = by_name("masked", "scale", PartOptions(match="adapters", lr=0.2), PartOptions(match="image", lr=0.5), layer_decay=0.5)
    assert scales["networks.student.adapters.image.proj.weight"] == pytest.approx(0.2 * 0.5**3)
    assert scales["heads.0.image.pixels.weight"] == 0.5
    assert scales["networks.student.encoder.layers.1.attention.q_proj.weight"] == 0.5


def test_heads_are_all_that_is_not_the_model() -> None:
    scales = by_name("masked", "scale", PartOptions(match="heads", lr=0.5))
    model = ("networks.student.adapters.", "networks.student.encoder.")
    assert {name for name, scale in scales.items() if scale == 1.0} == {name for name in scales if name.startswith(model)}
    assert 0.5 in scales.values()


def test_a_part_of_no_parameter_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"train\.parts\.1: no parameter that learns matches 'stem', .*names like networks\.student"
    ):
        groups_of("masked", PartOptions(match="heads"), PartOptions(match="stem"))


def test_a_part_at_rate_0_stays_and_one_at_half_goes_half_as_far() -> None:
    torch.manual_seed(0)
    objective, _ = objective_of("masked", "image")
    parts = (PartOptions(match="adapters", lr=0.0), PartOptions(match="heads", lr=0.5, weight_decay=0.0))
    groups = parameter_groups(objective, objective.model.encoder, weight_decay=0.0, layer_decay=1.0, parts=parts)
    optimizer = adamw(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-12)
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_lr(optimizer, 0.01)
    optimizer.step()
    for name, parameter in objective.named_parameters():
        moved = (before[name] - parameter.detach()).abs().max().item()
        wanted = 0.0 if ".adapters." in name else 0.01 if name.startswith("networks.student.encoder.") else 0.005
        assert moved == pytest.approx(wanted, abs=1e-6), name


RECIPE = {
    "modalities": {"image": {}},
    "objective": {"name": "masked"},
    "data": {"path": "x"},
    "train": {"max_steps": 1, "weight_decay": [0.04, 0.4], "parts": [{"match": "prototypes", "lr": 0.5, "weight_decay": 0.01}]},
}


def test_a_recipe_says_so() -> None:
    options = load(RECIPE).section("train")
    assert options.weight_decay == (0.04, 0.4)
    assert options.parts == (PROTOTYPES,)
    assert load(load(RECIPE).resolved()).resolved() == load(RECIPE).resolved()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.weight_decay=-0.1", r"train\.weight_decay: expected .*got -0\.1"),
        ("train.weight_decay=[0.04]", r"train\.weight_decay"),
        (
            "train.parts=[{match: '('}]",
            r"train\.parts\.0: match is one of adapters, encoder, prototypes, heads, or a regular expression",
        ),
        ("train.parts=[{lr: 0.5}]", r"train\.parts\.0\.match: missing"),
    ],
)
def test_bad_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(RECIPE, [override])

"""What is counted on a few samples, without weights, is what a step of many samples keeps, of every modality and objective."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.data import Batch, Labels
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import Encoder, MMSSLConfig, MMSSLModel
from mmssl.objectives import OBJECTIVES, Objective, Setup
from mmssl.objectives.agree.clip import Clip
from mmssl.plugins import points
from mmssl.recipe.options import TrainOptions
from mmssl.testing.small import SMALL, batch_of, small_model, small_processor
from mmssl.training.loop import set_attention
from mmssl.training.sizing.cost import chosen, cost
from mmssl.training.sizing.weightless import weigh, weightless
from mmssl_catalogue import MODALITIES

COUNT = 24
"""Samples of the micro-batch that is measured."""
WITHIN = 0.1

Made = Callable[[], tuple[Objective, Batch]]


def single(kind: str, name: str) -> tuple[Objective, Batch]:
    labels = torch.arange(COUNT) % 2
    meaning = Labels("classification", ["a", "b"], labels.numpy())
    objective = OBJECTIVES[kind](small_model(name), Setup({name: find(name).augment()}, labels=meaning))
    return objective, batch_of(name, COUNT, labels)


def paired(name: str, other: str) -> tuple[Objective, Batch]:
    torch.manual_seed(0)
    parts = {each: {"processor": small_processor(each).settings(), "adapter": {}} for each in (name, other)}
    model = MMSSLModel(MMSSLConfig(modalities=parts, **SMALL)).eval()
    inputs = {each: batch_of(each, COUNT).inputs[each] for each in (name, other)}
    ids = torch.arange(COUNT)
    return Clip(model, Setup()), Batch(inputs, keys(0, 0, ids), ids)


class Held:
    """A tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def measured(objective: Objective, batch: Batch, half: bool) -> float:
    """Bytes that autograd keeps of a forward pass, weights, buffers and the batch apart."""
    held = weakref.WeakSet[Held]()

    def keep(tensor: Tensor) -> Held:
        found = Held(tensor)
        held.add(found)
        return found

    given = [tensor for inputs in batch.inputs.values() for tensor in inputs.values()]
    known = {each.untyped_storage().data_ptr() for each in (*objective.parameters(), *objective.buffers(), *given)}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda found: found.tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        output = objective.train()(batch)
        storages = {each.tensor.untyped_storage().data_ptr(): each.tensor.untyped_storage().nbytes() for each in held}
    output.loss.backward()
    return float(sum(size for place, size in storages.items() if place not in known))


def check(make: Made, precision: str = "fp32", again: bool = False) -> None:
    objective, batch = make()
    objective.networks.make()
    with weightless():
        empty, _ = make()
        empty.networks.make()
    weigh(empty)
    for each in (objective, empty):
        set_attention(each, "sdpa", torch.device("cpu"))
    if again:
        for module in objective.modules():
            if isinstance(module, Encoder):
                module.recompute_activations()
    counts = torch.zeros(COUNT, dtype=torch.int64)
    for name, inputs in batch.inputs.items():
        counts += objective.model.count_tokens(name, inputs)
    options: dict[str, Any] = {"precision": precision, "max_steps": 1}
    found = cost(empty, chosen(batch, counts), TrainOptions(**options))
    of = found.entering if again else found.kept
    expected = of(COUNT) + found.coupled(COUNT) + (0 if again else found.casts)
    assert measured(objective, batch, half=precision == "bf16") == pytest.approx(expected, rel=WITHIN)


@pytest.mark.parametrize("kind", ["masked", "jepa", "distill", "contrast"])
@pytest.mark.parametrize("name", points(MODALITIES))
def test_activations_are_those_of_a_real_micro_batch(name: str, kind: str) -> None:
    check(lambda: single(kind, name))


@pytest.mark.parametrize("pair", [("image", "text"), ("audio", "points"), ("timeseries", "tabular")])
def test_activations_of_pairs(pair: tuple[str, str]) -> None:
    check(lambda: paired(*pair))


@pytest.mark.parametrize("name", points(MODALITIES))
def test_activations_in_bf16(name: str) -> None:
    check(lambda: single("masked", name), "bf16")


@pytest.mark.parametrize("name", points(MODALITIES))
def test_activations_where_layers_run_again(name: str) -> None:
    check(lambda: single("distill", name), again=True)

"""Micro-batches by which all processes run the same layers: what stands in where one lacks what another has."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from mmssl.data import Batch, processes
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Clip, Contrast, Objective, Setup, Step
from mmssl.objectives.predict.targets import TARGETS
from mmssl.objectives.views import Views
from mmssl.testing import small_model, small_processor
from mmssl.testing.small import SMALL, objective_of
from mmssl.training.asked import LaunchError
from mmssl.training.sharding.alike import alike, kind, marks, unlike

NAMES = ("image", "text")
BOTH, IMAGES, APART = {"image": [0, 1], "text": [1, 2]}, {"image": [0, 1, 2]}, {"image": [0], "text": [1, 2]}


def batch_of(held: dict[str, list[int]], first: int = 0) -> Batch:
    """Three samples, of which some hold a picture and some a text."""
    inputs = {}
    for name, places in held.items():
        examples, processor = find(name).example(12, 0), small_processor(name)
        inputs[name] = processor.collate([processor(examples[first + place]) for place in places])
    ids = torch.arange(first, first + 3)
    return Batch(inputs, keys(0, 0, ids), ids, rows={name: torch.tensor(places) for name, places in held.items()})


def on_all(micro: Sequence[Sequence[Batch]]) -> list[list[Batch]]:
    """What each of several processes makes of its micro-batches: one after the other, as if they were there at once."""
    said = [[kind(batch, NAMES) for batch in own] for own in micro]

    def run(rank: int, known: dict[int, Batch]) -> tuple[list[Batch], dict[int, Batch]]:
        sent, order = dict[int, Batch](), iter(sorted({each for own in said for each in own}))

        def told(number: int, value: Any) -> Any:
            wanted = next(each for each in order if len({own.count(each) for own in said}) > 1)
            if value is not None:
                sent[wanted] = value
            return value if value is not None else known.get(wanted, batch_of(IMAGES))

        with (
            patch.object(processes, "rank", lambda: rank),
            patch.object(processes, "gathered", lambda own: said),
            patch.object(processes, "told_by", told),
        ):
            return alike(list(micro[rank]), NAMES, torch.device("cpu"), "fsdp2"), sent

    known = {wanted: batch for rank in range(len(micro)) for wanted, batch in run(rank, {})[1].items()}
    return [run(rank, known)[0] for rank in range(len(micro))]


def test_a_kind_is_what_a_batch_holds_and_what_its_rows_pair() -> None:
    assert len({kind(batch_of(held), NAMES) for held in (BOTH, IMAGES, APART, {"text": [0]})}) == 4
    assert kind(replace(batch_of(BOTH), rows=None), NAMES) == kind(batch_of(BOTH), NAMES)
    assert kind(Batch({}, keys(0, 0, torch.arange(0)), torch.arange(0)), NAMES) == 0


def test_marks_say_what_lacks_and_what_differs() -> None:
    whole = replace(batch_of({"image": [0, 1, 2], "text": [0, 1, 2]}), rows=None)
    assert marks([whole], NAMES, 2) == [False, kind(whole, NAMES), 0]
    assert marks([batch_of(IMAGES)], NAMES, 1)[0]
    both, images = marks([batch_of(BOTH)], NAMES, 1), marks([batch_of(IMAGES)], NAMES, 1)
    assert unlike([both, images], "fsdp2", NAMES)
    assert not unlike([both, both], "fsdp2", NAMES)
    assert not unlike([[False, 1, 0], [False, 0, 1]], "fsdp2", ("image",))
    assert unlike([[False, 1, 1], [False, 1, 0]], "fsdp2", ("image",))
    with pytest.raises(LaunchError, match=r"zero2 does not train with samples that lack a modality.*image, text"):
        unlike([both, both], "zero2", NAMES)


@pytest.mark.parametrize(
    "held", [[[BOTH], [IMAGES]], [[BOTH], []], [[IMAGES, BOTH], [BOTH, IMAGES]], [[BOTH, BOTH], [IMAGES, APART], [BOTH]]]
)
def test_all_processes_have_the_same_kinds_and_each_sample_counts_once(held: list[list[dict[str, list[int]]]]) -> None:
    micro = [[batch_of(each, 3 * number) for number, each in enumerate(own)] for own in held]
    found = on_all(micro)
    assert len({tuple(kind(batch, NAMES) for batch in own) for own in found}) == 1
    for own, before in zip(found, micro, strict=True):
        counted = [batch for batch in own if batch.counts]
        assert len(counted) == len(before) and all(any(batch is other for other in before) for batch in counted)
    assert any(not batch.counts for own in found for batch in own) == (held[0] != held[1][::-1])


def test_zero_does_not_train_unequal_steps() -> None:
    said = [[kind(batch_of(BOTH), NAMES)], []]
    with (
        patch.object(processes, "gathered", lambda own: said),
        pytest.raises(LaunchError, match="zero1 does not train with a step of which one process has fewer micro-batches: launch"),
    ):
        alike([batch_of(BOTH)], NAMES, torch.device("cpu"), "zero1")


def clip() -> Objective:
    torch.manual_seed(0)
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}} for name in NAMES}
    return Clip(MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL)), Setup()).train()


def gradients(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in objective.named_parameters() if weight.grad is not None}


def test_what_stands_in_changes_no_loss_and_no_gradient() -> None:
    """A step of two micro-batches, and of these with a third that does not count."""
    objective, micro = clip(), [batch_of(BOTH), batch_of(BOTH, 3)]
    found = []
    for batches in (micro, [micro[0], replace(batch_of(IMAGES, 6), counts=False), micro[1]]):
        objective.zero_grad()
        step, losses, number = objective.prepared(batches, Step(weights={})), [], 0
        for batch in batches:
            output = objective(batch, replace(step, number=number))
            loss = output.loss if batch.counts else output.loss * 0
            loss.backward()
            losses.append(loss.detach())
            number += batch.counts
        found.append((torch.stack(losses).sum(), gradients(objective)))
    assert_close(found[1], found[0])


def test_kinds_of_views_are_encoded_apart_where_all_must_run_the_same_layers() -> None:
    """Whatever their sizes: here they are of one."""
    augment = find("text").augment()
    kinds = {"global": Views(2, augment), "local": Views(1, augment)}
    objective = Contrast(small_model("text"), Setup({"text": augment}, views={"text": kinds})).train()
    for steady, passes in ((False, 1), (True, 2)):
        objective.networks.steady = steady
        seen = objective.encodings(batch_of({"text": [0, 1, 2]}))
        seen.encoded("student", objective.all_views)
        assert seen.passes["student"] == passes


@pytest.mark.parametrize("target", ["random_codes", "clusters"])
def test_statistics_are_not_those_of_what_stands_in(target: str) -> None:
    found = []
    for stands_in in (False, True):
        objective, batch = objective_of("masked", "image", targets=[TARGETS[target]()])
        halves = [batch.take(torch.arange(3)), replace(batch.take(torch.arange(3, 6)), counts=False)]
        objective.observe(halves[: 1 + stands_in], Step())
        found.append(objective.state_dict())
    assert_close(found[1], found[0])

"""Samples of several sequences that never attend to each other, the channels of series: each is as if it were alone.

All laws of modalities hold with them, for every objective; a predictor's answers for a channel depend on that channel.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import Draws, keys
from mmssl.masking import MultiBlock, Random, Span
from mmssl.modality import Inputs, Modality, find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import OBJECTIVES, Setup
from mmssl.objectives.predict import Predict
from mmssl.objectives.predict.predict import at_places
from mmssl.objectives.predict.predictors import PREDICTORS
from mmssl.plugins import points
from mmssl.testing import LAWS, SMALL
from mmssl.tokens import Sequences

TIMESERIES = find("timeseries")
APART = "apart"
"""The name of series whose channels attend apart."""
PATCH = 8


class Apart(TIMESERIES.adapter):  # type: ignore[misc, name-defined]
    def __init__(self, width: int, processor: Any, **keys: Any) -> None:
        super().__init__(width, processor, attention="channel", **keys)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A modality of that name, for one test."""

    class Found(EntryPoint):
        def load(self) -> Modality:
            return replace(TIMESERIES, name=APART, adapter=Apart)

    monkeypatch.setitem(points(), APART, Found(APART, "nowhere:APART", "mmssl.modalities"))
    find.cache_clear()
    yield APART
    find.cache_clear()


@pytest.mark.parametrize("law", [law for law in LAWS if law not in ("golden_order", "processor_round_trip")])
def test_law(law: str, apart: str) -> None:
    LAWS[law](apart)


def model_of(attention: str, **settings: Any) -> MMSSLModel:
    """A small model of series of three channels."""
    torch.manual_seed(0)
    processor = TIMESERIES.processor(num_channels=3, length=40)
    described = {"processor": processor.settings(), "adapter": {"patch_size": PATCH, "attention": attention}}
    return MMSSLModel(MMSSLConfig(modalities={"timeseries": described}, **SMALL | settings)).eval()


def series() -> list[Tensor]:
    """Ragged ones: of one to three channels and various lengths, with a gap, a missing patch, and a channel without any value."""
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(*shape, generator=generator) for shape in ((3, 40), (1, 64), (2, 33), (3, 40))]
    made[0][1, 3:20] = torch.nan
    made[2][0] = torch.nan
    return made


def inputs_of(samples: list[Tensor]) -> Inputs:
    processor = TIMESERIES.processor(num_channels=3, length=40)
    return processor.collate([processor(sample) for sample in samples])


@pytest.mark.parametrize("samples", [series(), series()[:1], [series()[3]] * 2], ids=["ragged", "gaps", "complete"])
@pytest.mark.parametrize("prefix", [True, False])
def test_a_channel_is_encoded_as_if_it_were_a_series(samples: list[Tensor], prefix: bool) -> None:
    model, alone = model_of("channel", cls_token=prefix), model_of("all", cls_token=prefix)
    tokens = model.encode("timeseries", inputs_of(samples))
    pooled, first = model.pool(tokens), model.encoder.num_prefix
    for number, sample in enumerate(samples):
        channels = [sample[i : i + 1] for i in range(len(sample)) if not sample[i].isnan().all()]
        encoded = [alone.encode("timeseries", inputs_of([channel])).values[0] for channel in channels]
        expected = torch.cat([each[first:] for each in encoded])
        real = tokens.valid_or_ones()[number, first:]
        assert_close(tokens.values[number, first:][real], expected, rtol=1e-4, atol=1e-5)
        assert not tokens.values[number, first:][~real].any()
        assert_close(pooled[number], expected.mean(0), rtol=1e-4, atol=1e-5)
        if prefix:
            assert_close(tokens.values[number, 0], torch.stack([each[0] for each in encoded]).mean(0), rtol=1e-4, atol=1e-5)


def test_layers_are_those_of_channels_alone() -> None:
    model, alone, sample = model_of("channel"), model_of("all"), series()[0]
    found = model.encoder.layer_outputs(model.embed("timeseries", inputs_of([sample])), 2)
    each = [alone.encoder.layer_outputs(alone.embed("timeseries", inputs_of([sample[i : i + 1]])), 2) for i in range(3)]
    for number, layer in enumerate(found):
        assert_close(layer.values[0, 1:], torch.cat([outputs[number].values[0, 1:] for outputs in each]), rtol=1e-4, atol=1e-5)


def test_no_gradient_crosses_channels() -> None:
    inputs = inputs_of([series()[3]])
    inputs["timeseries_values"].requires_grad_()
    for attention, crosses in (("channel", False), ("all", True)):
        values = model_of(attention).encode("timeseries", inputs).values[0, 1:]
        (gradient,) = torch.autograd.grad(values[: len(values) // 3].square().sum(), inputs["timeseries_values"])
        assert gradient[0, 0].any()
        assert bool(gradient[0, 1:].any()) == crosses


def answers(objective: Predict, inputs: Inputs, ids: Tensor) -> Tensor:
    """The first target's predictions at all places, NaN where there is none."""
    torch.manual_seed(0)
    scene, predicted = objective.predict("timeseries", inputs, Batch({"timeseries": inputs}, keys(0, 0, ids), ids))
    guesses = objective.head(0, "timeseries")(predicted.values)
    return at_places(next(iter(guesses.values())), predicted, scene.tokens.values.shape[1])


ALONE = [name for name, kind in PREDICTORS.items() if not kind.over_batch]
"""Predictors whose answer for a sample is its own."""


@pytest.mark.parametrize("predictor", ALONE)
def test_predictions_of_a_channel_are_its_own(predictor: str) -> None:
    for mask, gaps in ((Random(ratio=0.5), False), (Random(ratio=0.5), True), (Span(ratio=0.4), True)):
        objective = OBJECTIVES["masked"](
            model_of("channel"), Setup(), mask=mask, predictor=PREDICTORS[predictor](), publish="student"
        ).eval()
        samples, ids = series() if gaps else [series()[3], series()[3]], torch.arange(4 if gaps else 2)
        before = answers(objective, inputs_of(samples), ids)
        changed = [sample.clone() for sample in samples]
        changed[0][0], changed[-1][0] = changed[0][0].flip(0), 5 * changed[-1][0].square()
        after = answers(objective, inputs_of(changed), ids)
        tokens = objective.model.embed("timeseries", inputs_of(samples))
        assert tokens.sequence is not None
        first = tokens.sequence == 0
        for number in range(len(samples)):
            own, others = first[number] & tokens.valid_or_ones()[number], ~first[number] & tokens.valid_or_ones()[number]
            assert_close(after[number, others], before[number, others], rtol=0, atol=0, equal_nan=True)
            same = torch.equal(after[number, own].nan_to_num(), before[number, own].nan_to_num())
            assert same == (number not in (0, len(samples) - 1))


@pytest.mark.parametrize("kind", ["masked", "jepa"])
def test_a_series_of_one_channel_is_trained_to_the_same_bit(kind: str) -> None:
    losses = []
    for attention in ("all", "channel"):
        objective = OBJECTIVES[kind](model_of(attention), Setup()).train()
        inputs, ids = inputs_of([series()[1], series()[3][:1]]), torch.arange(2)
        loss = objective(Batch({"timeseries": inputs}, keys(0, 0, ids), ids)).loss
        loss.backward()
        losses.append([loss, *(p.grad for p in objective.parameters() if p.grad is not None)])
    for all_at_once, apart in zip(*losses, strict=True):
        assert torch.equal(all_at_once, apart)


def test_the_share_of_hidden_tokens_is_that_of_each_channel() -> None:
    model = model_of("channel")
    objective = OBJECTIVES["masked"](model, Setup(), mask=Random(ratio=0.4))
    inputs, ids = inputs_of(series()), torch.arange(4)
    scene = objective.scene("timeseries", inputs, Batch({"timeseries": inputs}, keys(0, 0, ids), ids))
    tokens, n = scene.tokens, scene.tokens.values.shape[1]
    hidden, seen = scene.parts.hidden_places(n), ~scene.parts.hidden_places(n) & scene.valid
    assert tokens.sequence is not None
    counted = 0
    for sample in range(4):
        for channel in range(3):
            own = (tokens.sequence[sample] == channel) & scene.valid[sample]
            if total := int(own.sum()):
                assert int((hidden[sample] & own).sum()) == round(0.4 * total)
                counted += 1
    assert counted == 8, "a channel without any value has no tokens"
    listed = torch.zeros_like(hidden).scatter(1, scene.parts.seen, True) if scene.parts.seen_real is None else None
    assert listed is None or torch.equal(listed, seen)


def test_blocks_keep_their_groups() -> None:
    """The hidden tokens of a group come together, those of all channels, each channel with its own blocks."""
    model = model_of("channel")
    objective = OBJECTIVES["jepa"](model, Setup(), mask=MultiBlock(blocks=2, scale=0.2))
    inputs, ids = inputs_of([series()[3]] * 2), torch.arange(2)
    parts = objective.scene("timeseries", inputs, Batch({"timeseries": inputs}, keys(0, 0, ids), ids)).parts
    alone = OBJECTIVES["jepa"](model_of("all"), Setup(), mask=MultiBlock(blocks=2, scale=0.2))
    first = inputs_of([series()[3][:1]] * 2)
    expected = alone.scene("timeseries", first, Batch({"timeseries": first}, keys(0, 0, ids), ids)).parts
    own = parts.hidden.unflatten(1, (2, 3, -1))[:, :, 0].flatten(1)
    assert parts.groups == 2
    assert torch.equal(own, expected.hidden)


def test_sequences_go_there_and_back() -> None:
    generator = torch.Generator().manual_seed(0)
    sequence, valid = torch.randint(3, (4, 11), generator=generator), torch.rand(4, 11, generator=generator) < 0.7
    sequence[1], valid[3] = 2, False
    found = Sequences.of(sequence, valid, 3)
    values = torch.randn(4, 11, 2, generator=generator)
    rows = found.gather(values)
    real = torch.ones(rows.shape[:2], dtype=torch.bool) if found.real is None else found.real
    for row, number in enumerate(found.rows.tolist()):
        sample, which = divmod(number, 3)
        assert torch.equal(rows[row][real[row]], values[sample][(sequence[sample] == which) & valid[sample]])
    assert torch.equal(found.put(rows), values.masked_fill(~valid[..., None], 0))
    folded = found.fold(rows, 1)
    assert torch.equal(found.unfold(folded, 1), rows)
    own = Draws(torch.arange(4))
    drawn = found.draws(own).keys
    assert len(set(drawn.tolist())) == len(drawn)
    assert torch.equal(drawn[found.rows % 3 == 0], own.keys[found.sample[found.rows % 3 == 0]])


def test_channels_that_are_mixed_cannot_attend_apart() -> None:
    with pytest.raises(ValueError, match=r"adapter\.attention: channel.*channels: mixed"):
        TIMESERIES.adapter(16, TIMESERIES.processor(channels="mixed", num_channels=2), attention="channel")

"""Content that a sample gets from others: drawn from the whole step, never from padding, however the step is cut."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch, with_others
from mmssl.draws import Draws, keys
from mmssl.modality import Inputs, MixesSamples, Others, Processor, find, mixing, pad_cat
from mmssl.model import MMSSLConfig
from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.objectives.predict.predictors.donors import anywhere, same_place
from mmssl.recipe.options import TrainOptions
from mmssl.testing import SMALL, small_model, small_processor
from mmssl.tokens import Tokens
from mmssl.training.loop import Training, fit
from mmssl_modalities.audio import AudioAugment, AudioProcessor
from mmssl_modalities.tabular import TabularAugment
from mmssl_modalities.timeseries import TimeseriesAugment

COUNT = 8
SIZES = (1, 2, 3, 4)
"""Of micro-batches; of 3 the last one is smaller."""


def draws_of(count: int, step: int = 3) -> Draws:
    return Draws(keys(0, step, torch.arange(count)))


def micro_batches(name: str, processor: Processor, samples: Sequence[Inputs], size: int) -> list[Batch]:
    ids = torch.arange(len(samples))
    parts = [(processor.collate([samples[i] for i in part]), part) for part in ids.split(size)]
    return with_others([Batch({name: inputs}, keys(0, 3, part), part) for inputs, part in parts])


# The step


def test_micro_batches_know_all_samples_of_their_step() -> None:
    processor = small_processor("text")
    samples = [processor(text) for text in ("a", "bcd", "ef", "ghij", "kl")]
    (whole,) = micro_batches("text", processor, samples, 5)
    assert whole.others is None
    found = micro_batches("text", processor, samples, 2)
    for batch, place in zip(found, ([0, 1], [2, 3], [4]), strict=True):
        others = (batch.others or {})["text"]
        assert others.place.tolist() == place
        assert torch.equal(others.keys, whole.keys)
        assert torch.equal(others.keys[others.place], batch.keys)
        assert all(torch.equal(value, others.inputs[key]) for key, value in whole.inputs["text"].items())
        assert torch.equal(others.fork(2).keys, whole.draws.fork(2).keys)


def test_donors_are_others_all_of_them_alike() -> None:
    draws = draws_of(3000)
    others = Others({}, torch.arange(5), torch.arange(3000) % 5)
    found = others.donor("who", draws, 2)
    assert found.shape == (3000, 2)
    table = torch.zeros(5, 5, dtype=torch.int64)
    table.index_put_((others.place[:, None].expand_as(found), found), torch.ones_like(found), accumulate=True)
    assert not table.diagonal().any()
    assert ((table + 300 * torch.eye(5, dtype=torch.int64)) > 240).all()
    assert Others({}, torch.arange(1), torch.zeros(4, dtype=torch.int64)).donor("who", draws_of(4)).tolist() == [0] * 4


def test_batches_are_joined_with_their_padding() -> None:
    left, right = torch.ones(2, 1, 3), torch.zeros(1, 2, 2)
    joined = pad_cat([left, right], math.nan)
    assert joined.shape == (3, 2, 3)
    assert (torch.equal(joined[:2, :1], left), torch.equal(joined[2, :, :2], right[0])) == (True, True)
    assert joined.isnan().sum() == 2 * 3 + 2
    image = find("image").processor
    even = {"pixel_values": torch.ones(2, 3, 4, 6)}
    ragged = {"pixel_values": torch.ones(1, 3, 8, 2), "pixel_sizes": torch.tensor([[8, 2]])}
    assert image.join([even, even]).keys() == even.keys()
    assert image.join([even, ragged])["pixel_sizes"].tolist() == [[4, 6], [4, 6], [8, 2]]
    with pytest.raises(AssertionError, match=r"Processor.sized must add what collate leaves out; got .*'pixel_sizes'"):
        Processor.join([even, ragged])


def test_only_what_mixes_is_given_others() -> None:
    assert not mixing(None)
    assert not mixing(TimeseriesAugment(jitter=0.1))
    for augment, mixes in (
        (TabularAugment(), False),
        (TabularAugment(corruption=0.1), True),
        (AudioAugment(hiss=1.0, noise=0.1), False),
        (AudioAugment(mix=0.1), True),
        (AudioAugment(overlap=0.1), True),
    ):
        assert isinstance(augment, MixesSamples)
        assert mixing(augment) == mixes
        assert Masked(small_model("tabular"), Setup({"tabular": augment})).mixes == mixes
    for predictor, mixes in ((MaskToken(keep=0.1), False), (MaskToken(swap=0.1), True), (MaskToken(corruption="swap"), True)):
        assert Masked(small_model("tabular"), Setup(), predictor=predictor).mixes == mixes


# Augmentations

MIXED: dict[str, dict[str, Any]] = {
    "mix": {"mix": 0.5},
    "overlap": {"overlap": 1.0},
    "both": {"mix": 0.4, "overlap": 1.0, "shift": 0.3},
    "all of a spectrogram": dict(find("audio").strong[0]),
}


@pytest.mark.parametrize("frontend", ["fbank", "waveform"])
@pytest.mark.parametrize("kind", MIXED)
def test_sounds_mix_with_those_of_the_step_and_not_with_padding(kind: str, frontend: str) -> None:
    if frontend == "waveform" and kind.startswith("all"):
        return
    processor = AudioProcessor(frontend=frontend, mel_bins=8, patch=(4, 8), mean=-4.0 if frontend == "fbank" else 0.0, std=3.0)
    random = np.random.default_rng(0)
    samples = [processor((random.normal(size=int(random.integers(700, 4000))).astype(np.float32), 16000)) for _ in range(COUNT)]
    name = "input_features" if frontend == "fbank" else "input_values"
    augment = AudioAugment(**MIXED[kind]).with_processor(processor)
    whole = augment(processor.collate(samples), draws_of(COUNT))[name]
    assert len({len(sample[name]) for sample in samples}) > 3
    changed = 0
    for size in SIZES:
        for batch in micro_batches("audio", processor, samples, size):
            others = (batch.others or {})["audio"]
            sounds = others.inputs[name]
            behind = torch.arange(sounds.shape[1]) >= others.inputs["audio_lengths"]
            loud = sounds.masked_fill(behind.view(*behind.shape, *[1] * (sounds.dim() - 2)), 1e4)
            for step in (others, Others({**others.inputs, name: loud}, others.keys, others.place)):
                view = augment(batch.inputs["audio"], batch.draws, step)[name]
                for i, row in zip(batch.ids.tolist(), view, strict=True):
                    length = len(samples[i][name])
                    assert_close(row[:length], whole[i, :length], rtol=1e-5, atol=1e-5)
                    changed += not torch.equal(row[:length], samples[i][name])
    assert changed


def test_cells_of_the_step_replace_cells_of_the_same_column() -> None:
    """Rows of various columns and words: a donor's words may be more than any of the micro-batch has."""
    words = ["red", "green", "blue", "grey", "pink", "white", "black", "brown"]
    rows = [{"size": float(i), "name": " ".join(words[: 1 + i])} | ({"age": 2.0 * i} if i % 3 else {}) for i in range(COUNT)]
    processor = find("tabular").processor(schema="shared")
    processor.fit(rows)
    samples = [processor(row) for row in rows]
    augment = TabularAugment(corruption=0.8)
    whole = augment(processor.collate(samples), draws_of(COUNT))
    cells = ("table_cell_numbers", "table_cell_classes", "table_cell_words")
    replaced = 0
    for size in SIZES:
        for batch in micro_batches("tabular", processor, samples, size):
            view = augment(batch.inputs["tabular"], batch.draws, (batch.others or {})["tabular"])
            for place, i in enumerate(batch.ids.tolist()):
                count = len(samples[i]["table_cell_numbers"])
                for name in cells:
                    assert torch.equal(view[name][place, :count].nan_to_num(-9), whole[name][i, :count].nan_to_num(-9))
                replaced += not torch.equal(view[cells[0]][place, :count].nan_to_num(-9), samples[i][cells[0]].nan_to_num(-9))
    assert replaced


def test_noise_and_gaps_of_a_series_do_not_depend_on_padding() -> None:
    processor = small_processor("timeseries")
    random = np.random.default_rng(0)
    samples = [processor(random.normal(size=(1 + i % 3, 10 + 5 * (i % 4)))) for i in range(COUNT)]
    augment = TimeseriesAugment(crop=(0.6, 1.0), jitter=0.3, drop=0.3)
    whole = augment(processor.collate(samples), draws_of(COUNT))
    for i, sample in enumerate(samples):
        alone = augment(processor.collate([sample]), Draws(draws_of(COUNT).keys[i : i + 1]))
        channels, length = sample["timeseries_values"].shape
        for name in ("timeseries_values", "timeseries_observed"):
            assert_close(whole[name][i, :channels, :length], alone[name][0], rtol=1e-5, atol=1e-6)


# Tokens


def tokens_of(valid: Tensor) -> Tokens:
    """Tokens that say where they are: sample, place; padding is NaN."""
    rows, places = torch.meshgrid(*(torch.arange(float(size)) for size in valid.shape), indexing="ij")
    values = torch.stack([rows, places], -1).masked_fill(~valid[..., None], torch.nan)
    return Tokens(values, torch.zeros(*valid.shape, 4), valid)


VALID = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]]).bool()


def test_another_token_is_any_valid_one_alike() -> None:
    pool, one = tokens_of(VALID), Tokens(torch.zeros(4000, 2, 2), torch.zeros(4000, 2, 4))
    found = anywhere(pool, one, draws_of(4000)).flatten(0, 1)
    places, counts = found.unique(dim=0, return_counts=True)
    assert places.tolist() == VALID.nonzero().tolist()
    assert counts.min() > 0.85 * 8000 / len(places)
    assert counts.max() < 1.15 * 8000 / len(places)


def test_the_same_place_is_that_of_a_sample_that_has_it() -> None:
    """Against a loop: of the samples that have the place of a token, counted from its own on, the one that is drawn."""
    pool, place = tokens_of(VALID), torch.tensor([3, 0, 1, 1, 2])
    # Each has its own tokens first, as in a micro-batch of less padding.
    own = [VALID[row].nonzero().flatten().tolist() for row in place.tolist()]
    valid = torch.tensor([[j < len(places) for j in range(4)] for places in own])
    draws = draws_of(5)
    found = same_place(pool, place, Tokens(torch.zeros(5, 4, 2), torch.zeros(5, 4, 4), valid), draws)
    uniform, met = draws.uniform("swap rows", 4), set()
    for i, row in enumerate(place.tolist()):
        for number, column in enumerate(own[i]):
            after = [(row + 1 + k) % 4 for k in range(4)]
            having = [other for other in after if VALID[other, column] and other != row] or [row]
            donor = having[min(int(uniform[i, number] * len(having)), len(having) - 1)]
            assert found[i, number].tolist() == [donor, column]
            met.add(donor == row)
    assert met == {True, False}, "some places are those of one sample alone, and some are not"


@pytest.mark.parametrize("settings", [{"swap": 0.5, "keep": 0.1}, {"corruption": "swap"}, {"corruption": "noise"}], ids=str)
def test_corruption_does_not_see_how_a_step_is_cut_or_padded(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    valid = torch.arange(6) < torch.tensor([[6], [2], [4], [1], [3]])
    whole = Tokens(torch.randn(5, 6, 8, generator=generator).masked_fill(~valid[..., None], torch.nan), torch.zeros(5, 6, 4), valid)
    hidden, draws = valid & (torch.rand(5, 6, generator=generator) < 0.7), draws_of(5)
    predictor = MaskToken(**settings)
    predictor.prepare(MMSSLConfig(**SMALL | {"hidden_size": 8, "num_attention_heads": 1}), identities=False)
    if predictor.mask_token is not None:
        torch.nn.init.ones_(predictor.mask_token)
    expected = predictor.corrupt(whole, hidden, draws)
    assert expected[valid].isfinite().all()
    order = torch.tensor([3, 1])
    few = Tokens(whole.values[order, :2], whole.coords[order, :2], valid[order, :2])
    found = predictor.corrupt(few, hidden[order, :2], Draws(draws.keys[order]), whole, order)
    for place, i in enumerate(order.tolist()):
        assert torch.equal(found[place][valid[i, :2]], expected[i][valid[i]])
    spread = torch.tensor([0, 2, 3, 5, 6, 7])  # padding before and between the tokens of every sample
    apart = Tokens(torch.full((5, 9, 8), torch.nan), torch.zeros(5, 9, 4), torch.zeros(5, 9, dtype=torch.bool))
    apart.values[:, spread + 1], apart.valid[:, spread + 1] = whole.values, valid
    wide = torch.zeros(5, 9, dtype=torch.bool)
    wide[:, spread + 1] = hidden
    assert torch.equal(predictor.corrupt(apart, wide, draws)[:, spread + 1][valid], expected[valid])


# Training


@pytest.mark.parametrize(
    ("name", "augment", "predictor", "masks"),
    [
        ("text", {}, {"swap": 0.3, "keep": 0.1}, 1),
        ("text", {}, {"corruption": "swap"}, 2),
        ("tabular", {"corruption": 0.6}, {}, 1),
        ("audio", {"overlap": 1.0, "mix": 0.3}, {"swap": 0.2}, 1),
        ("image", {}, {"corruption": "swap", "swap": 0.2}, 2),
    ],
)
def test_a_step_has_one_gradient_however_it_is_cut(name: str, augment: Any, predictor: Any, masks: int) -> None:
    modality, processor, moments = find(name), small_processor(name), []
    samples = [processor(raw) for raw in modality.example(COUNT, 0)]
    ids = torch.arange(COUNT)

    def batches(size: int) -> Iterator[Batch]:
        for part in ids.split(size):
            yield Batch({name: processor.collate([samples[i] for i in part])}, keys(0, 3, part), part)

    for parts in (1, 2, 4):
        setup = Setup({name: modality.augment(**augment)})
        objective = Masked(small_model(name), setup, predictor=MaskToken(**predictor), masks=masks)
        assert objective.mixes
        options = TrainOptions(batch_size=COUNT, accumulation=parts, max_steps=1, clip_norm=None)
        training = Training(objective, options)
        fit(training, batches(COUNT // parts), lambda row: False)
        moments.append({key: value["exp_avg"] for key, value in training.optimizer.state_dict()["state"].items()})
    for cut in moments[1:]:
        assert_close(cut, moments[0], rtol=1e-4, atol=1e-6)

"""Labels of steps in time: which tokens they belong to, where predictions of tokens lie, how views move them, who refuses them."""

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mmssl.data import Labels, Source
from mmssl.data.series import SeriesOptions
from mmssl.data.synthetic import STATE_NAMES, synthetic_table
from mmssl.draws import Draws, keys
from mmssl.modality import IGNORED, Adapter, Inputs, Processor
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.steps import DenseSteps, last_before
from mmssl.model.tasks import MMSSLForFrameClassification, faced
from mmssl.objectives.dense import dense_head, dense_terms
from mmssl.testing.small import SMALL
from mmssl_modalities.audio import AudioAdapter, AudioAugment, AudioProcessor
from mmssl_modalities.timeseries import TimeseriesAdapter, TimeseriesAugment, TimeseriesProcessor

P = 4


def series_of(processor: TimeseriesProcessor, *lengths: int) -> Inputs:
    """Series of one and two channels in turn, with gaps, and their labels."""
    random = np.random.default_rng(0)
    found = []
    for number, length in enumerate(lengths):
        values = random.standard_normal((1 + number % 2, length))
        values[:, 4:9] = np.nan
        found.append(processor.labelled(values, random.integers(0, 3, length)))
    return processor.collate(found)


def dense_of(adapter: Adapter) -> DenseSteps:
    assert isinstance(adapter.dense, DenseSteps)
    return adapter.dense


@pytest.mark.parametrize("normalise", ["instance", "none"])
def test_predictions_of_patches_lie_at_their_steps(normalise: Any) -> None:
    """Against a loop over samples and steps, each by itself: channels averaged, gaps bridged, however far samples are padded."""
    processor = TimeseriesProcessor(normalise=normalise, num_channels=0, length=0)
    adapter, detail, classes = TimeseriesAdapter(8, processor, patch_size=P), 2, 3
    inputs, dense = series_of(processor, 11, 18, 7), dense_of(adapter)
    tokens = adapter(inputs)
    given = torch.randn(*tokens.values.shape[:2], detail * classes, generator=torch.Generator().manual_seed(0))
    found = dense.at_labels(dense.laid_out(given, inputs, detail), inputs)
    valid = tokens.valid_or_ones()
    for row, (_, length, _) in enumerate(inputs["timeseries_span"].tolist()):
        said = {}
        for token in range(valid.shape[1]):
            place = int(tokens.coords[row, token, 0])
            if valid[row, token] and place >= 0:
                said.setdefault(place, []).append(given[row, token].double().reshape(detail, classes))
        count = -(-length // P)
        assert 1 in said or not inputs["timeseries_observed"][row, :, P : 2 * P].any()
        means = [torch.stack(said[max((k for k in said if k <= place), default=min(said))]).mean(0) for place in range(count)]
        curve = torch.cat(means).T[None]
        wanted = F.interpolate(curve, size=count * P, mode="linear", align_corners=False)[0, :, :length]
        assert_close(found[row, :, :length].double(), wanted, atol=1e-5, rtol=1e-5)


def test_what_is_before_the_first_token_is_said_by_it() -> None:
    there = torch.tensor([[False, True, False, True, False], [True, True, True, False, False], [False] * 5])
    assert last_before(there).tolist() == [[1, 1, 1, 3, 3], [0, 1, 2, 2, 2], [0] * 5]


def test_a_patch_has_the_label_of_most_of_its_steps() -> None:
    processor = TimeseriesProcessor(num_channels=0, length=0)
    dense = dense_of(TimeseriesAdapter(8, processor, patch_size=P))
    labels = [np.array([1, 1, 0, -100, 0, 2, 2, -100, 1]), np.array([-100] * 4 + [1])]
    raws = [np.arange(9.0)[None], np.arange(10.0).reshape(2, 5)]
    inputs = processor.collate([processor.labelled(raw, label) for raw, label in zip(raws, labels, strict=True)])
    assert inputs["timeseries_labels"][1, 5:].tolist() == [IGNORED] * 4
    statistics = IGNORED
    assert dense.of_tokens(inputs)[0, :4].tolist() == [statistics, 1, 2, 1]
    assert dense.of_tokens(inputs)[1, :6].tolist() == [statistics, IGNORED, 1, statistics, IGNORED, 1]


@pytest.mark.parametrize(
    "keys_of", [{"crop": (0.4, 0.7)}, {"part": (0.4, 0.7)}, {"permute": 3}, {"part": (0.5, 0.9), "permute": 2}, {"jitter": 0.0}]
)
def test_labels_move_with_their_steps(keys_of: dict[str, Any]) -> None:
    """The value of a step is its label; a crop takes the nearest."""
    lengths = torch.tensor([24, 17, 9, 24])
    inside = torch.arange(24) < lengths[:, None]
    labels = (torch.arange(24) // 1).expand(4, 24).masked_fill(~inside, IGNORED)
    given = {"timeseries_values": (labels * inside)[:, None].float(), "timeseries_observed": inside[:, None]}
    view = TimeseriesAugment(scale=0.0, **keys_of)(given | {"timeseries_labels": labels}, Draws(keys(0, 3, torch.arange(4))))
    there = view["timeseries_observed"][:, 0]
    moved, shown = view["timeseries_labels"], view["timeseries_values"][:, 0]
    assert moved.shape == shown.shape and torch.equal(moved >= 0, there)
    assert (moved - shown)[there].abs().max() <= 0.5
    assert "jitter" in keys_of or not torch.equal(moved, labels)


def test_views_that_leave_no_steps_are_refused() -> None:
    given = {"timeseries_values": torch.zeros(2, 1, 8), "timeseries_labels": torch.zeros(2, 8, dtype=torch.int64)}
    draws = Draws(keys(0, 1, torch.arange(2)))
    with pytest.raises(ValueError, match=r"augment\.basis leaves no steps"):
        TimeseriesAugment(basis="fourier")(given, draws)
    sound = {"input_features": torch.zeros(2, 3, 1, 4, 8), "audio_labels": torch.zeros(2, 5, dtype=torch.int64)}
    assert "audio_labels" in AudioAugment(noise=0.1)(sound, draws)
    with pytest.raises(ValueError, match=r"augment\.shift, crop: .* stays where it is in time"):
        AudioAugment(shift=0.1, crop=(0.5, 1.0))(sound, draws)


def test_pieces_of_a_long_series_give_its_steps_back() -> None:
    labels, values = np.arange(23) % 3, np.arange(23.0)
    processor = TimeseriesProcessor(normalise="none", num_channels=1, length=0, window=8, stride=6)
    pieces = [processor.labelled(piece, labels) for piece in processor.pieces(values)]
    found = np.full(23, -1)
    for piece in pieces:
        first, count, whole = piece["timeseries_span"].tolist()
        assert whole == 23
        found[first : first + count] = piece["timeseries_labels"]
        assert piece["timeseries_values"][0].tolist() == list(range(first, first + count))
    assert np.array_equal(found, labels)
    with pytest.raises(ValueError, match="a label for each of its steps: expected 23, got 22"):
        processor.labelled(processor.pieces(values)[0], labels[1:])


def tone(seconds: float, rate: int = 8000) -> dict[str, Any]:
    return {"array": np.sin(np.arange(int(seconds * rate)) / 5).astype(np.float32), "sampling_rate": rate}


AUDIO: dict[str, Any] = {"sample_rate": 8000, "mel_bins": 8, "patch": [4, 4], "mean": 0.0, "std": 1.0}


@pytest.mark.parametrize("settings", [AUDIO, AUDIO | {"frontend": "waveform"}], ids=["fbank", "waveform"])
@pytest.mark.parametrize("form", ["array", "file"])
def test_windows_of_a_long_sound_give_its_frames_back(settings: dict[str, Any], form: str, tmp_path: Any) -> None:
    processor = AudioProcessor(**settings, max_seconds=0.5, label_rate=20.0)
    sound: Any = tone(1.33)
    if form == "file":
        import soundfile

        soundfile.write(tmp_path / "tone.wav", sound["array"], 8000)
        sound = {"path": str(tmp_path / "tone.wav"), "bytes": None}
    labels = np.arange(27) % 3
    pieces = processor.pieces(sound)
    found = [processor.labelled(piece, labels) for piece in pieces]
    spans = [each["audio_span"].tolist() for each in found]
    assert [each["audio_labels"].tolist() for each in found] == [
        labels[first : first + count].tolist() for first, count, _ in spans
    ]
    assert len(pieces) == 3 and {whole for *_, whole in spans} == {27}
    assert [number for first, count, _ in spans for number in range(first, first + count)] == list(range(27))
    starts = [1.33 * number / 3 for number in range(3)]
    for start, each, (first, count, _) in zip(starts, found, spans, strict=True):
        middles = (np.arange(first, first + count) + 0.5) / 20 - start
        assert_close(each["audio_frames"], torch.from_numpy(middles).float(), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=r"each 0\.05 s that has begun .*expected 27, got 5"):
        processor.labelled(pieces[0], labels[:5])


@pytest.mark.parametrize("stride", [None, (2, 4)])
def test_frames_are_read_where_the_middle_of_a_token_lies(stride: Any) -> None:
    """Middles of tokens by Kaldi's frames: the first at half a frame's length, each `frame_shift` after the last."""
    processor = AudioProcessor(**AUDIO, label_rate=1000.0)
    adapter = AudioAdapter(8, processor, stride=stride)
    inputs = processor.collate([processor.labelled(tone(seconds), None) for seconds in (0.5, 0.3)])
    dense, hop = dense_of(adapter), 4 if stride is None else 2
    times, count = dense.times(inputs)
    tokens = adapter(inputs)
    assert torch.equal(times >= 0, tokens.valid_or_ones())
    assert torch.equal(times.clamp(min=0)[times >= 0].float(), tokens.coords[..., 0][times >= 0])
    place = dense.positions(inputs, inputs["audio_frames"].shape[1])[0]
    for number in range(count):
        middle = 12.5 + (number * hop + 1.5) * 10  # milliseconds
        nearest = round(middle - 0.5)
        assert place[nearest].item() == pytest.approx(number + 0.5, abs=0.02)
    assert dense.steps(inputs) == round(count * hop * 10)


def test_the_loss_is_the_cross_entropy_of_labelled_steps() -> None:
    """Value and gradient, by a float64 loop over samples; the model's own loss is the same, and what it gives is by steps."""
    processor = TimeseriesProcessor(num_channels=0, length=0)
    modalities = {"timeseries": {"processor": processor.settings(), "adapter": {"patch_size": P}}}
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL)).eval()
    labels = Labels.read([["a", "b", "c"]], where="column states", kind="dense")
    model.label(dense_head(labels, model, ["timeseries"], 3, 2), ["a", "b", "c"])
    inputs = series_of(processor, 13, 6)
    inputs["timeseries_labels"][0, 3:6] = IGNORED
    encoded = model.encode("timeseries", inputs)
    found = dense_terms(model, "timeseries", inputs, encoded, None, 0.0)
    assert model.heads is not None
    head: Any = model.heads["label"]
    (own,) = torch.autograd.grad(found.loss(), [head.bias])
    assert head.weight.shape == (3 * 2, model.config.hidden_size)

    bias = head.bias.detach().double().requires_grad_()
    body = encoded.values[:, model.encoder.num_prefix :].detach().double() @ head.weight.detach().double().T + bias
    total, every = torch.zeros((), dtype=torch.float64), 0
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        logits = dense_of(model.adapter("timeseries")).laid_out(body[row : row + 1], alone, 2)
        steps = F.interpolate(logits, size=logits.shape[2] // 2 * P, mode="linear", align_corners=False)[0]
        for step, true in enumerate(inputs["timeseries_labels"][row].tolist()):
            if true != IGNORED:
                total, every = total + steps[:, step].logsumexp(0) - steps[true, step], every + 1
    (wanted,) = torch.autograd.grad(total / every, [bias])
    assert every == 13 - 3 + 6
    assert_close(found.loss().double(), total / every, atol=1e-5, rtol=1e-5)
    assert_close(own.double(), wanted, atol=1e-5, rtol=1e-4)

    face = faced(model)
    assert isinstance(face, MMSSLForFrameClassification)
    given = {name: value for name, value in inputs.items() if name not in ("timeseries_labels", "timeseries_span")}
    output = face(labels=inputs["timeseries_labels"], **given)
    assert output.logits.shape == (2, 13, 3)
    assert_close(output.loss.double(), total / every, atol=1e-5, rtol=1e-5)


def test_a_fresh_head_says_what_it_is() -> None:
    processor: Processor = TimeseriesProcessor(num_channels=1, length=8)
    modalities = {"timeseries": {"processor": processor.settings(), "adapter": {"patch_size": P}}}
    model = MMSSLForFrameClassification(MMSSLConfig(modalities=modalities, num_labels=4, **SMALL))
    assert model.label_head.task == "frame-classification" and model.label_head.places == "steps"
    with pytest.raises(ValueError, match=re.escape(f"objective.detail is from 1 to {P}, the steps of a token; got 5")):
        dense_of(model.adapter("timeseries")).cells(5)


def test_states_are_made_by_their_number_alone() -> None:
    train, test = synthetic_table("states", "train"), synthetic_table("states:0", "test")
    rows = train.rows([3, 5])
    assert train.rows([5]) == rows[1:] and train.columns == ["series", "label"]
    assert all(len(row["series"]) == len(row["label"]) and {*row["label"]} <= {*STATE_NAMES} for row in rows)
    assert len({len(row["label"]) for row in train.rows(range(9))}) > 3
    quiet = test.rows([0])[0]
    rest = [value for value, state in zip(quiet["series"], quiet["label"], strict=True) if state == "rest"]
    assert max(rest, default=0.0) == min(rest, default=0.0)


def test_rows_of_a_long_table_give_their_states() -> None:
    """A step that is missing on an even grid has no value, and no label."""
    rows = [{"id": one, "t": t, "x": float(t), "state": "ab"[t > 3]} for one in (1, 2) for t in (0, 1, 2, 4, 5, 6, 7)]
    options = SeriesOptions(by="id", time="t", values="x", each="state")
    source = Source.from_rows(rows[::-1], {"label": "state"}, series=options)
    (row, _) = source.rows([0, 1])
    assert row["state"] == ["a", "a", "a", None, "b", "b", "b", "b"] and len(row["series"]["values"]) == 8
    labels = source.labels(kind="dense")
    assert labels is not None and labels.names == ["a", "b"] and labels.values.tolist() == [[3, 4], [3, 4]]
    processor = TimeseriesProcessor(num_channels=1, length=8)
    (places,) = source.dense_labels([0], labels.names)
    found = processor.labelled(row["series"], places)
    assert found["timeseries_labels"].tolist() == [0, 0, 0, IGNORED, 1, 1, 1, 1]
    assert found["timeseries_observed"][0].tolist() == [True] * 3 + [False] + [True] * 4
    with pytest.raises(ValueError, match="can only be used if it is the same in all of them"):
        Source.from_rows(rows, {"label": "state"}, series=SeriesOptions(by="id", time="t", values="x")).labels()
    with pytest.raises(ValueError, match=r"data\.series\.each='state' is of each step"):
        SeriesOptions(each="state")

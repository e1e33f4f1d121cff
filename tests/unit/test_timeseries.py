"""The timeseries modality: reading, fitting, gaps and times, patches against loops, embedding of numbers, views, pictures."""

import json
import math
import pickle
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mmssl.data import Batch
from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Setup
from mmssl.objectives.predict import Masked
from mmssl_modalities.timeseries import TIMESERIES, TimeseriesAdapter, TimeseriesAugment, TimeseriesProcessor
from mmssl_modalities.timeseries.tokens import NumericEmbedding, compress, expand

NAN = math.nan
RAW: dict[str, Any] = {"normalise": "none"}
"""Leaves the values as they are."""


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol, equal_nan=True)


def values_of(processor: TimeseriesProcessor, raw: Any) -> list[list[float]]:
    """Values with NaN where they are missing."""
    inputs = processor(raw)
    found: list[list[float]] = inputs["timeseries_values"].masked_fill(~inputs["timeseries_observed"], NAN).tolist()
    return found


def batch_of(processor: TimeseriesProcessor, *raws: Any) -> Inputs:
    return processor.collate([processor(raw) for raw in raws])


# Reading


SERIES = np.array([[0.0, 1.0, 2.0], [3.0, NAN, 5.0]])


@pytest.mark.parametrize(
    "raw",
    [
        SERIES,
        SERIES.astype(np.float32),
        SERIES.tolist(),
        [[0, 1, 2], [3, None, 5]],
        [np.array([0, 1, 2]), [3, pd.NA, 5]],
        np.array([[0, 1, 2], [3, None, 5]], dtype=object),
        np.array([None, *SERIES], dtype=object)[1:],
        torch.tensor(SERIES),
        torch.tensor(SERIES, dtype=torch.bfloat16, requires_grad=True),
        list(torch.tensor(SERIES)),
        np.ma.masked_invalid(SERIES),
        pd.DataFrame({"a": [0, 1, 2], "b": [3.0, None, 5.0]}),
        pd.DataFrame({"a": [0, 1, 2], "b": pd.array([3, None, 5], dtype="Int64")}),
        {"values": SERIES},
        {"values": SERIES, "times": None, "rate": None},
        {"values": SERIES, "rate": 50},
    ],
)
def test_every_form_of_a_series(raw: Any) -> None:
    np.testing.assert_array_equal(values_of(TimeseriesProcessor(**RAW), raw), SERIES)


def test_layouts_and_one_axis() -> None:
    processor = TimeseriesProcessor(layout="time_first", **RAW)
    np.testing.assert_array_equal(values_of(processor, SERIES.T), SERIES)
    np.testing.assert_array_equal(values_of(processor, pd.DataFrame(SERIES.T)), SERIES)
    for raw in ([1, 2, 3], np.array([1, 2, 3], np.uint8), pd.Series([1, 2, 3]), torch.tensor([1, 2, 3])):
        assert values_of(processor, raw) == [[1, 2, 3]]
    assert values_of(processor, [True, False]) == [[1, 0]]
    assert values_of(processor, np.float64(2)[None]) == [[2]]


def test_many_tells_samples_from_numbers() -> None:
    processor = TimeseriesProcessor()
    assert [len(processor.many(raw)) for raw in ([1, 2.5, None], [[1, 2], [3, 4]], [SERIES] * 3, SERIES)] == [1, 2, 3, 1]
    assert [len(processor.many(raw)) for raw in (np.zeros((4, 2, 3)), torch.zeros(5, 1, 3), {"values": [1]}, [])] == [4, 5, 1, 0]
    assert len(processor.many(pd.DataFrame({"a": [1, 2]}))) == 1


# Times


def times_of(processor: TimeseriesProcessor, raw: Any) -> list[float] | None:
    inputs = processor(raw)
    return inputs["timeseries_times"].tolist() if "timeseries_times" in inputs else None


def test_times_count_in_samples() -> None:
    own, nominal = TimeseriesProcessor(), TimeseriesProcessor(rate=2.0)
    irregular = {"values": [1, 2, 3, 4], "times": [10, 11, 12, 15]}
    assert times_of(own, irregular) == [0, 1, 2, 5]
    assert times_of(nominal, irregular) == [0, 2, 4, 10]
    assert times_of(own, {"values": [1, 2, 3], "times": [0.5, 1.0, 1.5]}) is None
    assert times_of(nominal, {"values": [1, 2, 3], "times": [0.5, 1.0, 1.5]}) is None
    assert times_of(own, {"values": [1, 2, 3], "rate": 50.0}) is None
    assert times_of(nominal, {"values": [1, 2, 3], "rate": 1}) == [0, 2, 4]
    assert times_of(nominal, [1, 2, 3]) is None
    assert times_of(own, {"values": [1], "times": [7]}) is None
    assert times_of(own, {"values": [1, 2, 3, 4], "times": [0, 5e-324, 1e-323, 1e300]}) == pytest.approx([0, 0, 0, 1e12])


@pytest.mark.parametrize("zone", [None, "Europe/Oslo"])
def test_dates_are_times_in_seconds(zone: str | None) -> None:
    dates = pd.DatetimeIndex(["2026-01-01 00:00", "2026-01-01 00:01", "2026-01-01 00:04"], tz=zone)
    processor = TimeseriesProcessor(rate=1 / 60)
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=dates)
    raws: list[Any] = [
        frame,
        frame["a"],
        *({"values": [1, 2, 3], "times": times} for times in (dates, list(dates), pd.Series(dates))),
    ]
    raws += [{"values": [1, 2, 3], "times": dates - dates[0]}]
    if zone is None:
        raws += [{"values": [1, 2, 3], "times": dates.to_numpy()}, {"values": frame}]
    for raw in raws:
        assert times_of(processor, raw) == pytest.approx([0, 1, 4])
    assert times_of(processor, frame.reset_index(drop=True)) is None


INDEXES: dict[str, tuple[Any, list[float] | None]] = {
    "counted": (pd.RangeIndex(4), None),
    "a part of a longer one": (pd.RangeIndex(100, 104), None),
    "counted in decimals": (pd.Index([0.0, 1, 2, 3]), None),
    "gaps of left-out rows": (pd.Index([0, 1, 4, 5]), [0, 1, 4, 5]),
    "a part with gaps": (pd.Index([10, 11, 14, 15]), [0, 1, 4, 5]),
    "unsigned numbers with gaps": (pd.Index([10, 11, 14, 15], dtype="uint8"), [0, 1, 4, 5]),
    "seconds": (pd.Index([0.5, 1.5, 4.5, 5.5]), [0, 1, 4, 5]),
    "dates": (pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06"]), [0, 1, 4, 5]),
    "dates of a zone": (pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06"], tz="UTC"), [0, 1, 4, 5]),
    "dates as objects": (pd.Index([date(2024, 1, day) for day in (1, 2, 5, 6)]), [0, 1, 4, 5]),
    "periods": (pd.PeriodIndex(["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06"], freq="D"), [0, 1, 4, 5]),
    "months": (pd.PeriodIndex(["2024-01", "2024-02", "2024-03", "2024-04"], freq="M"), [0, 1, 60 / 31, 91 / 31]),
    "durations": (pd.to_timedelta([0, 1, 4, 5], unit="h"), [0, 1, 4, 5]),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_that_does_not_count_gives_times(kind: str) -> None:
    index, expected = INDEXES[kind]
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [4.0, 3, 2, 1]}, index=index)
    for raw in (frame, frame["a"], {"values": frame}):
        found = times_of(TimeseriesProcessor(), raw)
        assert found is None if expected is None else found == pytest.approx(expected, abs=1e-5)
    assert times_of(TimeseriesProcessor(), frame.reset_index(drop=True)) is None
    if isinstance(index, pd.PeriodIndex):
        assert times_of(TimeseriesProcessor(), {"values": [1, 2, 3, 4], "times": index}) == pytest.approx(expected, abs=1e-5)


def test_an_index_beside_a_rate_counts_samples() -> None:
    values = pd.Series([1.0, 2, 3, 4], index=[0, 1, 4, 5])
    assert times_of(TimeseriesProcessor(rate=50.0), {"values": values, "rate": 50}) == pytest.approx([0, 1, 4, 5])
    assert times_of(TimeseriesProcessor(rate=50.0), {"values": values.iloc[:2], "rate": 50}) is None


@pytest.mark.parametrize("layout", ["channels_first", "time_first"])
def test_more_channels_than_samples_is_told_with_the_key(layout: Any) -> None:
    raws = [np.ones((12, 3)), np.ones((9, 4)), [1.0, 2.0]][:2]
    raws = raws if layout == "channels_first" else [raw.T for raw in raws]
    processor = TimeseriesProcessor(layout=layout)
    processor.fit(raws)
    (found,) = processor.contents(iter([*raws, "bad"]))
    assert found.detail == "9 to 12 channels of 3 to 4 samples"
    (odd,) = found.odd
    other = {"channels_first": "time_first", "time_first": "channels_first"}[layout]
    assert odd.way_out.endswith(f"set processor.layout: {other}")
    frames = [pd.DataFrame(np.ones((3, 12)))]
    for others in ([*raws, np.ones((3, 12) if layout == "channels_first" else (12, 3))], frames, [[1.0, 2.0]], []):
        assert not [odd for part in processor.contents(others) for odd in part.odd]


# Fitting and settings


def test_fit_takes_sizes_and_rate() -> None:
    def fitted(samples: list[Any], **settings: Any) -> list[Any]:
        processor = TimeseriesProcessor(**settings)
        assert not processor.fitted
        processor.fit(iter(samples))
        assert processor.fitted
        return [processor.num_channels, processor.length, processor.rate]

    assert fitted([np.ones((2, 5))] * 3) == [2, 5, None]
    assert fitted([[1, 2], [1, 2, 3]]) == [1, 0, None]
    assert fitted([[1, 2], [[1, 2], [1, 2]], "bad"]) == [0, 2, None]
    assert fitted([{"values": [1, 2], "rate": rate} for rate in (10, 20, 40)]) == [1, 2, 20.0]
    assert fitted([{"values": [1, 2, 3], "times": [0, 0.5, 3]}]) == [1, 3, pytest.approx(1 / 1.5)]
    assert fitted([np.ones(9), np.ones(70)], window=8) == [1, 8, None]
    assert fitted([{"values": [1, 2], "rate": 9}], rate=5.0, num_channels=0) == [0, 2, 5.0]
    with pytest.raises(ValueError, match="fitted on one series or more; got none"):
        TimeseriesProcessor().fit([])
    with pytest.raises(TypeError, match="real numbers; got text"):
        TimeseriesProcessor().fit([["a"]])
    with pytest.raises(ValueError, match=r"mixed needs series of one number of channels; these have 1, 2\. Use independent"):
        TimeseriesProcessor(channels="mixed").fit([[1, 2], [[1, 2], [1, 2]]])


@pytest.mark.parametrize(
    "settings", [{}, {"normalise": "window", "window": 30, "stride": 10}, {"layout": "time_first", "num_channels": 3, "rate": 2.5}]
)
def test_settings_survive_json_and_pickle(settings: dict[str, Any]) -> None:
    processor = TimeseriesProcessor(**settings)
    processor.fit([np.ones((40, 3))])
    again = TimeseriesProcessor(**json.loads(json.dumps(processor.settings(), allow_nan=False)))
    raw = {"values": np.random.default_rng(0).normal(size=(20, 3)), "rate": 1.0}
    for other in (again, pickle.loads(pickle.dumps(processor))):
        assert other.settings() == processor.settings()
        assert other.windowed == ("window" in settings)
        for name, tensor in processor(raw).items():
            assert_close(other(raw)[name], tensor, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 3}, r"got stride=3 and window=None\. Set processor.window to stride or more"),
        ({"stride": 5, "window": 4}, "would lose samples; got stride=5 and window=4"),
        ({"channels": "mixed", "num_channels": 0}, "mixed needs one number of channels"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeseriesProcessor(**settings)


# Normalisation


def test_instance_normalisation_counts_observed_values_only() -> None:
    raw = np.random.default_rng(0).normal(1e6, 3, (3, 50))
    raw[0, 10:30] = NAN
    raw[1] = NAN
    inputs = TimeseriesProcessor()(raw)
    values, there = inputs["timeseries_values"].double().numpy(), inputs["timeseries_observed"].numpy()
    np.testing.assert_array_equal(there, ~np.isnan(raw))
    assert (values[~there] == 0).all()
    for channel in (0, 2):
        seen = raw[channel][there[channel]]
        np.testing.assert_allclose(values[channel][there[channel]], (seen - seen.mean()) / seen.std(), atol=1e-5)
        np.testing.assert_allclose(inputs["timeseries_statistics"][channel], [seen.mean(), seen.std()], rtol=1e-6)
    assert inputs["timeseries_statistics"][1].tolist() == [0, 0]


@pytest.mark.parametrize("level", [0.0, -7.0, 0.1, 1e9, 1e-9, 123456.789])
def test_a_constant_channel_is_zero_with_scale_zero(level: float) -> None:
    inputs = TimeseriesProcessor()(np.full(37, level))
    assert (inputs["timeseries_values"] == 0).all()
    np.testing.assert_allclose(inputs["timeseries_statistics"][0], [level, 0], rtol=1e-6)
    nearly = np.full(37, level + 1.0)
    nearly[3] += 1e-6 * abs(level + 1)
    assert TimeseriesProcessor()(nearly)["timeseries_values"].double().std(correction=0) == pytest.approx(1)


# Long series


def test_pieces_lose_nothing() -> None:
    processor = TimeseriesProcessor(window=8, stride=5, **RAW)
    values = np.arange(44.0).reshape(2, 22)
    values[:, 4:14] = NAN
    times = np.cumsum(np.arange(1, 23))
    pieces = processor.pieces({"values": values, "times": times})
    starts = [0, 10, 14]  # the piece from 5 on is empty
    assert len(pieces) == len(starts)
    for start, piece in zip(starts, pieces, strict=True):
        np.testing.assert_array_equal(values_of(processor, piece), values[:, start : start + 8])
        np.testing.assert_array_equal(piece.times - piece.times[0], times[start : start + 8] - times[start])
    assert [len(processor.pieces(np.ones(size))) for size in (1, 8, 9, 13, 14)] == [1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match=r"at most processor.window=8 samples; this one has 22\. Cut it with processor.pieces"):
        processor(values)
    assert TimeseriesProcessor().pieces(values)[0] is values


# Batches and tokens


def by_loops(batch: list[np.ndarray], size: int) -> list[list[tuple[list[float], list[float]]]]:
    """Per series the coordinates and the values of its patches that hold one, by their definition."""
    found = []
    for series in batch:
        rows = []
        for channel, curve in enumerate(series):
            for number, start in enumerate(range(0, len(curve), size)):
                patch = [float(curve[i]) if i < len(curve) else NAN for i in range(start, start + size)]
                if not all(map(math.isnan, patch)):
                    rows.append(([float(number), 0.0, float(channel), 0.0], patch))
        found.append(rows)
    return found


def ragged() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    batch = [random.normal(size=shape) for shape in ((1, 9), (3, 4), (2, 12), (2, 1))]
    batch[2][0, 2:9] = NAN
    return batch


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_tokens_against_loops(size: int) -> None:
    processor = TimeseriesProcessor(**RAW)
    adapter = TimeseriesAdapter(8, processor, patch_size=size)
    batch = batch_of(processor, *ragged())
    tokens, target = adapter(batch), adapter.target(batch)["patches"]
    expected = by_loops(ragged(), size)
    assert tokens.valid is not None
    assert tokens.valid.sum(1).tolist() == [len(rows) for rows in expected]
    for row, rows in enumerate(expected):
        patches = torch.tensor([patch for _, patch in rows])
        count = len(rows)
        assert tokens.coords[row, :count].tolist() == [place for place, _ in rows]
        assert_close(target[row, :count], patches)
        assert target[row, count:].isnan().all()
        contents = torch.cat([patches.nan_to_num(), (~patches.isnan()).float()], 1)
        assert_close(tokens.values[row, :count], contents @ adapter.proj.weight.T + adapter.proj.bias, 1e-5)


def test_complete_batches_carry_no_masks() -> None:
    processor = TimeseriesProcessor()
    batch = batch_of(processor, *np.random.default_rng(0).normal(size=(3, 2, 10)))
    assert set(batch) == {"timeseries_values", "timeseries_statistics"}
    adapter = TimeseriesAdapter(8, processor, patch_size=4)
    tokens = adapter(batch)
    assert tokens.valid is None
    assert tokens.coords[0, :, 0].tolist() == [-1, 0, 1, 2] * 2
    assert tokens.coords[0, :, 2].tolist() == [0] * 4 + [1] * 4
    assert adapter.target(batch)["patches"][0, 3].isnan().tolist() == [False, False, True, True]


def test_missing_is_not_zero() -> None:
    processor = TimeseriesProcessor(**RAW)
    adapter = TimeseriesAdapter(8, processor, patch_size=4)
    gap, zero = (adapter(batch_of(processor, [1.0, hole, 2.0, 3.0])).values for hole in (NAN, 0.0))
    assert (gap - zero).abs().max() > 1e-3


def test_location_and_scale_are_a_token() -> None:
    processor = TimeseriesProcessor()
    adapter = TimeseriesAdapter(8, processor, patch_size=4)
    curve = np.sin(np.arange(8.0))
    batch = batch_of(processor, [curve, np.full(8, NAN)], [5 + 3 * curve, 2 * curve])
    tokens, target = adapter(batch), adapter.target(batch)
    assert tokens.valid is not None and tokens.valid.sum(1).tolist() == [3, 6]
    assert_close(tokens.values[0, 1:3], tokens.values[1, 1:3], 1e-5)
    assert (tokens.values[0, 0] - tokens.values[1, 0]).abs().max() > 1e-2
    expected = compress(batch["timeseries_statistics"][1, 0])
    assert_close(target["statistics"][1, 0], expected)
    assert target["patches"][1, 0].isnan().all() and target["statistics"][1, 1:3].isnan().all()
    plain = TimeseriesAdapter(8, processor, patch_size=4, statistics=False)
    assert plain(batch).values.shape == (2, 4, 8) and plain.target_sizes == {"patches": 4}


def test_windows_are_normalised_one_by_one() -> None:
    processor = TimeseriesProcessor(normalise="window")
    adapter = TimeseriesAdapter(8, processor, patch_size=4)
    raw = [1e4, 1e4 + 8, 1e4, 1e4 + 8, 7, 7, 7, 7, 3, NAN, 5, NAN]
    target = adapter.target(batch_of(processor, raw))
    assert_close(target["patches"][0], torch.tensor([[-1, 1, -1, 1], [0, 0, 0, 0], [-1, NAN, 1, NAN]]), 0.02)
    assert_close(expand(target["statistics"][0]), torch.tensor([[1e4 + 4, 4], [7, 0], [4, 1]]), 0.1)
    shifted = adapter(batch_of(processor, [value + 1 for value in raw])).values
    assert (adapter(batch_of(processor, raw)).values - shifted).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("normalise", ["none", "instance", "window"])
def test_mixed_channels_share_a_token(normalise: Any) -> None:
    processor = TimeseriesProcessor(channels="mixed", normalise=normalise)
    raws = [np.random.default_rng(seed).normal(size=(2, 6)) for seed in (0, 1)]
    raws[1][0, :4] = NAN
    raws[1][1, :2] = NAN
    processor.fit(raws)
    adapter = TimeseriesAdapter(8, processor, patch_size=2)
    batch = batch_of(processor, *raws)
    tokens, target = adapter(batch), adapter.target(batch)
    first = int(normalise == "instance")
    assert tokens.valid is not None and tokens.valid.sum(1).tolist() == [3 + first, 2 + first]
    assert tokens.coords[1, first : first + 2, 0].tolist() == [1, 2] and not tokens.coords[..., 2].any()
    assert {name: tensor.shape[2] for name, tensor in target.items()} == adapter.target_sizes
    if normalise == "none":
        assert_close(target["mixed_patches"][0, 1], torch.tensor(raws[0][:, 2:4].ravel(), dtype=torch.float32))
        assert target["mixed_patches"][1, 0].isnan().tolist() == [True, True, False, False]
    alone = adapter(batch_of(processor, raws[1]))
    assert_close(alone.values[0], tokens.values[1, : alone.values.shape[1]], 1e-5)
    with pytest.raises(ValueError, match=r"the model mixes 2 channels; this series has 3 of 4 samples"):
        processor(np.ones((3, 4)))


def test_mixed_channels_need_a_number() -> None:
    processor = TimeseriesProcessor(channels="mixed")
    with pytest.raises(ValueError, match=r"number of channels is not known yet: call fit\(series\)"):
        processor([1, 2])
    with pytest.raises(ValueError, match=r"mixed needs processor\.num_channels"):
        TimeseriesAdapter(8, processor)


def test_coordinates_follow_the_clock() -> None:
    processor = TimeseriesProcessor(rate=2.0, **RAW)
    adapter = TimeseriesAdapter(8, processor, patch_size=2)
    batch = batch_of(
        processor, {"values": [1, 2, 3, 4], "times": [0, 1, 10, 11]}, [1, 2, 3, 4, 5], {"values": [1, 2, 3], "rate": 1}
    )
    time = adapter(batch).coords[..., 0]
    assert [row[:count].tolist() for row, count in zip(time, (2, 3, 2), strict=True)] == [[0, 10], [0, 1, 2], [0, 2]]


@pytest.mark.parametrize(
    ("settings", "keys_of_adapter"),
    [
        ({"channels": "mixed"}, {"patch_size": 5, "stem": "conv"}),
        ({"normalise": "none"}, {"patch_size": 6, "stem": "conv"}),
        ({"channels": "mixed", "normalise": "window"}, {"patch_size": 4}),
        ({"normalise": "window"}, {"patch_size": 4}),
        ({"normalise": "none"}, {"patch_size": 3}),
        ({}, {"patch_size": 4, "statistics": False}),
    ],
)
def test_masked_modelling_of_every_layout(settings: dict[str, Any], keys_of_adapter: dict[str, Any]) -> None:
    raws = [np.random.default_rng(seed).normal(size=(2, 20 + seed)) for seed in range(3)]
    raws[0][0, 4:12] = NAN
    processor = TimeseriesProcessor(**settings)
    processor.fit(raws)
    modalities = {"timeseries": {"processor": processor.settings(), "adapter": keys_of_adapter}}
    config = MMSSLConfig(modalities=modalities, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    objective = Masked(MMSSLModel(config), Setup(augments={"timeseries": TimeseriesAugment(drop=0.2, crop=(0.5, 1.0), jitter=0.1)}))
    ids = torch.arange(3)
    batch = Batch({"timeseries": batch_of(processor, *raws)}, keys(0, 0, ids), ids)
    objective(batch).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in objective.parameters())
    (figure,) = objective.pictures(batch, {"timeseries": processor}).values()
    figure.canvas.draw()


def test_convolutions_stay_within_their_patch() -> None:
    processor = TimeseriesProcessor(**RAW)
    adapter = TimeseriesAdapter(8, processor, patch_size=8, stem="conv")
    raw = np.random.default_rng(0).normal(size=(2, 24))
    other = raw.copy()
    other[1, 8:16] += 1
    before, after = (adapter(batch_of(processor, series)).values[0] for series in (raw, other))
    assert (before != after).any(1).tolist() == [False] * 4 + [True, False]
    alone = torch.stack([adapter(batch_of(processor, part)).values[0, 0] for part in raw.reshape(6, 1, 8)])
    assert_close(alone, before, 1e-5)


# Embedding of numbers


def embedded_by_loops(x: float, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """NuTime's formula as it is written, in float64."""
    scales = [10.0**i for i in range(-4, 5)]
    alpha = np.array([1 / (abs(math.log(abs(x) / s + 1e-6)) + 1e-6) for s in scales])
    total = np.zeros(slope.shape[1])
    for a, s, w, b in zip(alpha / alpha.sum(), scales, slope, offset, strict=True):
        y = x * w + s * b
        total += a * (y - y.mean()) / y.std()
    return total


def test_embedding_of_numbers_against_the_formula() -> None:
    module = NumericEmbedding()
    numbers = [0.0, 1e-6, -3e-5, 0.02, 1.0, -7.5, 31.0, 1e3, 1e6, -1e9]
    found = module(torch.tensor(numbers)).double()
    slope, offset = (p.detach().double().numpy() for p in (module.slope, module.offset))
    expected = np.stack([embedded_by_loops(x, slope, offset) for x in numbers])
    np.testing.assert_allclose(found.detach(), expected, atol=2e-4)


def test_embedding_tells_numbers_of_all_magnitudes_apart() -> None:
    numbers = torch.cat([sign * torch.logspace(-6, 6, 25) for sign in (1, -1)])
    found = NumericEmbedding()(numbers)
    assert found.isfinite().all()
    assert torch.cdist(found, found).fill_diagonal_(1).min() > 1e-2
    assert NumericEmbedding()(torch.tensor([1e15, -1e15, 1e-38])).isfinite().all()


def test_compress_and_expand() -> None:
    numbers = torch.tensor([-1e6, -1.0, 0.0, 1e-3, 50.0])
    torch.testing.assert_close(expand(compress(numbers)), numbers, rtol=1e-4, atol=1e-6)


# Features


def test_features_are_the_raw_values_of_series_of_one_length() -> None:
    raws = list(np.random.default_rng(0).normal(5, 3, size=(3, 2, 11)))
    processor = TimeseriesProcessor()
    processor.fit(raws)
    np.testing.assert_allclose(processor.features(processor(raws[1])), raws[1].ravel(), atol=1e-5)
    gap = raws[1].copy()
    gap[0, 4] = NAN
    gap[1] = NAN
    found = processor.features(processor(gap))
    assert found[4] == pytest.approx((gap[0, 3] + gap[0, 5]) / 2, abs=1e-5)
    assert not found[11:].any()


def test_features_have_one_size_whatever_the_series() -> None:
    processor = TimeseriesProcessor(num_channels=2, length=20)
    sizes = [processor.features(processor(np.ones(shape))).shape for shape in ((1, 20), (2, 5), (3, 40), (2, 1))]
    assert sizes == [(40,)] * 4
    various = TimeseriesProcessor(num_channels=0, length=0)
    assert {various.features(various(np.ones(shape))).shape for shape in ((1, 20), (2, 5), (3, 400))} == {(256,)}
    long = TimeseriesProcessor(num_channels=1, length=5000)
    assert long.features(long(np.arange(5000.0))).shape == (1024,)


# Views


def view_of(inputs: Inputs, **settings: Any) -> Inputs:
    return TimeseriesAugment(**({"scale": 0.0} | settings))(
        inputs, Draws(keys(0, 3, torch.arange(len(inputs["timeseries_values"]))))
    )


def test_scale_and_jitter() -> None:
    processor = TimeseriesProcessor(**RAW)
    batch = batch_of(processor, *np.random.default_rng(0).normal(100, 5, size=(20, 2, 200)))
    values = batch["timeseries_values"]
    scaled = view_of(batch, scale=0.5)["timeseries_values"]
    mean = values.mean(2, keepdim=True)
    gain = (scaled - mean) / (values - mean)
    assert_close(gain, gain[..., :1].expand_as(gain), 0.05)
    assert 0.5 < gain.median(2).values.min() < 0.7 < 1.3 < gain.median(2).values.max() < 1.5
    noise = (view_of(batch, jitter=0.2)["timeseries_values"] - values) / values.std(2, keepdim=True)
    assert noise.std() == pytest.approx(0.2, rel=0.05) and abs(noise.mean()) < 0.01


def test_drop_makes_gaps_but_leaves_a_value() -> None:
    processor = TimeseriesProcessor(**RAW)
    batch = batch_of(processor, *np.ones((20, 1, 500)))
    there = view_of(batch, drop=0.3)["timeseries_observed"]
    assert there.float().mean() == pytest.approx(0.7, abs=0.02)
    assert "timeseries_observed" not in view_of(batch, scale=0.1)
    short = batch_of(processor, *np.ones((50, 1, 2)))
    assert view_of(short, drop=0.99)["timeseries_observed"].flatten(1).any(1).all()


def test_crop_stretches_a_part_and_keeps_gaps() -> None:
    processor = TimeseriesProcessor(**RAW)
    ramp = np.arange(30.0)
    gap = np.where((ramp > 9) & (ramp < 15), NAN, ramp)
    view = view_of(batch_of(processor, *[ramp] * 20, *[gap] * 20, ramp[:12]), crop=(0.5, 0.8))
    values, there = view["timeseries_values"][:, 0], view["timeseries_observed"][:, 0]
    step = values[:20].diff(dim=1)
    assert_close(step, step[:, :1].expand_as(step), 1e-4)
    assert 0.5 <= step.min() < 0.56 and 0.74 < step.max() <= 0.81
    assert values[:20].min() >= 0 and values[:20].max() <= 29.001
    for curve, seen in zip(values[20:40], there[20:40], strict=True):
        assert not ((curve[seen] > 9.001) & (curve[seen] < 14.999)).any()
        assert not seen.all() and not curve[~seen].any()
    assert there[40].tolist() == [True] * 12 + [False] * 18
    assert values[40, :12].max() <= 11


def test_bad_crop() -> None:
    with pytest.raises(ValueError, match=r"smallest share of the series first; got \[0.9, 0.5\]\. Exchange the two"):
        TimeseriesAugment(crop=(0.9, 0.5))


# Pictures


def test_the_picture_shows_hidden_parts_and_predictions() -> None:
    processor = TimeseriesProcessor(**RAW)
    raws = [np.arange(12.0).reshape(2, 6), np.array([[1.0, 2.0, 4.0]])]
    batch = batch_of(processor, *raws)
    adapter = TimeseriesAdapter(8, processor, patch_size=2)
    target = adapter.target(batch)["patches"]
    hidden = torch.zeros(target.shape[:2], dtype=torch.bool)
    hidden[0, 4] = hidden[1, 1] = True
    predicted = target.masked_fill(~hidden[..., None], NAN)
    figure = TIMESERIES.picture(batch, hidden, {"patches": predicted}, processor)
    figure.canvas.draw()
    first, second = figure.axes
    curve, guess = (np.asarray(first.lines[number].get_ydata()) for number in (2, 3))
    np.testing.assert_array_equal(np.isnan(guess), [True, True, False, False, True, True])
    np.testing.assert_allclose(guess[2:4], curve[2:4], atol=1e-6)
    shown = np.asarray(second.lines[0].get_ydata())
    np.testing.assert_array_equal(np.isnan(shown), [False] * 3 + [True] * 3)


@pytest.mark.parametrize("seed", range(6))
def test_the_picture_of_series_of_any_lengths(seed: int) -> None:
    """The longest of a batch may be none of those that are drawn."""
    processor = TimeseriesProcessor()
    lengths = np.random.default_rng(seed).permutation([16, 16, 16, 24, 32, 32, 48, 64])
    batch = batch_of(processor, *(np.arange(n, dtype=float)[None] for n in lengths))
    adapter = TimeseriesAdapter(8, processor, patch_size=8)
    target = {name: values.nan_to_num() for name, values in adapter.target(batch).items()}
    hidden = torch.ones(next(iter(target.values())).shape[:2], dtype=torch.bool)
    figure = TIMESERIES.picture(batch, hidden, target, processor)
    for n, axes in zip(lengths, figure.axes, strict=False):
        curve, guess = (np.isfinite(np.asarray(line.get_ydata(), dtype=float)) for line in axes.lines[:2])
        assert curve.sum() == guess.sum() == n


def test_examples_repeat_and_vary() -> None:
    shapes = {np.shape(raw["values"] if isinstance(raw, dict) else raw) for raw in TIMESERIES.example(9, 0)}
    assert len(shapes) > 6
    for one, other in zip(TIMESERIES.example(4, 0), TIMESERIES.example(4, 0), strict=True):
        np.testing.assert_equal(one, other)

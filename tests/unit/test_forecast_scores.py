"""Baselines of forecasts, their errors, and the head that tells what follows, beside computations number by number."""

import numpy as np
import pytest
import torch

from mmssl.data.forecast import ForecastOptions
from mmssl.data.source import Source
from mmssl.evaluation import ForecastTable, naive, table_of
from mmssl.evaluation.forecast_table import ForecastRow
from mmssl.evaluation.forecasts import Errors, Forecasts
from mmssl.model import LabelHead
from mmssl.model.pooling import in_a_row
from mmssl.tokens import Tokens
from mmssl_modalities.timeseries import TimeseriesAdapter, TimeseriesProcessor

WINDOWS = {"context": 6, "horizon": 3, "series": {}}


def head(**keys: object) -> LabelHead:
    return LabelHead(**{"kind": "regression", "size": 3, "shape": [3], "windows": WINDOWS, **keys})  # type: ignore[arg-type]


def test_a_forecast_is_told_in_units_of_what_was_seen() -> None:
    draw = np.random.default_rng(0)
    given, level, labels = draw.normal(size=(5, 3)), draw.normal(10, 2, (5, 2)), draw.normal(9, 3, (5, 3))
    level[:, 1] = [0.0, 1.0, 2.0, 0.5, 3.0]  # the first window did not change: what follows is told as what was
    units = np.array([1.0, 2.0, 3.0, 0.1, 5.0])
    values = torch.tensor(given, requires_grad=True)
    logits = head().logits(values, torch.tensor(level))
    loss = head().loss(values, torch.tensor(labels), level=torch.tensor(level), units=torch.tensor(units))
    loss.sum().backward()
    for i in range(5):
        told = [given[i, h] * level[i, 1] + level[i, 0] for h in range(3)]
        assert logits[i].tolist() == pytest.approx(told)
        errors = [(told[h] - labels[i, h]) / units[i] for h in range(3)]
        assert loss[i].item() == pytest.approx(sum(error * error for error in errors) / 3)
        gradient = [2 * errors[h] / 3 / units[i] * level[i, 1] for h in range(3)]
        assert values.grad is not None and values.grad[i].tolist() == pytest.approx(gradient)
    alone = head(std=2.0).loss(values, torch.tensor(labels), level=torch.tensor(level))
    assert alone[0].item() == pytest.approx(np.square((level[0, 0] - labels[0]) / 2).mean())


@pytest.mark.parametrize("normalise", ["instance", "none", "window"])
@pytest.mark.parametrize("gaps", [False, True])
def test_level_and_places_are_those_of_what_was_seen(normalise: str, gaps: bool) -> None:
    draw = np.random.default_rng(1)
    processor = TimeseriesProcessor(normalise=normalise, num_channels=1, length=12)  # type: ignore[arg-type]
    adapter = TimeseriesAdapter(16, processor, patch_size=4, statistics=normalise == "instance")
    series = draw.normal(50, 4, (3, 12))
    if gaps:
        series[1, 4:8], series[2, 1] = np.nan, np.nan
    inputs = processor.collate([processor(row) for row in series])
    level = adapter.level(inputs)
    np.testing.assert_allclose(level[:, 0], np.nanmean(series, 1), rtol=1e-5)
    np.testing.assert_allclose(level[:, 1], np.nanstd(series, 1), rtol=1e-3)
    tokens = adapter(inputs)
    first = int(normalise == "instance")
    assert adapter.places(12) == 3 + first and adapter.places(13) == 4 + first
    row = in_a_row(tokens, adapter.place(tokens), adapter.places(12)).view(3, 3 + first, 16)
    assert (row[1, 1 + first] == 0).all().item() is gaps  # the patch that holds nothing keeps its place
    assert (row[1, 2 + first] != 0).any() and (row[0] != 0).any(1).all()
    two = processor.collate([TimeseriesProcessor(normalise=normalise)(series[:2])])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got series of 2 channels"):
        adapter.level(two)


def test_a_longer_series_than_in_training_is_refused() -> None:
    tokens = Tokens(torch.ones(1, 4, 2), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="reads 3 tokens in a row, and a sample has one at place 3"):
        in_a_row(tokens, torch.arange(4)[None], 3)


def test_baselines_are_what_they_are_called() -> None:
    seen = torch.tensor([[1.0, 2, 3, 4, 5, 9], [7, 7, 7, 7, 7, 7]], dtype=torch.float64)
    assert naive.last_value(4)(seen).tolist() == [[9] * 4, [7] * 4]
    assert naive.last_season(5, 3)(seen)[0].tolist() == [4, 5, 9, 4, 5]
    assert naive.mean(2)(seen)[0].tolist() == [4, 4]
    nan = np.nan
    assert naive.filled(np.array([[nan, 2, nan, nan, 5], [1, 2, 3, 4, nan]])).tolist() == [[2, 2, 2, 2, 5], [1, 2, 3, 4, 4]]


def test_the_ridge_is_that_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    rows = [{"series": level + np.cumsum(draw.normal(size=70)) + 3 * np.sin(np.arange(70) / 2)} for level in (0.0, 50.0)]
    options = ForecastOptions(horizon=3, context=6)
    source = Source.from_rows(rows, {"timeseries": "series"}, forecast=options, split="train")
    labels = source.labels()
    assert labels is not None and labels.units is not None
    monkeypatch.setattr(naive, "AT_ONCE", 17)
    monkeypatch.setattr(naive, "PENALTIES", (0.5,))
    fitted = naive.ridge(source, "timeseries", labels.tensor(), torch.from_numpy(labels.units))
    seen = np.stack([row["series"] for row in source.rows(range(len(source)))])
    mean, std = seen.mean(1, keepdims=True), seen.std(1, keepdims=True)
    units = labels.units.astype(np.float64)[:, None]
    x, y = (seen - mean) / units, (labels.values - mean) / units
    weights = np.linalg.solve(x.T @ x + 0.5 * np.eye(6), x.T @ y)
    expected = ((seen - mean) / std) @ weights * std + mean
    np.testing.assert_allclose(fitted(torch.from_numpy(seen)), expected, rtol=1e-6)


def test_the_penalty_is_the_best_on_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    rows = [{"series": draw.normal(size=60)}]
    source = Source.from_rows(rows, {"timeseries": "series"}, forecast=ForecastOptions(horizon=2, context=8), split="train")
    labels = source.labels()
    assert labels is not None and labels.units is not None
    seen = np.stack([row["series"] for row in source.rows(range(len(source)))])
    mean, unit = seen.mean(1, keepdims=True), labels.units[:, None].astype(np.float64)
    x, y = (seen - mean) / unit, (labels.values - mean) / unit
    cut = len(x) - len(x) // 5
    held = {}
    for penalty in (0.1, 10.0, 1000.0):
        weights = np.linalg.solve(x[:cut].T @ x[:cut] + penalty * np.eye(8), x[:cut].T @ y[:cut])
        held[penalty] = np.square(x[cut:] @ weights - y[cut:]).sum()
    given, units = torch.from_numpy(seen), torch.from_numpy(labels.units)
    monkeypatch.setattr(naive, "PENALTIES", (0.1, 10.0, 1000.0))
    chosen = naive.ridge(source, "timeseries", labels.tensor(), units)(given)
    monkeypatch.setattr(naive, "PENALTIES", (min(held, key=lambda penalty: held[penalty]),))
    torch.testing.assert_close(chosen, naive.ridge(source, "timeseries", labels.tensor(), units)(given))
    monkeypatch.setattr(naive, "PENALTIES", (max(held, key=lambda penalty: held[penalty]),))
    assert not torch.allclose(chosen, naive.ridge(source, "timeseries", labels.tensor(), units)(given))


def test_errors_are_means_over_all_steps() -> None:
    draw = np.random.default_rng(0)
    told, truth, units = draw.normal(size=(3, 4)), draw.normal(size=(5, 4)), draw.uniform(1, 2, 5)
    ids = torch.tensor([4, 0, 2])
    errors = Errors.of(Forecasts(torch.tensor(told), ids), torch.tensor(truth), torch.tensor(units))
    squares, sizes, own = [], [], []
    for row, place in enumerate((4, 0, 2)):
        for step in range(4):
            error = told[row, step] - truth[place, step]
            squares.append((error / units[place]) ** 2)
            sizes.append(abs(error) / units[place])
            own.append(error**2)
    assert errors.means[:3] == pytest.approx([np.mean(squares), np.mean(sizes), np.mean(own)])
    again = Errors.from_plain(errors.plain())
    assert all(torch.equal(a, b) for a, b in zip(errors, again, strict=True))
    assert errors.judged().lines[0] == f"mean squared error: {np.mean(squares):.3f}"
    assert len(errors.among(torch.tensor([0, 2])).squared) == 2


def table(*mses: float, error: float = 0.0, seen: bool = False) -> ForecastTable:
    names = ("its own head", "last value", "ridge")
    rows = [ForecastRow(name, mse, mse, mse, mse, error=error, seen=seen) for name, mse in zip(names, mses, strict=False)]
    return ForecastTable("v1", "data", 10, 6, 3, tuple(rows))


def test_the_lowest_error_wins() -> None:
    good, bad = table(0.2, 0.5, 0.3), table(0.4, 0.5, 0.3)
    assert good.wins and not bad.wins and not table(0.2, 0.5, 0.3, error=0.15).wins
    assert [good.is_best(row, "mse") for row in good.rows] == [True, False, False]
    assert good.verdict == "MSE: its own head reaches 0.200, 0.300 better than last value and 0.100 better than ridge."
    assert bad.verdict.endswith("and 0.100 worse than ridge; ridge has the lowest.")
    assert table(0.1, 0.5, seen=True).verdict.startswith("No verdict")
    assert good.share(good.rows[1], "mse") == 100 and good.share(good.rows[0], "mse") == 40
    assert table_of(good.to_dict()) == good

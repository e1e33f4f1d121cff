"""Windows of series: which steps are seen and forecast in each part, what is left out, and when the steps are."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data.calendar import grid_of
from mmssl.data.forecast import ForecastOptions, WindowTable
from mmssl.data.identity import parts_of, share_rows
from mmssl.data.series import SeriesOptions
from mmssl.data.source import Source
from mmssl.data.table_format import TableFormat


def opened(rows: list[dict[str, Any]], split: str | None, series: SeriesOptions | None = None, **keys: Any) -> Source:
    options = ForecastOptions(**{"horizon": 2, "context": 3, **keys})
    return Source.from_rows(rows, series=series, forecast=options, split=split)


def windows(source: Source) -> WindowTable:
    found = source.window_table
    assert found is not None
    return found


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    horizon=st.integers(1, 6),
    context=st.integers(1, 12),
    stride=st.integers(1, 5),
    test=st.one_of(st.integers(0, 20), st.floats(0, 0.9)),
    validation=st.one_of(st.integers(0, 20), st.floats(0, 0.5)),
    steps=st.one_of(st.none(), st.integers(1, 60)),
)
def test_no_window_of_a_part_forecasts_steps_of_another(
    lengths: list[int],
    horizon: int,
    context: int,
    stride: int,
    test: int | float,
    validation: int | float,
    steps: int | None,
) -> None:
    # A value is its place in time, so that windows say where they lie.
    rows = [{"series": np.arange(length, dtype=float)} for length in lengths]
    keys = {"horizon": horizon, "context": context, "stride": stride, "test": test, "validation": validation, "steps": steps}
    future: dict[tuple[str, int], set[float]] = {}
    for part in ("train", "validation", "test"):
        try:
            source = opened(rows, part, **keys)
        except ValueError as error:
            assert "every series is too short" in str(error)
            continue
        for row in source.rows(range(len(source))):
            seen, ahead = row["series"], row["future"]
            assert len(seen) == context and len(ahead) == horizon
            np.testing.assert_array_equal(np.concatenate([seen, ahead]), np.arange(seen[0], seen[0] + context + horizon))
            future.setdefault((part, row["row"]), set()).update(ahead)
            if part == "train":
                future[part, row["row"]].update(seen)
    for number, length in enumerate(lengths):
        end = min(length, steps or length)
        counts = [count if isinstance(count, int) else round(count * end) for count in (test, validation)]
        first = max(0, end - counts[0])
        spans = {"train": (0, max(0, first - counts[1])), "validation": (max(0, first - counts[1]), first), "test": (first, end)}
        for part, (begin, stop) in spans.items():
            assert all(begin <= step < stop for step in future.get((part, number), ()))
        if stride == 1 and spans["test"][1] - max(spans["test"][0], context) >= horizon:
            assert max(future["test", number]) == end - 1


def test_the_next_steps_are_seen_from_the_end() -> None:
    source = opened([{"series": [float(i) for i in range(10)]}, {"series": [7.0, 8.0, 9.0]}], "next")
    assert [row["series"].tolist() for row in source.rows([0, 1])] == [[7, 8, 9], [7, 8, 9]]
    assert source.column_names == ["series", "row"] and source.labels() is None


def test_units_are_deviations_of_the_training_part() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(5, 3, 40), np.full(10, 1e6)])
    source = opened([{"series": values}, {"series": np.ones(50)}], "test", test=10)
    labels = source.labels()
    assert labels is not None and labels.units is not None
    first = sum(1 for row in source.rows(range(len(source))) if row["row"] == 0)
    np.testing.assert_allclose(labels.units[:first], values[:40].std(), rtol=1e-6)
    np.testing.assert_array_equal(labels.units[first:], 1)
    limited = opened([{"series": values}, {"series": np.ones(50)}], "test", test=10).evenly(3).labels()
    assert limited is not None and limited.units is not None and len(limited.units) == 3


def test_gaps_are_seen_but_not_forecast() -> None:
    values = np.arange(12, dtype=float)
    values[4] = np.nan
    source = opened([{"series": values}], None)
    starts = windows(source).start.tolist()
    assert starts == [5, 6, 7, 8, 9, 10]  # not 3 and 4, which would forecast step 4
    assert np.isnan(source.rows([0])[0]["series"]).tolist() == [False, False, True]
    assert any("2 windows lack a value" in note for note in source.notes)


def test_several_variables_are_rows_of_their_own(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a"] * 8 + ["b"] * 4 + ["c"] * 6, "t": [*range(8), *range(4), *range(6)]})
    frame["x"], frame["y"] = np.arange(18.0), -np.arange(18.0)
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "s.csv", index=False)
    known = TableFormat(series=SeriesOptions(by="id", time="t"), forecast=ForecastOptions(horizon=2, context=3))
    source = Source(path=str(tmp_path / "s.csv"), table_format=known)
    rows = source.rows(range(len(source)))
    assert [(row["id"], row["variable"], row["time"]) for row in rows if row["id"] == "c"] == [
        ("c", "x", 3),
        ("c", "x", 4),
        ("c", "y", 3),
        ("c", "y", 4),
    ]
    assert all((row["series"] < 0).any() == (row["variable"] == "y") for row in rows)
    assert windows(source).left_out == ["id 'b'"]
    assert any("1 series are shorter than the 5 steps of a window, and left out: id 'b'" in note for note in source.notes)
    assert any("are not in order of t; they are sorted" in note for note in source.notes)


def test_parts_are_known_to_be_apart(tmp_path: Path) -> None:
    pd.DataFrame({"t": range(40), "x": np.arange(40.0)}).to_csv(tmp_path / "s.csv", index=False)
    options = ForecastOptions(horizon=2, context=3)
    known = TableFormat(series=SeriesOptions(time="t"), forecast=options)
    sources = {part: Source(path=str(tmp_path / "s.csv"), split=part, table_format=known) for part in ("train", "test", None)}
    parts = {part: parts_of(source) for part, source in sources.items()}
    assert not share_rows(parts["train"], parts["test"])
    assert share_rows(parts["train"], parts[None]) and share_rows(parts[None], parts["test"])


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (pd.date_range("2024-01-31", periods=5, freq="ME"), ["2024-06-30", "2024-07-31"]),
        (pd.date_range("2023-11-01", periods=5, freq="MS"), ["2024-04-01", "2024-05-01"]),
        (pd.date_range("2024-01-03", periods=5, freq="B"), ["2024-01-10", "2024-01-11"]),  # over a week's end
        (pd.date_range("2024-01-01", periods=5, freq="15min"), ["2024-01-01 01:15", "2024-01-01 01:30"]),
        (pd.date_range("2020-01-01", periods=5, freq="YS"), ["2025-01-01", "2026-01-01"]),
    ],
)
def test_dates_go_on_as_they_came(dates: pd.DatetimeIndex, expected: list[str]) -> None:
    seconds = (dates - dates[0]).total_seconds().to_numpy()
    found = grid_of(seconds, None, dates[0])
    assert found is not None
    grid, places = found
    np.testing.assert_array_equal(places, np.arange(5))
    assert grid.times(np.array([5, 6])) == [pd.Timestamp(text) for text in expected]


def test_a_missing_month_is_a_gap() -> None:
    dates = pd.date_range("2024-01-01", periods=8, freq="MS").delete(3)
    found = grid_of((dates - dates[0]).total_seconds().to_numpy(), None, dates[0])
    assert found is not None and found[1].tolist() == [0, 1, 2, 4, 5, 6, 7]


def uneven() -> list[dict[str, Any]]:
    return [{"id": "a", "t": t, "x": 1.0} for t in (0.0, 1.0, 2.7, 3.1, 9.2, 10.0)]


@pytest.mark.parametrize(
    ("rows", "series", "keys", "message"),
    [
        (uneven(), SeriesOptions(by="id", time="t"), {}, "the times of the series id 'a' are uneven.*Resample it"),
        (
            [{"series": [1.0, 2.0]}],
            None,
            {},
            r"every series is too short: a window takes context \+ horizon = 5 steps.*row 0, has 2",
        ),
        ([{"series": [1.0, 2.0]}], None, {"split": "next"}, "a window takes context=3 steps; the longest, row 0, has 2"),
        ([{"series": [1.0] * 9}], None, {"split": "dev"}, "has no split 'dev'; with data.forecast it has train, validation, test"),
        ([{"series": [1.0] * 9}], None, {"split": "test", "test": 1}, "the part test of it must hold 2 steps to forecast"),
        ([{"x": 1.0}] * 9, None, {}, "has no column of series for data.forecast; it has x. Where rows are steps say how"),
        ([{"series": "text"}], None, {}, "row 0 of rows in memory, column series: data.forecast reads numbers"),
        ([{"series": [float("nan")] * 9}], None, {}, "all 5 windows lack a value that is to be forecast"),
    ],
)
def test_bad_series_are_told(rows: list[dict[str, Any]], series: SeriesOptions | None, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        opened(rows, keys.pop("split", None), series, **keys)


def test_two_rows_of_one_time_are_told() -> None:
    rows = [{"id": "a", "t": t, "x": 1.0} for t in (0, 1, 1, 2, 3, 4)]
    with pytest.raises(ValueError, match="two rows of the series id 'a' have one time, t 1"):
        opened(rows, None, SeriesOptions(by="id", time="t"))


def test_a_season_must_be_seen() -> None:
    with pytest.raises(ValueError, match="period=4: a season must be seen to be repeated, and context is 3"):
        ForecastOptions(horizon=2, context=3, period=4)

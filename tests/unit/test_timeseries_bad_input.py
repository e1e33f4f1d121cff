"""What is no series: one clear error each, or handled as documented; and any input at all ends in a batch or an error."""

import math
from collections import deque
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mmssl_modalities.timeseries import TimeseriesAdapter, TimeseriesProcessor

NAN = math.nan
DATES = pd.date_range("2026-01-01", periods=3, freq="h")


def timed(times: Any, values: Any = (1.0, 2.0, 3.0)) -> dict[str, Any]:
    return {"values": list(values), "times": times}


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "a series is an array, a tensor, a list of numbers.*got NoneType"),
    "a number": (3.0, "got float"),
    "an array without axes": (np.array(3.0), r"one axis \(time\) or two \(channels x time\); got shape \[\]"),
    "text": ("1,2,3", "got str"),
    "bytes": (b"\x00\x01", "got bytes"),
    "a set": ({1.0, 2.0}, "got set"),
    "a generator": ((i for i in range(3)), "got generator"),
    "a deque": (deque([1, 2]), "got deque"),
    "a class": (list, "got type"),
    "an empty list": ([], "one channel or more and one value or more; got 1 channels of 0 values"),
    "an empty array": (np.empty((2, 0)), "got 2 channels of 0 values"),
    "no channels": (np.empty((0, 5)), "got 0 channels of 5 values"),
    "a frame without columns": (pd.DataFrame(index=range(3)), "got 0 channels of 3 values"),
    "a frame without rows": (pd.DataFrame({"a": []}), "got 1 channels of 0 values"),
    "three axes": (np.zeros((2, 3, 4)), r"got shape \[2, 3, 4\]\. Pass several as a list"),
    "nested lists of three axes": ([[[1.0]]], r"got shape \[1, 1, 1\]"),
    "all missing": ([NAN, NAN], r"all 2 values of the series are missing \(NaN\); leave such a sample out"),
    "all None": ([None, None, None], "all 3 values"),
    "infinity": ([0.0, 1.0, math.inf], r"must be finite .* got inf in channel 0, sample 2\. Replace it by NaN"),
    "minus infinity": (np.array([[0.0, 1.0], [-np.inf, 2.0]]), "got -inf in channel 1, sample 0"),
    "beyond float32": ([1.0, 1e300], r"within \+-1e\+15.* got 1e\+300 in channel 0, sample 1"),
    "a huge integer": ([1, 10**400], "an integer beyond float64"),
    "half precision overflow": (torch.tensor([1.0, 1e9]).half(), "got inf"),
    "list of text": (["1", "2"], r"real numbers; got text\. Convert it"),
    "numbers and text": ([1.0, "two"], "got text"),
    "text in an object array": (np.array([1.0, "two"], dtype=object), "got str 'two'"),
    "text array": (np.array(["a", "b"]), "got text"),
    "bytes array": (np.array([b"a"]), "got text"),
    "complex array": (np.array([1 + 2j]), r"got complex numbers\. Pass real and imaginary part as two channels"),
    "complex list": ([1j, 2.0], "got complex numbers"),
    "complex tensor": (torch.ones(2, dtype=torch.complex64), "dense tensor; got a tensor of torch.complex64"),
    "sparse tensor": (torch.eye(2).to_sparse(), "got a sparse tensor"),
    "dates as values": (np.array(["2026-01-01"], dtype="datetime64[s]"), r"got dates\. Pass \{'values': ..., 'times': dates\}"),
    "durations": (np.array([1, 2], dtype="timedelta64[s]"), "got dates"),
    "days": ([date(2026, 1, 1)], "got date datetime.date"),
    "records": (np.zeros(2, dtype=[("a", "f4")]), r"real numbers; got \[\('a'"),
    "objects": ([object(), 1.0], "got object <object"),
    "dicts": ([{"a": 1}], "got dict"),
    "ragged channels": ([[1.0, 2.0], [1.0]], r"equally long .* lengths are 2, 1\. Pad the channels with NaN"),
    "ragged object array": (np.array([np.ones(2), np.ones(3)], dtype=object), "lengths are 2, 3"),
    "a number beside lists": ([[1.0, 2.0], 3.0], "lengths are 2, no list"),
    "many ragged rows": ([[1.0] * n for n in range(12)], "0, 1, 2, 3, 4, 5, 6, 7, ..."),
    "a text column": (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "column 'b': the values of a series must be real numbers"),
    "a date column": (pd.DataFrame({"when": DATES, "a": [1, 2, 3]}), "column 'when': .*dates as its index"),
    "a categorical column": (pd.DataFrame({"c": pd.Categorical(["x", "y"])}), "column 'c': .*got categories"),
    "an empty dict": ({}, "has 'values', and may have 'times' or 'rate'; this one has no key"),
    "a dict without values": ({"times": [1, 2]}, "this one has 'times'"),
    "a dict with a wrong key": ({"values": [1.0], "hz": 5}, "this one has the key 'hz'"),
    "times and rate": ({"values": [1.0], "times": [1.0], "rate": 2.0}, "'times' or a 'rate', not both"),
    "a rate of zero": ({"values": [1.0], "rate": 0}, "'rate' is a number of samples per unit of time, > 0; got 0"),
    "a negative rate": ({"values": [1.0], "rate": -8000}, "got -8000"),
    "a rate that is NaN": ({"values": [1.0], "rate": NAN}, "got nan"),
    "an infinite rate": ({"values": [1.0], "rate": math.inf}, "got inf"),
    "a rate in text": ({"values": [1.0], "rate": "50 Hz"}, "got '50 Hz'"),
    "a rate that is a truth value": ({"values": [1.0], "rate": True}, "got True"),
    "too few times": (timed([1, 2]), r"one time for each of the 3 samples; got shape \[2\]"),
    "no times": (timed([]), r"got shape \[0\]"),
    "times with two axes": (timed(np.zeros((3, 1))), r"got shape \[3, 1\]"),
    "times that go back": (timed([0.0, 2.0, 1.0]), r"must increase; sample 2 comes 1 before sample 1\. Sort the samples"),
    "two values at one time": (timed([0.0, 1.0, 1.0]), "sample 2 comes 0 before sample 1.*average those of the same time"),
    "dates that go back": (timed(DATES[::-1]), "sample 1 comes 3600 before sample 0"),
    "a missing time": (timed([0.0, NAN, 2.0]), "'times' must be finite; sample 1 has none"),
    "an infinite time": (timed([0.0, 1.0, math.inf]), "sample 2 has none"),
    "times that overflow": (timed([-1e308, 0.0, 1e308]), "sample 2 has none"),
    "a missing date": (timed(np.array(["2026-01-01", "NaT", "2026-01-03"], "datetime64[D]")), "sample 1 has none"),
    "times in text": (timed(["2026-01-01", "2026-01-02", "2026-01-03"]), "'times' must be numbers or dates.*pandas.to_datetime"),
    "an index in text": (
        pd.Series([1.0, 2, 3], index=["a", "b", "c"]),
        "gives its times: dates or numbers.*such as 'a'.*reset_index",
    ),
    "an index of dates in text": (pd.Series([1.0, 2], index=["2024-01-01", "2024-01-02"]), "pandas.to_datetime"),
    "an index of two levels": (pd.Series([1.0, 2], index=pd.MultiIndex.from_product([[0], [1, 2]])), "got MultiIndex"),
    "an index of truth values": (pd.Series([1.0, 2], index=[True, False]), "dates or numbers; got Index of bool"),
    "an index of categories": (pd.Series([1.0, 2], index=pd.CategoricalIndex(["a", "b"])), "got CategoricalIndex"),
    "an index of intervals": (pd.Series([1.0, 2], index=pd.interval_range(0, 2)), "got IntervalIndex"),
    "shuffled rows": (
        pd.Series([1.0, 2, 3], index=[2, 0, 1]),
        "the index of a series gives its times: .*must increase.*sort_index",
    ),
    "reversed rows": (pd.DataFrame({"a": [1.0, 2, 3]}).iloc[::-1], "sample 1 comes 1 before sample 0"),
    "rows put together": (pd.concat([pd.Series([1.0, 2])] * 2), "sample 2 comes 1 before sample 1.*reset_index"),
    "a missing number in the index": (pd.Series([1.0, 2], index=[0, NAN]), "sample 1 has none"),
    "a missing date in the index": (pd.Series([1.0, 2], index=pd.DatetimeIndex(["2024-01-01", None])), "sample 1 has none"),
    "shuffled periods": (pd.Series([1.0, 2], index=pd.PeriodIndex(["2024-02", "2024-01"], freq="M")), "must increase"),
    "dates and a rate": ({"values": pd.Series([1.0, 2, 3], index=DATES), "rate": 5}, "not both: times tell the rate"),
    "seconds and a rate": ({"values": pd.Series([1.0, 2], index=[0.5, 0.7]), "rate": 5}, "not both: times tell the rate"),
    "one time": (timed(0.0), "'times' must be numbers or dates"),
}
"""Raw samples, and what the error must say."""


@pytest.mark.parametrize(("raw", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(raw: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        TimeseriesProcessor()(raw)


TAKEN: dict[str, tuple[Any, list[list[float]]]] = {
    "one value": ([5], [[5]]),
    "one observed value": ([NAN, 5, NAN], [[NAN, 5, NAN]]),
    "truth values": (np.array([True, False]), [[1, 0]]),
    "decimals": ([Decimal("1.5"), None], [[1.5, NAN]]),
    "an unsigned type": (np.array([255], np.uint8), [[255]]),
    "big-endian numbers": (np.array([1.5, 2], dtype=">f4"), [[1.5, 2]]),
    "a reversed view": (np.array([1.0, 2.0])[::-1], [[2, 1]]),
    "a read-only array": (np.frombuffer(np.array([1.0, 2.0]).tobytes()), [[1, 2]]),
    "one dead channel": ([[1, 2], [None, None]], [[1, 2], [NAN, NAN]]),
    "columns of one name": (pd.DataFrame([[1, 2]], columns=["a", "a"]), [[1], [2]]),
    "a constant": (np.full(3, 7), [[7, 7, 7]]),
    "the largest values": ([1e15, -1e15], [[1e15, -1e15]]),
    "the smallest values": ([1e-300, 0], [[0, 0]]),
    "long doubles": (np.array([1.0, 2.0], dtype=np.longdouble), [[1, 2]]),
}


@pytest.mark.parametrize("normalise", ["instance", "window", "none"])
@pytest.mark.parametrize(("raw", "values"), TAKEN.values(), ids=TAKEN.keys())
def test_what_is_odd_but_taken(raw: Any, values: list[list[float]], normalise: Any) -> None:
    processor = TimeseriesProcessor(normalise=normalise)
    inputs = processor(raw)
    there = ~np.isnan(values)
    np.testing.assert_array_equal(inputs["timeseries_observed"].numpy(), there)
    if normalise != "instance":
        np.testing.assert_allclose(inputs["timeseries_values"].numpy(), np.nan_to_num(values), rtol=1e-6)
    check_tokens(processor, inputs)
    assert np.isfinite(processor.features(inputs)).all()


def check_tokens(processor: TimeseriesProcessor, inputs: dict[str, torch.Tensor]) -> None:
    """No NaN in a batch or in its tokens, and a target wherever there is a value."""
    batch = processor.collate([inputs])
    adapter = TimeseriesAdapter(8, processor, patch_size=4)
    tokens = adapter(batch)
    assert all(tensor.float().isfinite().all() for tensor in batch.values())
    assert tokens.values.isfinite().all() and tokens.coords.isfinite().all()
    for target in adapter.target(batch).values():
        assert not target.isinf().any()
    assert (~adapter.target(batch)["patches"].isnan()).sum() == inputs["timeseries_observed"].sum()


def test_a_long_series_is_quick() -> None:
    processor = TimeseriesProcessor()
    inputs = processor(np.sin(np.arange(300_000.0)))
    assert inputs["timeseries_values"].shape == (1, 300_000)
    assert len(TimeseriesProcessor(window=1000).pieces(np.ones(300_500))) == 301


def test_a_list_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises((ValueError, TypeError, RecursionError)):
        TimeseriesProcessor()(endless)


numbers = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=2)
nested = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
anything = nested | arrays(
    st.sampled_from(["f2", "f4", "f8", "i1", "u8", "b1", "c8", "M8[s]", "U2", "O"]),
    array_shapes(min_dims=0, max_dims=3, max_side=4),
)


@settings(max_examples=150)
@given(raw=anything | st.fixed_dictionaries({"values": nested}, optional={"times": nested, "rate": numbers}))
def test_anything_ends_in_tokens_or_in_an_error(raw: Any) -> None:
    processor = TimeseriesProcessor()
    try:
        inputs = processor(raw)
    except (ValueError, TypeError) as error:
        assert str(error)
        return
    check_tokens(processor, inputs)


@settings(max_examples=50)
@given(
    values=st.lists(st.lists(st.floats(-1e15, 1e15) | st.just(NAN), min_size=5, max_size=5), min_size=1, max_size=3),
    normalise=st.sampled_from(["instance", "window", "none"]),
)
def test_any_numbers_make_finite_tokens(values: list[list[float]], normalise: Any) -> None:
    processor = TimeseriesProcessor(normalise=normalise)
    if np.isnan(values).all():
        return
    inputs = processor(values)
    check_tokens(processor, inputs)
    assert np.isfinite(processor.features(inputs)).all()

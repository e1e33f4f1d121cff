"""Raw series as users hold them: values as channels x time, NaN where one is missing, and when they were measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mmssl_modalities.timeseries.files import SUFFIXES, is_file, read_series_file

if TYPE_CHECKING:
    import pandas as pd

Layout = Literal["channels_first", "time_first"]

LARGEST = 1e15
"""Largest value: squares and their sums stay within float32."""
KEYS = ("values", "times", "rate")


@dataclass(frozen=True)
class Series:
    """A series that has been read and checked.

    values: float64, NaN where a value is missing.
    times: when each sample was measured, strictly increasing; None: evenly.
    rate: samples per unit of time, if known.
    start, whole: of a part, where in the series it begins, and how many samples that has; None: it is no part.
    """

    values: Float[np.ndarray, "c t"]
    times: Float[np.ndarray, " t"] | None = None
    rate: float | None = None
    start: int = 0
    whole: int | None = None

    def part(self, start: int, end: int) -> "Series":
        """The samples from `start` to before `end`, as views."""
        times = None if self.times is None else self.times[start:end]
        whole = self.values.shape[1] if self.whole is None else self.whole
        return Series(self.values[:, start:end], times, self.rate, self.start + start, whole)


def read_series(raw: Any, layout: Layout, signals: Sequence[str] | None = None) -> Series:
    """A raw sample in any of its forms. ValueError or TypeError says what is wrong with it, and the way out.

    signals: of a recording in a file, which to read; None: all.
    """
    import pandas as pd  # takes half a second, and few need it

    if isinstance(raw, Series):
        return raw
    if isinstance(raw, Path) or (isinstance(raw, str) and raw.lower().endswith(SUFFIXES)):
        raw = {"path": str(raw)}
    if isinstance(raw, Mapping) and "values" not in raw and is_file(raw):
        try:
            return read_series(read_series_file(raw, signals), layout)
        except (TypeError, ValueError) as error:
            name = str(raw.get("path") or "the series")
            raise error if name in str(error) else type(error)(f"{name}: {error}") from None
    times, rate = None, None
    if isinstance(raw, Mapping):
        raw, times, rate = _entries(raw)
    index = raw.index if isinstance(raw, pd.Series | pd.DataFrame) else None
    values = _frame(raw) if index is not None else _by_channel(to_floats(raw), layout)
    _check(values)
    if times is not None:
        times = _read_times(times, values.shape[1])
    elif index is not None:
        times = _index_times(index, rate)
    return Series(values, times, rate if times is None else None)


def _index_times(index: "pd.Index", rate: float | None) -> Float[np.ndarray, " t"] | None:
    """The times that the index of a pandas series gives: dates, periods, durations or numbers; None where it only counts samples.

    With a rate, whole numbers count samples, of which some may lack. ValueError or TypeError for an index that is no time.
    """
    import pandas as pd  # takes half a second, and few need it

    way_out = "Sort by it (sort_index), or drop it if it means nothing (reset_index(drop=True))"
    if index.dtype == object and all(isinstance(item, date) for item in index):
        index = pd.DatetimeIndex(index)
    dates = isinstance(index, pd.PeriodIndex) or index.dtype.kind in "Mm"
    if isinstance(index, pd.MultiIndex) or not (dates or index.dtype.kind in "iuf"):
        raise TypeError(
            f"the index of a series gives its times: dates or numbers; got {type(index).__name__} of {index.dtype}, such as "
            f"{index[0]!r:.60}. Make dates of it (pandas.to_datetime), or drop it if it means nothing (reset_index(drop=True))"
        )
    if not dates and (_counts(index) or np.array_equal(index, np.arange(len(index)))):
        return None
    if rate is not None and (dates or index.dtype.kind == "f"):
        raise ValueError(f"a series has a 'rate', or an index that gives its times, not both: times tell the rate. {way_out}")
    try:
        return _read_times(index, len(index)) / (rate or 1.0)
    except ValueError as error:
        raise ValueError(f"the index of a series gives its times: {error}. {way_out}") from None


def _counts(index: "pd.Index") -> bool:
    """Whether whole numbers rise by one from sample to sample, as in a part of a longer series."""
    return index.dtype.kind in "iu" and not index.hasnans and bool((np.diff(index.to_numpy().astype(np.int64)) == 1).all())


def _entries(raw: Mapping[Any, Any]) -> tuple[Any, Any, float | None]:
    """Values, times and rate of a series that is given as a dict."""
    unknown = [key for key in raw if key not in KEYS]
    if unknown or raw.get("values") is None:
        what = f"the key {unknown[0]!r}" if unknown else f"{', '.join(map(repr, raw)) or 'no key'}"
        raise ValueError(f"a series given as a dict has 'values', and may have 'times' or 'rate'; this one has {what}")
    times, rate = raw.get("times"), raw.get("rate")
    if rate is None:
        return raw["values"], times, None
    if times is not None:
        raise ValueError("a series has 'times' or a 'rate', not both: times tell the rate")
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < float(rate) < float("inf"):
        raise ValueError(f"'rate' is a number of samples per unit of time, > 0; got {rate!r}. Leave it out if it is not known")
    return raw["values"], None, float(rate)


def to_floats(raw: Any) -> Float[np.ndarray, "..."]:
    """Numbers in an array, a tensor or nested lists as float64; None, pandas' NA and masked values become NaN."""
    if isinstance(raw, Tensor):
        array = _tensor(raw)
    elif isinstance(raw, np.ndarray):
        array = raw
    elif isinstance(raw, list | tuple):
        array = _stack(raw)
    else:
        raise TypeError(
            "a series is an array, a tensor, a list of numbers, a pandas Series or DataFrame, or a dict with the key 'values'; "
            f"got {type(raw).__name__}"
        )
    if array.dtype.kind == "O":
        return _objects(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"the values of a series must be real numbers; got {_kind(array)}")
    with np.errstate(over="ignore"):
        if isinstance(array, np.ma.MaskedArray):
            return np.ma.filled(array.astype(np.float64), np.nan)
        return array.astype(np.float64)


def _kind(array: Shaped[np.ndarray, "..."]) -> str:
    """What an array holds that are no real numbers, and what to do about it."""
    match array.dtype.kind:
        case "c":
            return "complex numbers. Pass real and imaginary part as two channels"
        case "M" | "m":
            return "dates. Pass {'values': ..., 'times': dates}, or a DataFrame with the dates as its index"
        case "U" | "S" | "T":
            return "text. Convert it to numbers, with NaN where one is missing"
    return str(array.dtype)


def _tensor(tensor: Tensor) -> Shaped[np.ndarray, "..."]:
    if tensor.is_complex() or tensor.is_quantized or tensor.layout is not torch.strided:
        kind = "a sparse tensor" if tensor.layout is not torch.strided else f"a tensor of {tensor.dtype}"
        raise TypeError(f"the values of a series must be real numbers in a dense tensor; got {kind}")
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())


def _stack(parts: Sequence[Any]) -> Shaped[np.ndarray, "..."]:
    """Nested sequences as one array; ValueError if they differ in length."""
    rows = [_tensor(part) if isinstance(part, Tensor) else part for part in parts]
    try:
        return np.asarray(rows)
    except ValueError:
        sizes = [str(len(row)) if isinstance(row, Sequence | np.ndarray) else "no list" for row in rows[:8]]
        raise ValueError(
            f"the parts of a series must be equally long lists of numbers; their lengths are {', '.join(sizes)}"
            f"{', ...' if len(rows) > 8 else ''}. Pad the channels with NaN to one length"
        ) from None


def _objects(array: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Numbers that came as Python objects."""
    if array.ndim == 1 and len(array) and all(isinstance(item, list | tuple | np.ndarray) for item in array):
        return to_floats([to_floats(item) for item in array])
    return np.array([_number(item) for item in array.flat], np.float64).reshape(array.shape)


def _number(item: Any) -> float:
    import pandas as pd  # takes half a second, and few need it

    if item is None or item is pd.NA:
        return np.nan
    if not isinstance(item, Real | Decimal | np.bool_):
        shown = repr(item)
        raise TypeError(
            f"the values of a series must be real numbers, or None where one is missing; got {type(item).__name__} "
            f"{shown if len(shown) <= 40 else shown[:37] + '...'}"
        )
    try:
        return float(item)
    except OverflowError:
        raise ValueError(f"the values of a series must lie within +-{LARGEST:g}; got an integer beyond float64") from None


def _by_channel(values: Float[np.ndarray, "..."], layout: Layout) -> Float[np.ndarray, "c t"]:
    if values.ndim == 1:
        return values[None]
    if values.ndim != 2:
        axes = "channels x time" if layout == "channels_first" else "time x channels"
        raise ValueError(f"a series has one axis (time) or two ({axes}); got shape {list(values.shape)}. Pass several as a list")
    return values if layout == "channels_first" else values.T


def _frame(frame: "pd.Series | pd.DataFrame") -> Float[np.ndarray, "c t"]:
    """The columns of a DataFrame are its channels, in their order."""
    import pandas as pd  # takes half a second, and few need it

    table = frame.to_frame() if isinstance(frame, pd.Series) else frame
    rows = []
    for number, name in enumerate(table.columns):
        column = table.iloc[:, number]
        try:
            if isinstance(column.dtype, pd.CategoricalDtype):
                raise TypeError("the values of a series must be real numbers; got categories")
            nullable = pd.api.types.is_extension_array_dtype(column.dtype)
            rows.append(to_floats(column.to_numpy(dtype=object) if nullable else column.to_numpy()))
        except (TypeError, ValueError) as error:
            raise type(error)(f"column {name!r}: {error}") from error
    return np.stack(rows) if rows else np.empty((0, len(table)))


def _check(values: Float[np.ndarray, "c t"]) -> None:
    channels, length = values.shape
    if not values.size:
        raise ValueError(f"a series has one channel or more and one value or more; got {channels} channels of {length} values")
    observed = ~np.isnan(values)
    if not observed.any():
        raise ValueError(f"all {values.size:,} values of the series are missing (NaN); leave such a sample out")
    bad = observed & ~(np.abs(values) <= LARGEST)
    if bad.any():
        channel, place = map(int, np.argwhere(bad)[0])
        raise ValueError(
            f"the values of a series must be finite and within +-{LARGEST:g}, or NaN where one is missing; got "
            f"{values[channel, place]} in channel {channel}, sample {place}. Replace it by NaN, or rescale the series"
        )


def _read_times(raw: Any, length: int) -> Float[np.ndarray, " t"]:
    """Times since the first sample: in seconds if they are dates, else in the unit of the numbers."""
    times = _elapsed(raw)
    if times.shape != (length,):
        raise ValueError(f"'times' needs one time for each of the {length} samples; got shape {list(times.shape)}")
    if not np.isfinite(times).all():
        raise ValueError(f"'times' must be finite; sample {int(np.argmin(np.isfinite(times)))} has none. Leave such samples out")
    steps = np.diff(times)
    if (steps <= 0).any():
        place = int(np.argmax(steps <= 0))
        back = abs(float(steps[place]))
        raise ValueError(
            f"'times' must increase; sample {place + 1} comes {back:g} before sample {place}. Sort the samples by time, and "
            "average those of the same time"
        )
    return times


def _elapsed(raw: Any) -> Float[np.ndarray, "..."]:
    import pandas as pd  # takes half a second, and few need it

    if isinstance(raw, pd.Series):
        raw = pd.Index(raw)
    if isinstance(raw, pd.PeriodIndex):
        raw = raw.to_timestamp()
    if isinstance(raw, pd.DatetimeIndex):
        raw = raw.to_numpy(dtype="datetime64[us]")
    if isinstance(raw, pd.Index):
        raw = raw.to_numpy()
    if isinstance(raw, list | tuple) and raw and all(isinstance(item, datetime) for item in raw):
        return np.array([(item - raw[0]).total_seconds() for item in raw], np.float64)
    if isinstance(raw, np.ndarray) and raw.dtype.kind in "Mm" and raw.size:
        exact = raw.astype("datetime64[us]" if raw.dtype.kind == "M" else "timedelta64[us]")
        return np.asarray((exact - exact.flat[0]) / np.timedelta64(1, "s"), np.float64)
    try:
        times = to_floats(raw)
    except TypeError:
        raise TypeError(
            f"'times' must be numbers or dates (numpy datetime64, pandas); got a {type(raw).__name__} of something else. "
            "pandas.to_datetime makes dates of text"
        ) from None
    with np.errstate(over="ignore", invalid="ignore"):
        return times - times.flat[0] if times.size else times


def origin(raw: Any) -> float:
    """The first of the times that a raw series gives as numbers; 0 where it gives none, or dates."""
    if not isinstance(raw, Mapping) or raw.get("times") is None:
        return 0.0
    try:
        return float(to_floats(raw["times"]).flat[0])
    except TypeError:  # dates, of which the differences alone are numbers
        return 0.0


def filled(values: Float[np.ndarray, "c t"], observed: Bool[np.ndarray, "c t"], points: int) -> Float[np.ndarray, "c p"]:
    """Each channel at so many places, gaps filled in."""
    return np.stack([_resampled(*channel, points) for channel in zip(values, observed, strict=True)])


def _resampled(values: Float[np.ndarray, " t"], observed: Bool[np.ndarray, " t"], points: int) -> Float[np.ndarray, " p"]:
    """Linear interpolation of the observed values at `points` places from the first sample to the last; zeros if there are none."""
    if not observed.any():
        return np.zeros(points)
    places = np.linspace(0, len(values) - 1, points)
    return np.interp(places, np.flatnonzero(observed), values[observed])

"""Raw series to normalised values with their gaps, statistics and times."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.modality import IGNORED, Content, Inputs, Processor, Reference, StepTimes, pad_stack
from mmssl.model.steps import check_steps
from mmssl_modalities.timeseries.contents import series_contents
from mmssl_modalities.timeseries.read import Layout, Series, filled, origin, read_series

VALUES = "timeseries_values"
OBSERVED = "timeseries_observed"
STATISTICS = "timeseries_statistics"
TIMES = "timeseries_times"
LABELS = "timeseries_labels"
SPAN = "timeseries_span"
"""Class numbers of the steps of a labelled series; number of the first step, steps, and steps of the whole series."""

Positive = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Normalise = Literal["instance", "window", "none"]
Channels = Literal["independent", "mixed"]

FIT_SAMPLES = 10_000
"""Series from which `fit` takes the sizes and the rate."""
EXAMINED = 1000
"""Series by which it is told what they hold."""
FEATURE_POINTS = 128
"""Samples per channel to which `features` brings series of various lengths."""
MAX_FEATURE_POINTS = 1024
"""Samples per channel above which it shortens series of one length too."""
SCALE_FLOOR = 1e-10
"""A channel whose standard deviation is at most this share of its largest magnitude is constant: rounding made the difference."""
EVEN = 0.01
"""Deviation from even sampling, in samples, up to which times are left out."""
FARTHEST = 1e12
"""Largest time in samples: beyond it one far sample would overflow the coordinates."""


class TimeseriesProcessor(Processor):
    """A series of any length, with any number of channels, to its values with gaps, statistics and times.

    A raw series is a 1-d or 2-d array, tensor or list of numbers, a pandas Series, a DataFrame whose columns are the channels, or a
    dict with "values" and either "times" (numbers or dates, one per sample) or "rate" (samples per unit of time). The index of
    a pandas series gives the times too, unless it counts samples: dates, periods, durations or numbers. NaN and None are missing
    values, never zeros.

    Makes `timeseries_values`, float32 `[c, t]`, 0 where missing; `timeseries_observed`, bool `[c, t]`; with instance normalisation
    `timeseries_statistics`, `[c, 2]`, location and scale; for series that are not evenly sampled, or not at `rate`,
    `timeseries_times`, `[t]`, the time of each sample since the first, in samples at `rate`.

    layout: axes of 2-d arrays and lists: channels_first = [channels, time]; time_first = [time, channels].
    channels: independent = tokens of each channel by itself, any number of channels; mixed = tokens hold all channels of a stretch
        of time, whose number is fixed.
    normalise: instance = each channel of a series gets mean 0 and standard deviation 1 over its observed values, and keeps both as
        a token; window = the adapter does so patch by patch (NuTime); none = values as they are. A constant channel becomes 0 with
        scale 0.
    num_channels: channels of every series; 0: various; null: that of the training series.
    length: samples of every series, where `features` are the raw values; 0: various; null: that of the training series.
    rate: samples per unit of time (seconds, where times are dates) to which patches are nominal; null: the median of the training
        series that have times or a rate; without any, each series counts by its own median step.
    window: most samples of one series; longer ones are cut into pieces of this length. null: no limit.
    stride: samples from the start of a piece to that of the next; null: window. The last piece ends with the series.
    signals: names of the signals that are read of recordings (EDF, WFDB); null: all, which must have one rate.
    """

    whole = "window: null"
    padding = {LABELS: IGNORED}  # noqa: RUF012 (a constant of the base)

    def __init__(
        self,
        *,
        layout: Layout = "channels_first",
        channels: Channels = "independent",
        normalise: Normalise = "instance",
        num_channels: Whole | None = None,
        length: Whole | None = None,
        rate: Annotated[float, Field(gt=0)] | None = None,
        window: Positive | None = None,
        stride: Positive | None = None,
        signals: list[str] | None = None,
    ) -> None:
        if stride is not None and (window is None or stride > window):
            raise ValueError(
                f"processor.stride moves a window, and a longer one would lose samples; got stride={stride} and window={window}. "
                "Set processor.window to stride or more"
            )
        if channels == "mixed" and num_channels == 0:
            raise ValueError("channels: mixed needs one number of channels, not num_channels: 0 (various); use independent")
        self.layout: Layout = layout
        self.channels = channels
        self.normalise = normalise
        self.num_channels = num_channels
        self.length = length
        self.rate = rate
        self.window = window
        self.stride = stride
        self.signals = signals

    def settings(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "channels": self.channels,
            "normalise": self.normalise,
            "num_channels": self.num_channels,
            "length": self.length,
            "rate": self.rate,
            "window": self.window,
            "stride": self.stride,
            "signals": self.signals,
        }

    @property
    def windowed(self) -> bool:
        return self.window is not None

    @property
    def fitted(self) -> bool:
        return self.num_channels is not None and self.length is not None

    def fit(self, samples: Iterable[Any]) -> None:
        """Take number of channels, length and rate, where the settings name none, from the first 10,000 series.

        Series that cannot be read are passed over: the loader deals with them as `data.on_error` says. ValueError if none can, and
        for mixed channels of various numbers.
        """
        channels, lengths, rates = set[int](), set[int](), list[float]()
        error: Exception = ValueError("a timeseries processor is fitted on one series or more; got none")
        for raw in islice(samples, FIT_SAMPLES):
            try:
                series = read_series(raw, self.layout, self.signals)
            except (ValueError, TypeError) as bad:
                error = bad
                continue
            channels.add(series.values.shape[0])
            lengths.add(min(series.values.shape[1], self.window or series.values.shape[1]))
            rate = _rate(series)
            rates += [] if rate is None else [rate]
        if not channels:
            raise error
        if self.channels == "mixed" and len(channels) > 1 and self.num_channels is None:
            listed = ", ".join(map(str, sorted(channels)[:8]))
            raise ValueError(f"channels: mixed needs series of one number of channels; these have {listed}. Use independent")
        if self.num_channels is None:
            self.num_channels = channels.pop() if len(channels) == 1 else 0
        if self.length is None:
            self.length = lengths.pop() if len(lengths) == 1 else 0
        if self.rate is None and rates:
            self.rate = float(np.median(rates))

    def contents(self, samples: Iterable[Any]) -> list[Content]:
        """Numbers of channels and samples, gaps, and whether the axes of arrays seem exchanged, by the first 1,000 series."""
        return series_contents(islice(samples, EXAMINED), self.layout, self.signals)

    def __call__(self, raw: Any) -> Inputs:
        series = read_series(raw, self.layout, self.signals)
        self._check(*series.values.shape)
        observed = ~np.isnan(series.values)
        values = np.where(observed, series.values, 0)
        inputs = {OBSERVED: torch.from_numpy(observed)}
        if self.normalise == "instance":
            values, statistics = normalised(values, observed)
            inputs[STATISTICS] = torch.from_numpy(statistics.astype(np.float32))
        inputs[VALUES] = torch.from_numpy(values.astype(np.float32))
        times = self._times(series)
        if times is not None:
            inputs[TIMES] = torch.from_numpy(times.astype(np.float32))
        return inputs

    def labelled(self, raw: Any, labels: Int[np.ndarray, "*places"] | None) -> Inputs:
        """The series with a label for each of its steps. ValueError where there are not as many."""
        series = read_series(raw, self.layout, self.signals)
        found, steps = self(series), series.values.shape[1]
        whole = steps if series.whole is None else series.whole
        found[SPAN] = torch.tensor([series.start, steps, whole])
        if labels is None:
            return found
        check_steps(labels, whole, "a series needs a label for each of its steps")
        return found | {LABELS: torch.from_numpy(labels[series.start : series.start + steps])}

    def step_times(self, raw: Any) -> StepTimes:
        """When each step was measured: by the times of the series, counted from its first step where they are dates; by its rate;
        or by the numbers of its steps. A step lasts until the next one, the last one as long as the median.
        """
        series = read_series(raw, self.layout, self.signals)
        points = np.arange(series.values.shape[1]) / (series.rate or 1.0) if series.times is None else series.times + origin(raw)
        last = float(np.median(np.diff(points))) if len(points) > 1 else 1 / (series.rate or 1.0)
        return StepTimes(points, np.append(points, points[-1] + last))

    def _check(self, channels: int, length: int) -> None:
        if self.window is not None and length > self.window:
            raise ValueError(
                f"a series has at most processor.window={self.window} samples; this one has {length}. Cut it with processor.pieces"
            )
        if self.channels == "independent":
            return
        if self.num_channels is None:
            raise ValueError("the number of channels is not known yet: call fit(series) with training series, or set num_channels")
        if channels != self.num_channels:
            axes = "[channels, time]" if self.layout == "channels_first" else "[time, channels]"
            raise ValueError(
                f"the model mixes {self.num_channels} channels; this series has {channels} of {length} samples (arrays are {axes}, "
                f"processor.layout: {self.layout}). Pass NaN for a channel that is missing"
            )

    def _times(self, series: Series) -> Float[np.ndarray, " t"] | None:
        """The time of each sample in samples at the nominal rate; None where that is its number."""
        even = np.arange(series.values.shape[1], dtype=np.float64)
        own = _rate(series)
        if series.times is not None:
            with np.errstate(over="ignore"):
                times = (series.times - series.times[0]) * (self.rate or own or 1.0)
        else:
            times = even * ((self.rate or own or 1.0) / (own or self.rate or 1.0))
        times = np.minimum(times, FARTHEST)
        return None if np.abs(times - even).max() <= EVEN else times

    def many(self, raw: Any) -> list[Any]:
        """The series in a list or a 3-d array, or one series: an array, a DataFrame, a dict, a list of numbers."""
        if isinstance(raw, np.ndarray | Tensor) and raw.ndim == 3:
            return list(raw)
        if isinstance(raw, list | tuple) and raw and all(_is_number(item) for item in raw):
            return [raw]
        return super().many(raw)

    def pieces(self, raw: Any) -> list[Any]:
        """Pieces of `window` samples, `stride` apart, that hold a value; the last one ends with the series. Short series: one."""
        if self.window is None:
            return [raw]
        series, size = read_series(raw, self.layout, self.signals), self.window
        length = series.values.shape[1]
        if length <= size:
            return [series]
        starts = list(range(0, length - size + 1, self.stride or size))
        if starts[-1] + size < length:
            starts.append(length - size)
        parts = [series.part(start, start + size) for start in starts]
        return [part for part in parts if not np.isnan(part.values).all()]

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        """Stack series, padded with missing values. `timeseries_observed` is left out if every value is observed."""
        batch = {key: pad_stack([sample[key] for sample in samples]) for key in (VALUES, OBSERVED)}
        if self.normalise == "instance":
            batch[STATISTICS] = pad_stack([sample[STATISTICS] for sample in samples])
        if any(TIMES in sample for sample in samples):
            batch[TIMES] = pad_stack([sample.get(TIMES, _even(sample)) for sample in samples])
        batch |= {
            name: pad_stack([sample[name] for sample in samples], self.padding.get(name, 0))
            for name in (LABELS, SPAN)
            if name in samples[0]
        }
        if batch[OBSERVED].all():
            del batch[OBSERVED]
        return batch

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        values = inputs[VALUES]
        even = torch.arange(values.shape[2], dtype=torch.float32, device=values.device).expand(len(values), -1)
        return {OBSERVED: torch.ones_like(values, dtype=torch.bool), TIMES: even} | inputs

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """The raw values, channel by channel, gaps filled in by linear interpolation.

        Series of various lengths are resampled to 128 samples, longer ones than 1,024 to 1,024. Of various numbers of channels this
        is the mean and standard deviation. A channel more than in training is left out, a missing one is 0.
        """
        values, observed = inputs[VALUES].numpy().astype(np.float64), inputs[OBSERVED].numpy()
        if STATISTICS in inputs:
            location, scale = inputs[STATISTICS].numpy().astype(np.float64).T[..., None]
            values = values * scale + location
        curves = filled(values, observed, min(self.length or FEATURE_POINTS, MAX_FEATURE_POINTS))
        if not self.num_channels:
            return np.concatenate([curves.mean(0), curves.std(0)])
        return self._known(curves).ravel()

    def reference(self) -> Reference:
        """Random convolutions of the raw values; of various numbers of channels their mean and standard deviation."""
        from mmssl_modalities.timeseries.reference import random_convolutions  # scikit-learn, which only tables of scores need

        def curves(raw: Any) -> Float[np.ndarray, "c t"]:
            values = read_series(raw, self.layout, self.signals).values
            found = filled(values, ~np.isnan(values), values.shape[1])
            return self._known(found) if self.num_channels else np.stack([found.mean(0), found.std(0)])

        return random_convolutions(curves)

    def _known(self, curves: Float[np.ndarray, "_ p"]) -> Float[np.ndarray, "c p"]:
        """The channels of training: one more is left out, a missing one is 0."""
        assert self.num_channels is not None
        rows = np.zeros((self.num_channels, curves.shape[1]))
        kept = min(self.num_channels, len(curves))
        rows[:kept] = curves[:kept]
        return rows


def normalised(
    values: Float[np.ndarray, "c t"], observed: Bool[np.ndarray, "c t"]
) -> tuple[Float[np.ndarray, "c t"], Float[np.ndarray, "c 2"]]:
    """Mean 0 and standard deviation 1 of the observed values of each channel, 0 elsewhere; with that mean and deviation.

    The first half of RevIN (Kim et al., ICLR 2022), without learned gain, and without its epsilon: a channel whose deviation is at
    most 1e-10 of its largest magnitude, or that has no value, becomes 0 with scale 0.
    """
    count = np.maximum(observed.sum(1, keepdims=True), 1)
    location = values.sum(1, keepdims=True) / count
    centred = np.where(observed, values - location, 0)
    scale = np.sqrt(np.square(centred).sum(1, keepdims=True) / count)
    scale = np.where(scale > SCALE_FLOOR * np.abs(values).max(1, keepdims=True), scale, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(scale > 0, centred / scale, 0)
    return unit, np.concatenate([location, scale], 1)


def _rate(series: Series) -> float | None:
    """Samples per unit of time: as given, or by the median step between times."""
    if series.times is None or len(series.times) < 2:
        return series.rate
    with np.errstate(over="ignore"):
        return float(np.minimum(1 / np.median(np.diff(series.times)), FARTHEST))


def _even(sample: Inputs) -> Float[Tensor, " t"]:
    return torch.arange(sample[VALUES].shape[1], dtype=torch.float32)


def _is_number(item: Any) -> bool:
    import pandas as pd  # takes half a second, and few need it

    return item is None or item is pd.NA or isinstance(item, int | float | np.number | np.bool_)

"""What series hold: their channels, lengths, gaps and times, and whether their axes seem exchanged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmssl.modality import Content, Odd
from mmssl_modalities.timeseries.read import Layout, Series, read_series

_OTHER: dict[Layout, Layout] = {"channels_first": "time_first", "time_first": "channels_first"}
_AXES: dict[Layout, str] = {"channels_first": "[channels, time]", "time_first": "[time, channels]"}


def series_contents(samples: Iterable[Any], layout: Layout, signals: Sequence[str] | None = None) -> list[Content]:
    """One part for all series; those that cannot be read are passed over."""
    import pandas as pd  # takes half a second, and few need it

    found: list[Series] = []
    of_arrays = True
    for raw in samples:
        try:
            found.append(read_series(raw, layout, signals))
        except (ValueError, TypeError):
            continue
        values = raw.get("values") if isinstance(raw, Mapping) else raw
        of_arrays = of_arrays and not isinstance(values, pd.Series | pd.DataFrame | Series)
    if not found:
        return []
    channels, lengths = ([series.values.shape[axis] for series in found] for axis in (0, 1))
    detail = f"{_range(channels)} channel{'s' if max(channels) > 1 else ''} of {_range(lengths)} samples"
    if timed := sum(series.times is not None for series in found):
        detail += ", with times" if timed == len(found) else f", {timed:,} of {len(found):,} with times"
    missing = sum(int(np.isnan(series.values).sum()) for series in found) / sum(series.values.size for series in found)
    odd = []
    if of_arrays and all(c > n for c, n in zip(channels, lengths, strict=True)):
        odd.append(
            Odd(
                "more channels than samples in every series",
                f"arrays are taken for {_AXES[layout]}",
                f"If their axes are {_AXES[_OTHER[layout]]}, set processor.layout: {_OTHER[layout]}",
            )
        )
    return [Content("series", "numbers", detail, missing, odd=tuple(odd))]


def _range(sizes: list[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"

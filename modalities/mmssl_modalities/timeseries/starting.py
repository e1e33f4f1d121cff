"""What series are known by, and sizes that suit them, for a first recipe."""

from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Number
from typing import Any

import numpy as np

from mmssl.modality import Claim, Suited, readable
from mmssl_modalities.timeseries.read import Layout, read_series

LONGEST = 1024
"""Samples of a window: longer series become several."""
WINDOWS, ENOUGH, FEW_SERIES = (LONGEST, 512, 256, 128, 64), 64, 16
"""Windows of series that are few, and how many windows there should be at least."""
PATCHES = (2, 4, 8, 16, 32)
"""Samples of a patch: more than one, as its values are normalised before they are predicted."""
TOKENS = 24
"""Tokens of a channel that a patch is chosen for."""
FEW = 3
"""Channels that may each have tokens of their own; of more a token holds a stretch of all, or the tokens would be too many."""
CLOUD, SMOOTH = (3, 6), 0.5
"""Values in which points lie, alone and with normals or colours; mean step over standard deviation that time has at most."""
READ = 200
"""Series that are looked at."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Lists of numbers, or of such lists, by themselves or beside their times."""
    for name, cells in columns.items():
        there = [cell for cell in cells if cell is not None]
        if there and all(_are_numbers(cell) for cell in there) and len(readable(there[:3], _read_either)) == len(there[:3]):
            bytes_of_pictures = all(
                isinstance(cell, np.ndarray) and cell.ndim == 2 and cell.dtype.kind in ("b", "u") for cell in there
            )
            return Claim(name, 0.5 if bytes_of_pictures else 0.9, f"column {name} holds lists of numbers")
    return None


def _read_either(raw: Any) -> tuple[int, int]:
    """Channels and samples of a raw series, whichever axis comes first. ValueError for what is no series, as a cloud of points."""
    try:
        return _read(raw)
    except ValueError:
        if not isinstance(raw, np.ndarray):  # lists may as well be boxes or outlines
            raise
        channels, length = _read(raw, "time_first")
        if channels in CLOUD and not _is_smooth(raw):
            raise
        return channels, length


def _is_smooth(raw: Any) -> bool:
    """Whether values change less from one step to the next than over all, as those of points in any order do not."""
    values = read_series(raw, "time_first").values
    return bool(np.nanmean(np.abs(np.diff(values))) < SMOOTH * np.nanstd(values, axis=1).mean())


def _are_numbers(cell: Any) -> bool:
    import pandas as pd  # takes half a second, and few need it

    if isinstance(cell, Mapping):
        cell = cell.get("values")
    if isinstance(cell, pd.Series | pd.DataFrame):
        return True
    while isinstance(cell, list | tuple | np.ndarray) and len(cell):
        cell = cell[0]
    return isinstance(cell, Number) and not isinstance(cell, bool)


def _layout(samples: Sequence[Any]) -> Suited:
    """Which axis of arrays comes first, by which is longer."""
    shapes = readable(samples, lambda raw: read_series(raw, "channels_first").values.shape)
    turned = sum(channels > length for channels, length in shapes) > len(shapes) / 2
    given = [raw.get("values") if isinstance(raw, Mapping) else raw for raw in samples]
    if turned and not any(isinstance(values, pd_types()) for values in given):
        return Suited("time_first", f"arrays are longer along their first axis, as {shapes[0][0]:,} x {shapes[0][1]:,}")
    return Suited("channels_first", "no array is longer along its first axis")


def pd_types() -> tuple[type, ...]:
    """Frames and series, whose axes are known."""
    import pandas as pd  # takes half a second, and few need it

    return (pd.Series, pd.DataFrame)


def _read(raw: Any, layout: Layout = "channels_first") -> tuple[int, int]:
    """Channels and samples of a raw series."""
    channels, length = read_series(raw, layout).values.shape
    if length < max(2, channels):
        raise ValueError(f"{channels} channels of {length} values are no series")
    return channels, length


def suited(samples: Sequence[Any]) -> dict[str, Suited]:
    """Window, patch and kind of tokens by the lengths and channels."""
    layout = _layout(samples[:READ])
    found = readable(samples[:READ], partial(_read, layout=layout.value)) or [(1, LONGEST)]
    channels, lengths = sorted({count for count, _ in found}), [length for _, length in found]
    window = (
        next((size for size in WINDOWS if sum(lengths) // size >= ENOUGH), WINDOWS[-1]) if len(samples) < FEW_SERIES else LONGEST
    )
    long = max(lengths) > window
    middle = min(int(np.median(lengths)), window)
    patch = max((size for size in PATCHES if size <= max(1, middle / TOKENS)), default=PATCHES[0])
    mixed = len(channels) == 1 and channels[0] > FEW
    have = f"{channels[0]} to {channels[-1]} channels" if len(channels) > 1 else f"{channels[0]} channel{'s' * (channels[0] > 1)}"
    return {
        "processor.layout": layout,
        "processor.window": Suited(window if long else None, f"series have {min(lengths):,} to {max(lengths):,} samples"),
        "processor.channels": Suited("mixed" if mixed else "independent", f"they have {have}"),
        "adapter.patch_size": Suited(patch, f"about {-(-middle // patch)} tokens a {'series' if mixed else 'channel'}"),
    }

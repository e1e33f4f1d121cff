"""Even grids of time: where the rows of a series lie on one, and what time it is on it, also after the series ends."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Float, Int

EVEN = 1e-3
"""How far, in steps, a time may lie from an even grid."""
MOST_GAPS = 10
"""A grid may have at most so many times the rows of its series; else most of it would be missing."""
FREQUENCIES = ("MS", "ME", "QS", "QE", "YS", "YE", "B")
"""pandas' names of grids of dates with unequal steps: beginnings and ends of months, quarters, years; working days."""
SECOND = 1_000_000
"""In microseconds."""


@dataclass(frozen=True)
class Grid:
    """An even grid on which the rows of a series lie.

    start: time of its first row. step: to the next, in the same unit, or the name of a grid of dates. origin: what times count from
    in seconds, where they are dates.
    """

    start: float
    step: float | str
    origin: datetime | None = None

    def times(self, places: Int[np.ndarray, " n"]) -> list[Any]:
        """The time at each place, which may lie after the last row: dates, or numbers, whole ones where the grid's are."""
        if isinstance(self.step, str):
            import pandas as pd  # takes half a second, and few need it

            dates = pd.date_range(self.date(self.start), periods=int(places.max(initial=0)) + 1, freq=self.step)
            return list(dates[places])
        numbers = self.start + places * self.step
        if self.origin is not None:
            return [self.date(number) for number in numbers.tolist()]
        whole = float(self.start).is_integer() and float(self.step).is_integer()
        return [int(number) if whole else number for number in numbers.tolist()]

    def date(self, seconds: float) -> datetime:
        """The date so many seconds after the origin."""
        import pandas as pd  # as above

        assert self.origin is not None
        return self.origin + pd.Timedelta(round(seconds * SECOND), unit="us")


def grid_of(
    times: Float[np.ndarray, " n"], step: float | None, origin: datetime | None
) -> tuple[Grid, Int[np.ndarray, " n"]] | None:
    """The grid on which times lie that grow, and the place of each; None where they lie on none. That with the fewest gaps.

    step: the usual one of all series; that of a series goes first. origin: of times that are dates, in seconds since then.
    """
    if len(times) == 1:
        return Grid(float(times[0]), step or 1.0, origin), np.zeros(1, np.int64)
    even = _even(times, step, origin)
    if origin is None or (even is not None and even[1][-1] == len(times) - 1):
        return even
    dated = _dated(Grid(0.0, 0.0, origin), times)
    return min((found for found in (even, dated) if found is not None), key=lambda found: int(found[1][-1]), default=None)


def _even(times: Float[np.ndarray, " n"], step: float | None, origin: datetime | None) -> tuple[Grid, Int[np.ndarray, " n"]] | None:
    """A grid of equal steps."""
    for each in (float(np.median(np.diff(times))), step):
        if each:
            places = even_places(times, each)
            if places is not None:
                return Grid(float(times[0]), each, origin), places
    return None


def even_places(times: Float[np.ndarray, " n"], step: float) -> Int[np.ndarray, " n"] | None:
    """The place of each time on a grid of equal steps that begins at the first; None: they lie on none, or most of it is gaps."""
    places = (times - times[0]) / step
    whole = np.round(places)
    fits = np.abs(places - whole).max() <= EVEN and whole[-1] < MOST_GAPS * len(times)
    return whole.astype(np.int64) if fits else None


def laid_out(values: Float[np.ndarray, "n c"], places: Int[np.ndarray, " n"]) -> Float[np.ndarray, "t c"]:
    """Values at their places on a grid, NaN at the others."""
    grid = np.full((int(places[-1]) + 1, values.shape[1]), np.nan)
    grid[places] = values
    return grid


def _dated(grid: Grid, times: Float[np.ndarray, " n"]) -> tuple[Grid, Int[np.ndarray, " n"]] | None:
    """That of `FREQUENCIES` on whose dates all times lie, with the fewest gaps."""
    import pandas as pd  # as above

    dates, best = pd.DatetimeIndex([grid.date(float(time)) for time in times]), None
    for name in FREQUENCIES:
        known = pd.date_range(dates[0], dates[-1], freq=name)
        places = known.get_indexer(dates)
        fits = len(known) and places[0] == 0 and (places >= 0).all() and len(known) < MOST_GAPS * len(times)
        if fits and (best is None or len(known) <= best[1][-1]):
            best = Grid(float(times[0]), name, grid.origin), places.astype(np.int64)
    return best

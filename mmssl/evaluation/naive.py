"""What forecasts are worth without a network: the last value, the last season, the mean, and a ridge on what was seen."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.data import Source
from mmssl.modality import find

AT_ONCE = 4096
"""Windows that are read at a time."""
PENALTIES = tuple(10.0**power for power in range(-1, 6))
"""Of the ridge, the sum of squares of whose weights is added to the sum of squared errors."""
HELD = 5
"""One in so many training windows, the last ones, chooses the penalty of the ridge."""

Context = Float[Tensor, "n t"]
Forecast = Float[Tensor, "n h"]
Baseline = Callable[[Context], Forecast]


def contexts(source: Source, name: str) -> Iterator[Context]:
    """What is seen in the windows of a source, float64, some at a time; a missing value is that before it, or after."""
    narrow = source.only([find(name)])
    place = narrow.places(find(name))
    assert isinstance(place, str), "windows lie in one column"
    for start in range(0, len(narrow), AT_ONCE):
        rows = narrow.rows(range(start, min(start + AT_ONCE, len(narrow))))
        yield torch.from_numpy(filled(np.stack([row[place] for row in rows])))


def filled(windows: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "n t"]:
    """Windows in which the value before stands for a missing one, and at the start the first that is there."""
    known = ~np.isnan(windows)
    if known.all():
        return windows
    last = np.maximum.accumulate(np.where(known, np.arange(windows.shape[1]), -1), 1)
    last = np.where(last < 0, known.argmax(1)[:, None], last)
    return np.take_along_axis(windows, last, 1)


def last_value(horizon: int) -> Baseline:
    """The last value that was seen, for all steps."""
    return lambda seen: seen[:, -1:].expand(-1, horizon)


def last_season(horizon: int, period: int) -> Baseline:
    """The last season that was seen, again and again."""
    return lambda seen: seen[:, seen.shape[1] - period + torch.arange(horizon) % period]


def mean(horizon: int) -> Baseline:
    """The mean of what was seen, for all steps."""
    return lambda seen: seen.mean(1, keepdim=True).expand(-1, horizon)


def scaled(seen: Context) -> tuple[Context, Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Windows of mean 0 and deviation 1, and these; a window that does not change is 0, with deviation 0."""
    location, scale = seen.mean(1, keepdim=True), seen.std(1, correction=0, keepdim=True)
    return torch.where(scale > 0, (seen - location) / scale.masked_fill(scale == 0, 1), 0), location, scale


def ridge(train: Source, name: str, labels: Float[Tensor, "n h"], units: Float[Tensor, " n"]) -> Baseline:
    """A linear map of the window, in units of its mean and deviation, fitted in closed form in those of each variable.

    The penalty is the best on the last fifth of the training windows; all are then fitted.
    """
    count, (first, last) = len(labels), (len(labels) - len(labels) // HELD, len(labels))
    parts = [Moments(), Moments()]
    start = 0
    for seen in contexts(train, name):
        for number, (begin, end) in enumerate(((0, first), (first, last))):
            rows = slice(max(begin - start, 0), max(min(end - start, len(seen)), 0))
            if rows.start < rows.stop:
                at = slice(start + rows.start, start + rows.stop)
                parts[number].add(seen[rows], labels[at].double(), units[at].double())
        start += len(seen)
    assert start == count, "every window has its label"
    held = parts[1] if count >= 2 * HELD else parts[0]
    best = min(PENALTIES, key=lambda penalty: held.error(parts[0].solved(penalty)))
    weights = (parts[0] + parts[1]).solved(best)

    def forecast(seen: Context) -> Forecast:
        x, location, scale = scaled(seen)
        return x @ weights * scale + location

    return forecast


class Moments:
    """Sums by which a ridge is solved, and its squared error told: x x', x y and y y of weighted windows."""

    def __init__(self) -> None:
        self.xx, self.xy, self.yy = (torch.zeros((), dtype=torch.float64) for _ in range(3))

    def add(self, seen: Context, future: Forecast, units: Float[Tensor, " n"]) -> None:
        """Add windows and what follows. Errors in units of a variable are those in units of the window, times its share of them."""
        x, location, scale = scaled(seen)
        weight = scale / units[:, None]
        x, y = x * weight, (future - location) / units[:, None]
        self.xx, self.xy, self.yy = self.xx + x.T @ x, self.xy + x.T @ y, self.yy + y.square().sum()

    def __add__(self, other: "Moments") -> "Moments":
        found = Moments()
        found.xx, found.xy, found.yy = self.xx + other.xx, self.xy + other.xy, self.yy + other.yy
        return found

    def solved(self, penalty: float) -> Float[Tensor, "t h"]:
        """The weights whose squared error and penalty are the least."""
        return torch.linalg.solve(self.xx + penalty * torch.eye(len(self.xx), dtype=torch.float64), self.xy)

    def error(self, weights: Float[Tensor, "t h"]) -> float:
        """The sum of squared errors of weights."""
        return (self.yy - 2 * (weights * self.xy).sum() + (weights * (self.xx @ weights)).sum()).item()

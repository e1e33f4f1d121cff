"""Line charts as geometry: what a template needs to draw them as SVG that follows the page's colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 24, 12, 30
"""Room around the lines; right of them for half of the last step's label."""
POINTS = 200
"""Points that a line keeps; more are averaged in groups, whose range is drawn as a band."""
DECADES = 1.3
"""Positive values that span more powers of ten are drawn on a logarithmic axis, where the chart allows one."""

Number = int | float
Series = Sequence[tuple[Number, Number]]
"""(x, y) of each point; points that are not finite are left out."""


@dataclass(frozen=True)
class Line:
    """A series in SVG coordinates.

    path, band: values of the attribute `d`; no band where nothing was averaged. points: (x, y, what the point says).
    """

    name: str
    path: str
    band: str
    points: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """Lines, axes as (position, label), and reference levels as (position, name)."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    levels: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` to positions from `start` to `stop`."""

    low: Number
    high: Number
    start: Number
    stop: Number
    log: bool = False

    def place(self, value: Number) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        share = ((math.log10(value) if self.log else value) - low) / (high - low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """At most seven round values with their labels."""
        values = LogLocator(subs=(1, 2, 5)).tick_values(self.low, self.high) if self.log else self._round_values()
        inside = [float(value) for value in values if self.low <= value <= self.high]
        if self.log and len(inside) > 7:
            inside = [value for value in inside if math.log10(value).is_integer()]
        return [(self.place(value), label(value)) for value in inside]

    def _round_values(self) -> Float[np.ndarray, " t"]:
        return np.asarray(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high))


def label(value: Number) -> str:
    """A tick's value in few characters: 0.05, 2.5e-4, 1500, 20k, 1.5M."""
    for limit, scale, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / scale:.3g}{suffix}"
    if 0 < abs(value) < 5e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def chart(
    title: str,
    series: Mapping[str, Series],
    *,
    allow_log: bool = False,
    from_zero: bool = False,
    levels: Mapping[str, Number] | None = None,
) -> Chart | None:
    """A chart of named series over one x axis; None if they hold no finite point.

    allow_log: use a logarithmic axis for values that are positive and span more than `DECADES`.
    from_zero: begin the y axis at zero. levels: values to mark with a horizontal line.
    """
    found = {name: _finite(points) for name, points in series.items()}
    found = {name: points for name, points in found.items() if len(points)}
    if not found:
        return None
    every = np.concatenate(list(found.values()))
    heights = np.append(every[:, 1], list((levels or {}).values()))
    y = _y_axis(heights, allow_log, from_zero)
    x = Axis(*_widened(float(every[:, 0].min()), float(every[:, 0].max())), LEFT, WIDTH - RIGHT)
    lines = [_line(name, points, x, y) for name, points in found.items()]
    return Chart(title, lines, x.ticks(), y.ticks(), [(y.place(value), name) for name, value in (levels or {}).items()])


def _finite(points: Series) -> Float[np.ndarray, "n 2"]:
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return values[np.isfinite(values).all(1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """An interval that is not empty."""
    return (low, high) if high > low else (low - max(abs(low) * 0.1, 0.5), high + max(abs(high) * 0.1, 0.5))


def _y_axis(values: Float[np.ndarray, " n"], allow_log: bool, from_zero: bool) -> Axis:
    low, high = float(values.min()), float(values.max())
    start, stop = HEIGHT - BOTTOM, TOP
    if allow_log and low > 0 and math.log10(high / low) > DECADES:
        return Axis(low / 1.1, high * 1.1, start, stop, log=True)
    low, high = _widened(0.0 if from_zero and low >= 0 else low, high)
    margin = 0.06 * (high - low)
    return Axis(low if from_zero and low >= 0 else low - margin, high + margin, start, stop)


def _line(name: str, points: Float[np.ndarray, "n 2"], x: Axis, y: Axis) -> Line:
    groups = np.array_split(points, min(POINTS, len(points)))
    means = [group.mean(0) for group in groups]
    across = [x.place(mean[0]) for mean in means]
    along = [y.place(mean[1]) for mean in means]
    band = ""
    if len(points) > POINTS:
        top = [f"{a},{y.place(group[:, 1].max())}" for a, group in zip(across, groups, strict=True)]
        under = [f"{a},{y.place(group[:, 1].min())}" for a, group in zip(across, groups, strict=True)]
        band = f"M{' '.join([*top, *reversed(under)])}Z"
    path = "M" + " ".join(f"{a},{b}" for a, b in zip(across, along, strict=True))
    said = [f"{name} {mean[1]:.4g} at step {mean[0]:,.0f}" for mean in means]
    return Line(name, path, band, list(zip(across, along, said, strict=True)))

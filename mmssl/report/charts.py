"""Line charts as SVG that stands in a page and takes its colours: matplotlib draws them, the page's CSS variables paint them."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 24, 12, 30
"""Room around the lines; right of them for half of the last step's label."""
POINTS = 200
"""Points that a line keeps; more are averaged in groups, whose range is drawn as a band."""
DOTS = 30
"""With fewer points each is a dot; of more one shows when it is pointed at."""
DECADES = 1.3
"""Positive values that span more powers of ten are drawn on a logarithmic axis, where the chart allows one."""

INK, RULE, CARD, *LINES = (f"#00000{i}" for i in range(1, 6))
"""Colours that stand for the page's own."""
VARIABLES = {INK: "var(--soft)", RULE: "var(--rule)", CARD: "var(--card)"} | {line: f"var(--s{i})" for i, line in enumerate(LINES)}

Number = int | float
Series = Sequence[tuple[Number, Number]]
"""(x, y) of each point; points that are not finite are left out."""


@dataclass(frozen=True)
class Chart:
    """A drawing for use inside HTML.

    names: of its lines, in the order of the colours --s0, --s1. levels: whether it marks any.
    """

    title: str
    names: list[str]
    levels: bool
    svg: str


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
    """A chart of at most two named series over one x axis; None if they hold no finite point.

    allow_log: use a logarithmic axis for values that are positive and span more than `DECADES`.
    from_zero: begin the y axis at zero. levels: values to mark with a horizontal line.
    """
    from matplotlib import rc_context  # only where something is drawn
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = {name: np.asarray(points, dtype=np.float64).reshape(-1, 2) for name, points in series.items()}
    finite = {name: points[np.isfinite(points).all(1)] for name, points in values.items()}
    found = {name: points for name, points in finite.items() if len(points)}
    if not found:
        return None
    # Text stays text; names of what is used twice depend on the drawing alone.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 11.5}):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT))
        said = [_line(axes, color, name, found[name]) for color, name in zip(LINES, found, strict=False)]
        for name, level in (levels or {}).items():
            _level(axes, name, level)
        _frame(axes)
        low, high = axes.dataLim.intervaly
        if allow_log and low > 0 and math.log10(high / low) > DECADES:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
        elif from_zero and low >= 0:
            axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
        return Chart(title, list(found), bool(levels), _svg(figure, title, chain(*said)))


def _frame(axes: "Axes") -> None:
    """A line below, a grid behind, and no marks at the ticks."""
    axes.margins(x=0, y=0.06)
    axes.tick_params(bottom=False, left=False, labelcolor=INK, pad=8)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines.bottom.set(color=INK, linewidth=0.6)


def _level(axes: "Axes", name: str, level: Number) -> None:
    """A dashed line across, with its name above the right end."""
    axes.axhline(level, color=INK, linewidth=1.2, linestyle=(0, (4, 4)))
    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 5), "textcoords": "offset points", "ha": "right"}
    ground = {"facecolor": CARD, "edgecolor": "none", "pad": 1}
    axes.annotate(name, (1, level), **where, color=INK, bbox=ground, parse_math=False, zorder=1.9)


def _line(axes: "Axes", color: str, name: str, points: Float[np.ndarray, "n 2"]) -> list[tuple[str, str]]:
    """Draw a series; for each of its points the class and what it says."""
    groups = np.array_split(points, min(POINTS, len(points)))
    means = np.stack([group.mean(0) for group in groups])
    if len(points) > POINTS:
        low, high = ([side(group[:, 1]) for group in groups] for side in (np.min, np.max))
        # A polygon: what fill_between makes would be a repeated symbol in the SVG.
        axes.fill([*means[:, 0], *means[::-1, 0]], [*low, *high[::-1]], color=color, alpha=0.16, linewidth=0)
    kind, size = ("dot", 5.2) if len(means) < DOTS else ("hit", 8)
    axes.plot(*means.T, color=color, linewidth=1.8, marker="o", markersize=size, markeredgewidth=0, clip_on=False)
    return [(kind, f"{name} {y:.4g} at step {x:,.0f}") for x, y in means]


def _svg(figure: "Figure", title: str, said: Iterator[tuple[str, str]]) -> str:
    """The figure with the page's colours and font, and a title for each point, which are its only repeated symbols."""
    figure.patch.set_visible(False)
    figure.axes[0].patch.set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    text = re.sub(r' id="\w+_\d+"', "", re.sub("font-family: [^;]+", "font-family: inherit", text))
    for color, variable in VARIABLES.items():
        text = text.replace(color, variable)

    def tell(use: re.Match[str]) -> str:
        kind, words = next(said)
        return f'<use class="{kind}"{use[1]}><title>{escape(words)}</title></use>'

    return re.sub("<use( [^>]*)/>", tell, text)

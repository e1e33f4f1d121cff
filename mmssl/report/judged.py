"""Pictures of what a model's own predictions are worth: confusion of classes, calibration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mmssl.evaluation import Judged
from mmssl.evaluation.table import OWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRITTEN = 15
"""Up to so many classes the picture of their confusion says the numbers too."""
NAMED = 60
"""Up to so many classes it names them."""


def judged_figures(judged: Mapping[str, Judged]) -> "dict[str, Figure]":
    """Figures by title, of predicted classes; by the name of the data where there are several."""
    from matplotlib.figure import Figure  # only where something is drawn

    found = dict[str, Figure]()
    for name, one in judged.items():
        if not one.confusion:
            continue
        of = f" on {name}" if len(judged) > 1 else ""
        found[f"{OWN}{of}: classes (rows) and what they were taken for, in % of each class"] = confusion(one)
        if one.bins:
            found[f"{OWN}{of}: confidence and how often it is right"] = calibration(one)
    return found


def confusion(judged: Judged) -> "Figure":
    """The share of each class that was taken for each class."""
    from matplotlib.figure import Figure  # only where something is drawn

    counts = np.asarray(judged.confusion, dtype=np.float64)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = float(np.clip(2 + 0.45 * len(counts), 4, 11))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes: Axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(counts) <= NAMED:
        ticks = np.arange(len(counts))
        short = [name if len(name) <= 16 else f"{name[:15]}…" for name in judged.names]
        axes.set_xticks(ticks, short, rotation=90, fontsize="small", parse_math=False)
        axes.set_yticks(ticks, short, fontsize="small", parse_math=False)
    if len(counts) <= WRITTEN:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 60 else "black"
                axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize="small")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def calibration(judged: Judged) -> "Figure":
    """Accuracy over confidence, beside the diagonal on which a calibrated model lies; how many predictions lie where."""
    from matplotlib.figure import Figure  # only where something is drawn

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    confidence = [100 * one.confidence for one in judged.bins]
    above.plot([0, 100], [0, 100], color="grey", linestyle=":", label="calibrated")
    above.plot(confidence, [100 * one.accuracy for one in judged.bins], marker="o", label="this model")
    above.set_ylabel("right, %")
    above.set_title(f"expected calibration error {judged.scores['expected calibration error']:.1f} %", fontsize="medium")
    above.legend(frameon=False)
    below.bar(confidence, [100 * one.share for one in judged.bins], width=4)
    below.set_ylabel("samples, %")
    below.set_xlabel("confidence, %")
    below.set_xlim(0, 100)
    return figure

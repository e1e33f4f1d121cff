"""A picture of forecasts: what was seen, what came, and what the model said."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmssl.evaluation.forecasts import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEN = 3
"""Of what was seen, so many times the forecast steps are drawn."""


def forecast_figure(examples: Sequence[Example]) -> "Figure":
    """A row for each window."""
    from matplotlib.figure import Figure  # only where something is drawn

    figure = Figure(figsize=(7, 1.7 * max(1, len(examples))), layout="constrained")
    for axes, one in zip(figure.subplots(max(1, len(examples)), 1, squeeze=False)[:, 0], examples, strict=False):
        horizon = len(one.future)
        seen = one.seen[-SEEN * horizon :]
        after = np.arange(1, horizon + 1)
        axes.plot(np.arange(1 - len(seen), 1), seen, color="black", linewidth=1, label="seen")
        axes.plot(after, one.future, color="grey", linewidth=1, label="what came")
        axes.plot(after, one.forecast, color="tab:blue", linewidth=1.4, label="forecast")
        axes.axvline(0.5, color="grey", linestyle=":", linewidth=1)
        axes.set_title(one.title, fontsize="small", loc="left")
        axes.tick_params(labelsize="small")
        axes.legend(frameon=False, fontsize="small", loc="upper left")
    return figure

"""What the report draws of series: the curves, what was hidden of them, and what was predicted there."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.modality import Inputs
from mmssl_modalities.timeseries.processor import STATISTICS, VALUES, TimeseriesProcessor
from mmssl_modalities.timeseries.tokens import expand, grid, moments, observed, packing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED = 6
"""Samples in a picture."""
DRAWN = 3
"""Channels of a sample."""
APART = 5.0
"""Distance of two channels, in standard deviations."""


def picture(
    inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], _processor: TimeseriesProcessor
) -> "Figure":
    """Up to six samples, one below the other: their curves, hidden patches shaded, and the predictions there."""
    from matplotlib.figure import Figure  # only where something is drawn

    inputs = {key: tensor.cpu() for key, tensor in inputs.items()}
    predicted = {key: tensor.float().cpu() for key, tensor in predictions.items()}
    # Of the whole batch: where its tokens lie depends on the longest series, which may be none of those drawn.
    shaded, guess = (part[:PICTURED] for part in _in_place(inputs, hidden.cpu(), predicted))
    inputs = {key: tensor[:PICTURED] for key, tensor in inputs.items()}
    values, there = inputs[VALUES].float(), observed(inputs)
    mean, spread = (part[..., None] for part in moments(values, there)[1].unbind(-1))
    spread = spread.masked_fill(spread == 0, 1)
    curves, guess = ((part - mean) / spread for part in (values.masked_fill(~there, torch.nan), guess))
    figure = Figure(figsize=(7, 1.1 * len(values) + 0.6), layout="constrained")
    all_axes = figure.subplots(len(values), 1, squeeze=False)[:, 0]
    for number, axes in enumerate(all_axes):
        rows = (part[number, :DRAWN].numpy() for part in (curves, guess, shaded))
        _draw(axes, *rows)
    all_axes[0].plot([], [], color="black", linewidth=1, label="series")
    all_axes[0].fill_between([], [], [], color="0.88", label="hidden")
    all_axes[0].plot([], [], color="tab:red", linewidth=1, label="predicted")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def draw(axes: "Axes", inputs: Inputs, row: int, _processor: TimeseriesProcessor) -> None:
    """The curves of one sample, each by its own mean and deviation, as far as values are there."""
    values, there = inputs[VALUES][row : row + 1].float().cpu(), observed(inputs)[row : row + 1].cpu()
    length = int(there.any(1)[0].nonzero().max()) + 1 if there.any() else 1
    curves = moments(values, there)[0].masked_fill(~there, torch.nan)[0, :DRAWN, :length].numpy()
    nothing = np.full_like(curves, np.nan)
    _draw(axes, curves, nothing, np.zeros(curves.shape, dtype=bool))


def _in_place(
    inputs: Inputs, hidden: Bool[Tensor, "b n"], predicted: dict[str, Tensor]
) -> tuple[Bool[Tensor, "b c t"], Float[Tensor, "b c t"]]:
    """Which values were hidden, and their predictions, NaN elsewhere, in the units of the input."""
    channels, length = inputs[VALUES].shape[1:]
    mixed = "mixed_patches" in predicted
    patches = predicted["mixed_patches" if mixed else "patches"]
    size = patches.shape[2] // channels if mixed else patches.shape[2]
    with_statistics = STATISTICS in inputs and "statistics" in predicted
    places = grid(inputs, size, mixed=mixed, statistics=with_statistics)
    order = packing(inputs, places)
    width = hidden.shape[1] if order.order is None else order.order.shape[1]  # samples that are not pictured may have more tokens
    hidden, predicted, patches = hidden[:, :width], {key: part[:, :width] for key, part in predicted.items()}, patches[:, :width]
    first = int(with_statistics)
    shaded = order.put(hidden[..., None], places)[:, :, first:].expand(-1, channels, -1, size)
    guess = _by_channel(order.put(patches, places)[:, :, first:], channels)
    if "statistics" in predicted and not with_statistics:
        level = _by_channel(expand(order.put(predicted["statistics"], places)), channels)
        guess = guess * level[..., 1:] + level[..., :1]
    return shaded.flatten(2)[..., :length], guess.flatten(2)[..., :length]


def _by_channel(rows: Float[Tensor, "b r k f"], channels: int) -> Float[Tensor, "b c k p"]:
    """What `mix` put together, apart again."""
    return rows if rows.shape[1] == channels else rows[:, 0].unflatten(2, (channels, -1)).transpose(1, 2)


def _draw(axes: "Axes", curves: Float[np.ndarray, "c t"], guess: Float[np.ndarray, "c t"], hidden: Bool[np.ndarray, "c t"]) -> None:
    time = np.arange(curves.shape[1])
    for channel, (curve, predicted, covered) in enumerate(zip(curves, guess, hidden, strict=True)):
        base = -APART * channel
        axes.fill_between(time, base - APART / 2, base + APART / 2, where=covered, step="mid", color="0.88", linewidth=0)
        marker = "." if np.isfinite(curve).sum() < 3 else ""
        axes.plot(time, curve + base, color="black", linewidth=0.8, marker=marker)
        axes.plot(time, predicted + base, color="tab:red", linewidth=0.9)
    axes.set_xlim(-0.5, max(0.5, curves.shape[1] - 0.5))
    axes.set_yticks([])
    axes.tick_params(labelsize="x-small")

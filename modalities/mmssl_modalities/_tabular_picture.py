"""What the report draws of a masked table."""

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmssl.modality import Inputs
from mmssl_modalities._tabular_columns import MISSING
from mmssl_modalities._tabular_processor import CLASSES, DATES, NUMBERS, TEXTS
from mmssl_modalities._tabular_shared import CELL_CLASSES, CELL_NUMBERS, CELL_WORDS
from mmssl_modalities._tabular_tokens import text_values

TITLES = {"numeric": "numbers", "datetime": "dates", "text": "texts"}


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor]) -> Figure:
    """Hidden cells of the batch: predicted against true values, and how often the category of each column is right."""
    covered = hidden.cpu().numpy()
    figure = Figure(figsize=(4.5 * len(predictions), 4), layout="constrained")
    axes = dict(zip(predictions, figure.subplots(1, len(predictions), squeeze=False)[0], strict=True))
    for name, (true, first) in _cells(inputs, predictions).items():
        span = slice(first, first + true.shape[1])
        guess, cover = predictions[name][:, span].cpu(), covered[:, span]
        if name == "categorical":
            _draw_categories(axes[name], true, guess.nan_to_num().argmax(-1).numpy(), cover & (true != MISSING))
        else:
            _draw_numbers(axes[name], true, guess.numpy(), cover, TITLES[name])
    return figure


def _cells(inputs: Inputs, predictions: dict[str, Tensor]) -> dict[str, tuple[np.ndarray, int]]:
    """The true cells of each target, floats as `[b, n, t]`, and the place of the first among all columns."""
    if CELL_NUMBERS in inputs:
        words = text_values(inputs[CELL_WORDS])
        shared = {"numeric": inputs[CELL_NUMBERS][..., None], "categorical": inputs[CELL_CLASSES], "text": words}
        return {name: (shared[name].cpu().numpy(), 0) for name in predictions}
    found = {"numeric": inputs[NUMBERS][..., None], "categorical": inputs[CLASSES]}
    if DATES in inputs:
        found["datetime"] = inputs[DATES]
    if TEXTS in inputs:
        found["text"] = text_values(inputs[TEXTS])
    places = dict(zip(found, np.cumsum([0, *(part.shape[1] for part in found.values())])[:-1].tolist(), strict=True))
    return {name: (found[name].cpu().numpy(), places[name]) for name in predictions}


def _draw_numbers(
    axes: Axes, true: Float[np.ndarray, "b n t"], predicted: Float[np.ndarray, "b n t"], hidden: Bool[np.ndarray, "b n"], what: str
) -> None:
    axes.set(xlabel="true value, scaled", ylabel="predicted", title=f"Hidden {what}")
    there = hidden[..., None] & ~np.isnan(true) & ~np.isnan(predicted)
    if not there.any():
        return
    axes.axline((0, 0), slope=1, color="0.7", linewidth=1, zorder=0)
    columns = np.nonzero(there)[1] + 1
    points = axes.scatter(true[there], predicted[there], c=columns, cmap="viridis", s=14, alpha=0.7, linewidths=0)
    axes.legend(*points.legend_elements(), title="column", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    error, spread = np.square(predicted - true)[there].mean(), np.square(true)[there].mean()
    axes.set_title(f"Hidden {what}: squared error {error:.2f}\n(always the mean: {spread:.2f})")


def _draw_categories(
    axes: Axes, true: Int[np.ndarray, "b n"], guesses: Int[np.ndarray, "b n"], hidden: Bool[np.ndarray, "b n"]
) -> None:
    columns = [column for column in range(true.shape[1]) if hidden[:, column].any()]
    right, common = [], []
    for column in columns:
        cells = true[hidden[:, column], column]
        right.append(float((guesses[hidden[:, column], column] == cells).mean()))
        common.append(float(np.unique(cells, return_counts=True)[1].max() / len(cells)))
    place = np.arange(len(columns))
    axes.barh(place - 0.2, right, 0.4, label="predicted", color="#31688e")
    axes.barh(place + 0.2, common, 0.4, label="always the most frequent", color="0.8")
    axes.set(xlim=(0, 1), xlabel="share right", title="Hidden categories", yticks=place)
    axes.set_yticklabels([f"column {column + 1}" for column in columns])
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2, frameon=False)

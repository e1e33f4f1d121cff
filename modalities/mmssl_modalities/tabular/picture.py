"""What the report draws of a masked table."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.modality import Inputs
from mmssl_modalities.tabular.columns import MISSING, CategoricalColumn, HashedColumn
from mmssl_modalities.tabular.processor import CLASSES, DATES, NUMBERS, TEXTS, TabularProcessor
from mmssl_modalities.tabular.shared import CELL_CLASSES, CELL_NUMBERS, CELL_WORDS, COUNTS
from mmssl_modalities.tabular.tokens import text_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LISTED = 12
"""Columns of numbers in the legend."""
WRITTEN = 8
"""Cells of a row that are written out."""
LONGEST = 24
"""Characters of a column's name that are shown."""
TITLES = {"numeric": "numbers", "datetime": "dates", "text": "texts"}


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], processor: TabularProcessor) -> "Figure":
    """Hidden cells of the batch: predicted against true values, and how often the category of each column is right."""
    from matplotlib.figure import Figure  # only where something is drawn

    covered, names = hidden.cpu().numpy(), _names(inputs, processor)
    figure = Figure(figsize=(4.5 * len(predictions), 4), layout="constrained")
    axes = dict(zip(predictions, figure.subplots(1, len(predictions), squeeze=False)[0], strict=True))
    for name, (true, first) in _cells(inputs, predictions).items():
        span = slice(first, first + true.shape[1])
        guess, cover = predictions[name][:, span].cpu(), covered[:, span]
        if name == "categorical":
            _draw_categories(axes[name], true, guess.nan_to_num().argmax(-1).numpy(), cover & (true != MISSING), names[span])
        else:
            _draw_numbers(axes[name], true, guess.numpy(), cover, TITLES[name], names[span])
    return figure


def draw(axes: "Axes", inputs: Inputs, row: int, processor: TabularProcessor) -> None:
    """The first numbers, scaled, and categories of one row, a line each."""
    lines = list(islice(_words(inputs, row, processor), WRITTEN))
    axes.text(0, 1, "\n".join(lines), fontsize=7, family="monospace", va="top", parse_math=False)
    axes.set_axis_off()


def _words(inputs: Inputs, row: int, processor: TabularProcessor) -> Iterator[str]:
    """Name and content of the cells of a row: numbers and categories in turn."""
    if CELL_NUMBERS in inputs:
        count = int(inputs[COUNTS][row, 0]) if COUNTS in inputs else inputs[CELL_NUMBERS].shape[1]
        numbers, classes = inputs[CELL_NUMBERS][row, :count].tolist(), inputs[CELL_CLASSES][row, :count].tolist()
        for place, (number, category) in enumerate(zip(numbers, classes, strict=True)):
            yield _line(f"column {place + 1}", _number(number) if category == MISSING else f"category {category}")
        return
    values = inputs[NUMBERS][row].tolist()
    numbers = [_line(column.name, _number(value)) for column, value in zip(processor.numeric, values, strict=True)]
    classes = inputs[CLASSES][row].tolist()
    categories = [
        _line(column.name, _category(column, value)) for column, value in zip(processor.categorical, classes, strict=True)
    ]
    for pair in zip_longest(numbers, categories):
        yield from (line for line in pair if line is not None)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _category(column: CategoricalColumn | HashedColumn, number: int) -> str:
    """What a class stands for."""
    if number == MISSING:
        return "-"
    if isinstance(column, HashedColumn):
        return f"class {number}"
    place = number - column.unknown - 1
    return "(rare)" if place < 0 else str(column.categories[place])


def _line(name: str, content: str) -> str:
    # A character that the font lacks is a question mark, not a warning.
    name, content = (part.encode("ascii", "replace").decode() for part in (name, content))
    return f"{name[:12]:12} {content[:10]}"


def _names(inputs: Inputs, processor: TabularProcessor) -> list[str]:
    """Names of the columns in the order of the tokens; rows of a shared schema may have any columns, which are numbered."""
    if CELL_NUMBERS in inputs:
        return [f"column {number + 1}" for number in range(inputs[CELL_NUMBERS].shape[1])]
    return [column.name for column in (*processor.numeric, *processor.categorical, *processor.dates, *processor.texts)]


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
    axes: "Axes",
    true: Float[np.ndarray, "b n t"],
    predicted: Float[np.ndarray, "b n t"],
    hidden: Bool[np.ndarray, "b n"],
    what: str,
    names: Sequence[str],
) -> None:
    from matplotlib import colormaps  # only where something is drawn

    axes.set(xlabel="true value, scaled", ylabel="predicted", title=f"Hidden {what}")
    there = hidden[..., None] & ~np.isnan(true) & ~np.isnan(predicted)
    if not there.any():
        return
    axes.axline((0, 0), slope=1, color="0.7", linewidth=1, zorder=0)
    drawn = np.flatnonzero(there.any((0, 2))).tolist()
    listed = {round(place) for place in np.linspace(0, len(drawn) - 1, min(LISTED, len(drawn)))}
    for place, column in enumerate(drawn):
        colour = colormaps["viridis"](place / max(1, len(drawn) - 1))
        label = _short(names[column]) if place in listed else None
        cells = there[:, column]
        axes.scatter(true[:, column][cells], predicted[:, column][cells], color=colour, s=14, alpha=0.7, linewidths=0, label=label)
    title = f"{LISTED} of {len(drawn)} columns" if len(drawn) > LISTED else None
    axes.legend(title=title, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    error, spread = np.square(predicted - true)[there].mean(), np.square(true)[there].mean()
    axes.set_title(f"Hidden {what}: squared error {error:.2f}\n(always the mean: {spread:.2f})")


def _draw_categories(
    axes: "Axes",
    true: Int[np.ndarray, "b n"],
    guesses: Int[np.ndarray, "b n"],
    hidden: Bool[np.ndarray, "b n"],
    names: Sequence[str],
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
    axes.set_yticklabels([_short(names[column]) for column in columns])
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2, frameon=False)


def _short(name: str) -> str:
    """A name that fits beside a plot; a leading underscore would hide it from the legend."""
    return (name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}...").lstrip("_") or "(no name)"

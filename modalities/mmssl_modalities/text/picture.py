"""Texts with their hidden tokens shaded, and under each what was predicted for it."""

import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from mmssl.modality import Inputs
from mmssl_modalities.text.processor import IDS, LENGTHS, TextProcessor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED = 6
"""Texts in a picture."""
COLUMNS, LINES = 96, 3
"""Characters in a line, and lines of a text at most."""
NARROW, NARROW_LINES = 22, 8
"""The same of a text in a small place."""
FONT, SIZE = "DejaVu Sans Mono", 8
"""A font that comes with matplotlib, every glyph of one width."""
INCH_PER_COLUMN, INCH_PER_ROW = 0.602 * SIZE / 72, 1.45 * SIZE / 72
SPACE, NO_GLYPH = "\N{MIDDLE DOT}", "\N{WHITE SQUARE}"
SHADE, RIGHT, WRONG = "#dde3ee", "#1a7f37", "#c0392b"

Cell = tuple[str, str | None, bool]
"""What a token is, what was predicted for it (None: it was seen), and whether that is right."""


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], processor: TextProcessor) -> "Figure":
    """The beginnings of up to six texts."""
    ids = inputs[IDS][:PICTURED].cpu().numpy()
    covered = hidden[: len(ids)].cpu().numpy()
    scores = predictions["tokens"][: len(ids)]
    guesses = scores.nan_to_num().argmax(-1).cpu().numpy()
    lengths = inputs[LENGTHS][: len(ids), 0].tolist() if LENGTHS in inputs else [ids.shape[1]] * len(ids)
    name = cache(processor.tokens.token)
    texts = []
    for row, length in enumerate(lengths):
        cells = [_cell(name, *token) for token in zip(ids[row, :length], guesses[row], covered[row], strict=False)]
        texts.append(list(_lines(cells)))
    return _draw(texts, _title(ids[covered], guesses[covered]))


def draw(axes: "Axes", inputs: Inputs, row: int, processor: TextProcessor) -> None:
    """The beginning of one text, in short lines."""
    ids = inputs[IDS][row].tolist()
    length = int(inputs[LENGTHS][row, 0]) if LENGTHS in inputs else len(ids)
    name = cache(processor.tokens.token)
    text = drawable("".join(name(number) for number in ids[: min(length, NARROW * NARROW_LINES)]))
    lines = [text[start : start + NARROW] for start in range(0, len(text), NARROW)][:NARROW_LINES]
    axes.text(0, 1, "\n".join(lines), fontsize=SIZE - 1, fontfamily=FONT, va="top", parse_math=False)
    axes.set_axis_off()


def _cell(name: Callable[[int], str], token: np.integer, guess: np.integer, hidden: np.bool) -> Cell:
    if not hidden:
        return drawable(name(int(token))), None, False
    shown, guessed = (drawable(name(int(number))).replace(" ", SPACE) for number in (token, guess))
    return shown, guessed, bool(token == guess)


@cache
def _has_glyph(character: str) -> bool:
    from matplotlib import font_manager  # only where something is drawn

    if unicodedata.category(character)[0] in "CM":  # control characters, and marks that take no place of their own
        return False
    return font_manager.get_font(font_manager.findfont(FONT)).get_char_index(ord(character)) != 0


def drawable(text: str) -> str:
    """The text with one glyph of the font for each character: a space for line ends and tabs, a square for what has none."""
    return "".join(" " if c.isspace() else c if _has_glyph(c) else NO_GLYPH for c in text) or NO_GLYPH


def _width(cell: Cell) -> int:
    return min(max(len(cell[0]), len(cell[1] or "")), COLUMNS)


def _lines(cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells in lines of at most `COLUMNS` characters."""
    line: list[Cell] = []
    used, done = 0, 0
    for cell in cells:
        if used + _width(cell) > COLUMNS:
            yield line
            line, used, done = [], 0, done + 1
            if done == LINES:
                return
        line.append(cell)
        used += _width(cell)
    yield line


def _title(true: np.ndarray, guesses: np.ndarray) -> str:
    if not len(true):
        return "no token is hidden"
    common = np.unique(true, return_counts=True)[1].max() / len(true)
    right = (true == guesses).mean()
    return f"Hidden tokens (shaded) and predictions: {right:.0%} right (always the most frequent: {common:.0%})"


def _draw(texts: list[list[list[Cell]]], title: str) -> "Figure":
    from matplotlib.figure import Figure  # only where something is drawn

    rows = sum(2 * len(lines) + 1 for lines in texts)
    figure = Figure(figsize=((COLUMNS + 2) * INCH_PER_COLUMN, (rows + 2) * INCH_PER_ROW))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1, COLUMNS + 1), ylim=(rows, -2))
    axes.set_axis_off()
    axes.text(0, -1, title, fontsize=SIZE, va="center")
    top = 0
    for lines in texts:
        for line in lines:
            _draw_line(axes, line, top)
            top += 2
        top += 1
    return figure


def _draw_line(axes: "Axes", line: list[Cell], top: int) -> None:
    """One line of cells, and under it the predictions; tokens that were seen are drawn a run at a time."""
    from matplotlib.patches import Rectangle  # only where something is drawn

    column, seen = 0, ""
    for cell in line:
        shown, guess, right = cell
        if guess is None:
            seen += shown.ljust(_width(cell))
            continue
        _write(axes, column, top, seen, "black")
        column, seen = column + len(seen), ""
        axes.add_patch(Rectangle((column, top), _width(cell), 1, color=SHADE, linewidth=0))
        _write(axes, column, top, shown, "black")
        _write(axes, column, top + 1, guess, RIGHT if right else WRONG)
        column += _width(cell)
    _write(axes, column, top, seen, "black")


def _write(axes: "Axes", column: int, row: int, text: str, color: str) -> None:
    if text.strip():
        axes.text(column, row + 0.5, text[:COLUMNS], color=color, fontsize=SIZE, fontfamily=FONT, va="center", parse_math=False)

"""Labels of places beside what a model says of them: maps and strips as pictures, words in the colours of their classes."""

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.data.dense import Places
from mmssl.evaluation.placed import PlacedExample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WORDS = 80
"""Words of a sample that are shown."""
GOLDEN = 0.618034
"""Of the circle of hues, from one class to the next: neighbours differ, however many there are."""
TRUE, SAID = "true", "predicted"


@dataclass(frozen=True)
class Word:
    """A word with its label and what the model says; None: it has none. hue: of the predicted class, in degrees."""

    text: str
    truth: str | None
    said: str | None
    hue: int | None

    @property
    def wrong(self) -> bool:
        """Whether both differ, where there is a label."""
        return self.truth is not None and self.truth != self.said


@dataclass(frozen=True)
class Tagged:
    """Samples of words by their titles. legend: the classes that stand in them, with their hues."""

    samples: dict[str, list[Word]]
    legend: dict[str, int]


def hue(number: int) -> float:
    """The hue of a class, in shares of the circle."""
    return (0.58 + GOLDEN * number) % 1


def colour(number: int) -> tuple[float, float, float]:
    """The colour of a class: the first one, mostly the background, is paler."""
    return colorsys.hls_to_rgb(hue(number), 0.75 if number == 0 else 0.5, 0.35 if number == 0 else 0.65)


def tagged(examples: Iterable[PlacedExample], names: Sequence[str]) -> Tagged:
    """Samples of words with their labels."""

    def name(number: int) -> str | None:
        return names[number] if number >= 0 else None

    samples, seen = dict[str, list[Word]](), set[int]()
    for one in examples:
        assert one.words is not None, "they have the labels"
        rows = list(zip(one.words, one.truth.tolist(), one.said.tolist(), strict=True))[:MOST_WORDS]
        seen |= {number for _, *both in rows for number in both if number >= 0}
        samples[one.title] = [
            Word(text, name(true), name(said), None if said < 0 else round(360 * hue(said))) for text, true, said in rows
        ]
    return Tagged(samples, {names[number]: round(360 * hue(number)) for number in sorted(seen)})


def places_figure(examples: Sequence[PlacedExample], names: Sequence[str]) -> "Figure":
    """A row for each sample: itself, where it can be drawn, its labels, and what the model says; with a legend."""
    from matplotlib.figure import Figure  # only where something is drawn
    from matplotlib.patches import Patch

    maps = examples[0].truth.ndim == 2
    drawn = any(one.draw is not None for one in examples)
    parts = 2 + drawn
    size = (2.1 * parts, 2.1 * len(examples)) if maps else (8.0, 1.9 * len(examples))
    figure = Figure(figsize=size, layout="constrained")
    heights = None if maps else [4, 1, 1][-parts:] * len(examples)
    shape = (len(examples), parts) if maps else (parts * len(examples), 1)
    cells = figure.subplots(*shape, squeeze=False, height_ratios=heights).reshape(len(examples), parts)
    for number, (one, row) in enumerate(zip(examples, cells, strict=True)):
        for axes, title, places in zip(row[-2:], (TRUE, SAID), (one.truth, one.said), strict=True):
            show(axes, places, maps)
            if maps:
                axes.set_title(title if number == 0 else "", fontsize="small")
            else:
                axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize="x-small")
        title = f"{one.title} (several windows: not drawn)" if drawn and one.draw is None else one.title
        row[0].set_title(title, fontsize="small", loc="left", parse_math=False)
        if one.draw is not None:
            one.draw(row[0])
        elif drawn:
            row[0].set_axis_off()
    seen = sorted({int(each) for one in examples for places in (one.truth, one.said) for each in np.unique(places) if each >= 0})
    keys = [Patch(facecolor=colour(number), label=names[number]) for number in seen]
    keys += [Patch(facecolor="white", edgecolor="grey", label="no label")] * any((one.truth < 0).any() for one in examples)
    legend = figure.legend(handles=keys, loc="outside lower center", ncols=min(6, len(keys)), frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def show(axes: Any, places: Places, maps: bool) -> None:
    """A label map, or a strip of steps; white where there is no label."""
    classes = max(0, int(places.max(initial=0)))
    palette = np.array([colour(number) for number in range(classes + 1)] + [(1.0, 1.0, 1.0)])
    shown = palette[np.where(places < 0, len(palette) - 1, places)]
    axes.imshow(shown if maps else shown[None], interpolation="nearest", aspect="equal" if maps else "auto")
    axes.set_xticks([])
    axes.set_yticks([])

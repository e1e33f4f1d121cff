"""Labels of stretches of time: segments with a beginning, an end and a label, as people annotate sounds and recordings."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmssl.data.label_lists import as_list
from mmssl.data.tables import lacks_value
from mmssl.modality import IGNORED, StepTimes

START, END, LABEL, PROBABILITY = "start", "end", "label", "probability"
KEYS = (START, END, LABEL)
NEAR = 1e-6
"""Units of time by which segments may overlap: annotations are rounded."""
DIGITS = 6
"""Of times that are written."""
PER_UNIT = 1000
"""Parts of a unit of time by which segments are counted where nobody knows how long a step is."""


@dataclass(frozen=True)
class Segments:
    """The segments of one sample, in order of their beginnings.

    starts, ends: in seconds of a sound, in the times of a series. labels: of each, as text. background: what lies outside of all
    segments; None: nothing is known of it.
    """

    starts: Float[np.ndarray, " k"]
    ends: Float[np.ndarray, " k"]
    labels: Sequence[str]
    background: str | None = None

    @property
    def names(self) -> set[str]:
        """The classes that it speaks of."""
        return {*self.labels, *([] if self.background is None else [self.background])}

    def durations(self, names: Sequence[str]) -> Int[np.ndarray, " c"]:
        """How long each class lasts, in thousandths of a unit of time; what lies outside of all segments is not counted."""
        found = np.zeros(len(names), dtype=np.int64)
        for start, end, label in zip(self.starts, self.ends, self.labels, strict=True):
            found[names.index(label)] += max(1, round((end - start) * PER_UNIT))
        return found

    def at(self, times: StepTimes, names: Sequence[str], place: str) -> Int[np.ndarray, " s"]:
        """The class number of each step: of the segment in which its point lies, else of the background, else `IGNORED`.

        ValueError for a segment that ends more than a step behind the last one, or begins before the first.
        """
        first, last, step = times.edges[0], times.edges[-1], float(np.diff(times.edges).max())
        for start, end, label in zip(self.starts, self.ends, self.labels, strict=True):
            if start < first - step or end > last + step:
                raise ValueError(
                    f"{place}: the segment {label!r} from {start:g} to {end:g} does not lie in the sample, which lasts from "
                    f"{first:g} to {last:g}. Correct it (seconds of a sound, times of a series), or drop the row"
                )
        known = {name: number for number, name in enumerate(names)}
        outside = IGNORED if self.background is None else known[self.background]
        if not len(self.starts):
            return np.full(len(times.points), outside, dtype=np.int64)
        latest = np.searchsorted(self.starts, times.points, side="right") - 1
        inside = (latest >= 0) & (times.points < np.maximum.accumulate(self.ends)[latest])
        numbers = np.array([known[label] for label in self.labels], dtype=np.int64)
        return np.where(inside, numbers[latest], outside)


def is_segment(item: Any) -> bool:
    """Whether an item of a list has the form of a segment."""
    return isinstance(item, Mapping) and (START in item or END in item)


def as_items(cell: Any) -> list[Any] | None:
    """The items of a cell that is a list, or the text of one as JSON, as csv files hold it; None: it is neither."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return as_list(cell)


def are_segments(cells: Sequence[Any]) -> bool:
    """Whether a column holds lists of segments, by its first list that is not empty."""
    first = next((items for cell in cells if not lacks_value(cell) and (items := as_items(cell)) != []), None)
    return first is not None and is_segment(first[0])


def read_segments(cell: Any, place: str, background: str | None = None) -> Segments:
    """The segments in a cell: a list of mappings with start, end and label; other keys say nothing here.

    place: names the row. ValueError for what is missing or no number, an end that is not behind its start, and segments of
    different labels that overlap.
    """
    items = as_items(cell)
    if items is None:
        raise ValueError(f"{place}: expected a list of segments (start, end, label), empty if there are none; got {cell!r:.60}")
    found = sorted((_segment(item, number, place) for number, item in enumerate(items)), key=lambda one: one[:2])
    longest = 0
    for number in range(1, len(found)):
        start, _, label = found[number]
        before = found[longest]
        if start < before[1] - NEAR and label != before[2]:
            raise ValueError(
                f"{place}: two segments overlap and have different labels: {before[2]!r} from {before[0]:g} to {before[1]:g}, and "
                f"{label!r} from {start:g} to {found[number][1]:g}. A step has one label: cut one of them"
            )
        longest = number if found[number][1] >= before[1] else longest
    starts, ends = (np.array([one[side] for one in found], dtype=np.float64) for side in (0, 1))
    return Segments(starts, ends, [one[2] for one in found], background)


def _segment(item: Any, number: int, place: str) -> tuple[float, float, str]:
    """Start, end and label of a segment."""
    if not isinstance(item, Mapping) or any(lacks_value(item.get(key)) for key in KEYS):
        raise ValueError(f"{place}: segment {number} needs start, end and label; got {item!r:.80}. Correct it, or drop the row")
    start, end, label = (item[key] for key in KEYS)
    for key, value in ((START, start), (END, end)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise ValueError(
                f"{place}: {key} of segment {number} must be a finite number (seconds of a sound, times of a series); got "
                f"{value!r:.40}. Correct it, or drop the row"
            )
    if isinstance(label, bool) or not isinstance(label, str | int | np.integer) or (isinstance(label, str) and not label.strip()):
        raise ValueError(f"{place}: the label of segment {number} must be a text or a whole number; got {label!r:.40}. Correct it")
    if end <= start:
        what = "has no length" if end == start else "ends before it begins"
        raise ValueError(
            f"{place}: segment {number}, {str(label)!r}, {what}: from {start:g} to {end:g}. Correct it, or leave it out"
        )
    return float(start), float(end), str(label)


def sorted_names(found: Sequence[Segments]) -> list[str]:
    """The classes that segments of samples speak of, in their order: that of whole numbers, where all are such."""
    names = set[str]().union(*(each.names for each in found))
    if all(name.lstrip("-").isdigit() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def joined(
    places: Int[np.ndarray, " s"],
    sure: Float[np.ndarray, " s"],
    times: StepTimes,
    names: Sequence[Any],
    background: int | None,
) -> list[dict[str, Any]]:
    """Class numbers of steps as segments, one for each run of steps of a class, but for those of the background and without one.

    sure: the probability of each step's class; that of a segment is the mean of its steps. names: of the classes, as written.
    """
    edges = np.flatnonzero(np.diff(places, prepend=places[:1] - 1, append=places[-1:] - 1))
    found = []
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        number = int(places[first])
        if number < 0 or number == background:
            continue
        start, end = (round(float(times.edges[place]), DIGITS) for place in (first, last))
        share = round(float(sure[first:last].mean()), DIGITS)
        found.append({START: start, END: end, LABEL: names[number], PROBABILITY: share})
    return found

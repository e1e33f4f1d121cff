"""Labels of places: of each pixel of a picture a class number, of each word of a text, or step in time, a label."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image

from mmssl.data.segments import Segments, read_segments, sorted_names
from mmssl.data.tables import lacks_value
from mmssl.modality import IGNORED, VOID, StepTimes

DENSE = "dense"
NOTHING = ""
"""Among labels that are texts: a place that has none."""
MAP_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")
"""Of files that may hold label maps: their compression leaves numbers as they are."""
MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
"""Pillow's pictures whose pixels are single whole numbers."""
SHOWN = 8

Places = Int[np.ndarray, "*places"]
"""Class numbers of the places of a sample: `[height, width]`, `[words]` or `[steps]`; `IGNORED` where there is no label."""


def are_maps(cells: Sequence[Any]) -> bool:
    """Whether a column holds label maps, by its first cell that is not missing."""
    first = next((cell for cell in cells if not lacks_value(cell)), None)
    if isinstance(first, str):
        return first.lower().endswith(MAP_SUFFIXES)
    return isinstance(first, Image.Image | Path | bytes | Mapping) or (isinstance(first, np.ndarray) and first.ndim == 2)


def read_dense(
    column: Sequence[Any],
    row: Callable[[int], str],
    where: str,
    class_names: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> tuple[list[str], Int[np.ndarray, "n k"]]:
    """The names of the classes of a column, and how many places of each row have each class.

    Tags that are texts are sorted; numbers point into `class_names`, or are the names themselves, from 0 to the largest.

    row: names the row at a position in messages. where: names the column. known: the classes that there are, as of training data.
    ValueError for a cell that holds no labels of places, a class that `known` has not, and fewer than two classes.
    """
    given = [raw_places(cell, row(position)) for position, cell in enumerate(column)]
    found = known or class_names or _names(given, where)
    counts = np.zeros((len(given), len(found)), dtype=np.int64)
    for position, places in enumerate(given):
        numbers = numbered(places, found, row(position))
        counts[position] = np.bincount(numbers[numbers != IGNORED], minlength=len(found))
    if known is None and (counts.sum(0) > 0).sum() < 2:
        only = ", ".join(name for name, count in zip(found, counts.sum(0), strict=True) if count) or "none"
        raise ValueError(f"{where}: labels of places need at least two classes; there is {only}")
    return [str(name) for name in found], counts


def _names(given: Sequence[Shaped[np.ndarray, "*places"]], where: str) -> list[str]:
    """The names of classes that the data do not name themselves."""
    kinds = {places.dtype.kind for places in given if places.size}
    if len(kinds) > 1:
        raise ValueError(f"{where}: the labels of places must all be texts, or all class numbers; got both. Write them alike")
    if kinds == {"U"}:
        return sorted({str(item) for places in given for item in np.unique(places)} - {NOTHING})
    return [str(number) for number in range(max((int(places.max()) for places in given if places.size), default=-1) + 1)]


def read_places(cell: Any, names: Sequence[str], place: str) -> Places:
    """The class numbers of the places of one sample. place: names the row. ValueError as of `read_dense`."""
    return numbered(raw_places(cell, place), names, place)


def numbered(places: Shaped[np.ndarray, "*places"], names: Sequence[str], place: str) -> Places:
    """Labels as numbers of the classes `names`. ValueError for one that is none of them."""
    if places.dtype.kind == "U":
        known = {name: number for number, name in enumerate(names)}
        check_known({str(item) for item in places} - {NOTHING}, names, place)
        return np.array([known.get(str(item), IGNORED) for item in places], dtype=np.int64)
    there = places[places != IGNORED]
    if there.size and not 0 <= int(there.min()) <= int(there.max()) < len(names):
        bad = sorted({int(number) for number in np.unique(there) if not 0 <= number < len(names)})
        raise ValueError(
            f"{place}: class numbers are from 0 to {len(names) - 1} ({told(names)}); got {told([str(number) for number in bad])}. "
            f"Pixels without a label are {VOID}, words and steps without one {IGNORED}"
        )
    return places


def told(names: Sequence[str]) -> str:
    """Some names in words."""
    return ", ".join(names if len(names) <= SHOWN else [*names[: SHOWN - 1], "..."])


def raw_places(cell: Any, place: str) -> Shaped[np.ndarray, "*places"]:
    """What a cell says of each place: int64 numbers, `IGNORED` for those without a label, or texts."""
    if lacks_value(cell):
        raise ValueError(f"{place}: the labels are missing; every row needs a label map, or a list of labels. Drop such rows")
    if isinstance(cell, np.ndarray | list | tuple):
        return _listed(cell, place)
    if isinstance(cell, Mapping | str | Path | bytes | Image.Image):
        return _map(cell, place)
    raise ValueError(
        f"{place}: labels of places are a label map (a picture file whose pixels are class numbers) or a list of labels; got "
        f"{type(cell).__name__}. Name another column (data.columns.label)"
    )


def _listed(cell: Any, place: str) -> Shaped[np.ndarray, "*places"]:
    """Labels of words or steps, or the rows of a map; a missing one is no label."""
    items = cell.tolist() if isinstance(cell, np.ndarray) else list(cell)
    if any(map(lacks_value, items)):
        nothing = NOTHING if any(isinstance(item, str) for item in items) else IGNORED
        items = [nothing if lacks_value(item) else item for item in items]
    if all(isinstance(item, str) for item in items) and items:
        return np.array(items, dtype=np.str_)
    try:
        values = np.asarray(items)
    except ValueError:
        raise ValueError(f"{place}: the rows of a label map must be equally long; got {repr(cell)[:60]}") from None
    if not values.size:
        return np.zeros(0, dtype=np.int64)
    if values.dtype.kind not in "iub" or values.ndim > 2:
        raise ValueError(
            f"{place}: labels of places are whole numbers, or texts, one for each; got {repr(cell)[:60]}. Correct it, or "
            "drop the row"
        )
    values = values.astype(np.int64)
    return np.where(values == VOID, IGNORED, values) if values.ndim == 2 else values


def _map(cell: Any, place: str) -> Int[np.ndarray, "h w"]:
    """The pixels of a label map."""
    picture, name = _opened(cell, place)
    if picture.mode not in MODES:
        raise ValueError(
            f"{place}: {name} is no label map: its pixels are {picture.mode}, not single class numbers. Save it with one channel "
            f"of whole numbers (modes L, P or I;16 of Pillow), {VOID} where a pixel has no label"
        )
    values = np.asarray(picture).astype(np.int64)
    return np.where(values == VOID, IGNORED, values)


def map_name(cell: Any) -> str | None:
    """The file of a label map, where a cell names one."""
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    return str(path) if isinstance(path, str | Path) else None


def _opened(cell: Any, place: str) -> tuple[Image.Image, str]:
    """A picture, decoded, and what to call it. ValueError if there is none."""
    if isinstance(cell, Image.Image):
        return cell, "the picture"
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (None, cell)
    if isinstance(path, bytes):
        data, path = path, None
    if data is None and path is None:
        raise ValueError(f"{place}: a label map is a file, as path or bytes; got neither")
    name = str(path or "the label map")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(data) if data is not None else name)
            picture.load()
    except FileNotFoundError:
        raise ValueError(
            f"{place}: no label map {name}; paths are relative to the working directory, {Path.cwd()}, and in a table first to the "
            "table's folder"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{place}: the label map {name} cannot be read: {error}. Replace it, or drop the row") from None
    return picture, name


def read_stretches(
    column: Sequence[Any],
    row: Callable[[int], str],
    where: str,
    known: Sequence[str] | None = None,
    background: str | None = None,
    times: Sequence[StepTimes | None] | None = None,
) -> tuple[list[str], Int[np.ndarray, "n k"]]:
    """As `read_dense`, of a column of segments: how many steps of a row have each class.

    background: the class of steps outside of all segments; None: they have no label. times: of the steps of each row, None of one
    that cannot be read; without them the thousandths of time that segments last are counted.
    """
    given = [read_segments(cell, row(position), background) for position, cell in enumerate(column)]
    found = list(known or sorted_names(given))
    counts = np.zeros((len(given), len(found)), dtype=np.int64)
    for position, each in enumerate(given):
        check_known(each.names, found, row(position))
        if times is None:
            counts[position] = each.durations(found)
        elif (own := times[position]) is not None:
            numbers = each.at(own, found, row(position))
            counts[position] = np.bincount(numbers[numbers != IGNORED], minlength=len(found))
    if known is None and len(found) < 2:
        raise ValueError(
            f"{where}: segments need at least two classes; there is {', '.join(found) or 'none'}. If steps outside of all segments "
            "are a class too, name it: data.background=NAME"
        )
    return found, counts


def check_known(names: Iterable[str], known: Sequence[str], place: str) -> None:
    """ValueError for a label that is none of the classes."""
    if unseen := sorted({*names} - {*known}):
        raise ValueError(f"{place}: {told(unseen)} is no class that is known; there are {told(known)}")


def at_steps(segments: Segments, times: StepTimes, names: Sequence[str], place: str) -> Places:
    """The class number of each step of a sample. place: names the row. ValueError as of `read_stretches`."""
    check_known(segments.names, names, place)
    return segments.at(times, names, place)


def stretches_told(names: Sequence[str], column: Sequence[Any], background: str | None) -> str:
    """What a column of segments is taken for."""
    rest = "have no label" if background is None else f"are {background!r}"
    count = sum(len(read_segments(cell, "").starts) for cell in column)
    return f"{count:,} segments of time, of {len(names):,} classes ({told(names)}); steps outside of them {rest}"


def dense_told(names: Sequence[str], counts: Int[np.ndarray, "n k"]) -> str:
    """What the labels are taken for, and why."""
    return f"a label for each place, of {len(names):,} classes ({told(names)}); {int(counts.sum()):,} places have one"

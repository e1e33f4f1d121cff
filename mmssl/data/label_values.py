"""Labels that are lists of numbers, or lists of lists, of one shape: what a regression with several outputs learns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from mmssl.data.label_lists import as_list

Values = Float[np.ndarray, "n k"]


LARGEST = float(np.finfo(np.float32).max)
FLOATS = (float, np.float16, np.float32, np.float64)


def are_values(cells: Sequence[Any]) -> bool:
    """Whether lists of a column hold numbers to regress: some decimals or lists of lists, and no text."""
    if all(map(is_plain, cells)):
        return len(cells) > 0
    kinds = {type(item) for cell in cells for item in as_list(cell) or []}
    return not kinds.isdisjoint((list, tuple, np.ndarray, *FLOATS)) and str not in kinds


def read_values(
    column: Sequence[Any], row: Callable[[int], str], where: str, shape: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], Values]:
    """The shape of the list that each row of a column holds, and its numbers, in one row of float32; texts are read as numbers.

    row: names the row at a position in messages. where: names the column. shape: that of the training rows; None: the first row's.
    ValueError for a missing or empty list, another shape, or what is no finite float32 number.
    """
    rows = list[Shaped[np.ndarray, " k"]]()
    if not len(column):
        raise ValueError(f"{where} has no rows, and so no labels")
    for position, cell in enumerate(column):
        values = numbers(cell, row(position))
        shape = shape or values.shape
        if values.shape != shape:
            raise ValueError(
                f"{row(position)}: every row needs a list of as many numbers; expected {shape_told(shape)}, as in other rows, got "
                f"{shape_told(values.shape)}. Make all alike; lists of several labels are read with the kind multi_label"
            )
        rows.append(values.ravel())
    assert shape is not None
    return shape, np.stack(rows)


def is_plain(cell: Any) -> bool:
    """Whether a cell is an array of decimals, which needs not be looked at number by number."""
    return isinstance(cell, np.ndarray) and cell.dtype.kind == "f"


def numbers(cell: Any, place: str) -> Float[np.ndarray, "*shape"]:
    """The list of a row as an array. ValueError as of `read_values`."""
    if is_plain(cell) and cell.size and np.abs(cell).max() <= LARGEST:
        return cell.astype(np.float32)
    found = as_list(cell)
    if not found:
        raise ValueError(
            f"{place}: a list of numbers is needed, as other rows have one; got {cell!r}. Drop such rows, or fill them in"
        )
    if bad := next(((item, why) for item in leaves(found) if (why := wrong(item))), None):
        raise ValueError(f"{place}: {bad[1]}; got {bad[0]!r} ({type(bad[0]).__name__}). Drop such rows, or fill them in")
    try:
        values = np.asarray(found, dtype=np.float64)
    except ValueError:
        raise ValueError(f"{place}: lists of lists must be equally long; got {repr(found)[:60]}") from None
    if not values.size:
        raise ValueError(f"{place}: a list of numbers is needed; got {found}, which holds none")
    return values.astype(np.float32)


def leaves(cell: Any) -> Iterator[Any]:
    """What lists of lists hold."""
    items = as_list(cell)
    if items is None:
        yield cell
        return
    for item in items:
        yield from leaves(item)


def wrong(item: Any) -> str | None:
    """Why a value is no number to regress, in words; None: it is one."""
    if isinstance(item, bool | np.bool_) or not isinstance(item, str | int | float | np.number):
        return "labels of a regression are numbers"
    try:
        fits = abs(float(item)) <= LARGEST
    except OverflowError:  # a whole number beyond float64
        fits = False
    except ValueError:
        return "labels of a regression are numbers"
    return None if fits else "a label must be a finite float32 number"


def shape_told(shape: tuple[int, ...]) -> str:
    """A shape in words: 96 numbers, or 7 x 96."""
    return f"{shape[0]} numbers" if len(shape) == 1 else f"{' x '.join(map(str, shape))} numbers"


def values_told(shape: tuple[int, ...], values: Values) -> str:
    """What the labels are taken for, and why."""
    return f"{shape_told(shape)} a row between {values.min():g} and {values.max():g}, as it holds lists of them: regression"


def differ(values: Shaped[np.ndarray, " n *k"]) -> bool:
    """Whether some rows hold another value than the first does."""
    return bool((values != values[:1]).any())

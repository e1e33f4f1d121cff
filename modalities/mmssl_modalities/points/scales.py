"""Which value of a colour or intensity becomes 1: by how it is stored, and by what a whole data set holds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, Shaped
from pydantic import Field

from mmssl.modality import Content, Odd

Positive = Annotated[float, Field(gt=0)]
Stored = Literal["uint8", "uint16", "whole", "ply"]
"""How values are stored: in bytes, in 16 bits (as all colours of LAS files), in other whole numbers, as decimals of a PLY file or
of an array that has the coordinates too."""
FullScale = dict[str, Positive | dict[Stored, Positive]]
"""The value that becomes 1, by feature, or by feature and how it is stored."""
Scale = Callable[[str, Shaped[np.ndarray, "n c"], bool, str], Float[np.ndarray, "n c"]]
"""(feature, values, whether they are of a PLY file or lie beside coordinates, what to call the cloud) -> values as floats."""

DECIDED = ("color", "intensity")
"""Features whose full scale goes by the data set."""
_BITS_8, _BITS_16 = 255.0, 65535.0
_OF_TYPE = {"uint8": _BITS_8, "uint16": _BITS_16}


def stored_as(values: Shaped[np.ndarray, "..."], of_ply: bool) -> str:
    """A `Stored`, or "float" for other decimals, which stay as they are; of_ply: of a PLY file, or beside coordinates."""
    if values.dtype.name in _OF_TYPE:
        return values.dtype.name
    if values.dtype.kind in "iu":
        return "whole"
    return "ply" if of_ply else "float"


def scaled(full_scale: Mapping[str, float | Mapping[Stored, float]]) -> Scale:
    """Values divided by their full scale; ValueError for larger ones where it was found in training clouds.

    Where it is not known, bytes are divided by 255 and 16 bits by 65,535.
    """

    def scale(feature: str, values: Shaped[np.ndarray, "n c"], of_ply: bool, name: str) -> Float[np.ndarray, "n c"]:
        stored, decided = stored_as(values, of_ply), full_scale.get(feature, {})
        if not isinstance(decided, Mapping):
            return values.astype(np.float64) / decided
        by_storage = {str(key): most for key, most in decided.items()}
        if stored not in by_storage:
            return values.astype(np.float64) / _OF_TYPE.get(stored, 1.0)
        most = by_storage[stored]
        if values.size and values.max() > most:
            raise ValueError(
                f"{name}: {feature!r} holds values up to {values.max():g}, but no training cloud had one above {most:g}, which is "
                f"full scale. Scale this cloud like those, or set processor.full_scale={{{feature}: {_BITS_16:g}}} and train again"
            )
        return values.astype(np.float64) / most

    return scale


class Extremes:
    """The largest and smallest values of each feature over a data set, by how they are stored."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, tuple[float, float]]] = {}

    def see(self, feature: str, values: Shaped[np.ndarray, "n c"], of_ply: bool, _name: str) -> Float[np.ndarray, "n c"]:
        """Take note of values; a `Scale` that leaves them as they are."""
        if values.size and np.isfinite(values).all():
            by_storage = self.found.setdefault(feature, {})
            stored = stored_as(values, of_ply)
            low, high = by_storage.get(stored, (np.inf, -np.inf))
            by_storage[stored] = (min(low, float(values.min())), max(high, float(values.max())))
        return values.astype(np.float64)

    def full_scale(self, feature: str) -> dict[Stored, float]:
        """The value of a feature that becomes 1, for every way in which it is stored."""
        found: dict[Stored, float] = {}
        for stored in _WORDS:
            if stored in self.found.get(feature, {}):
                most = _full_scale(feature, stored, *self.found[feature][stored])
                found |= {} if most is None else {stored: most}
        return found


def _full_scale(feature: str, stored: Stored, low: float, high: float) -> float | None:
    """The value that becomes 1; None: values stay as they are, for they are no shares of a full scale."""
    if stored == "uint8":
        return _BITS_8
    if stored != "uint16" and (feature != "color" or low < 0 or high > _BITS_16):
        return None
    if stored != "uint16" and high <= 1:
        return 1.0
    return _BITS_8 if high <= _BITS_8 else _BITS_16


def scale_contents(full_scale: Mapping[str, float | Mapping[Stored, float]], features: Iterable[str]) -> list[Content]:
    """What colours and intensities are divided by, and a note where that goes by the data set alone."""
    found = []
    for feature in features:
        decided = full_scale.get(feature)
        if isinstance(decided, Mapping):
            found += [
                Content(feature, _WORDS[stored], _by(most), odd=_odd(feature, stored, most)) for stored, most in decided.items()
            ]
        elif decided is not None:
            found.append(Content(feature, "values", _by(decided)))
    return found


_WORDS: Mapping[Stored, str] = {
    "uint8": "bytes",
    "uint16": "16-bit numbers",
    "whole": "whole numbers",
    "ply": "decimals",
}


def _by(most: float) -> str:
    return "as they are" if most == 1 else f"divided by {most:g}"


def _odd(feature: str, stored: Stored, most: float) -> tuple[Odd, ...]:
    if stored == "uint8" or most == 1 or (stored == "uint16" and most == _BITS_16):
        return ()
    how = f"{_WORDS[stored]}, at most {most:g} in all clouds"
    out = f"They are divided by {most:g}; for another full scale set processor.full_scale, as in {{{feature}: 65535}}"
    return (Odd(f"{8 if most == _BITS_8 else 16}-bit values in a larger type", how, out),)

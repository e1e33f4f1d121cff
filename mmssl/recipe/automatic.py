"""Keys of a recipe that are `auto`: which they are. `mmssl.recipe.settle` takes their values from the data."""

from collections.abc import Iterator, Mapping
from typing import Any

AUTO = "auto"
GENERAL = ("train.batch_size", "train.max_minutes", "evaluate")
"""Keys outside `modalities` that may be auto."""


def automatic_keys(data: Mapping[str, Any]) -> list[str]:
    """The dotted keys of a recipe's data that are to be taken from the samples; some others have `auto` for a value of theirs."""
    return [key for key, value in leaves(data) if value == AUTO and (key in GENERAL or key.startswith("modalities."))]


def leaves(data: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The values of a recipe's data by dotted key."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*above, str(key)))
        else:
            yield ".".join((*above, str(key))), value


def without(data: Mapping[str, Any], keys: list[str], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A recipe's data without these keys."""
    return {
        key: without(value, keys, (*above, str(key))) if isinstance(value, Mapping) else value
        for key, value in data.items()
        if ".".join((*above, str(key))) not in keys
    }

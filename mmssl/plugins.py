"""Which modality plug-ins are installed, found without importing them."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "mmssl.modalities"


@cache
def points() -> dict[str, EntryPoint]:
    """The entry point of every installed modality."""
    return {point.name: point for point in entry_points(group=GROUP)}


def installed() -> list[str]:
    """Names of all installed modalities."""
    return sorted(points())

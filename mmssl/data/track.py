"""How long work on data tells how far it is: the caller says; the library draws nothing by itself."""

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Track(Protocol):
    """Passes items on while it shows how many were consumed, as `mmssl.training.progress.track` does."""

    def __call__(self, items: Iterable[Item], what: str, total: int | None = None, /, *, unit: str = "items") -> Iterable[Item]:
        """what: a word or two on the work. total: how many items will come; None: their length, if they have one.

        unit: what is counted, in the plural.
        """


def silent(items: Iterable[Item], what: str, total: int | None = None, /, *, unit: str = "items") -> Iterable[Item]:
    """Shows nothing."""
    return items

"""What all ways out of mmssl share: where the model goes, and whether it gives the same there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmssl import files

TOLERANCE = 1e-4
"""Largest difference of an output elsewhere, as a share of the largest value where that is above 1."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote. how: it is used. difference: the largest of outputs there and here; None: not compared."""

    folder: Path
    how: str
    difference: float | None = None

    @property
    def names(self) -> list[str]:
        """The files in the folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def new_place(folder: str | Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends. FileExistsError if there is something of that name."""
    place = Path(folder)
    if place.exists():
        raise FileExistsError(f"{place} exists already; give another folder")
    with files.new_folder(place) as new:
        yield new


def differing(what: str, found: Tensor, wanted: Tensor, where: str) -> float:
    """The largest difference of an output. RuntimeError if it is more than rounding, or of another shape."""
    if found.shape != wanted.shape:
        raise RuntimeError(f"nothing was exported: {where} {what} has the shape {list(found.shape)}, not {list(wanted.shape)}")
    largest = (found - wanted).abs().max().item() if wanted.numel() else 0.0
    if not largest <= TOLERANCE * max(1.0, wanted.abs().max().item() if wanted.numel() else 0.0):
        raise RuntimeError(f"nothing was exported: {where} {what} differs by {largest:.2g}")
    return largest

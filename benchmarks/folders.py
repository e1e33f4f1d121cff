"""Files per second that opening a folder takes, before any is decoded.

    python benchmarks/folders.py

Empty files of one suffix in ten classes, in a temporary folder: the walk, the splits and the classes are what is timed. To compare
commits run it in a worktree of each: it needs nothing of either but `Source`. The numbers are medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmssl.data import Source

CLASSES = 10


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call, after one that is not counted: it imports the modalities, and fills the system's caches."""
    taken = []
    for number in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if number:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def grow(top: Path, files: int, splits: tuple[str, ...]) -> None:
    """`files` files in all: of every split, or of none, ten classes."""
    for number in range(files):
        folder = top / splits[number % len(splits)] / f"class{number // len(splits) % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}.png").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"{options.files:,} files, median of {options.repeats}\n\n| | ms | files/s |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as place:
        classes, splits = Path(place, "classes"), Path(place, "splits")
        grow(classes, options.files, ("",))
        grow(splits, options.files, ("train", "test"))
        cases: dict[str, tuple[str, str | None]] = {
            "a folder of classes": (str(classes), "train"),
            "splits, then classes": (str(splits), None),
            "a pattern, folder/*/*.png": (f"{classes}/*/*.png", "train"),
            "a pattern, folder/**/*.png": (f"{classes}/**/*.png", "train"),
        }
        for title, (path, split) in cases.items():
            taken = seconds(partial(Source, path=path, split=split), options.repeats)
            print(f"| {title} | {1e3 * taken:.0f} | {options.files / taken:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

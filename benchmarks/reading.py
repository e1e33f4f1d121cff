"""Rows a second of csv, jsonl and parquet files: opened for the first time, opened again, and read in random order.

    python benchmarks/reading.py --rows 200000

Each measurement is a process of its own, the first one of a file with an empty cache: a reader that keeps a copy pays for it once.
Seconds are those of the processor, as wall time says more of who else is on the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

KINDS = ("csv", "jsonl", "parquet")


def write(folder: Path, rows: int) -> None:
    """A table of four numbers, two categories and a sentence."""
    draw = np.random.default_rng(0)
    words = np.array(["the", "model", "reads", "what", "people", "have", "and", "says", "so"])
    frame = pd.DataFrame({f"x{i}": draw.normal(size=rows).round(4) for i in range(4)})
    frame["count"] = draw.integers(0, 1000, rows)
    frame["colour"] = draw.choice(["red", "green", "blue"], rows)
    frame["text"] = [" ".join(row) for row in draw.choice(words, (rows, 8))]
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "t.parquet", index=False)


def measure(path: Path) -> dict[str, float]:
    """Seconds from nothing to the first row, and of all rows in random order in batches of 256."""
    import datasets  # noqa: F401  # some seconds, whatever is read

    from mmssl.data import Source

    start = time.process_time()
    source = Source(path=str(path))
    source.rows([0])
    opened = time.process_time()
    order = np.random.default_rng(0).permutation(len(source))[:20_000]
    for batch in np.array_split(order, len(order) // 256 + 1):
        source.rows(batch)
    return {"rows": len(source), "open": opened - start, "read": (time.process_time() - opened) / len(order)}


def run(path: Path, cache: str) -> dict[str, float]:
    environment = os.environ | {"HF_HOME": cache, "HF_DATASETS_CACHE": f"{cache}/datasets"}
    command = [sys.executable, __file__, "--measure", str(path)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    print(f"{'':8} {'first open':>14} {'open again':>14} {'random rows':>14}   (rows/s, medians of {options.repeats})")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.rows)
        for kind in KINDS:
            path, first, again = Path(folder) / f"t.{kind}", [], []
            for number in range(options.repeats):
                cache = f"{folder}/cache-{kind}-{number}"
                first.append(run(path, cache))
                again.append(run(path, cache))
            opens = [np.median([found["rows"] / found["open"] for found in runs]) for runs in (first, again)]
            reads = np.median([1 / found["read"] for found in again])
            print(f"{kind:8} {opens[0]:14,.0f} {opens[1]:14,.0f} {reads:14,.0f}")


if __name__ == "__main__":
    main()

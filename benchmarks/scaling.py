"""Weak scaling of data parallel training: samples per second of one process, and of N with N times the batch, by turns.

    python benchmarks/scaling.py --processes 2 --repeats 3

Masked image modelling as in recipes/image/mae_cifar10.yaml, with made-up pictures of 32 x 32. Every process has one thread. Each
run is `mmssl train` as it is typed; its rate is the median over the rows of metrics.jsonl but the first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmssl_catalogue import recipes_found

PICTURES, STEPS = 512, 60


def make_pictures(folder: Path) -> None:
    """Noise, as PNG in a parquet file: decoding is a part of a step."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(PICTURES):
        place = folder / "picture.png"
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(place)
        files.append({"bytes": place.read_bytes(), "path": f"{number}.png"})
    place.unlink()
    pq.write_table(pa.table({"image": files}), folder / "pictures.parquet")


def rate(folder: Path, processes: int, batch: int, name: str) -> float:
    """Samples per second of a run."""
    keys = {
        "data.path": folder / "pictures.parquet",
        "data.columns": "null",
        "data.cache": "true",
        "run.dir": folder / "runs",
        "run.name": name,
        "train.batch_size": batch * processes,
        "train.max_minutes": "null",
        "train.max_steps": STEPS,
        "train.log_every": 10,
        "train.precision": "fp32",
        "evaluate": "null",
    }
    words = [f"{key}={value}" for key, value in keys.items()]
    command = [
        sys.executable,
        "-m",
        "mmssl",
        "train",
        str(recipes_found()["image/mae_cifar10"]),
        *words,
        f"--processes={processes}",
    ]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    lines = (folder / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.median(json.loads(line)["samples_per_second"] for line in lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="samples of a step for each process")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmssl-scaling-") as place:
        folder = Path(place)
        make_pictures(folder)
        found = []
        for turn in range(options.repeats):
            one = rate(folder, 1, options.batch, f"one{turn}")
            many = rate(folder, options.processes, options.batch, f"many{turn}")
            found.append(many / one / options.processes)
            print(
                f"1 process {one:.1f} samples/s, {options.processes} processes {many:.1f}: efficiency {found[-1]:.1%}", flush=True
            )
    print(f"median efficiency {statistics.median(found):.1%} of {options.processes} processes, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

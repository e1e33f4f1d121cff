"""Linear probes on four sets of the UCR / UEA archive.

    python benchmarks/probes/ucr.py --data ../shared/data/ucr --seeds 3

Trains the recipe `patchtst_ucr` on the training part of each set, once per seed, with the settings in `settings`, and probes the
frozen model with a logistic regression (`mmssl.evaluation.PROTOCOL`), beside the same network with random weights, nearest
neighbour and ridge on the raw values, and a network of this size that was trained with the labels. Accuracy in percent, on the
test part, at the last step.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier

import mmssl
from mmssl.evaluation import Table

SETS = ("ArrowHead", "OSULeaf", "ItalyPowerDemand", "BasicMotions")
RECIPE = "patchtst_ucr"
ROWS = ("pretrained", "random init", "1-NN Euclid", "ridge", "supervised")


def settings(length: int) -> dict[str, Any]:
    """What of the recipe depends on the length of the series: longer series have longer patches."""
    return {"modalities.timeseries.adapter.patch_size": max(1, min(8, length // 24))}


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Series `[n, c, t]` and labels `[n]`."""
    table = pq.read_table(file)
    return np.array(table["series"].to_pylist(), np.float64), np.array(table["label"].to_pylist())


def classical(folder: Path) -> dict[str, float]:
    """Accuracy of nearest neighbour and ridge on the raw values."""
    (train, labels), (test, truth) = read(folder / "train.parquet"), read(folder / "test.parquet")
    readers = {"1-NN Euclid": KNeighborsClassifier(1), "ridge": RidgeClassifierCV(np.logspace(-3, 3, 13))}
    x, y = train.reshape(len(train), -1), test.reshape(len(test), -1)
    return {name: 100 * float(reader.fit(x, labels).score(y, truth)) for name, reader in readers.items()}


def scores(folder: Path, seed: int, overrides: dict[str, Any], *, supervised: bool) -> dict[str, float]:
    """Probe accuracy of the pretrained, the random and, if asked for, the supervised network."""
    length = read(folder / "train.parquet")[0].shape[2]
    rows = pq.read_metadata(folder / "train.parquet").num_rows
    changes = settings(length) | {"data.path": str(folder), "run.seed": seed, "evaluate.seed": seed} | overrides
    changes["train.batch_size"] = min(rows, changes.get("train.batch_size", 32))
    table = trained(changes)
    found = {name: table.row(name).probe for name in ("pretrained", "random init")}
    if supervised:
        changes |= {"objective": {"name": "supervised"}, "data.columns": {"timeseries": "series", "label": "label"}}
        found["supervised"] = trained(changes).row("pretrained").probe
    return found


def trained(overrides: dict[str, Any]) -> Table:
    """The table of one run, whose folder is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        run = mmssl.train(RECIPE, overrides | {"run.dir": folder})
        return Table.from_dict(json.loads(run.table_file.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--supervised", action="store_true", help="train with labels too")
    options = parser.parse_args()
    table: dict[str, dict[str, list[float]]] = {name: {row: [] for row in ROWS} for name in SETS}
    for name in SETS:
        for row, score in classical(options.data / name).items():
            table[name][row].append(score)
        for seed in range(options.seeds):
            begin = time.perf_counter()
            for row, score in scores(options.data / name, seed, {}, supervised=options.supervised).items():
                table[name][row].append(score)
            print(f"{name}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    print("| | " + " | ".join(SETS) + " | mean |")
    print("|---|" + "---:|" * (len(SETS) + 1))
    for row in ROWS:
        means = [statistics.mean(table[name][row]) for name in SETS if table[name][row]]
        if means:
            print(f"| {row} | " + " | ".join(f"{value:.1f}" for value in [*means, statistics.mean(means)]) + " |")


if __name__ == "__main__":
    main()

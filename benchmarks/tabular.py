"""Rows per second that the tabular processor makes into tensors.

    python benchmarks/tabular.py

The rows are made up after the Adult census data: 6 numeric and 8 categorical columns of 2 to 42 categories, some cells missing.
Each form in which a table may come is timed by itself on one thread: the whole table at once, batches of 256 rows as dicts (as the
loader has them), and row by row. The numbers are the medians of several passes.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from mmssl_modalities.tabular import TabularProcessor

GOAL = 200_000
BATCH = 256
NUMBERS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
CATEGORIES = {
    "workclass": 8,
    "education": 16,
    "marital_status": 7,
    "occupation": 14,
    "relationship": 6,
    "race": 5,
    "sex": 2,
    "native_country": 42,
}


def adult_like(count: int) -> pd.DataFrame:
    """Columns of the sizes and long tails of Adult; two of the categorical ones lack one cell in twenty."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {name: random.lognormal(3, 1, count).round() for name in NUMBERS}
    columns["capital_gain"] *= random.random(count) < 0.08
    for name, size in CATEGORIES.items():
        names = np.array([f"{name} number {i}" for i in range(size)], object)
        columns[name] = names[(size * random.random(count) ** 2).astype(int)]
    for name in ("workclass", "occupation"):
        columns[name][random.random(count) < 0.05] = None
    return pd.DataFrame(columns)


def forms(frame: pd.DataFrame, processor: TabularProcessor) -> Mapping[str, tuple[int, Callable[[], Any]]]:
    """What is timed: rows, and a function that processes them."""
    rows = frame.to_dict("records")
    arrow = pa.Table.from_pandas(frame)
    coded = frame.astype(dict.fromkeys(CATEGORIES, "category"))
    columns = frame.to_dict("list")
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    few = rows[:5000]
    return {
        "pandas DataFrame": (len(rows), lambda: processor.table(frame)),
        "pandas DataFrame, category columns": (len(rows), lambda: processor.table(coded)),
        "pyarrow Table": (len(rows), lambda: processor.table(arrow)),
        "dict of lists": (len(rows), lambda: processor.table(columns)),
        f"lists of {BATCH} dicts": (len(rows), lambda: [processor.batch(batch) for batch in batches]),
        "row by row": (len(few), lambda: processor.collate([processor(row) for row in few])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows per second of the tabular processor.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    frame = adult_like(arguments.rows)
    for numeric in ("standard", "quantile"):
        processor = TabularProcessor(numeric=numeric)
        processor.fit(frame.iloc[:20_000].to_dict("records"))
        print(f"\nnumeric: {numeric}")
        for name, (count, work) in forms(frame, processor).items():
            seconds = []
            for _ in range(arguments.repeats):
                begin = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - begin)
            rate = count / statistics.median(seconds)
            print(f"{name:40s} {rate:12,.0f} rows/s {'' if rate >= GOAL else f'(goal: {GOAL:,})'}")


if __name__ == "__main__":
    main()

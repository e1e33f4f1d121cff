"""The benchmark of adapters: labels by class, cells that are kept, and a page that shows them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest


@pytest.fixture(scope="module")
def module(benchmark_module: Any) -> Any:
    return benchmark_module("adapters")


def test_a_share_of_the_labels_has_every_class(module: Any) -> None:
    table = pa.table({"label": [0] * 200 + [1] * 100 + [2] * 3})
    rows = module.labelled(table, 0.1, 0)
    assert np.bincount(np.asarray(table["label"])[rows]).tolist() == [20, 10, 1] and len(np.unique(rows)) == 31
    assert rows.tolist() == module.labelled(table, 0.1, 0).tolist() != module.labelled(table, 0.1, 1).tolist()


def test_page_shows_the_cells_and_what_is_missing_is_known(module: Any, tmp_path: Path) -> None:
    cells = module.Cells(tmp_path, module.PAGE)
    cells.claim({"pretraining": 400, "steps": 150})
    for seed, score in enumerate((30.0, 34.0)):
        cost = {"learns": 8.4, "mebibytes": 13.2, "minutes": 0.2, "flags": []}
        cells.add({"dataset": "cifar10, 1 %", "row": "lora", "seed": seed, "rows": 100, "score": score} | cost)
    page = module.page(module.Cells(tmp_path, module.PAGE))
    assert "| cifar10 | 100 (1 %) | LoRA | 32.0 (30.0 to 34.0) | 8.4 % | 13 | 2 |" in page and "400 steps" in page
    bench = module.Bench(tmp_path, tmp_path, cells, 400, 150)
    titles = [title for title, _ in module.missing(Namespace(seeds=1, only=["cifar10"]), bench)]
    assert len(titles) == 2 * len(module.METHODS) - 1 and "cifar10, 1 %, lora, seed 0" not in titles

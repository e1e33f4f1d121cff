"""The benchmark of self-supervision that goes on: halves of datasets, cells that are kept, and a page that shows them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def module(benchmark_module: Any) -> Any:
    return benchmark_module("continued")


def test_halves_share_no_speaker_and_lose_no_row(module: Any, tmp_path: Path) -> None:
    (tmp_path / "spoken_digits").mkdir()
    for part, count in {"train": 60, "test": 18}.items():
        table = pa.table({"speaker": [row % 6 for row in range(count)], "label": [row // 6 for row in range(count)]})
        pq.write_table(table, tmp_path / "spoken_digits" / f"{part}.parquet")
    bench = module.Bench(tmp_path, tmp_path / "work", module.Cells(tmp_path, module.PAGE), 1, 1)
    found = [
        [pq.read_table(half / f"{part}.parquet").to_pydict() for part in ("train", "test")]
        for half in module.halves(bench, "spoken_digits")
    ]
    assert [{*part["speaker"]} for half in found for part in half] == [{0, 1, 2}] * 2 + [{3, 4, 5}] * 2
    assert [len(part["label"]) for half in found for part in half] == [30, 9] * 2


def test_page_shows_the_cells_and_what_is_missing_is_known(module: Any, tmp_path: Path) -> None:
    cells = module.Cells(tmp_path, module.PAGE)
    cells.claim({"pretraining": 400, "steps": 150})
    took = {"learns": 8.4, "mebibytes": 13.2, "minutes": 0.2, "flags": []}
    cells.add({"dataset": "spoken_digits", "row": "before", "seed": 0, "score": 60.0, "first": 80.0})
    for seed, score in enumerate((70.0, 74.0)):
        cells.add({"dataset": "spoken_digits", "row": "lora", "seed": seed, "score": score, "first": 78.0} | took)
    cells.add({"dataset": "sst2", "row": "full", "seed": 0, "score": 81.0} | took | {"flags": ["collapse"]})
    page = module.page(module.Cells(tmp_path, module.PAGE))
    assert "| spoken_digits | before | 60.0 | 80.0 | - | - | 1 |" in page
    assert "| spoken_digits | LoRA | 72.0 (70.0 to 74.0) | 78.0 (78.0 to 78.0) | 8.4 % | 13 | 2 |" in page
    assert "| all of the model | 81.0 | 8.4 % | 13 | 1 |" in page and "1 of 3" in page
    bench = module.Bench(tmp_path, tmp_path / "work", cells, 400, 150)
    found = [title for title, _ in module.missing(Namespace(seeds=2, only=["spoken_digits", "sst2"]), bench)]
    assert found == [
        "spoken_digits, full, seed 0",
        "sst2, before, seed 0",
        "sst2, lora, seed 0",
        "spoken_digits, before, seed 1",
        "spoken_digits, full, seed 1",
    ]

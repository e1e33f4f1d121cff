"""`embed`: which row each vector is of, the kinds of files, and what is refused before anything is embedded."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_from_disk
from numpy.testing import assert_allclose
from PIL import Image

from mmssl import api
from mmssl.evaluation import embedding
from mmssl.modality import find
from mmssl.processor import MMSSLProcessor
from mmssl.testing import small_model, small_processor
from mmssl_cli import main


def saved(folder: Path, name: str) -> Path:
    small_model(name).save_pretrained(folder)
    MMSSLProcessor({name: small_processor(name)}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number, image in enumerate(find("image").example(6, 0)):
        folder = tmp_path / "pictures" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table with an id of each row."""
    file = tmp_path / "rows.jsonl"
    examples = find("tabular").example(7, 0)
    file.write_text("".join(json.dumps(row | {"id": f"r{i}"}) + "\n" for i, row in enumerate(examples)), encoding="utf-8")
    return file


def expected(name: str, raws: list[object]) -> np.ndarray:
    processor = MMSSLProcessor({name: small_processor(name)})
    with torch.no_grad():
        found: np.ndarray = small_model(name)(**processor(**{find(name).keyword: raws})).pooler_output.numpy()
    return found


def test_files_keep_their_path_and_label(pictures: Path, tmp_path: Path) -> None:
    assert api.embed(saved(tmp_path / "m", "image"), str(pictures), tmp_path / "e.parquet", batch_size=4) == 6
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["row", "image", "label", "embedding"]
    vectors = expected("image", [Image.open(path) for path in table.column("image").to_pylist()])
    assert_allclose(np.stack(table.column("embedding").to_numpy()), vectors, rtol=1e-4, atol=1e-5)
    assert [Path(path).parent.name for path in table.column("image").to_pylist()] == table.column("label").to_pylist()
    assert table.column("row").to_pylist() == list(range(6))


def test_columns_that_are_asked_for_in_every_kind_of_file(rows: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "tabular")
    vectors = expected("tabular", [json.loads(line) for line in rows.read_text().splitlines()])
    for output in ("e.parquet", "e.npy", "e"):
        main(["embed", str(model), "--data", str(rows), "--batch-size", "3", "--keep", "id", "--output", str(tmp_path / output)])
    assert_allclose(np.load(tmp_path / "e.npy"), vectors, rtol=1e-4, atol=1e-5)
    beside = pq.read_table(tmp_path / "e.rows.parquet")
    dataset = load_from_disk(tmp_path / "e")
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == dataset.column_names == ["row", "id", "embedding"]
    assert beside.column_names == ["row", "id"]
    for found in (beside.column("id").to_pylist(), dataset["id"][:], table.column("id").to_pylist()):
        assert found == [f"r{i}" for i in range(7)]
    assert_allclose(np.array(dataset["embedding"][:]), vectors, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "e.npy", "e.parquet", "e.rows.parquet", "m", "rows.jsonl"]


@pytest.mark.parametrize("output", ["e.parquet", "e.npy", "e"])
def test_rows_that_are_passed_over_leave_no_gap(output: str, pictures: Path, tmp_path: Path) -> None:
    bad = sorted(pictures.rglob("*.png"))[1]
    bad.write_bytes(b"no picture")
    found = api.embed(saved(tmp_path / "m", "image"), str(pictures), tmp_path / output, batch_size=2, on_error="skip")
    assert found == 5
    table = {"e.parquet": pq.read_table, "e.npy": lambda _: pq.read_table(tmp_path / "e.rows.parquet"), "e": load_from_disk}
    kept = table[output](tmp_path / output)
    paths = kept["image"][:] if output == "e" else kept.column("image").to_pylist()
    assert str(bad) not in list(paths) and len(paths) == 5
    if output == "e.npy":
        assert np.load(tmp_path / output).shape == (5, 32)


@pytest.mark.parametrize(
    ("output", "keep", "kind", "message"),
    [
        ("folder", None, ValueError, "is a folder already. Name a file in it, or another folder"),
        ("e.csv", None, ValueError, "--output must be a file that ends in .parquet or .npy, or a new folder"),
        ("e.parquet", ["idd"], LookupError, "--keep idd: "),
        ("e.parquet", ["embedding"], LookupError, "has no such column; it has "),
    ],
)
def test_what_cannot_be_written_is_refused_before_embedding(
    output: str,
    keep: list[str] | None,
    kind: type[Exception],
    message: str,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(embedding, "read", lambda *_, **__: pytest.fail("it was embedded"))
    with pytest.raises(kind, match=re.escape(message)):
        api.embed(saved(tmp_path / "m", "tabular"), str(rows), tmp_path / output, keep=keep)

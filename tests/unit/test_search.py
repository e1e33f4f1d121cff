"""Search among embeddings: every modality's samples find themselves, modalities find each other, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mmssl
from mmssl import MMSSLModel
from mmssl.data import Source
from mmssl.data.tables import RowTable
from mmssl.evaluation import extract
from mmssl.evaluation.embedded import Embedded
from mmssl.evaluation.search import Search
from mmssl.evaluation.stamp import Stamp, fingerprint
from mmssl.modality import find
from mmssl.model import MMSSLConfig
from mmssl.model.heads import Head
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.report.hits import write_hits
from mmssl.testing import SMALL, small_model, small_processor
from mmssl_cli import main

ROWS = 7


def saved(folder: Path, *names: str, seed: int = 0, **settings: Any) -> Path:
    """A small model with random weights, of one modality or several, as a run publishes it."""
    torch.manual_seed(seed)
    processors = {name: small_processor(name) for name in names}
    modalities = {name: {"processor": processor.settings(), "adapter": {}} for name, processor in processors.items()}
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL | settings))
    if len(names) > 1:
        model.project({name: Head(layers=1, size=16, norm="none").settings() for name in names})
    model.save_pretrained(folder)
    MMSSLProcessor(processors).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures in classes."""
    random = np.random.default_rng(0)
    for number in range(12):
        kind, low = (("dark", 0), ("light", 128))[number % 2]
        (tmp_path / "pictures" / kind).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(low, low + 128, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / kind / f"{number:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def index(tmp_path: Path, pictures: Path) -> Path:
    mmssl.embed(saved(tmp_path / "model", "image"), str(pictures), tmp_path / "index.parquet")
    return tmp_path / "index.parquet"


@pytest.mark.parametrize("name", installed())
def test_every_modality_is_embedded_and_found_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw samples of any modality as queries find their own rows; the others come as brute force in float64 orders them."""
    modality = find(name)
    raws = modality.example(ROWS, 0)
    rows = [{modality.columns[0]: raw} for raw in raws] if modality.columns else raws
    monkeypatch.setattr("mmssl.data.source.open_table", lambda *given: RowTable(rows))
    folder = saved(tmp_path / "model", name)
    assert mmssl.embed(folder, "examples", tmp_path / "index.parquet") == ROWS
    model, processor = small_model(name), MMSSLProcessor.from_pretrained(folder)
    model.load_state_dict(MMSSLModel.from_pretrained(folder).state_dict())
    vectors = extract(model, processor, Source.from_rows(rows), name).values.numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    searched = Search.open(tmp_path / "index.parquet")
    for row, raw in enumerate(raws):
        cosines = vectors @ vectors[row]
        hits = searched(raw, top=3, modality=name)
        assert hits.modality == name
        assert hits.cosines == pytest.approx(np.sort(cosines)[::-1][:3].tolist(), abs=1e-5)
        assert hits.cosines[hits.rows.index(row)] == pytest.approx(1, abs=1e-5)
        others = searched(row, top=ROWS)
        assert sorted([*others.rows, row]) == list(range(ROWS)), "a row is not among its own hits"
        assert others.cosines == pytest.approx(cosines[others.rows].tolist(), abs=1e-5)
    page = tmp_path / "hits.html"
    write_hits(page, searched(0, top=2), searched)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == (3 if modality.draw else 0)
    assert "<script" not in html
    assert "http" not in html


def test_a_picture_file_is_searched_for(index: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = pictures / "light" / "03.png"
    main(["search", str(index), str(query), "--top", "4", "--output", str(tmp_path / "hits.csv")])
    said = capsys.readouterr().out
    assert f"nearest to {query} among 12 embeddings" in said.replace("\n", "")
    hits = (tmp_path / "hits.csv").read_text().splitlines()
    assert hits[0].split(",")[:3] == ['"rank"', '"row"', '"cosine"']
    assert len(hits) == 5
    rows = [str(path) for path in sorted(pictures.rglob("*.png"))]
    first = [cell.strip('"') for cell in hits[1].split(",")]
    assert first[:2] == ["1", str(rows.index(str(query)))]
    assert float(first[2]) == pytest.approx(1, abs=1e-5)
    mmssl.search(index, str(query), top=4, output=tmp_path / "hits.parquet")
    assert pq.read_table(tmp_path / "hits.parquet").column("row").to_pylist() == [int(line.split(",")[1]) for line in hits[1:]]


def test_other_columns_of_the_index_stand_beside_the_hits(index: Path) -> None:
    table = pq.read_table(index)
    table = table.append_column("kind", pa.array([f"k{row}" for row in table.column("row").to_pylist()]))
    pq.write_table(table, index)
    hits = mmssl.search(index, 2, top=3).table()
    assert hits.column("kind").to_pylist() == [f"k{row}" for row in hits.column("row").to_pylist()]
    assert "embedding" not in hits.column_names


def test_the_page_shows_query_and_hits_and_loads_nothing(index: Path, pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "hits.html"
    query = shutil.copy(pictures / "dark" / "00.png", tmp_path / "<b>query.png")
    hits = mmssl.search(index, query, top=5, output=page)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 6
    assert "<b>query" not in html
    assert all(f"row {row}<" in html for row in hits.rows)
    assert "<script" not in html
    assert "http" not in html


def test_a_page_without_its_data_says_so(index: Path, pictures: Path, tmp_path: Path) -> None:
    page, moved = tmp_path / "hits.html", tmp_path / "moved"
    pictures.rename(moved)
    mmssl.search(index, 0, output=page)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png") == 0
    assert "There are no pictures of the hits: no file or folder" in html
    mmssl.search(index, 0, top=3, output=page, data=moved)
    assert page.read_text(encoding="utf-8").count("data:image/png") == 4
    Image.new("RGB", (32, 32)).save(moved / "dark" / "00.png")
    with pytest.raises(ValueError, match="is not what was embedded: it holds other rows"):
        mmssl.search(index, 0, output=page, data=moved)


@pytest.fixture
def pairs(tmp_path: Path, pictures: Path) -> Path:
    """An index of projected pictures, of a model that maps texts into the same space."""
    mmssl.embed(saved(tmp_path / "both", "image", "text"), str(pictures), tmp_path / "p.parquet", modality="image", project=True)
    return tmp_path / "p.parquet"


def test_a_text_finds_pictures_in_the_space_that_both_share(pairs: Path, pictures: Path, tmp_path: Path) -> None:
    model, processor = MMSSLModel.from_pretrained(tmp_path / "both").eval(), MMSSLProcessor.from_pretrained(tmp_path / "both")
    files = [Image.open(path) for path in sorted(pictures.rglob("*.png"))]
    with torch.no_grad():
        texts = model.get_text_features(**processor(text=["a dark one"])).double()
        images = model.get_image_features(**processor(images=files)).double()
    expected = torch.nn.functional.cosine_similarity(texts, images)
    for query, modality in (("a dark one", None), ("a dark one", "text")):
        hits = mmssl.search(pairs, query, modality=modality, top=12)
        assert hits.modality == "text"
        assert hits.rows == expected.argsort(descending=True).tolist()
        assert hits.cosines == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-5)
    assert mmssl.search(pairs, files[4], modality="image", top=1).rows == [4]
    assert mmssl.search(pairs, "7", modality="text").query == "7", "a text of digits, where the modality is named"


def test_pooled_outputs_of_one_modality_are_not_searched_by_another(pairs: Path, pictures: Path, tmp_path: Path) -> None:
    mmssl.embed(tmp_path / "both", str(pictures), tmp_path / "pooled.parquet", modality="image")
    assert mmssl.search(tmp_path / "pooled.parquet", str(pictures / "dark" / "00.png"), top=1).rows == [0]
    with pytest.raises(ValueError, match=r"holds pooled outputs of image.*--modality image --project"):
        mmssl.search(tmp_path / "pooled.parquet", "a text")


def test_a_model_without_a_shared_space_projects_nothing(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(LookupError, match="no projection of 'image' into a space that modalities share"):
        mmssl.embed(saved(tmp_path / "model", "image"), str(pictures), tmp_path / "x.parquet", project=True)
    assert not (tmp_path / "x.parquet").exists()


def test_a_row_of_a_table_is_searched_for(tmp_path: Path) -> None:
    folder, rows = saved(tmp_path / "model", "tabular"), find("tabular").example(ROWS, 0)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mmssl.embed(folder, str(data), tmp_path / "index.parquet")
    for query, row in ((str(data), 3), (json.dumps(rows[3]), None), (rows[3], None)):
        assert mmssl.search(tmp_path / "index.parquet", query, row=row, top=1).rows == [3]
    for row, message in ((None, "has 7 rows, and a query is one of them: say which with --query-row"), (7, "has no row 7")):
        with pytest.raises((ValueError, LookupError), match=message):
            mmssl.search(tmp_path / "index.parquet", str(data), row=row)
    with pytest.raises(ValueError, match="begins as a row in JSON, but is none"):
        mmssl.search(tmp_path / "index.parquet", "{age: 3}")


def test_another_model_is_refused(index: Path, tmp_path: Path, pictures: Path) -> None:
    other, query = saved(tmp_path / "other", "image", seed=1), str(pictures / "dark" / "00.png")
    for asked in (query, 0):
        with pytest.raises(ValueError, match=r"was embedded by another model than .*other: the vectors of two models say nothing"):
            mmssl.search(index, asked, model=other)
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="model, which is no longer there: name it with --model"):
        mmssl.search(index, query)
    assert mmssl.search(index, query, model=moved, top=1).rows == [0]
    assert mmssl.search(index, 0, top=1).rows != [0], "rows of the index need no model"
    other.rename(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the model .*model is not what it was when .* was embedded with it"):
        mmssl.search(index, query)


def test_a_fingerprint_is_of_weights_configuration_and_processor(tmp_path: Path) -> None:
    def digits(**settings: Any) -> str:
        folder = saved(tmp_path / str(len(list(tmp_path.iterdir()))), "image", **settings)
        return fingerprint(MMSSLModel.from_pretrained(folder), MMSSLProcessor.from_pretrained(folder))

    first = digits()
    assert digits() == first
    assert len({first, digits(seed=1), digits(pooling="mean_max"), digits(norm_eps=1e-3)}) == 4
    model, processor = MMSSLModel.from_pretrained(tmp_path / "0"), MMSSLProcessor.from_pretrained(tmp_path / "0")
    settings = processor.settings()["image"] | {"size": 16}
    other = MMSSLProcessor({"image": find("image").processor(**settings)})
    assert fingerprint(model, other) != fingerprint(model, processor)


Broken = Callable[[Path, Path], object]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda index, folder: index.unlink(), "no index .*: give the file or folder that `mmssl embed` wrote"),
        (lambda index, folder: index.write_bytes(b"PAR1 and so on"), "cannot be read as a parquet file"),
        (lambda index, folder: pq.write_table(pa.table({"x": [1]}), index), "does not say which model its vectors are of"),
        (lambda index, folder: stamped(index, '{"model": "x"}'), "written by another version of mmssl"),
        (lambda index, folder: stamped(index, None, column="other"), "no embeddings in a column 'embedding'; it has other"),
        (lambda index, folder: stamped(index, None, value=np.nan), "the embedding of row 0 is NaN or infinite"),
        (lambda index, folder: stamped(index, None, count=0), "holds no embedding"),
    ],
)
def test_what_is_no_index_is_refused(broken: Broken, message: str, index: Path, tmp_path: Path) -> None:
    broken(index, tmp_path)
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=message):
        mmssl.search(index, 0)


def stamped(index: Path, stamp: str | None, *, column: str = "embedding", value: float | None = None, count: int = 3) -> None:
    """Write the index anew with something wrong."""
    table = pq.read_table(index)
    metadata = table.schema.metadata if stamp is None else {"mmssl": stamp}
    vectors = np.ones((count, 4), np.float32) if value is None else np.full((count, 4), value, np.float32)
    cells = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    pq.write_table(pa.table({"row": pa.array(range(count), pa.int64()), column: cells}).replace_schema_metadata(metadata), index)


def test_queries_that_are_nothing_are_refused(index: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for where, query, options, message in (
        (index, "99", {}, "has no embedding of row 99; it has 12 of rows 0 to 11"),
        (index, "a text", {}, "is no file, and the model, of image, reads no text"),
        (index, str(tmp_path / "sound.wav"), {}, r"the model reads no \.wav files"),
        (index, str(tmp_path / "broken.png"), {}, "broken.png"),
        (index, tmp_path / "missing.png", {}, "no file .*missing.png"),
        (pairs, "missing.png", {}, "no file missing.png; if it is a text to search for, name its modality"),
        (pairs, "a text", {"modality": "audio"}, "no modality 'audio'; it has image, text"),
        (pairs, "a text", {"modality": "image"}, "is no file, and image reads no text"),
        (pairs, 3.5, {}, r"several modalities may be meant \(image, text\): choose one with --modality image"),
        (index, 0, {"top": 0}, "--top must be at least 1"),
        (index, 0, {"output": "hits.txt"}, r"--output must be a file that ends in \.parquet, \.csv or \.html; got hits.txt"),
    ):
        with pytest.raises((ValueError, LookupError, FileNotFoundError), match=message):
            mmssl.search(where, query, **options)


def test_the_stamp_says_what_was_embedded(index: Path, pictures: Path, tmp_path: Path) -> None:
    found = Embedded.read(index)
    stamp = found.stamp
    assert stamp == Stamp.from_json(stamp.to_json(), index)
    assert (stamp.model, stamp.data, stamp.modality) == (str(tmp_path / "model"), str(pictures), "image")
    assert not stamp.projected
    assert len(stamp.source()) == len(found.vectors) == 12

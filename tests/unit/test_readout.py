"""`embed` of several layers and of tokens, and going on where it was stopped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_from_disk
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import mmssl
from mmssl.data import Source
from mmssl.evaluation import embedding, parts
from mmssl.evaluation.readout import Readout, Vectors, read
from mmssl.modality import find
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import small_model, small_processor

SETTINGS = {"num_register_tokens": 2, "num_hidden_layers": 3}


def saved(folder: Path, name: str, **settings: Any) -> Path:
    small_model(name, **SETTINGS | settings).save_pretrained(folder)
    MMSSLProcessor({name: small_processor(name)}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(find("image").example(11, 0)):
        image.save(tmp_path / "pictures" / f"{number:02}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("name", installed())
def test_layers_and_tokens_of_every_modality(name: str) -> None:
    """Against what each layer gives to a hook, sample by sample, so that nothing is padded."""
    model, processor = small_model(name, **SETTINGS), MMSSLProcessor({name: small_processor(name)})
    modality = find(name)
    raws = modality.example(5, 0)
    source = Source.from_rows([{modality.columns[0]: raw} for raw in raws] if modality.columns else raws)
    found = list(read(model, processor, source, name, Readout((1, 3, "last"), tokens=True), batch_size=3))
    ids = torch.cat([each.ids for each in found])
    assert ids.tolist() == list(range(5))
    values = {key: torch.cat([each.values[key] for each in found]) for key in found[0].values}
    assert list(values) == ["embedding_1", "embedding_3", "embedding", "tokens", "coordinates"]
    counts = torch.cat([each.counts for each in found if each.counts is not None])
    tokens, coordinates = (values[key].split(counts.tolist()) for key in ("tokens", "coordinates"))
    for row, raw in enumerate(raws):
        inputs = small_processor(name).collate([small_processor(name)(raw)])
        with torch.no_grad():
            given = list[torch.Tensor]()
            hooks = [
                layer.register_forward_hook(lambda *call, given=given: given.append(call[2])) for layer in model.encoder.layers
            ]
            states, placed = model(**inputs), model.embed(name, inputs)
            for hook in hooks:
                hook.remove()
        assert_allclose(values["embedding"][row], states.pooler_output[0], atol=1e-5)
        for layer in (1, 3):
            body = placed.with_values(given[layer - 1][:, 3:])
            assert_allclose(values[f"embedding_{layer}"][row], body.mean()[0], atol=1e-5)
        valid = placed.valid_or_ones()[0]
        assert_allclose(tokens[row], states.last_hidden_state[0, 3:][valid], atol=1e-5)
        assert_allclose(coordinates[row], placed.coords[0][valid], atol=1e-5)


def test_tokens_of_a_long_sample_are_those_of_all_its_pieces(tmp_path: Path) -> None:
    processor = find("text").processor(tokenizer="bytes", max_tokens=16)
    processor.fit(iter(["a b"]))
    model = small_model("text")
    texts = ["word " * 20, "short", "many words " * 9]
    source = Source.from_rows([{"text": text} for text in texts])
    (found,) = read(model, MMSSLProcessor({"text": processor}), source, "text", Readout(tokens=True))
    assert found.counts is not None
    for text, tokens, vector in zip(
        texts, found.values["tokens"].split(found.counts.tolist()), found.values["embedding"], strict=True
    ):
        pieces = [processor.collate([processor(piece)]) for piece in processor.pieces(text)]
        with torch.no_grad():
            outputs = [model(**piece) for piece in pieces]
        assert_allclose(vector, torch.cat([each.pooler_output for each in outputs]).mean(0), atol=1e-5)
        assert_allclose(tokens, torch.cat([each.last_hidden_state[0, 1:] for each in outputs]), atol=1e-5)


def test_every_kind_of_file_holds_layers_and_tokens(pictures: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "image")
    for output in ("e.parquet", "e"):
        mmssl.embed(model, str(pictures), tmp_path / output, layers=(2, "last"), tokens=True, batch_size=4)
    table, dataset = pq.read_table(tmp_path / "e.parquet"), load_from_disk(tmp_path / "e")
    assert table.column_names == dataset.column_names == ["row", "image", "embedding_2", "embedding", "tokens", "coordinates"]
    processor, network = small_processor("image"), small_model("image", **SETTINGS)
    for row, path in enumerate(sorted(pictures.iterdir())):
        with torch.no_grad():
            expected = network(**processor.collate([processor(Image.open(path))])).last_hidden_state[0, 3:].numpy()
        for found in (table.slice(row, 1).to_pylist()[0], dataset[row]):
            assert found["row"] == row
            assert_allclose(np.array(found["tokens"]), expected, atol=1e-5)
            assert_allclose(np.array(found["embedding"]), expected.mean(0), atol=1e-5)
            assert np.array(found["coordinates"]).shape == (len(expected), 4)
    mmssl.embed(model, str(pictures), tmp_path / "two.npy", layers=(2,))
    assert_allclose(np.load(tmp_path / "two.npy"), np.array(table.column("embedding_2").to_pylist()), atol=1e-5)
    for index in ("e.parquet", "e", "two.npy"):
        hits = mmssl.search(tmp_path / index, str(pictures / "03.png"), layer=2, top=11)
        assert hits.rows == mmssl.search(tmp_path / "e.parquet", str(pictures / "03.png"), layer="2", top=11).rows
        assert hits.rows[0] == 3
    with pytest.raises(LookupError, match="no embeddings of layer last; it holds those of 2"):
        mmssl.search(tmp_path / "two.npy", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (0,)}, r"--layers 0: the model has the layers 1 to 3; last is the model's own output"),
        ({"layers": (4,)}, r"--layers 4: the model has the layers 1 to 3"),
        ({"layers": ("first",)}, "takes numbers from 1 on, and last; got 'first'"),
        ({"layers": ()}, "must name at least one layer"),
        ({"layers": (1, 1)}, "each once; got 1, 1"),
        ({"layers": (1,), "project": True}, "add last to --layers"),
        ({"layers": (1, 2), "output": "e.npy"}, "holds one vector of each row, and several layers or tokens are asked for"),
        ({"tokens": True, "output": "e.npy"}, "holds one vector of each row"),
    ],
)
def test_what_the_model_does_not_have_is_refused(options: dict[str, Any], message: str, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / options.pop("output", "e.parquet")
    with pytest.raises(ValueError, match=message):
        mmssl.embed(saved(tmp_path / "m", "image"), str(pictures), output, **options)
    assert not output.exists()


def test_learned_pooling_reads_the_last_layer_only(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pools by attention that it learned for its last layer"):
        mmssl.embed(saved(tmp_path / "m", "image", pooling="attention"), str(pictures), tmp_path / "e.parquet", layers=(1,))


# Going on


def stopping(count: int) -> Any:
    """`read`, which Ctrl-C stops after some batches."""

    def stopped(*given: Any, **options: Any) -> Iterator[Vectors]:
        for number, vectors in enumerate(read(*given, **options)):
            if number == count:
                raise KeyboardInterrupt
            yield vectors

    return stopped


@pytest.mark.parametrize("output", ["e.parquet", "e.npy", "e"])
def test_a_call_that_was_stopped_goes_on(
    output: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, whole = saved(tmp_path / "m", "image"), tmp_path / "whole" / output
    several = {"tokens": True, "layers": (1, "last")} if output != "e.npy" else {}
    options: dict[str, Any] = {"batch_size": 2, **several}
    mmssl.embed(model, str(pictures), whole, **options)
    seen = list[int]()
    for seconds, batches, done in ((1000.0, 2, 4), (0.0, 1, 6)):
        monkeypatch.setattr(parts, "SECONDS", seconds)
        monkeypatch.setattr(embedding, "read", stopping(batches))
        with pytest.raises(KeyboardInterrupt) as stop:
            mmssl.embed(model, str(pictures), tmp_path / output, **options)
        assert stop.value.__notes__ == [f"stopped after {done} of 11 rows; the same command goes on from there"]
        assert not (tmp_path / output).exists()

    def counting(*given: Any, **given_options: Any) -> Iterator[Vectors]:
        for vectors in read(*given, **given_options):
            seen.append(len(vectors))
            yield vectors

    monkeypatch.setattr(embedding, "read", counting)
    assert mmssl.embed(model, str(pictures), tmp_path / output, **options) == 11
    assert seen == [2, 2, 1], "six rows were there"
    assert "going on after 6 of 11 rows" in caplog.text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing hidden is left"
    if output == "e":
        assert load_from_disk(tmp_path / output).to_list() == load_from_disk(whole).to_list()
        return
    if output == "e.npy":
        assert_array_equal(np.load(tmp_path / output), np.load(whole))
    file = "e.rows.parquet" if output == "e.npy" else output
    assert pq.read_table(tmp_path / file).equals(pq.read_table(whole.parent / file), check_metadata=True)


@pytest.mark.parametrize("change", ["batch", "model", "data"])
def test_parts_of_other_work_are_not_gone_on_from(
    change: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, size = saved(tmp_path / "m", "image"), 2
    monkeypatch.setattr(embedding, "read", stopping(2))
    with pytest.raises(KeyboardInterrupt):
        mmssl.embed(model, str(pictures), tmp_path / "e.parquet", batch_size=size)
    monkeypatch.setattr(embedding, "read", read)
    if change == "batch":
        size = 3
    elif change == "model":
        saved(model, "image", norm_eps=1e-3)
    else:
        Image.new("RGB", (32, 32), "red").save(pictures / "00.png")
    mmssl.embed(model, str(pictures), tmp_path / "e.parquet", batch_size=size)
    mmssl.embed(model, str(pictures), tmp_path / "whole.parquet", batch_size=size)
    assert pq.read_table(tmp_path / "e.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / ".e.parquet.parts").exists()


def test_rows_that_are_passed_over_stay_so(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (3, 4):
        (pictures / f"{number:02}.png").write_bytes(b"no picture")
    model = saved(tmp_path / "m", "image")
    monkeypatch.setattr(embedding, "read", stopping(2))
    with pytest.raises(KeyboardInterrupt):
        mmssl.embed(model, str(pictures), tmp_path / "e.parquet", batch_size=2, on_error="skip")
    monkeypatch.setattr(embedding, "read", read)
    assert mmssl.embed(model, str(pictures), tmp_path / "e.parquet", batch_size=2, on_error="skip") == 9
    assert pq.read_table(tmp_path / "e.parquet").column("row").to_pylist() == [0, 1, 2, 5, 6, 7, 8, 9, 10]


def test_two_calls_do_not_write_one_file(pictures: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "image")
    with (
        parts.Parts.beside(tmp_path / "e.parquet", {}).open(),
        pytest.raises(RuntimeError, match=r"folder of unfinished embeddings .* is in use by process"),
    ):
        mmssl.embed(model, str(pictures), tmp_path / "e.parquet")

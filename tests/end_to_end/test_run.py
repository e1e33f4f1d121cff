"""A run from the command to what it leaves: the folder, the model, the scores, and the commands that take them up."""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

import mmssl
import mmssl_cli as cli
from mmssl import api
from mmssl.data import Source
from mmssl.evaluation import Table
from mmssl.recipe import load
from mmssl.training import checkpoint
from mmssl.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

Train = Callable[..., Run]

COMMAND = ["train", "tiny.yaml", "run.name=first", "evaluate={every: 6, train_limit: 96, test_limit: 48}", "train.keep_last=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Iterator[Run]:
    """A run that the command has made, in the folder `runs` of the working directory."""
    here, folder, threads = Path.cwd(), tmp_path_factory.mktemp("finished"), torch.get_num_threads()
    (folder / "tiny.yaml").write_text(tiny_text, encoding="utf-8")
    os.chdir(folder)
    torch.set_num_threads(1)  # as in the tests: sums in another order would be other weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/somewhere/bin/mmssl", *COMMAND])
        cli.main(COMMAND)
    torch.set_num_threads(threads)
    yield Run(Path("runs/first"))
    os.chdir(here)


# The folder


def test_the_folder_holds_what_a_run_is_known_by(finished: Run) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == [
        "checkpoints", "lock", "metrics.jsonl", "model", "processor", "recipe.yaml", "report.html", "run.json", "table.json",
        "training.json",
    ]  # fmt: skip
    assert sorted(path.name for path in finished.model_folder.iterdir()) == [
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "mmssl_needed.py",
        "model.safetensors",
        "modules.json",
        "preprocessor_config.json",
        "processor_config.json",
        "sentence_bert_config.json",
        "training.json",
    ]
    assert sorted(path.name for path in finished.checkpoints.iterdir()) == ["step-000000008", "step-000000012"]
    for path in finished.checkpoints.iterdir():
        checkpoint.verify(path)


def test_the_model_and_its_card_say_whose_weights_they_are(finished: Run) -> None:
    kind = finished.read_record()["published"]
    assert AutoModel.from_pretrained(finished.model_folder).config.published == kind
    assert f"These weights are the {kind}" in (finished.model_folder / "README.md").read_text()


def test_the_record_says_how_the_run_was_made(finished: Run) -> None:
    record = finished.read_record()
    assert record["command"].startswith("mmssl train tiny.yaml run.name=first 'evaluate={every: 6, ")
    assert record["commit"] is None, "the working directory is no repository"
    assert record["versions"]["torch"] == version("torch")
    assert {"python", "mmssl", "transformers", "accelerate", "datasets", "numpy"} <= record["versions"].keys()
    assert record["hardware"]["cores"] == os.cpu_count()
    assert record["started"] <= record["finished"]
    assert {key: record[key] for key in ("steps", "samples", "skipped")} == {"steps": 12, "samples": 192, "skipped": 0}
    assert record["parameters"] == sum(p.numel() for p in AutoModel.from_pretrained(finished.model_folder).parameters())


def test_the_commit_is_that_of_the_working_directory(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.training.run.git_commit", lambda: "0123abc-dirty")
    assert train("train.max_steps=1").read_record()["commit"] == "0123abc-dirty"


def test_the_recipe_is_resolved_and_runs_again(finished: Run) -> None:
    recipe = load(finished.recipe_file)
    assert recipe.resolved() == load("tiny.yaml", COMMAND[2:]).resolved()
    assert recipe.resolved()["train"]["betas"] == [0.9, 0.95], "defaults are written out"
    again = api.train(finished.recipe_file, ["run.name=again"])
    assert (again.model_folder / "model.safetensors").read_bytes() == (finished.model_folder / "model.safetensors").read_bytes()


def test_metrics_have_a_row_per_interval(finished: Run) -> None:
    rows = finished.rows()
    assert [row["step"] for row in rows] == [5, 6, 10, 12], "every 5 steps, at each score, and at the end"
    assert [row["epoch"] for row in rows] == [1.25, 1.5, 2.5, 3.0]
    assert [row["samples"] for row in rows] == [80, 96, 160, 192]
    for row in rows:
        assert {"seconds", "loss", "lr", "grad_norm", "samples_per_second", "skipped"} <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
    assert [set(row) & {"knn", "probe"} for row in rows] == [set(), {"knn", "probe"}, set(), {"knn", "probe"}]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_report_is_one_file(finished: Run) -> None:
    page = finished.report_file.read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", page) == []
    assert re.findall(r"""url\(\s*["']?(?!data:|#)|@import|<link|<script[^>]*src""", page) == []
    assert "<svg" in page, "curves"
    assert "data:image/png;base64," in page, "pictures"
    for text in ("random init", "raw features", "hidden_size: 16", "mmssl train tiny.yaml", version("torch")):
        assert text in page, text


def test_the_card_tells_what_the_model_is(finished: Run) -> None:
    card = (finished.model_folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    for text in ("AutoModel.from_pretrained", "pipeline_tag: feature-extraction", "random init", "hidden_size: 16"):
        assert text in card, text


# The model


def digits(split: str, limit: int | None = None) -> list[Any]:
    source = Source(path="bundled:digits", split=split, limit=limit)
    return [row["image"] for row in source.rows(range(len(source)))]


def outputs(run: Run, images: list[Any]) -> torch.Tensor:
    model, processor = AutoModel.from_pretrained(run.model_folder), AutoProcessor.from_pretrained(run.model_folder)
    with torch.no_grad():
        return model(**processor(images=images, return_tensors="pt")).pooler_output


def test_transformers_loads_the_model(finished: Run) -> None:
    assert isinstance(AutoConfig.from_pretrained(finished.model_folder), mmssl.MMSSLConfig)
    assert isinstance(AutoModel.from_pretrained(finished.model_folder), mmssl.MMSSLModel)
    assert isinstance(AutoProcessor.from_pretrained(finished.model_folder), mmssl.MMSSLProcessor)
    assert outputs(finished, digits("test", 3)).shape == (3, 16)


@pytest.mark.parametrize("batch_size", [7, 256])
def test_embeddings_are_the_outputs_of_the_model(finished: Run, batch_size: int) -> None:
    options = ["--split", "test", "--batch-size", str(batch_size), "--output", "out/vectors.parquet"]
    cli.main(["embed", str(finished.model_folder), "--data", "bundled:digits", *options])
    found = pq.read_table("out/vectors.parquet")
    images = digits("test")
    assert found["row"].to_pylist() == list(range(len(images)))
    vectors = torch.from_numpy(np.stack(found["embedding"].to_numpy()))
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, outputs(finished, images), rtol=1e-5, atol=1e-5)
    assert [path.name for path in Path("out").iterdir()] == ["vectors.parquet"]


# The scores


def test_evaluating_the_model_gives_the_table_of_the_run(finished: Run) -> None:
    limits = ["--train-limit", "96", "--test-limit", "48"]
    cli.main(["evaluate", str(finished.model_folder), "--data", "bundled:digits", *limits, "--output", "again.json"])
    kept, again = (Table.from_dict(json.loads(Path(file).read_text())) for file in (finished.table_file, "again.json"))
    assert [row.name for row in kept.rows] == ["pretrained", "random init", "raw features", "most frequent class"]
    for row, other in zip(kept.rows, again.rows, strict=True):
        assert (row.name, row.knn, row.probe) == (other.name, other.knn, other.probe)
    assert kept.protocol == again.protocol
    assert (kept.num_train, kept.num_test) == (96, 48)
    last = finished.rows()[-1]
    assert (last["knn"], last["probe"]) == (kept.rows[0].knn, kept.rows[0].probe)


def test_values_are_scored_by_r2(train: Train, table: Path) -> None:
    run = train("data.path=bundled:diabetes", "evaluate={}", recipe=table)
    scores = Table.from_dict(json.loads(run.table_file.read_text()))
    assert scores.metric == "R2"
    assert [row.name for row in scores.rows] == ["pretrained", "random init", "raw features", "boosted trees", "mean label"]
    assert scores.row("raw features").probe > 0.3
    assert "R2" in run.report_file.read_text(encoding="utf-8")
    assert "r2" in (run.model_folder / "README.md").read_text(encoding="utf-8").lower()


# Other runs


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("data", "metric"), [("wine", "accuracy"), ("diabetes", "loss")])
def test_training_with_labels(train: Train, table: Path, data: str, metric: str) -> None:
    labelled = ("objective={name: supervised}", f"data.path=bundled:{data}", "train.log_every=1")
    run = train(*labelled, "train.max_steps=25", "train.lr=3e-3", "evaluate={}", recipe=table)
    rows = run.rows()
    assert metric in rows[0]
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.9 * np.mean([row["loss"] for row in rows[:5]])
    assert run.table_file.exists()


@pytest.mark.usefixtures("no_pictures")
def test_budget_in_epochs(train: Train) -> None:
    run = train("train.max_steps=null", "train.max_epochs=1.5", "train.log_every=1")
    assert [row["step"] for row in run.rows()] == list(range(1, 7)), "64 rows in batches of 16"
    assert run.rows()[-1]["epoch"] == 1.5
    rates = [row["lr"] for row in run.rows()]
    assert rates[0] == 0
    assert rates[-1] == min(rates[1:])


@pytest.mark.usefixtures("no_pictures")
def test_budget_in_minutes(train: Train) -> None:
    run = train("train.max_steps=null", "train.max_minutes=0.01", "train.log_every=1")
    rows = run.rows()
    assert rows[-2]["seconds"] < 0.6 <= rows[-1]["seconds"] + 0.001
    assert run.read_record()["steps"] == rows[-1]["step"]
    assert rows[-1]["lr"] < max(row["lr"] for row in rows), "the schedule follows the time"


@pytest.mark.usefixtures("no_pictures")
def test_the_budget_that_is_used_up_first_ends_the_run(train: Train) -> None:
    assert train("train.max_steps=3", "train.max_epochs=50", "train.max_minutes=60").read_record()["steps"] == 3
    assert train("train.max_steps=300", "train.max_epochs=0.5", "train.max_minutes=60").read_record()["steps"] == 2


@pytest.mark.usefixtures("no_pictures")
def test_rows_in_memory(train: Train, table: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"height": float(x), "kind": "ab"[i % 2], "tall": bool(x > 0)} for i, x in enumerate(rng.normal(size=40))]
    run = train("data.columns={label: tall}", "evaluate={}", recipe=table, rows=rows)
    assert Table.from_dict(json.loads(run.table_file.read_text())).num_train == 32
    processor = AutoProcessor.from_pretrained(run.model_folder)
    assert AutoModel.from_pretrained(run.model_folder)(**processor(table=rows[:2])).pooler_output.shape == (2, 16)


@pytest.mark.usefixtures("no_pictures")
def test_a_recipe_from_python_with_sections(tiny: Path) -> None:
    run = mmssl.train(str(tiny), train={"max_steps": 2}, run={"name": "other"})
    assert run.folder == Path("runs/other")
    assert run.rows()[-1]["step"] == 2


@pytest.mark.usefixtures("no_pictures")
def test_check_trains_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["check", str(tiny)])
    said = capsys.readouterr().out
    assert "tiny: valid" in said
    assert "4 per sample" in said
    assert not Path("runs").exists()

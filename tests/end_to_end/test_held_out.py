"""Rows that are held out stay so: through interruptions, other scores, bad samples and long ones."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl import api, cli
from mmssl.evaluation import Table
from mmssl.evaluation.history import FILE, History
from mmssl.model import load_model
from mmssl.training.run import Interrupted, Run
from mmssl.training.session import Session

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

Train = Callable[..., Run]
SignalAfter = Callable[[int, signal.Signals], None]

LABELLED = (
    *("objective={name: supervised}", "data={path: pictures, on_error: skip}", "evaluate={}", "train.max_steps=6"),
    *("train.checkpoint_every=2", "train.accumulation=1"),
)
COUNT, HELD_OUT = 50, 10


@pytest.fixture
def labelled(train: Train) -> Train:
    """Train with labels on 50 pictures in two folders, of which one cannot be read; the last overrides count."""
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        folder = Path("pictures", "ab"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / f"{number:02}.png")
    Path("pictures/a/04.png").write_bytes(b"no picture")
    return lambda *overrides: train(*LABELLED, *overrides)


def scores_of(run: Run) -> Table:
    return Table.from_dict(json.loads(run.table_file.read_text(encoding="utf-8")))


def interrupted(labelled: Train, signal_after: SignalAfter, *overrides: str) -> None:
    signal_after(3, signal.SIGTERM)
    with pytest.raises(Interrupted):
        labelled(*overrides)


def session_of(run: Run) -> Session:
    """A run that is taken up again."""
    return Session(api.recipes.load(run.recipe_file), run, None)


def test_a_resumed_run_holds_out_the_same_rows(labelled: Train, signal_after: SignalAfter) -> None:
    whole = labelled("run.name=whole")
    interrupted(labelled, signal_after, "run.name=stopped")
    resumed = labelled("run.name=stopped", "resume=auto")
    expected = load_model(whole.model_folder).state_dict()
    for key, value in load_model(resumed.model_folder).state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert History.read(resumed.model_folder) == History.read(whole.model_folder)
    assert scores_of(resumed) == scores_of(whole)
    assert "Samples that could not be read, and are left out: 1." in scores_of(whole).notes
    assert "supervised: the test samples were held out of training, seed 0." in scores_of(whole).notes
    assert whole.read_record()["data"]["data"]["samples"] == COUNT - HELD_OUT


@pytest.mark.parametrize("evaluate", ["evaluate=null", "evaluate={test_limit: 5}"])
def test_other_scores_on_resume_change_nothing_of_the_training(labelled: Train, signal_after: SignalAfter, evaluate: str) -> None:
    whole = labelled("run.name=whole")
    interrupted(labelled, signal_after, "run.name=stopped")
    resumed = labelled("run.name=stopped", "resume=auto", evaluate)
    assert (resumed.model_folder / "model.safetensors").read_bytes() == (whole.model_folder / "model.safetensors").read_bytes()
    assert History.read(resumed.model_folder) == History.read(whole.model_folder)


@pytest.mark.parametrize("recorded", [True, False], ids=["this version", "a version without records"])
def test_a_run_that_held_nothing_out_cannot_be_scored_on_its_rows(
    labelled: Train, signal_after: SignalAfter, recorded: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(labelled, signal_after, "evaluate=null")
    if not recorded:
        Path("runs/tiny", FILE).unlink()
    run = labelled("resume=auto")
    assert "warning: this run, or one that it starts from, trains on rows of pictures (train) with their labels" in (
        capsys.readouterr().out
    )
    assert scores_of(run).rows[0].seen
    assert run.read_record()["data"]["data"]["samples"] == COUNT
    (entry,) = History.read(run.model_folder).trained
    assert (entry.label, entry.held_out) == ("label", None)


def test_other_labels_cannot_be_resumed(labelled: Train, signal_after: SignalAfter) -> None:
    interrupted(labelled, signal_after)
    Path("pictures/a/02.png").rename("pictures/b/02.png")
    with pytest.raises(ValueError, match="is not what it was"):
        labelled("resume=auto")


def test_a_run_that_carries_on_holds_out_the_same_rows(labelled: Train) -> None:
    first = labelled("run.name=first")
    second = labelled("run.name=second", f"init={first.folder}", "train.max_steps=9")
    assert "supervised: the test samples were held out of training, seed 0." in scores_of(second).notes
    assert [entry.held_out for entry in History.read(second.folder).trained] == ["label", "label"]


def test_no_held_out_row_reaches_a_batch(labelled: Train) -> None:
    session = session_of(labelled())
    source, tested = session.streams["data"].source, session.evaluators["data"].sources.test
    batches = iter(session.feed)
    trained = {source.row_number(i) for _ in range(12) for i in next(batches).ids.tolist()}
    assert len(trained) == COUNT - HELD_OUT - 1, "all that can be read, in twelve steps of 16"
    assert not trained & {tested.row_number(i) for i in range(len(tested))}


TEXTS: dict[str, Any] = {
    "modalities": {"text": {"processor": {"tokenizer": "bytes", "max_tokens": 16}}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "data": {"path": "texts.jsonl", "columns": {"label": "kind"}},
    "train": {"batch_size": 16, "max_steps": 2},
    "evaluate": {},
}


@pytest.mark.parametrize("tokens", [None, 300])
def test_the_pieces_of_a_long_text_are_held_out_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    rows = [{"text": "word " * int(draw.integers(1, 12)), "kind": "ab"[number % 2]} for number in range(40)]
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    session = session_of(api.train(TEXTS, {"train.batch_tokens": tokens}))
    source, tested = session.streams["data"].source, session.evaluators["data"].sources.test
    assert source.is_cut
    assert len(source) > source.num_rows == 32
    trained = {source.row_number(i) for i in range(len(source))}
    assert not trained & {tested.row_number(i) for i in range(len(tested))}
    assert len(trained) + len(tested) == 40
    assert sum(session.labels.values.tolist()) == 16 if session.labels else False


def test_the_command_scores_a_copied_model_on_copied_data(labelled: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = labelled()
    Path("elsewhere").mkdir()
    run.model_folder.rename("elsewhere/model")
    Path("pictures").rename("elsewhere/pictures")
    capsys.readouterr()
    cli.main(["evaluate", "elsewhere/model", "--data", "elsewhere/pictures", "--on-error", "skip"])
    assert "supervised: the test samples were held out of training, seed 0." in capsys.readouterr().out.splitlines()
    Path("elsewhere/model", FILE).unlink()
    cli.main(["evaluate", "elsewhere/model", "--data", "elsewhere/pictures", "--on-error", "skip"])
    assert "supervised: what it was trained on is not recorded, or not from the beginning; " in capsys.readouterr().out

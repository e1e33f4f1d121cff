"""Labels that changed between stop and resume are noticed, and so is a tracker that is not there."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmssl
from mmssl.training.run import Interrupted
from mmssl_cli import main

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

SignalAfter = Callable[[int, signal.Signals], None]
RECIPE: dict[str, Any] = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "data": {"path": "rows.csv", "columns": {"label": "kind"}},
    "train": {"batch_size": 8, "max_steps": 6},
}


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_after: SignalAfter) -> Path:
    """The data of a run that was stopped after three steps; nothing was held out of it."""
    monkeypatch.chdir(tmp_path)
    file = Path("rows.csv")
    file.write_text("x,kind\n" + "".join(f"{number},{'cat' if number % 3 else 'dog'}\n" for number in range(40)))
    signal_after(3, signal.SIGTERM)
    with pytest.raises(Interrupted):
        mmssl.train(RECIPE, run={"name": "a"})
    return file


def test_renamed_classes_cannot_be_resumed(stopped: Path) -> None:
    assert json.loads(Path("runs/a/run.json").read_text())["label_names"] == ["cat", "dog"]
    stopped.write_text(stopped.read_text().replace("cat", "emu"))
    with pytest.raises(ValueError, match=r"cannot resume runs/a: the labels of rows.csv are not what they were"):
        mmssl.train(RECIPE, run={"name": "a"}, resume="auto")


def test_names_in_another_order_cannot_be_resumed(stopped: Path) -> None:
    """As where a dataset names its classes anew, under the same numbers."""
    record = json.loads(Path("runs/a/run.json").read_text())
    Path("runs/a/run.json").write_text(json.dumps(record | {"label_names": ["dog", "cat"]}))
    with pytest.raises(ValueError, match=r"its labels were called dog, cat, and are now cat, dog: their numbers would mean other"):
        mmssl.train(RECIPE, run={"name": "a"}, resume="auto")


def test_the_same_labels_are_resumed(stopped: Path) -> None:
    assert mmssl.train(RECIPE, run={"name": "a"}, resume="auto").finished


def test_a_tracker_that_is_not_installed_is_told_before_there_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmssl.training.launch.is_wandb_available", lambda: False)
    Path("rows.csv").write_text("x,kind\n1,a\n2,b\n")
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    with pytest.raises(SystemExit, match=r"train.trackers names wandb, which is not installed: pip install wandb, or leave it out"):
        main(["train", "recipe.yaml", "train.trackers=[wandb]"])
    assert not Path("runs").exists()

"""Runs side by side, the word on a run before its numbers, and what a stopped run says to who starts it again."""

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import mmssl
from mmssl.evaluation import Table
from mmssl.report import verdict
from mmssl.training.compare import scores_of
from mmssl.training.measured import Measured
from mmssl.training.run import Run
from mmssl_cli import main

SignalAfter = Callable[[int, signal.Signals], None]
TINY: Mapping[str, Any] = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "masked"},
    "data": {"path": "bundled:wine"},
    "train": {"max_steps": 4, "batch_size": 16},
}


def run_of(folder: Path, name: str, **changes: Any) -> Run:
    return mmssl.train({**TINY, "run": {"dir": str(folder / "runs"), "name": name}}, changes)


def test_runs_are_listed_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    run_of(tmp_path, "first", evaluate={})
    run_of(tmp_path, "second", **{"train.lr": 1e-2})
    capsys.readouterr()
    main(["list", "runs"])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "started", "state", "objective", "data", "score"]
    assert first.split()[0] == "first"
    assert "finished" in first
    assert "masked" in first
    assert "bundled:wine" in first
    assert "linear probe" in first
    assert "linear probe" not in second
    main(["compare", "runs/first", "runs/second"])
    lines = {line[:24].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "0.01" in lines["train.lr"]
    assert "above random init" in lines
    assert "loss" in lines
    assert "train.max_steps" not in lines, "both have the same"
    with pytest.raises(SystemExit, match="is no run"):
        main(["compare", "runs/first", "runs"])
    with pytest.raises(SystemExit, match="no folder elsewhere"):
        main(["list", "runs", "--dir", "elsewhere"])


def test_a_run_that_was_stopped_is_told_of_when_its_command_is_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signal_after: SignalAfter
) -> None:
    signal_after(2, signal.SIGINT)  # once
    with pytest.raises(SystemExit):
        run_of(tmp_path, "one", **{"train.log_every": 1})
    capsys.readouterr()
    assert run_of(tmp_path, "one").folder.name == "one-2"
    assert "one is unfinished, at step 2: resume=auto would continue it; this is a new run" in capsys.readouterr().out
    run_of(tmp_path, "one")
    assert "unfinished" not in capsys.readouterr().out, "the latest of this name is finished"


def test_the_word_on_a_run_goes_by_its_flags_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = run_of(tmp_path, "scored", evaluate={})
    shown = capsys.readouterr().out
    page = scored.report_file.read_text()

    table = Table.from_dict(json.loads(scored.table_file.read_text()))
    found = verdict([table], [])
    assert found.title in page
    assert f"verdict: {found.title}" in shown
    assert (found.level == "bad") == (float(scores_of(scored)["above random init"]) < 0)
    flat = {"name": "flat", "step": 3, "message": "the loss is that of a constant prediction"}
    assert verdict([table], [flat]).level == "bad"
    assert verdict([table], [flat]).text == "the loss is that of a constant prediction."
    assert verdict([], [{**flat, "name": "untaught"}]).level == "watch"
    assert verdict([], []).title == "Not scored"


def test_the_card_tells_of_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = {"name": "flat", "step": 3, "message": "the loss is that of a constant"}
    monkeypatch.setattr(Measured, "flags", lambda self: [flag])
    run = run_of(tmp_path, "flagged", evaluate={})
    card = (run.model_folder / "README.md").read_text()
    assert "## Warnings of its training\n\n- the loss is that of a constant." in card
    assert "light bad" in run.report_file.read_text()

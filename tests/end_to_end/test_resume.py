"""Stopped and continued: the same weights as without the stop, or a message that says why not and what to do."""

import errno
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import mmssl_cli as cli
from mmssl import api
from mmssl.evaluation import Evaluator
from mmssl.recipe import RecipeError
from mmssl.training import checkpoint
from mmssl.training.run import Interrupted, Run

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

STUDENT, AVERAGE = "networks.student.", "networks.copies.average."
Train = Callable[..., Run]
SignalAfter = Callable[[int, signal.Signals], None]

COMMAND = Path(sys.executable).with_name("mmssl")
INFINITE = "train.schedule={name: infinite, warmup: 3, cooldown: 3, level: 0.5}"


def weights(run: Run) -> bytes:
    return (run.model_folder / "model.safetensors").read_bytes()


def metrics(run: Run) -> list[dict[str, Any]]:
    """What was measured, without how fast it went."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "samples_per_second")} for row in run.rows()]


def steps(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def only_run(folder: Path) -> Run:
    (found,) = (folder / "runs").iterdir()
    return Run(found)


def same_as(run: Run, other: Run) -> None:
    assert weights(run) == weights(other)
    assert metrics(run) == metrics(other)
    last = [sorted(one.checkpoints.iterdir())[-1] / checkpoint.TENSORS for one in (run, other)]
    assert last[0].read_bytes() == last[1].read_bytes(), "optimizer, average and random generators too"


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_in_a_checkpoint_and_in_the_command_that_continues(
    tiny: Path, train: Train, signal_after: SignalAfter, number: signal.Signals, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = train("run.name=whole")
    signal_after(7, number)
    arguments = ["train", str(tiny), "run.name=stopped", "train.log_every=5", "resume=never"]
    monkeypatch.setattr(sys, "argv", ["mmssl", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 128 + number
    said = capsys.readouterr().err
    run = Run(Path("runs/stopped"))
    command = f"mmssl train {tiny} run.name=stopped train.log_every=5 resume=runs/stopped"
    assert said == f"stopped after step 7; a checkpoint is written. Continue with:\n  {command}\n"
    assert steps(run) == ["step-000000004", "step-000000007"]
    assert not run.finished
    cli.main(shlex.split(said.splitlines()[-1])[1:])
    assert f"continuing from {run.checkpoints / 'step-000000007'}, step 7" in capsys.readouterr().out
    same_as(run, whole)


def test_ctrl_c_stops_a_process_with_workers(tiny: Path) -> None:
    command = [str(COMMAND), "train", str(tiny), "train.max_steps=100000", "train.log_every=1", "data.workers=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, process_group=0)
    metrics_file = tiny.parent / "runs" / "tiny" / "metrics.jsonl"
    while not (metrics_file.exists() and metrics_file.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, said
    match = re.fullmatch(r"stopped after step (\d+); a checkpoint is written\. Continue with:\n  (.+)\n", said)
    assert match, said
    run = only_run(tiny.parent)
    assert steps(run)[-1] == f"step-{int(match[1]):09d}"
    assert shlex.split(match[2]) == ["mmssl", *command[1:], "resume=runs/tiny"]
    assert len(run.rows()) == int(match[1])


def test_a_signal_while_the_model_is_scored_leaves_the_model(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = Evaluator.table

    def interrupted(self: Evaluator, *arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return scoring(self, *arguments, **options)

    probed = ("evaluate={train_limit: 64, test_limit: 64}", "train.max_steps=3")
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "table", interrupted)
        with pytest.raises(Interrupted, match="stopped after step 3; a checkpoint is written") as caught:
            train(*probed)
    assert caught.value.code == 128 + signal.SIGTERM
    run = Run(Path("runs/tiny"))
    assert run.model_folder.exists()
    assert not run.table_file.exists()
    assert train(*probed, "resume=auto").finished
    assert steps(run) == ["step-000000003"]
    assert [row["step"] for row in run.rows()] == [3], "nothing was trained again"


def test_a_run_from_python_names_a_command_too(
    train: Train, signal_after: SignalAfter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/study.py", "--fast"])
    signal_after(2, signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        train()
    command = str(caught.value).splitlines()[-1].strip()
    assert command == "mmssl train runs/tiny/recipe.yaml resume=runs/tiny"
    cli.main(shlex.split(command)[1:])
    assert "report: runs/tiny/report.html" in capsys.readouterr().out
    run = only_run(Path())
    assert run.finished
    assert run.read_record()["command"] == "study.py --fast"


def test_signals_act_as_usual_after_a_run(train: Train) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train("train.max_steps=1")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# The same run


def test_how_often_a_run_is_watched_does_not_change_it(train: Train) -> None:
    plain = train("run.name=plain")
    watched = train("run.name=watched", "train.log_every=1", "train.checkpoint_every=1", "evaluate={every: 3, train_limit: 64}")
    assert weights(plain) == weights(watched)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_written_anew(
    train: Train, signal_after: SignalAfter, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train("run.name=whole")
    signal_after(9, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train()
    run = Run(Path("runs/tiny"))
    damaged = run.checkpoints / "step-000000008"
    shutil.rmtree(run.checkpoints / "step-000000009")
    content = bytearray((damaged / checkpoint.TENSORS).read_bytes())
    content[-1] ^= 1
    (damaged / checkpoint.TENSORS).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        train("resume=auto")
    assert f"ignoring a damaged checkpoint: {damaged / checkpoint.TENSORS} is damaged" in caplog.text
    checkpoint.verify(damaged)
    same_as(run, whole)


def test_a_full_disk_leaves_the_checkpoint_before(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("run.name=whole")
    saving = checkpoint.save_file

    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        if "step-000000008" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        saving(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        message = r"the disk is full: step-000000008 did not fit into runs/tiny/checkpoints\. It needs 0\.\d MB, .* MB are free\. "
        with pytest.raises(OSError, match=message + r"The last good checkpoint there: step-000000004\. Free some space"):
            train()
    run = Run(Path("runs/tiny"))
    assert steps(run) == ["step-000000004"]
    train("resume=auto")
    same_as(run, whole)


# What cannot be continued


def test_a_changed_recipe_is_refused_key_by_key(train: Train, signal_after: SignalAfter) -> None:
    signal_after(2, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train()
    free = ("train.log_every=1", "train.keep_last=1", "data.workers=0", "data.cache=true", "evaluate={train_limit: 64}")
    with pytest.raises(ValueError, match="cannot resume runs/tiny: the recipe is not the one") as caught:
        train("resume=auto", *free, "train.lr=0.5", "data.limit=32", "run.seed=1", "objective.mask.ratio=0.25")
    assert str(caught.value).splitlines()[1:-1] == [
        "  objective.mask.ratio: 0.5 -> 0.25",
        "  data.limit: 64 -> 32",
        "  train.lr: 0.001 -> 0.5",
        "  run.seed: 0 -> 1",
    ]
    how = "Give the old values, or leave resume out to start a new run; init=runs/tiny carries the weights over"
    assert str(caught.value).endswith(how)
    assert train("resume=auto", *free).finished


def test_a_finished_run_is_left_alone(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("train.max_steps=2")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"}
    capsys.readouterr()
    again = train("train.max_steps=2", "resume=auto")
    assert again.folder == run.folder
    assert capsys.readouterr().out == (
        "runs/tiny is finished; its model is runs/tiny/model. For another run leave resume=auto out.\n"
    )
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"} == before


def test_two_processes_cannot_continue_one_run(train: Train) -> None:
    run = train("train.max_steps=2")
    code = f"""
from pathlib import Path
from mmssl.files import exclusive
with exclusive(Path({str(run.folder)!r})):
    print("locked", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(RuntimeError, match=rf"run folder runs/tiny is in use by process {other.pid} on .*: wait for it or stop it"):
        train("train.max_steps=2", "resume=auto")
    other.communicate("\n")
    train("train.max_steps=2", "resume=auto")


def test_resume_of_no_run(train: Train) -> None:
    with pytest.raises(FileNotFoundError, match=r"resume=elsewhere: no run there \(no recipe\.yaml\); give the folder of a run"):
        train("resume=elsewhere")
    assert train("train.max_steps=1", "resume=auto").folder == Path("runs/tiny"), "auto starts a run where there is none"


def test_a_run_never_overwrites_another(train: Train) -> None:
    first = train("train.max_steps=1")
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    assert [train("train.max_steps=1").folder.name for _ in range(2)] == ["tiny-2", "tiny-3"]
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before
    assert train("train.max_steps=1", "resume=auto").folder.name == "tiny-3", "the latest"
    assert train("train.max_steps=1", "resume=runs/tiny-2").folder.name == "tiny-2"


# Starting from a model, or from a run


def test_a_pretrained_model_is_tuned_with_labels(train: Train) -> None:
    before = train("train.max_steps=3")
    still = ("train.lr=1e-30", "train.weight_decay=0", "train.max_steps=1", "train.ema=null")
    tuned = train(f"init={before.model_folder}", "objective={name: supervised}", "run.name=tuned", *still)
    expected = load_file(before.model_folder / "model.safetensors")
    found = load_file(tuned.model_folder / "model.safetensors")
    assert found.keys() - expected.keys() == {"heads.label.bias", "heads.label.weight"}
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=f"{name} starts as it was saved")
    one, other = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (tuned.model_folder, before.model_folder)
    )
    assert one == other
    assert json.loads((tuned.model_folder / "config.json").read_text())["architectures"] == ["MMSSLForClassification"]


def test_a_model_of_another_architecture_is_refused(train: Train) -> None:
    before = train("train.max_steps=1")
    with pytest.raises(ValueError, match="has another architecture than the recipe") as caught:
        train(f"init={before.model_folder}", "encoder.hidden_size=32", "modalities.image.adapter.patch_size=2")
    assert str(caught.value).splitlines()[1:] == [
        "  encoder.hidden_size: 32 in the recipe, 16 in the model",
        "  modalities.image.adapter.patch_size: 2 in the recipe, 4 in the model",
    ]


def test_a_checkpoint_of_another_architecture_is_refused(train: Train) -> None:
    train("train.max_steps=1")
    with pytest.raises(ValueError, match="the weights belong to another architecture: ") as caught:
        train("init=runs/tiny", "encoder.hidden_size=32", "train.max_steps=2")
    message = str(caught.value)
    assert re.search(r"networks\.\S+ is \[16(, \d+)*\], expected \[32(, \d+)*\]", message), message
    assert re.search(r"; and \d+ more\. Use the recipe that they were trained with$", message), message


def test_a_run_carries_on_from_another_without_warming_up_again(train: Train) -> None:
    whole = train("run.name=whole", INFINITE, "train.log_every=1")
    train("run.name=first", INFINITE, "train.max_steps=8")
    second = train("run.name=second", INFINITE, "init=runs/first", "train.log_every=1")
    assert weights(second) == weights(whole), "weights, average, moments and random generators are taken over"
    assert [row["lr"] for row in second.rows()] == [0.5e-3] * 4
    assert [row["step"] for row in second.rows()] == [9, 10, 11, 12]
    new_data = train("run.name=third", INFINITE, "init=runs/first", "data.split=test", "data.limit=48", "train.log_every=1")
    assert [row["lr"] for row in new_data.rows()] == [0.5e-3] * 4
    state = checkpoint.load(new_data.checkpoints / "step-000000012")
    assert {float(moments["step"]) for moments in state["optimizer"]["state"].values()} == {12.0}
    assert weights(new_data) != weights(second)


def test_a_run_that_carries_on_is_resumed_from_its_own_checkpoint(train: Train, signal_after: SignalAfter) -> None:
    train("run.name=first", INFINITE, "train.max_steps=6")
    whole = train("run.name=whole", INFINITE, "init=runs/first")
    signal_after(9, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train("run.name=second", INFINITE, "init=runs/first")
    same_as(train("run.name=second", INFINITE, "init=runs/first", "resume=auto"), whole)


def test_a_run_that_carries_on_has_options_of_its_own(train: Train) -> None:
    train("train.ema=null", "train.max_steps=2")
    own = ("train.ema=0.25", "train.weight_decay=0.2", "train.betas=[0.8, 0.9]", "train.layer_decay=1.0")
    run = train("init=runs/tiny", "train.max_steps=3", *own)
    state = checkpoint.load(run.checkpoints / "step-000000003")
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.0, 0.2}
    assert {tuple(group["betas"]) for group in state["optimizer"]["param_groups"]} == {(0.8, 0.9)}
    old = checkpoint.load(Path("runs/tiny/checkpoints/step-000000002"))["objective"]
    kept = state["objective"]
    for name in [key.removeprefix(AVERAGE) for key in kept if key.startswith(AVERAGE)]:
        average, now, before = kept[AVERAGE + name], kept[STUDENT + name], old[STUDENT + name]
        torch.testing.assert_close(average, before + (now - before) * 0.75, msg=f"{name}: the average starts at the weights")


def test_optimizer_groups_of_another_kind_are_refused(train: Train) -> None:
    train("train.max_steps=1")
    with pytest.raises(ValueError, match="the optimizer groups the parameters in another way than the checkpoint: groups of "):
        train("init=runs/tiny", "train.max_steps=2", "train.layer_decay=0.5")


def test_a_run_that_has_used_up_the_budget_cannot_carry_on(train: Train) -> None:
    train("train.max_steps=3")
    message = r"init: runs/tiny has made 3 steps, and the budget of this recipe counts them: nothing is left to train\. Raise train"
    with pytest.raises(ValueError, match=message):
        train("init=runs/tiny", "train.max_steps=3")


def test_a_run_without_a_checkpoint_cannot_carry_on(train: Train) -> None:
    run = train("train.max_steps=1")
    shutil.rmtree(run.checkpoints / "step-000000001")
    with pytest.raises(FileNotFoundError, match="init: runs/tiny is a run without a complete checkpoint; give a model folder"):
        train("init=runs/tiny")


def test_a_run_of_another_objective_is_no_run_to_continue(train: Train) -> None:
    train("train.max_steps=1")
    message = r"init: runs/tiny is a run of the objective masked.*; this recipe has contrast\. To start.* give init=runs/tiny/model"
    with pytest.raises(RecipeError, match=message):
        train("init=runs/tiny", "train.max_steps=3", "objective={name: contrast}")


def test_init_from_what_is_no_model(train: Train) -> None:
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no model in empty: it has no processor_config\.json and no config\.json; it"):
        train("init=empty")
    with pytest.raises(
        FileNotFoundError, match=r"no model in runs/nothing/model: there is no such folder\. Train the run nothing first"
    ):
        train("init=runs/nothing/model")


def test_a_published_model_is_the_average(train: Train) -> None:
    run = train("train.max_steps=5")
    kept = checkpoint.load(run.checkpoints / "step-000000005")["objective"]
    model = AutoModel.from_pretrained(run.model_folder)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, kept[AVERAGE + name], rtol=0, atol=0, msg=name)


def test_check_of_a_run_that_starts_from_a_model(train: Train, tiny: Path) -> None:
    run = train("train.max_steps=1")
    assert "tiny: valid" in api.check(tiny, [f"init={run.model_folder}"])

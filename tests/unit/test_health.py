"""Flags: each rule on made-up curves, once each, kept through a checkpoint; and on real runs that fail in a known way."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmssl
from mmssl.objectives.predict.targets import Latent
from mmssl.recipe.options import TrainOptions
from mmssl.testing import objective_of
from mmssl.training.checking import teacher_lines
from mmssl.training.health import PATIENCE, RULES, Flag, Watch
from mmssl.training.loop import TrainingError
from mmssl.training.run import Run
from mmssl.training.vain import budget_in_steps

Row = dict[str, float]


def healthy(step: int) -> Row:
    """The metrics of a run that learns."""
    left = 0.3 + 0.8 * math.exp(-step / 50)
    latent = {"target_std": 0.5, "target_sample_std": 0.2, "target_rank": 15.0, "momentum": 0.996, "teacher_left": 0.98**step}
    agreeing = {"feature_std": 0.9, "feature_rank": 20.0, "prototypes_used": 50.0, "target_entropy": 0.6, "logit_scale": 14.0}
    return {"loss": left, "unexplained": left, "input_std": 0.9, "grad_norm": 1.0, "pairs": 4.0} | latent | agreeing


def flags_of(row: Any, steps: int = 300, watch: Watch | None = None, start: int = 0) -> list[Flag]:
    """What a watch raises over a run of so many steps, with `row(step)` for the metrics."""
    watch = watch or Watch()
    return [flag for step in range(start, steps) for flag in watch.see(step + 1, row(step), (step + 1) / 300)]


def names(flags: list[Flag]) -> list[str]:
    return [flag.name for flag in flags]


def test_a_healthy_run_has_no_flag() -> None:
    assert flags_of(healthy) == []


def test_a_single_odd_batch_is_no_flag() -> None:
    assert (
        flags_of(lambda step: healthy(step) | ({"loss": 1e6, "unexplained": 1e6, "target_std": 0.0} if step % 9 == 0 else {})) == []
    )


CURVES: dict[str, Any] = {
    "diverging": lambda step: healthy(step) | {"loss": 1.0 + step / 20},
    "collapse": lambda step: healthy(step) | {"target_std": 0.5 * math.exp(-step / 20)},
    "no_teacher": lambda step: healthy(step) | {"momentum": 0.0},
    "untaught": lambda step: healthy(step) | {"teacher_left": 0.999**step},
    "flat": lambda step: healthy(step) | {"unexplained": 1.0},
    "alike": lambda step: healthy(step) | {"feature_std": 0.9 * math.exp(-step / 20)},
    "one_prototype": lambda step: healthy(step) | {"prototypes_used": 1.0 + 49 * math.exp(-step / 20)},
    "uniform": lambda step: healthy(step) | {"target_entropy": 1.0},
    "scale_at_its_bound": lambda step: healthy(step) | {"logit_scale": min(100.0, 14.0 + step)},
    "no_pairs": lambda step: healthy(step) | {"pairs": 0.0},
    "constant": lambda step: healthy(step) | {"input_std": 0.0, "unexplained": 1.0, "target_std": 0.0, "loss": 1.0 + step},
}


def test_every_rule_has_its_curve() -> None:
    assert set(CURVES) == set(RULES)


@pytest.mark.parametrize("name", CURVES)
def test_each_failure_is_flagged_once_and_alone(name: str) -> None:
    assert names(flags_of(CURVES[name])) == [name]


@pytest.mark.parametrize("key", ["target_std", "target_sample_std", "target_rank"])
@pytest.mark.parametrize(("share", "flagged"), [(0.1, ["collapse"]), (0.5, [])])
def test_collapse_is_measured_against_the_start(key: str, share: float, flagged: list[str]) -> None:
    def row(step: int) -> Row:
        usual = healthy(step)
        return usual | {key: usual[key] * (1 if step < 30 else share)}

    assert names(flags_of(row)) == flagged


def test_a_flag_says_number_rule_and_change() -> None:
    (flag,) = flags_of(CURVES["flat"])
    assert flag.step == PATIENCE
    assert flag.message == (
        "the loss is 1 times that of a constant prediction, after 100 steps not below 0.98. Change train.lr (too high and too low "
        "both look like this), hide less, or check the targets"
    )


def test_flat_waits_for_a_fifth_of_the_budget() -> None:
    watch = Watch()
    found = [flag for step in range(1, 1001) for flag in watch.see(step, {"loss": 1.0, "unexplained": 1.0}, step / 1000)]
    assert [(flag.name, flag.step) for flag in found] == [("flat", 200)]


def test_an_objective_without_these_metrics_has_no_flags() -> None:
    assert flags_of(lambda step: {"loss": healthy(step)["loss"]}) == []


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("stop", [3, 10, 60, 250])
def test_a_resumed_watch_raises_what_an_uninterrupted_one_does(name: str, stop: int) -> None:
    through, before, after = Watch(), Watch(), Watch()
    expected = flags_of(CURVES[name], watch=through)
    first = flags_of(CURVES[name], stop, before)
    after.restore(json.loads(json.dumps(before.state())))
    assert first + flags_of(CURVES[name], 300, after, stop) == expected
    assert after.flags == expected
    assert after.state() == through.state()


# Real runs

SMALL = {
    "encoder.hidden_size": 32,
    "encoder.num_hidden_layers": 2,
    "train.batch_size": 64,
    "train.log_every": 20,
    "evaluate": None,
}
NARROW = {"name": "transformer", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def jepa(momentum: tuple[float, float] = (0.95, 1.0)) -> dict[str, Any]:
    return {"name": "jepa", "predictor": NARROW, "targets": [{"name": "latent", "momentum": list(momentum)}]}


def train(folder: Path, changes: dict[str, Any], steps: int = 130) -> Run:
    return mmssl.train("quickstart", SMALL | {"run.dir": str(folder), "run.name": "run", "train.max_steps": steps} | changes)


def flagged(folder: Path) -> list[str]:
    """The flags of a run by run.json, which its rows and its report repeat."""
    run = folder / "run"
    flags = json.loads((run / "run.json").read_text())["flags"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [flag["name"] for flag in flags]
    assert rows[-1].get("flags", "") == ", ".join(found)
    page = (run / "report.html").read_text()
    assert ("Warnings" in page) == bool(flags)
    assert all(flag["name"] in page for flag in flags)
    return found


@pytest.mark.parametrize("objective", [None, jepa()], ids=["masked", "jepa"])
def test_a_healthy_run_of_digits_has_no_flags(objective: dict[str, Any] | None, tmp_path: Path) -> None:
    train(tmp_path, {} if objective is None else {"objective": objective, "train.lr": 1e-3})
    assert flagged(tmp_path) == []


def test_a_teacher_that_keeps_its_first_weights_is_flagged(tmp_path: Path) -> None:
    train(tmp_path, {"objective": jepa((0.99, 1.0)), "train.lr": 1e-3})
    assert flagged(tmp_path) == ["untaught"]


@pytest.mark.parametrize("objective", [None, jepa()], ids=["masked", "jepa"])
def test_a_learning_rate_times_100_is_flagged(
    objective: dict[str, Any] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = 3e-3 if objective is None else 1e-3
    changes = {} if objective is None else {"objective": objective}
    try:
        train(tmp_path, changes | {"train.lr": 100 * usual})
    except TrainingError:
        return
    found = flagged(tmp_path)
    assert set(found) & {"diverging", "flat", "collapse"}, found
    assert f"warning: {found[0]} at step" in capsys.readouterr().out


def test_a_momentum_of_0_is_flagged(tmp_path: Path) -> None:
    train(tmp_path, {"objective": jepa((0.0, 0.0)), "train.lr": 1e-3}, steps=30)
    assert flagged(tmp_path) == ["no_teacher"]


@pytest.mark.parametrize("kind", ["masked", "jepa"])
def test_constant_input_is_flagged(kind: str, tmp_path: Path) -> None:
    """Pictures of one grey."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(128):
        Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(images / f"{number}.png")
    changes: dict[str, Any] = {"data.path": str(images)}
    train(tmp_path, changes | ({"objective": jepa()} if kind == "jepa" else {}), steps=30)
    assert flagged(tmp_path) == ["constant"]


def test_flags_survive_resuming(tmp_path: Path) -> None:
    """A run that was cut before its end keeps the flags of its checkpoint, and repeats none."""
    changes = {"objective": jepa((0.0, 0.0)), "train.lr": 1e-3}
    run = train(tmp_path, changes, steps=30)
    record = json.loads(run.record_file.read_text())
    del record["finished"]
    run.record_file.write_text(json.dumps(record | {"flags": []}))
    train(tmp_path, changes | {"resume": "auto"}, steps=30)
    assert flagged(tmp_path) == ["no_teacher"]
    assert json.loads(run.record_file.read_text())["flags"] == record["flags"]


def test_check_says_what_is_left_of_a_teacher() -> None:
    objective, _ = objective_of("jepa", "tabular", targets=[Latent(momentum=(0.999, 1.0))])
    (line, odd) = teacher_lines(objective, budget_in_steps(TrainOptions(max_steps=2880), 100))
    assert line.endswith("23.7% of its initial weights are left after 2,880 steps")
    assert "at most 5% from 5,990 steps on" in odd
    assert teacher_lines(objective, budget_in_steps(TrainOptions(max_epochs=2000.0), 1024))[0].endswith("after 8,000 steps")
    assert len(teacher_lines(objective, budget_in_steps(TrainOptions(max_epochs=2000.0), 1024))) == 1
    assert teacher_lines(objective, budget_in_steps(TrainOptions(max_minutes=1.0), 100)) == [
        "teacher     left of its initial weights: at most 5% from 5,990 steps on"
    ]

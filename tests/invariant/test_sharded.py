"""A sharded run is the run of one process: same weights of student and teacher; one that goes on is the same bit by bit.

Everything goes through the command line, by two processes that `many.py` forks. Cases and tolerances are those of `test_many.py`.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmssl.training import checkpoint

ZERO = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (the extra deepspeed)")
SECONDS = 400.0
"""A limit, for the first processes import what shards."""

Ask = Callable[..., list[str]]


def neighbour(name: str) -> ModuleType:
    """A file beside this one, which is no package."""
    spec = importlib.util.spec_from_file_location(f"sharded_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


many = neighbour("test_many")
CASES = many.CASES | {"pairs": many.Case("pairs/clip_glyphs", (*many.GLYPHS, "data.lacking=null"), many=("train.accumulation=2",))}
OTHERS = ("clusters", "jepa of two modalities", "pairs of which some lack a part", "swapped tokens, batch_tokens")
RUNS = [
    pytest.param("jepa", "fsdp2", id="jepa-fsdp2"),
    pytest.param("jepa", "zero3", id="jepa-zero3", marks=ZERO),
    pytest.param("accumulation 2", "zero2", id="accumulation-zero2", marks=ZERO),
    *(
        pytest.param(case, strategy, id=f"{case}-{strategy}", marks=[pytest.mark.slow, *([ZERO] if strategy[0] == "z" else [])])
        for case in ("masked", "accumulation 2", "teacher, prototypes, hidden tokens", "no teacher, smaller views", "pairs")
        for strategy in ("fsdp2", "zero1", "zero2", "zero3")
        if (case, strategy) != ("accumulation 2", "zero2")
    ),
    *(pytest.param(case, "fsdp2", id=f"{case}-fsdp2", marks=pytest.mark.slow) for case in OTHERS),
]


@pytest.mark.parametrize(("case", "strategy"), RUNS)
def test_a_sharded_run_ends_like_one_process(case: str, strategy: str, ask: Ask, tmp_path: Path) -> None:
    own = CASES[case]
    (tmp_path / "data").mkdir()
    arguments = own.arguments(tmp_path / "data")
    ask(tmp_path / "one", *arguments)
    ask(tmp_path / "many", *arguments, *own.many, "--strategy", strategy, processes=2, seconds=SECONDS)
    assert many.differences(many.result(tmp_path / "many"), many.result(tmp_path / "one")) == []


def state_of(folder: Path, step: int) -> dict[str, Any]:
    """What the one run of a folder wrote down at a step, but how long it took, and the rates that are set anew at each step."""
    (run,) = (folder / "runs").iterdir()
    state = checkpoint.load(run / "checkpoints" / f"step-{step:09}")
    state["counters"].pop("seconds")
    for group in state["optimizer"]["param_groups"]:
        del group["lr"], group["weight_decay"]
    return {name: state[name] for name in ("counters", "objective", "optimizer")}


def unlike(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two trees differ in a bit."""
    if isinstance(a, Mapping):
        lacking = [f"{place}.{key}" for key in a.keys() ^ b.keys()]
        return lacking + [line for key in a.keys() & b.keys() for line in unlike(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list | tuple):
        return [line for number, pair in enumerate(zip(a, b, strict=True)) for line in unlike(*pair, f"{place}.{number}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [place]


@pytest.mark.parametrize("strategy", ["fsdp2", *(pytest.param(f"zero{n}", marks=[ZERO, pytest.mark.slow]) for n in (1, 2, 3))])
def test_a_sharded_run_that_is_stopped_ends_in_the_same_bits(strategy: str, ask: Ask, tmp_path: Path) -> None:
    """With its teacher, moments and counters; its checkpoints are of two files, and a damaged one is passed over."""
    (tmp_path / "data").mkdir()
    arguments = [*CASES["jepa"].arguments(tmp_path / "data"), "train.checkpoint_every=2", "--strategy", strategy]
    two: dict[str, Any] = {"processes": 2, "seconds": SECONDS}
    ask(tmp_path / "through", *arguments, **two)
    ask(tmp_path / "stopped", *arguments, codes=[143, 143], stop_after={"rank": 1, "step": 4}, **two)
    (run,) = (tmp_path / "stopped" / "runs").iterdir()
    last = run / "checkpoints" / "step-000000004"
    names = {f"tensors-0000{rank}-of-00002.safetensors" for rank in range(2)}
    assert {file.name for file in last.iterdir()} == {"manifest.json", "state.json", *names}
    assert json.loads((last / "manifest.json").read_text(encoding="utf-8"))["format"] == checkpoint.SHARDED
    damaged = last / "tensors-00001-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    told = ask(tmp_path / "stopped", *arguments, "resume=auto", **two)
    assert "continuing from runs/jepa_image/checkpoints/step-000000002, step 2" in told[0]
    assert f"ignoring a damaged checkpoint: runs/jepa_image/checkpoints/step-000000004/{damaged.name} is damaged" in told[0]
    assert unlike(state_of(tmp_path / "stopped", 6), state_of(tmp_path / "through", 6)) == []
    ask(
        tmp_path / "stopped",
        "convert",
        str(last.with_name("step-000000006").relative_to(tmp_path / "stopped")),
        "--output",
        "teacher",
    )
    assert (
        unlike(load_file(tmp_path / "stopped" / "teacher" / "model.safetensors"), load_file(run / "model" / "model.safetensors"))
        == []
    )
    models = [next((tmp_path / name / "runs").rglob("model.safetensors")) for name in ("stopped", "through")]
    assert unlike(load_file(models[0]), load_file(models[1])) == []


CHAIN = [
    pytest.param(("fsdp2", "ddp", "fsdp2"), id="fsdp2"),
    pytest.param(("zero3", "ddp", "fsdp2", "zero2", "zero1", "zero3"), id="all", marks=[ZERO, pytest.mark.slow]),
]


@pytest.mark.parametrize("chain", CHAIN)
def test_a_checkpoint_goes_from_one_strategy_to_another_bit_by_bit(chain: tuple[str, ...], ask: Ask, tmp_path: Path) -> None:
    """Each writes again, before any step, what it read: student, teacher and moments are the same. ddp: on one process."""
    (tmp_path / "data").mkdir()
    arguments = [*CASES["jepa"].arguments(tmp_path / "data"), "train.max_steps=3"]
    ask(tmp_path, *arguments, "--strategy", chain[0], processes=2, seconds=SECONDS)
    before = state_of(tmp_path, 3)
    (run,) = (tmp_path / "runs").iterdir()
    for strategy in chain[1:]:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        for key in ("trained", "finished"):
            record.pop(key, None)
        (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
        count = 1 if strategy == "ddp" else 2
        again = ("resume=auto", "--strategy", strategy)
        ask(tmp_path, *arguments, *again, processes=count, seconds=SECONDS, saves_what_it_read=True)
        assert unlike(state_of(tmp_path, 3), before) == [], strategy
        form = json.loads((run / "checkpoints" / "step-000000003" / "manifest.json").read_text(encoding="utf-8"))["format"]
        assert form == (checkpoint.FORMAT if strategy == "ddp" else checkpoint.SHARDED)


FAULTS = [
    ("fsdp2", "teacher_moved_twice", "objective.networks.copies."),
    ("fsdp2", "other_masks", "weights differ by"),
    ("fsdp2", "mean_left_out", "grad_norm is"),
    ("fsdp2", "teacher_of_one", "objective.networks.copies."),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "fault", "told"), FAULTS, ids=[fault for _, fault, _ in FAULTS])
def test_a_fault_planted_in_sharding_is_found(strategy: str, fault: str, told: str, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    arguments = CASES["jepa"].arguments(tmp_path / "data")
    ask(tmp_path / "one", *arguments)
    ask(tmp_path / "many", *arguments, "--strategy", strategy, processes=2, seconds=SECONDS, **{fault: True})
    lines = many.differences(many.result(tmp_path / "many"), many.result(tmp_path / "one"))
    assert told in "\n".join(lines)


REFUSED = [
    pytest.param(
        "masked", ("train.precision=fp16", "--strategy", "fsdp2"), "fsdp2 does not train with train.precision=fp16", id="fp16"
    ),
    pytest.param(
        "masked", ("train.compile=true", "--strategy", "zero1"), "zero1 does not train with train.compile=true", id="compile"
    ),
    pytest.param(
        *(
            "jepa of two modalities",
            ("--strategy", "zero1"),
            "a sample lacks one of the modalities image, tabular, and zero1 trains",
        ),
        id="idle",
        marks=ZERO,
    ),
]


@pytest.mark.parametrize(("case", "arguments", "told"), REFUSED)
def test_what_a_strategy_cannot_do_is_refused(case: str, arguments: tuple[str, ...], told: str, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    own = CASES[case].arguments(tmp_path / "data")
    (said,) = ask(tmp_path, *own, *arguments, codes=[1], seconds=SECONDS)
    assert re.search(told, said), said

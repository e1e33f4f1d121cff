"""A run whose shards lie in main memory is the run of one process; one that goes on is the same bit by bit.

Everything goes through the command line, by two processes that `many.py` forks. Without a GPU there is nothing to offload from.
What is held against one process is the other way that DeepSpeed and `fully_shard` take then, and the bytes that they hold.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_sharded as sharded

from mmssl.recipe.recipe import load
from mmssl.training.asked import taken
from mmssl.training.sharding.offload import bytes_of
from mmssl.training.sizing.cost import sized

CASES, result, SECONDS, ZERO = sharded.CASES, sharded.result, sharded.SECONDS, sharded.ZERO
Ask = Callable[..., list[str]]
Whole = Callable[[str], tuple[list[str], Any]]


def zero(stage: int, *offload: str) -> dict[str, str]:
    devices = {f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE": "cpu" for what in offload}
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage), **devices}


OFFLOAD = {
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
    "zero1": zero(1, "OPTIMIZER"),
    "zero2": zero(2, "OPTIMIZER"),
    "zero3": zero(3, "OPTIMIZER", "PARAM"),
}
"""What `accelerate launch` sets, of fsdp2 and zero3 by recipes/launch/NAME_offload.yaml."""
SHORT = [("jepa", "fsdp2"), ("jepa", "zero3")]
LONG = [(case, strategy) for case in ("jepa", "accumulation 2", "pairs") for strategy in OFFLOAD]


def offloaded(strategy: str) -> dict[str, Any]:
    """How to ask for it; the name of the strategy is said as well, so that `many.py` imports it once."""
    return {"processes": 2, "seconds": SECONDS, "environment": dict.fromkeys(range(2), OFFLOAD[strategy])}


@pytest.mark.parametrize(
    ("case", "strategy"),
    [
        pytest.param(case, strategy, id=f"{case}-{strategy}", marks=sharded.marks(strategy, (case, strategy) not in SHORT))
        for case, strategy in dict.fromkeys((*SHORT, *LONG))
    ],
)
def test_an_offloaded_run_ends_like_one_process(case: str, strategy: str, ask: Ask, alone: Whole, tmp_path: Path) -> None:
    arguments, expected = alone(case)
    ask(tmp_path, *arguments, *CASES[case].many, "--strategy", strategy, **offloaded(strategy))
    assert sharded.many.differences(result(tmp_path), expected) == []


@pytest.mark.parametrize(
    "strategy", [pytest.param(each, marks=sharded.marks(each, each != "zero3")) for each in OFFLOAD if each != "zero1"]
)
def test_an_offloaded_run_that_is_stopped_ends_in_the_same_bits(strategy: str, ask: Ask, tmp_path: Path) -> None:
    """With its teacher, moments and counters; and without offload a run goes on from its checkpoint."""
    (tmp_path / "data").mkdir()
    arguments = [*CASES["jepa"].arguments(tmp_path / "data"), "train.checkpoint_every=4", "--strategy", strategy]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    ask(whole, *arguments, **offloaded(strategy))
    ask(halves, *arguments, **offloaded(strategy), codes=[143, 143], stop_after={"rank": 1, "step": 4})
    told = ask(halves, *arguments, "resume=auto", **offloaded(strategy))
    assert "continuing from runs/jepa_image/checkpoints/step-000000004, step 4" in told[0]
    assert sharded.unlike(sharded.state_of(halves, 6), sharded.state_of(whole, 6)) == []


@pytest.mark.parametrize("strategy", [pytest.param(each, marks=sharded.marks(each, each != "zero3")) for each in OFFLOAD])
def test_main_memory_holds_what_is_said_before(strategy: str, ask: Ask, tmp_path: Path) -> None:
    """Gradients, moments and the copies that are moved, within 10 %; weights too, where they are offloaded."""
    (tmp_path / "data").mkdir()
    arguments = [*CASES["jepa"].arguments(tmp_path / "data"), *sharded.DEEP]
    ask(tmp_path, *arguments, "--strategy", strategy, **offloaded(strategy), held_written_down="held")
    held = [json.loads((tmp_path / f"held-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    counted = ["moments", "master", "beside"] + ["parameters", "teacher", "gradients"] * (strategy in ("fsdp2", "zero3"))
    _, recipe, *overrides = arguments
    found = sized(load(Path(recipe), overrides))
    _, said = bytes_of(found.objective, taken(OFFLOAD[strategy]), 2, found.options.accumulation)
    assert max(sum(each[kind] for kind in counted) for each in held) == pytest.approx(said, rel=0.1)


@pytest.mark.parametrize("strategy", ["fsdp2", pytest.param("zero3", marks=ZERO)])
def test_offload_that_main_memory_has_no_room_for_is_refused_before_a_step(strategy: str, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    arguments = CASES["jepa"].arguments(tmp_path / "data")
    planted = {"codes": [1, 1], "free_memory": 1000}
    first, second = ask(tmp_path, *arguments, "--strategy", strategy, **offloaded(strategy), **planted)
    assert re.search(
        r"mmssl: offload: the 2 processes on \S+ would hold [\d.]+ \w+ in its main memory, where [\d.]+ \w+ are", first
    )
    assert "Take more machines or a smaller model, or launch without offload" in first
    assert second == ""
    assert list((tmp_path / "runs").iterdir()) == []

"""Hybrid sharding: two copies of the model, each shared by two processes, train the model of one process.

Everything goes through the command line, by four processes that `many.py` forks. Cases and tolerances are those of `test_many.py`.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import test_sharded as sharded
import torch
from safetensors import safe_open

from mmssl.training import checkpoint

Ask = Callable[..., list[str]]
HYBRID = ("--strategy", "fsdp2", "--dp-shard-size", "2")


def entries(file: Path) -> int:
    """How many numbers lie in a file."""
    with safe_open(file, framework="pt") as opened:
        return sum(opened.get_tensor(name).numel() for name in opened.keys())  # noqa: SIM118, not a dict


def numbers(tree: Any) -> int:
    """How many numbers the tensors and arrays of a tree have."""
    if isinstance(tree, dict):
        return sum(map(numbers, tree.values()))
    if isinstance(tree, list | tuple):
        return sum(map(numbers, tree))
    return math.prod(tree.shape) if isinstance(tree, torch.Tensor | np.ndarray) else 0


def test_two_copies_of_a_sharded_model_end_like_one_process(ask: Ask, tmp_path: Path) -> None:
    """Its checkpoint has each number once, and one process goes on from it bit by bit, as does a run that shares one copy."""
    own = sharded.CASES["jepa"]
    (tmp_path / "data").mkdir()
    arguments = own.arguments(tmp_path / "data")
    ask(tmp_path / "one", *arguments)
    ask(tmp_path / "many", *arguments, *own.many, *HYBRID, processes=4, seconds=sharded.SECONDS)
    assert sharded.many.differences(sharded.many.result(tmp_path / "many"), sharded.many.result(tmp_path / "one")) == []

    (run,) = (tmp_path / "many" / "runs").iterdir()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (record["strategy"], record["dp_shard_size"]) == ("fsdp2", 2)
    last = sorted((run / "checkpoints").iterdir())[-1]
    step = int(last.name.removeprefix("step-"))
    assert sum(entries(file) for file in last.glob("*.safetensors")) == numbers(checkpoint.load(last))
    before = sharded.state_of(tmp_path / "many", step)
    for count, strategy in ((2, ("--strategy", "fsdp2")), (4, HYBRID), (1, ("--strategy", "ddp"))):
        for key in ("trained", "finished"):
            record.pop(key, None)
        (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
        again = (*arguments, *own.many, "resume=auto", *strategy)
        ask(tmp_path / "many", *again, processes=count, seconds=sharded.SECONDS, saves_what_it_read=True)
        assert sharded.unlike(sharded.state_of(tmp_path / "many", step), before) == [], strategy


def test_copies_that_do_not_fit_the_processes(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    own = sharded.CASES["jepa"].arguments(tmp_path / "data")
    refused: dict[str, Any] = {"processes": 2, "codes": [1, 1], "seconds": sharded.SECONDS}
    first, second = ask(tmp_path, *own, "--strategy", "fsdp2", "--dp-shard-size", "4", **refused)
    assert "mmssl: dp_shard_size=4 does not fit 2 processes: dp_shard_size must divide them" in first
    assert second == ""

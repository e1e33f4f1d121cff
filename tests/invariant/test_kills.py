"""A short version of `kills.py`: a run that is killed now and then ends in the same weights, optimizer state and metrics."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def killed(*arguments: str) -> str:
    """What the script says, which must have found nothing."""
    script = Path(__file__).with_name("kills.py")
    # A process of its own, for it forks, and the threads of this one would be missing in its children.
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every run ended in the same weights, optimizer state and metrics" in done.stdout
    return done.stdout


def test_a_run_that_is_killed_ends_like_one_that_is_not() -> None:
    assert re.search(r"\d+ kills in .* [1-9]\d* replacing the model", killed("--kills", "6"))


SLOW = [
    pytest.param("ddp", marks=pytest.mark.slow),
    *(
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")])
        for name in ("zero2", "zero3")
    ),
]


@pytest.mark.parametrize("strategy", ["fsdp2", *SLOW])
def test_a_shared_run_that_is_killed_while_it_writes_a_checkpoint_ends_like_one_that_is_not(strategy: str) -> None:
    told = killed("--kills", "2", "--inside", "1", "--processes", "2", "--strategy", strategy)
    assert re.search(r"\d+ kills in .* [1-9]\d* writing a checkpoint", told)

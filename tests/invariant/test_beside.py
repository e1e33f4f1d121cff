"""Checkpoints that processes write beside the training: whatever happens meanwhile, the one before is there, or this one, whole.

Everything goes through the command line, by two processes that `many.py` forks.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TINY, TWO, ZERO

from mmssl.data import processes
from mmssl.training import checkpoint

RECIPE = f"""{TINY}train: {{batch_size: 16, max_steps: 8, ema: 0.9, checkpoint_every: 2, keep_last: 9, log_every: 2, timeout: 20}}
"""

Ask = Callable[..., list[str]]
STRATEGIES = [
    "ddp",
    "fsdp2",
    *(pytest.param(f"zero{stage}", marks=[ZERO, pytest.mark.slow]) for stage in (1, 2, 3)),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("", "waits"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def contents(folder: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint, but for its tree and manifest, in which the seconds of a run stand."""
    path = folder / "runs" / "tiny" / "checkpoints" / f"step-{step:09}"
    assert (path / checkpoint.MANIFEST).exists()
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_is_the_same_as_one_that_training_waits_for(strategy: str, ask: Ask, folder: Path) -> None:
    """One process takes long to write step 6: the other two steps are made meanwhile, and their checkpoint waits for it."""
    command = ("train", "tiny.yaml", "--strategy", strategy, "train.checkpoint_every=6")
    ask(folder, *command, while_writing={"rank": int(strategy != "ddp"), "step": 6, "what": 2}, **TWO)
    ask(folder / "waits", *command, "train.async_save=false", **TWO)
    for step in (6, 8):
        assert contents(folder, step) == contents(folder / "waits", step)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_process_that_is_killed_while_it_writes(strategy: str, rank: int, ask: Ask, folder: Path) -> None:
    """The checkpoint before is what the run goes on from, to the same end; nothing of the other one is left, or seen."""
    if (strategy, rank) == ("ddp", 1):
        pytest.skip("it writes nothing")
    command = ("train", "tiny.yaml", "--strategy", strategy)
    killed = {"rank": rank, "step": 4, "what": "killed"}
    codes = [1, 1]
    codes[rank] = -9
    found = ask(folder, *command, codes=codes, while_writing=killed, **TWO)
    place = folder / "runs" / "tiny" / "checkpoints"
    assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["step-000000002"]
    assert "Last checkpoint runs/tiny/checkpoints/step-000000002; continue with:\n  mmssl train tiny.yaml" in found[1 - rank]
    told = ask(folder, *command, "resume=auto", **TWO)
    assert "continuing from runs/tiny/checkpoints/step-000000002, step 2" in told[0]
    assert sorted(path.name for path in place.iterdir()) == [f"step-{step:09}" for step in (2, 4, 6, 8)]
    ask(folder / "waits", *command, **TWO)
    assert contents(folder, 8) == contents(folder / "waits", 8)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_disk_that_is_full_on_one_process_ends_all(strategy: str, ask: Ask, folder: Path) -> None:
    rank = int(strategy != "ddp")
    full = {"rank": rank, "step": 4, "what": "full"}
    command = ("train", "tiny.yaml", "--strategy", strategy)
    found = ask(folder, *command, codes=[1, 1], while_writing=full, **TWO)
    assert "the disk is full: step-000000004 did not fit into runs/tiny/checkpoints. " in found[rank]
    assert "The last good checkpoint there: step-000000002" in found[rank]
    if rank:
        assert "process 1 of 2 cannot write its part of the checkpoint runs/tiny/checkpoints/step-000000004; it says" in found[0]
    place = folder / "runs" / "tiny" / "checkpoints"
    assert [path.name for path in place.iterdir()] == ["step-000000002"]


def test_a_run_of_one_process_that_is_killed_while_it_writes(ask: Ask, folder: Path) -> None:
    command = ("train", "tiny.yaml")
    ask(folder, *command, codes=[-9], while_writing={"rank": 0, "step": 4, "what": "killed"})
    assert "step 2" in ask(folder, *command, "resume=auto")[0]
    ask(folder / "waits", *command, "train.async_save=false")
    assert contents(folder, 8) == contents(folder / "waits", 8)


def test_a_run_that_is_stopped_while_it_writes(ask: Ask, folder: Path) -> None:
    """SIGTERM: the checkpoint that is being written, and that of the last step, are there when the run has ended.

    The other process waits for the first one, also for longer than for one that may be gone.
    """
    stop, slow = {"rank": 0, "step": 2}, {"rank": 0, "step": 2, "what": processes.GRACE + 2}
    command = ("train", "tiny.yaml", "train.checkpoint_every=1")
    said, _ = ask(folder, *command, codes=[143, 143], stop_after=stop, while_writing=slow, **TWO)
    assert "stopped after step 2; a checkpoint is written" in said
    place = folder / "runs" / "tiny" / "checkpoints"
    assert [path.name for path in sorted(place.iterdir())] == ["step-000000001", "step-000000002"]

"""A checkpoint that is written beside the training: what training does meanwhile changes nothing of it, and no error is lost."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.training import checkpoint
from mmssl.training.pieces import Piece
from mmssl.training.saving import Saver


class Disk:
    """A disk that writes nothing until it is let, and is full if `full` is set."""

    def __init__(self) -> None:
        self.let, self.full = threading.Event(), False
        self.write = checkpoint.write_tensors

    def __call__(self, file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert self.let.wait(10)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.write(file, tensors)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    slow = Disk()
    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    yield slow
    slow.let.set()


def saver(folder: Path, *, beside: bool = True) -> Saver:
    return Saver(folder, keep=2, beside=beside, timeout=1.0)


def state() -> dict[str, Any]:
    """Tensors that share memory, lie across it, are parts of others, are complex; arrays and counters."""
    weights = torch.arange(24.0).reshape(4, 6)
    return {
        "weights": weights,
        "shared": weights[1],
        "across": weights.t(),
        "piece": Piece(weights.reshape(-1)[:12], 0, (12,)),
        "complex": torch.arange(4).to(torch.complex64).conj(),
        "array": weights.numpy(),
        "none": torch.empty(0),
        "counters": {"step": 3},
    }


def train_on(tree: dict[str, Any]) -> None:
    """Change in place whatever can be."""
    tree["weights"].mul_(-7)
    tree["complex"].add_(1)
    tree["counters"]["step"] += 1


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("in_pieces", [False, True])
def test_the_bytes_are_those_of_the_step_whatever_training_does_meanwhile(in_pieces: bool, disk: Disk, tmp_path: Path) -> None:
    tree, one = state(), saver(tmp_path / "beside")
    one.save(3, lambda: tree, in_pieces=in_pieces)
    train_on(tree)
    assert checkpoint.newest(tmp_path / "beside") is None, "it is not visible before it is complete"
    disk.let.set()
    one.settle()
    saver(tmp_path / "waited", beside=False).save(3, state, in_pieces=in_pieces)
    found = contents(tmp_path / "beside")
    assert len(found) == 3
    assert found == contents(tmp_path / "waited")
    assert checkpoint.load(tmp_path / "beside" / "step-000000003")["counters"] == {"step": 3}


def test_one_that_training_waits_for_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise AssertionError("there may be no room for that")

    monkeypatch.setattr(checkpoint, "_copies", copies)
    saver(tmp_path, beside=False).save(3, state, in_pieces=False)
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000000003"


def test_a_second_one_waits_for_the_first_and_old_ones_go(disk: Disk, tmp_path: Path) -> None:
    one = saver(tmp_path)
    one.save(1, state, in_pieces=False)
    threading.Timer(0.2, disk.let.set).start()
    assert not (tmp_path / "step-000000001").exists()
    one.save(2, state, in_pieces=False)
    assert (tmp_path / "step-000000001").is_dir()
    assert len(one.stood_still) == 2
    one.save(3, state, in_pieces=False)
    one.settle()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]


def test_a_full_disk_is_told_to_the_training(disk: Disk, tmp_path: Path) -> None:
    one = saver(tmp_path)
    disk.let.set()
    one.save(1, state, in_pieces=True)
    one.settle()
    disk.full = True
    one.save(2, state, in_pieces=True)
    end = time.monotonic() + 10
    while not one.failed and time.monotonic() < end:
        time.sleep(0.01)
    assert one.failed, "the training should come to `settle`"
    words = r"the disk is full: step-000000002 did not fit into .* The last good checkpoint there: step-000000001\. Free some space"
    with pytest.raises(OSError, match=words):
        one.save(3, state, in_pieces=True)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


@pytest.mark.parametrize("full", [False, True])
def test_a_run_that_fails_waits_for_what_is_being_written(full: bool, disk: Disk, tmp_path: Path) -> None:
    one, disk.full = saver(tmp_path), full
    with pytest.raises(ZeroDivisionError) as caught, one.finishing():
        one.save(1, state, in_pieces=False)
        threading.Timer(0.2, disk.let.set).start()
        raise ZeroDivisionError("of the training")
    assert (checkpoint.newest(tmp_path) is None) == full
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == full
    assert all("The checkpoint that was being written is not complete: " in note and "disk is full" in note for note in notes)


def test_a_killed_worker_that_torch_tells_of_meanwhile_does_not_end_the_waiting(disk: Disk, tmp_path: Path) -> None:
    def tell(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    one, before = saver(tmp_path), signal.signal(signal.SIGUSR1, tell)
    try:
        with pytest.raises(RuntimeError, match="is killed by signal"), one.finishing():
            one.save(1, state, in_pieces=False)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            threading.Timer(0.4, disk.let.set).start()
            raise ZeroDivisionError("of the training")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert checkpoint.newest(tmp_path) is not None


def test_its_own_error_is_told_once(disk: Disk, tmp_path: Path) -> None:
    one, disk.full = saver(tmp_path), True
    disk.let.set()
    with pytest.raises(OSError, match="the disk is full") as caught, one.finishing():
        one.save(1, state, in_pieces=False)
        one.settle()
    assert not hasattr(caught.value, "__notes__")


def test_one_who_wants_to_stop_at_once_does_not_wait(disk: Disk, tmp_path: Path) -> None:
    one = saver(tmp_path)
    with pytest.raises(KeyboardInterrupt), one.finishing():
        one.save(1, state, in_pieces=False)
        raise KeyboardInterrupt
    assert one.writing is not None and not one.writing.done.is_set()


def test_no_room_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*shape: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 96 bytes.")

    one = saver(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", full)
        one.save(1, lambda: {"weights": torch.ones(24)}, in_pieces=False)
    assert one.failed
    with pytest.raises(MemoryError, match=r"copy of 0\.0 MB .* does not fit into main memory .*train\.async_save=false"):
        one.settle()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    odd: Callable[[], dict[str, Any]] = lambda: {"odd": object()}  # noqa: E731
    with pytest.raises(TypeError, match=r"state\.odd is object; a checkpoint holds"):
        saver(tmp_path).save(1, odd, in_pieces=False)


@pytest.mark.gpu
def test_what_lies_on_a_gpu_is_copied_into_locked_memory(tmp_path: Path) -> None:
    tree = {name: tensor.cuda() for name, tensor in state().items() if isinstance(tensor, torch.Tensor)}
    ready = checkpoint.packed(tree, copied=True)
    assert all(tensor.is_pinned() for tensor in ready.tensors.values() if tensor.numel())
    before = {name: tensor.clone() for name, tensor in ready.tensors.items()}
    for tensor in tree.values():
        tensor.zero_()
    assert all(torch.equal(ready.tensors[name], tensor) for name, tensor in before.items())

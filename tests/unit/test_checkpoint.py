"""Checkpoints: what comes back is what was written, or an error that names the file."""

import errno
import json
import logging
import random
import re
import stat
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from mmssl.training.checkpoint import load, newest, prune, rng_state, save, set_rng_state, step_path

FILES = ("tensors.safetensors", "state.json", "manifest.json")


def same(a: Any, b: Any) -> bool:
    """Equal values, types and orders, everywhere in two trees; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        whole = torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) if a.is_floating_point() else torch.equal(a, b)
        return a.dtype == b.dtype and a.shape == b.shape and whole
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b))
    if isinstance(a, dict):
        keys = [(type(k), k) for k in a] == [(type(k), k) for k in b]
        return keys and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small network and its AdamW after three steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def small(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((1000,), float(step))}


def write_steps(folder: Path, *steps: int) -> None:
    for step in steps:
        save(step_path(folder, step), small(step))


def flip(file: Path, position: int) -> None:
    """Invert one bit of a file."""
    data = bytearray(file.read_bytes())
    data[position] ^= 4
    file.write_bytes(data)


def test_scalars_and_containers_keep_their_types(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "none": None,
        "flags": [True, False],
        "numbers": (1, -(10**30), 0.1, 1e-300, float("nan"), float("inf"), -0.0),
        "text": 'quotes " and \n lines, ünïcode \U0001f600',
        "empty": {"dict": {}, "list": [], "tuple": ()},
        "keys": {0: "int", "0": "str", 1.5: "float", None: "none"},
        "bool keys": {False: 0, True: 1},
        "nested": [({"a": [(1,)]},)],
        "tensor": {"looks": "like a tag"},
    }
    save(tmp_path / "x", state)
    assert same(load(tmp_path / "x"), state)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_every_dtype_and_shape(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(100.0, 100.0 + torch.Size(shape).numel()).reshape(shape)).to(dtype)
    save(tmp_path / "x", {"tensor": tensor})
    found = load(tmp_path / "x")["tensor"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.to(torch.complex128).equal(tensor.to(torch.complex128))


def test_views_and_shared_storage(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "base": base,
        "again": base,
        "transposed": base.T,
        "rows": [base[1], base[1:3], base[:, ::2]],
        "expanded": torch.ones(1).expand(5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
    }
    save(tmp_path / "x", state)
    found = load(tmp_path / "x")
    assert type(found["parameter"]) is torch.Tensor
    assert same(found, state | {"parameter": torch.ones(2)})
    found["base"].zero_()
    assert same(found["again"], base)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint32", "uint16", "bool", "complex128"])
def test_numpy_arrays(tmp_path: Path, dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    frozen = array.copy()
    frozen.setflags(write=False)
    state = {"array": array, "reversed": array[::-1, ::2], "scalar": np.array(3, dtype), "frozen": frozen, "empty": array[:0]}
    save(tmp_path / "x", state)
    assert same(load(tmp_path / "x"), state)


def test_optimizer_and_module_state(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "x", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    found = load(tmp_path / "x")
    assert same(found["optimizer"], optimizer.state_dict())
    assert same(found["model"], dict(model.state_dict()))

    other = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    again = torch.optim.AdamW(other.parameters(), lr=1e-2)
    other.load_state_dict(found["model"])
    again.load_state_dict(found["optimizer"])
    batch = torch.randn(5, 4)
    for net, optim in ((model, optimizer), (other, again)):
        net(batch).square().sum().backward()
        optim.step()
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 1)
    found = load(step_path(tmp_path, 1))
    (step_path(tmp_path, 1) / FILES[0]).write_bytes(b"")
    assert same(found, small(1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, r"state\.a\.0 is set; a checkpoint holds tensors"),
        (np.int64(3), r"state\.a\.0 is int64; a checkpoint holds"),
        (np.array(["text"]), r"state\.a\.0 is a numpy array of <U4, which torch cannot hold"),
        (torch.eye(2).to_sparse(), r"state\.a\.0 is a torch\.sparse_coo tensor"),
        (torch.ones(2, device="meta"), r"state\.a\.0 is a torch\.strided tensor on meta"),
        ({(1, 2): 3}, r"state\.a\.0 has a key that is tuple: \(1, 2\)"),
    ],
)
def test_other_values_are_refused_by_place(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "x", {"a": [value]})
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_checkpoint_is_left(tmp_path: Path) -> None:
    write_steps(tmp_path / "deep" / "er", 7)
    folder = tmp_path / "deep" / "er"
    assert [path.name for path in folder.iterdir()] == ["step-000000007"]
    files = sorted((folder / "step-000000007").iterdir())
    assert [file.name for file in files] == sorted(FILES)
    assert len({stat.S_IMODE(file.stat().st_mode) for file in files}) == 1
    assert b"pickle" not in (folder / "step-000000007" / "state.json").read_bytes()


def test_save_replaces(tmp_path: Path) -> None:
    save(tmp_path / "x", small(1))
    save(tmp_path / "x", small(2))
    assert same(load(tmp_path / "x"), small(2))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", FILES[:2])
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    save(tmp_path / "x", {"a": torch.arange(10), "b": [1, 2]})
    file = tmp_path / "x" / name
    for position in range(0, file.stat().st_size, 7):
        flip(file, position)
        with pytest.raises(ValueError, match=re.escape(f"{file} is damaged: expected")):
            load(tmp_path / "x")
        flip(file, position)
    load(tmp_path / "x")


def test_a_flipped_bit_in_the_manifest_is_found_or_harmless(tmp_path: Path) -> None:
    state = {"a": torch.arange(10)}
    save(tmp_path / "x", state)
    file = tmp_path / "x" / "manifest.json"
    found = 0
    for position in range(file.stat().st_size):
        flip(file, position)
        try:
            assert same(load(tmp_path / "x"), state)
        except ValueError as error:
            found += 1
            assert str(tmp_path / "x") in str(error)
        flip(file, position)
    assert found > 0.8 * file.stat().st_size  # the rest is white space


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / "x", small(1))
    file = tmp_path / "x" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=re.escape(f"{file} is damaged")):
        load(tmp_path / "x")
    file.unlink()
    with pytest.raises(ValueError, match=re.escape(f"{file} is missing: the checkpoint is incomplete")):
        load(tmp_path / "x")


def test_absent_checkpoint_and_other_format(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*x: no such folder"):
        load(tmp_path / "x")
    save(tmp_path / "x", small(1))
    file = tmp_path / "x" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match=r"manifest\.json has format 99; this mmssl reads formats 1 and 2"):
        load(tmp_path / "x")


def test_newest_skips_damaged_and_unfinished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest(tmp_path / "absent") is None
    assert newest(tmp_path) is None
    write_steps(tmp_path, 5, 40, 300, 10**9)
    (tmp_path / ".step-000000999.1.partial").mkdir()
    (tmp_path / "step-99").mkdir()
    assert newest(tmp_path) == tmp_path / "step-1000000000"
    assert not caplog.records
    flip(tmp_path / "step-1000000000" / "state.json", 3)
    (tmp_path / "step-000000300" / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) == step_path(tmp_path, 40)
    first, second = (record.getMessage() for record in caplog.records)
    assert "ignoring a damaged checkpoint" in first and "step-1000000000/state.json is damaged" in first
    assert "step-000000300/manifest.json is missing" in second


def test_prune_keeps_the_last_complete_ones(tmp_path: Path) -> None:
    prune(tmp_path / "absent", keep=2)
    write_steps(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step-000000004" / "tensors.safetensors").write_bytes(b"cut")
    for leftover in (".step-000000009.123.partial", ".step-000000001.77.deleted"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "file").write_text("half")
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003", "step-000000004"]
    assert same(load(step_path(tmp_path, 3)), small(3))
    prune(tmp_path, keep=5)
    assert len(list(tmp_path.iterdir())) == 3


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from mmssl.training.checkpoint import load, newest, prune, save, step_path

folder = Path(sys.argv[1])
torch.set_num_threads(1)  # a forked child would wait for the parent's threads for ever

def write(first):
    for step in range(first, first + 10_000):
        save(step_path(folder, step), {"step": step, "weights": torch.full((100_000,), float(step)), "more": [torch.ones(9)] * 20})
        prune(folder, keep=2)

found, last = [], 0
save(step_path(folder, 0), {"step": 0, "weights": torch.zeros(100_000)})
for _ in range(100):  # a busy machine may take many kills until one comes in the middle of writing
    child = os.fork()
    if not child:
        write(last + 1)
    time.sleep(random.uniform(0.02, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    path = newest(folder)
    state = load(path)
    assert path == step_path(folder, state["step"]) and state["step"] >= last, (path, last)
    assert (state["weights"] == state["step"]).all()
    last = state["step"]
    found.append(any(p.name.startswith(".") for p in folder.iterdir()))
    if len(found) >= 10 and last and any(found):
        break
prune(folder, keep=1)
print(last, sum(found), *(p.name for p in folder.iterdir()))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_killed_writer_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    done = python(KILLED, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    last, caught, *names = done.stdout.split()
    assert int(last) > 0 and int(caught) > 0
    assert names == [f"step-{int(last):09d}"]


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
    ],
)
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, number: int) -> None:
    write_steps(tmp_path, 3)

    def fail(tensors: dict[str, torch.Tensor], filename: Path) -> None:
        filename.write_bytes(b"half of it")
        raise raised

    monkeypatch.setattr("mmssl.training.checkpoint.save_file", fail)
    with pytest.raises(OSError, match=r"the disk is full: step-000000004 did not fit into") as caught:
        save(step_path(tmp_path, 4), {"weights": torch.zeros(1_000_000)})
    message = str(caught.value)
    assert caught.value.errno == number
    assert str(tmp_path) in message and "It needs 4.0 MB" in message and "MB are free" in message
    assert "The last good checkpoint there: step-000000003. Free some space or keep fewer checkpoints, then resume" in message
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003"]


def test_other_write_errors_name_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: dict[str, torch.Tensor], filename: Path) -> None:
        raise SafetensorError("I/O error: Input/output error (os error 5)")

    monkeypatch.setattr("mmssl.training.checkpoint.save_file", fail)
    with pytest.raises(OSError, match=r"cannot write checkpoint .*step-000000004: I/O error") as caught:
        write_steps(tmp_path, 4)
    assert caught.value.errno == errno.EIO
    assert list(tmp_path.iterdir()) == []


def draws() -> tuple[list[float], list[float], list[float]]:
    return [random.random(), random.gauss(0, 1)], [*np.random.rand(2), np.random.randn()], torch.randn(3).tolist()


def test_rng_states_survive_the_disk(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draws()
    save(tmp_path / "x", rng_state())
    expected = draws()
    draws()
    set_rng_state(load(tmp_path / "x"))
    assert draws() == expected


def test_rng_state_of_a_machine_with_other_devices_is_accepted() -> None:
    state = rng_state()
    set_rng_state(state | {"cuda": []})
    assert same(rng_state(), state)


@pytest.mark.gpu
def test_rng_states_of_the_gpu(tmp_path: Path) -> None:
    torch.cuda.manual_seed_all(1)
    save(tmp_path / "x", rng_state())
    expected = torch.rand(4, device="cuda")
    set_rng_state(load(tmp_path / "x"))
    assert torch.rand(4, device="cuda").equal(expected)


def test_ordered_dict_and_named_tuple_become_plain(tmp_path: Path) -> None:
    save(tmp_path / "x", {"ordered": OrderedDict(b=1, a=2), "size": torch.Size([2, 3])})
    assert same(load(tmp_path / "x"), {"ordered": {"b": 1, "a": 2}, "size": (2, 3)})

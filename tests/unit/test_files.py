"""Files and folders: whole or not there, whatever happens to their writer."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmssl import files
from mmssl.testing import small_model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, content: str) -> None:
    with files.new_folder(folder) as part:
        (part / "a").write_text(content, encoding="utf-8")
        (part / "deep").mkdir()
        (part / "deep" / "b").write_text(content, encoding="utf-8")


def read(folder: Path) -> tuple[str, str]:
    return (folder / "a").read_text(encoding="utf-8"), (folder / "deep" / "b").read_text(encoding="utf-8")


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def can_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the system's call, and on a system that lacks it."""
    if not request.param:
        monkeypatch.setattr(files, "_renameat2", None)
    return bool(request.param)


def test_text_and_json_are_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    files.write_text(file, "old\n")
    files.write_text(file, "new\r\nünï\n")
    assert file.read_bytes() == "new\r\nünï\n".encode()
    files.write_json(file, {"a": [1, None, "ü"]})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": [1, None, "ü"]}
    with pytest.raises(TypeError, match="not JSON serializable"):
        files.write_json(file, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(file, "\ud800")
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": [1, None, "ü"]}
    assert names(file.parent) == ["file"]


@pytest.mark.usefixtures("can_exchange")
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    for content in ("first", "second"):
        write(folder, content)
        assert read(folder) == (content, content)
        with pytest.raises(ZeroDivisionError), files.new_folder(folder) as part:
            (part / "a").write_text("broken", encoding="utf-8")
            raise ZeroDivisionError
        assert read(folder) == (content, content)
        assert names(folder.parent) == ["model"]


def test_an_interrupted_rename_leaves_the_folder_of_before(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "model", "old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith("partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    def refused(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    if can_exchange:
        monkeypatch.setattr(files, "_renameat2", refused)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "model", "new")
    assert read(tmp_path / "model") == ("old", "old")
    assert names(tmp_path) == ["model"]


def test_a_file_system_that_cannot_exchange_gets_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unsupported(*arguments: object) -> int:
        asked.append(arguments)
        files.ctypes.set_errno(files.errno.EINVAL)
        return -1

    monkeypatch.setattr(files, "_renameat2", unsupported)
    write(tmp_path / "model", "old")
    write(tmp_path / "model", "new")
    assert len(asked) == 1
    assert read(tmp_path / "model") == ("new", "new")
    assert names(tmp_path) == ["model"]


def test_sweep_restores_what_has_no_successor_and_deletes_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "kept", "kept")
    for hidden in (".kept.12.replaced", ".kept.12.partial", ".gone.13.replaced", ".gone.13.partial", ".other.14.deleted"):
        write(tmp_path / hidden, hidden)
    (tmp_path / ".file.15.partial").touch()
    (tmp_path / ".git").mkdir()
    files.sweep(tmp_path, "file")
    assert len(names(tmp_path)) == 7
    files.sweep(tmp_path)
    assert names(tmp_path) == [".git", "gone", "kept"]
    assert read(tmp_path / "gone")[0] == ".gone.13.replaced"
    assert read(tmp_path / "kept")[0] == "kept"
    files.sweep(tmp_path / "absent")


ALONE = f"""
import importlib.util, os, sys
from pathlib import Path

# The file alone: a process that has imported torch and transformers has threads, and takes seconds to start.
spec = importlib.util.spec_from_file_location("files", {files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
"""

KILLED = """
place, exchange = Path(sys.argv[1]), sys.argv[2] == "exchange"
folder, states = place / "model", []
if not exchange:
    files._renameat2 = None

def write(content):
    with files.new_folder(folder) as part:
        for name in ("a", "b"):
            (part / name).write_text(content)

def found():
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else None

def doomed(number):
    changes = []
    def hook(event, arguments):
        if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") or (event == "open" and arguments[2] & os.O_WRONLY):
            changes.append(event)
            if len(changes) == number:
                os._exit(9)
    sys.addaudithook(hook)
    write("new")
    os._exit(0)

number, code = 0, 9
while code == 9:
    number += 1
    write("old")
    child = os.fork()
    if not child:
        doomed(number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    before = found()
    files.sweep(place)
    states.append(found()["a"])
    assert found() in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"}), (number, found())
    assert before == found() or (not exchange and before is None), (number, before)
    assert [path.name for path in place.iterdir()] == ["model"], number
print(code, *states)
"""


def alone(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ALONE + code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_killed_before_any_change_of_the_disk_the_old_or_the_new_folder_is_there(tmp_path: Path, how: str) -> None:
    done = alone(KILLED, str(tmp_path), how)
    assert done.returncode == 0, done.stderr
    code, *states = done.stdout.split()
    assert code == "0"
    # Made: the folder and two files. Then the exchange or two renames; what is deleted after that is the old one.
    assert states[:4] == ["old"] * 4
    assert states[-1] == "new"
    assert len(states) > 6


READER = """
folder = Path(sys.argv[1]) / "model"

def write(content):
    with files.new_folder(folder) as part:
        (part / "a").write_text(content)

write("0")
child = os.fork()
if not child:
    for number in range(100):
        write(str(number))
    os._exit(0)
looks = 0
while os.waitpid(child, os.WNOHANG) == (0, 0):
    assert folder.is_dir()
    looks += 1
print(looks)
"""


def test_a_reader_always_finds_a_folder(tmp_path: Path) -> None:
    done = alone(READER, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


LOCK = """
try:
    with files.exclusive(Path(sys.argv[1])):
        print("got it")
except RuntimeError as error:
    print(error)
"""


def test_two_processes_cannot_share_a_run_folder(tmp_path: Path) -> None:
    run, holder = tmp_path / "run", f"process {os.getpid()} on {os.uname().nodename}"
    with files.exclusive(run):
        refused = alone(LOCK, str(run)).stdout
        with pytest.raises(RuntimeError, match=f"is in use by {re.escape(holder)}: wait for it or stop it"), files.exclusive(run):
            pass
    assert refused == f"run folder {run} is in use by {holder}: wait for it or stop it, or start a run of another name\n"
    assert alone(LOCK, str(run)).stdout == "got it\n"
    with files.exclusive(run), files.exclusive(tmp_path / "other"):
        pass
    with pytest.raises(ZeroDivisionError), files.exclusive(run):
        raise ZeroDivisionError
    with files.exclusive(run):
        pass


WORKER = """
import time

with files.exclusive(Path(sys.argv[1])):
    worker = os.fork()
    if not worker:
        time.sleep(600)
    print(worker, flush=True)
    time.sleep(600)
"""


def wait_for_lock(folder: Path, seconds: float = 20) -> None:
    """A fork lets go of the lock when it first runs, which a busy machine may put off."""
    for _ in range(round(seconds / 0.1)):
        try:
            with files.exclusive(folder):
                return
        except RuntimeError:
            time.sleep(0.1)
    raise AssertionError(f"the lock of {folder} is held")


def test_a_worker_that_outlives_a_killed_run_does_not_keep_its_lock(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", ALONE + WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    with pytest.raises(RuntimeError, match=f"is in use by process {run.pid} on "), files.exclusive(tmp_path):
        pass
    run.kill()
    run.wait()
    try:
        os.kill(worker, 0)
        wait_for_lock(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        run.stdout.close()


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o007, 0o660)])
def test_weights_can_be_read_by_whom_the_umask_allows(mask: int, rights: int, tmp_path: Path) -> None:
    """safetensors makes its files 0600, whatever the umask."""
    before = os.umask(mask)
    try:
        with files.new_folder(tmp_path / "model") as folder:
            small_model("tabular").save_pretrained(folder)
        with files.new_file(tmp_path / "heads.safetensors") as part:
            save_file({"a": torch.zeros(2)}, part)
    finally:
        os.umask(before)
    for file in [*(tmp_path / "model").iterdir(), tmp_path / "heads.safetensors"]:
        assert stat.S_IMODE(file.stat().st_mode) == rights, file.name
    assert sorted(each.name for each in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]

"""A process that forks those of a run, for all tests that ask it to."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

LIMIT = 90.0
"""Seconds after which the processes of a request are killed; they take two or three."""


Ask = Callable[..., list[str]]
Whole = Callable[[str], tuple[list[str], Any]]


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Ask `many.py`, a process of its own (this one may have threads, which a fork would not copy), to run mmssl; see `_send`."""
    log = tmp_path_factory.mktemp("many") / "log.txt"
    command = [sys.executable, str(Path(__file__).with_name("many.py"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment) as server,
    ):
        yield partial(_send, server, log)
        # It ends when nobody can ask it any more.


@pytest.fixture(scope="module")
def alone(
    request: pytest.FixtureRequest, ask: Ask, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[list[str], Any]]:
    """The command of a case of a file, and what one process comes to with it: run once for all cases that share it.

    The file has its `CASES`, and says by `result` what a folder holds in the end.
    """
    known: dict[Any, tuple[list[str], Any]] = {}

    def found(name: str) -> tuple[list[str], Any]:
        case = request.module.CASES[name]
        key = (case.recipe, case.overrides)
        if key not in known:
            folder = tmp_path_factory.mktemp("alone")
            arguments = case.arguments(folder)
            ask(folder, *arguments)
            known[key] = arguments, request.module.result(folder)
        return known[key]

    return found


def _send(
    server: subprocess.Popen[bytes],
    log: Path,
    folder: Path,
    *arguments: str,
    processes: int = 1,
    codes: Sequence[int] | None = None,
    seconds: float = LIMIT,
    own: Mapping[int, Sequence[str]] | None = None,
    environment: Mapping[int, Mapping[str, str]] | None = None,
    **planted: Any,
) -> list[str]:
    """Run a command; what each process wrote.

    codes: how they must end; None: all with 0. own, environment: arguments and variables of one process by its number.
    """
    assert server.stdin is not None
    assert server.stdout is not None
    folder.mkdir(exist_ok=True)
    request = {"arguments": arguments, "processes": processes, "folder": str(folder), "seconds": seconds, "planted": planted}
    request |= {"own": own or {}, "environment": environment or {}}
    server.stdin.write(json.dumps(request).encode() + b"\n")
    server.stdin.flush()
    # The first request waits for the imports, on a machine that may have other work.
    ready, _, _ = select.select([server.stdout], [], [], seconds + 600)
    line = server.stdout.readline() if ready else b""
    if not line:
        server.kill()
    assert line, f"many.py does not answer\n{log.read_text(encoding='utf-8')}"
    answer = json.loads(line)
    found = [(folder / f"out-{rank}.txt").read_text(encoding="utf-8") for rank in range(processes)]
    shown = "\n".join(f"--- process {rank}\n{text}" for rank, text in enumerate(found))
    assert not answer["late"], f"not done after {seconds} s: killed\n{shown}"
    assert answer["codes"] == list(codes or [0] * processes), f"ended with {answer['codes']}\n{shown}"
    return found

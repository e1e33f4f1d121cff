"""The folder of a run: what was run, what it measured, what it made. A run never overwrites another."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mmssl import files
from mmssl.recipe import Recipe, RecipeError, changed_keys, load
from mmssl.recipe.options import RunOptions
from mmssl.training import checkpoint

PACKAGES = ("mmssl", "torch", "transformers", "accelerate", "datasets", "numpy", "scikit-learn")

FREE = (
    *("run.dir", "run.name", "evaluate", "resume", "data.workers", "data.cache"),
    *("train.log_every", "train.checkpoint_every", "train.keep_last", "train.trackers"),
)
"""Keys that may change on resume: they do not change what is learned."""


class Run:
    """An open run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics_file = folder / "metrics.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.model_folder = folder / "model"
        self.report_file = folder / "report.html"
        self.record_file = folder / "run.json"
        self.recipe_file = folder / "recipe.yaml"
        self.table_file = folder / "table.json"

    @classmethod
    def open(cls, recipe: Recipe, resume: str) -> "Run":
        """A new folder, or with resume the one to continue: `auto` = the latest of this name if there is one, else its path.

        ValueError that lists the keys if the recipe differs from the one that the folder was started with.
        """
        options: RunOptions = recipe.section("run")
        base = Path(options.dir) / (options.name or recipe.name)
        if resume == "never":
            return cls.start(base, recipe)
        latest = newest_of(base) if resume == "auto" else Path(resume)
        if latest is None:
            return cls.start(base, recipe)
        run = cls(latest)
        if not run.recipe_file.exists():
            raise FileNotFoundError(f"resume={resume}: no run there (no recipe.yaml); give the folder of a run, or resume=auto")
        run.check(recipe)
        return run

    @classmethod
    def start(cls, base: Path, recipe: Recipe) -> "Run":
        """Make a folder that did not exist and write down what will run there."""
        run = cls(make_folder(base))
        run.record(name=base.name, command=command_line(), started=now(), **facts())
        files.write_text(run.recipe_file, recipe.to_yaml())
        return run

    def check(self, recipe: Recipe) -> None:
        """ValueError if the recipe of the folder is not the one given, for keys that change what is learned."""
        before = Recipe.read_resolved(self.recipe_file)
        with suppress(RecipeError):  # then keys that differ are told below; keys that mmssl had not yet have their defaults
            before = load(before).resolved()
        differences = changed_keys(before, recipe.resolved())
        changed = [line for line in differences if not line.startswith(FREE)]
        if changed:
            listed = "\n  ".join(changed)
            raise ValueError(
                f"cannot resume {self.folder}: the recipe is not the one that it was started with:\n  {listed}\n"
                "Give the old values, or leave resume out to start a new run."
            )

    @property
    def name(self) -> str | None:
        """The name that the run was started with: its folder's without the number. None if an older mmssl did not write it down."""
        record = self.read_record()
        name: str | None = record["name"] if "name" in record else Recipe.read_resolved(self.recipe_file)["run"]["name"]
        return name

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and published its model."""
        return "finished" in self.read_record()

    @contextmanager
    def dropped_if_useless(self) -> Iterator[None]:
        """Delete the folder of a run that wrong input, or Ctrl-C, ends before it has logged a step or written a checkpoint."""
        try:
            yield
        except (ValueError, TypeError, LookupError, OSError, ImportError, KeyboardInterrupt):
            if not self.rows() and checkpoint.newest(self.checkpoints) is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def read_record(self) -> dict[str, Any]:
        """What run.json holds: command, commit, versions, hardware, and at the end what was done."""
        if not self.record_file.exists():
            return {}
        record: dict[str, Any] = json.loads(self.record_file.read_text(encoding="utf-8"))
        return record

    def record(self, **values: Any) -> None:
        """Add facts to run.json."""
        files.write_json(self.record_file, self.read_record() | values)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows of metrics.jsonl (a killed run may leave half a line at the end)."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`: they will be measured again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        files.write_text(self.metrics_file, "".join(kept))

    @property
    def resume_command(self) -> str:
        """The command that continues this run, whoever started it."""
        words = [word for word in shlex.split(self.read_record()["command"]) if not word.startswith("resume=")]
        start = words if words[0] == "mmssl" else ["mmssl", "train", str(self.recipe_file)]
        return shlex.join([*start, f"resume={self.folder}"])


def make_folder(base: Path) -> Path:
    """Create `base`, or the first of `base-2`, `base-3`, ... that does not exist."""
    number = 1
    while True:
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def newest_of(base: Path) -> Path | None:
    """The latest run of the name `base.name`: the highest number among `base`, `base-2`, ...; None if there is none.

    A run of another name that ends in a number is none of them, nor is a folder whose run was killed before it wrote its recipe.
    """
    pattern = re.compile(re.escape(base.name) + r"(?:-(\d+))?")
    folders = base.parent.iterdir() if base.parent.is_dir() else ()
    matches = {path: match for path in folders if (match := pattern.fullmatch(path.name)) and (path / "recipe.yaml").exists()}
    found = {int(match[1] or 1): path for path, match in matches.items() if Run(path).name in (None, base.name)}
    return found[max(found)] if found else None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The exact command that started this process, the program by its name; `python` where an embedded interpreter has none."""
    program, *arguments = sys.argv or ["python"]
    return shlex.join([Path(program).name, *arguments])


def git_commit() -> str | None:
    """Commit of the working directory, `-dirty` if it has changes; None outside a repository."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def facts() -> dict[str, Any]:
    """Commit, package versions and hardware."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hardware = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpus": gpus}
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"commit": git_commit(), "versions": versions, "hardware": hardware, "platform": platform.platform()}


class Interrupted(SystemExit):
    """A run that stopped on a signal after writing a checkpoint."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(128 + signum)
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass
class StopRequest:
    """The signal that asked the run to stop, if any."""

    signum: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the loop can honour; a second signal acts as usual.

    Signals reach the main thread only: in any other thread this does nothing.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        signal.signal(signum, previous[signum])

    for signum in (signal.SIGINT, signal.SIGTERM):
        previous[signum] = signal.signal(signum, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

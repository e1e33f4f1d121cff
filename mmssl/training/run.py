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
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mmssl import files
from mmssl.data import processes
from mmssl.data.loader import KILLED, WorkerKilled, names_killed_worker
from mmssl.recipe import Recipe, RecipeError, changed_keys, load, yaml12
from mmssl.recipe.options import RunOptions
from mmssl.training import checkpoint
from mmssl.training.asked import LaunchError, taken
from mmssl.training.start import run_to_continue

PACKAGES = ("mmssl", "torch", "transformers", "accelerate", "datasets", "numpy", "scikit-learn")

FREE = (
    *("run.dir", "run.name", "evaluate", "resume", "data.workers", "data.cache"),
    *("train.log_every", "train.checkpoint_every", "train.keep_last", "train.async_save", "train.trackers"),
    "train.timeout",
)
"""Keys that may change on resume: they do not change what is learned."""
ONE_WAY = ("data.on_error: 'raise' -> 'skip'",)
"""Changes that may be made on resume, but not taken back: nothing was skipped before."""


class Run:
    """An open run folder. Of several processes the first one writes; what the others would write is left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics_file = folder / "metrics.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.model_folder = folder / "model"
        self.adapter_folder = folder / "adapter"
        self.projector_file = folder / "projector.safetensors"
        self.report_file = folder / "report.html"
        self.record_file = folder / "run.json"
        self.recipe_file = folder / "recipe.yaml"
        self.table_file = folder / "table.json"

    @classmethod
    def open(cls, recipe: Recipe, resume: str) -> "Run":
        """The one to continue, as `to_resume` has it, or a new folder."""
        options: RunOptions = recipe.section("run")
        return cls.to_resume(recipe, resume) or cls.start(Path(options.dir) / (options.name or recipe.name), recipe)

    @classmethod
    def to_resume(cls, recipe: Recipe, resume: str) -> "Run | None":
        """The run to continue: `auto` = the latest of this name if there is one, `never` = none, else its path.

        FileNotFoundError if there is no run at that path. ValueError that lists the keys if the recipe differs from the one
        that its folder was started with.
        """
        options: RunOptions = recipe.section("run")
        base = Path(options.dir) / (options.name or recipe.name)
        latest = {"never": None, "auto": newest_of(base)}.get(resume, Path(resume))
        if latest is None:
            return None
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
        changed = [line for line in differences if not line.startswith(FREE) and line not in ONE_WAY]
        if changed:
            listed = "\n  ".join(changed)
            raise ValueError(
                f"cannot resume {self.folder}: the recipe is not the one that it was started with:\n  {listed}\n"
                f"Give the old values, or {self.another}"
            )

    @property
    def another(self) -> str:
        """How to go on where this run cannot."""
        carry = f"; init={self.folder} carries the weights over" if checkpoint.has_complete(self.checkpoints) else ""
        return f"leave resume out to start a new run{carry}"

    def go_on(self, recipe: Recipe) -> None:
        """Write down how a run goes on that was started before: by which command, and what of its recipe is no more as it was."""
        if (command := command_line()) != self.read_record().get("command"):
            self.record(resumed=command)
        before = Recipe.read_resolved(self.recipe_file)
        if recipe.section("data").on_error == "skip" and before["data"]["on_error"] == "raise":
            before["data"]["on_error"] = "skip"
            files.write_text(self.recipe_file, yaml12.dump(before))

    @property
    def name(self) -> str | None:
        """The name that the run was started with: its folder's without the number. None if an older mmssl did not write it down."""
        record = self.read_record()
        name: str | None = record["name"] if "name" in record else Recipe.read_resolved(self.recipe_file)["run"]["name"]
        return name

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: its model is published, scored and drawn."""
        return "finished" in self.read_record()

    @property
    def trained(self) -> bool:
        """Whether the run has published its model; what may be left to do is to score and to draw."""
        return "trained" in self.read_record() and self.model_folder.is_dir()

    @contextmanager
    def after_training(self, undone: str) -> Iterator[None]:
        """NotScored for whatever fails in the block; undone: what the run is not yet, in the words of a user.

        Whatever: no fault of data, plug-ins, disk or scores may hide where the model is that was trained.
        """
        try:
            yield
        except Exception as error:
            without = ", or do without scores by adding evaluate=null" if undone == "scored" else ""
            raise NotScored(
                f"trained, but not {undone}: {told(error)}\nThe model is {self.model_folder}. Mend that{without}; then go on, "
                f"without training again, with:\n  {self.resume_command}"
            ) from error

    @contextmanager
    def telling_how_to_go_on(self, unless: type[Exception]) -> Iterator[None]:
        """Add to an error of the block the last checkpoint and the command that continues from it, if there is one.

        unless: errors that say themselves how to go on.
        """
        try:
            yield
        except Exception as failed:
            error = failed
            try:
                last = checkpoint.newest(self.checkpoints)
            except RuntimeError as later:  # torch tells of a killed worker once, wherever we are: here as well
                error, last = later, checkpoint.newest(self.checkpoints)
            if last is None or isinstance(error, unless):
                raise
            how = f"last checkpoint {last}; continue with:\n  {self.resume_command}"
            if names_killed_worker(error):
                raise WorkerKilled(f"{KILLED}; {how}") from error
            error.add_note(how[0].upper() + how[1:])
            raise

    @contextmanager
    def dropped_if_useless(self) -> Iterator[None]:
        """Delete the folder of a run that ends before it has logged a step or written a checkpoint.

        Wrong input ends it, Ctrl-C, or a launch that cannot work.
        """
        try:
            yield
        except (ValueError, TypeError, LookupError, OSError, ImportError, LaunchError, KeyboardInterrupt, processes.OtherFailed):
            if processes.is_first() and not self.rows() and not checkpoint.has_any(self.checkpoints):
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
        if not processes.is_first():
            return
        files.write_json(self.record_file, self.read_record() | values)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        if not processes.is_first():
            return
        with files.telling_full_disk(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows of metrics.jsonl (a killed run may leave half a line at the end)."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    @property
    def last_step(self) -> int:
        """The last step that was logged, 0 before the first."""
        rows = self.rows()
        return int(rows[-1]["step"]) if rows else 0

    @property
    def state(self) -> str:
        """How far it has come: finished, trained (but not scored or reported), or the last step that was logged."""
        return "finished" if self.finished else "trained" if self.trained else f"step {self.last_step:,}"

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`: they will be measured again."""
        if not processes.is_first():
            return
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        files.write_text(self.metrics_file, "".join(kept))

    @property
    def resume_command(self) -> str:
        """The command that continues this run, whoever started it: as it was last run. With rows in memory a call in Python."""
        record = self.read_record()
        if record.get("rows_in_memory"):
            return f'mmssl.train({str(self.recipe_file)!r}, ["resume={self.folder}"], rows=ROWS)'
        words = [word for word in shlex.split(record.get("resumed", record["command"])) if not word.startswith("resume=")]
        start = words if words[0] == "mmssl" else ["mmssl", "train", str(self.recipe_file)]
        count, machines = record.get("processes", 1), record.get("machines", 1)
        with_processes = [f"--processes={count}"] if count > machines == 1 else []
        strategy = record.get("strategy", "ddp")
        if strategy != "ddp" and not any(word.startswith("--st") for word in start):  # an Accelerate file asked for it
            with_processes.append(f"--strategy={strategy}")
        if (shards := record.get("dp_shard_size")) and not any(word.startswith("--dp") for word in start):
            with_processes.append(f"--dp-shard-size={shards}")
        return shlex.join([*start, f"resume={self.folder}", *with_processes])


def open_together(recipe: Recipe, stack: ExitStack) -> tuple[Run, str]:
    """The run, opened and locked by the first process, and what is written down in its folder."""

    def opened() -> tuple[str, str]:
        run = Run.open(recipe, recipe.resume)
        stack.enter_context(files.exclusive(run.folder))
        files.sweep(run.folder)
        if not run.finished:
            run.go_on(recipe)
            wanted = taken(os.environ)
            run.record(processes=processes.world(), machines=machines, strategy=wanted.name, dp_shard_size=wanted.shards)
        return str(run.folder), run.record_file.read_text(encoding="utf-8")

    machines = len(set(processes.gathered(platform.node())))
    folder, record = processes.by_first(opened)
    return Run(Path(folder)), record


def unfinished(recipe: Recipe) -> str | None:
    """What to tell who starts a run anew where the latest of its name was stopped and can go on; None: nothing."""
    options: RunOptions = recipe.section("run")
    latest = newest_of(Path(options.dir) / (options.name or recipe.name))
    if recipe.resume != "never" or latest is None:
        return None
    run = Run(latest)
    if run.finished or checkpoint.newest(run.checkpoints) is None:
        return None
    return f"note: {run.folder} is unfinished, at step {run.last_step:,}: resume=auto would continue it; this is a new run"


def check_seen(run: Run, record: str) -> None:
    """FileNotFoundError if this process does not see the folder of the run. record: what the first process reads there."""
    if not run.record_file.exists() or run.record_file.read_text(encoding="utf-8") != record:
        raise FileNotFoundError(
            f"{processes.name()} on {platform.node()} does not see the run folder {run.folder.absolute()} that process 0 made: "
            "it must lie where all processes see it; set run.dir"
        )


def check_run_to_continue(recipe: Recipe) -> None:
    """FileNotFoundError if `init` names a run that cannot be carried on, RecipeError if that had another objective."""
    before = run_to_continue(recipe)
    if before is not None and not checkpoint.has_complete(before / "checkpoints"):
        own = f" (init={before / 'model'})" if (before / "model").is_dir() else ""
        raise FileNotFoundError(f"init: {before} is a run without a complete checkpoint; give a model folder{own}, or another run")
    if before is not None and (before / "recipe.yaml").exists():
        known = Recipe.read_resolved(before / "recipe.yaml").get("objective", {}).get("name")
        if known not in (None, recipe.objective[0]):
            raise RecipeError(
                f"init: {before} is a run of the objective {known}, and goes on with its optimizer and schedule; this recipe has "
                f"{recipe.objective[0]}. To start from its weights give init={before / 'model'}"
            )


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


def told(error: BaseException) -> str:
    """An error in its own words, where they are for users; else with its kind."""
    if type(error) is LookupError:
        return str(error.args[0]) if error.args else "LookupError"
    own = isinstance(error, ValueError | OSError | RuntimeError) and str(error)
    return str(error) if own else f"{type(error).__name__}: {error}"


ONE_SIGNAL = 1.0
"""Seconds."""


class NotScored(RuntimeError):
    """A run is trained and its model published, but what comes after is not done."""


class Interrupted(SystemExit):
    """A run that stopped on a signal after writing a checkpoint."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(128 + signum)
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass
class StopRequest:
    """The signal that asked the run to stop, if any, and when."""

    signum: int | None = None
    time: float = 0.0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the loop can honour; a second signal acts as usual.

    A second one within `ONE_SIGNAL` is the first one again: of a terminal, and of the launcher, which has heard it too.

    Signals reach the main thread only: in any other thread this does nothing.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if request.signum is None:
            request.signum, request.time = signum, time.monotonic()
        elif processes.world() == 1 or time.monotonic() - request.time > ONE_SIGNAL:
            signal.signal(signum, previous[signum])
            signal.raise_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        previous[signum] = signal.signal(signum, handle)
    processes.asked_to_stop = lambda: request.signum is not None
    try:
        yield request
    finally:
        processes.asked_to_stop = bool
        for number, handler in previous.items():
            signal.signal(number, handler)

"""Kill a small run at random moments, resume it until it is finished, and compare it bit by bit with the run that nobody killed.

    python tests/invariant/kills.py --kills 50
    python tests/invariant/kills.py --kills 30 --processes 2
    python tests/invariant/kills.py --kills 15 --inside 5 --processes 2 --strategy zero2

Half of the kills come at a random instant, half right before a random change of the disk (a file opened for writing, a folder made,
renamed or removed), so that start-up, training, checkpoints and publishing are all hit. Those `--inside` a checkpoint come first: a
moment after its hidden folder appeared, and counted as such if that was still there afterwards. At last the finished run publishes
once more, over its first model, and is killed right before each renaming: a model is there at any time; not with
`--strategy`. Every attempt is `mmssl train RECIPE resume=auto` in a process of its own: forked, so that none pays for the imports.
Of several processes that share the run any one is killed; the others must end by themselves, or `NOTICED` seconds later by SIGTERM,
which a launcher sends them.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from many import warm_up_sharding

import mmssl_cli as cli
from mmssl.recipe import load
from mmssl.training import checkpoint
from mmssl.training.asked import STRATEGIES
from mmssl.training.run import newest_of

NAME = "tiny"
STEPS = 40
RECIPE = f"""
modalities:
  image: {{processor: {{size: 8, channels: 1}}, adapter: {{patch_size: 4}}, augment: {{flip: 0.5}}}}
encoder: {{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, drop_path_rate: 0.1}}
objective:
  name: masked
  mask: {{name: random, ratio: 0.5}}
  predictor: {{name: transformer, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}
data: {{path: "bundled:digits", limit: 64, workers: 1}}
train: {{batch_size: 16, accumulation: 2, max_steps: {STEPS}, ema: 0.9, checkpoint_every: 3, log_every: 5, keep_last: 2}}
evaluate: {{every: 15, train_limit: 64, test_limit: 64}}
"""
TIMING = ("seconds", "samples_per_second")
"""Columns of metrics.jsonl that tell how fast the run was."""
FORWARD = 0.5
"""The latest moment of a kill, as a share of the run that nobody kills: below 1, so that a run is killed several times."""
NOTICED = 10.0
"""Seconds that the processes have to notice by themselves that one was killed."""
PHASES = ("making the folder", "start-up", "training", "writing a checkpoint", "publishing", "replacing the model")


@dataclass(frozen=True)
class Result:
    """What must not depend on kills: published weights and all tensors of the last checkpoint (hashes), hidden files, metrics."""

    weights: str
    tensors: str
    leftovers: list[str]
    metrics: list[dict[str, Any]]


@dataclass
class Tally:
    """What happened so far."""

    runs: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.phases.total()


class Workplace:
    """A temporary folder with the recipe, in which attempts are forked."""

    def __init__(self, folder: Path, overrides: list[str], processes: int, strategy: str | None) -> None:
        self.folder, self.processes = folder, processes
        self.overrides = [*overrides, *(["--strategy", strategy] if strategy else [])]
        self.recipe = folder / f"{NAME}.yaml"
        self.recipe.write_text(RECIPE, encoding="utf-8")
        load(self.recipe, overrides)  # what a recipe may hold is worked out once for all attempts
        self.log, self.count = folder / "log.txt", folder / "count.txt"

    def fork(self, runs: Path, doom: int | None = None, *, renames: bool = False) -> list[int]:
        """Start an attempt; returns its process ids. doom: it kills itself before that many changes of the disk, or `renames`."""
        self.log.write_text("", encoding="utf-8")
        port, children = free_port(), list[int]()
        for rank in range(self.processes):
            child = os.fork()
            if not child:
                if self.processes > 1:
                    place = {"RANK": rank, "WORLD_SIZE": self.processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": self.processes}
                    os.environ.update({name: str(number) for name, number in place.items()})
                    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                self._attempt(runs, doom, renames)
            children.append(child)
        return children

    def _attempt(self, runs: Path, doom: int | None, renames: bool) -> NoReturn:
        with self.log.open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout.reconfigure(line_buffering=True)
        try:
            changes = watch_disk(runs, doom, renames)
            cli.main(["train", str(self.recipe), f"run.dir={runs}", "resume=auto", *self.overrides])
            if os.environ.get("RANK", "0") == "0":
                self.count.write_text(str(changes[0]), encoding="utf-8")
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def writes(self, runs: Path) -> set[str]:
        """Hidden folders of checkpoints that are not complete."""
        return {str(path) for path in (runs / NAME / "checkpoints").glob(".*.partial")}

    def phase(self, runs: Path, child: int) -> str:
        """What the killed process was doing, judged by what it left."""
        folder = newest_of(runs / NAME)
        if folder is None or not (folder / "recipe.yaml").exists():
            return "making the folder"
        if " steps (" not in self.log.read_text(encoding="utf-8"):
            return "start-up"
        if list((folder / "checkpoints").glob(f".*.{child}.*")):
            return "writing a checkpoint"
        return "publishing" if last_checkpoint(folder).exists() else "training"


def watch_disk(folder: Path, doom: int | None, renames: bool) -> list[int]:
    """Count the changes that this process makes below `folder`, in the list returned, and kill it right before number `doom`.

    renames: count nothing else.
    """
    counted, place = [0], str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            change = str(arguments[0]).startswith(place) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        elif event in ("os.remove", "os.rmdir"):
            # shutil.rmtree names what it removes below an open folder.
            change = str(arguments[0]).startswith(place) or arguments[1] != -1
        else:
            change = event in ("os.mkdir", "os.rename") and str(arguments[0]).startswith(place)
        if change and (not renames or event == "os.rename"):
            counted[0] += 1
            if counted[0] == doom:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return counted


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait(children: list[int], seconds: float) -> int | None:
    """Exit code of processes, negative for a signal, that of the killed one if there is one; None if one runs after so long."""
    end, codes, told = time.monotonic() + seconds, dict[int, int](), math.inf
    while time.monotonic() < end:
        for child in set(children) - set(codes):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
                if codes[child] == -signal.SIGKILL:
                    told = time.monotonic() + NOTICED
        if time.monotonic() > told:
            told = math.inf
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGTERM)
        if len(codes) == len(children):
            return -signal.SIGKILL if -signal.SIGKILL in codes.values() else max(codes.values(), key=abs)
        time.sleep(0.001)
    children[:] = [child for child in children if child not in codes]
    return None


def last_checkpoint(folder: Path) -> Path:
    return checkpoint.step_path(folder / "checkpoints", STEPS)


def result(runs: Path) -> Result:
    """What a finished run came to."""
    folder = newest_of(runs / NAME)
    assert folder is not None
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [{key: value for key, value in row.items() if key not in TIMING} for row in rows]
    hidden = sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))
    tensors = ", ".join(digest(file) for file in sorted(last_checkpoint(folder).glob("*.safetensors")))
    return Result(digest(folder / "model" / "model.safetensors"), tensors, hidden, metrics)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def differences(found: Result, expected: Result) -> list[str]:
    """In words, what a run that was killed has got wrong."""
    lines = []
    if found.weights != expected.weights:
        lines.append("model.safetensors differs")
    if found.tensors != expected.tensors:
        lines.append("the tensors of the last checkpoint differ")
    if found.leftovers != expected.leftovers:
        lines.append(f"there are left {', '.join(found.leftovers)}")
    if len(found.metrics) != len(expected.metrics):
        lines.append(f"metrics.jsonl has {len(found.metrics)} rows, not {len(expected.metrics)}")
    for row, other in zip(found.metrics, expected.metrics, strict=False):
        if row != other:
            lines.append(f"metrics.jsonl has {row}, not {other}")
            break
    return lines


def killed_inside(place: Workplace, runs: Path, tally: Tally) -> bool:
    """Kill a process while a checkpoint is written, of an attempt's first ones; whether the run was still to be killed."""
    seen, number = place.writes(runs), random.randint(1, 4)
    before, children = len(seen), place.fork(runs)
    while True:
        found = place.writes(runs) - seen
        if found and len(seen | found) - before >= number:
            time.sleep(random.uniform(0, 0.01))
            os.kill(random.choice(children), signal.SIGKILL)
            inside = bool(found & place.writes(runs))
            break
        seen |= found
        if os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.0005)
    code = wait(children, 300)
    if code == -signal.SIGKILL:
        tally.phases["writing a checkpoint" if inside else "training"] += 1
    elif code != 0:
        sys.exit(f"an attempt failed with exit code {code}:\n{place.log.read_text(encoding='utf-8')}")
    return code != 0


def killed_run(place: Workplace, runs: Path, tally: Tally, seconds: float, changes: int, kills: int, inside: int) -> None:
    """Kill a run again and again, until it gets to its end or `kills` are reached; then let it end.

    inside: so many of all kills are first to come inside the writing of a checkpoint.
    """
    while tally.phases["writing a checkpoint"] < inside:
        if not killed_inside(place, runs, tally):
            return
    while True:
        last = tally.kills >= kills
        by_file = not last and random.random() < 0.5
        children = place.fork(runs, random.randint(1, int(changes * FORWARD)) if by_file else None)
        first = children[0]
        code = wait(children, 600 if last or by_file else random.uniform(0, seconds * FORWARD))
        if code is None:
            os.kill(random.choice(children), signal.SIGKILL)
            code = wait(children, 120)
        if code == 0:
            return
        if code != -signal.SIGKILL:
            sys.exit(f"an attempt failed with exit code {code}:\n{place.log.read_text(encoding='utf-8')}")
        tally.phases[place.phase(runs, first)] += 1


def weights_of(found: dict[str, str]) -> dict[str, str]:
    """What a model needs: without its card, which is completed after scoring, and what a killed writer left hidden."""
    return {name: digest for name, digest in found.items() if name != "README.md" and not name.startswith(".")}


def killed_while_replacing(place: Workplace, runs: Path, tally: Tally) -> None:
    """Let a finished run publish again, over its model, and kill it before each renaming; the model must be whole each time."""
    folder = newest_of(runs / NAME)
    assert folder is not None
    model, record = folder / "model", folder / "run.json"
    expected, doom, code = digests(model), 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        facts = json.loads(record.read_text(encoding="utf-8"))
        for state in ("trained", "finished"):
            facts.pop(state, None)
        record.write_text(json.dumps(facts), encoding="utf-8")
        doom += 1
        code = wait(place.fork(runs, doom, renames=True), 600)
        found = digests(model)
        if weights_of(found) != weights_of(expected):
            tally.differences.append(f"killed before renaming number {doom}, the model folder holds {sorted(found) or 'nothing'}")
    if code != 0:
        sys.exit(f"an attempt failed with exit code {code}:\n{place.log.read_text(encoding='utf-8')}")
    tally.phases["replacing the model"] += doom - 1


def digests(folder: Path) -> dict[str, str]:
    """The files of a folder; none if it is not there."""
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def uninterrupted(place: Workplace, runs: Path) -> tuple[Result, float, int]:
    """The run that nobody kills: what it came to, its seconds, and how often it changed the disk."""
    begin = time.monotonic()
    code = wait(place.fork(runs), 600)
    if code != 0:
        sys.exit(f"the run without kills failed with exit code {code}:\n{place.log.read_text(encoding='utf-8')}")
    return result(runs), time.monotonic() - begin, int(place.count.read_text(encoding="utf-8"))


def warm_up() -> None:
    """Import what a run imports on its way, and keep the process free of threads, which a fork would not copy."""
    torch.set_num_threads(1)
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import mmssl.api  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--inside", type=int, default=0, help="so many of the kills first, while a checkpoint is written")
    parser.add_argument("--processes", type=int, default=1, help="that share the run")
    parser.add_argument("--strategy", choices=STRATEGIES, help="by which they share it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for the recipe")
    options = parser.parse_args()
    random.seed(options.seed)
    warm_up()
    if options.strategy:
        warm_up_sharding()
    begin, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory(prefix="mmssl-kills-") as folder:
        place = Workplace(Path(folder), options.overrides, options.processes, options.strategy)
        expected, seconds, changes = uninterrupted(place, place.folder / "whole")
        print(f"without kills: {seconds:.1f} s, {changes} changes of the disk, weights {expected.weights[:16]}", flush=True)
        while tally.kills < options.kills:
            runs = place.folder / "killed"
            killed_run(place, runs, tally, seconds, changes, options.kills, options.inside)
            tally.runs += 1
            print(f"{tally.kills} kills in {tally.runs} runs, {time.monotonic() - begin:.0f} s", flush=True)
            tally.differences += differences(result(runs), expected)
            if tally.kills >= options.kills and not options.strategy:
                killed_while_replacing(place, runs, tally)
                tally.differences += differences(result(runs), expected)
            shutil.rmtree(runs)
    hit = ", ".join(f"{tally.phases[phase]} {phase}" for phase in PHASES)
    print(f"{tally.kills} kills in {tally.runs} runs, {time.monotonic() - begin:.0f} s: {hit}")
    if tally.differences:
        sys.exit("DIFFERENT from the run without kills:\n  " + "\n  ".join(tally.differences))
    print("every run ended in the same weights, optimizer state and metrics as the one without kills")


if __name__ == "__main__":
    main()

"""Run `mmssl` on one or on many processes of this machine, again and again, without paying for its imports every time.

    python tests/invariant/many.py        # requests on the standard input, answers on the standard output, one line of JSON each

A request, {"arguments": ["train", ...], "processes": 2, "folder": ..., "seconds": 60, "planted": {...}}, forks so many processes,
each in the environment that `torchrun` would give it (but the first one holds the store, as under `srun`), in that working
directory; they write into out-0.txt, out-1.txt, ... there. The answer is {"codes": [0, 0], "late": false}: the exit code of each,
negative for a signal, and whether they took longer than `seconds` and were killed for it.

planted: changes that the processes make to mmssl before they start, each by its name in `PLANTED` and with its value: faults, which
laws must find, and what a test wants to know or to happen. Pictures and curves of the report are left out of all runs.
"""

import errno
import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import torch
import torch.distributed as dist
from faults import FAULTS
from held import held_written_down

import mmssl_cli as cli
from mmssl.data import Batch, Stream, processes
from mmssl.draws import Draws
from mmssl.objectives.networks import Clock, Networks
from mmssl.recipe import recipe as recipes
from mmssl.training import checkpoint
from mmssl.training.feed import Feed
from mmssl.training.loop import Made, Training
from mmssl.training.session import Session
from mmssl.training.sharding.strategy import Strategy

ALONE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What says that a process is one of several."""


@dataclass(frozen=True)
class Request:
    """What to run, on how many processes, where, for how long at most, and what to change before.

    own, environment: arguments and variables of one process, by its number.
    """

    arguments: Sequence[str]
    processes: int
    folder: str
    seconds: float
    planted: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def serve(request: Request) -> dict[str, Any]:
    """Fork the processes of a request, and wait for them; none is left when this returns."""
    with suppress(Exception):  # they find out themselves; what a recipe may hold is worked out once for all of them
        recipes.load(request.arguments[1], request.arguments[2:])
    if "--strategy" in request.arguments:
        warm_up_sharding()
    port = free_port()
    children = [fork(request, rank, port) for rank in range(request.processes)]
    codes: dict[int, int] = {}
    end, late = time.monotonic() + request.seconds, False
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() > end and not late:
            late = True
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    return {"codes": [codes[child] for child in children], "late": late}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fork(request: Request, rank: int, port: int) -> int:
    """Start one process of a request; returns its process id, which is that of its group."""
    child = os.fork()
    if not child:
        _work(request, rank, port)
    with suppress(ProcessLookupError, PermissionError):  # it does the same: whoever comes first
        os.setpgid(child, child)
    return child


def _work(request: Request, rank: int, port: int) -> NoReturn:
    code = 1
    try:
        with suppress(PermissionError):
            os.setpgid(0, 0)
        os.chdir(request.folder)
        redirect(Path(f"out-{rank}.txt"))
        for name in ALONE:
            os.environ.pop(name, None)
        if request.processes > 1:
            place = (rank, request.processes, rank, request.processes, "127.0.0.1", port)
            os.environ.update({name: str(value) for name, value in zip(ALONE, place, strict=True)})
        os.environ.update(request.environment.get(str(rank), {}))
        arguments = [*request.arguments, *request.own.get(str(rank), [])]
        sys.argv = ["mmssl", *arguments]
        Session.pictures = lambda *given: {}  # type: ignore[method-assign]
        sys.modules["mmssl.report.page"].charts = lambda metrics, table: []  # type: ignore[attr-defined]
        for name, value in request.planted.items():
            PLANTED[name](rank, value)
        cli.main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def redirect(file: Path) -> None:
    """What this process writes from here on goes into a file; it reads nothing."""
    with file.open("w", encoding="utf-8") as out, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)


def after_each_step(then: Callable[[Training], None]) -> None:
    """Plant something that happens after each step of this process."""
    move = Training.move

    def moved(self: Training, micro: list[Batch]) -> Made:
        made = move(self, micro)
        then(self)
        return made

    Training.move = moved  # type: ignore[method-assign]


def stop_after(rank: int, value: Mapping[str, int]) -> None:
    """Send SIGTERM to one process after a step: {"rank": 1, "step": 4}."""

    def then(training: Training) -> None:
        if training.counters.step == value["step"]:
            signal.raise_signal(signal.SIGTERM)

    if rank == value["rank"]:
        after_each_step(then)


def signal_after(rank: int, value: Mapping[str, int]) -> None:
    """A process sends itself a signal after a step: {"rank": 1, "step": 4, "number": 9}."""

    def then(training: Training) -> None:
        if training.counters.step == value["step"]:
            os.kill(os.getpid(), value["number"])

    if rank == value["rank"]:
        after_each_step(then)


def broken_after(rank: int, value: Mapping[str, int]) -> None:
    """The weights of one process are not numbers any more after a step: {"rank": 1, "step": 4}."""

    def then(training: Training) -> None:
        if training.counters.step == value["step"]:
            for parameter in training.objective.parameters():
                parameter.data.fill_(float("nan"))

    if rank == value["rank"]:
        after_each_step(then)


def elsewhere(rank: int, value: Mapping[str, Any]) -> None:
    """One process works in another folder, as one on another machine may: {"rank": 1, "folder": ...}."""
    if rank == value["rank"]:
        os.chdir(value["folder"])


def slowed_down(rank: int, seconds: float) -> None:
    """The second process sleeps in every step."""
    if rank == 1:
        after_each_step(lambda training: time.sleep(seconds))


def weights_written_down(rank: int, name: str) -> None:
    """Each process writes the step that it is at, and a digest of all tensors of its objective, into a file after each step."""

    def then(training: Training) -> None:
        found = hashlib.md5()
        for key, tensor in training.objective.state_dict().items():
            found.update(key.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        text = json.dumps({"step": training.counters.step, "md5": found.hexdigest(), "lr": training.lr})
        Path(f"{name}-{rank}.json").write_text(text, encoding="utf-8")

    after_each_step(then)


def while_writing(rank: int, value: Mapping[str, Any]) -> None:
    """What happens while a process writes its part of a checkpoint: {"rank": 1, "step": 4, "what": "killed", "full" or seconds}."""
    write = checkpoint.write_tensors

    def written(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        if f"step-{value['step']:09}" in str(file):
            if value["what"] not in ("killed", "full"):
                time.sleep(value["what"])
            else:
                file.write_bytes(b"half of it")
                if value["what"] == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, tensors)

    if rank == value["rank"]:
        checkpoint.write_tensors = written


def free_memory(rank: int, value: int) -> None:
    """So many bytes of main memory are free."""
    psutil.virtual_memory = lambda: SimpleNamespace(available=value)


def other_masks(rank: int, value: bool) -> None:
    """Each process draws other masks, and views, for the same sample."""
    Batch.draws = property(lambda self: Draws(self.keys).fork(1000 + rank) if rank else Draws(self.keys))  # type: ignore[assignment]


def gradient_summed(rank: int, value: bool) -> None:
    """The gradients of the processes are summed, not averaged."""
    prepare = Strategy.prepare

    def added(state: None, bucket: torch._C._distributed_c10d.GradBucket) -> torch.futures.Future[torch.Tensor]:
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])

    def prepared(self: Strategy, *arguments: Any, **options: Any) -> None:
        prepare(self, *arguments, **options)
        self.wrapped.register_comm_hook(None, added)  # type: ignore[operator]

    Strategy.prepare = prepared  # type: ignore[method-assign]


def teacher_moved_twice(rank: int, value: bool) -> None:
    """Averages and teachers move once for each process."""
    after_step = Networks.after_step

    def moved(self: Networks, clock: Clock) -> None:
        for _ in range(processes.world()):
            after_step(self, clock)

    Networks.after_step = moved  # type: ignore[method-assign]


def saves_what_it_read(rank: int, value: bool) -> None:
    """A run that goes on writes its checkpoint again, also before it has made a step."""
    restore = Session.restore

    def restored(self: Session) -> None:
        restore(self)
        self.saved = None

    Session.restore = restored  # type: ignore[method-assign]


def loss_of_one(rank: int, value: bool) -> None:
    """What is logged is what one process measured, as if the others had measured the same."""
    settled, gathered = Training.settled, processes.gathered

    def alone(self: Training, steps: Sequence[Made]) -> list[dict[str, float]]:
        processes.gathered = lambda value: [value] * processes.world()
        try:
            return settled(self, steps)
        finally:
            processes.gathered = gathered

    Training.settled = alone  # type: ignore[method-assign]


def sample_skipped(rank: int, value: bool) -> None:
    """The second process leaves out the last sample of each of its micro-batches, and tells nobody."""
    read = Feed.read

    def shorter(self: Feed, stream: Stream, start_step: int) -> Iterator[Batch]:
        for batch in read(self, stream, start_step):
            inputs = {name: {key: tensor[:-1] for key, tensor in tensors.items()} for name, tensors in batch.inputs.items()}
            yield replace(batch, inputs=inputs, keys=batch.keys[:-1], ids=batch.ids[:-1])

    if rank == 1:
        Feed.read = shorter  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[int, Any], None]] = {
    found.__name__: found
    for found in (
        *(stop_after, signal_after, broken_after, elsewhere, slowed_down, weights_written_down, while_writing),
        *(other_masks, gradient_summed, teacher_moved_twice, loss_of_one, sample_skipped),
        *(saves_what_it_read, held_written_down, free_memory, *FAULTS),
    )
}


def warm_up() -> None:
    """Import what a run imports on its way, and stay free of threads, which a fork would not copy."""
    torch.set_num_threads(1)
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import mmssl.api  # noqa: F401
    import mmssl.data.local_tables  # noqa: F401
    import mmssl.report.page  # noqa: F401


def warm_up_sharding() -> None:
    """Import what sharding imports on its way: that takes longer than what is trained here."""
    import torch._dynamo

    import mmssl.training.sharding.fsdp  # noqa: F401
    from mmssl.training.sharding.zero import imported

    if find_spec("deepspeed") is not None:
        imported(torch.device("cpu"))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what imports print is no answer
    warm_up()
    for line in sys.stdin:
        print(json.dumps(serve(Request(**json.loads(line)))), file=answers, flush=True)
    os._exit(0)  # nothing is left to do, and Python takes seconds for that


if __name__ == "__main__":
    main()

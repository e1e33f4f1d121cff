"""What the steps of a run measured: read from the device when it is due, watched for signs that the run goes wrong, averaged."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from statistics import fmean as mean
from typing import Any

from mmssl.data import processes
from mmssl.objectives.networks import Moving
from mmssl.training.health import Flag, Watch
from mmssl.training.loop import Made, Training


class Measured:
    """The measurements of a run since its last row of metrics.jsonl.

    Its metric `teacher_left` is the share of the initial weights that is left in the teacher, the product of its momenta so far; of
    several teachers in the first.

    sources: names of what the run reads. Of one source, measurements stay unread until they are logged, where an accelerator, or
        other processes, would have to be waited for; of several the losses decide which one is next.
    """

    def __init__(self, training: Training, sources: Iterable[str]) -> None:
        self.training = training
        self.watches = {name: Watch() for name in sources}
        self.unread: list[tuple[str, Made]] = []
        self.window: list[dict[str, float]] = []
        self.samples_logged = 0
        networks = training.objective.networks
        rules = [networks.rules[name] for name in networks.teachers]
        self.teacher = next((rule for rule in rules if isinstance(rule, Moving)), None)
        self.teacher_left: float | None = 1.0
        self.can_wait = len(self.watches) == 1 and (training.device.type != "cpu" or processes.world() > 1)

    def read(self) -> tuple[list[dict[str, float]], list[Flag]]:
        """Read what all processes measured since the last time: a row for each step, and the flags that they raise.

        TrainingError if a loss or a gradient was not finite.
        """
        unread, self.unread = self.unread, []
        rows, raised = self.training.settled([made for _, made in unread]) if unread else [], list[Flag]()
        for (source, made), row in zip(unread, rows, strict=True):
            if self.teacher is not None and self.teacher_left is not None:
                self.teacher_left *= self.teacher.momentum(made.clock.progress)
                row["teacher_left"] = self.teacher_left
            raised += self.watches[source].see(made.clock.step, row, made.clock.progress)
            if len(self.watches) > 1:
                row[f"loss_{source}"] = row["loss"]
        self.window += rows
        return rows, raised

    def row(self) -> dict[str, Any]:
        """The next row of metrics.jsonl: means over the steps since the last one."""
        counters = self.training.counters
        rows, self.window = self.window, []
        means = {key: mean([row[key] for row in rows if key in row]) for key in dict.fromkeys(key for row in rows for key in row)}
        rate = (counters.samples - self.samples_logged) / sum(row["step_seconds"] for row in rows)
        self.samples_logged = counters.samples
        means.pop("step_seconds")
        if "teacher_left" in means:
            means["teacher_left"] = rows[-1]["teacher_left"]  # as it is now, no mean
        found: dict[str, Any] = {
            "step": counters.step,
            "epoch": round(counters.step / self.training.steps_per_epoch, 4),
            "samples": counters.samples,
            "seconds": round(counters.seconds, 3),
        }
        return found | means | {"samples_per_second": rate, "skipped": counters.skipped}

    def flags(self) -> list[dict[str, Any]]:
        """All flags, in the order of their steps; with several sources each names its own."""
        several = len(self.watches) > 1
        found = [
            asdict(flag) | ({"source": name} if several else {}) for name, watch in self.watches.items() for flag in watch.flags
        ]
        return sorted(found, key=lambda flag: flag["step"])

    def state(self) -> dict[str, Any]:
        """What the next row and the next flag depend on; all that was measured must be read."""
        assert not self.unread
        watches = {name: watch.state() for name, watch in self.watches.items()}
        found = {"window": self.window, "samples_logged": self.samples_logged, "watches": watches}
        return found | {"teacher_left": self.teacher_left}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        self.window, self.samples_logged = state["window"], state["samples_logged"]
        self.teacher_left = state.get("teacher_left")  # None: of a version that did not count
        for name, watch in self.watches.items():
            watch.restore(state["watches"][name])

"""What a person sees while long work runs: a live display on a terminal, plain lines in a log."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import TypeVar

from rich import get_console
from rich import progress as rich
from rich.console import Console, RenderableType
from rich.table import Column
from rich.text import Text

from mmssl.report.numbers import compact

Item = TypeVar("Item")

WINDOW = 30.0
"""Seconds over which rates are measured, or four updates if those take longer."""
SPACING = 0.2
"""Seconds between two drawings of the display."""
LINE_EVERY = 10.0
"""Seconds between two lines in a log."""


class Told(rich.ProgressColumn):
    """A column of text, cut where the terminal ends."""

    def __init__(self, tell: Callable[[], str]) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis", justify="right"))
        self.tell = tell

    def render(self, task: rich.Task) -> Text:
        return Text(self.tell())


class Display(rich.Progress):
    """rich's bar with a line of `details` under it, which is empty until they are set."""

    details: Callable[[], list[str]] = list

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if details := self.details():
            yield Text("  ".join(details), no_wrap=True, overflow="ellipsis", style="dim")


class Progress:
    """Shows how far work is, how fast, and how long it will take.

    description: a word or two.
    total: where `done` will end; None if nobody knows.
    unit: what `done` counts, in the plural ("steps"); "seconds" are shown as durations.
    transient: remove the display at the end; in a log, say nothing of what is done before its first line would be due again.
    console: where to print; rich's global console by default, so that displays inside each other share the screen.
    clock: seconds, for tests.
    """

    def __init__(
        self,
        description: str,
        total: int | float | None,
        unit: str,
        *,
        transient: bool = False,
        console: Console | None = None,
        clock: Callable[[], int | float] = time.monotonic,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self._console, self._clock, self._transient = console or get_console(), clock, transient
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._metrics: dict[str, float] = {}
        self._skipped = 0
        self._updated_at: float | None = None
        self._shown_at, self._shown = -math.inf, ""
        name = Column(no_wrap=True, overflow="ellipsis", max_width=24)
        self._display = Display(
            rich.TextColumn("{task.description}", markup=False, table_column=name),
            rich.BarColumn(bar_width=None, table_column=Column(ratio=1)),
            *map(Told, (self._share, self._state, lambda: ", ".join(filter(None, (self._elapsed(), self._left()))))),
            console=self._console,
            # Without rich's refresh thread: a process with threads cannot fork data workers safely.
            auto_refresh=False,
            transient=transient,
            get_time=clock,
            expand=True,
        )
        self._display.details = self._details

    def __enter__(self) -> "Progress":
        self._display.add_task(self.description, total=self.total)
        self._display.add_task("samples", total=None, visible=False)
        self._work, self._samples = self._display.tasks
        if self._is_live:
            self._display.start()
        elif self._transient:
            self._shown_at = self._clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_live:
            self._display.stop()
        elif self._updated_at is not None and self._shown != self._state() and (self._shown or not self._transient):
            self._print_line()

    def update(self, done: int | float, *, metrics: Mapping[str, float] | None = None, samples: int = 0, skipped: int = 0) -> None:
        """Report progress; cheap enough for every step.

        done: in units of `total`, since the beginning (not since the last update).
        metrics: numbers to show, in their order but `loss` and `lr` first; what does not fit on the terminal is cut.
        samples: samples done; 0 if the work does not count samples: then the rate is in units.
        skipped: samples left out; shown if there are any.
        """
        now = self._clock()
        if self._updated_at is not None:
            self._display.speed_estimate_period = max(WINDOW, 4 * (now - self._updated_at))
        self._updated_at = now
        self._display.update(self._work.id, completed=done)
        self._display.update(self._samples.id, completed=samples)
        self._metrics, self._skipped = dict(metrics or {}), skipped
        if now - self._shown_at < (SPACING if self._is_live else LINE_EVERY):
            return
        self._shown_at = now
        if self._is_live:
            self._display.refresh()
        else:
            self._print_line()

    def message(self, text: str) -> None:
        """Print a line of its own, above the display."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=not self._is_live)

    def _amount(self, value: int | float) -> str:
        if self.unit == "seconds":
            return duration(value)
        return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"

    def _state(self) -> str:
        """`225/500 steps`."""
        unit = "" if self.unit == "seconds" else f" {self.unit}"
        of = "" if self.total is None else f"/{self._amount(self.total)}"
        return f"{self._amount(self._work.completed)}{of}{unit}"

    def _share(self) -> str:
        return f"{self._work.percentage:.0f}%" if self.total else ""

    def _left(self) -> str:
        """`0:15 left`, at the present rate; empty if unknown."""
        left = None if self._work.finished else self._work.time_remaining
        return "" if left is None else f"{duration(left)} left"

    def _elapsed(self) -> str:
        return duration(self._work.elapsed or 0)

    def _details(self) -> list[str]:
        """`loss 0.1234`, `lr 1.00e-3`, `1.20k samples/s`, `3 skipped`, other metrics."""
        first = [name for name in ("loss", "lr") if name in self._metrics]
        others = [name for name in self._metrics if name not in first]
        shown = [f"{name} {compact(self._metrics[name])}" for name in first]
        if self._samples.speed:
            shown.append(f"{compact(self._samples.speed, 3)} samples/s")
        elif self._work.speed and self.unit != "seconds":
            shown.append(f"{compact(self._work.speed, 3)} {self.unit}/s")
        if self._skipped:
            shown.append(f"{self._skipped:,} skipped")
        return shown + [f"{name} {compact(self._metrics[name])}" for name in others]

    def _print_line(self) -> None:
        """One line for a log; never wrapped."""
        self._shown = self._state()
        share = f" ({self._share()})" if self._share() else ""
        line = ", ".join(filter(None, (f"{self._shown}{share}", *self._details(), f"{self._elapsed()} elapsed", self._left())))
        self._console.print(f"{self.description}: {line}", markup=False, highlight=False, soft_wrap=True)


def track(
    iterable: Iterable[Item],
    description: str,
    total: int | float | None = None,
    *,
    unit: str = "items",
    console: Console | None = None,
) -> Iterator[Item]:
    """Yield the items of `iterable` and show how many were consumed; `total` defaults to its length, where it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total, unit, transient=True, console=console) as progress:
        progress.update(0)
        for done, item in enumerate(iterable, 1):
            yield item
            progress.update(done)


def duration(seconds: int | float) -> str:
    """`0:07`, `12:30`, `1:02:03`, `3d 04h`."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"

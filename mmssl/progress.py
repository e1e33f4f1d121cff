"""What a person sees while long work runs: a live display on a terminal, plain lines in a log."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from rich import get_console
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")

WINDOW = 30.0
"""Seconds over which rates are measured."""
SPACING = 0.2
"""Seconds between the marks in that window, and between two drawings of the display."""
LINE_EVERY = 10.0
"""Seconds between two lines in a log."""
SCALES = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
"""From which size on a number is divided by what, and the suffix that says so."""


@dataclass(frozen=True)
class Mark:
    """How far the work was at a time."""

    time: int | float
    done: int | float
    samples: int


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
        self._console, self._clock = console or get_console(), clock
        self._window: deque[Mark] = deque()
        self._metrics: dict[str, float] = {}
        self._skipped = 0
        self._began, self._shown_at = clock(), -math.inf
        self._transient = transient
        self._last = Mark(self._began, 0, 0)
        self._shown: str | None = None
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # Without rich's refresh thread: a process with threads cannot fork data workers safely.
            self._live = Live(console=self._console, auto_refresh=False, transient=transient, get_renderable=self._render)

    def __enter__(self) -> "Progress":
        self._began = self._clock()
        if self._transient and self._live is None:
            self._shown_at = self._began
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._window and self._shown != self._state() and not (self._transient and self._shown is None):
            self._print_line()

    def update(self, done: int | float, *, metrics: Mapping[str, float] | None = None, samples: int = 0, skipped: int = 0) -> None:
        """Report progress; cheap enough for every step.

        done: in units of `total`, since the beginning (not since the last update).
        metrics: numbers to show, in their order but `loss` and `lr` first; what does not fit on the terminal is cut.
        samples: samples done; 0 if the work does not count samples: then the rate is in units.
        skipped: samples left out; shown if there are any.
        """
        now = self._clock()
        self._mark(Mark(now, done, samples))
        self._metrics, self._skipped = dict(metrics or {}), skipped
        if self._live is None:
            if now - self._shown_at >= LINE_EVERY:
                self._print_line()
        elif now - self._shown_at >= SPACING:
            self._shown_at = now
            self._live.refresh()

    def message(self, text: str) -> None:
        """Print a line of its own, above the display."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=self._live is None)

    def _mark(self, mark: Mark) -> None:
        self._last = mark
        if not self._window or mark.time - self._window[-1].time >= SPACING:
            self._window.append(mark)
        while len(self._window) > 1 and mark.time - self._window[1].time >= WINDOW:
            self._window.popleft()

    def _rates(self) -> tuple[float, float]:
        """Units and samples per second, 0 where unknown."""
        first = self._window[0] if self._window else self._last
        seconds = self._last.time - first.time
        if seconds <= 0:
            return 0.0, 0.0
        return (self._last.done - first.done) / seconds, (self._last.samples - first.samples) / seconds

    def _amount(self, value: int | float) -> str:
        if self.unit == "seconds":
            return duration(value)
        return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"

    def _state(self) -> str:
        """`225/500 steps`."""
        unit = "" if self.unit == "seconds" else f" {self.unit}"
        of = "" if self.total is None else f"/{self._amount(self.total)}"
        return f"{self._amount(self._last.done)}{of}{unit}"

    def _share(self) -> str:
        return "" if not self.total else f"{min(1.0, self._last.done / self.total):.0%}"

    def _left(self) -> str:
        """`0:15 left`, at the present rate; empty if unknown."""
        rate, _ = self._rates()
        if self.total is None or rate <= 0 or self._last.done >= self.total:
            return ""
        return f"{duration((self.total - self._last.done) / rate)} left"

    def _elapsed(self) -> str:
        return duration(self._clock() - self._began)

    def _details(self) -> list[str]:
        """`loss 0.1234`, `lr 1.00e-3`, `1.20k samples/s`, `3 skipped`, other metrics."""
        first = [name for name in ("loss", "lr") if name in self._metrics]
        others = [name for name in self._metrics if name not in first]
        rate, samples = self._rates()
        shown = [f"{name} {compact(self._metrics[name])}" for name in first]
        if samples > 0:
            shown.append(f"{compact(samples, 3)} samples/s")
        elif rate > 0 and self.unit != "seconds":
            shown.append(f"{compact(rate, 3)} {self.unit}/s")
        if self._skipped:
            shown.append(f"{self._skipped:,} skipped")
        return shown + [f"{name} {compact(self._metrics[name])}" for name in others]

    def _print_line(self) -> None:
        """One line for a log; never wrapped."""
        self._shown, self._shown_at = self._state(), self._last.time
        share = f" ({self._share()})" if self._share() else ""
        times = [f"{self._elapsed()} elapsed", self._left()]
        line = ", ".join(part for part in (f"{self._shown}{share}", *self._details(), *times) if part)
        self._console.print(f"{self.description}: {line}", markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        """Two lines: how far, and how well. Each fits the width: the bar shrinks, then texts are cut."""
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
        grid.add_column(ratio=1)
        for _ in range(3):
            grid.add_column(no_wrap=True, overflow="ellipsis", justify="right")
        bar = ProgressBar(total=self.total, completed=self._last.done, pulse=self.total is None)
        times = ", ".join(part for part in (self._elapsed(), self._left()) if part)
        grid.add_row(Text(self.description), bar, self._share(), Text(self._state()), times)
        details = Text("  ".join(self._details()), no_wrap=True, overflow="ellipsis", style="dim")
        return Group(grid, details) if details else Group(grid)


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


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, console: Console | None = None) -> None:
    """Print rows as a table of `columns`; a missing or None cell is shown as `-`. In a log: aligned plain text, one line a row."""
    console = console or get_console()
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    numeric = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    if not console.is_terminal:
        for line in _plain(title, [list(columns), *cells], numeric):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    grid = Table(title=Text(title), title_justify="left")
    for column, number in zip(columns, numeric, strict=True):
        grid.add_column(Text(column), justify="right" if number else "left")
    for row_cells in cells:
        grid.add_row(*map(Text, row_cells))
    console.print(grid)


def _plain(title: str, lines: list[list[str]], numeric: list[bool]) -> list[str]:
    """Lines of cells, aligned to the right where a column is numeric."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(line, widths, numeric, strict=True)]
        for line in lines
    ]
    return [title, *("  ".join(line).rstrip() for line in aligned)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return compact(value) if isinstance(value, float) else str(value)


def compact(value: int | float, digits: int = 4) -> str:
    """A number in few characters, with `digits` significant digits: 0, 0.5000, 9876, 12.35k, 1.000e-3."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return f"{value:g}"
    if size < 1e-2 or size >= 1e15:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    scale, suffix = next((scale, suffix) for limit, scale, suffix in SCALES if size >= limit)
    decimals = max(0, digits - 1 - math.floor(math.log10(size / scale)))
    return f"{value / scale:.{decimals}f}{suffix}"


def duration(seconds: int | float) -> str:
    """`0:07`, `12:30`, `1:02:03`, `3d 04h`."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"

"""What a person sees: on a terminal, in a log, on a narrow screen."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from mmssl.report.numbers import compact
from mmssl.training.progress import Progress, duration, track

METRICS = {"std": 0.5, "loss": 0.123456, "lr": 1e-3, "best knn": 0.9123}


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def log(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, _environ={})


def text(console: Console) -> str:
    """All that was written, without control codes."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", console.file.getvalue()).replace("\r", "\n")


def lines(console: Console) -> list[str]:
    return [line.rstrip() for line in text(console).split("\n") if line.strip()]


def run(console: Console, updates: int, total: float | None = 12000.0, **options: Any) -> Clock:
    """`updates` updates, one per second and 100 steps."""
    clock = Clock()
    with Progress("masked digits", total, "steps", console=console, clock=clock) as progress:
        for i in range(updates):
            progress.update(i * 100, metrics=METRICS, samples=i * 6400, **options)
            clock.now += 1
        clock.now -= 1
    return clock


def test_log_shows_the_first_line_one_every_ten_seconds_and_the_last() -> None:
    console = log()
    run(console, 26)
    shown = [re.match(r"masked digits: ([\d,]+)/12,000 steps", line) for line in lines(console)]
    assert [match and match[1] for match in shown] == ["0", "1,000", "2,000", "2,500"]


def test_log_line_in_full() -> None:
    console = log()
    run(console, 61, skipped=3)
    assert lines(console)[-1] == (
        "masked digits: 6,000/12,000 steps (50%), loss 0.1235, lr 1.000e-3, 6400 samples/s, 3 skipped, std 0.5000, "
        "best knn 0.9123, 1:00 elapsed, 1:00 left"
    )


def test_log_has_no_control_codes_and_no_wrapped_lines() -> None:
    console = log(40)
    run(console, 12)
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "\x1b" not in written and "\r" not in written
    assert all(line.startswith("masked digits: ") for line in written.splitlines())


def test_log_line_of_the_end_is_not_repeated() -> None:
    console = log()
    run(console, 11)
    assert len(lines(console)) == 2


def test_log_of_a_failed_run_ends_where_it_failed() -> None:
    console = log()
    with pytest.raises(RuntimeError), Progress("fit", 10, "steps", console=console, clock=Clock()) as progress:
        for step in range(5):
            progress.update(step)
        raise RuntimeError
    assert [line.split(" steps")[0] for line in lines(console)] == ["fit: 0/10", "fit: 4/10"]


def test_nothing_is_shown_of_work_that_reported_nothing() -> None:
    console = log()
    with Progress("fit", 10, "steps", console=console):
        pass
    assert lines(console) == []


@pytest.mark.parametrize("width", [30, 40, 60, 80, 132])
def test_terminal_never_wraps(width: int) -> None:
    console = terminal(width)
    clock = Clock()
    with Progress("a description that is far too long to show", 123_456_789, "steps", console=console, clock=clock) as progress:
        for i in range(50):
            clock.now += 3000
            progress.update(i * 1000, metrics=METRICS | {f"metric {k}": 0.1 for k in range(9)}, samples=i * 10**9, skipped=12345)
    assert max(map(len, lines(console))) <= width
    rows = [line for line in lines(console) if "…" in line]
    assert all(line.startswith(("a", "loss")) for line in rows)


def test_terminal_at_eighty_columns_shows_everything_that_matters() -> None:
    console = terminal(80)
    run(console, 61, skipped=3)
    bar, details = lines(console)[-2:]
    assert re.fullmatch(r"masked digits ━+╸?[━ ]* +50% 6,000/12,000 steps 1:00, 1:00 left", bar)
    assert details == "loss 0.1235  lr 1.000e-3  6400 samples/s  3 skipped  std 0.5000  best knn 0.9123"


def test_terminal_is_drawn_a_few_times_a_second_only() -> None:
    console, clock = terminal(), Clock()
    with Progress("fit", 10_000, "steps", console=console, clock=clock) as progress:
        for step in range(10_000):
            clock.now += 0.0001
            progress.update(step)
    assert text(console).count("fit") < 10


def test_dumb_terminal_gets_lines() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={"TERM": "dumb"})
    run(console, 3)
    assert lines(console)[-1].startswith("masked digits: 200/12,000 steps")


def test_rate_is_of_the_last_half_minute() -> None:
    """A slow beginning, as a compiler's, is forgotten."""
    console, clock = log(), Clock()
    with Progress("fit", 1000, "steps", console=console, clock=clock) as progress:
        progress.update(0)
        clock.now += 600
        for step in range(1, 101):
            clock.now += 0.5
            progress.update(step)
    assert "100/1,000 steps (10%), 2.00 steps/s, 10:50 elapsed, 7:30 left" in lines(console)[-1]


def test_rate_of_steps_that_take_longer_than_half_a_minute() -> None:
    console, clock = log(), Clock()
    with Progress("fit", 10, "steps", console=console, clock=clock) as progress:
        for step in range(5):
            progress.update(step, samples=step * 400)
            clock.now += 40
        clock.now -= 40
    assert lines(console)[-1] == "fit: 4/10 steps (40%), 10.0 samples/s, 2:40 elapsed, 4:00 left"


def test_resumed_work_counts_only_what_it_did_itself() -> None:
    console, clock = log(), Clock()
    with Progress("fit", 1000, "steps", console=console, clock=clock) as progress:
        for step in range(500, 511):
            progress.update(step, samples=step * 64)
            clock.now += 1
    assert lines(console)[-1] == "fit: 510/1,000 steps (51%), 64.0 samples/s, 0:10 elapsed, 8:10 left"


def test_budget_in_seconds_is_shown_as_durations() -> None:
    console, clock = log(), Clock()
    with Progress("fit", 600.0, "seconds", console=console, clock=clock) as progress:
        for second in range(0, 61, 5):
            progress.update(second * 0.5, metrics={"loss": 1.0})
            clock.now += 5
    assert lines(console)[-1] == "fit: 0:30/10:00 (5%), loss 1.000, 1:00 elapsed, 19:00 left"


@pytest.mark.parametrize("make", [log, terminal])
def test_unknown_total(make: Callable[[], Console]) -> None:
    console = make()
    run(console, 30, total=None)
    assert "2,900 steps" in text(console) and "left" not in text(console) and "%" not in text(console)


@pytest.mark.parametrize("make", [log, terminal])
def test_message_is_printed_as_it_is(make: Callable[[], Console]) -> None:
    console = make()
    with Progress("fit", 10, "steps", console=console) as progress:
        progress.update(1)
        progress.message("row [7] of [bold]x.csv was left out")
    assert "row [7] of [bold]x.csv was left out" in lines(console)


@pytest.mark.parametrize("make", [log, terminal])
def test_track_yields_everything(make: Callable[[], Console]) -> None:
    assert list(track([1, 2, 3], "embed", unit="batches", console=make())) == [1, 2, 3]


def test_track_shows_the_length() -> None:
    console = terminal()
    assert list(track([1, 2, 3], "embed", unit="batches", console=console)) == [1, 2, 3]
    assert "3/3 batches" in text(console)
    assert list(track(iter("ab"), "embed", 2, console=console)) == ["a", "b"]
    assert "2/2 items" in text(console)


def test_short_side_work_leaves_no_line_in_a_log() -> None:
    console = log()
    assert list(track(range(10), "embed", console=console)) == list(range(10))
    assert text(console) == ""


def test_long_side_work_says_how_far_it_came() -> None:
    console, clock = log(), Clock()
    with Progress("embed", 10, "items", transient=True, console=console, clock=clock) as progress:
        progress.update(1)
        clock.now += 12
        progress.update(2)
    assert len(lines(console)) == 1
    assert lines(console)[0].startswith("embed: 2/10 items")


def test_displays_inside_each_other_share_the_terminal() -> None:
    console = terminal()
    with Progress("train", 10, "steps", console=console) as progress:
        progress.update(1)
        assert list(track(range(3), "embed", console=console)) == [0, 1, 2]
        progress.update(2)
    assert "train" in text(console) and "embed" in text(console)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0, "0"), (1, "1.000"), (0.5, "0.5000"), (-0.01234, "-0.01234"), (9876, "9876"), (9999.6, "10000")),
        *((12345, "12.35k"), (1.5e6, "1.500M"), (2e9, "2.000G"), (3.25e12, "3.250T"), (1e18, "1.000e18")),
        *((1e-3, "1.000e-3"), (-3e-7, "-3.000e-7"), (float("nan"), "nan"), (float("-inf"), "-inf")),
    ],
)
def test_compact(value: float | int, expected: str) -> None:
    assert compact(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00"), (-1, "0:00"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03"), (172799, "47:59:59"), (273600, "3d 04h")],
)
def test_duration(seconds: float | int, expected: str) -> None:
    assert duration(seconds) == expected

"""Schedules against closed forms, and the laws that all of them keep."""

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mmssl.recipe.schedules import SCHEDULES, Schedule, Warmup, constant, cosine, infinite, linear, wsd

STEPS = 1000

SETTINGS: dict[str, dict[str, Any]] = {
    "cosine": {"warmup": 0.1, "final": 0.1},
    "linear": {"warmup": 0.1, "final": 0.1},
    "constant": {"warmup": 0.1},
    "wsd": {"warmup": 0.1, "decay": 0.3, "final": 0.1},
    "infinite": {"warmup": 100, "cooldown": 300, "level": 0.5, "anneal": 0.2, "final": 0.1},
}


def course(schedule: Schedule, steps: int = STEPS) -> list[float]:
    """The schedule over a run with a budget in steps; one more value than steps: the end."""
    return [schedule(step, step / steps) for step in range(steps + 1)]


def test_every_schedule_is_covered() -> None:
    assert SETTINGS.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("name", SCHEDULES)
def test_laws(name: str) -> None:
    """Rises linearly from 0 to the peak, never rises again, jumps nowhere, stays within [0, 1]."""
    values = course(SCHEDULES[name](**SETTINGS[name]))
    assert values[:101] == pytest.approx([step / 100 for step in range(101)])
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values[100:]))
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 0.06  # 1 - sqrt falls steeply at its first step
    assert min(values) >= 0 and max(values) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"constant"}))
def test_ends_at_final(name: str) -> None:
    schedule = SCHEDULES[name](**SETTINGS[name])
    assert schedule(STEPS, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_settings_are_keyword_only_and_annotated(name: str) -> None:
    for parameter in inspect.signature(SCHEDULES[name]).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty


def test_cosine_closed_form() -> None:
    values = course(cosine(warmup=0.1, final=0.2))
    for step in range(100, 1001, 50):
        assert values[step] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * (step - 100) / 900)))


def test_linear_closed_form() -> None:
    values = course(linear(warmup=0.1, final=0.2))
    for step in range(100, 1001, 50):
        assert values[step] == pytest.approx(1 - 0.8 * (step - 100) / 900)


def test_constant_closed_form() -> None:
    assert course(constant(warmup=0.0)) == [1.0] * (STEPS + 1)


def test_wsd_closed_form() -> None:
    values = course(wsd(warmup=0.1, decay=0.2, final=0.0))
    assert values[100:801] == pytest.approx([1.0] * 701)
    for step in range(800, 1001, 25):
        assert values[step] == pytest.approx(1 - math.sqrt((step - 800) / 200), abs=1e-6)


def test_infinite_closed_form() -> None:
    values = course(infinite(warmup=100, cooldown=300, level=0.5, anneal=0.2, final=0.05))
    for step in range(100, 401, 50):
        assert values[step] == pytest.approx(0.5 + 0.25 * (1 + math.cos(math.pi * (step - 100) / 300)))
    assert values[400:801] == pytest.approx([0.5] * 401)
    for step in range(800, 1001, 25):
        assert values[step] == pytest.approx(0.5 * (0.05 / 0.5) ** ((step - 800) / 200))


def test_infinite_ignores_the_budget() -> None:
    schedule = infinite(warmup=10, cooldown=30, level=0.4, anneal=0.2, final=0.1)
    short, long = course(schedule, 100), course(schedule, 100_000)
    assert short[:80] == long[:80]


def test_infinite_without_annealing_is_constant_to_the_end() -> None:
    schedule = infinite(warmup=0, cooldown=0, level=0.4)
    assert course(schedule, 50) == pytest.approx([0.4] * 51)


def test_infinite_annealing_that_starts_during_the_cooldown_has_no_jump() -> None:
    values = course(infinite(warmup=100, cooldown=900, level=0.5, anneal=0.5, final=0.1))
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 0.011
    assert values[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("build", [cosine, linear, constant, wsd])
def test_warmup_in_steps_equals_its_share(build: Callable[..., Schedule]) -> None:
    assert course(build(warmup=100)) == pytest.approx(course(build(warmup=0.1)), abs=1e-6)


@pytest.mark.parametrize("build", [cosine, linear])
def test_warmup_in_steps_with_a_budget_in_minutes(build: Callable[..., Schedule]) -> None:
    """Steps of uneven duration: still continuous, still never rising after the peak, still ends at final."""
    schedule = build(warmup=50, final=0.1)
    seconds = [0.0]
    for step in range(1, 401):
        seconds.append(seconds[-1] + (5.0 if step < 3 else 1 + 0.9 * math.sin(step)))
    values = [schedule(step, second / seconds[-1]) for step, second in enumerate(seconds)]
    assert values[50] == pytest.approx(1)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values[50:]))
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 0.03
    assert values[-1] == pytest.approx(0.1)


def test_warmup_longer_than_the_run() -> None:
    values = course(cosine(warmup=2000))
    assert values == pytest.approx([step / 2000 for step in range(STEPS + 1)])
    assert cosine(warmup=1000, final=0.3)(1000, 1.0) == pytest.approx(0.3)


@pytest.mark.parametrize("build", [cosine, linear, constant, wsd])
def test_warmup_of_one_or_more_as_float_is_refused(build: Callable[..., Schedule]) -> None:
    with pytest.raises(ValueError, match=r"whole number of steps or a share of the budget below 1; got 5\.0"):
        build(warmup=5.0)


def test_wsd_phases_must_fit() -> None:
    with pytest.raises(ValueError, match=r"must fit into the budget; got 0\.5 \+ 0\.6 > 1"):
        wsd(warmup=0.5, decay=0.6)


def test_infinite_final_above_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"final must not be above level; got final 0\.5, level 0\.4"):
        infinite(warmup=1, cooldown=1, level=0.4, final=0.5)


def test_pydantic_keeps_int_and_float_warmup_apart() -> None:
    warmup: TypeAdapter[int | float] = TypeAdapter(Warmup)
    assert isinstance(warmup.validate_python(1), int) and isinstance(warmup.validate_python(1.0), float)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        warmup.validate_python(-1)

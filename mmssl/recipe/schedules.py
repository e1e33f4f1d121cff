"""The learning rate as a share of its peak: pure functions of the steps made and of the consumed share of the budget."""

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

Schedule = Callable[[int, float], float]
"""Called as schedule(step, progress): optimizer steps already made, and the consumed share of the run's budget, 0 to 1."""

Warmup = Annotated[int | float, Field(ge=0)]
"""Length of the linear warmup: an int counts optimizer steps, a float below 1 is a share of the budget."""

Final = Annotated[float, Field(ge=0, le=1)]
"""Learning rate at the end of the budget, as a share of the peak."""


def cosine(*, warmup: Warmup = 0.05, final: Final = 0.0) -> Schedule:
    """Linear warmup, then half a period of a cosine down to `final` (SGDR without restarts, arXiv 1608.03983, eq. 5).

    warmup: length of the warmup: a whole number of optimizer steps, or a share of the budget below 1.
    final: learning rate at the end of the budget, as a share of the peak.
    ValueError if `warmup` is neither an int nor below 1.
    """
    return _warmed(warmup, lambda t: final + (1 - final) * (1 + math.cos(math.pi * t)) / 2)


def linear(*, warmup: Warmup = 0.05, final: Final = 0.0) -> Schedule:
    """Linear warmup, then a straight line down to `final`.

    warmup: length of the warmup: a whole number of optimizer steps, or a share of the budget below 1.
    final: learning rate at the end of the budget, as a share of the peak.
    ValueError as for `cosine`.
    """
    return _warmed(warmup, lambda t: final + (1 - final) * (1 - t))


def constant(*, warmup: Warmup = 0.05) -> Schedule:
    """Linear warmup, then the peak until the end.

    warmup: length of the warmup: a whole number of optimizer steps, or a share of the budget below 1.
    ValueError as for `cosine`.
    """
    return _warmed(warmup, lambda t: 1.0)


def wsd(*, warmup: Warmup = 0.05, decay: Annotated[float, Field(gt=0, le=1)] = 0.2, final: Final = 0.0) -> Schedule:
    """Linear warmup, the peak, and in the last `decay` share of the budget a "1-sqrt" cooldown to `final`.

    Constant learning rate with cooldown of arXiv 2405.18392: 1 - sqrt(t), for t from 0 to 1 over the cooldown.

    warmup: length of the warmup: a whole number of optimizer steps, or a share of the budget below 1.
    decay: share of the budget that the cooldown takes.
    final: learning rate at the end of the budget, as a share of the peak.
    ValueError as for `cosine`, and if warmup and decay need more than the whole budget.
    """
    ramp = _ramp(warmup)
    if isinstance(warmup, float) and warmup + decay > 1:
        raise ValueError(f"warmup and decay must fit into the budget; got {warmup} + {decay} > 1. Make one of them shorter")

    def schedule(step: int, progress: float) -> float:
        cooled = max(0.0, 1 - (1 - progress) / decay)
        return ramp(step, progress) * (final + (1 - final) * (1 - math.sqrt(cooled)))

    return schedule


def infinite(
    *,
    warmup: Annotated[int, Field(ge=0)],
    cooldown: Annotated[int, Field(ge=0)],
    level: Annotated[float, Field(gt=0, le=1)] = 0.5,
    anneal: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    final: Annotated[float, Field(gt=0, le=1)] = 0.01,
) -> Schedule:
    """A schedule that needs no budget: linear warmup, cosine cooldown to a constant, and an optional annealing at the end.

    The infinite learning rate of arXiv 2403.08763 (section 7) and arXiv 2503.02844 (eq. 1), whose annealing is exponential:
    level * (final / level) ** t. Here t runs from 0 to 1 over the last `anneal` share of the budget; before that, the budget has
    no influence, so a run may be prolonged from any checkpoint of the constant phase.

    warmup, cooldown: optimizer steps.
    level: the constant, as a share of the peak.
    anneal: share of the budget that the annealing takes; 0: none.
    final: learning rate after the annealing, as a share of the peak; not 0, which no exponential reaches.
    ValueError if `final` is above `level`.
    """
    if final > level:
        raise ValueError(f"final must not be above level; got final {final}, level {level}. The annealing lowers the learning rate")
    ramp = _ramp(warmup)

    def schedule(step: int, progress: float) -> float:
        cooled = 1.0 if step >= warmup + cooldown else max(0.0, (step - warmup) / cooldown)
        annealed = max(0.0, 1 - (1 - progress) / anneal) if anneal else 0.0
        steady = level + (1 - level) * (1 + math.cos(math.pi * cooled)) / 2
        return float(ramp(step, progress) * steady * (final / level) ** annealed)

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "wsd": wsd,
    "infinite": infinite,
}


def _ramp(warmup: int | float) -> Schedule:
    """0 to 1 over the warmup, then 1. ValueError if `warmup` is a float that is not a share of the budget."""
    if isinstance(warmup, float) and warmup >= 1:
        raise ValueError(f"warmup must be a whole number of steps or a share of the budget below 1; got {warmup!r}")
    if not warmup:
        return lambda step, progress: 1.0
    if isinstance(warmup, int):
        return lambda step, progress: min(1.0, step / warmup)
    return lambda step, progress: min(1.0, progress / warmup)


def _warmed(warmup: int | float, shape: Callable[[float], float]) -> Schedule:
    """Linear warmup, then `shape` of the consumed share of what the warmup left of the budget.

    A warmup that is given in steps ends at the share warmup * (progress / step) of the budget. This is exact for budgets in steps
    or epochs; for one in minutes it follows the mean duration of a step, and the schedule stays continuous and monotonic: the
    consumed share of the rest grows in both step and progress.
    """
    ramp = _ramp(warmup)

    def schedule(step: int, progress: float) -> float:
        risen = ramp(step, progress)
        if risen < 1:
            return risen
        share = warmup * progress / step if isinstance(warmup, int) and warmup else warmup
        return shape(min(1.0, (progress - share) / (1 - share)) if share < 1 else 1.0)

    return schedule

"""Settings under which a run would train in vain, refused before it begins."""

from collections.abc import Sequence
from typing import cast

from mmssl.objectives import Objective
from mmssl.objectives.networks import Moving
from mmssl.recipe.options import TrainOptions
from mmssl.training.optim import groups_of

POINTS = 2000
"""Points at which the course of the learning rate is read."""
PEAK = 0.99
"""Share of its peak that the learning rate must come to."""
LONG = 10**12
"""Steps after which every phase that is counted in steps is over."""


def budget_in_steps(options: TrainOptions, samples: int) -> int:
    """Optimizer steps that the budget allows at most, with so many samples; 0: only its minutes, or its tokens, will tell."""
    budgets = [options.max_steps] if options.max_steps else []
    if options.max_epochs and not options.batch_tokens:
        budgets.append(max(1, round(options.max_epochs * samples / options.batch_size)))
    return min(budgets, default=0)


def refuse_vain(objective: Objective, options: TrainOptions, steps: int) -> None:
    """ValueError if a teacher never moves, the budget is too short for the schedule, or a part of `train.parts` has no parameter.

    steps: the budget, see `budget_in_steps`.
    """
    if problems := [*still_teachers(objective), *(endless_warmup(options, steps) or unfinished(options, steps))]:
        raise ValueError("\n".join(problems))
    groups_of(objective, options)


def still_teachers(objective: Objective) -> Sequence[str]:
    """What to say of moving averages that never move."""
    rules = [cast(Moving, objective.networks.rules[name]) for name in objective.networks.teachers]
    return [
        f"objective: the momentum of the teacher is {rule.start:g} at the start and {rule.end:g} at the end of the budget, so that "
        "it never moves from its initial weights; begin with a lower one, as 0.996"
        for rule in rules
        if rule.enough() is None
    ]


def endless_warmup(options: TrainOptions, steps: int) -> Sequence[str]:
    """What to say if the budget ends before the warmup of the learning rate does."""
    if not steps:
        return []
    highest = max(options.schedule(int(steps * place / POINTS), place / POINTS) for place in range(POINTS + 1))
    if highest >= PEAK:
        return []
    return [
        f"train.schedule: the learning rate comes to {highest:.0%} of train.lr and no further: the budget is {steps:,} steps, and "
        "the warmup is longer, or leaves nothing before the decay. Shorten train.schedule.warmup, give it as a share (0.05), or "
        "raise the budget"
    ]


def unfinished(options: TrainOptions, steps: int) -> Sequence[str]:
    """What to say if the budget ends in a phase of the learning rate that is counted in steps, as the cooldown of `infinite`."""
    if not steps:
        return []
    ends, would = options.schedule(steps, 1.0), options.schedule(LONG, 1.0)
    if abs(ends - would) <= (1 - PEAK) * max(ends, would) + 1e-6:
        return []
    return [
        f"train.schedule: the budget of {steps:,} steps ends while the learning rate is at {ends:.1%} of train.lr, on its way to "
        f"{would:.1%}: a phase that is counted in steps is longer. Shorten train.schedule.cooldown, or raise the budget"
    ]

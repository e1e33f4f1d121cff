"""The student and every copy of it that a run keeps: one owner, one rule for when copies are made, move and are published."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig

from mmssl.model import MMSSLConfig, MMSSLModel, load_model
from mmssl.model.public import OPEN_CLIP
from mmssl.model.teacher import ema_copy, ema_update
from mmssl.objectives.foreign import Foreign, is_foreign, load_foreign
from mmssl.processor import check_there

Published = Literal["student", "teacher"]
Shape = Literal["linear", "cosine"]
WarmupShare = Annotated[float, Field(ge=0, lt=1)]
AVERAGE = "average"
"""The average of the weights that `train.ema` asks for."""

KEPT = 0.05
"""Share of its initial weights that a teacher may hold at the end of a run; with more it teaches what it was initialised with."""
COURSE = 100
"""Points at which the course of a momentum is read."""


@dataclass(frozen=True)
class Clock:
    """How far a run is: optimizer steps made, and the consumed share of the budget, 0 to 1. The same on every process."""

    step: int = 0
    progress: float = 0.0


@dataclass(frozen=True)
class Moving:
    """A moving average of the student. The momentum goes from start to end over the budget.

    power: k, the batch size over the one that the momentum is meant for: momentum^k (arXiv 2307.13813, definition 1.2).
    shape: linear, or half a cosine (BYOL, arXiv 2006.07733, appendix J).
    warmup: share of the budget during which the momentum falls from 1 to start, before that (train_capi.py of CAPI, arXiv
        2502.08769): the teacher stays what it began as while the student's learning rate rises.
    """

    start: float
    end: float
    power: float = 1.0
    shape: Shape = "linear"
    warmup: float = 0.0

    def momentum(self, progress: float) -> float:
        """The momentum when `progress` of the budget is used up."""
        if progress < self.warmup:
            return float((1 + (self.start - 1) * progress / self.warmup) ** self.power)
        done = (progress - self.warmup) / (1 - self.warmup)
        done = done if self.shape == "linear" else (1 - math.cos(math.pi * done)) / 2
        return float((self.start + (self.end - self.start) * done) ** self.power)

    def left(self, steps: int) -> float:
        """Share of the initial weights that is left after a budget of so many steps: the product of the momenta."""
        return math.prod(self.momentum(step / steps) for step in range(1, steps + 1))

    def enough(self, share: float = KEPT) -> int | None:
        """About how many steps a budget must have to leave so little of the initial weights; None: the teacher never moves."""
        momenta = [self.momentum((i + 0.5) / COURSE) for i in range(COURSE)]
        each = sum(math.log(max(momentum, 1e-9)) for momentum in momenta) / COURSE
        return None if each == 0 else math.ceil(math.log(share) / each)


@dataclass(frozen=True)
class Frozen:
    """A model that never changes: a saved one, folder or Hub id, or the student as it is when the run starts (None).

    foreign: whether it may be a public encoder of pictures; see `load_foreign`.
    side: in pixels of the pictures that a public encoder gets; None: its own.
    """

    path: str | None = None
    foreign: bool = False
    side: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The student as it is when `start` of the budget is used up; before that, as it was at the start."""

    start: float


Rule = Moving | Frozen | Snapshot


def load_frozen(path: str) -> MMSSLModel:
    """A saved model of this toolkit. ValueError: it is of another one, whose weights would silently be left out."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if not isinstance(config, MMSSLConfig):
        raise ValueError(
            f"a frozen second network must be a model that mmssl saved; {path} is of type {config.model_type!r}. Name the model "
            "folder of a run, or a Hub id of such a model"
        )
    return load_model(path)


def check_readers(what: str, path: str | None, its: MMSSLConfig, mine: MMSSLConfig, names: Sequence[str]) -> None:
    """ValueError where a frozen model reads samples of a modality in another way than the student. what: the recipe key."""
    for name in names:
        own, other = (config.modalities[name]["processor"] for config in (mine, its))
        if own != other:
            key = next(key for key in own | other if own.get(key) != other.get(key))
            raise ValueError(
                f"{what}: {path} reads {name} in another way: its processor has {key}={other.get(key)!r}, that of the run "
                f"{own.get(key)!r}; give both the same processor, or start both from one model (init)"
            )


def warmup(step: int) -> float:
    """The highest momentum of an average after that many steps, so that a short run's does not hold on to the first weights.

    (1 + step) / (10 + step), as TensorFlow's `ExponentialMovingAverage` does it with `num_updates`. Teachers have none: their
    momentum is that of their papers.
    """
    return (1 + step) / (10 + step)


class Networks(nn.Module):
    """The student, and the copies that targets and the run ask for.

    Copies are made by `make`, or when one is first used: after the student was sharded or moved to its device, before there is an
    optimizer. They have no gradient and stay in evaluation mode: no stochastic depth.

    steady: whether each process must run its layers as often as the others do, whatever the sizes of its samples.
    """

    def __init__(self, student: MMSSLModel) -> None:
        super().__init__()
        self.student = student
        self.copies = nn.ModuleDict()
        self.rules: dict[str, Rule] = {}
        self.average_warms_up = True
        self.steady = False

    def want(self, name: str, rule: Rule) -> str:
        """Ask for a copy; returns the name under which it is kept: that of a copy by the same rule, if there is one."""
        for known, other in self.rules.items():
            if other == rule and known != AVERAGE != name:
                return known
        own, number = name, 1
        while own in self.rules:
            number += 1
            own = f"{name}_{number}"
        self.rules[own] = rule
        if isinstance(rule, Snapshot):
            self.register_buffer(f"taken_{own}", torch.zeros((), dtype=torch.bool))
        if isinstance(rule, Frozen) and rule.path is not None:
            if not rule.path.startswith(OPEN_CLIP):
                check_there(rule.path)
            foreign = rule.foreign and is_foreign(rule.path)
            self.copies[own] = load_foreign(rule.path, rule.side) if foreign else ema_copy(load_frozen(rule.path)).eval()
        return own

    def make(self) -> None:
        """Make the copies that are still missing."""
        for name in self.rules:
            if name not in self.copies:
                self.copies[name] = ema_copy(self.student).eval()

    def __getitem__(self, name: str) -> MMSSLModel:
        if name == "student":
            return self.student
        if name not in self.copies:
            self.make()
        return cast(MMSSLModel, self.copies[name])

    def foreign(self, name: str) -> Foreign | None:
        """A network that is a public encoder of pictures; None if it is one of mmssl."""
        found = self.copies[name] if name in self.copies else None  # noqa: SIM401, a ModuleDict has no get
        return found if isinstance(found, Foreign) else None

    def config(self, name: str) -> MMSSLConfig:
        """The configuration of a network, made or not."""
        network = self.copies[name] if name in self.copies else self.student  # noqa: SIM401, a ModuleDict has no get
        return cast(MMSSLModel, network).config

    def train(self, mode: bool = True) -> "Networks":
        """Copies stay in evaluation mode."""
        super().train(mode)
        self.copies.eval()
        return self

    @property
    def teachers(self) -> list[str]:
        """The moving averages that objectives keep, in the order in which they were asked for."""
        return [name for name, rule in self.rules.items() if isinstance(rule, Moving) and name != AVERAGE]

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        """Move the averages and take the snapshots that are due; `clock` counts the step that was made."""
        self.make()
        for name, rule in self.rules.items():
            if isinstance(rule, Moving):
                momentum = rule.momentum(clock.progress)
                if name == AVERAGE and self.average_warms_up:
                    momentum = min(momentum, warmup(clock.step))
                ema_update(self[name], self.student, momentum)
            elif isinstance(rule, Snapshot) and clock.progress >= rule.start:
                taken = self.get_buffer(f"taken_{name}")
                if not taken:
                    self[name].load_state_dict(self.student.state_dict())
                    taken.fill_(True)

    def published(self, which: Published) -> MMSSLModel:
        """The model to publish: the average where the run keeps one, else the student or its first teacher."""
        return self.kinds[self.publishes(which)]

    def publishes(self, which: Published) -> str:
        """What `published` is: average, student or teacher."""
        return AVERAGE if AVERAGE in self.rules else which

    @property
    def kinds(self) -> "Kinds":
        """The networks that can be published, by what they are."""
        names = {"student": "student"} | ({"teacher": self.teachers[0]} if self.teachers else {})
        return Kinds(self, names | ({AVERAGE: AVERAGE} if AVERAGE in self.rules else {}))


class Kinds(Mapping[str, MMSSLModel]):
    """Networks by what they are; copies that are not made yet are made when they are looked up."""

    def __init__(self, networks: Networks, names: Mapping[str, str]) -> None:
        self.networks, self.names = networks, names

    def __getitem__(self, kind: str) -> MMSSLModel:
        return self.networks[self.names[kind]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

"""Which of several sources the next optimizer step reads: a schedule that every process computes alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from mmssl.draws import Draws, keys

Numbers = Float[np.ndarray, " k"]


@runtime_checkable
class Mixing(Protocol):
    """The probability of each of k sources, from their sizes, their weights in the recipe, and what was learned so far."""

    def probabilities(self, sizes: Numbers, weights: Numbers, rewards: Numbers, step: int) -> Numbers: ...

    def reward(self, before: float, loss: float, probability: float) -> float:
        """The reward of a source after a step on it; `loss` relative to the first one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Weights:
    """In proportion to the weight of each source."""

    def probabilities(self, sizes: Numbers, weights: Numbers, rewards: Numbers, step: int) -> Numbers:
        return weights / weights.sum()

    def reward(self, before: float, loss: float, probability: float) -> float:
        return before


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """In proportion to weight x samples^(1 / temperature) (T5, arXiv 1910.10683, section 3.5.2).

    temperature: 1 = in proportion to the samples of each source; towards infinity all alike.
    """

    temperature: Annotated[float, Field(ge=1)] = 2.0

    def probabilities(self, sizes: Numbers, weights: Numbers, rewards: Numbers, step: int) -> Numbers:
        scores = weights * sizes ** (1 / self.temperature)
        return scores / scores.sum()

    def reward(self, before: float, loss: float, probability: float) -> float:
        return before


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Online data mixing: more of what is still hard (arXiv 2312.02406, algorithm 1, an EXP3 bandit whose reward is the loss).

    Losses of modalities have different scales, so the reward is the loss over the first loss of its source. Weights are not used.

    smoothing: share of the old reward that is kept at a step (alpha).
    """

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def probabilities(self, sizes: Numbers, weights: Numbers, rewards: Numbers, step: int) -> Numbers:
        count = len(sizes)

        def exploration(t: int) -> float:
            return min(1 / count, math.sqrt(math.log(count) / (count * max(t, 1))))

        scores = np.exp(exploration(step) * (rewards - rewards.max()))
        epsilon = exploration(step + 1)
        return (1 - count * epsilon) * scores / scores.sum() + epsilon

    def reward(self, before: float, loss: float, probability: float) -> float:
        return self.smoothing * before + (1 - self.smoothing) * loss / probability


MIXINGS: dict[str, Callable[..., Mixing]] = {"weights": Weights, "temperature": Temperature, "learned": Learned}


class Mixture:
    """The course of a run through its sources: how often each was read, and the choice of the next one.

    sizes: samples of each source; weights: as in the recipe. The choice depends on the seed, the step and `learn` alone.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], mixing: Mixing, seed: int) -> None:
        self.names: Sequence[str] = list(sizes)
        self._sizes = np.array([sizes[name] for name in self.names], dtype=np.float64)
        self._weights = np.array([weights[name] for name in self.names], dtype=np.float64)
        self.mixing, self.seed = mixing, seed
        self.steps = dict.fromkeys(self.names, 0)
        self._first: dict[str, float] = {}
        self._rewards = dict.fromkeys(self.names, 0.0)

    def probabilities(self) -> dict[str, float]:
        """The probability of each source at the next step."""
        rewards = np.array([self._rewards[name] for name in self.names])
        found = self.mixing.probabilities(self._sizes, self._weights, rewards, sum(self.steps.values()))
        return dict(zip(self.names, found.tolist(), strict=True))

    def choose(self) -> str:
        """The source of the next step."""
        draw = Draws(keys(self.seed, sum(self.steps.values()), torch.zeros(1, dtype=torch.int64))).uniform("mix").item()
        ends = np.cumsum(list(self.probabilities().values()))
        return self.names[min(int(np.searchsorted(ends, draw * ends[-1], side="right")), len(self.names) - 1)]

    def learn(self, name: str, loss: float) -> None:
        """Count a step on source `name`, whose mean loss over all processes was `loss`."""
        first = self._first.setdefault(name, abs(loss) or 1.0)
        self._rewards[name] = self.mixing.reward(self._rewards[name], loss / first, self.probabilities()[name])
        self.steps[name] += 1

    def pass_over(self, name: str) -> None:
        """Count a step on source `name` that had no sample to learn from."""
        self.steps[name] += 1

    def state(self) -> dict[str, Any]:
        """Everything that the next choice depends on."""
        return {"steps": dict(self.steps), "first": dict(self._first), "rewards": dict(self._rewards)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`. ValueError if it is that of other sources."""
        if list(state["steps"]) != list(self.names):
            raise ValueError(f"the checkpoint mixes the sources {list(state['steps'])}, the recipe {list(self.names)}")
        self.steps, self._first, self._rewards = dict(state["steps"]), dict(state["first"]), dict(state["rewards"])

"""What an objective says of a batch, in a form that adds up over the micro-batches and processes of an optimizer step.

A mean of means depends on how a step is cut: (x1 / n1 + x2 / n2) / 2 is not (x1 + x2) / (n1 + n2). So a loss is a sum and a weight
for each sample until all weights of the step are known, and a measurement is whatever its value can be computed from afterwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Num, Shaped
from pydantic import Field
from torch import Tensor

Weight = Annotated[float, Field(gt=0)]
"""A factor on a part of the loss."""


@dataclass(frozen=True)
class Term:
    """A part of the loss. It counts with the mean over all samples of the step, weighted, times its factor.

    total: weight x loss of each sample (of each mask of each sample; of each anchor).
    weight: how much each counts: the number of its predicted tokens, say; 0 = the sample says nothing here.
    factor: on the mean.
    """

    total: Float[Tensor, " k"]
    weight: Num[Tensor, " k"]
    factor: float = 1.0

    @classmethod
    def samples(cls, loss: Float[Tensor, "*shape"], weight: Num[Tensor, " k"] | None = None, *, factor: float = 1.0) -> "Term":
        """From a loss for each sample, with its weight (None: all alike). ValueError for anything but one value for each."""
        if loss.dim() != 1:
            raise ValueError(
                f"a term needs a loss for each sample, [batch]; got the shape {list(loss.shape)}. A mean could not be added up "
                "over the micro-batches of a step: give the values. Of a loss that only a whole batch has, Term.whole"
            )
        if weight is None:
            return cls(loss, torch.ones_like(loss, dtype=torch.int64), factor)
        return cls(loss * weight, weight, factor)

    @classmethod
    def tokens(cls, loss: Float[Tensor, "*parts b m"], counted: Bool[Tensor, "*parts b m"], *, factor: float = 1.0) -> "Term":
        """From a loss for each token: every token that is `counted` counts alike."""
        others = [axis for axis in range(loss.dim()) if axis != loss.dim() - 2]
        return cls((loss * counted).sum(others), counted.sum(others), factor)

    @classmethod
    def whole(cls, loss: Float[Tensor, ""], *, factor: float = 1.0) -> "Term":
        """A loss that only a batch as a whole has; of several micro-batches the mean counts."""
        return cls(loss[None], torch.ones(1, dtype=torch.int64, device=loss.device), factor)

    def times(self, factor: float) -> "Term":
        """The term with its factor multiplied."""
        return Term(self.total, self.weight, self.factor * factor)

    def mean(self, weight: Num[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """What they contribute to the mean over samples of this total weight (None: over themselves), without the factor."""
        count = self.weight.sum() if weight is None else weight
        return self.total.sum() / torch.where(count > 0, count, 1)

    @property
    def measured(self) -> "Mean":
        """The mean times the factor, as a metric."""
        return Mean(self.factor * self.total.detach().sum(), self.weight.sum())


class Metric(ABC):
    """A measurement of a micro-batch, from which that of the whole step can be computed."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        """The value for all micro-batches together; parts: of this class."""

    @property
    def value(self) -> Float[Tensor, ""]:
        """The value for this micro-batch alone."""
        return type(self).join([self])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Metric":
        """The same with its tensors changed, moved to another device, say."""
        found: Metric = _mapped(self, change)
        return found


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with the tensors changed that it is made of: a tensor, a tuple or list, a dataclass."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_mapped(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {name: found for name, part in vars(value).items() if (found := _mapped(part, change)) is not part}
        return replace(value, **parts) if parts else value
    return value


@dataclass(frozen=True)
class Mean(Metric):
    """A weighted mean. total: sum of weight x value; weight: sum of the weights."""

    total: Float[Tensor, ""]
    weight: Num[Tensor, ""]

    @classmethod
    def of(cls, values: Shaped[Tensor, "*shape"], counted: Bool[Tensor, "*shape"] | None = None) -> "Mean":
        """Of the values that count."""
        there = torch.ones_like(values, dtype=torch.bool) if counted is None else counted
        return cls((values * there).sum().float(), there.sum())

    @classmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        count = torch.stack([part.weight for part in parts]).sum()
        return torch.stack([part.total for part in parts]).sum() / torch.where(count > 0, count, 1)


@dataclass(frozen=True)
class Largest(Metric):
    """A largest value."""

    largest: Float[Tensor, ""]

    @classmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        return torch.stack([part.largest for part in parts]).amax()


@dataclass(frozen=True)
class State(Metric):
    """A number that is the same in all micro-batches of a step."""

    number: Float[Tensor, ""]

    @classmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        return parts[-1].number


@dataclass(frozen=True)
class Used(Metric):
    """How many of k entries are in use: exp of the entropy of their shares, the mean over groups.

    counts: how often each entry was chosen, or the sum of its probabilities.
    """

    counts: Float[Tensor, "g k"]

    @classmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        counts = torch.stack([part.counts for part in parts]).sum(0)
        shares = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        return torch.exp(-torch.xlogy(shares, shares).sum(-1)).mean()


@dataclass(frozen=True)
class Rows(Metric):
    """A function of one vector for each sample, or token, of the whole step."""

    rows: Float[Tensor, "k d"]
    by: Callable[[Float[Tensor, "k d"]], Float[Tensor, ""]]

    @classmethod
    def join(cls, parts: Sequence[Any]) -> Float[Tensor, ""]:
        return parts[0].by(torch.cat([part.rows for part in parts]))


@dataclass(frozen=True)
class Terms:
    """What an objective says of a batch: parts of the loss by name, what is logged beside it, and what its buffers become.

    state: buffers of the objective by their full names, with the values that they have after the step.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def loss(self, weights: Mapping[str, Num[Tensor, ""]] | None = None) -> Float[Tensor, ""]:
        """The sum of the terms. weights: total weight of each over the step; None: this batch is the step."""
        parts = [term.factor * term.mean(None if weights is None else weights[name]) for name, term in self.terms.items()]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0] if parts else torch.zeros(())


def joined(outputs: Sequence[Mapping[str, Metric]]) -> dict[str, Float[Tensor, ""]]:
    """The metrics of a step from those of its micro-batches; one that a micro-batch lacks is that of the others."""
    names = dict.fromkeys(name for metrics in outputs for name in metrics)
    found = {}
    for name in names:
        parts = [metrics[name] for metrics in outputs if name in metrics]
        found[name] = type(parts[0]).join(parts)
    return found

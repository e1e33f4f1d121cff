"""Labels of steps in time: what tokens that lie along it say of the class of each step of a series, or frame of a sound."""

from abc import abstractmethod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.modality import IGNORED, Dense, Inputs

BEHIND = 1 << 40
"""More than any number of places."""


class DenseSteps(Dense):
    """A linear map of each token gives `detail` logits of each class; those of tokens at one time, such as the channels of a
    series, are averaged; between them is interpolated, as `torch.nn.functional.interpolate` does in linear mode.

    At a time without a token, as in a gap of all channels or behind the end, stand the logits of the last one before it.

    span: name of the tensor `[b, 3]`: number of the first step, how many there are, how many the whole sample has.
    finest: the most predictions that a token can be asked for.
    """

    shape = "steps"
    span: str
    finest: int

    @abstractmethod
    def times(self, inputs: Inputs) -> tuple[Int[Tensor, "b n"], int]:
        """The place in time of each token, from 0, -1 for one that has none, and how many places there are."""

    @abstractmethod
    def positions(self, inputs: Inputs, steps: int) -> Float[Tensor, "_ t"]:
        """Where the middle of each of so many steps lies, counted in tokens: token k reaches from k to k + 1."""

    @abstractmethod
    def steps(self, inputs: Inputs) -> int:
        """How many steps there are, of the longest sample."""

    def cells(self, detail: int) -> int:
        if not 1 <= detail <= self.finest:
            raise ValueError(f"objective.detail is from 1 to {self.finest}, the steps of a token; got {detail}")
        return detail

    def laid_out(self, given: Float[Tensor, "b n _"], inputs: Inputs, detail: int) -> Float[Tensor, "b k m"]:
        times, count = self.times(inputs)
        there, place = (times >= 0).to(given.dtype), times.clamp(min=0)
        total = given.new_zeros(len(given), count, given.shape[2])
        total = total.scatter_add(1, place[..., None].expand_as(given), given * there[..., None])
        number = given.new_zeros(len(given), count).scatter_add(1, place, there)
        mean = total / number.clamp(min=1)[..., None]
        filled = mean.gather(1, last_before(number > 0)[..., None].expand_as(mean))
        return filled.unflatten(2, (detail, -1)).flatten(1, 2).mT

    def outputs(self, logits: Float[Tensor, "b k m"], inputs: Inputs) -> Float[Tensor, "b k t"]:
        return self.at(logits, inputs, self.steps(inputs))

    def at_labels(self, logits: Float[Tensor, "b k m"], inputs: Inputs) -> Float[Tensor, "b k t"]:
        return self.at(logits, inputs, inputs[self.labels].shape[1])

    def at(self, logits: Float[Tensor, "b k m"], inputs: Inputs, steps: int) -> Float[Tensor, "b k t"]:
        """Logits of so many steps."""
        sizes = (logits.shape[2], self.times(inputs)[1])  # as tensors: in a graph of ONNX sizes are no numbers to count with
        cells, tokens = (torch.arange(size, device=logits.device, dtype=torch.float32).amax(0) + 1 for size in sizes)
        place = (self.positions(inputs, steps) * (cells / tokens) - 0.5).clamp(min=0).minimum(cells - 1)
        lower = place.floor()
        weight = (place - lower).to(logits.dtype)
        index = [each.long().expand(len(logits), -1)[:, None].expand(-1, logits.shape[1], -1) for each in (lower, place.ceil())]
        low, high = (logits.gather(2, each) for each in index)
        return low + weight[:, None] * (high - low)

    def answers(self, logits: Float[Tensor, "b k m"], inputs: Inputs) -> list[Int[np.ndarray, " s"]]:
        return self.spread(self.at_span(logits, inputs).argmax(1), inputs, -1)

    def sureness(self, logits: Float[Tensor, "b k m"], inputs: Inputs) -> list[Float[np.ndarray, " s"]]:
        return self.spread(self.at_span(logits, inputs).softmax(1).amax(1), inputs, 0)

    def at_span(self, logits: Float[Tensor, "b k m"], inputs: Inputs) -> Float[Tensor, "b k t"]:
        """Logits of the steps that are here of each sample."""
        return self.at(logits, inputs, int(inputs[self.span][:, 1].max()))

    def spread(self, values: Shaped[Tensor, "b t"], inputs: Inputs, nothing: int) -> list[Shaped[np.ndarray, " s"]]:
        """Values of the steps that are here, in the places of the whole samples' steps; `nothing` in the others."""
        found, known = [], values.cpu().numpy()
        for own, (first, count, whole) in zip(known, inputs[self.span].tolist(), strict=True):
            said = np.full(whole, nothing, dtype=known.dtype)
            said[first : first + count] = own[:count]
            found.append(said)
        return found

    def of_tokens(self, inputs: Inputs) -> Int[Tensor, "b n"]:
        times, count = self.times(inputs)
        labels = inputs[self.labels]
        place = self.positions(inputs, labels.shape[1]).floor().long().clamp(0, count - 1).expand_as(labels)
        there, classes = labels != IGNORED, int(labels.max().clamp(min=0)) + 1
        bins = labels.new_zeros(len(labels), count * classes)
        bins = bins.scatter_add(1, place * classes + labels.clamp(min=0), there.long()).unflatten(1, (count, classes))
        found = bins.argmax(2).masked_fill(bins.sum(2) == 0, IGNORED)
        return found.gather(1, times.clamp(min=0)).masked_fill(times < 0, IGNORED)


def last_before(there: Bool[Tensor, "b m"]) -> Int[Tensor, "b m"]:
    """For each place the last one up to it that is there; for those before the first one, that."""
    count = there.shape[1]
    order = (torch.arange(count, device=there.device) + BEHIND * ~there).argsort(dim=1)  # no stable sort, which ONNX lacks
    return order.gather(1, (there.long().cumsum(1) - 1).clamp(min=0))


def check_steps(labels: Int[np.ndarray, "*places"], steps: int, what: str) -> None:
    """ValueError unless there is a label for each of so many steps. what: names the sample and its steps."""
    if labels.shape != (steps,):
        got = " x ".join(map(str, labels.shape))
        raise ValueError(f"{what}: expected {steps}, got {got}. Correct or drop the row")

"""What a micro-batch of any size costs, from what a few samples do."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmssl.data import Batch, Labels, Stream
from mmssl.objectives import Objective
from mmssl.objectives.networks import AVERAGE, Moving
from mmssl.recipe import Recipe
from mmssl.recipe.options import TrainOptions
from mmssl.training.build import Pieces, build, cut_stream
from mmssl.training.loop import set_attention
from mmssl.training.pace import first_batch
from mmssl.training.sizing.trace import Trace, Traced, traced
from mmssl.training.sizing.weightless import weigh, weightless
from mmssl.training.splits import open_splits

READ = 64
"""Samples of which tokens are counted, at most."""
SAMPLES = 8
"""Samples of the smallest batch that is traced."""
LARGE, FEW = 200_000_000, 2
"""Parameters from which on there are so few."""


class Curve(NamedTuple):
    """A polynomial of the number of samples: what is there whatever it is, what goes by the sample, and by pairs of samples."""

    fixed: float
    each: float
    pairs: float = 0.0

    def __call__(self, samples: int) -> float:
        return self.fixed + self.each * samples + self.pairs * samples**2

    @classmethod
    def through(cls, sizes: Sequence[int], values: Sequence[float]) -> "Curve":
        """The one that is at these values for two or three sizes."""
        powers = np.vander(np.asarray(sizes, float), increasing=True)
        return cls(*np.linalg.solve(powers, np.asarray(values, float)).tolist())


@dataclass(frozen=True)
class Cost:
    """What a step costs on the device that computes it; all but `casts` and `calls` by samples.

    kept: bytes of a micro-batch that autograd keeps, without `casts` (copies of weights in bf16) and the loss that couples samples,
        `coupled`, which each device computes of all samples of a step.
    entering, largest: the same if layers are run again in the backward pass: before it, and of the layer that keeps most.
    inputs: bytes of the batch as it is read. forward, backward, again: FLOPs, see `Traced`. calls: see `Traced`.
    tokens: of a sample, on average. name: of the source.
    """

    kept: Curve
    entering: Curve
    largest: Curve
    coupled: Curve
    forward: Curve
    backward: Curve
    again: Curve
    inputs: Curve
    casts: float
    calls: Mapping[str, tuple[int, int]]
    tokens: float
    name: str = ""

    def activations(self, micro: int, whole: int, again: bool) -> float:
        """Bytes at the end of the forward pass of a micro-batch (and in the first layer of the backward one, where layers are run
        again), all in all. whole: samples of the step."""
        own = self.entering(micro) + self.largest(micro) if again else self.kept(micro)
        return own + self.casts + self.coupled(whole) + self.inputs(micro)

    def flops(self, micro: int, again: bool) -> float:
        """Of products of a micro-batch: forward and backward pass."""
        return self.forward(micro) + self.backward(micro) + (self.again(micro) if again else 0)


@dataclass(frozen=True)
class Sized:
    """What a recipe builds, with weights that have no memory, and what a step of each source costs. longest: tokens of a sample."""

    objective: Objective
    options: TrainOptions
    costs: Sequence[Cost]
    longest: int
    samples: int
    lacking: bool


def sized(recipe: Recipe) -> Sized:
    """Build a recipe without its weights, and trace a step of each of its sources.

    A model that `init` names is read whole; all other weights have no memory. ValueError for data that the recipe does not fit.
    """
    splits = open_splits(recipe)
    with weightless() if recipe.init is None else nullcontext():
        pieces = build(recipe, splits.streams, splits.labels)
        objective, options = pieces.objective, recipe.section("train")
        if options.ema:
            objective.networks.want(AVERAGE, Moving(options.ema, options.ema))
        objective.networks.make()
    objective.networks.steady = True  # `calls` are asked of strategies that need it
    weigh(objective)
    # As on an accelerator: but for eager, no matrix of all pairs is kept, by whatever kernel.
    set_attention(objective, "eager" if options.attention == "eager" else "sdpa", torch.device("cpu"))
    costs, longest, lacking = [], 0, len(splits.streams) > 1
    for name, stream in splits.streams.items():
        cut = cut_stream(stream, pieces.processor)
        batch, counts = examples(recipe, pieces, cut, splits.labels)
        count = FEW if sum(map(Tensor.numel, objective.parameters())) > LARGE else SAMPLES
        costs.append(
            replace(cost(objective, chosen(batch, counts, count), options), tokens=float(counts.double().mean()), name=name)
        )
        longest, lacking = max(longest, int(counts.max())), lacking or batch.rows is not None
    samples = sum(len(stream.source) for stream in splits.streams.values())
    return Sized(objective, options, costs, longest, samples, lacking)


def examples(recipe: Recipe, pieces: Pieces, stream: Stream, labels: Labels | None) -> tuple[Batch, Int[Tensor, " b"]]:
    """Samples as the run would see them, and how many tokens each has."""
    options = recipe.section("train")
    limit = READ if options.batch_tokens else min(READ, options.batch_size // options.accumulation)
    batch = first_batch(recipe, pieces, stream, labels, min(limit, len(stream.source)))
    counts = torch.zeros(len(batch), dtype=torch.int64)
    with torch.no_grad(), Trace(pieces.objective, batch):
        for name, inputs in batch.inputs.items():
            counts[batch.held(name)] += pieces.objective.model.count_tokens(name, inputs)
    return batch, counts


def chosen(batch: Batch, counts: Int[Tensor, " b"], count: int = SAMPLES) -> Batch:
    """A few samples, from the shortest to the longest: what is padded is padded as in the whole batch."""
    order = counts.argsort(stable=True)
    places = torch.linspace(0, len(batch) - 1, min(count, len(batch))).round().long()
    return batch.take(order[places].sort().values)


def repeated(batch: Batch, times: int) -> Batch:
    """The samples of a batch over and over, with the same draws: all that goes by the sample is so many times as large."""

    def again(tensor: Tensor) -> Tensor:
        return tensor.repeat(times, *[1] * (tensor.dim() - 1))

    def again_or_none(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else again(tensor)

    rows = batch.rows and {
        name: torch.cat([held + number * len(batch) for number in range(times)]) for name, held in batch.rows.items()
    }
    return replace(
        batch,
        inputs={name: {key: again(tensor) for key, tensor in inputs.items()} for name, inputs in batch.inputs.items()},
        keys=again(batch.keys),
        ids=again(batch.ids),
        rows=rows,
        labels=again_or_none(batch.labels),
        group=again_or_none(batch.group),
        units=again_or_none(batch.units),
    )


def cost(objective: Objective, batch: Batch, options: TrainOptions) -> Cost:
    """What a step costs, by its samples, from steps of a batch that is there once, twice and three times.

    What does not couple samples is on a line through the first two.
    """
    half = {"fp32": None, "fp16": torch.float16}.get(options.precision, torch.bfloat16)
    times = (1, 2, 3) if objective.couples else (1, 2)
    sizes = [len(batch) * each for each in times]
    found = [traced(objective, repeated(batch, each), half) for each in times]

    def line(name: str) -> Curve:
        return Curve.through(sizes[:2], [value(name, each) for each in found[:2]])

    size = sum(tensor.nbytes for inputs in batch.inputs.values() for tensor in inputs.values())
    coupled = Curve.through(sizes, [each.coupled for each in found]) if objective.couples else Curve(0.0, 0.0)
    return Cost(
        kept=line("kept"),
        entering=line("entering"),
        largest=line("largest"),
        coupled=coupled,
        forward=line("forward"),
        backward=line("backward"),
        again=line("again"),
        inputs=Curve(0.0, size / len(batch)),
        casts=found[0].casts,
        calls=found[0].calls,
        tokens=0.0,
    )


def value(name: str, found: Traced) -> float:
    """One of the numbers of a trace; of bytes those that go by the micro-batch."""
    less = {"kept": found.casts + found.coupled, "entering": found.coupled}
    return float(getattr(found, name)) - less.get(name, 0.0)

"""The first samples of a source as a run sees them, and how many of them a step takes a second."""

import time
from functools import partial
from statistics import median

from mmssl.data import Batch, Labels, Order, Stream, loader
from mmssl.recipe import Recipe
from mmssl.training.build import Pieces, modalities_of

STEPS = 3
"""Steps that are timed, behind one that is not."""


def first_batch(recipe: Recipe, pieces: Pieces, stream: Stream, labels: Labels | None, count: int) -> Batch:
    """The first `count` samples of a source, as the run would see them. ValueError if its batches do not fit the data."""
    options, data, seed = recipe.section("train"), recipe.section("data"), recipe.section("run").seed
    order = Order(len(stream.source), seed, data.shuffle)
    modalities = modalities_of(stream, pieces.processor)
    feed = partial(loader, stream.source, modalities, order=order, seed=seed, labels=labels, on_error=data.on_error)
    # The run's own loader is made for its checks only.
    size = count if options.batch_tokens else options.batch_size
    feed(batch_size=size, micro_batches=1 if options.batch_tokens else options.accumulation, workers=data.workers, cache=data.cache)
    return next(batch for batch in feed(batch_size=count) if len(batch))


def samples_per_second(recipe: Recipe, pieces: Pieces, stream: Stream, labels: Labels | None) -> float:
    """How many samples the objective learns from in a second: loss and slopes, without reading and the optimizer's part."""
    count = min(recipe.section("train").batch_size, len(stream.source))
    batch, times = first_batch(recipe, pieces, stream, labels, count), list[float]()
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        pieces.objective(batch).loss.backward()
        times.append(time.perf_counter() - begun)
    return count / median(times[1:])

"""What a run reads: its sources, the order of their samples, and which source each step takes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmssl import files
from mmssl.data import Batch, BudgetOrder, Labels, Mixture, Order, Stream, Track, batches, loader, processes, silent
from mmssl.data.loader import READ
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe
from mmssl.training.build import modalities_of
from mmssl.training.loop import Training

SHOWN_SKIPS = 100
"""Different messages of skipped samples that a run remembers; all skips are counted, in every pass over the data."""


def groups_of(stream: Stream, together: int) -> Int[np.ndarray, " n"] | None:
    """A number for each row of a source, equal where rows belong together; pieces of a row do so where no column says more.

    together: how many samples of a group stand side by side; with 1 nobody asked for groups but by a column.
    """
    source = stream.source
    found = source.groups()
    return np.arange(source.num_rows) if found is None and together > 1 and len(source) > source.num_rows else found


class Feed:
    """The micro-batches of one process, all of a step from one source.

    streams: the sources by name. training: says how many processes and micro-batches share a step. folder: that of the run, where
        counted lengths are kept. track: shows how far counting is.
    """

    def __init__(
        self,
        recipe: Recipe,
        streams: Mapping[str, Stream],
        processor: MMSSLProcessor,
        training: Training,
        labels: Labels | None,
        folder: Path,
        track: Track = silent,
        model: MMSSLModel | None = None,
    ) -> None:
        self.model = training.objective.model if model is None else model
        self.options, self.data, self.seed = recipe.section("train"), recipe.section("data"), recipe.section("run").seed
        self.streams, self.processor, self.training, self.labels = streams, processor, training, labels
        self.folder, self.track = folder, track
        self.skips: list[str] = []
        self.groups = {name: groups_of(stream, self.data.group_size) for name, stream in streams.items()}
        self.orders = {name: self.make_order(stream) for name, stream in streams.items()}
        sizes = {name: len(stream.source) for name, stream in streams.items()}
        weights = {name: stream.options.weight for name, stream in streams.items()}
        self.mixture = Mixture(sizes, weights, self.data.mixing, self.seed)
        self.current, self.learned = next(iter(streams)), False
        for stream in streams.values():
            self.read(stream, 0)  # what does not fit together fails before the first step

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps that read as many samples as all sources have."""
        size = self.options.batch_size
        counts = (o.batches_per_epoch if isinstance(o, BudgetOrder) else o.num_samples / size for o in self.orders.values())
        return float(sum(counts))

    def make_order(self, stream: Stream) -> Order | BudgetOrder:
        """Which samples of a source each of its steps reads."""
        if self.options.batch_tokens is None:
            groups, size = self.groups_of_samples(stream) if self.data.group_size > 1 else None, self.data.group_size
            return Order(len(stream.source), stream.seed(self.seed), self.data.shuffle, groups, size)
        shares = self.training.accelerator.num_processes * self.options.accumulation
        lengths = self.lengths(stream)
        seed = stream.seed(self.seed)
        return BudgetOrder(lengths, self.options.batch_tokens, seed, shares=shares, shuffle=self.data.shuffle)

    def groups_of_samples(self, stream: Stream) -> Int[np.ndarray, " n"]:
        """The group of every sample of a source. ValueError if no column says it."""
        source, groups = stream.source, self.groups[stream.name]
        if groups is None:
            raise ValueError(
                f"data.group_size is {self.data.group_size}, but {source} has no groups; name columns.group, or let the processor "
                "cut long samples in pieces"
            )
        return groups[[source.kept_row(index) for index in range(len(source))]]

    def lacking(self, stream: Stream) -> dict[str, float]:
        """Which modalities of a source rows are made to lack. ValueError for names that no source pairs with others."""
        wanted = self.data.lacking or {}
        paired = {name for other in self.streams.values() if len(other.modalities) > 1 for name in other.modalities}
        if unknown := [name for name in wanted if name not in paired]:
            raise ValueError(
                f"data.lacking: {unknown[0]!r} is none of the modalities that rows pair ({', '.join(sorted(paired)) or 'none'})"
            )
        return {name: share for name, share in wanted.items() if name in stream.modalities}

    def lengths(self, stream: Stream) -> list[int]:
        """Tokens of every sample of a source, counted once and kept with the run; none for one that cannot be read."""
        kept = self.folder / "lengths" / f"{stream.name}.json"
        if kept.exists():
            known: list[int] = json.loads(kept.read_text(encoding="utf-8"))
            return known
        model, found = self.model, [0] * len(stream.source)
        reading = batches(stream.source, modalities_of(stream, self.processor), READ, on_error=self.data.on_error)
        for batch in self.track(reading, f"measuring {stream.name}", -(-len(stream.source) // READ), unit="batches"):
            moved = batch.to(self.training.device)
            for name, inputs in moved.inputs.items():
                ids = moved.ids[moved.held(name)].tolist()
                for i, count in zip(ids, model.count_tokens(name, inputs).tolist(), strict=True):
                    found[i] += count
        files.sweep(kept.parent, kept.name)
        files.write_json(kept, found)
        return found

    def __iter__(self) -> Iterator[Batch]:
        """Micro-batches from the next step on; `learn` is due after each step, but after one of bad samples alone."""
        readers: dict[str, Iterator[Batch]] = {}
        while True:
            self.current = name = self.mixture.choose()
            if name not in readers:
                readers[name] = self.read(self.streams[name], self.mixture.steps[name])
            self.learned = False
            for _ in range(self.options.accumulation):
                yield next(readers[name])
            if not self.learned:
                self.mixture.pass_over(name)

    def read(self, stream: Stream, start_step: int) -> Iterator[Batch]:
        """The micro-batches of one source; ValueError at once for sizes that do not fit together."""
        accelerator = self.training.accelerator
        reading = loader(
            stream.source,
            modalities_of(stream, self.processor),
            order=self.orders[stream.name],
            batch_size=None if self.options.batch_tokens else self.options.batch_size,
            seed=stream.seed(self.seed),
            start_step=start_step,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            micro_batches=self.options.accumulation,
            workers=self.data.workers,
            labels=self.labels,
            on_error=self.data.on_error,
            pin_memory=accelerator.device.type == "cuda",
            cache=self.data.cache,
            name=stream.name,
            groups=self.groups[stream.name],
            lacking=self.lacking(stream),
        )
        return self._heard(reading)

    def _heard(self, reading: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; messages of skipped samples are kept for the report."""
        for batch in reading:
            fresh = [message for message in batch.skipped if message not in self.skips]
            self.skips += fresh[: SHOWN_SKIPS - len(self.skips)]
            yield batch

    def learn(self, loss: float) -> None:
        """Count the step on the current source, whose loss over all processes was `loss`."""
        self.mixture.learn(self.current, loss)
        self.learned = True

    def share_skips(self) -> None:
        """Know the messages of all processes."""
        found = dict.fromkeys(message for skips in processes.gathered(self.skips) for message in skips)
        self.skips = list(found)[:SHOWN_SKIPS]

    def state(self) -> dict[str, Any]:
        """Everything that the next batch and the report depend on."""
        return {"mixture": self.mixture.state(), "skips": self.skips}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        self.mixture.restore(state["mixture"])
        self.skips = state["skips"]

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Start where another run stopped, if it read sources of the same names."""
        if list(state["mixture"]["steps"]) == list(self.streams):
            self.mixture.restore(state["mixture"])

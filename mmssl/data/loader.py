"""Rows to batches, on worker processes, in an order that a resumed or re-sharded run repeats."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset

from mmssl.data.batch import Batch
from mmssl.data.labels import Labels
from mmssl.data.order import Order
from mmssl.data.source import OnError, Source
from mmssl.data.tables import Row
from mmssl.draws import keys
from mmssl.modality import Inputs, Modality, Processor

Modalities = Mapping[str, tuple[Modality, Processor]]
Sample = dict[str, Inputs]
"""The tensors of one sample by modality name."""
Share = tuple[int, Int[np.ndarray, " k"]]
"""One micro-batch to be read: its optimizer step, and where its samples lie in the source."""

PREFETCH = 4
"""Batches that each worker keeps ready."""
SKIP_WINDOW = 1000
"""Samples over which skipped ones are counted."""
SKIP_SHARE = 0.5
"""More skipped samples than this share of the window mean that the data, or the recipe, are wrong as a whole."""
CACHE_SHARE = 0.5
"""Share of the machine's memory that cached samples may take."""

_SAMPLE_ERRORS = (ValueError, TypeError, OSError)
"""What a processor raises for a bad sample, and what reading its file raises. Anything else is a bug, and is never skipped."""


class _Reader(Dataset[Batch | str]):
    """Reads, processes and collates one share; a string instead of a batch says why that was not possible.

    Errors travel as values, because torch re-raises the exception of a worker with the worker's whole traceback as its message.
    """

    def __init__(
        self, source: Source, modalities: Modalities, *, seed: int, labels: Labels | None, on_error: OnError, cache: bool
    ) -> None:
        if labels is not None and len(labels) != len(source):
            raise ValueError(f"labels must have one value per row of {source}: expected {len(source)}, got {len(labels)}")
        self.source = source.only([modality for modality, _ in modalities.values()])
        self.modalities = dict(modalities)
        self.seed = seed
        self.labels = None if labels is None else labels.tensor()
        self.on_error = on_error
        self.cache: dict[int, Sample | str] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, share: Share) -> Batch | str:
        step, indices = share
        results = self._cached(indices) if self.cache is not None else self._read(indices)
        samples = [result for result in results if not isinstance(result, str)]
        skipped = tuple(result for result in results if isinstance(result, str))
        if skipped and (self.on_error == "raise" or not samples):
            lost = "" if self.on_error == "raise" else f"all {len(skipped)} samples of a batch are bad; "
            return lost + skipped[0]
        kept = [not isinstance(result, str) for result in results]
        ids = torch.from_numpy(indices[kept])
        inputs = {name: processor.collate([s[name] for s in samples]) for name, (_, processor) in self.modalities.items()}
        labels = None if self.labels is None else self.labels[ids]
        return Batch(inputs, keys(self.seed, step, ids), ids, labels, skipped)

    def _read(self, indices: Int[np.ndarray, " k"]) -> list[Sample | str]:
        return [self._process(int(i), row) for i, row in zip(indices, self.source.rows(indices), strict=True)]

    def _process(self, index: int, row: Row) -> Sample | str:
        """The tensors of a row, or what is wrong with it."""
        sample: Sample = {}
        for name, (modality, processor) in self.modalities.items():
            try:
                sample[name] = processor(self.source.raw(modality, row))
            except _SAMPLE_ERRORS as error:
                place = self.source.places(modality)
                where = f"column {place}" if isinstance(place, str) else f"modality {name}"
                return f"row {self.source.row_number(index)} of {self.source}, {where}: {error}"
        return sample

    def _cached(self, indices: Int[np.ndarray, " k"]) -> list[Sample | str]:
        assert self.cache is not None
        wanted = indices.tolist()
        missing = np.asarray([i for i in wanted if i not in self.cache], dtype=np.int64)
        if len(missing):
            results = self._read(missing)
            if not self.cache:
                _check_room(results, len(self))
            self.cache.update(zip(missing.tolist(), results, strict=True))
        return [self.cache[i] for i in wanted]


def _check_room(results: Sequence[Sample | str], num_samples: int) -> None:
    """Refuse a cache that would fill the machine, judged by the first samples."""
    sizes = [sum(x.nbytes for inputs in r.values() for x in inputs.values()) for r in results if not isinstance(r, str)]
    expected = sum(sizes) / max(len(sizes), 1) * num_samples
    room = CACHE_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if expected > room:
        raise ValueError(
            f"cache=true would keep about {expected / 2**30:.1f} GiB of processed samples in memory, more than {CACHE_SHARE:.0%} "
            "of this machine's; set cache=false, and workers to the number of idle cores"
        )


@dataclass
class _Tolerance:
    """Counts skipped samples, and raises when there are too many."""

    window: int
    seen: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)

    def count(self, batch: Batch) -> None:
        if self.seen >= self.window:
            return
        self.seen += len(batch) + len(batch.skipped)
        self.skipped += len(batch.skipped)
        if self.skipped > SKIP_SHARE * self.window:
            raise ValueError(
                f"{self.skipped} of the first {self.seen} samples were skipped (allowed: {SKIP_SHARE:.0%} of {self.window}); "
                f"the last one: {batch.skipped[-1]}"
            )


def _batches(reader: _Reader, shares: Iterable[Share], workers: int, pin_memory: bool) -> Iterator[Batch]:
    loading: DataLoader[Batch | str] = DataLoader(
        reader,
        sampler=shares,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCH if workers else None,
        generator=torch.Generator(),  # or torch would draw the workers' seed from the global generator, and change the run
    )
    tolerance = _Tolerance(min(SKIP_WINDOW, len(reader)))
    for item in loading:
        if isinstance(item, str):
            raise ValueError(item)
        tolerance.count(item)
        yield item


def _shares(order: Order, steps: Iterable[int], batch_size: int, mine: range, size: int) -> Iterator[Share]:
    """The shares of one process: those numbered `mine`, of `size` samples each, in the batch of every step."""
    for step in steps:
        for share in mine:
            yield step, order.rows(step * batch_size + share * size, size)


def loader(
    source: Source,
    modalities: Modalities,
    *,
    order: Order,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    end_step: int | None = None,
    rank: int = 0,
    world: int = 1,
    micro_batches: int = 1,
    workers: int = 0,
    labels: Labels | None = None,
    on_error: OnError = "raise",
    pin_memory: bool = False,
    cache: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of one process, for the optimizer steps `start_step` .. `end_step` (None: without end).

    Step s takes positions s * batch_size .. (s + 1) * batch_size of the order, and cuts them into world * micro_batches equal
    shares, so that the samples of a step and their keys do not depend on the number of processes, micro-batches or workers.

    batch_size: samples per optimizer step, over all processes.
    workers: processes that read, decode, process and collate; 0: in this process.
    on_error: "raise" stops at the first bad sample; "skip" leaves it out and says so in `Batch.skipped`.
    cache: keep every processed sample in memory, so that later epochs only collate. In this process only: each worker would fill
        a cache of its own with whatever samples come its way.

    Raises ValueError for sizes that do not fit together; while iterating, ValueError naming source, row and column of a bad sample,
    also under "skip" when all samples of a batch are bad, or more than half of the first 1,000.
    """
    _check_sizes(source, order, batch_size, world * micro_batches)
    if cache and workers:
        raise ValueError(f"cache=true needs workers=0 (each worker would keep its own copy); got workers={workers}")
    reader = _Reader(source, modalities, seed=seed, labels=labels, on_error=on_error, cache=cache)
    size = batch_size // (world * micro_batches)
    steps = count(start_step) if end_step is None else range(start_step, end_step)
    mine = range(rank * micro_batches, (rank + 1) * micro_batches)
    return _batches(reader, _shares(order, steps, batch_size, mine, size), workers, pin_memory)


def _check_sizes(source: Source, order: Order, batch_size: int, num_shares: int) -> None:
    if order.num_samples != len(source):
        raise ValueError(f"the order must cover {source}: it has {order.num_samples} samples, the source {len(source)}")
    if not 1 <= batch_size <= len(source):
        raise ValueError(f"batch_size must be between 1 and the {len(source)} rows of {source}; got {batch_size}")
    if batch_size % num_shares:
        raise ValueError(f"batch_size must be a multiple of processes x micro-batches = {num_shares}; got {batch_size}")


def batches(
    source: Source,
    modalities: Modalities,
    batch_size: int,
    *,
    labels: Labels | None = None,
    on_error: OnError = "raise",
    workers: int = 0,
) -> Iterator[Batch]:
    """All rows of a source once, in order, for evaluation; the last batch may be short. See `loader` for arguments and errors."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    reader = _Reader(source, modalities, seed=0, labels=labels, on_error=on_error, cache=False)
    rows = np.arange(len(source))
    shares = ((0, rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    return _batches(reader, shares, workers, pin_memory=False)

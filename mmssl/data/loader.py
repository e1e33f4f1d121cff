"""Rows to batches, on worker processes, in an order that a resumed or re-sharded run repeats."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from time import sleep
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset

from mmssl.data.batch import Batch
from mmssl.data.budget import BudgetOrder
from mmssl.data.dense import DENSE, map_name
from mmssl.data.labels import Labels
from mmssl.data.order import Order
from mmssl.data.source import OnError, Source
from mmssl.data.tables import Row
from mmssl.data.track import Track, silent
from mmssl.draws import Draws, keys
from mmssl.modality import Inputs, Modality, Processor

Modalities = Mapping[str, tuple[Modality, Processor]]
Sample = dict[str, Inputs]
"""The tensors of one sample by the names of the modalities that it holds."""
Share = tuple[int, Int[np.ndarray, " k"]]
"""One micro-batch to be read: its optimizer step, and where its samples lie in the source."""

READ = 1024
"""Rows read at a time where all of them are."""
PREFETCH = 4
"""Batches that each worker keeps ready."""
SKIP_WINDOW = 1000
"""Samples over which skipped ones are counted."""
SKIP_SHARE = 0.5
"""More skipped samples than this share of the first window mean that the data, or the recipe, are wrong as a whole."""
CACHE_SHARE = 0.5
"""Share of the machine's memory that cached samples may take."""

KILLED = "a data worker was killed (out of memory?)"
LATE = 1.0
"""Seconds by which the signal may come later that a worker is gone: torch raises an error then, wherever we are."""


class WorkerKilled(RuntimeError):
    """A process that reads data is gone."""


_SAMPLE_ERRORS = (ValueError, TypeError, OSError)
"""What a processor raises for a bad sample, and what reading its file raises. Anything else is a bug, and is never skipped."""


class _Reader(Dataset[Batch | str]):
    """Reads, processes and collates one share; a string instead of a batch says what a bad sample is that must not be skipped.

    Errors travel as values, because torch re-raises the exception of a worker with the worker's whole traceback as its message.
    """

    def __init__(
        self,
        source: Source,
        modalities: Modalities,
        *,
        seed: int,
        labels: Labels | None,
        on_error: OnError,
        cache: bool = False,
        name: str = "",
        groups: Int[np.ndarray, " n"] | None = None,
        lacking: Mapping[str, float] | None = None,
    ) -> None:
        if labels is not None and len(labels) != source.num_rows:
            raise ValueError(f"labels must have one value per row of {source}: expected {source.num_rows}, got {len(labels)}")
        # Of rows that pair modalities no sample is long (`cut`), and a processor refuses one that is.
        assert source.is_cut or len(modalities) > 1 or not any(processor.windowed for _, processor in modalities.values())
        self.dense: tuple[str, list[str]] | None = None
        if labels is not None and labels.kind == DENSE:
            assert labels.column is not None, "places are labelled in a column"
            self.dense = labels.column, labels.names
            if labels.segments:
                source = source.in_steps(*next(iter(modalities.values())))
        column = () if self.dense is None else (self.dense[0],)
        self.source = source.only([modality for modality, _ in modalities.values()], column)
        self.modalities = dict(modalities)
        self.pairs = len(self.modalities) > 1
        self.seed, self.name = seed, name
        self.groups = None if groups is None else torch.from_numpy(groups)
        self.labels = None if labels is None else labels.tensor()
        self.units = None if labels is None or labels.units is None else torch.from_numpy(labels.units)
        self.on_error = on_error
        self.cache: dict[int, Sample | str] | None = {} if cache else None
        self.last_cut: tuple[int, list[Any]] | None = None
        # Else all of a batch would be read twice where one sample is bad.
        faster = any(type(processor).batch is not Processor.batch for _, processor in modalities.values())
        self.lacking = lacking or {}
        self.together = faster and not source.is_cut and not self.lacking and self.dense is None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, share: Share) -> Batch | str:
        step, indices = share
        if self.cache is not None:
            return self._collated(step, indices, self._cached(indices))
        rows = self.source.rows(indices)
        if self.together:
            try:
                return self._batch(step, indices, *self._process_all(rows))
            except _SAMPLE_ERRORS:
                pass  # which row it was, and what it means, is said below
        return self._collated(step, indices, self._process_each(indices, rows))

    def _collated(self, step: int, indices: Int[np.ndarray, " k"], results: Sequence[Sample | str]) -> Batch | str:
        """The samples that could be read as a batch, perhaps of none; or what is wrong with one that must not be skipped."""
        samples = [result for result in results if not isinstance(result, str)]
        skipped = tuple(result for result in results if isinstance(result, str))
        if skipped and self.on_error == "raise":
            return skipped[0]
        kept = [not isinstance(result, str) for result in results]
        if self.lacking:
            samples = self._without(step, indices[kept], samples)
        pairs = self.modalities.items() if samples else ()
        held = {name: [number for number, sample in enumerate(samples) if name in sample] for name, _ in pairs}
        inputs = {
            name: processor.collate([samples[number][name] for number in held[name]])
            for name, (_, processor) in pairs
            if held[name]
        }
        return self._batch(step, indices[kept], inputs, held, skipped)

    def _without(self, step: int, indices: Int[np.ndarray, " k"], samples: Sequence[Sample]) -> list[Sample]:
        """The samples without the modalities that they are made to lack in this step; one is always left."""
        draws, kept = Draws(keys(self.seed, step, torch.from_numpy(indices))), [dict(sample) for sample in samples]
        for name, share in self.lacking.items():
            for sample, lacks in zip(kept, (draws.uniform(f"lacks {name}") < share).tolist(), strict=True):
                if lacks and name in sample and len(sample) > 1:
                    del sample[name]
        return kept

    def _batch(
        self,
        step: int,
        indices: Int[np.ndarray, " k"],
        inputs: dict[str, Inputs],
        held: Mapping[str, Sequence[int]],
        skipped: tuple[str, ...] = (),
    ) -> Batch:
        ids = torch.from_numpy(indices)
        places = [self.source.kept_row(i) for i in ids.tolist()] if self.labels is not None or self.groups is not None else []
        labels = None if self.labels is None else self.labels[places]
        group = None if self.groups is None else self.groups[places]
        whole = all(len(numbers) == len(ids) for numbers in held.values())
        rows = None if whole else {name: torch.tensor(numbers, dtype=torch.int64) for name, numbers in held.items()}
        units = None if self.units is None else self.units[places]
        return Batch(inputs, keys(self.seed, step, ids), ids, labels, skipped, self.name, step, rows=rows, group=group, units=units)

    def _process_all(self, rows: Sequence[Row]) -> tuple[dict[str, Inputs], dict[str, list[int]]]:
        """The rows as a batch, and which hold each modality. Raises what a processor raises for the first bad one."""
        inputs, held = dict[str, Inputs](), dict[str, list[int]]()
        for name, (modality, processor) in self.modalities.items():
            raws = [self.source.raw(modality, row) for row in rows]
            held[name] = [number for number, raw in enumerate(raws) if not (self.pairs and processor.absent(raw))]
            if held[name]:
                inputs[name] = processor.batch([raws[number] for number in held[name]])
        if set().union(*held.values()) != set(range(len(rows))):
            raise ValueError("a row holds nothing")
        return inputs, held

    def _process_each(self, indices: Int[np.ndarray, " k"], rows: Sequence[Row]) -> list[Sample | str]:
        return [self._process(int(i), row) for i, row in zip(indices, rows, strict=True)]

    def _process(self, index: int, row: Row) -> Sample | str:
        """The tensors of a row, or what is wrong with it."""
        sample: Sample = {}
        for name, (modality, processor) in self.modalities.items():
            try:
                raw = self.source.raw(modality, row)
                if self.pairs and processor.absent(raw):
                    continue
                whole = self._piece(index, processor, raw) if self.source.is_cut else raw
                sample[name] = processor(whole) if self.dense is None else self._labelled(processor, whole, row)
            except _SAMPLE_ERRORS as error:
                place = self.source.places(modality)
                where = f"column {place}" if isinstance(place, str) else f"modality {name}"
                return f"row {self.source.row_number(index)} of {self.source}, {where}: {error}"
        if not sample:
            return f"row {self.source.row_number(index)} of {self.source} holds none of {', '.join(self.modalities)}"
        return sample

    def _labelled(self, processor: Processor, raw: Any, row: Row) -> Inputs:
        """The tensors of a raw sample whose places have labels."""
        assert self.dense is not None
        column, names = self.dense
        places = self.source.places_of(row, column, names, f"its labels, in column {column}")
        try:
            return processor.labelled(raw, places)
        except ValueError as error:
            file = map_name(row[column])
            raise ValueError(str(error) if file is None else f"{error} (label map {file})") from None

    def _piece(self, index: int, processor: Processor, raw: Any) -> Any:
        """The piece of its row that sample `index` is; the pieces of the last row are kept, for its other ones."""
        row = self.source.kept_row(index)
        if self.last_cut is None or self.last_cut[0] != row:
            self.last_cut = row, processor.pieces(raw)
        return self.last_cut[1][self.source.piece(index)]

    def _cached(self, indices: Int[np.ndarray, " k"]) -> list[Sample | str]:
        assert self.cache is not None
        wanted = indices.tolist()
        missing = np.asarray([i for i in wanted if i not in self.cache], dtype=np.int64)
        if len(missing):
            results = self._process_each(missing, self.source.rows(missing))
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
    """Counts skipped samples, and raises when there are too many: of the first ones, or later where no sample can be read any more.

    window: how many are the first ones. in_a_row: samples that were skipped since the last good one.
    """

    window: int
    seen: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)
    in_a_row: int = field(default=0, init=False)

    def count(self, batch: Batch) -> None:
        self.in_a_row = 0 if len(batch) else self.in_a_row + len(batch.skipped)
        if self.in_a_row >= SKIP_WINDOW:
            raise ValueError(f"the last {self.in_a_row} samples were all skipped; the last one: {batch.skipped[-1]}")
        if self.seen >= self.window:
            return
        self.seen += len(batch) + len(batch.skipped)
        self.skipped += len(batch.skipped)
        if self.skipped > SKIP_SHARE * max(self.window, self.seen):
            raise ValueError(
                f"{self.skipped} of the first {self.seen} samples were skipped (allowed: {SKIP_SHARE:.0%} of {self.window}); "
                f"the last one: {batch.skipped[-1]}"
            )


def _loaded(loading: Iterable[Batch | str], workers: int) -> Iterator[Batch | str]:
    """What the workers read. WorkerKilled if one of them is gone, in whichever way torch notices."""
    try:
        yield from loading
    except (RuntimeError, OSError, EOFError) as error:
        lost = _connection_is_lost(error)
        if not workers or not (lost or names_killed_worker(error)):
            raise
        if lost:
            with suppress(RuntimeError):
                sleep(LATE)
        raise WorkerKilled(KILLED) from error


def names_killed_worker(error: BaseException) -> bool:
    """Whether torch says that a worker is gone; where it learns that from a signal it raises anywhere, not only where it reads."""
    words = ("DataLoader worker (pid", "Pin memory thread exited unexpectedly")
    return isinstance(error, WorkerKilled) or (isinstance(error, RuntimeError) and str(error).startswith(words))


def _connection_is_lost(error: BaseException) -> bool:
    """Whether a pipe or socket of a worker broke off; what a worker raises itself says so in its message."""
    kinds = ConnectionError | EOFError | FileNotFoundError
    return isinstance(error, kinds) and "in DataLoader worker process" not in str(error)


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
    for item in _loaded(loading, workers):
        if isinstance(item, str):
            raise ValueError(item)
        tolerance.count(item)
        yield item


def _shares(
    batch_of: Callable[[int], Int[np.ndarray, " k"]], steps: Iterable[int], mine: range, num_shares: int
) -> Iterator[Share]:
    """The shares of one process, those numbered `mine`: the batch of every step in parts that differ by a sample at most."""
    for step in steps:
        shares = np.array_split(batch_of(step), num_shares)
        for share in mine:
            yield step, shares[share]


def loader(
    source: Source,
    modalities: Modalities,
    *,
    order: Order | BudgetOrder,
    batch_size: int | None = None,
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
    name: str = "",
    groups: Int[np.ndarray, " n"] | None = None,
    lacking: Mapping[str, float] | None = None,
) -> Iterator[Batch]:
    """The micro-batches of one process, for the optimizer steps `start_step` .. `end_step` (None: without end).

    Step s takes positions s * batch_size .. (s + 1) * batch_size of an `Order`, or batch s of a `BudgetOrder`, and cuts them into
    world * micro_batches shares, so that the samples of a step and their keys do not depend on the number of processes,
    micro-batches or workers.

    batch_size: samples per optimizer step, over all processes; None with a `BudgetOrder`, which knows.
    workers: processes that read, decode, process and collate; 0: in this process.
    on_error: "raise" stops at the first bad sample; "skip" leaves it out and says so in `Batch.skipped`. A micro-batch of bad
        samples alone has no inputs and the length 0.
    cache: keep every processed sample in memory, so that later epochs only collate. In this process only: each worker would fill
        a cache of its own with whatever samples come its way.
    name: of the source, for `Batch.source`. groups: of each row that the source keeps, for `Batch.group`.

    lacking: by modality, the share of the rows that are made to lack it, drawn anew in every step.

    Of rows that pair modalities one may lack some of them (`Processor.absent`), but not all.

    Raises ValueError for sizes that do not fit together; while iterating, ValueError naming source, row and column of a bad sample,
    also under "skip" when more than half of the first 1,000 samples are bad, or 1,000 in a row. WorkerKilled if a worker is gone.
    """
    num_shares = world * micro_batches
    _check_sizes(source, order, batch_size, num_shares)
    if cache and workers:
        raise ValueError(f"cache=true needs workers=0 (each worker would keep its own copy); got workers={workers}")
    reader = _Reader(
        source, modalities, seed=seed, labels=labels, on_error=on_error, cache=cache, name=name, groups=groups, lacking=lacking
    )
    steps = count(start_step) if end_step is None else range(start_step, end_step)
    mine = range(rank * micro_batches, (rank + 1) * micro_batches)
    return _batches(reader, _shares(partial(_batch_of, order, batch_size), steps, mine, num_shares), workers, pin_memory)


def _batch_of(order: Order | BudgetOrder, batch_size: int | None, step: int) -> Int[np.ndarray, " k"]:
    """The samples of an optimizer step."""
    if isinstance(order, BudgetOrder):
        return order.batch(step)
    assert batch_size is not None
    return order.rows(step * batch_size, batch_size)


def _check_sizes(source: Source, order: Order | BudgetOrder, batch_size: int | None, num_shares: int) -> None:
    if order.num_samples != len(source):
        raise ValueError(f"the order must cover {source}: it has {order.num_samples} samples, the source {len(source)}")
    if batch_size is None:
        return
    if not 1 <= batch_size <= len(source):
        held = f" ({source.num_held_out} more are held out for scores)" if source.num_held_out else ""
        raise ValueError(f"batch_size must be between 1 and the {len(source)} rows of {source}{held}; got {batch_size}")
    if batch_size % num_shares:
        raise ValueError(
            f"batch_size must be a multiple of processes x micro-batches = {num_shares}; got {batch_size}: "
            f"{nearest_multiples(batch_size, num_shares)}"
        )


def nearest_multiples(size: int, shares: int) -> str:
    """The sizes next to one that are multiples of `shares`, and above 0, as a message ends."""
    below, above = size // shares * shares, -(-size // shares) * shares
    return f"{below} and {above} are" if below else f"{above} is"


def holdings(source: Source, modalities: Modalities, *, track: Track = silent) -> Iterator[set[str]]:
    """The modalities that each row holds, in order; see `Processor.absent`. Rows are read, samples are not."""
    narrow = source.only([modality for modality, _ in modalities.values()]).evenly(source.num_rows)
    for start in track(range(0, narrow.num_rows, READ), f"rows with {' and '.join(modalities)}", unit="reads"):
        for row in narrow.rows(range(start, min(start + READ, narrow.num_rows))):
            raws = ((name, processor, narrow.raw(modality, row)) for name, (modality, processor) in modalities.items())
            yield {name for name, processor, raw in raws if not processor.absent(raw)}


def cut(source: Source, modalities: Modalities, *, track: Track = silent) -> Source:
    """The source with a sample for every piece of its rows, where a processor cuts long samples; else as it is.

    Reads all rows once. A row that cannot be read counts as one sample: whoever reads it raises, or skips it, as for any other.
    ValueError for a long sample in a row that pairs several modalities: its pieces would have no partners.
    """
    if source.is_cut:
        return source
    counts = {name: _count_pieces(source, *pair, track) for name, pair in modalities.items() if pair[1].windowed}
    if len(modalities) == 1:
        return source.cut(counts.popitem()[1]) if counts else source
    for name, pieces in counts.items():
        row = next((row for row, count in enumerate(pieces) if count > 1), None)
        if row is not None:
            whole = modalities[name][1].whole
            remedy = f"Set modalities.{name}.processor.{whole}, or leave such rows out" if whole else "Leave such rows out"
            raise ValueError(
                f"row {source.row_number(row)} of {source} pairs {' and '.join(modalities)}, but its {name} is so long that it is "
                f"cut into {pieces[row]} pieces, and they would have no partner ({sum(count > 1 for count in pieces)} of "
                f"{len(pieces)} rows). {remedy}"
            )
    return source


def _count_pieces(source: Source, modality: Modality, processor: Processor, track: Track) -> list[int]:
    """Into how many pieces the sample of every row is cut."""
    narrow, counts = source.only([modality]), list[int]()
    for start in track(range(0, len(source), READ), f"cutting {modality.name}", unit="reads"):
        for row in narrow.rows(range(start, min(start + READ, len(source)))):
            try:
                counts.append(max(1, len(processor.pieces(narrow.raw(modality, row)))))
            except _SAMPLE_ERRORS:
                counts.append(1)
    return counts


def batches(
    source: Source,
    modalities: Modalities,
    batch_size: int,
    *,
    labels: Labels | None = None,
    on_error: OnError = "raise",
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """All samples of a source once, in order, for evaluation; the last batch may be short. See `loader` for arguments and errors.

    Of several processes each takes every `world`-th batch, and one of bad samples alone has the length 0; else that is left out.
    A row that is cut into pieces lies within one batch, which may be larger for it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    reader = _Reader(source, modalities, seed=0, labels=labels, on_error=on_error)
    shares = ((0, samples) for samples in islice(source.whole_rows(batch_size), rank, None, world))
    return (batch for batch in _batches(reader, shares, workers, pin_memory=False) if len(batch) or world > 1)

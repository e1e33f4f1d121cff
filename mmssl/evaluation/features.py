"""Frozen features of a labelled dataset."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mmssl.data import Batch, Labels, Source, Track, batches, cut, processes, silent
from mmssl.data.loader import Modalities
from mmssl.data.source import OnError
from mmssl.modality import Inputs, Processor, find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.processor import MMSSLProcessor

RAW = "features"
T = TypeVar("T")

Then = Callable[[Float[Tensor, "b d"]], Float[Tensor, "b e"]]
"""What a head makes of pooled outputs."""

ON_CPU, FEWEST = 100_000, 8
"""Numbers that a CPU encodes at a time, and the fewest samples: more leave its caches, and are slower (docs/performance.md)."""
KERNEL = "sdpa"
"""The kernel of attention with which models are scored: the one that a loaded model has."""


@dataclass(frozen=True)
class Features:
    """Features of the samples that could be read, on the CPU.

    values: one vector per sample. ids: rows of the source.
    labels: class indices or values, if the source has labels; of several labels a row 1 for each that it has.
    """

    values: Float[Tensor, "n d"]
    labels: Shaped[Tensor, " n *k"] | None
    ids: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.ids)


def extract(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    *,
    labels: Labels | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    workers: int = 0,
    then: Then | None = None,
    title: str = "features",
    track: Track = silent,
) -> Features:
    """Pooled outputs of a frozen model for every row of `source`: evaluation mode, float32, no augmentation, on the model's device.

    Several processes share the work; of all but the first one the result is empty.

    name: the modality to read. then: what is made of the pooled outputs; None: nothing.
    title: what `track`, the progress display, says.
    ValueError names source, row and column of a sample that cannot be read, unless `on_error` is "skip".
    """
    options: dict[str, Any] = {"labels": labels, "batch_size": batch_size, "on_error": on_error, "workers": workers}
    read = embed(model, processor, source, name, then=then, title=title, track=track, **options)
    return joined([(values.float().cpu(), batch.labels, batch.ids) for values, batch in read])


def embed(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    *,
    labels: Labels | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    workers: int = 0,
    then: Then | None = None,
    title: str = "features",
    track: Track = silent,
) -> Iterator[tuple[Float[Tensor, "b d"], Batch]]:
    """What `extract` collects, batch by batch, each beside its batch; the model is in evaluation mode meanwhile.

    Several processes take turns; see `each_batch`.
    """

    def answer(batch: Batch, source: Source) -> tuple[Float[Tensor, "b d"], Batch]:
        inputs = batch.to(model.device).inputs[name]
        values, merged = merge_pieces(model.pool(model.encode(name, inputs)), batch, source)
        return (values if then is None else then(values)), merged

    options: dict[str, Any] = {"labels": labels, "batch_size": batch_size, "on_error": on_error, "workers": workers}
    yield from each_batch(model, processor, source, name, answer, title=title, track=track, **options)


def each_batch(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    answer: Callable[[Batch, Source], T],
    *,
    labels: Labels | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    workers: int = 0,
    title: str = "features",
    track: Track = silent,
) -> Iterator[T]:
    """What a function finds in every batch of a source, without gradients; the model is in evaluation mode meanwhile.

    answer: takes the batch and the source that it is of, in which long samples are cut.
    Several processes take turns, and the first one is given all answers, in their order; the others are given none. What fails on
    one fails on all.
    """
    options: dict[str, Any] = {"labels": labels, "batch_size": batch_size, "on_error": on_error, "workers": workers}
    with evaluating(model):
        yield from answers(source, name, processor.processors[name], answer, model.device, title=title, track=track, **options)


def answers(
    source: Source,
    name: str,
    processor: Processor,
    answer: Callable[[Batch, Source], T],
    device: torch.device,
    *,
    labels: Labels | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    workers: int = 0,
    title: str = "features",
    track: Track = silent,
) -> Iterator[T]:
    """`each_batch` of a source whose samples are read by any processor, whatever model answers on a device."""
    modalities = {name: (find(name), processor)}
    source = cut(source, modalities, track=track)
    if device.type == "cpu" and min(len(source), batch_size) > FEWEST:
        batch_size = min(batch_size, at_once(source, modalities))
    stream = batches(
        source,
        modalities,
        batch_size,
        labels=labels,
        on_error=on_error,
        workers=workers,
        rank=processes.rank(),
        world=processes.world(),
    )

    def answered() -> Iterator[T | None]:
        for batch in stream:
            if not len(batch):
                yield None
                continue
            with torch.no_grad():
                yield answer(batch, source)

    yield from track(processes.in_turn(answered()), title, -(-len(source) // batch_size), unit="batches")


def at_once(source: Source, modalities: Modalities) -> int:
    """How many samples of a source a CPU encodes at a time, by the size of a few of them. Bad ones are left for reading to tell."""
    some = batches(cut(source.evenly(FEWEST), modalities), modalities, FEWEST, on_error="skip")
    try:
        few = next(some, None)
    except ValueError:  # most of the few are bad
        few = None
    if few is None:
        return FEWEST
    numbers = sum(tensor.numel() for inputs in few.inputs.values() for tensor in inputs.values())
    return max(FEWEST, ON_CPU * len(few) // max(1, numbers))


def rows_of_pieces(batch: Batch, source: Source) -> tuple[Int[Tensor, " c"], Int[Tensor, " b"]]:
    """The rows that samples are of, by their places among those that the source keeps; and for each sample the place of its own."""
    if not source.is_cut:
        return batch.ids, torch.arange(len(batch.ids))
    rows = torch.tensor([source.kept_row(i) for i in batch.ids.tolist()])
    ids, place = rows.unique_consecutive(return_inverse=True)
    return ids, place


def merge_pieces(values: Float[Tensor, "b d"], batch: Batch, source: Source) -> tuple[Float[Tensor, "c d"], Batch]:
    """One vector per row, the mean over its pieces, where long samples were cut; `ids` of the batch are then rows."""
    if not source.is_cut:
        return values, batch
    ids, place = rows_of_pieces(batch, source)
    count = torch.bincount(place)
    total = values.new_zeros(len(ids), values.shape[1]).index_add(0, place.to(values.device), values)
    first = count.cumsum(0) - count
    labels, units = (None if each is None else each[first] for each in (batch.labels, batch.units))
    return total / count[:, None].to(values), replace(batch, ids=ids, keys=batch.keys[first], labels=labels, units=units)


@contextmanager
def evaluating(model: MMSSLModel) -> Iterator[None]:
    """Evaluation mode, with one kernel of attention whatever a run trains with, and afterwards what the model had.

    Kernels differ by rounding. With few training samples that is enough for another penalty of the probe, and so for another score
    than that of the same model loaded again.
    """
    before, kernel = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation(KERNEL)
    try:
        yield
    finally:
        model.train(before)
        model.set_attn_implementation(kernel)


def raw_features(
    source: Source,
    name: str,
    processor: Processor,
    *,
    labels: Labels | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    workers: int = 0,
    track: Track = silent,
) -> Features:
    """What a linear model would be given of each sample without any learning: `Processor.features`. Arguments as in `extract`."""
    modalities = {name: (find(name), _Raw(processor))}
    source = cut(source, modalities, track=track)
    stream = batches(source, modalities, batch_size, labels=labels, on_error=on_error, workers=workers)
    shown = track(stream, "raw features", -(-len(source) // batch_size), unit="batches")
    merged = (merge_pieces(batch.inputs[name][RAW], batch, source) for batch in shown)
    return joined([(values, batch.labels, batch.ids) for values, batch in merged])


class Reading(Processor):
    """Another processor, of which a subclass reads samples in its own way, so that workers and `on_error` treat both alike."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    @property
    def windowed(self) -> bool:
        return self.processor.windowed

    def pieces(self, raw: Any) -> list[Any]:
        return self.processor.pieces(raw)

    def settings(self) -> dict[str, Any]:
        return self.processor.settings()

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        return self.processor.collate(samples)

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        return self.processor.features(inputs)


class _Raw(Reading):
    """A processor whose only tensor is its features."""

    def __call__(self, raw: Any) -> Inputs:
        features: Float[np.ndarray, " f"] = self.processor.features(self.processor(raw))
        return {RAW: torch.from_numpy(features).float()}

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        return {RAW: torch.stack([sample[RAW] for sample in samples])}

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        return inputs[RAW].numpy()


Part = tuple[Float[Tensor, "_ d"], Shaped[Tensor, " _ *_"] | None, Int[Tensor, " _"]]


def joined(parts: Sequence[Part]) -> Features:
    """What was found batch by batch, as one."""
    if not parts:
        return Features(torch.empty(0, 0), None, torch.empty(0, dtype=torch.int64))
    labels = [part_labels for _, part_labels, _ in parts if part_labels is not None]
    return Features(
        torch.cat([values for values, _, _ in parts]),
        torch.cat(labels) if labels else None,
        torch.cat([ids for _, _, ids in parts]),
    )


def random_init(config: MMSSLConfig, seed: int) -> MMSSLModel:
    """A model of the same architecture with fresh weights; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MMSSLModel(config.derive())

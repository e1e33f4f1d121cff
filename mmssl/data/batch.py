"""What the loader hands to an objective."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs, Others, find


@dataclass(frozen=True)
class Batch:
    """One micro-batch of samples.

    inputs: batched tensors per modality name, of the samples that hold it; a modality that none holds is not there.
    keys: seeds of every random draw for these samples; feeds `mmssl.draws.Draws`.
    ids: where the samples lie in their `Source`.
    labels: int64 class index or float32 value per sample, or `[b, k]`, 1 for each of several labels that it has.
    skipped: one message per sample that `on_error="skip"` left out; where that is all of them, there are no inputs.
    source: name of the source that the samples come from.
    step: optimizer step of that source that the samples belong to.
    others: per modality the samples of the whole optimizer step, for whatever takes something of one for another; None: these are
        all of them.
    rows: per modality which samples hold it, ascending, where some lack one; None: all hold all.
    group: a number for each sample; those with the same number belong together. None: each stands alone.
    units: of windows of series what the numbers of each sample's label are measured in, so that all count alike; None: as they are.
    counts: whether its samples do; else it stands in where processes must run the same layers: its loss is multiplied by 0.
    """

    inputs: dict[str, Inputs]
    keys: Int[Tensor, " b"]
    ids: Int[Tensor, " b"]
    labels: Shaped[Tensor, " b *k"] | None = None
    skipped: tuple[str, ...] = ()
    source: str = ""
    step: int = 0
    others: Mapping[str, Others] | None = None
    rows: Mapping[str, Int[Tensor, " _"]] | None = None
    group: Int[Tensor, " b"] | None = None
    units: Float[Tensor, " b"] | None = None
    counts: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modality(self) -> str:
        """The modality of a batch that holds exactly one; ValueError otherwise."""
        if len(self.inputs) != 1:
            raise ValueError(f"this objective takes batches of one modality; got {', '.join(self.inputs) or 'none'}")
        return next(iter(self.inputs))

    @property
    def paired(self) -> bool:
        """Whether its rows pair modalities: several are here, or those that are here lack the others."""
        return self.rows is not None or len(self.inputs) > 1

    @property
    def draws(self) -> Draws:
        """Random numbers of these samples."""
        return Draws(self.keys)

    def held(self, name: str) -> Int[Tensor, " k"]:
        """Which samples hold a modality, ascending."""
        if self.rows is not None:
            return self.rows.get(name, self.ids.new_zeros(0))
        return torch.arange(len(self.ids) if name in self.inputs else 0, device=self.ids.device)

    def of(self, name: str) -> "Batch":
        """The samples that hold a modality, and nothing else of them."""
        held = self.held(name)
        others = None if self.others is None else {name: self.others[name]}
        labels, group, units = (None if values is None else values[held] for values in (self.labels, self.group, self.units))
        inputs, keys, ids = {name: self.inputs[name]}, self.keys[held], self.ids[held]
        return Batch(inputs, keys, ids, labels, (), self.source, self.step, others, None, group, units, self.counts)

    def holding(self, name: str) -> "Batch":
        """The samples that hold a modality, and nothing else of them; an empty batch where none does."""
        return self.of(name) if name in self.inputs else Batch({}, self.keys[:0], self.ids[:0])

    def in_both(self, a: str, b: str) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]] | None:
        """The samples that hold two modalities: their places among those of each; None if there are none."""
        held = [self.held(name) for name in (a, b)]
        first, second = (torch.nonzero(torch.isin(mine, other))[:, 0] for mine, other in (held, held[::-1]))
        return (first, second) if len(first) else None

    def take(self, rows: Int[Tensor, " k"]) -> "Batch":
        """Some samples, by their places, which ascend."""
        at = dict.fromkeys(self.inputs, rows)
        held = None if self.rows is None else {name: torch.isin(self.held(name), rows) for name in self.inputs}
        if held is not None:
            at = {name: torch.nonzero(there)[:, 0] for name, there in held.items() if there.any()}
        inputs = {name: {key: x[places] for key, x in self.inputs[name].items()} for name, places in at.items()}
        others = self.others
        if others is not None:
            others = {name: replace(others[name], place=others[name].place[places]) for name, places in at.items()}
        labels, group, units = (None if values is None else values[rows] for values in (self.labels, self.group, self.units))
        kept = None if held is None else {name: torch.searchsorted(rows, self.held(name)[places]) for name, places in at.items()}
        keys, ids = self.keys[rows], self.ids[rows]
        return Batch(inputs, keys, ids, labels, self.skipped, self.source, self.step, others, kept, group, units, self.counts)

    def keys_of(self, name: str) -> Int[Tensor, " k"]:
        """Seeds of the draws of the samples that hold a modality."""
        return self.keys if self.rows is None else self.keys[self.held(name)]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device; copies to an accelerator do not wait when the batch is pinned."""
        target = torch.device(device)
        return self._map(lambda x: x.to(target, non_blocking=target.type != "cpu"))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; torch's DataLoader calls this by name."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        inputs = {name: {key: move(x) for key, x in tensors.items()} for name, tensors in self.inputs.items()}
        labels = None if self.labels is None else move(self.labels)
        others = None if self.others is None else {name: found.map(move) for name, found in self.others.items()}
        rows = None if self.rows is None else {name: move(found) for name, found in self.rows.items()}
        group = None if self.group is None else move(self.group)
        units = None if self.units is None else move(self.units)
        return replace(
            self,
            inputs=inputs,
            keys=move(self.keys),
            ids=move(self.ids),
            labels=labels,
            others=others,
            rows=rows,
            group=group,
            units=units,
        )


def with_others(batches: Sequence[Batch]) -> list[Batch]:
    """The micro-batches of one optimizer step, of all processes, in order, each with the samples of all of them as its `others`.

    A step that is one micro-batch stays as it is. Donors then depend on the samples of the step, not on how it is cut.
    """
    if len(batches) == 1:
        return list(batches)
    found: list[dict[str, Others]] = [{} for _ in batches]
    for name in dict.fromkeys(name for batch in batches for name in batch.inputs):
        holders = [number for number, batch in enumerate(batches) if name in batch.inputs]
        joined = find(name).processor.join([batches[number].inputs[name] for number in holders])
        keys = torch.cat([batches[number].keys_of(name) for number in holders])
        places = torch.arange(len(keys), device=keys.device).split([len(batches[number].held(name)) for number in holders])
        for number, place in zip(holders, places, strict=True):
            found[number][name] = Others(joined, keys, place)
    return [replace(batch, others=others) for batch, others in zip(batches, found, strict=True)]

"""What the loader hands to an objective."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs, Others, find


@dataclass(frozen=True)
class Batch:
    """One micro-batch of samples.

    inputs: batched tensors per modality name.
    keys: seeds of every random draw for these samples; feeds `mmssl.draws.Draws`.
    ids: where the samples lie in their `Source`.
    labels: int64 class index or float32 value per sample.
    skipped: one message per sample that `on_error="skip"` left out; where that is all of them, there are no inputs.
    source: name of the source that the samples come from.
    step: optimizer step of that source that the samples belong to.
    others: per modality the samples of the whole optimizer step, for whatever takes something of one for another; None: these are
        all of them.
    """

    inputs: dict[str, Inputs]
    keys: Int[Tensor, " b"]
    ids: Int[Tensor, " b"]
    labels: Shaped[Tensor, " b"] | None = None
    skipped: tuple[str, ...] = ()
    source: str = ""
    step: int = 0
    others: Mapping[str, Others] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modality(self) -> str:
        """The modality of a batch that holds exactly one; ValueError otherwise."""
        if len(self.inputs) != 1:
            raise ValueError(f"this objective takes batches of one modality; got {', '.join(self.inputs) or 'none'}")
        return next(iter(self.inputs))

    @property
    def draws(self) -> Draws:
        """Random numbers of these samples."""
        return Draws(self.keys)

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
        return replace(self, inputs=inputs, keys=move(self.keys), ids=move(self.ids), labels=labels, others=others)


def with_others(batches: Sequence[Batch]) -> list[Batch]:
    """The micro-batches of one optimizer step, of all processes, in order, each with the samples of all of them as its `others`.

    A step that is one micro-batch stays as it is. Donors then depend on the samples of the step, not on how it is cut.
    """
    if len(batches) == 1:
        return list(batches)
    keys = torch.cat([batch.keys for batch in batches])
    joined = {name: find(name).processor.join([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    places = torch.arange(len(keys), device=keys.device).split([len(batch) for batch in batches])
    return [
        replace(batch, others={name: Others(inputs, keys, place) for name, inputs in joined.items()})
        for batch, place in zip(batches, places, strict=True)
    ]

"""What the loader hands to an objective."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs


@dataclass(frozen=True)
class Batch:
    """One micro-batch of samples.

    inputs: batched tensors per modality name.
    keys: seeds of every random draw for these samples; feeds `mmssl.draws.Draws`.
    ids: where the samples lie in their `Source`.
    labels: int64 class index or float32 value per sample.
    skipped: one message per sample that `on_error="skip"` left out.
    source: name of the source that the samples come from, where a run mixes several.
    """

    inputs: dict[str, Inputs]
    keys: Int[Tensor, " b"]
    ids: Int[Tensor, " b"]
    labels: Shaped[Tensor, " b"] | None = None
    skipped: tuple[str, ...] = ()
    source: str = ""

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
        return replace(self, inputs=inputs, keys=move(self.keys), ids=move(self.ids), labels=labels)

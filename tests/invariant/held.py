"""What `many.py` lets each process write down about its memory: bytes of what it holds of a model, as the tensors lie there."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmssl.training.loop import Training

KINDS = ("parameters", "gradients", "moments", "master", "teacher")
"""Gradients: the most after any micro-batch. Master: copies of parameters by which an optimizer moves them. And, "beside": what
DeepSpeed holds in main memory where it offloads, gradients as AdamW reads them and as they were added up, and moved weights."""


def tensors(value: Any) -> Iterator[Tensor]:
    """What lies in a value; of what is sharded what this process holds."""
    if isinstance(value, DTensor):
        yield value.to_local()
    elif isinstance(value, Tensor):
        yield value.data
        if hasattr(value, "ds_tensor"):
            yield value.ds_tensor.data
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def storages(values: Iterable[Any], *known: Mapping[int, int]) -> dict[int, int]:
    """Bytes of the memory under some tensors, by its address; none twice, and nothing that is known."""
    found = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors(list(values))}
    return {place: size for place, size in found.items() if place and not any(place in each for each in known)}


def gradients(training: Training) -> dict[int, int]:
    zero = getattr(training.strategy.optimizer, "engine", None)
    theirs = [getattr(zero.optimizer, name, None) for name in ZEROS] if zero is not None else []
    own = [getattr(parameter, name, None) for parameter in training.objective.parameters() for name in ("grad", "grad_accum")]
    return storages([each for each in (*own, *theirs) if each is not None])


ZEROS = ("averaged_gradients", "all_grad_tensors", "grad_partitions_flat_buffer")
"""Where DeepSpeed's optimizers keep gradients."""
MASTERS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
"""Where they keep what they move: in stages 1 and 2, and in stage 3."""
BESIDE = ("accumulated_grads_in_cpu", "param_buffer_of_bit16_for_cpu_offload_groups")
"""What they hold in main memory where they offload."""


def held(training: Training) -> dict[str, int]:
    """Bytes between two steps, by their kind, without gradients."""
    strategy, networks = training.strategy, training.objective.networks
    copies = {id(parameter) for parameter in networks.copies.parameters()}
    parameters = storages(parameter for parameter in training.objective.parameters() if id(parameter) not in copies)
    teacher = storages(networks.copies.parameters(), parameters)
    zero = getattr(strategy.optimizer, "engine", None)
    optimizer = strategy.optimizer if zero is None else zero.optimizer.optimizer
    moved = [each for group in optimizer.param_groups for each in group["params"]]
    if zero is not None:  # in stage 3 the groups are empty between steps
        moved = next(getattr(zero.optimizer, name) for name in MASTERS if hasattr(zero.optimizer, name))
    moments = storages((value for state in optimizer.state.values() for value in state.values() if value.dim()), parameters)
    master = storages(moved, parameters)
    beside = storages(getattr(zero.optimizer, name, None) for name in BESIDE) if zero is not None else {}
    beside |= storages((each.grad for each in moved if zero is not None), parameters)
    found = {"parameters": parameters, "moments": moments, "master": master, "teacher": teacher, "beside": beside}
    return {name: sum(sizes.values()) for name, sizes in found.items()}


def held_written_down(rank: int, name: str) -> None:
    """Each process writes what it holds into a file after each step."""
    most = [0]
    move, prepared = Training.move, Training.__init__

    def watched(self: Training, *arguments: Any, **options: Any) -> None:
        prepared(self, *arguments, **options)
        backward: Callable[..., None] = self.strategy.backward

        def counted(loss: Tensor, last: bool) -> None:
            backward(loss, last)
            most[0] = max(most[0], sum(gradients(self).values()))

        self.strategy.backward = counted  # type: ignore[method-assign]

    def moved(self: Training, micro: Any) -> Any:
        made = move(self, micro)
        with torch.no_grad():
            found = held(self) | {"gradients": most[0]}
        Path(f"{name}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
        return made

    Training.__init__, Training.move = watched, moved  # type: ignore[method-assign]

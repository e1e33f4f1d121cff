"""Faults of sharding that `many.py` plants in a run, each of which a law must find: see `PLANTED` there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from mmssl.data import Batch, processes
from mmssl.objectives import base, networks, together
from mmssl.objectives.networks import Clock, Networks
from mmssl.training import loop
from mmssl.training.loop import Training


def sharded() -> list[Any]:
    """The classes that shard, which take long to import; DeepSpeed itself is imported when it shards."""
    from mmssl.training.sharding.fsdp import FullyShard
    from mmssl.training.sharding.zero import Zero
    from mmssl.training.sharding.zero3 import Zero3

    return [FullyShard, Zero, Zero3]


def mean_left_out(rank: int, value: bool) -> None:
    """The gradient is 1/W of what it should be: the mean over the processes, where it should be the sum."""

    def part(backward: Callable[..., None]) -> Callable[..., None]:
        return lambda self, loss, last: backward(self, loss / processes.world(), last)

    for strategy in sharded()[:2]:
        strategy.backward = part(strategy.backward)


def teacher_of_one(rank: int, value: bool) -> None:
    """The second process does not move its part of the teacher."""

    def forgotten(after_step: Callable[..., None]) -> Callable[..., None]:
        def without(self: Any, move: Callable[[], None]) -> None:
            update = networks.ema_update
            networks.ema_update = lambda average, module, momentum: None
            try:
                after_step(self, move)
            finally:
                networks.ema_update = update

        return without

    for strategy in sharded() if rank == 1 else []:
        strategy.after_step = forgotten(strategy.after_step)


def teacher_elsewhere(rank: int, value: bool) -> None:
    """Teachers lie otherwise than the student: each entry moves towards that of its neighbour in what the process holds."""
    update = networks.ema_update

    def here(tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @torch.no_grad()
    def moved(average: nn.Module, module: nn.Module, momentum: float) -> None:
        for parameter in module.parameters():
            here(parameter).copy_(here(parameter).flatten().roll(1).reshape(here(parameter).shape))
        update(average, module, momentum)
        for parameter in module.parameters():
            here(parameter).copy_(here(parameter).flatten().roll(-1).reshape(here(parameter).shape))

    networks.ema_update = moved


def teacher_in_columns(rank: int, value: bool) -> None:
    """FSDP2 shards the layers of teachers along their columns, and those of the student along their rows."""
    import mmssl.training.sharding.fsdp as fsdp

    shard, layers = fsdp.fully_shard, fsdp.layers

    def found(objective: Any) -> list[nn.Module]:
        teachers.update(id(layer) for layer in layers(objective.networks.copies))
        return layers(objective)

    def placed(module: nn.Module, **options: Any) -> Any:
        if id(module) in teachers:
            options["shard_placement_fn"] = lambda parameter: Shard(parameter.dim() - 1)
        return shard(module, **options)

    teachers = set[int]()
    fsdp.layers, fsdp.fully_shard = found, placed  # type: ignore[assignment]


def negatives_of_its_own(rank: int, value: bool) -> None:
    """Each process contrasts its own samples alone, and takes the mean of these losses."""
    whole_step = together.whole_step

    def alone(*arguments: Any) -> together.Whole:
        with processes.alone():
            found = whole_step(*arguments)
        part = 1 / processes.world()
        slopes = [{name: slope * part for name, slope in each.items()} for each in found.slopes]
        weights = [(weight, slope * part) for weight, slope in found.weights]
        return replace(found, loss=found.loss * part, slopes=slopes, weights=weights, first=found.first and rank == 0)

    base.whole_step = alone


def moments_of_one_dropped(rank: int, value: bool) -> None:
    """The second process, where it goes on, leaves its part of the optimizer's state in the checkpoint."""

    def dropped(load: Callable[..., None]) -> Callable[..., None]:
        return lambda self, state: load(self, {**state, "state": {}})

    for strategy in sharded()[:2] if rank == 1 else []:
        strategy.load_moments = dropped(strategy.load_moments)


def average_starts_again(rank: int, value: bool) -> None:
    """Where a run goes on, the momentum of its averages and teachers goes by a clock that starts again."""
    restore, after_step, began = Training.restore, Networks.after_step, [Clock()]

    def restored(self: Training, state: dict[str, Any]) -> None:
        restore(self, state)
        began[0] = self.clock

    def moved(self: Networks, clock: Clock) -> None:
        after_step(self, Clock(clock.step - began[0].step, clock.progress - began[0].progress))

    Training.restore, Networks.after_step = restored, moved  # type: ignore[method-assign]


def what_stands_in_counts(rank: int, value: bool) -> None:
    """Copies of another process's micro-batches, which are there so that all run the same layers, count."""
    alike = loop.alike

    def counting(*given: Any) -> list[Batch]:
        return [replace(batch, counts=True) for batch in alike(*given)]

    loop.alike = counting  # type: ignore[attr-defined]


FAULTS = (
    *(mean_left_out, teacher_of_one, teacher_elsewhere, teacher_in_columns, negatives_of_its_own),
    *(moments_of_one_dropped, average_starts_again, what_stands_in_counts),
)

"""ZeRO-3 by DeepSpeed: the layers of encoders are sharded, as is the optimizer state and the gradient of all that learns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from mmssl.data import processes
from mmssl.objectives import Objective
from mmssl.training.pieces import Piece, flat
from mmssl.training.sharding.skeleton import filled, layers, skeleton
from mmssl.training.sharding.strategy import State, check_architecture
from mmssl.training.sharding.zero import Fragment, Zero


class Zero3(Zero):
    """DeepSpeed gathers a layer when its forward pass begins. What is in no layer (embeddings, norms, heads) stays gathered.

    Of an average of weights each process moves its part, `ds_tensor`, in float32: moving a parameter itself changes nothing, for
    the next gathering brings the parts back.
    """

    sharded = True

    def make_copies(self) -> None:
        super().make_copies()
        self.bones = skeleton(self.objective)

    def config(self, accumulation: int) -> dict[str, Any]:
        settings = super().config(accumulation)
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # which ones stay gathered is said in `start`
        return settings

    def start(self, optimizer: Optimizer, accumulation: int) -> Any:
        engine = super().start(optimizer, accumulation)
        inside = {id(parameter) for layer in layers(self.objective) for parameter in layer.parameters()}
        kept = engine.optimizer.persistent_parameters
        for parameter in self.objective.parameters():
            if id(parameter) not in inside:
                kept_whole = cast(Any, parameter)
                # The first alone would hold from the second pass on, when DeepSpeed knows the order of the layers.
                kept_whole.ds_persist, kept_whole.is_external_param = True, True
                kept.append(parameter)
        if kept:
            kept[0].all_gather(kept)
        return engine

    @property
    def units(self) -> list[int]:
        return [len(parameters) for parameters in self.zero.fp16_groups]

    def state_key(self, unit: int) -> Tensor:
        return cast(Tensor, self.zero.fp32_partitioned_groups_flat[unit])

    def found_fragments(self) -> list[Fragment]:
        found = []
        for number, parameter in enumerate(self.parameters):
            unit, place, _ = self.zero.grad_position[self.zero.get_param_id(parameter)]
            start, length = held(parameter)
            found.append(Fragment(number, start, length, unit, place))
        return found

    @contextmanager
    def partitioned(self) -> Iterator[None]:
        """A block in which every parameter is the flattened part of it that this process holds, padding included."""
        self.zero._partition_all_parameters()
        everything = list(self.objective.parameters())
        before = [parameter.data for parameter in everything]
        for parameter in everything:
            parameter.data = cast(Any, parameter).ds_tensor.data
        try:
            yield
        finally:
            for parameter, data in zip(everything, before, strict=True):
                parameter.data = data
            kept = self.zero.persistent_parameters
            if kept:
                kept[0].all_gather(kept)

    def after_step(self, move: Callable[[], None]) -> None:
        with self.partitioned():
            move()

    def weights(self) -> dict[str, Any]:
        with self.partitioned():
            parameters = dict(self.objective.named_parameters(remove_duplicate=False))
            return {
                name: piece(parameters[name]) if name in parameters else tensor
                for name, tensor in self.objective.state_dict().items()
            }

    @torch.no_grad()
    def load_weights(self, state: State) -> None:
        with self.partitioned():
            parameters = dict(self.objective.named_parameters(remove_duplicate=False))
            own = self.objective.state_dict()
            shapes = {name: cast(Any, parameter).ds_shape for name, parameter in parameters.items()}
            check_architecture({name: shapes.get(name, tensor.shape) for name, tensor in own.items()}, state)
            for name, tensor in own.items():
                if name in parameters:
                    start, length = held(parameters[name])
                    tensor[:length].copy_(flat(state[name], start, start + length))
                else:
                    tensor.copy_(flat(state[name], 0, tensor.numel()).reshape(tensor.shape))
            for part in self.fragments:
                here = cast(Any, self.parameters[part.parameter]).ds_tensor[: part.length]
                self.partition(part.unit)[part.place : part.place + part.length].copy_(here)

    @contextmanager
    def whole(self) -> Iterator[Objective | None]:
        weights = dict[str, Tensor]()
        with self.partitioned():
            parameters = dict(self.objective.named_parameters(remove_duplicate=False))
            for name, tensor in self.objective.state_dict().items():
                found = gathered(parameters[name], self.accelerator.device) if name in parameters else tensor
                if processes.is_first():
                    weights[name] = found.detach()
        with filled(self.bones, weights) if processes.is_first() else nullcontext() as objective:
            yield objective


def held(parameter: nn.Parameter) -> tuple[int, int]:
    """Which entries of a flattened parameter this process holds: the first, and how many; the last processes may hold padding."""
    it = cast(Any, parameter)
    size: int = it.ds_tensor.ds_numel
    start = min(size * processes.rank(), it.ds_numel)
    return start, min(size, it.ds_numel - start)


def piece(parameter: nn.Parameter) -> Piece:
    """What this process holds of a parameter that is the flattened part here."""
    start, length = held(parameter)
    return Piece(parameter.detach()[:length], start, tuple(cast(Any, parameter).ds_shape))


@torch.no_grad()
def gathered(parameter: nn.Parameter, device: torch.device) -> Tensor:
    """All of a parameter that is the flattened part here, on every process, on its device, until it is dropped."""
    own = parameter.data.to(device).contiguous()
    parts = [torch.empty_like(own) for _ in range(processes.world())]
    dist.all_gather(parts, own)
    it = cast(Any, parameter)
    return torch.cat(parts)[: it.ds_numel].reshape(it.ds_shape)

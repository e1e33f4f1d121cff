"""FSDP2: parameters, gradients and optimizer state are sharded by torch's `fully_shard`, on GPUs and, by gloo, on a CPU alike."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from mmssl.data import processes
from mmssl.objectives import Objective
from mmssl.training.pieces import Piece, flat
from mmssl.training.sharding.skeleton import filled, layers, skeleton
from mmssl.training.sharding.strategy import State, Strategy, check_architecture, with_leaves

T = TypeVar("T")


class FullyShard(Strategy):
    """Each layer of each encoder (student, teachers, decoders, predictors) is a unit, and all that is left is one.

    A unit is gathered when its forward pass begins and dropped after it. Where `shards` processes hold a copy of the model between
    them, the processes of the same place in each copy hold the same, and move it alike. reshard, shards: see `Asked`.
    offload: whether what is sharded lies in main memory, where the optimizer moves it.
    """

    name = "fsdp2"
    sharded = in_pieces = gathers = True

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        *,
        reshard: bool = True,
        shards: int | None = None,
        offload: bool = False,
    ) -> None:
        super().__init__(accelerator, objective)
        self.reshard, self.shards, self.offload = reshard, shards, offload

    def prepare(self, make: Callable[[], Optimizer], *, clip: float | None, compiled: bool, accumulation: int) -> None:
        self.limit, self.accumulation = math.inf if clip is None else clip, accumulation
        objective, device = self.objective, self.accelerator.device
        objective.networks.make()  # what is sharded cannot be copied
        for_itself(objective)
        self.bones = skeleton(objective)
        self.mesh = mesh = mesh_of(device, processes.world(), self.shards)
        policy = CPUOffloadPolicy(pin_memory=device.type != "cpu") if self.offload else OffloadPolicy()
        for layer in layers(objective):
            if compiled:
                layer.compile()
            fully_shard(layer, mesh=mesh, reshard_after_forward=self.reshard, offload_policy=policy)
        fully_shard(objective, mesh=mesh, offload_policy=policy)
        register_fsdp_forward_method(objective, "within")
        for buffer in objective.buffers():
            buffer.data = buffer.data.to(device)  # parameters are where they are to be
        self.optimizer = self.accelerator.prepare(make())
        self.check_in_force()

    @property
    def root(self) -> FSDPModule:
        return cast(FSDPModule, self.objective)

    def check_in_force(self) -> None:
        """AssertionError unless every parameter is sharded, all in one way, and the optimizer moves the shards."""
        plain = [name for name, parameter in self.objective.named_parameters() if not isinstance(parameter, DTensor)]
        assert not plain, f"fsdp2 was asked for, and these are not sharded: {plain[:3]}"
        # A teacher that lies otherwise than the student would move towards other entries of it.
        ways = {(str(here.device_mesh), here.placements) for here in map(as_sharded, self.objective.parameters())}
        assert len(ways) == 1, f"parameters are sharded in different ways: {ways}"
        assert all(isinstance(parameter, DTensor) for group in self.optimizer.param_groups for parameter in group["params"])

    def within(self, work: Callable[[], T]) -> T:
        try:
            return self.objective.within(work)
        finally:
            self.root.reshard()  # a forward pass without a backward one leaves what the root holds gathered

    def backward(self, loss: Float[Tensor, ""], last: bool) -> None:
        # `fully_shard` takes the mean over the processes; gradients of micro-batches add up.
        (loss * processes.world()).backward()

    def clip(self) -> Float[Tensor, ""]:
        gradients = [local(parameter.grad) for parameter in self.objective.parameters() if parameter.grad is not None]
        squares = torch.stack([gradient.norm().square() for gradient in gradients]).sum().to(self.accelerator.device)
        dist.all_reduce(squares, group=self.mesh.get_group(self.mesh.ndim - 1))
        norm = squares.sqrt()
        if self.limit < math.inf:
            torch._foreach_mul_(gradients, (self.limit / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].device))
        return norm

    def after_step(self, move: Callable[[], None]) -> None:
        self.root.reshard()
        move()

    def weights(self) -> dict[str, Any]:
        self.root.reshard()
        return {name: piece(tensor) for name, tensor in self.objective.state_dict().items()}

    @torch.no_grad()
    def load_weights(self, state: State) -> None:
        self.root.reshard()
        own = self.objective.state_dict()
        check_architecture({name: tensor.shape for name, tensor in own.items()}, state)
        for name, tensor in own.items():
            fill(tensor, state[name])

    def moments(self) -> dict[str, Any]:
        return cast(dict[str, Any], with_leaves(self.optimizer.state_dict(), piece))

    def load_moments(self, state: Mapping[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

        def placed(number: int, value: Any) -> Any:
            like = parameters[number]
            if not hasattr(value, "shape") or value.shape != like.shape or not value.shape:
                return with_leaves(value, lambda each: flat(each, 0, math.prod(each.shape)).reshape(each.shape).clone())
            found = torch.empty_like(like, dtype=value.dtype)
            fill(found, value)
            return found

        moved = {
            number: {key: placed(number, value) for key, value in moments.items()} for number, moments in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": moved})

    @contextmanager
    def whole(self) -> Iterator[Objective | None]:
        self.root.reshard()
        weights = dict[str, Tensor]()
        for name, tensor in self.objective.state_dict().items():
            found = as_sharded(tensor.to(self.accelerator.device)).full_tensor() if isinstance(tensor, DTensor) else tensor
            if processes.is_first():
                weights[name] = found.detach()
        with filled(self.bones, weights) if processes.is_first() else nullcontext() as objective:
            yield objective


def mesh_of(device: torch.device, world: int, shards: int | None) -> DeviceMesh:
    """The processes in their order; or, of several copies of the model, in rows of those that share one."""
    if shards is None or shards == world:
        return init_device_mesh(device.type, (world,))
    return init_device_mesh(device.type, (world // shards, shards), mesh_dim_names=("dp_replicate", "dp_shard"))


def for_itself(objective: nn.Module) -> None:
    """Give each module parameters of its own. A copy shares those that do not learn, in another unit than the student's.

    They stay equal, as nothing moves them.
    """
    seen = set[int]()
    for module in objective.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                assert not parameter.requires_grad, f"{name} learns in two places at once"
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))


def as_sharded(tensor: Tensor | None) -> DTensor:
    assert isinstance(tensor, DTensor)
    return tensor


def local(tensor: Tensor | None) -> Tensor:
    """What this process holds."""
    return as_sharded(tensor).to_local()


def start_of(tensor: DTensor) -> int:
    """Where the local part begins in the flattened tensor, whose rows are shared out in equal chunks."""
    *copies, placement = tensor.placements
    assert isinstance(placement, Shard) and placement.dim == 0 and all(copy.is_replicate() for copy in copies)
    mesh, last = tensor.device_mesh, tensor.device_mesh.ndim - 1
    rows = math.ceil(tensor.shape[0] / mesh.size(last))
    return min(rows * mesh.get_local_rank(last), tensor.shape[0]) * math.prod(tensor.shape[1:])


def piece(tensor: Tensor) -> Tensor | Piece:
    """What this process holds of a sharded tensor, nothing where another copy's process has the same; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    values, mesh = tensor.to_local().detach().reshape(-1), tensor.device_mesh
    if any(mesh.get_local_rank(dim) for dim in range(mesh.ndim - 1)):
        values = values[:0]
    return Piece(values, start_of(tensor), tuple(tensor.shape))


@torch.no_grad()
def fill(tensor: Tensor, value: Any) -> None:
    """Copy a tensor, however it lies, into one; of a sharded one what this process holds."""
    if isinstance(tensor, DTensor):
        here, start = tensor.to_local(), start_of(tensor)
    else:
        here, start = tensor, 0
    here.copy_(flat(value, start, start + here.numel()).reshape(here.shape))

"""ZeRO-1, 2 and 3 by DeepSpeed, which is an extra of mmssl; on GPUs and, by gloo, on a CPU alike.

DeepSpeed gets the recipe's optimizer, float32 weights (bf16 is autocast's, as without it), and the micro-batch and accumulation of
the recipe. It flattens the parameters of a group and gives each process a part of the whole; which entries of which parameter these
are is checked before the first step, so that another version of DeepSpeed cannot mix them up unnoticed.
"""

import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from mmssl.data import processes
from mmssl.objectives import Objective
from mmssl.training.asked import Asked, refuse
from mmssl.training.pieces import Parts, Piece, flat
from mmssl.training.sharding.strategy import State, Strategy, with_leaves

INSTALL = 'DeepSpeed is not installed: pip install "mmssl[deepspeed]", or launch with --strategy fsdp2, which shards as much'
OLDEST = "0.19.8"
"""The first DeepSpeed that will do; setup.cfg says the same."""
UPGRADE = f'pip install "deepspeed>={OLDEST}", or launch with --strategy fsdp2, which shards as much'
NEVER = 10**12
"""Steps between two lines that DeepSpeed would print."""


@dataclass(frozen=True)
class Fragment:
    """Entries of a parameter that this process moves.

    parameter: its number in the optimizer's groups. start, length: which entries of it, flattened. place: where they begin in the
    process's part of a flattened tensor, number `unit` of them.
    """

    parameter: int
    start: int
    length: int
    unit: int
    place: int


class Zero(Strategy):
    """Stages 1 and 2: weights are whole everywhere, the optimizer state (and, in stage 2, the gradient) is sharded."""

    in_pieces = gathers = True

    def __init__(self, accelerator: Accelerator, objective: Objective, wanted: Asked, micro_batch: int) -> None:
        super().__init__(accelerator, objective)
        assert wanted.stage is not None
        self.wanted, self.micro_batch, self.stage, self.name = wanted, micro_batch, wanted.stage, wanted.name

    def prepare(self, make: Callable[[], Optimizer], *, clip: float | None, compiled: bool, accumulation: int) -> None:
        assert not compiled, "refused before"
        self.limit, self.accumulation = math.inf if clip is None else clip, accumulation
        self.make_copies()
        self.objective.to(self.accelerator.device)
        optimizer = make()
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.shapes = [tuple(parameter.shape) for parameter in self.parameters]
        self.sizes = [len(group["params"]) for group in optimizer.param_groups]
        before = [parameter.detach().reshape(-1).clone() for parameter in self.parameters]
        self.engine = self.start(optimizer, accumulation)
        self.wrapped, self.optimizer = self.engine, Moved(self.engine)
        self.fragments = self.found_fragments()
        self.check_in_force(before)

    def make_copies(self) -> None:
        """Copies of the model, before DeepSpeed has it."""
        self.objective.networks.make()

    def config(self, accumulation: int) -> dict[str, Any]:
        """What DeepSpeed is told: its file, and what the recipe says."""
        settings = {key: value for key, value in self.wanted.settings.items() if key not in ("fp16", "bf16")}
        inner = {**settings.get("zero_optimization", {}), "stage": self.stage}
        for what in self.wanted.offload:
            inner[f"offload_{what}"] = {**(inner.get(f"offload_{what}") or {}), "device": "cpu"}
        settings["zero_optimization"] = inner
        own = {
            "train_batch_size": self.micro_batch * accumulation * processes.world(),
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": 0.0 if self.limit == math.inf else self.limit,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": NEVER,
        }
        return {**settings, **own}

    def start(self, optimizer: Optimizer, accumulation: int) -> Any:
        """DeepSpeed's engine of the objective."""
        deepspeed = imported(self.accelerator.device)
        within_autocast(self.objective, self.accelerator)
        config = self.config(accumulation)
        engine, *_ = deepspeed.initialize(model=self.objective, optimizer=optimizer, config=config, dist_init_required=False)
        return engine

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimizer."""
        return self.engine.optimizer

    def check_in_force(self, before: Sequence[Tensor]) -> None:
        """LaunchError unless DeepSpeed runs the stage and offload that were asked for, and each process moves its own entries.

        before: the flattened parameters as they were.
        """
        if self.engine.zero_optimization_stage() != self.stage:
            refuse(f"{self.name} was asked for, and DeepSpeed runs stage {self.engine.zero_optimization_stage()}")
        for what, found in (("optimizer", self.engine.zero_offload_optimizer()), ("param", self.engine.zero_offload_param())):
            if (found is not None and found.device == "cpu") != (what in self.wanted.offload):
                refuse(f"offload of {list(self.wanted.offload)} was asked for, and DeepSpeed runs with offload_{what}={found}")
        counts = torch.zeros(len(self.parameters), dtype=torch.int64)
        for part in self.fragments:
            own = self.partition(part.unit)[part.place : part.place + part.length]
            same = torch.equal(own, before[part.parameter][part.start : part.start + part.length].to(own))
            counts[part.parameter] += part.length if same else 0
        dist.all_reduce(counts)
        if counts.tolist() != [math.prod(shape) for shape in self.shapes]:
            refuse(
                f"this version of DeepSpeed ({imported(self.accelerator.device).__version__}) lays out what it shards otherwise "
                "than mmssl knows it, so that checkpoints would be wrong: install 0.19, or launch with --strategy fsdp2"
            )

    def partition(self, unit: int) -> Tensor:
        """What this process moves of the parameters of a flattened tensor, in float32."""
        return self.state_key(unit).detach()

    def found_fragments(self) -> list[Fragment]:
        """What this process moves."""
        found, number = list[Fragment](), 0
        for group, count in enumerate(self.sizes):
            for _ in range(count):
                mapping = self.parameters[number]._hp_mapping
                if mapping is not None:
                    there, here = mapping.lp_fragment_address, mapping.hp_fragment_address
                    found.append(Fragment(number, there.start, there.numel, group, here.start))
                number += 1
        return found

    def expect(self, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Float[Tensor, ""], last: bool) -> None:
        # DeepSpeed takes the mean over the processes; gradients of micro-batches add up.
        self.engine.backward(loss * processes.world(), scale_wrt_gas=False)

    def clip(self) -> Float[Tensor, ""]:
        """Here DeepSpeed moves the weights as well: it knows the norm no sooner. Where that is not finite it leaves them alone."""
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        return torch.tensor(norm if norm >= 0 else math.inf, device=self.accelerator.device)

    def drop(self, names: Sequence[str]) -> None:
        raise AssertionError("refused before: ZeRO moves all that learns")

    def step(self) -> None:
        """Done by `clip`."""

    def load_weights(self, state: State) -> None:
        super().load_weights(state)
        for part in self.fragments:
            own = self.parameters[part.parameter].detach().reshape(-1)[part.start : part.start + part.length]
            self.partition(part.unit)[part.place : part.place + part.length].copy_(own)

    def moments(self) -> dict[str, Any]:
        base, states = self.zero.optimizer, dict[int, dict[str, Any]]()
        by_parameter = {part.parameter: part for part in self.fragments}
        number = 0
        for unit, count in enumerate(self.units):
            flattened = base.state.get(self.state_key(unit), {})
            for _ in range(count):
                if flattened:
                    states[number] = self.moments_of(number, flattened, by_parameter.get(number))
                number += 1
        numbers = iter(range(number))
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": [next(numbers) for _ in range(count)]}
            for group, count in zip(base.param_groups, self.sizes, strict=True)
        ]
        return {"state": states, "param_groups": groups}

    @property
    def group_sizes(self) -> list[int]:
        return self.sizes

    @property
    def units(self) -> list[int]:
        """How many parameters lie in each flattened tensor that the optimizer moves, in their order."""
        return self.sizes

    def state_key(self, unit: int) -> Tensor:
        """By what the optimizer knows its state of such a tensor."""
        return cast(Tensor, self.zero.single_partition_of_fp32_groups[unit])

    def moments_of(self, number: int, flattened: Mapping[str, Any], part: Fragment | None) -> dict[str, Any]:
        """The optimizer's state of a parameter, of what has its size the piece that this process holds."""
        found = {}
        for key, value in flattened.items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                found[key] = value
            elif part is None:
                found[key] = Piece(value[:0], 0, self.shapes[number])
            else:
                found[key] = Piece(value[part.place : part.place + part.length], part.start, self.shapes[number])
        return found

    @torch.no_grad()
    def load_moments(self, state: Mapping[str, Any]) -> None:
        if not state["state"]:
            return
        number = 0
        for unit, count in enumerate(self.units):
            first, like = state["state"][number], self.partition(unit)
            own = {
                key: torch.zeros_like(like) if is_moment(value, self.shapes[number]) else with_leaves(value, detached)
                for key, value in first.items()
            }
            for part in self.fragments:
                if part.unit == unit:
                    for key, value in state["state"][part.parameter].items():
                        if is_moment(value, self.shapes[part.parameter]):
                            here = own[key][part.place : part.place + part.length]
                            here.copy_(flat(value, part.start, part.start + part.length))
            self.zero.optimizer.state[self.state_key(unit)] = own
            number += count


class Moved:
    """DeepSpeed's optimizer as the loop sees it: groups whose learning rates it sets."""

    step_was_skipped = False

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return cast(list[dict[str, Any]], self.engine.optimizer.optimizer.param_groups)


def is_moment(value: Any, shape: Sequence[int]) -> bool:
    """Whether an entry of the optimizer's state has one value for each of a parameter."""
    return isinstance(value, Tensor | Parts) and tuple(value.shape) == tuple(shape) and len(shape) > 0


def detached(value: Any) -> Tensor:
    """In memory of its own."""
    return flat(value, 0, math.prod(value.shape)).reshape(value.shape).clone()


def within_autocast(objective: nn.Module, accelerator: Accelerator) -> None:
    """Let the forward pass of an objective run under the autocast of the recipe's precision: DeepSpeed's engine turns off ours."""
    forward = objective.forward

    def cast_forward(*arguments: Any, **options: Any) -> Any:
        with accelerator.autocast():
            return forward(*arguments, **options)

    objective.forward = cast_forward


def numbers(version: str) -> list[int]:
    """The first three of a version."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def imported(device: torch.device) -> Any:
    """DeepSpeed, for this device and without a word. LaunchError, with the way out, if it is not there."""
    if find_spec("deepspeed") is None:
        refuse(INSTALL)
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if numbers(found := version("deepspeed")) < numbers(OLDEST):
        refuse(f"DeepSpeed {found} is too old: {UPGRADE}")
    try:
        deepspeed = import_module("deepspeed")
        logger = import_module("deepspeed.utils").logger
    except ImportError as error:
        refuse(f"DeepSpeed {found} cannot be imported beside torch {torch.__version__}: {error}. Another one may suit: {UPGRADE}")

    logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # its own calls
    if device.type == "cpu":
        # Gloo does what is needed; DeepSpeed would compile an operation of its own, and needs a compiler for it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.ops.__compatible_ops__["shm_comm"] = False
    return deepspeed

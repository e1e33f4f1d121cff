"""What a strategy of sharing a model among processes does for the loop, and the one by which every process holds it all."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from mmssl.objectives import Objective
from mmssl.training.pieces import Parts, whole

T = TypeVar("T")
State = Mapping[str, Tensor | Parts]


class Strategy:
    """Data parallel: each process holds the whole model. Subclasses shard it.

    objective: what is trained; `wrapped`: what is called with a batch; optimizer: what moves it. Parameters may be other objects
    after `prepare` than before, under the same names.
    """

    name = "ddp"
    sharded = False
    """Whether a process holds less than the whole model: then all of them run together what reads its weights, `within`."""

    gathers = False
    """Whether processes wait for each other in the layers that they run, so that all must run the same ones in the same order."""

    in_pieces = False
    """Whether its state is a `Piece` of some tensors, so that all processes must write a checkpoint together."""

    def __init__(self, accelerator: Accelerator, objective: Objective) -> None:
        self.accelerator, self.objective = accelerator, objective
        self.wrapped: nn.Module = objective
        self.optimizer: Any = None

    def prepare(self, make: Callable[[], Optimizer], *, clip: float | None, compiled: bool, accumulation: int) -> None:
        """The objective in its place, then the copies of its model, placed or sharded as the student is; then the optimizer.

        make: gives the optimizer of the objective's parameters, as they are then.
        """
        self.limit = math.inf if clip is None else clip
        if compiled:
            self.objective.compile()
        with warnings.catch_warnings():
            # Its successor is not in torch 2.11, nor in Accelerate 1.15.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.wrapped = self.accelerator.prepare(self.objective)
        self.objective.networks.make()
        self.optimizer = self.accelerator.prepare(make())

    def within(self, work: Callable[[], T]) -> T:
        """What `work` finds, which reads weights outside of the objective's forward pass; all processes call it together."""
        return work()

    @property
    def reduced(self) -> Sequence[nn.Module]:
        """What takes the mean of the gradient by itself, and is to do so at the last micro-batch of a step alone."""
        return [] if self.in_pieces else [self.wrapped]

    def expect(self, last: bool) -> None:
        """Called before the forward pass of a micro-batch; last: of those of a step."""

    def backward(self, loss: Float[Tensor, ""], last: bool) -> None:
        """Add the gradient of a micro-batch's share of the loss of the step. last: of the micro-batches of a step.

        All processes' shares add up, as do those of a step's micro-batches.
        """
        # Accelerate divides by the micro-batches, DistributedDataParallel by the processes: each loss is a share of a sum.
        shares = self.accelerator.gradient_accumulation_steps * self.accelerator.num_processes
        self.accelerator.backward(loss * shares)

    def clip(self) -> Float[Tensor, ""]:
        """The norm of the gradient of the whole step, which is brought down to the limit if it is above; the same everywhere."""
        return self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.limit).detach()

    def drop(self, names: Sequence[str]) -> None:
        """Drop the gradients of some parameters: the optimizer then moves none of them, nor their moments."""
        for name in names:
            self.objective.get_parameter(name).grad = None

    def step(self) -> None:
        """Move the optimizer, if the micro-batch was the last of its step, and forget the gradient."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def after_step(self, move: Callable[[], None]) -> None:
        """Let the objective do what it does between two steps: teachers move, elementwise, on what this process holds."""
        move()

    def weights(self) -> dict[str, Any]:
        """The state dict of the objective; of what is sharded the `Piece` that this process holds."""
        return self.objective.state_dict()

    def load_weights(self, state: State) -> None:
        """Take a state dict of the objective, from whatever strategy. ValueError if it is of another architecture."""
        check_architecture({name: tensor.shape for name, tensor in self.objective.state_dict().items()}, state)
        self.objective.load_state_dict({name: whole(value) for name, value in state.items()})

    @property
    def group_sizes(self) -> list[int]:
        """How many parameters each group of the optimizer has."""
        return [len(group["params"]) for group in self.optimizer.param_groups]

    def moments(self) -> dict[str, Any]:
        """The state of the optimizer, by the numbers of the parameters in its groups; of what is sharded the `Piece` here."""
        return self.optimizer.state_dict()

    def load_moments(self, state: Mapping[str, Any]) -> None:
        """Take the state of the optimizer, from whatever strategy."""
        self.optimizer.load_state_dict(with_leaves(state, whole))

    @contextmanager
    def whole(self) -> Iterator[Objective | None]:
        """The objective whole, to score, publish and draw by; None on a process that has to wait for the first one meanwhile."""
        yield self.objective


def with_leaves(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A tree of dicts and lists whose tensors, or parts of them, are changed."""
    if isinstance(tree, Mapping):
        return {key: with_leaves(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(with_leaves(value, change) for value in tree)
    return change(tree) if isinstance(tree, Tensor | Parts) else tree


def check_architecture(own: Mapping[str, torch.Size], state: State) -> None:
    """ValueError that names the parameters that are missing, not expected or of another shape."""
    wrong = [f"missing {key}" for key in own.keys() - state.keys()]
    wrong += [f"unexpected {key}" for key in state.keys() - own.keys()]
    wrong += [
        f"{key} is {list(state[key].shape)}, expected {list(own[key])}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key]
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(f"the weights belong to another architecture: {shown}. Use the recipe that they were trained with")

"""One forward pass whose matrix products are counted, not computed, and what autograd would keep of it, not kept.

Closed formulas (arXiv 2205.05198, equation 1: `s b h (34 + 5 a s / h)` bytes a layer) hold for one kind of layer, without masks,
views or predictors. Here the objective runs as it is: crops, hidden tokens, teachers, predictors and heads count as they are.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from mmssl.data import Batch
from mmssl.objectives import Objective
from mmssl.training.sharding.skeleton import layers
from mmssl.training.sizing.weightless import zeros

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
"""Attention without a matrix of all pairs, on a CPU; it keeps what that on a GPU keeps."""


FREE = {aten.gelu, aten.silu, aten.native_layer_norm}
"""What is not computed either: large, and nothing that is counted depends on its values."""


class Token:
    """What a node of autograd's graph holds in place of a tensor that it would keep.

    storage: of the tensor; its address stays taken as long as the token is there. call: of the layer in which it was kept.
    """

    def __init__(self, tensor: Tensor, call: int | None) -> None:
        self.storage, self.size, self.call = StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes(), call


@dataclass
class Traced:
    """What a forward pass costs.

    kept: bytes that autograd would keep, without weights, buffers and the batch. casts: of these, copies of weights in another
        precision, which are the same whatever the batch. coupled: of these, those of the loss of all samples of a step together.
    entering: bytes that autograd would keep if layers were run again in the backward pass, before any is; largest: those of the
        layer that keeps most.
    forward, backward: FLOPs of matrix products; again: of those in layers with gradient, which are run again.
    calls: of each layer, how often it runs in all, and with gradient.
    """

    kept: float = 0.0
    casts: float = 0.0
    coupled: float = 0.0
    entering: float = 0.0
    largest: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)


class Trace(TorchDispatchMode):
    """Counts products and gives zeros in their place."""

    def __init__(self, objective: Objective, batch: Batch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = {StorageWeakRef(parameter.untyped_storage()) for parameter in objective.parameters()}
        given = [tensor for inputs in batch.inputs.values() for tensor in inputs.values()]
        self.known = self.weights | {StorageWeakRef(tensor.untyped_storage()) for tensor in (*objective.buffers(), *given)}
        self.casts = set[StorageWeakRef]()
        self.tokens = WeakSet[Token]()
        self.entered = dict[StorageWeakRef, int]()
        self.running: int | None = None
        self.coupling = False
        self.coupled = set[StorageWeakRef]()
        self.found = Traced()
        self.runs, self.graded = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet is ATTENTION or packet in flop_registry:
            return self.product(func, args, kwargs)
        if packet is aten._to_copy and StorageWeakRef(args[0].untyped_storage()) in self.weights and args[0].numel() > 1:
            copy = zeros(args[0].shape, kwargs.get("dtype") or args[0].dtype)
            self.casts.add(StorageWeakRef(copy.untyped_storage()))
            return copy
        if packet in FREE:
            return nothing(self.shape_of(func, args, kwargs))
        return func(*args, **kwargs)

    def product(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Zeros in the place of a matrix product, whose FLOPs are counted: 2 for each of its multiplications.

        In the backward pass as many for each factor that has a gradient.
        """
        out = self.shape_of(func, args, kwargs)
        if func.overloadpacket is ATTENTION:
            flops, factors = sdpa_flop_count(*(each.shape for each in args[:3])), 2
        else:
            flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
            first = 1 if func.overloadpacket in (aten.addmm, aten.baddbmm) else 0
            factors = sum(each.requires_grad for each in args[first : first + 2])
        graded = torch.is_grad_enabled() and any(each.requires_grad for each in args if isinstance(each, Tensor))
        self.found.forward += flops
        self.found.backward += flops * factors if graded else 0
        self.found.again += flops if graded and self.running is not None else 0
        return nothing(out)

    def shape_of(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives, on the meta device."""
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return func(*args, **kwargs)

    def keep(self, tensor: Tensor) -> Token:
        """Called for each tensor that autograd would keep."""
        token = Token(tensor, self.running)
        self.tokens.add(token)
        if self.coupling:
            self.coupled.add(token.storage)
        return token

    def enter(self, name: str, layer: nn.Module, args: Any) -> None:
        self.runs[name] += 1
        if not torch.is_grad_enabled():
            return
        self.graded[name] += 1
        self.running = self.graded.total()
        for storage in (each.untyped_storage() for each in args if isinstance(each, Tensor)):
            self.entered[StorageWeakRef(storage)] = storage.nbytes()

    def leave(self, layer: nn.Module, args: Any, out: Any) -> None:
        self.running = None

    def result(self) -> Traced:
        """What was found; to be asked as long as the graph is there."""
        found, places = self.found, dict[StorageWeakRef, int]()
        outside, calls = dict(self.entered), dict[int, dict[StorageWeakRef, int]]()
        for token in list(self.tokens):
            if token.storage in self.known:
                continue
            places[token.storage] = token.size
            if token.call is None:
                outside[token.storage] = token.size
            elif token.storage not in self.entered:
                calls.setdefault(token.call, {})[token.storage] = token.size
        found.kept = float(sum(places.values()))
        found.casts = float(sum(size for storage, size in places.items() if storage in self.casts))
        coupled = self.coupled - self.casts
        found.coupled = float(sum(size for storage, size in places.items() if storage in coupled))
        found.entering = float(sum(size for storage, size in outside.items() if storage not in self.casts))
        within = [sum(size for storage, size in each.items() if storage not in self.casts) for each in calls.values()]
        found.largest = float(max(within, default=0))
        found.calls = {name: (count, self.graded[name]) for name, count in self.runs.items()}
        return found


def nothing(shapes: Any) -> Any:
    """Zeros of these shapes and strides."""
    return tree_map_only(Tensor, lambda shape: zeros(shape.shape, shape.dtype).as_strided(shape.shape, shape.stride()), shapes)


def forbidden(token: Token) -> Tensor:
    raise AssertionError("what autograd would need was not kept")


@contextmanager
def watched(objective: Objective, trace: Trace) -> Iterator[None]:
    """The trace told of layers that run, and of the loss that couples samples."""
    names = {id(module): name for name, module in objective.named_modules()}
    handles = []
    for layer in layers(objective):
        handles.append(layer.register_forward_pre_hook(partial(trace.enter, names[id(layer)])))
        handles.append(layer.register_forward_hook(trace.leave))
    agree: Callable[..., Any] = objective.agree

    def agreeing(*given: Any, **named: Any) -> Any:
        trace.coupling = True
        try:
            return agree(*given, **named)
        finally:
            trace.coupling = False

    vars(objective)["agree"] = agreeing
    try:
        yield
    finally:
        del vars(objective)["agree"]
        for handle in handles:
            handle.remove()


def traced(objective: Objective, batch: Batch, half: torch.dtype | None) -> Traced:
    """What the forward pass of a batch costs that is a step of its own. half: what products are cast to; None: float32."""
    objective.networks.make()
    trace = Trace(objective, batch)
    cast = torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None)
    with watched(objective, trace), torch.autograd.graph.saved_tensors_hooks(trace.keep, forbidden), trace, cast:
        output = objective.train()(batch)
        found = trace.result()
        del output
    return found

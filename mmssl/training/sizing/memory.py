"""Bytes that a device holds, and bytes that it sends, by strategy.

Weights W, gradients and AdamW's two moments are float32 under every strategy. With N devices and P bytes of weights that learn, the
moments are 2 P. ZeRO (arXiv 1910.02054, section 5 and figure 1) shards the optimizer's state (stage 1), gradients too (2), weights
too (3), each to 1/N; `fully_shard` does as stage 3. What is held beside that is said at each strategy.

A ring sends (N - 1)/N of a tensor for an all-gather or a reduce-scatter, and twice that for an all-reduce, which is both
(arXiv 1910.02054, section 7).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from mmssl.objectives import Objective
from mmssl.recipe.options import TrainOptions
from mmssl.training.optim import groups_of
from mmssl.training.sharding.skeleton import layers

BUCKET = 500_000_000
"""Elements of the tensor into which DeepSpeed gathers gradients before it reduces them: its default `reduce_bucket_size`."""
LIVE = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered, as they will be used again: its default `stage3_max_live_parameters`."""
COPIES = "networks.copies."


class Weight(NamedTuple):
    """A parameter. rows: of its first axis, along which `fully_shard` cuts. layer: the name of the one that it is in, "" for none.

    copied: of a teacher or an average. shared: another place of one that was seen already. group: of the optimizer, its number.
    """

    rows: int
    size: int
    learns: bool
    layer: str
    copied: bool
    shared: bool
    group: int = 0

    def fullest(self, count: int) -> float:
        """Bytes on the device that holds most of it: the rows are cut into equal pieces, of which the last may be missing."""
        return -(-self.rows // count) * (self.size / max(self.rows, 1))


def weights_of(objective: Objective, options: TrainOptions) -> list[Weight]:
    """The parameters of an objective whose copies are made, in each place where one is."""
    names = {id(module): name for name, module in objective.named_modules()}
    inside = {id(part): names[id(layer)] for layer in layers(objective) for part in layer.modules()}
    groups = {id(each): number for number, group in enumerate(groups_of(objective, options)) for each in group["params"]}
    found, seen = list[Weight](), set[int]()
    for path, module in objective.named_modules():
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            rows = parameter.shape[0] if parameter.dim() else 1
            copied, shared = path.startswith(COPIES) or f".{COPIES}" in path, id(parameter) in seen
            layer, group = inside.get(id(module), ""), groups.get(id(parameter), 0)
            found.append(Weight(rows, parameter.nbytes, parameter.requires_grad, layer, copied, shared, group))
            seen.add(id(parameter))
    return found


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device, by what they are for.

    copies: teachers, averages and other copies of the student. buffers: queues, banks, centres, running statistics.
    activations: of a micro-batch. communication: what is gathered, or waits to be reduced.
    """

    weights: float
    gradients: float
    optimizer: float
    copies: float
    buffers: float
    activations: float
    communication: float

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Share:
    """What a strategy makes of the weights: bytes by kind on the fullest device, and what it sends in a step.

    once: bytes that a device sends in a step; each: for each of its micro-batches. abroad: bytes that leave a machine for each
        micro-batch; None: one ring goes through all devices, so that what leaves a machine is what one device sends.
    """

    weights: float
    gradients: float
    optimizer: float
    copies: float
    communication: float
    once: float
    each: float
    abroad: float | None = None

    def sent(self, accumulation: int) -> float:
        """Bytes that a device sends in a step."""
        return self.once + self.each * accumulation

    def out(self, accumulation: int) -> float:
        """Bytes that leave a machine in a step, where there are several."""
        return self.sent(accumulation) if self.abroad is None else self.abroad * accumulation

    def memory(self, buffers: float, activations: float) -> Memory:
        return Memory(self.weights, self.gradients, self.optimizer, self.copies, buffers, activations, self.communication)


Calls = Mapping[str, tuple[int, int]]
"""How often a step runs each layer: in all, and with gradient."""


def total(weights: Iterable[Weight]) -> float:
    """Bytes of parameters, each once."""
    return float(sum(weight.size for weight in weights if not weight.shared))


def ring(size: float, count: int) -> float:
    """Bytes that each device sends so that all have a tensor that was shared out, or so that each has its part of a sum."""
    return size * (count - 1) / count


def learning(weights: Iterable[Weight]) -> list[Weight]:
    return [weight for weight in weights if weight.learns]


def ddp(weights: Sequence[Weight], calls: Calls, count: int) -> Share:
    """Each device holds all. DistributedDataParallel reduces gradients in buckets, which are as large as they are together."""
    learns = total(learning(weights))
    buckets = learns if count > 1 else 0.0
    return Share(*own_and_copies(weights, learns, 2 * learns), communication=buckets, once=2 * ring(learns, count), each=0.0)


def own_and_copies(weights: Sequence[Weight], gradients: float, optimizer: float) -> tuple[float, float, float, float]:
    """Where weights are whole: theirs, gradients, optimizer, and those of copies."""
    copies = total(weight for weight in weights if weight.copied)
    return total(weights) - copies, gradients, optimizer, copies


def zero1(weights: Sequence[Weight], calls: Calls, count: int) -> Share:
    """The moments are sharded, and what they move: DeepSpeed keeps a copy of its part of the weights."""
    learns = total(learning(weights))
    whole = own_and_copies(weights, learns, 3 * learns / count)
    return Share(*whole, communication=4.0 * BUCKET, once=2 * ring(learns, count), each=0.0)


def zero2(weights: Sequence[Weight], calls: Calls, count: int) -> Share:
    """As stage 1, and the gradient of each micro-batch is reduced and then kept in parts."""
    learns = total(learning(weights))
    whole = own_and_copies(weights, touched(weights, count), 3 * learns / count)
    return Share(*whole, communication=4.0 * BUCKET, once=ring(learns, count), each=ring(learns, count))


def touched(weights: Sequence[Weight], count: int) -> float:
    """Bytes of the gradients that ZeRO-2 keeps on the fullest device.

    DeepSpeed lays the weights of a group end to end, and cuts what comes out into equal parts. Of a weight that lies in a part, if
    only with one entry, the device keeps the whole gradient.
    """
    groups = dict[int, list[int]]()
    for weight in learning(weights):
        if not weight.shared:
            groups.setdefault(weight.group, []).append(weight.size)
    held = [0] * count
    for sizes in groups.values():
        part, begin = -(-sum(sizes) // count), 0
        for size in sizes:
            for device in range(begin // part, (begin + size - 1) // part + 1):
                held[device] += size
            begin += size
    return float(max(held))


def zero3(weights: Sequence[Weight], calls: Calls, count: int) -> Share:
    """As stage 2, and layers are sharded; what is in none is whole, beside its part. Gradients are cut as weights are.

    DeepSpeed keeps what it gathered while that is no more than `LIVE`: then layers are gathered once in a micro-batch, else twice,
    but those of copies once.
    """
    learns = total(learning(weights))

    def held(some: list[Weight]) -> float:
        return total(some) / count + total(weight for weight in some if not weight.layer)

    copies = [weight for weight in weights if weight.copied and not weight.shared]
    own = [weight for weight in weights if not weight.copied]
    inside = total(weight for weight in weights if weight.layer)
    again = total(weight for weight in learning(weights) if weight.layer) if inside > 4 * LIVE else 0.0
    rest = total(weight for weight in learning(weights) if not weight.layer)
    return Share(
        held(own),
        learns / count,
        3 * learns / count,
        held(copies),
        communication=4.0 * BUCKET + min(inside, 4.0 * LIVE),
        once=ring(rest, count),
        each=ring(inside + again + learns, count),
    )


def fsdp2(weights: Sequence[Weight], calls: Calls, count: int) -> Share:
    """All weights, copies too, are cut by rows, with their gradients and moments.

    Gathered are what is in no layer, from the beginning of a micro-batch to its end, with its gradient; the layer that runs and the
    one that comes next; and in the backward pass the gradient of a layer, once whole and once as it is reduced. A layer is gathered
    whenever it runs, and again for its backward pass, after which its gradient is reduced.
    """

    def held(some: Iterable[Weight]) -> float:
        return float(sum(weight.fullest(count) for weight in some))

    units = dict[str, list[Weight]]()
    for weight in weights:
        units.setdefault(weight.layer, []).append(weight)
    root = units.pop("", [])
    learns = held(learning(weights))
    sent = held(root) + held(learning(root))
    for name, unit in units.items():
        runs, graded = calls.get(name, (0, 0))
        sent += (runs + graded) * held(unit) + graded * held(learning(unit))
    largest = max((held(unit) for unit in units.values()), default=0.0)
    reduced = max((held(learning(unit)) for unit in units.values()), default=0.0)
    gathered = (held(root) + held(learning(root)) + 2 * largest + 2 * reduced) * count
    copies = held(weight for weight in weights if weight.copied)
    return Share(held(weights) - copies, learns, 2 * learns, copies, gathered, once=0.0, each=sent * (count - 1))


def hybrid(weights: Sequence[Weight], calls: Calls, each: int, machines: int) -> Share:
    """`fsdp2` among the devices of a machine, and a copy of the model in each machine.

    After each micro-batch the devices that hold the same part of a gradient, one in each machine, add it up: an all-reduce.
    """
    own = fsdp2(weights, calls, each)
    added = 2 * ring(own.gradients, machines)
    return replace(own, each=own.each + added, abroad=each * added)


HYBRID = "hybrid"
"""The name of `fsdp2` with `--dp-shard-size`."""
STRATEGIES: Mapping[str, Callable[[Sequence[Weight], Calls, int], Share]] = {
    "ddp": ddp,
    "zero1": zero1,
    "zero2": zero2,
    "fsdp2": fsdp2,
    "zero3": zero3,
}
"""From those that shard least to those that shard most."""


def shares(weights: Sequence[Weight], calls: Calls, each: int, machines: int) -> dict[str, Share]:
    """All strategies by name, from those that shard least, on machines of `each` devices."""
    count, found = each * machines, dict[str, Share]()
    for name, of in STRATEGIES.items():
        if name == "fsdp2" and each > 1 and machines > 1:
            found[HYBRID] = hybrid(weights, calls, each, machines)
        if name == "ddp" or count > 1:
            found[name] = of(weights, calls, count)
    return found

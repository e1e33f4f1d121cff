"""Which strategies fit, how fast they can be at most, and what to change where none fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmssl.data.loader import nearest_multiples
from mmssl.recipe.options import TrainOptions
from mmssl.training.asked import OFFLOADED, Asked
from mmssl.training.sharding.offload import bytes_of
from mmssl.training.sharding.refused import of_lacking, of_options
from mmssl.training.sizing.cost import Cost, Sized
from mmssl.training.sizing.devices import Fleet
from mmssl.training.sizing.memory import HYBRID, Memory, shares, weights_of

ROOM = 0.9
"""Share of a device's memory that may be used: the rest is for the driver, for what lives shortly, and for gaps."""
MOST = 4096
"""Devices, at most, that are advised."""


@dataclass(frozen=True)
class Plan:
    """How a step is shared out. micro: samples of a micro-batch on a device."""

    fleet: Fleet
    batch: int
    accumulation: int
    again: bool

    @property
    def micro(self) -> int:
        return max(1, self.batch // (self.accumulation * self.fleet.count))


@dataclass(frozen=True)
class Row:
    """A strategy on these devices.

    sent, out: bytes that a device sends in a step, and that leave a machine. computing, sending: seconds of a step, at least; None:
        the device's figures are not known. refused: why it does not train this recipe; empty: it does.
    """

    name: str
    memory: Memory
    sent: float
    out: float
    computing: float | None
    sending: float | None
    refused: str
    fits: bool

    @property
    def seconds(self) -> float | None:
        """Of a step, at least: as if it computed and sent at the same time."""
        known = [each for each in (self.computing, self.sending) if each is not None]
        return max(known) if self.computing is not None else None


def plan_of(sized: Sized, fleet: Fleet) -> Plan:
    """How the recipe's step is shared out. ValueError if it does not go up."""
    options = sized.options
    check_divides(options, fleet)
    batch = options.batch_size
    if options.batch_tokens is not None:
        batch = max(fleet.count * options.accumulation, options.batch_tokens // sized.longest)
    return Plan(fleet, batch, options.accumulation, options.gradient_checkpointing)


def check_divides(options: TrainOptions, fleet: Fleet) -> None:
    """ValueError, with the nearest sizes that are, unless a step's samples are a multiple of devices x micro-batches."""
    batch, shares = options.batch_size, fleet.count * options.accumulation
    if options.batch_tokens is None and batch % shares:
        raise ValueError(
            f"train.batch_size must be a multiple of processes x train.accumulation = {shares} on {fleet}; got {batch}: "
            f"{nearest_multiples(batch, shares)}"
        )


def dearest(sized: Sized, plan: Plan) -> Cost:
    """Of several sources that whose activations are largest."""
    return max(sized.costs, key=lambda cost: cost.activations(plan.micro, plan.batch, plan.again))


def rows_of(sized: Sized, plan: Plan) -> list[Row]:
    """All strategies; on one device the only one that there is."""
    cost, weights = dearest(sized, plan), weights_of(sized.objective, sized.options)
    buffers = float(sum(buffer.nbytes for buffer in sized.objective.buffers()))
    activations = cost.activations(plan.micro, plan.batch, plan.again)
    fleet, device = plan.fleet, plan.fleet.device
    peak = device.peak(sized.options.precision != "fp32")
    flops = cost.flops(plan.micro, plan.again) * plan.accumulation
    if plan.accumulation > 1 and sized.objective.couples:
        flops += cost.forward(plan.micro) * plan.accumulation  # see `Objective.prepared`
    found = []
    for name, share in shares(weights, cost.calls, fleet.each, fleet.machines).items():
        memory, sent = share.memory(buffers, activations), share.sent(plan.accumulation)
        out = share.out(plan.accumulation) if fleet.machines > 1 else 0.0
        refused = refusal(name, sized)
        found.append(
            Row(
                name,
                memory,
                sent,
                out,
                None if peak is None else flops / peak,
                device.sending(sent, out, fleet.each),
                refused,
                not refused and memory.total <= ROOM * device.memory * 1e9,
            )
        )
    return found


def refusal(name: str, sized: Sized) -> str:
    """What a strategy does not train of a recipe."""
    name = "fsdp2" if name == HYBRID else name
    found = of_options(name, sized.options) or (of_lacking(name) if sized.lacking else None)
    return "" if found is None else found.what


def smallest(rows: Sequence[Row]) -> Row | None:
    """Of those that fit the one that shards least."""
    return next((row for row in rows if row.fits), None)


def changes(sized: Sized, plan: Plan) -> list[str]:
    """What would make it fit, each by itself, where none does; empty: nothing of that would."""
    found = list[str]()

    def fits(other: Plan) -> Row | None:
        return smallest(rows_of(sized, other))

    if not plan.again and (row := fits(replace(plan, again=True))):
        found.append(f"train.gradient_checkpointing=true, with {row.name}")
    for again in (plan.again, True):
        share = plan.batch // plan.fleet.count
        several = [each for each in range(plan.accumulation + 1, share + 1) if share % each == 0]
        less = next(((each, row) for each in several if (row := fits(replace(plan, accumulation=each, again=again)))), None)
        if less is not None:
            with_it = " and train.gradient_checkpointing=true" if again and not plan.again else ""
            found.append(f"train.accumulation={less[0]}{with_it}, with {less[1].name}")
            break
    count = plan.fleet.count
    while (count := count * 2) <= min(MOST, plan.batch // plan.accumulation):
        if plan.batch % (count * plan.accumulation):
            break
        if row := fits(replace(plan, fleet=replace(plan.fleet, count=count))):
            found.append(f"{count} of these devices, with {row.name}")
            break
    return [*found, *offloaded(sized, plan)]


def offloaded(sized: Sized, plan: Plan) -> list[str]:
    """What main memory must hold for `fsdp2` to offload, if devices then hold what they gather; empty: that does not fit either."""
    row = next((row for row in rows_of(sized, plan) if row.name == "fsdp2" and not row.refused), None)
    kept = None if row is None else replace(row.memory, weights=0.0, gradients=0.0, optimizer=0.0, copies=0.0)
    if kept is None or kept.total > ROOM * plan.fleet.device.memory * 1e9:
        return []
    size = bytes_of(sized.objective, Asked("fsdp2", offload=OFFLOADED), plan.fleet.machines, plan.accumulation)[1]
    return [f"recipes/launch/fsdp2_offload.yaml, with {size / 1e9:,.0f} GB of main memory free in each machine"]

"""What `mmssl check --devices` prints: at most 80 columns."""

import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from mmssl.training.sizing.cost import Sized
from mmssl.training.sizing.devices import MACHINE, Fleet
from mmssl.training.sizing.memory import HYBRID
from mmssl.training.sizing.verdict import ROOM, Plan, Row, changes, dearest, plan_of, rows_of, smallest

WIDTH = 80
PARTS = ("weights", "gradients", "optimizer", "copies", "buffers", "activations", "communication")
HEADS = ("weights", "grads", "optim", "copies", "buffers", "acts", "comm", "total")


def report(sized: Sized, fleet: Fleet, recipe: str, overrides: Sequence[str]) -> list[str]:
    """The lines. recipe, overrides: as they were typed, for the command to give."""
    plan = plan_of(sized, fleet)
    rows = rows_of(sized, plan)
    return [
        *head(sized, plan),
        "",
        *memory_table(rows, plan),
        "",
        *speed_table(rows, plan, dearest(sized, plan).tokens),
        "",
        *verdict(sized, plan, rows, shlex.join([recipe, *overrides])),
    ]


def head(sized: Sized, plan: Plan) -> list[str]:
    """What is shared out."""
    cost, options, device = dearest(sized, plan), sized.options, plan.fleet.device
    learns = sum(each.numel() for each in sized.objective.parameters() if each.requires_grad)
    every = sum(each.numel() for each in sized.objective.parameters())
    machines = f" ({plan.fleet.machines} machines of {plan.fleet.each})" if plan.fleet.machines > 1 else ""
    steps = f"{plan.batch:,} samples, {plan.micro:,} a micro-batch on a device"
    if plan.accumulation > 1:
        steps += f", {plan.accumulation} of them"
    again = ", layers are run again (gradient_checkpointing)" if plan.again else ""
    precision = "fp32" if options.precision == "fp32" else f"{'fp16' if options.precision == 'fp16' else 'bf16'} autocast"
    lines = [
        f"devices     {plan.fleet}{machines}, {device.memory:g} GB each",
        f"model       {learns:,} parameters learn, of {every:,}",
        f"step        {steps}",
        f"tokens      {cost.tokens:,.0f} a sample; {precision}{again}",
    ]
    if len(sized.costs) > 1:
        lines.append(f"source      {cost.name}, whose activations are the largest of {len(sized.costs)} sources")
    return [line for each in lines for line in wrapped(each)]


def memory_table(rows: Sequence[Row], plan: Plan) -> list[str]:
    """Memory of each strategy, in GB, or in MB where the first needs less than one."""
    small = rows[0].memory.total < 1e9
    lines = [f"{'MB' if small else 'GB':9}" + "".join(f"{name:>8}" for name in HEADS) + "  fits"]
    for row in rows:
        sizes = [*(getattr(row.memory, part) for part in PARTS), row.memory.total]
        cells = "".join(f"{short(size / (1e6 if small else 1e9)):>8}" for size in sizes)
        lines.append(f"{row.name:9}{cells}  {'refused' if row.refused else 'yes' if row.fits else 'no'}")
    refused = [f"{row.name} does not train this recipe: {row.refused}" for row in rows if row.refused]
    return lines + [line for text in refused for line in wrapped(text, indent=0)]


def short(size: float) -> str:
    """A number in at most seven signs."""
    return (
        f"{size:.0f}" if size >= 100 else f"{size:.1f}" if size >= 10 else f"{size:.2f}" if size >= 0.005 or not size else "<0.01"
    )


def speed_table(rows: Sequence[Row], plan: Plan, tokens: float) -> list[str]:
    """What a device sends in a step, what leaves a machine where there are several, and bounds on the speed."""
    several = plan.fleet.machines > 1
    lines = [f"GB a step     sent{'     out' * several}   samples/s      tokens/s  bound by"]
    for row in rows:
        bytes_ = f"{row.sent / 1e9:9.3g}" + f"{row.out / 1e9:8.3g}" * several
        if row.seconds is None:
            lines.append(f"{row.name:9}{bytes_}{'unknown':>12}{'unknown':>14}  (peak not known)")
            continue
        assert row.computing is not None
        rate = plan.batch / row.seconds
        what = "communication" if row.sending is not None and row.sending > row.computing else "computing"
        lines.append(f"{row.name:9}{bytes_}{rate:12,.0f}{rate * tokens:14,.0f}  {what}")
    return lines


def verdict(sized: Sized, plan: Plan, rows: Sequence[Row], typed: str) -> list[str]:
    """The smallest strategy that fits and what to type, or what to change."""
    limit = f"{ROOM:.0%} of {plan.fleet.device.memory:g} GB"
    note = (
        "Nothing was run on such devices: memory is counted, and the speeds are bounds that the published peak and interconnect "
        "set, not estimates."
    )
    best = smallest(rows)
    if best is not None:
        return [
            *wrapped(f"{best.name} is the smallest strategy that fits ({limit}). To train: ", indent=0),
            *command(typed, best.name, plan.fleet),
            *wrapped(note, indent=0),
        ]
    found = changes(sized, plan)
    way = f"Any of these would do: {'; '.join(found)}." if found else "Take a smaller model, shorter samples, or larger devices."
    return [*wrapped(f"none fits ({limit}). {way}", indent=0), *wrapped(note, indent=0)]


def command(typed: str, strategy: str, fleet: Fleet) -> list[str]:
    """The line that starts it."""
    shards = f" --strategy fsdp2 --dp-shard-size {fleet.each}"
    own = shards if strategy == HYBRID else "" if strategy == "ddp" else f" --strategy {strategy}"
    if fleet.count <= MACHINE:
        line = f"mmssl train {typed}" + (f" --processes {fleet.count}{own}" if fleet.count > 1 else "")
    else:
        start = f"torchrun --nnodes {fleet.machines} --nproc_per_node {fleet.each} --rdzv_backend c10d --rdzv_endpoint HOST:29500"
        line = f"{start} -m mmssl train {typed}{own}"
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    parts = textwrap.wrap(line, WIDTH - 2, initial_indent="  ", subsequent_indent="    ", **options)
    return [*(f"{part} \\" for part in parts[:-1]), parts[-1]]


def wrapped(text: str, indent: int = 12) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent)

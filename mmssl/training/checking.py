"""What `mmssl check` says of a session: samples, model, tokens, a batch, and what would train in vain."""

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import cast

import torch
from torch import Tensor

from mmssl.data import Batch, Labels, Stream
from mmssl.modality import Content
from mmssl.objectives import Objective
from mmssl.objectives.networks import KEPT, Moving
from mmssl.recipe import recipe as recipes
from mmssl.recipe.options import TrainOptions
from mmssl.report import contents
from mmssl.training.build import EXAMINED, Pieces
from mmssl.training.pace import first_batch
from mmssl.training.session import Session
from mmssl.training.vain import budget_in_steps, refuse_vain

SAMPLED = 16
"""Samples of the batch from which memory is estimated."""


def summary(session: Session, told: Sequence[str]) -> list[str]:
    """What `check` says of a session. told: what the session did."""
    checked, pieces, streams, labels = session.recipe, session.pieces, session.streams, session.labels
    objective, train_options = pieces.objective, session.options
    fixed = fixed_bytes(objective, train_options)
    lines = [
        f"recipe      {checked.name}: valid",
        f"model       {parameters(objective.model)} parameters, with the objective {parameters(objective)}",
    ]
    lines += [f"note        {text.removeprefix('note: ')}" for text in told if text.removeprefix("note: ") not in session.odd]
    steps = budget_in_steps(train_options, sum(len(stream.source) for stream in streams.values()))
    refuse_vain(objective, train_options, steps)
    lines += teacher_lines(objective, steps)
    for name, stream in streams.items():
        lines += check_stream(checked, pieces, stream, labels, fixed)
        lines += content_lines(session.seen[name], session.uncut[name].source.num_rows)
    return lines


def teacher_lines(objective: Objective, steps: int) -> list[str]:
    """What is left of the initial weights of each teacher at the end of the budget; of one of minutes, 0 steps, when little is."""
    found = []
    for name in objective.networks.teachers:
        rule = cast(Moving, objective.networks.rules[name])
        enough = rule.enough()
        assert enough is not None  # refuse_vain saw to that
        way_out = f"at most {KEPT:.0%} from {enough:,} steps on"
        if not steps:
            found.append(f"teacher     left of its initial weights: {way_out}")
            continue
        left = rule.left(steps)
        found.append(f"teacher     {left:.1%} of its initial weights are left after {steps:,} steps")
        if left > KEPT:
            found.append(f"odd         the teacher stays in part what it began as: {way_out}, or begin with a lower momentum")
    return found


def content_lines(told: Mapping[str, Sequence[Content]], size: int) -> list[str]:
    """Lines about what the samples of one source hold, and the way out of what looks odd."""
    found = []
    if size > EXAMINED and any(told.values()):
        found.append(f"looked at   {EXAMINED:,} of {size:,} samples, evenly spaced")
    for name, parts in told.items():
        found += [f"{title:11} {line}" for title, line in zip(chain([name], repeat("")), contents.lines(parts), strict=False)]
        found += [f"odd         {note}" for note in contents.notes(parts)]
    return found


def check_stream(recipe: recipes.Recipe, pieces: Pieces, stream: Stream, labels: Labels | None, fixed: int) -> list[str]:
    """Lines about one source: its samples, their tokens, a batch, the loss of the untrained model, and the memory of a step.

    fixed: bytes that every step needs, whatever the batch.
    """
    options, objective, held = recipe.section("train"), pieces.objective, stream.source.num_held_out
    count = min(SAMPLED, options.batch_size, len(stream.source))
    batch = first_batch(recipe, pieces, stream, labels, count).to(objective.model.device)
    loss, kept = forward_cost(objective, batch)
    micro = options.batch_size // options.accumulation
    if options.batch_tokens:
        longest = max(int(objective.model.count_tokens(name, inputs).max()) for name, inputs in batch.inputs.items())
        micro = max(1, options.batch_tokens // longest // options.accumulation)
    return [
        f"data        {stream.source}, {len(stream.source):,} samples",
        *([f"held out    {held:,} rows, which are scored: they do not train, as labels are learned"] if held else []),
        *(f"tokens      {name}: {tokens_per_sample(objective, name, batch)} per sample" for name in batch.inputs),
        *(
            f"batch       {key} {[micro, *tensor.shape[1:]]} {str(tensor.dtype).removeprefix('torch.')}"
            for tensors in batch.inputs.values()
            for key, tensor in tensors.items()
        ),
        f"loss        {loss:.4f} before training",
        f"memory      about {(fixed + kept / count * micro) / 2**20:,.0f} MiB for a step of {micro} samples in fp32",
    ]


def fixed_bytes(objective: Objective, options: TrainOptions) -> int:
    """The bytes that every step needs, whatever the batch: weights in float32, gradients and AdamW's two moments of what learns,
    and the average of the weights if there is one."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in objective.parameters()]
    copies = 2 if options.ema else 1
    return 4 * sum(size * (copies + (3 if learns else 0)) for size, learns in sizes)


def forward_cost(objective: Objective, batch: Batch) -> tuple[float, int]:
    """Loss of a batch, and the bytes that its backward pass would need."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(batch).loss.item()
    return loss, sum(size for place, size in kept.items() if place not in weights)


def parameters(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


def tokens_per_sample(objective: Objective, name: str, batch: Batch) -> str:
    """Valid tokens of the samples of a batch: one number, or their range."""
    counts = objective.model.count_tokens(name, batch.inputs[name])
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"

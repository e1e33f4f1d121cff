"""Micro-batches by which every process runs the same layers, in the same order.

Where layers are gathered when they run, a process that runs others than the rest would wait for ever, or take one for another.
Which layers run depends on the modalities that a micro-batch holds, and on which of them its rows pair. Where processes hold
micro-batches of different kinds, each also runs copies of those that others have and it lacks. Such a copy counts nothing: its
gradient is zero. No micro-batch is cut; a step is then of more of them, and costs their time.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmssl.data import Batch, processes
from mmssl.training.asked import refuse
from mmssl.training.sharding.refused import of_lacking, of_unequal


def kind(batch: Batch, modalities: Sequence[str]) -> int:
    """What decides which layers a micro-batch runs, in bits: which modalities it holds, and which two of them some row; 0: none."""
    held = [name in batch.inputs for name in modalities]
    both = [
        held[i] and held[j] and (batch.rows is None or bool(torch.isin(batch.held(a), batch.held(b)).any()))
        for i, a in enumerate(modalities)
        for j, b in enumerate(modalities[:i])
    ]
    return sum(2**bit for bit, is_so in enumerate((*held, *both)) if is_so) if len(batch) else 0


def marks(micro: Sequence[Batch], modalities: Sequence[str], count: int) -> list[int]:
    """What processes tell each other of the micro-batches of a step, of which one has `count`, or none.

    Whether a sample lacks a modality, and of what kind each is.
    """
    lacks = any(len(batch) and (batch.rows is not None or batch.inputs.keys() != set(modalities)) for batch in micro)
    return [lacks, *(kind(batch, modalities) for batch in micro), *[0] * (count - len(micro))]


def unlike(marks: Sequence[Sequence[int]], strategy: str, modalities: Sequence[str]) -> bool:
    """Whether processes would run different layers, by the marks of each. LaunchError for what the strategy does not train."""
    if any(lacks for lacks, *_ in marks) and (refusal := of_lacking(strategy)) is not None:
        refuse(f"{refusal}. Here one of {', '.join(modalities)} is missing")
    return differ([kinds for _, *kinds in marks])


def differ(everyone: Sequence[Sequence[int]]) -> bool:
    """Whether processes with micro-batches of these kinds would run different layers; those that are empty are left out."""
    return len({tuple(each for each in kinds if each) for kinds in everyone}) > 1


def alike(micro: Sequence[Batch], modalities: Sequence[str], device: torch.device, strategy: str) -> list[Batch]:
    """The micro-batches of this process, none empty, with copies of others' of the kinds of which it has fewer.

    All processes call it. They are ordered by kind, so that all have the same kinds in the same order.
    LaunchError where the strategy does not train such steps.
    """
    own = [kind(batch, modalities) for batch in micro]
    everyone = processes.gathered(own)
    if not differ(everyone):
        return list(micro)
    if (refusal := of_unequal(strategy)) is not None:
        refuse(str(refusal))
    found = list[Batch]()
    for wanted in sorted({each for known in everyone for each in known}):
        mine = [batch for batch, each in zip(micro, own, strict=True) if each == wanted]
        counts = [known.count(wanted) for known in everyone]
        if min(counts) < max(counts):
            holder = next(number for number, count in enumerate(counts) if count)
            # Donors of all samples of the step stay behind: what counts nothing may take from itself.
            sent = replace(mine[0].to("cpu"), others=None) if holder == processes.rank() else None
            stand_in = replace(processes.told_by(holder, sent).to(device), counts=False)
            mine += [stand_in] * (max(counts) - len(mine))
        found += mine
    return found

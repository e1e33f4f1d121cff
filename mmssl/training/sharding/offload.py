"""Whether main memory holds what a launch wants to lie there instead of in the memory of devices."""

import platform

import psutil

from mmssl.data import processes
from mmssl.objectives import Objective
from mmssl.training.asked import Asked, refuse


def in_main_memory(wanted: Asked, every: int, learns: int, accumulation: int) -> int:
    """Bytes of a model, in main memory, of all processes that share it together.

    every, learns: bytes of its weights, and of those that learn; gradients and both moments are as large as these, in float32.
    DeepSpeed moves a copy of the weights. In stage 3 it holds gradients twice: as they are added up, and as AdamW reads them. In
    stages 1 and 2 moved weights go to the device by way of a place here, and stage 2 adds up gradients of micro-batches here.
    """
    if wanted.stage is None:
        return every + 3 * learns
    copies = 6 if wanted.stage == 2 and accumulation > 1 else 5
    return copies * learns * ("optimizer" in wanted.offload) + every * ("param" in wanted.offload)


def bytes_of(objective: Objective, wanted: Asked, world: int, accumulation: int) -> tuple[int, int]:
    """What each process holds in main memory of an objective: as it was built, whole; and offloaded, its part."""
    objective.networks.make()
    weights = {id(each): each for each in objective.parameters()}.values()
    every, learns = sum(each.nbytes for each in weights), sum(each.nbytes for each in weights if each.requires_grad)
    return every, in_main_memory(wanted, every, learns, accumulation) // (wanted.shards or world)


def check_memory(objective: Objective, wanted: Asked, accumulation: int) -> None:
    """LaunchError, with the figures, if the processes of a machine would hold more in its main memory than is free there."""
    built, needed = bytes_of(objective, wanted, processes.world(), accumulation)
    everyone = processes.gathered((platform.node(), built, needed, psutil.virtual_memory().available))
    for host in dict.fromkeys(host for host, *_ in everyone):
        here = [each for name, *each in everyone if name == host]
        need, free = sum(need for _, need, _ in here), min(free for *_, free in here) + sum(built for built, *_ in here)
        if need > free:
            many = f"{len(here)} process{'es' * (len(here) > 1)}"
            refuse(
                f"offload: the {many} on {host} would hold {need / 1e9:.1f} GB in its main memory, where {free / 1e9:.1f} GB are "
                "free for it. Take more machines or a smaller model, or launch without offload"
            )

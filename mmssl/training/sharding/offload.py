"""Whether main memory holds what a launch wants to lie there instead of in the memory of devices."""

import platform

import psutil

from mmssl.data import processes
from mmssl.objectives import Objective
from mmssl.training.asked import Asked, refuse


def bytes_of(objective: Objective, wanted: Asked, world: int) -> tuple[int, int]:
    """What each process holds in main memory of an objective: as it was built, whole; and offloaded, its part.

    Weights, gradients and both moments are float32.
    """
    objective.networks.make()
    weights = {id(each): each for each in objective.parameters()}.values()
    every, learns = sum(each.nbytes for each in weights), sum(each.nbytes for each in weights if each.requires_grad)
    return every, (every + 3 * learns) // (wanted.shards or world)


def check_memory(objective: Objective, wanted: Asked) -> None:
    """LaunchError, with the figures, if the processes of a machine would hold more in its main memory than is free there."""
    built, needed = bytes_of(objective, wanted, processes.world())
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

"""The strategy that a launch asked for."""

from accelerate import Accelerator

from mmssl.objectives import Objective
from mmssl.recipe.options import TrainOptions
from mmssl.training.asked import Asked, contradictions, refuse
from mmssl.training.sharding.offload import check_memory
from mmssl.training.sharding.refused import of_options
from mmssl.training.sharding.strategy import Strategy


def strategy_of(wanted: Asked, accelerator: Accelerator, objective: Objective, options: TrainOptions, precision: str) -> Strategy:
    """How the processes of a run share its model. LaunchError for what the strategy cannot do, or what the recipe contradicts.

    precision: as Accelerate calls it.
    """
    if not wanted.sharded:
        return Strategy(accelerator, objective)
    if (refusal := of_options(wanted.name, options)) is not None:
        refuse(str(refusal))
    if wanted.offload:
        check_memory(objective, wanted, options.accumulation)
    if wanted.stage is None:
        from mmssl.training.sharding.fsdp import FullyShard  # it takes seconds to import

        return FullyShard(accelerator, objective, reshard=wanted.reshard, shards=wanted.shards, offload=bool(wanted.offload))
    batch = options.batch_size if options.batch_tokens is None else None
    micro = None if batch is None else batch // (options.accumulation * accelerator.num_processes)
    wrong = contradictions(
        wanted,
        clip_norm=options.clip_norm,
        precision=precision,
        accumulation=options.accumulation,
        world=accelerator.num_processes,
        batch=batch,
    )
    if wrong:
        listed = "\n  ".join(wrong)
        source = "deepspeed_config of the Accelerate file" if wanted.file is None else f"the DeepSpeed file {wanted.file}"
        refuse(f"{source} is not what the recipe says:\n  {listed}\nSet those keys to auto, or leave them out")
    from mmssl.training.sharding.zero import Zero

    if wanted.stage == 3:
        from mmssl.training.sharding.zero3 import Zero3

        return Zero3(accelerator, objective, wanted, micro or 1)
    return Zero(accelerator, objective, wanted, micro or 1)

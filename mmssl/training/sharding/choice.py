"""The strategy that a launch asked for."""

from accelerate import Accelerator

from mmssl.objectives import Objective
from mmssl.recipe.options import TrainOptions
from mmssl.training.asked import Asked, contradictions, refuse
from mmssl.training.sharding.strategy import Strategy


def strategy_of(wanted: Asked, accelerator: Accelerator, objective: Objective, options: TrainOptions, precision: str) -> Strategy:
    """How the processes of a run share its model. LaunchError for what the strategy cannot do, or what the recipe contradicts.

    precision: as Accelerate calls it.
    """
    if not wanted.sharded:
        return Strategy(accelerator, objective)
    if precision == "fp16":
        refuse(f"{wanted.name} does not train with train.precision=fp16: set bf16, which needs no scaling, or launch with ddp")
    if wanted.stage is None:
        from mmssl.training.sharding.fsdp import FullyShard  # it takes seconds to import

        return FullyShard(accelerator, objective, reshard=wanted.reshard, shards=wanted.shards)
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
        refuse(
            f"the DeepSpeed file {wanted.file} is not what the recipe says:\n  {listed}\nSet those keys to auto, or leave them out"
        )
    if options.warm_heads:
        refuse(f"{wanted.name} does not train with train.warm_heads: it moves all that learns. Launch with --strategy fsdp2")
    from mmssl.training.sharding.zero import Zero

    if wanted.stage == 3:
        from mmssl.training.sharding.zero3 import Zero3

        return Zero3(accelerator, objective, wanted, micro or 1)
    return Zero(accelerator, objective, wanted, micro or 1)

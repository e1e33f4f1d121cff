"""Which strategy a launch asks for: by `--strategy`, or by what `accelerate launch` says of FSDP and DeepSpeed."""

import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from mmssl.data.processes import OtherFailed

STRATEGIES = {
    "ddp": "each process holds the whole model",
    "fsdp2": "parameters, gradients and optimizer state are sharded (torch's fully_shard)",
    "zero1": "the optimizer state is sharded (DeepSpeed)",
    "zero2": "gradients and optimizer state are sharded (DeepSpeed)",
    "zero3": "parameters, gradients and optimizer state are sharded (DeepSpeed)",
}
"""What `--strategy` takes, and what it means."""
OFFLOADED = ("optimizer", "param")
"""What can lie in main memory: the optimizer's state, with gradients and what it moves; and the weights."""
VARIABLE = "MMSSL_STRATEGY"
"""Where `--strategy` lies for the process, and for those that it starts."""
SHARD_SIZE = "MMSSL_DP_SHARD_SIZE"
"""Where `--dp-shard-size` lies."""
SECTIONS = ("zero_optimization", "optimizer", "scheduler", "fp16", "bf16", "amp", "torch_autocast", "elasticity")
"""What a DeepSpeed file says by objects, of what is read here."""
FSDP, DEEPSPEED, PARALLEL = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_PARALLELISM_CONFIG"
NOT_DONE = {"ACCELERATE_USE_MEGATRON_LM": "Megatron-LM", PARALLEL: "a parallelism_config without fsdp_version: 2"}
"""What `accelerate launch` asks for by these variables, and mmssl does not do."""
HOW = "torchrun --nproc_per_node N -m mmssl train RECIPE"


class LaunchError(RuntimeError):
    """The processes cannot work together as they were launched."""


def refuse(message: str) -> NoReturn:
    """LaunchError on the first process; the others, which find the same, leave without words."""
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0:
        raise LaunchError(message)
    raise OtherFailed(message)


@dataclass(frozen=True)
class Asked:
    """A strategy as it was asked for.

    name: a key of `STRATEGIES`. reshard: of fsdp2, whether a layer's weights are dropped between forward and backward pass.
    shards, copies: of fsdp2, how many processes share a copy of the model, and how many such copies there are; None: all processes
        share one, and as many as it takes. offload: what lies in main memory instead of the device's, of `OFFLOADED`.
    file, settings: a DeepSpeed file and what it holds.
    """

    name: str = "ddp"
    reshard: bool = True
    shards: int | None = None
    copies: int | None = None
    offload: tuple[str, ...] = ()
    file: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sharded(self) -> bool:
        """Whether anything is."""
        return self.name != "ddp"

    @property
    def stage(self) -> int | None:
        """Of ZeRO; None: it is none."""
        return int(self.name[-1]) if self.name.startswith("zero") else None


def asked(environment: Mapping[str, str]) -> Asked:
    """What the environment of a launch asks for. LaunchError for what mmssl does not do, or for two strategies at once."""
    for variable, what in NOT_DONE.items():
        if said(environment, variable) and not (variable == PARALLEL and said(environment, FSDP)):
            refuse(
                f"{what} was asked for ({variable}={environment[variable]}), and mmssl does not do that. It has --strategy "
                f"{', '.join(STRATEGIES)}. Launch with accelerate launch --config_file recipes/launch/NAME.yaml -m mmssl train "
                f"RECIPE, or {HOW}"
            )
    own = environment.get(VARIABLE)
    if own is not None and own not in STRATEGIES:
        refuse(f"--strategy {own}: there is none of that name; give one of {', '.join(STRATEGIES)}")
    theirs = fsdp(environment) if said(environment, FSDP) else deepspeed(environment) if said(environment, DEEPSPEED) else None
    if own is not None and theirs is not None and own != theirs.name:
        refuse(f"accelerate launch asks for {theirs.name}, and --strategy for {own}: leave one of them out")
    return with_shards(theirs or Asked(own or "ddp"), environment)


def with_shards(wanted: Asked, environment: Mapping[str, str]) -> Asked:
    """The same, with how many processes share a copy of the model, if `--dp-shard-size` says it."""
    text = environment.get(SHARD_SIZE)
    if text is None:
        return wanted
    if wanted.name != "fsdp2":
        refuse(f"--dp-shard-size {text} is for --strategy fsdp2; {wanted.name} was asked for. Leave it out")
    if not text.isdecimal() or wanted.shards not in (None, int(text)):
        refuse(f"--dp-shard-size {text}: give a whole number, that of the Accelerate file if it has one ({wanted.shards})")
    return replace(wanted, shards=int(text))


def check_shards(wanted: Asked, world: int) -> None:
    """LaunchError where the processes cannot be parted as fsdp2 is asked to. world: how many there are."""
    shards, copies = wanted.shards, wanted.copies
    if shards is None:
        return
    if shards < 2:
        refuse(f"dp_shard_size={shards} shards nothing: give 2 or more, or launch with --strategy ddp")
    if world % shards or copies not in (None, world // shards):
        said = f"dp_shard_size={shards}" + (f" x dp_replicate_size={copies}" if copies else "")
        refuse(
            f"{said} does not fit {world} processes: dp_shard_size must divide them, and dp_replicate_size x dp_shard_size be "
            "their number"
        )


def said(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").lower() in ("true", "1")


def fsdp(environment: Mapping[str, str]) -> Asked:
    """FSDP as `accelerate launch` describes it; what names layers, and ways of saving, is mmssl's own business."""
    if environment.get("FSDP_VERSION", "1") != "2":
        refuse(
            f"FSDP {environment.get('FSDP_VERSION', '1')} cannot run several forward passes in a step, as views and teachers need: "
            "set fsdp_version: 2 in fsdp_config of the Accelerate file, or use recipes/launch/fsdp2.yaml"
        )
    if said(environment, "FSDP_ACTIVATION_CHECKPOINTING"):
        refuse("fsdp_activation_checkpointing: leave it out, and set train.gradient_checkpointing=true in the recipe")
    reshard = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    if reshard not in ("true", "false", "full_shard", "shard_grad_op"):
        refuse(f"fsdp_reshard_after_forward={reshard}: mmssl shards over all processes; set it to true or false")
    shards, copies = None, None
    if said(environment, PARALLEL):
        for name in ("TP", "CP", "SP"):
            if (size := environment.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1")) != "1":
                refuse(f"parallelism_config_{name.lower()}_size={size}: mmssl shares out samples and weights only; set it to 1")
        copies, shards = (int(environment.get(f"PARALLELISM_CONFIG_DP_{name}_SIZE", "1")) for name in ("REPLICATE", "SHARD"))
    offload = OFFLOADED if said(environment, "FSDP_OFFLOAD_PARAMS") else ()
    return Asked("fsdp2", reshard=reshard in ("true", "full_shard"), shards=shards, copies=copies, offload=offload)


def deepspeed(environment: Mapping[str, str]) -> Asked:
    """ZeRO as `accelerate launch` describes it, with its DeepSpeed file if there is one."""
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    settings = {} if file is None else read(file)
    inner = settings.get("zero_optimization", {})
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2") if file is None else str(inner.get("stage", 0))
    if stage not in ("1", "2", "3"):
        refuse(f"DeepSpeed with ZeRO stage {stage} shards nothing: set zero_stage to 1, 2 or 3, or launch with --strategy ddp")
    clipping = environment.get("ACCELERATE_GRADIENT_CLIPPING", "none")
    if clipping not in ("none", "auto"):
        settings = {"gradient_clipping": float(clipping), **settings}
    return Asked(f"zero{stage}", offload=offloaded(inner, environment, stage), file=file, settings=settings)


def read(file: str) -> dict[str, Any]:
    """What a DeepSpeed file holds, but what it leaves open by "auto". LaunchError unless it is an object of JSON, with sections."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse(f"the DeepSpeed file {file} cannot be read: {error}. It must be a JSON object")
    if not isinstance(found, dict):
        refuse(f'the DeepSpeed file {file} holds {found!r}: it must be a JSON object, as {{"zero_optimization": {{"stage": 3}}}}')
    settings = without_auto(found)
    for key in SECTIONS:
        if not isinstance(settings.get(key, {}), dict):
            refuse(f"{key} of the DeepSpeed file {file} must be a JSON object; got {settings[key]!r}")
    return settings


def without_auto(found: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are left open, by "auto" or null."""
    inner = {key: without_auto(value) if isinstance(value, dict) else value for key, value in found.items()}
    return {key: value for key, value in inner.items() if value is not None and value != "auto"}


def offloaded(inner: Mapping[str, Any], environment: Mapping[str, str], stage: str) -> tuple[str, ...]:
    """What lies in main memory under ZeRO, by its file or else by the Accelerate file. LaunchError for what mmssl does not do.

    inner: zero_optimization of the DeepSpeed file.
    """
    for key in ("cpu_offload", "cpu_offload_param", "zenflow"):
        if inner.get(key):
            refuse(f"zero_optimization.{key} of the DeepSpeed file: leave it out, and give offload_optimizer={{device: cpu}}")
    found = list[str]()
    for what in OFFLOADED:
        there = inner.get(f"offload_{what}", {})
        if not isinstance(there, dict):
            refuse(f'offload_{what} of the DeepSpeed file must be a JSON object, as {{"device": "cpu"}}; got {there!r}')
        device = there.get("device", environment.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what.upper()}_DEVICE", "none"))
        if device not in ("none", "cpu"):
            refuse(f"offload_{what} to {device}: mmssl offloads to main memory only; set it to cpu, or to none")
        if there.get("ratio", 1.0) != 1.0 or there.get("super_offload"):
            refuse(f"offload_{what}: ratio and super_offload need an optimizer that DeepSpeed compiles; leave them out")
        found += [what] * (device == "cpu")
    if "param" in found and (stage != "3" or "optimizer" not in found):
        refuse(
            f"offload_param to cpu needs ZeRO stage 3 and offload_optimizer to cpu, as in recipes/launch/zero3_offload.yaml; got "
            f"stage {stage} with {', '.join(f'offload_{what}' for what in found)}"
        )
    return tuple(found)


def take_over(environment: MutableMapping[str, str]) -> Asked:
    """What is asked for; from here on Accelerate is not: mmssl shards itself, on GPUs and on a CPU by the same code.

    Accelerate would shard on GPUs only, leave FSDP out on a CPU without a word, and turn DeepSpeed into DDP there. Transformers
    reads the same variables, and would load weights on the first process only. Called again it answers the same.
    """
    asked(environment)
    for variable in (FSDP, DEEPSPEED, PARALLEL):
        if said(environment, variable):
            environment[f"MMSSL_{variable}"] = environment.pop(variable)
    return taken(environment)


def taken(environment: Mapping[str, str]) -> Asked:
    """What `take_over` found."""
    moved = (FSDP, DEEPSPEED, PARALLEL)
    kept = {variable: environment[f"MMSSL_{variable}"] for variable in moved if f"MMSSL_{variable}" in environment}
    return asked({**environment, **kept})


def contradictions(
    wanted: Asked, *, clip_norm: float | None, precision: str, accumulation: int, world: int, batch: int | None
) -> list[str]:
    """In words, where a DeepSpeed file, or the Accelerate file, is not what the recipe says.

    precision: as Accelerate calls it. world: processes. batch: samples of a step; None: a step is counted in tokens.
    """
    settings, lines = wanted.settings, list[str]()
    micro = None if batch is None else batch // (accumulation * world)
    for key, own, recipe in (
        ("gradient_clipping", clip_norm or 0.0, f"train.clip_norm={clip_norm}"),
        ("gradient_accumulation_steps", accumulation, f"train.accumulation={accumulation}"),
        ("train_batch_size", batch, f"train.batch_size={batch}"),
        ("train_micro_batch_size_per_gpu", micro, f"comes to {micro} on {world} processes"),
    ):
        there = settings.get(key, "auto")
        if there not in ("auto", own):
            lines.append(f"{key}={there}, the recipe {recipe}")
    for key in ("fp16", "bf16"):
        there = settings.get(key, {}).get("enabled", "auto")
        if there not in ("auto", precision == key):
            lines.append(f"{key}.enabled={str(there).lower()}, the recipe comes to precision {precision}")
    for key in ("amp", "torch_autocast"):
        if settings.get(key, {}).get("enabled"):
            lines.append(f"{key}.enabled=true, and the recipe's train.precision is the one that is used")
    if settings.get("elasticity", {}).get("enabled"):
        lines.append("elasticity.enabled=true, and a step has the samples that the recipe says")
    for key in ("optimizer", "scheduler"):
        if key in settings:
            lines.append(f"{key}={settings[key].get('type')}, and the recipe's is the one that is used")
    return lines

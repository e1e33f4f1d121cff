"""How a run gets its processes: by `torchrun`, `accelerate launch`, Slurm's `srun`, mpirun, or `mmssl train --processes`."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, is_tensorboard_available, is_trackio_available, is_wandb_available

from mmssl.data import processes
from mmssl.plugins import points
from mmssl.recipe import Recipe, changed_keys
from mmssl.training.allocator import keep_freed_memory
from mmssl.training.asked import HOW, LaunchError, asked, check_shards, refuse, take_over, taken

TIMEOUT = 600.0
"""Seconds of `train.timeout` where the recipe cannot be read."""
PORT = 29500
"""Where the first process listens, if the launcher does not say it."""

PLAIN = (
    *(DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.MULTI_XPU),
    *(DistributedType.MULTI_NPU, DistributedType.MULTI_MLU, DistributedType.MULTI_HPU),
)
"""Strategies that mmssl trains with: each process holds the whole model."""


class Place(NamedTuple):
    """Where a process stands among those of its launch: in all, and on its machine."""

    rank: int
    world: int
    local_rank: int
    local_world: int


class Names(NamedTuple):
    """The variables by which a launcher says the same."""

    launcher: str
    rank: str
    world: str
    local_rank: str
    local_world: str


LAUNCHERS = (
    Names("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    Names("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    Names("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    Names("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""In the order in which they are asked: `srun torchrun` is torchrun's."""


def joined(read: Callable[[], Recipe]) -> Recipe:
    """The recipe that every process reads, once they have found each other. Raises on all of them where one cannot read it."""
    try:
        recipe, error = read(), None
    except Exception as failed:
        recipe, error = None, failed
    start(TIMEOUT if recipe is None else recipe.section("train").timeout)

    def found() -> Recipe:
        if error is not None:
            raise error
        assert recipe is not None
        return recipe

    with processes.one_for_all():
        return processes.together(found)


def start(timeout: float) -> None:
    """Join the other processes of this launch, if there are any. Called again it does nothing.

    timeout: seconds after which waiting for another process in a step is an error.
    LaunchError, on the first process, for a launch that would not do what was asked for; OtherFailed on the others.
    """
    refuse_what_is_not_done(os.environ)
    strategy = take_over(os.environ)
    if not torch.cuda.is_available():
        keep_freed_memory()
    if dist.is_initialized():
        return
    place = place_of(os.environ) or (Place(0, 1, 0, 1) if strategy.sharded else None)
    if place is None:
        return
    check_shards(strategy, place.world)
    os.environ.update(RANK=f"{place.rank}", WORLD_SIZE=f"{place.world}")
    os.environ.update(LOCAL_RANK=f"{place.local_rank}", LOCAL_WORLD_SIZE=f"{place.local_world}")
    on_gpu = torch.cuda.is_available()
    if on_gpu and place.local_world > torch.cuda.device_count():
        many = f"{place.local_world} processes on a machine with {torch.cuda.device_count()} GPUs"
        refuse(f"{many}: launch one for each GPU, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on the CPU")
    if on_gpu:
        torch.cuda.set_device(place.local_rank)
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    join(place, "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout)
    PartialState(cpu=not on_gpu)


def join(place: Place, backend: str, timeout: float) -> None:
    """Make the process group. LaunchError if the others are not found within the time-out."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store = dist.HashStore() if place.world == 1 else None  # type: ignore[attr-defined]
        limit = timedelta(seconds=timeout)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=limit)
        processes.meet(None)
    except (dist.DistError, RuntimeError, OSError, ValueError) as error:
        who = f"process {place.rank} of {place.world}"
        raise LaunchError(
            f"{who} does not find the others at {where} (MASTER_ADDR:MASTER_PORT): {str(error).splitlines()[0]}. The address must "
            f"be that of the machine of process 0, reachable from all; the port free there; and all {place.world} processes must "
            f"start within train.timeout={timeout:g} s"
        ) from error


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Where this process stands, by what its launcher says; None if it is alone. Says where the first process listens, too."""
    for names in LAUNCHERS:
        world = int(environment.get(names.world) or 1)
        if world == 1:
            continue
        if names.rank not in environment:
            raise LaunchError(f"{names.world}={world}, but {names.rank} is not set: who is this? Launch with {HOW}")
        os.environ.setdefault("MASTER_ADDR", first_machine(environment) if names.launcher == "srun" else "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(port_of(environment)))
        # Slurm writes 4(x2),3; the first number is that of the first machine.
        on_machine = int(environment.get(names.local_world, "1").split("(")[0].split(",")[0])
        return Place(int(environment[names.rank]), world, int(environment.get(names.local_rank, "0")), on_machine)
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment and "RANK" not in environment:
        raise LaunchError(
            "accelerate launch --cpu starts one process, whatever --num_processes says. Launch with "
            "accelerate launch --multi_gpu --num_processes N -m mmssl train RECIPE (without a GPU it trains on the CPU), with "
            f"{HOW}, or with mmssl train RECIPE --processes N"
        )
    return None


def first_machine(environment: Mapping[str, str]) -> str:
    """The host name of the machine of process 0 of a Slurm step."""
    machines = environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
    if not set(machines) & set("[,"):
        return machines
    try:
        said = subprocess.run(["scontrol", "show", "hostnames", machines], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LaunchError(
            f"the machines are {machines}, and scontrol does not name the first one ({error}). Set MASTER_ADDR"
        ) from error
    return said.stdout.split()[0]


def port_of(environment: Mapping[str, str]) -> int:
    """A port that two jobs on one machine do not share."""
    return PORT + (int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))) % 10_000


def refuse_what_is_not_done(environment: Mapping[str, str]) -> None:
    """LaunchError for what `accelerate launch` asks for by variables, and mmssl would not do."""
    asked(environment)
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        refuse("accelerate launch asks for torch.compile (dynamo_backend); leave it out, and set train.compile=true in the recipe")


def refuse_other_settings(precision: str, accumulation: int, environment: Mapping[str, str]) -> None:
    """LaunchError for settings of `accelerate launch` that are not the recipe's. precision: as Accelerate calls it."""
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", precision):
        refuse(
            f"accelerate launch says mixed_precision={asked}, and the recipe comes to {precision}: set train.precision={asked}, "
            "or leave it out there"
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto", str(accumulation)):
        refuse(
            f"accelerate launch says gradient_accumulation_steps={steps}, and the recipe train.accumulation={accumulation}: "
            "leave it out there"
        )


def check_in_force(accelerator: Accelerator) -> None:
    """LaunchError if Accelerate does not see the processes that there are, or would shard the model itself."""
    found = processes.world()
    if accelerator.num_processes != found or accelerator.distributed_type not in PLAIN:
        refuse(
            f"Accelerate sees {accelerator.num_processes} of {found} processes, {accelerator.distributed_type}. Launch with {HOW}"
        )


def check_trackers(names: Sequence[str]) -> None:
    """ModuleNotFoundError for an experiment tracker whose package is not installed: Accelerate would go on without it."""
    known = {
        "tensorboard": is_tensorboard_available,
        "wandb": is_wandb_available,
        "trackio": is_trackio_available,
    }
    for name in names:
        if not known[name]():
            raise ModuleNotFoundError(
                f"train.trackers names {name}, which is not installed: pip install {name}, or leave it out; the run writes "
                "metrics.jsonl anyway"
            )


def check_alike(recipe: Recipe) -> None:
    """ValueError, on the process that differs, if processes have other recipes or other code than the first one."""
    if processes.world() == 1:
        return
    own = {"recipe": recipe.resolved(), "code": code_digits(recipe), "strategy": vars(taken(os.environ))}
    first = processes.gathered(own)[0]

    def check() -> None:
        if changed := changed_keys(first["recipe"], own["recipe"]):
            listed = "\n  ".join(changed)
            raise ValueError(f"{processes.name()} has another recipe than process 0:\n  {listed}\nGive all of them the same")
        if first["strategy"] != own["strategy"]:
            raise ValueError(
                f"{processes.name()} was launched with {own['strategy']}, process 0 with {first['strategy']}: give all the same"
            )
        for package, digits in own["code"].items():
            if first["code"].get(package) != digits:
                raise ValueError(
                    f"{processes.name()} runs other code of {package} than process 0, from {find_spec(package).origin}: "  # type: ignore[union-attr]
                    "install the same version everywhere"
                )

    processes.together(check)


def code_digits(recipe: Recipe) -> dict[str, str]:
    """A digest of the sources of mmssl, and of the packages of the recipe's modalities."""
    names = {"mmssl", *(points()[name].module.partition(".")[0] for name in recipe.modalities)}
    found = {}
    for name in sorted(names):
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        file = Path(spec.origin)
        sources = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        found[name] = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return found

"""What a launcher says in the environment is heard, or refused: no launch trains otherwise than asked."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

import mmssl_cli as cli
from mmssl.data import processes
from mmssl.recipe import load
from mmssl.testing.small import objective_of
from mmssl.training import launch
from mmssl.training.asked import (
    OFFLOADED,
    STRATEGIES,
    Asked,
    LaunchError,
    asked,
    check_shards,
    take_over,
    taken,
)
from mmssl.training.launch import Place, place_of, refuse_other_settings, refuse_what_is_not_done, start
from mmssl.training.run import Run
from mmssl.training.sharding import zero
from mmssl.training.sharding.offload import bytes_of, check_memory

ROOT = Path(__file__).parents[2]
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "32",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x4)",
    "SLURM_STEP_NODELIST": "node7",
    "SLURM_JOB_ID": "20003",
    "SLURM_STEP_ID": "4",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
PARALLEL = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "4",
}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
OPTIMIZER, PARAM = (f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE" for what in ("OPTIMIZER", "PARAM"))
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a variable behind."""
    before = dict(os.environ)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("environment", "place", "address", "port"),
    [
        (TORCHRUN, Place(3, 4, 1, 2), "a", "1"),
        (SLURM, Place(9, 32, 1, 8), "node7", str(29500 + 7)),
        (TORCHRUN | SLURM, Place(3, 4, 1, 2), "a", "1"),
        (OPEN_MPI, Place(1, 2, 0, 1), "127.0.0.1", "29500"),
    ],
    ids=["torchrun", "srun", "srun torchrun", "mpirun"],
)
def test_the_place_of_a_process(environment: dict[str, str], place: Place, address: str, port: str) -> None:
    os.environ.update({name: value for name, value in environment.items() if name.startswith("MASTER")})
    assert place_of(environment) == place
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (address, port)


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}])
def test_a_process_that_is_alone(environment: dict[str, str]) -> None:
    assert place_of(environment) is None


def test_the_first_machine_of_a_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    listed = SLURM | {"SLURM_STEP_NODELIST": "node[7-9]"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        LaunchError, match=r"the machines are node\[7-9\], and scontrol does not name the first one .*Set MASTER_ADDR"
    ):
        place_of(listed)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[7-9]" ] && echo node7 && echo node8\n')
    scontrol.chmod(0o755)
    place_of(listed)
    assert os.environ["MASTER_ADDR"] == "node7"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but RANK is not set: who is this?"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
            r"accelerate launch --cpu starts one process, whatever --num_processes says.*--multi_gpu --num_processes N -m mmssl",
        ),
    ],
)
def test_a_launch_that_would_train_alone(environment: dict[str, str], told: str) -> None:
    with pytest.raises(LaunchError, match=told):
        place_of(environment)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1 cannot run several forward passes.*fsdp_version: 2.*recipes/launch/fsdp2.yaml"),
        (FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "set train.gradient_checkpointing=true in the recipe"),
        (FSDP2 | {"MMSSL_STRATEGY": "zero2"}, "accelerate launch asks for fsdp2, and --strategy for zero2: leave one of them out"),
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "ZeRO stage 0 shards nothing: set zero_stage to 1, 2 or 3"),
        (ZERO | {PARAM: "cpu"}, "offload_param to cpu needs ZeRO stage 3 .* got stage 2 with offload_param"),
        (ZERO | {PARAM: "cpu", OPTIMIZER: "cpu"}, "got stage 2 with offload_optimizer, offload_param"),
        (ZERO | {PARAM: "cpu", STAGE: "3"}, "recipes/launch/zero3_offload.yaml; got stage 3 with offload_param"),
        (ZERO | {OPTIMIZER: "nvme"}, "offload_optimizer to nvme: mmssl offloads to main memory only; set it to cpu"),
        ({"MMSSL_STRATEGY": "zero4"}, "--strategy zero4: there is none of that name; give one of ddp, fsdp2, zero1, zero2, zero3"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, r"Megatron-LM was asked for \(.*torchrun --nproc_per_node N -m mmssl"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "a parallelism_config without fsdp_version: 2 was asked for"),
        (
            FSDP2 | PARALLEL | {"PARALLELISM_CONFIG_TP_SIZE": "2"},
            "parallelism_config_tp_size=2: mmssl shares out samples and weights",
        ),
        (FSDP2 | PARALLEL | {"MMSSL_DP_SHARD_SIZE": "8"}, r"--dp-shard-size 8: give .* that of the Accelerate file if .*\(4\)"),
        ({"MMSSL_DP_SHARD_SIZE": "2"}, "--dp-shard-size 2 is for --strategy fsdp2; ddp was asked for. Leave it out"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "set train.compile=true in the recipe"),
    ],
)
def test_a_strategy_that_mmssl_does_not_have(environment: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchError, match=told):
        refuse_what_is_not_done(environment)
    monkeypatch.setenv("RANK", "1")  # of several processes, which all find the same, one tells it
    with pytest.raises(processes.OtherFailed):
        refuse_what_is_not_done(environment)


def test_a_strategy_is_refused_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SystemExit, match="mmssl: FSDP 1 cannot run"):
        cli.main(["train", "quickstart"])


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "ddp"),
        (FSDP2, "fsdp2"),
        (FSDP2 | {"MMSSL_STRATEGY": "fsdp2"}, "fsdp2"),
        ({"MMSSL_STRATEGY": "zero1"}, "zero1"),
        (ZERO, "zero2"),
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
    ],
)
def test_the_strategy_that_is_asked_for_is_mmssls_and_not_accelerates(environment: dict[str, str], name: str) -> None:
    environment = dict(environment)
    assert take_over(environment) == take_over(environment) == taken(environment)
    assert taken(environment).name == name
    assert not {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & environment.keys()


def test_offload_without_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes hold is counted from float32 weights: with gradients and moments four times what learns, and teachers once."""
    objective, _ = objective_of("jepa", "image")
    learns = 4 * sum(each.numel() for each in objective.parameters() if each.requires_grad)
    objective.networks.make()
    every = 4 * sum(each.numel() for each in objective.parameters())
    assert every > learns
    fsdp2 = Asked("fsdp2", offload=OFFLOADED)
    for wanted, accumulation, of_all in (
        (fsdp2, 1, every + 3 * learns),
        (Asked("zero2", offload=("optimizer",)), 1, 5 * learns),
        (Asked("zero2", offload=("optimizer",)), 2, 6 * learns),
        (Asked("zero1", offload=("optimizer",)), 2, 5 * learns),
        (Asked("zero3", offload=("optimizer",)), 2, 5 * learns),
        (Asked("zero3", offload=OFFLOADED), 2, every + 5 * learns),
    ):
        assert bytes_of(objective, wanted, 4, accumulation) == (every, of_all // 4)
    assert bytes_of(objective, replace(fsdp2, shards=2), 4, 1) == (every, (every + 3 * learns) // 2)
    needed = 3 * learns
    for free, told in ((needed, None), (needed - 1, r"offload: the 1 process on \S+ would hold .* GB are free for it. Take more")):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        with pytest.raises(LaunchError, match=told) if told else nullcontext():
            check_memory(objective, fsdp2, 1)


def test_how_many_processes_share_a_copy_of_the_model() -> None:
    wanted = taken({"MMSSL_STRATEGY": "fsdp2", "MMSSL_DP_SHARD_SIZE": "4"})
    assert (wanted.name, wanted.shards, wanted.copies) == ("fsdp2", 4, None)
    environment = FSDP2 | PARALLEL
    assert take_over(environment) == taken(environment) == taken(FSDP2 | PARALLEL)
    assert "ACCELERATE_USE_PARALLELISM_CONFIG" not in environment
    assert (taken(environment).shards, taken(environment).copies) == (4, 2)
    check_shards(taken(environment), world=8)
    for world, shards, copies in ((8, None, None), (8, 8, None), (8, 4, None), (8, 2, 4)):
        check_shards(Asked("fsdp2", shards=shards, copies=copies), world)
    for world, shards, copies, told in (
        (8, 3, None, "dp_shard_size=3 does not fit 8 processes: dp_shard_size must divide them"),
        (8, 2, 2, "dp_shard_size=2 x dp_replicate_size=2 does not fit 8 processes"),
        (8, 1, 8, "dp_shard_size=1 shards nothing: give 2 or more, or launch with --strategy ddp"),
    ):
        with pytest.raises(LaunchError, match=told):
            check_shards(Asked("fsdp2", shards=shards, copies=copies), world)


def test_the_command_knows_the_strategies_without_importing_them() -> None:
    assert list(STRATEGIES) == list(cli.STRATEGIES)


def test_zero_without_deepspeed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r'DeepSpeed is not installed: pip install "mmssl\[deepspeed\]", or .*--strategy fsdp2'):
        zero.imported(torch.device("cpu"))


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed (the extra deepspeed)")
def test_a_deepspeed_that_is_too_old_or_broken_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"deepspeed>={zero.OLDEST}" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    told = r'pip install "deepspeed>=0\.19\.8", or launch with --strategy fsdp2'
    monkeypatch.setattr(zero, "version", lambda name: "0.15.4")
    with pytest.raises(LaunchError, match=rf"DeepSpeed 0\.15\.4 is too old: {told}"):
        zero.imported(torch.device("cpu"))

    def broken(name: str) -> None:
        raise ImportError("cannot import name 'there' from 'torch'")

    monkeypatch.setattr(zero, "version", lambda name: "0.20.0")
    monkeypatch.setattr(zero, "import_module", broken)
    with pytest.raises(LaunchError, match=rf"0\.20\.0 cannot be imported beside torch .*: cannot import name .*{told}"):
        zero.imported(torch.device("cpu"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_file_asks_for_what_its_name_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch` reads it, without starting anything."""
    parser = launch_command_parser()
    arguments, *_ = _validate_launch_command(parser.parse_args(["--config_file", str(path), "--num_processes", "2", "train.py"]))
    arguments.deepspeed_fields_from_accelerate_config = ""
    prepare = prepare_deepspeed_cmd_env if arguments.use_deepspeed else prepare_multi_gpu_env
    found = prepare(arguments)
    environment = found[1] if isinstance(found, tuple) else found
    wanted = asked({key: value for key, value in environment.items() if value is not None})
    assert wanted.name + "_hybrid" * (wanted.shards is not None) + "_offload" * bool(wanted.offload) == path.stem
    assert wanted.offload in ((), OFFLOADED)
    assert (wanted.copies, wanted.shards) == ((2, 2) if "hybrid" in path.stem else (None, None))


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision=bf16, and the recipe comes to no: set train.precision=bf16"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "3"}, "gradient_accumulation_steps=3, and the recipe train.accumulation=2"),
    ],
)
def test_settings_that_are_not_those_of_the_recipe(environment: dict[str, str], told: str) -> None:
    with pytest.raises(LaunchError, match=told):
        refuse_other_settings("no", 2, environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"},
    ],
)
def test_settings_that_are_those_of_the_recipe(environment: dict[str, str]) -> None:
    refuse_other_settings("no", 2, environment)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ.update(TORCHRUN | {"RANK": "0"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(LaunchError, match="2 processes on a machine with 1 GPUs: launch one for each GPU"):
        start(1.0)


def test_one_process_needs_nobody() -> None:
    start(1.0)
    assert (processes.world(), processes.rank(), processes.is_first()) == (1, 0, True)
    assert processes.gathered("a") == ["a"] == [processes.by_first(lambda: "a")] == [processes.together(lambda: "a")]
    assert list(processes.in_turn(iter([1, None, 2]))) == [1, 2]
    assert processes.meet("word") == ["word"]
    with pytest.raises(ZeroDivisionError), processes.one_for_all():
        raise ZeroDivisionError


def test_code_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    recipe = load("quickstart")
    digits = launch.code_digits(recipe)
    assert set(digits) == {"mmssl", "mmssl_modalities"}
    assert launch.code_digits(recipe) == digits
    source = tmp_path / "acme.py"
    source.write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(launch, "points", lambda: {"image": type("Point", (), {"module": "acme"})})
    before = launch.code_digits(recipe)["acme"]
    source.write_text("ONE = 2\n")
    assert launch.code_digits(recipe)["acme"] != before


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        (["train", "a.yaml", "--processes", "2", "train.lr=1"], ["train", "a.yaml", "train.lr=1"]),
        (["train", "--processes=2", "a.yaml"], ["train", "a.yaml"]),
        (
            ["train", "--processes=2", "--strategy", "fsdp2", "--dp-shard-size", "2", "a.yaml", "train.lr=1"],
            ["train", "a.yaml", "train.lr=1", "--strategy=fsdp2", "--dp-shard-size=2"],
        ),
        (["train", "--proc", "2", "a.yaml"], ["train", "a.yaml"]),
        (["embed", "m", "--data", "d", "--output", "o", "--proc=2"], ["embed", "m", "--data", "d", "--output", "o"]),
    ],
)
def test_what_each_process_is_told(typed: list[str], passed_on: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(cli, "launch", lambda count, arguments: launched.append((count, arguments)) or 7)
    with pytest.raises(SystemExit) as stop:
        cli.main(typed)
    assert (stop.value.code, launched) == (7, [(2, passed_on)])


@pytest.mark.parametrize(
    ("count", "world", "told"), [("0", "1", "must be at least 1; got 0"), ("2", "4", "is one of several already")]
)
def test_counts_that_are_refused(count: str, world: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(SystemExit, match=told):
        cli.main(["train", "quickstart", "--processes", count])


@pytest.mark.parametrize("typed", ["", " --strategy=fsdp2 --dp-shard-size=2"])
def test_the_command_that_continues_says_how_the_model_was_shared(typed: str, tmp_path: Path) -> None:
    """Also where an Accelerate file said it, and nobody typed it."""
    run = Run(tmp_path)
    run.record(command=f"mmssl train a.yaml{typed}", processes=4, machines=1, strategy="fsdp2", dp_shard_size=2)
    added = "" if typed else " --strategy=fsdp2 --dp-shard-size=2"
    assert run.resume_command == f"mmssl train a.yaml{typed} resume={tmp_path} --processes=4{added}"

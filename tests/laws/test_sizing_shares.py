"""What a strategy is said to hold and to send is what a step of it does, on one process and on two."""

import json
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmssl.data import Batch
from mmssl.objectives import Objective
from mmssl.plugins import points
from mmssl.recipe.options import TrainOptions
from mmssl.testing.small import SINGLE, objective_of
from mmssl.training.loop import Training
from mmssl.training.sizing.memory import COPIES, HYBRID, shares, weights_of
from mmssl.training.sizing.trace import traced
from mmssl.training.sizing.weightless import weigh, weightless
from mmssl_catalogue import MODALITIES

WITHIN = 0.1
KINDS = [kind for kind in ("masked", "jepa", "distill", "contrast") if kind in SINGLE]
OPTIONS = TrainOptions(batch_size=6, max_steps=1, lr=1e-3, ema=0.9)
COLLECTIVES = {
    "all_reduce": "tensor",
    **dict.fromkeys(("all_gather_single", "all_gather_into_tensor"), "input_tensor"),
    **dict.fromkeys(("reduce_scatter_single", "reduce_scatter_tensor"), "output"),
}
"""What `fully_shard` calls, by whatever version of torch, and the argument that is the part of one process."""


def held(tensor: Tensor) -> int:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes


def step(objective: Objective, batch: Batch) -> dict[str, int]:
    """Bytes that this process holds in a step, and those that it sends."""
    training = Training(objective, OPTIONS)
    found, counting = Counter[str](), [False]
    clip, known = training.strategy.clip, training.what_is_known

    def clipped() -> Tensor:
        counting[0] = False
        found["gradients"] = sum(held(each.grad) for each in objective.parameters() if each.grad is not None)
        return clip()

    def then_count(*given: Any) -> Any:
        told = known(*given)
        counting[0] = True
        return told

    def counted(collective: Any, part: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            tensor = named[part] if part in named else given[part == "input_tensor"]
            count = dist.get_world_size(named.get("group"))
            # Of an all-reduce, between copies of the model: those who know the whole tensor send their part of it twice.
            times = 2 / count if part == "tensor" else 1
            found["sent"] += round(counting[0] * tensor.nbytes * (count - 1) * times)
            found["added"] += round(counting[0] * tensor.nbytes * (count - 1) * times * (part == "tensor"))
            return collective(*given, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.strategy, "clip", clipped)
        patch.setattr(training, "what_is_known", then_count)
        for name, part in COLLECTIVES.items():
            if hasattr(dist, name):
                patch.setattr(dist, name, counted(getattr(dist, name), part))
        training.step(iter([batch]))
    for name, parameter in objective.named_parameters():
        found["copies" if COPIES in name else "weights"] += held(parameter)
    moments = [value for state in training.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    found["optimizer"] = sum(map(held, moments))
    return dict(found)


def expected(kind: str, name: str, strategy: str, count: int) -> dict[str, float]:
    """The same, from an objective without weights."""
    with weightless():
        objective, batch = objective_of(kind, name)
        objective.networks.want("average", average_of(OPTIONS))
        objective.networks.make()
    objective.networks.steady = strategy != "ddp"
    weigh(objective)
    calls, machines = traced(objective, batch, None).calls, 2 if strategy == HYBRID else 1
    share = shares(weights_of(objective, OPTIONS), calls, count // machines, machines)[strategy]
    sent = {"fsdp2": {"sent": share.sent(1), "added": 0.0}, HYBRID: {"sent": share.sent(1), "added": share.out(1) / 2}}
    held = {"weights": share.weights, "gradients": share.gradients, "optimizer": share.optimizer, "copies": share.copies}
    return held | sent.get(strategy, {})


def average_of(options: TrainOptions) -> Any:
    from mmssl.objectives.networks import Moving

    assert options.ema is not None
    return Moving(options.ema, options.ema)


def unlike(found: dict[str, Any], said: dict[str, float], whose: str) -> list[str]:
    """What is further away from what was said than it may be."""
    wrong = {what: size for what, size in said.items() if found.get(what, 0) != pytest.approx(size, rel=WITHIN)}
    return [f"{whose}, {what}: {found.get(what, 0)}, said {size}" for what, size in wrong.items()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", points(MODALITIES))
def test_one_process_holds_what_is_said(name: str, kind: str) -> None:
    assert unlike(step(*objective_of(kind, name)), expected(kind, name, "ddp", 1), kind) == []


def work(rank: int, count: int, port: int, folder: str, cases: list[tuple[str, str]]) -> None:
    place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in place.items()}, MASTER_PORT=str(port), MMSSL_STRATEGY="fsdp2")
    os.environ.update(MMSSL_DP_SHARD_SIZE="2")
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    found = []
    for kind, name in cases:
        objective, batch = objective_of(kind, name)
        found.append(step(objective, batch.take(torch.arange(3) + 3 * (rank % 2))))
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


FEW = [("masked", "image"), *((kind, "image") for kind in KINDS if kind == "distill")]
MANY = [(kind, name) for name in ("image", "text") for kind in KINDS] + [
    ("masked", name) for name in points(MODALITIES) if name not in ("image", "text")
]


@pytest.mark.parametrize(("strategy", "count", "cases"), [("fsdp2", 2, MANY), (HYBRID, 4, FEW)], ids=["fsdp2", HYBRID])
def test_processes_of_fsdp2_hold_and_send_what_is_said(
    strategy: str, count: int, cases: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Hybrid: two copies of the model, each shared by two processes; what they add up between copies leaves a machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(work, (count, port, str(tmp_path), cases), nprocs=count, start_method="fork")
    wrong = list[str]()
    for number, (kind, name) in enumerate(cases):
        fullest = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))[number] for rank in range(count)]
        most = {key: max(each[key] for each in fullest) for key in fullest[0]}
        wrong += unlike(most, expected(kind, name, strategy, count), f"{kind} of {name}")
    assert wrong == []

"""What a strategy is said to hold and to send is what a step of it does, on one process and on two."""

import json
import os
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmssl.data import Batch
from mmssl.objectives import Objective
from mmssl.plugins import points
from mmssl.recipe.options import TrainOptions
from mmssl.testing.small import SINGLE, objective_of
from mmssl.training.loop import Training
from mmssl.training.sizing.memory import COPIES, STRATEGIES, weights_of
from mmssl.training.sizing.trace import traced
from mmssl.training.sizing.weightless import weigh, weightless
from mmssl_catalogue import MODALITIES

WITHIN = 0.1
KINDS = [kind for kind in ("masked", "jepa", "distill", "contrast") if kind in SINGLE]
OPTIONS = TrainOptions(batch_size=6, max_steps=1, lr=1e-3, ema=0.9)


def held(tensor: Tensor) -> int:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes


def step(objective: Objective, batch: Batch) -> dict[str, int]:
    """Bytes that this process holds in a step, and those that it sends."""
    training = Training(objective, OPTIONS)
    found, counting = Counter[str](), [False]
    clip, known = training.strategy.clip, training.what_is_known

    def clipped() -> Tensor:
        found["gradients"] = sum(held(each.grad) for each in objective.parameters() if each.grad is not None)
        return clip()

    def then_count(*given: Any) -> Any:
        told = known(*given)
        counting[0] = True
        return told

    gather, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def gathered(output_tensor: Tensor, input_tensor: Tensor, *given: Any, **named: Any) -> Any:
        found["sent"] += counting[0] * input_tensor.nbytes * (dist.get_world_size() - 1)
        return gather(output_tensor, input_tensor, *given, **named)

    def scattered(output: Tensor, input: Tensor, *given: Any, **named: Any) -> Any:
        found["sent"] += counting[0] * output.nbytes * (dist.get_world_size() - 1)
        return scatter(output, input, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.strategy, "clip", clipped)
        patch.setattr(training, "what_is_known", then_count)
        patch.setattr(dist, "all_gather_into_tensor", gathered)
        patch.setattr(dist, "reduce_scatter_tensor", scattered)
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
    weigh(objective)
    share = STRATEGIES[strategy](weights_of(objective), traced(objective, batch, None).calls, count)
    return {"weights": share.weights, "gradients": share.gradients, "optimizer": share.optimizer, "copies": share.copies} | (
        {"sent": share.sent(1)} if strategy == "fsdp2" else {}
    )


def average_of(options: TrainOptions) -> Any:
    from mmssl.objectives.networks import Moving

    assert options.ema is not None
    return Moving(options.ema, options.ema)


def alike(found: dict[str, Any], said: dict[str, float]) -> None:
    for what, size in said.items():
        assert found[what] == pytest.approx(size, rel=WITHIN), f"{what}: {found}, said {said}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", points(MODALITIES))
def test_one_process_holds_what_is_said(name: str, kind: str) -> None:
    alike(step(*objective_of(kind, name)), expected(kind, name, "ddp", 1))


def work(rank: int, port: int, folder: str, cases: list[tuple[str, str]]) -> None:
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in place.items()}, MASTER_PORT=str(port), MMSSL_STRATEGY="fsdp2")
    torch.set_num_threads(1)
    found = []
    for kind, name in cases:
        objective, batch = objective_of(kind, name)
        found.append(step(objective, replace(batch.take(torch.arange(3) + 3 * rank))))
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def test_two_processes_of_fsdp2_hold_and_send_what_is_said(tmp_path: Path) -> None:
    cases = [(kind, name) for name in ("image", "text") for kind in KINDS] + [
        ("masked", name) for name in points(MODALITIES) if name not in ("image", "text")
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(work, (port, str(tmp_path), cases), nprocs=2, start_method="fork")
    for number, (kind, name) in enumerate(cases):
        fullest = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))[number] for rank in range(2)]
        most = {key: max(each[key] for each in fullest) for key in fullest[0]}
        alike(most, expected(kind, name, "fsdp2", 2))

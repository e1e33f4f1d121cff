"""Train a few steps on two modalities by turns, in one process or as one of several, and write the weights.

    python tests/invariant/processes.py OBJECTIVE FILE      # RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT say how many there are

OBJECTIVE swap is masked modelling with tokens of other samples at hidden places.

Every step holds one modality, so the other's adapter and heads are idle in it.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from safetensors.torch import save_file

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import OBJECTIVES, Setup
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant
from mmssl.training.loop import Training, fit

NAMES, SAMPLES, STEPS = ("image", "timeseries"), 8, 6


def main() -> None:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(0)
    processors = {
        "image": find("image").processor(size=16, channels=3, mean=0.5, std=0.2),
        "timeseries": find("timeseries").processor(),
    }
    adapters = {"image": {"patch_size": 4}, "timeseries": {"patch_size": 8}}
    modalities = {name: {"processor": one.settings(), "adapter": adapters[name]} for name, one in processors.items()}
    config = MMSSLConfig(modalities=modalities, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    settings = {"predictor": MaskToken(corruption="swap", swap=0.3)} if sys.argv[1] == "swap" else {}
    objective = OBJECTIVES["masked" if settings else sys.argv[1]](MMSSLModel(config), Setup(), **settings)
    inputs = {
        "image": processors["image"].collate([processors["image"](raw) for raw in find("image").example(SAMPLES, 0)]),
        "timeseries": processors["timeseries"].collate(
            [processors["timeseries"](raw) for raw in find("timeseries").example(SAMPLES, 0)]
        ),
    }
    ids = torch.arange(SAMPLES)

    def batches() -> Iterator[Batch]:
        for step in range(STEPS):
            name = NAMES[step % 2]
            whole = Batch({name: inputs[name]}, keys(0, step, ids), ids)
            own = slice(rank * SAMPLES // world, (rank + 1) * SAMPLES // world)
            part = {key: value[own] for key, value in whole.inputs[name].items()}
            yield replace(whole, inputs={name: part}, keys=whole.keys[own], ids=ids[own])

    # A large epsilon, or AdamW would blow the rounding of gradients that are zero up to whole steps.
    options = TrainOptions(batch_size=SAMPLES, max_steps=STEPS, schedule=constant(warmup=0), eps=1e-4)
    training = Training(objective, options)
    assert training.accelerator.num_processes == world
    fit(training, batches(), lambda row: False)
    if rank == 0:
        save_file({key: value.contiguous() for key, value in objective.state_dict().items()}, sys.argv[2])


if __name__ == "__main__":
    main()

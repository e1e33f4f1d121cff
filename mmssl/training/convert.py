"""A checkpoint as a Hugging Face folder, on a CPU: without the data, a GPU or the processes that wrote it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl.evaluation.history import History
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.adaptation import is_adapted
from mmssl.objectives import Objective
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import load
from mmssl.training import checkpoint
from mmssl.training.ending import Ending
from mmssl.training.pieces import whole
from mmssl.training.run import Run


def describe(objective: Objective) -> dict[str, Any]:
    """What `convert` must know of an objective, for run.json: its networks by what they are, and the model that it publishes."""
    networks, model = objective.networks, objective.published()
    kinds = networks.kinds
    return {
        "networks": dict(kinds.names),
        "publishes": networks.publishes(objective.publish),
        "config": None if is_adapted(model) else json.loads(model.config.to_json_string(use_diff=False)),
    }


def convert(path: Path, output: Path, weights: str | None = None) -> tuple[str, int]:
    """Write the model of a checkpoint as a Hugging Face folder; which network it is, and of which step.

    path: a checkpoint, or a run, whose newest good checkpoint is taken. weights: student, teacher or average; None: what the run
        would publish. ValueError for a checkpoint that is damaged or of no run of this kind, or a network that it does not have.
    """
    found = path if (path / checkpoint.MANIFEST).exists() else checkpoint.newest(path / "checkpoints")
    if found is None:
        raise FileNotFoundError(f"{path} is no checkpoint, and no run with one; give runs/NAME, or runs/NAME/checkpoints/step-...")
    if output.exists():
        raise FileExistsError(f"{output} is there already; name another folder, or remove it")
    run = Run(found.absolute().parent.parent)
    known = run.read_record().get("model")
    if known is None or known["config"] is None:
        why = "has adapters" if known else "is of an older mmssl, which did not write down what its checkpoints hold"
        raise ValueError(f"the run {run.folder} {why}: let it come to its end (resume=auto), which publishes its model")
    kind = weights or known["publishes"]
    if kind not in known["networks"]:
        raise ValueError(f"--weights {kind}: the run {run.folder} has no {kind}; it has {', '.join(known['networks'])}")
    checkpoint.verify(found)
    state = checkpoint.opened(found)
    name = known["networks"][kind]
    model = model_of(known["config"], state["objective"], "networks.student." if name == "student" else f"networks.copies.{name}.")
    processor = MMSSLProcessor.from_pretrained(run.folder / "processor")
    Ending(load(run.recipe_file), run, model.eval(), processor, History.read(run.folder), kind=kind).write_model(output)
    return kind, state["counters"]["step"]


def model_of(config: dict[str, Any], state: dict[str, Any], prefix: str) -> MMSSLModel:
    """The model whose weights have these names in an objective's state, put together one by one. ValueError if one is missing."""
    with torch.device("meta"):
        model = MMSSLModel(MMSSLConfig(**config))
    weights = dict[str, Tensor]()
    for name in model.state_dict():
        if prefix + name not in state:
            raise ValueError(f"the checkpoint has no {prefix + name}: it is not of this run")
        weights[name] = whole(state[prefix + name])
    model.load_state_dict(weights, assign=True)
    return model

"""A published folder, loaded by a process that knows nothing of this one, gives what the model gives here."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmssl.modality import Inputs
from mmssl.model import MMSSLModel
from mmssl.publish import fresh

TOLERANCE = 1e-5
"""Largest difference of two outputs, as a share of the largest value where that is above 1: sums in another order."""
LONGEST = 600
"""Seconds that the other process may take."""
Mode = Literal["mmssl", "alone"]


@torch.no_grad()
def outputs_of(model: MMSSLModel, inputs: Mapping[str, Inputs]) -> dict[str, Tensor]:
    """What a model gives for batches by modality, by the names that the other process uses."""
    found: dict[str, Tensor] = {}
    model = model.eval()
    for name, batch in inputs.items():
        out = model.of_modality(name, {key: tensor.to(model.device) for key, tensor in batch.items()})
        found[f"{name}/last_hidden_state"], found[f"{name}/pooler_output"] = out.last_hidden_state, out.pooler_output
        if model.config.label_head is not None:
            found[f"{name}/predicted"] = model.labelled(name, {key: tensor.to(model.device) for key, tensor in batch.items()})
    return {key: tensor.float().cpu() for key, tensor in found.items()}


def outputs_in_a_fresh_process(folder: Path, inputs: Mapping[str, Inputs], mode: Mode) -> dict[str, Tensor]:
    """The same, of the model in a folder, by a new interpreter without network. RuntimeError with its words where it fails."""
    tensors = {f"{name}/{key}": tensor.cpu().contiguous() for name, batch in inputs.items() for key, tensor in batch.items()}
    with TemporaryDirectory() as place:
        given, found = Path(place) / "inputs.safetensors", Path(place) / "outputs.safetensors"
        save_file(tensors, given)
        # The code of a folder is copied to a place of its own, so that no older copy is used.
        alone = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(place) / "modules"), "CUDA_VISIBLE_DEVICES": ""}
        isolated = ["-I"] if mode == "alone" else []
        command = [sys.executable, *isolated, str(fresh.__file__), str(folder.resolve()), str(given), str(found), mode]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | alone, timeout=LONGEST, cwd=place)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            how = "with mmssl" if mode == "mmssl" else "without mmssl, by the code in it"
            raise RuntimeError(f"nothing was published: {folder} cannot be loaded {how}: {last}")
        return load_file(found)


def check_reload(folder: Path, inputs: Mapping[str, Inputs], expected: Mapping[str, Tensor], mode: Mode) -> float:
    """The largest difference between what a folder's model gives in a fresh process and what is expected.

    RuntimeError if it is more than rounding, or if the folder cannot be loaded.
    """
    found, largest = outputs_in_a_fresh_process(folder, inputs, mode), 0.0
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            shape = list(found[name].shape) if name in found else "nothing"
            raise RuntimeError(f"nothing was published: loaded again, the model gives {shape} for {name}, not {list(value.shape)}")
        difference = (found[name] - value).abs().max().item() if value.numel() else 0.0
        if not difference <= TOLERANCE * max(1.0, value.abs().max().item()):
            raise RuntimeError(
                f"nothing was published: loaded again, the model gives another {name}: it differs by {difference:.2g}"
            )
        largest = max(largest, difference)
    return largest

"""Models and runs that mmssl wrote before its code moved into rooms still load: tests/fixtures/make_before_rooms.py made them."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor

import mmssl
from mmssl.training.loop import Training

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

FOLDER = Path(__file__).parents[1] / "fixtures" / "before_rooms"
MODELS = sorted(path.name for path in (FOLDER / "published").iterdir())
RUNS = sorted(path.name for path in (FOLDER / "stopped").iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_model_gives_what_it_gave(name: str) -> None:
    folder = FOLDER / "published" / name
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    for modality, known in json.loads((folder / "expected.json").read_text(encoding="utf-8")).items():
        raw = known["samples"]
        inputs = processor(images=[np.array(one, np.uint8) for one in raw]) if modality == "image" else processor(text=raw)
        with torch.no_grad():
            pooled = model(**inputs).pooler_output
        torch.testing.assert_close(pooled, torch.tensor(known["pooled"]), rtol=1e-5, atol=1e-5)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a tree of dicts."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, Tensor):
        yield value


def keeps(found: list[Tensor], wanted: Tensor) -> bool:
    return any(one.shape == wanted.shape and torch.equal(one, wanted) for one in found)


@pytest.mark.parametrize("name", RUNS)
def test_run_goes_on_to_its_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER / "stopped" / name, tmp_path / "runs" / name)
    restored: list[Tensor] = []
    restore = Training.restore

    def watched(self: Training, state: dict[str, Any]) -> None:
        restore(self, state)
        kept = self.objective.state_dict(), self.published().state_dict(), self.optimizer.state_dict()
        restored.extend(tensor.clone() for one in kept for tensor in tensors(one))

    monkeypatch.setattr(Training, "restore", watched)
    run = mmssl.train(Path("runs", name, "recipe.yaml"), resume=f"runs/{name}")

    written = load_file(FOLDER / "stopped" / name / "checkpoints" / "step-000000003" / "tensors.safetensors")
    parts = ("state.objective.", "state.average.", "state.optimizer.")
    weights = {key: value for key, value in written.items() if key.partition(":")[2].startswith(parts) and value.numel() > 1}
    lost = [key for key, value in weights.items() if not keeps(restored, value)]
    assert lost == [], "whatever their names are now, the weights, copies and moments are those of the checkpoint"
    assert run.folder == Path("runs", name)
    assert run.finished
    assert [row["step"] for row in run.rows()] == [2, 4, 6]
    model = AutoModel.from_pretrained(run.model_folder)
    assert all(value.isfinite().all() for value in model.state_dict().values())

"""What a sharded run refuses: one message that names file, key or process and the way out; all end, and nothing is half visible.

Everything goes through the command line, by two processes that `many.py` forks. Processes that are lost, or cannot write, in the
middle of a checkpoint: `test_beside.py`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, TWO, ZERO

FSDP2 = ("train", "tiny.yaml", "--strategy", "fsdp2")
RECIPE = f"""{TINY}train: {{batch_size: 16, max_steps: 4, checkpoint_every: 2, log_every: 2, timeout: 20, precision: fp32}}
"""

Ask = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def stopped(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run lies that was stopped after step 3, with two checkpoints."""
    there = tmp_path_factory.mktemp("stopped")
    (there / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    ask(there, *FSDP2, codes=[143, 143], stop_after={"rank": 0, "step": 3}, **TWO)
    return there


@pytest.fixture
def again(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(stopped, tmp_path / "again")
    return tmp_path / "again"


def checkpoints(folder: Path) -> Path:
    return folder / "runs" / "tiny" / "checkpoints"


@ZERO
def test_a_deepspeed_file_that_is_not_what_the_recipe_says(ask: Ask, folder: Path) -> None:
    said = {
        "zero_optimization": {"stage": 2},
        "gradient_clipping": 0.5,
        "train_micro_batch_size_per_gpu": 4,
        "fp16": {"enabled": True},
    }
    (folder / "zero.json").write_text(json.dumps(said), encoding="utf-8")
    asked = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "zero.json"}
    first, second = ask(folder, "train", "tiny.yaml", codes=[1, 1], environment=dict.fromkeys(range(2), asked), **TWO)
    assert first.endswith(
        "mmssl: the DeepSpeed file zero.json is not what the recipe says:\n"
        "  gradient_clipping=0.5, the recipe train.clip_norm=1.0\n"
        "  train_micro_batch_size_per_gpu=4, the recipe comes to 8 on 2 processes\n"
        "  fp16.enabled=true, the recipe comes to precision no\n"
        "Set those keys to auto, or leave them out\n"
    )
    assert second == ""
    assert list((folder / "runs").iterdir()) == []


@ZERO
def test_an_accelerate_file_that_is_not_what_the_recipe_says(ask: Ask, folder: Path) -> None:
    asked = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_GRADIENT_CLIPPING": "0.5"}
    first, second = ask(folder, "train", "tiny.yaml", codes=[1, 1], environment=dict.fromkeys(range(2), asked), **TWO)
    assert "mmssl: deepspeed_config of the Accelerate file is not what the recipe says:\n  gradient_clipping=0.5, the" in first
    assert second == ""


def test_a_checkpoint_without_the_file_of_one_process(ask: Ask, again: Path) -> None:
    """The one before it counts."""
    (checkpoints(again) / "step-000000003" / "tensors-00001-of-00002.safetensors").unlink()
    first, _ = ask(again, *FSDP2, "resume=auto", **TWO)
    assert "step-000000003/tensors-00001-of-00002.safetensors is missing: the checkpoint is incomplete" in first
    assert "continuing from runs/tiny/checkpoints/step-000000002, step 2" in first


def test_no_checkpoint_that_is_good(ask: Ask, again: Path) -> None:
    """Nothing is trained anew in its place, and what was measured stays."""
    for file in checkpoints(again).glob("*/tensors-00001-of-00002.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    before = (again / "runs" / "tiny" / "metrics.jsonl").read_text(encoding="utf-8")
    first, second = ask(again, *FSDP2, "resume=auto", codes=[1, 1], **TWO)
    assert first.count("ignoring a damaged checkpoint: ") == 2
    assert "mmssl: no checkpoint in runs/tiny/checkpoints is good, and what is wrong with each is told above" in first
    assert "mmssl" not in second
    assert (again / "runs" / "tiny" / "metrics.jsonl").read_text(encoding="utf-8") == before
    told = ask(again, "convert", "runs/tiny/checkpoints/step-000000003", "--output", "model", codes=[1])
    assert "step-000000003/tensors-00001-of-00002.safetensors is damaged: expected " in told[0]
    assert not (again / "model").exists()


def test_going_on_with_what_may_not_change(ask: Ask, again: Path) -> None:
    """The recipe may not, but for keys that teach nothing; the number of processes may, if they can share a step."""
    first, second = ask(again, *FSDP2, "resume=auto", "train.lr=0.1", "encoder.hidden_size=32", codes=[1, 1], **TWO)
    assert "mmssl: cannot resume runs/tiny: the recipe is not the one that it was started with:\n" in first
    assert "  encoder.hidden_size: 16 -> 32\n" in first and "  train.lr: 0.001 -> 0.1\n" in first
    assert "Give the old values, or leave resume out to start a new run; init=runs/tiny carries the weights over" in first
    assert second == ""
    three: dict[str, Any] = {"processes": 3, "seconds": 400.0, "codes": [1, 1, 1]}
    first, *others = ask(again, *FSDP2, "resume=auto", **three)
    assert "batch_size must be a multiple of processes x micro-batches = 3; got 16: 15 and 18 are" in first
    assert others == ["", ""]
    assert sorted(path.name for path in checkpoints(again).iterdir()) == ["step-000000002", "step-000000003"]

"""Where one of several processes cannot go on, all end, with a code that is not 0 and one message that says what to do.

Everything goes through the command line, on processes that `many.py` forks.
"""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

RECIPE = f"""{TINY}train: {{batch_size: 16, max_steps: 12, checkpoint_every: 4, async_save: false, log_every: 2, timeout: 3}}
"""
GO_ON = (
    "Last checkpoint runs/tiny/checkpoints/step-000000004; continue with:\n  mmssl train tiny.yaml resume=runs/tiny --processes=2"
)

Ask = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def pictures(folder: Path, broken: Sequence[int] = ()) -> None:
    """24 pictures, some of which cannot be read."""
    rng, place = np.random.default_rng(0), folder / "pictures"
    place.mkdir()
    for number in range(24):
        file = place / f"{number:02}.png"
        Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(file)
        if number in broken:
            file.write_bytes(b"broken")


def test_another_recipe_on_one_process(ask: Ask, folder: Path) -> None:
    first, second = ask(folder, "train", "tiny.yaml", processes=2, codes=[1, 1], own={1: ["train.lr=1"]})
    assert "process 1 of 2 has another recipe than process 0:\n  train.lr: 0.001 -> 1.0\n" in second
    assert "process 1 of 2 has another recipe than process 0" in first
    assert not (folder / "runs").exists()


def test_a_recipe_that_all_refuse_is_told_once(ask: Ask, folder: Path) -> None:
    first, second = ask(folder, "train", "tiny.yaml", "train.lrr=1", processes=2, codes=[1, 1])
    assert "train.lrr: unknown key" in first
    assert second == ""


def test_a_run_folder_that_one_does_not_see(ask: Ask, folder: Path) -> None:
    there = folder / "there"
    there.mkdir()
    (there / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    found = ask(folder, "train", "tiny.yaml", processes=2, codes=[1, 1], elsewhere={"rank": 1, "folder": str(there)})
    assert f"does not see the run folder {there / 'runs' / 'tiny'} that process 0 made: it must lie where all" in found[1]
    assert list((folder / "runs").iterdir()) == []


@pytest.mark.parametrize("there", ["nothing", "fewer"])
def test_data_that_one_does_not_see(there: str, ask: Ask, folder: Path) -> None:
    pictures(folder)
    other = folder / "there"
    other.mkdir()
    (other / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    (other / "runs").symlink_to(folder / "runs")
    (folder / "runs").mkdir()
    if there == "fewer":
        pictures(other)
        (other / "pictures" / "07.png").unlink()
    keys = ("data={path: pictures}", "train.batch_size=4")
    found = ask(
        folder, "train", "tiny.yaml", *keys, processes=2, codes=[1, 1], elsewhere={"rank": 1, "folder": str(other)},
        environment={1: {"HF_HUB_OFFLINE": "1"}},
    )  # fmt: skip
    told = "process 1 of 2 does not read the data of process 0: pictures" if there == "fewer" else "'pictures' is no local file"
    assert f"mmssl: {told}" in found[1]
    assert "mmssl: process 1 of 2 on " in found[0]
    assert list((folder / "runs").iterdir()) == []


def test_a_batch_that_does_not_divide(ask: Ask, folder: Path) -> None:
    first, second = ask(folder, "train", "tiny.yaml", "train.batch_size=15", processes=2, codes=[1, 1])
    assert first.endswith("mmssl: batch_size must be a multiple of processes x micro-batches = 2; got 15: 14 and 16 are\n")
    assert second == ""


def test_an_address_that_nobody_answers(ask: Ask, folder: Path) -> None:
    far = {1: {"MASTER_PORT": "9"}}
    first, second = ask(folder, "train", "tiny.yaml", "train.timeout=2", processes=2, codes=[1, 1], environment=far)
    assert "process 1 of 2 does not find the others at 127.0.0.1:9 (MASTER_ADDR:MASTER_PORT)" in second
    assert "process 0 of 2 does not find the others at 127.0.0.1:" in first
    assert "all 2 processes must start within train.timeout=2 s" in first


LOST = [
    ({"rank": 1, "step": 5, "number": signal.SIGKILL}, [1, -9], 0, "process 1 of 2 is gone, or hangs"),
    ({"rank": 0, "step": 5, "number": signal.SIGKILL}, [-9, 1], 1, "contact to process 0 of 2 is lost"),
]


@pytest.mark.parametrize(("killed", "codes", "speaks", "told"), LOST, ids=["the second", "the first"])
def test_a_process_that_dies(killed: dict[str, int], codes: list[int], speaks: int, told: str, ask: Ask, folder: Path) -> None:
    found = ask(folder, "train", "tiny.yaml", processes=2, codes=codes, signal_after=killed)
    assert f"mmssl: {told}" in found[speaks]
    assert "(step 6)" in found[speaks]
    assert GO_ON in found[speaks]


def test_a_process_that_hangs(ask: Ask, folder: Path) -> None:
    """It is stopped; the other one ends within the time-out, and what is left is for the launcher, or here `many.py`, to kill."""
    begin = time.monotonic()
    hung: dict[str, Any] = {"rank": 1, "step": 5, "number": signal.SIGSTOP}
    with pytest.raises(AssertionError, match="not done after 25"):
        ask(folder, "train", "tiny.yaml", processes=2, codes=[1, -9], seconds=25, signal_after=hung)
    first = (folder / "out-0.txt").read_text(encoding="utf-8")
    assert "mmssl: process 1 of 2 is gone, or hangs" in first
    assert GO_ON in first
    assert time.monotonic() - begin < 60


def test_a_bad_file_on_one_process(ask: Ask, folder: Path) -> None:
    """What was trained before it is kept; the same command with what the message advises goes on from there."""
    pictures(folder, broken=[20])
    keys = ("train", "tiny.yaml", "data={path: pictures}", "data.shuffle=false", "train.batch_size=4")
    found = ask(folder, *keys, processes=2, codes=[1, 1])
    said = "".join(found)
    assert said.count("20.png") == 1, said
    assert "Mend the data, or leave out what cannot be read with data.on_error=skip" in said
    assert (folder / "runs" / "tiny" / "checkpoints" / "step-000000005").is_dir()
    ask(folder, *keys, "data.on_error=skip", "resume=auto", processes=2)
    assert (folder / "runs" / "tiny" / "model" / "model.safetensors").exists()


def test_weights_that_are_no_numbers_on_one_process(ask: Ask, folder: Path) -> None:
    """All stop before the optimizer moves, and the first one names the step and the rows."""
    first, second = ask(folder, "train", "tiny.yaml", processes=2, codes=[1, 1], broken_after={"rank": 1, "step": 5})
    assert "mmssl: the loss is nan at step 6; its samples are the rows [" in first
    assert "Last good checkpoint: runs/tiny/checkpoints/step-000000004" in first
    assert second == ""

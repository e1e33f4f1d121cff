"""For how long training stands still for a checkpoint, and how much it is slowed down while one is written.

    python benchmarks/saving.py                       # an encoder of ViT-B's size with an average of its weights
    python benchmarks/saving.py --width 384 --every 10

A masked model trains on made-up pictures, on the device that there is, with checkpoints written beside it and then with ones that
it waits for (train.async_save=false). Printed are the size of a checkpoint; the seconds that training stood still for each but the
last, for which every run waits, and of them those that its own thread computed, which is what counts on a busy machine; their share
of the time at one checkpoint in five minutes; the time of a step while nothing is written, and while a checkpoint is.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mmssl
from mmssl.data import Batch
from mmssl.training.loop import Made, Training
from mmssl.training.saving import Saver
from mmssl.training.session import Session

EVERY = 300.0
"""Seconds between two checkpoints, for the share."""


def recipe(width: int, layers: int, steps: int, every: int) -> dict[str, Any]:
    """A masked image model."""
    size = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": max(1, width // 64)}
    decoder = {"name": "transformer", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    return {
        "modalities": {"image": {"processor": {"size": 32, "channels": 1}, "adapter": {"patch_size": 8}}},
        "encoder": size,
        "objective": {"name": "masked", "mask": {"name": "random", "ratio": 0.75}, "predictor": decoder},
        "data": {"path": "bundled:digits", "limit": 64},
        "train": {"batch_size": 8, "max_steps": steps, "ema": 0.999, "checkpoint_every": every, "keep_last": 1},
        "evaluate": None,
    }


def measured(folder: Path, width: int, layers: int, every: int, checkpoints: int, beside: bool) -> str:
    """A row of the table."""
    sessions, steps = list[Session](), list[tuple[bool, float]]()
    made, move, save, computed = Session.__init__, Training.move, Saver.save, list[float]()

    def watched(self: Session, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        sessions.append(self)

    def moved(self: Training, micro: list[Batch]) -> Made:
        writing = sessions[0].saver.writing
        before, begin = writing is not None and not writing.done.is_set(), time.perf_counter()
        found = move(self, micro)
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        steps.append((before, time.perf_counter() - begin))
        return found

    def saved(self: Saver, *arguments: Any, **options: Any) -> None:
        begin = time.thread_time()
        save(self, *arguments, **options)
        computed.append(time.thread_time() - begin)

    Session.__init__, Training.move, Saver.save = watched, moved, saved  # type: ignore[method-assign]
    Session.finish = lambda self, stop: None  # type: ignore[method-assign]
    try:
        keys = {"run.dir": str(folder), "train.async_save": beside}
        run = mmssl.train(recipe(width, layers, every * (checkpoints + 1), every), keys)
    finally:
        Session.__init__, Training.move, Saver.save = made, move, save  # type: ignore[method-assign]
    size = sum(file.stat().st_size for path in run.checkpoints.iterdir() for file in path.iterdir())
    stood = statistics.mean(sessions[0].saver.stood_still[:checkpoints])
    idle, busy = ([seconds for writing, seconds in steps[3:] if writing == which] for which in (False, True))
    while_writing = f"{statistics.median(busy):.2f} s ({len(busy)} steps)" if busy else "none"
    name = "beside" if beside else "training waits"
    share = f"{stood / EVERY:.2%}"
    stood_still = f"{stood:.2f} s, {statistics.mean(computed[:checkpoints]):.2f} s"
    return f"| {name} | {size / 1e9:.2f} GB | {stood_still} | {share} | {statistics.median(idle):.2f} s | {while_writing} |"


def main(width: int, layers: int, every: int, checkpoints: int) -> None:
    print("| written | size | stood still, computed | of 300 s | a step | a step while one is written |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for beside in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            print(measured(Path(folder), width, layers, every, checkpoints, beside), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--every", type=int, default=15, help="steps between two checkpoints")
    parser.add_argument("--checkpoints", type=int, default=4)
    options = parser.parse_args()
    main(options.width, options.layers, options.every, options.checkpoints)

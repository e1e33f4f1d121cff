"""How far sharded runs end from the run of one process: the table of docs/scale.md.

    python benchmarks/sharding.py                          # all objectives, strategies and layouts
    python benchmarks/sharding.py --only jepa --processes 2 --steps 10

Each objective trains on one process with batches of 8; then with 8 micro-batches, and shared among processes by each strategy,
from the same seed, in float32. Compared are the losses of all steps, and every tensor of the objective at the end (student,
teacher, heads): the largest and the mean difference, relative to the largest loss and to the largest weight. AdamW has eps=1e-4:
it blows the rounding of gradients near zero up to steps of the learning rate. Processes are forked, without a GPU.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmssl.training import checkpoint
from mmssl.training.asked import STRATEGIES

TESTS = Path(__file__).parents[1] / "tests" / "invariant"
OBJECTIVES = {
    "masked": "masked",
    "jepa": "jepa",
    "dino": "teacher, prototypes, hidden tokens",
    "lejepa": "no teacher, smaller views",
    "clip": "pairs of which some lack a part",
}
"""Names of the cases of tests/invariant/test_many.py."""
BATCH = 8


def neighbour(name: str) -> ModuleType:
    """A file of the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def found(folder: Path) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The losses of a run, and what its objective holds at the end."""
    (run,) = (folder / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = checkpoint.newest(run / "checkpoints")
    assert last is not None
    return torch.tensor([row["loss"] for row in rows]).double(), checkpoint.load(last)["objective"]


def flat(tensors: Mapping[str, Tensor], teacher: bool) -> Tensor:
    """All entries of a teacher, or of all else."""
    return torch.cat([value.double().flatten() for name, value in tensors.items() if ("networks.copies" in name) == teacher])


def line(name: str, run: tuple[Tensor, Mapping[str, Tensor]], one: tuple[Tensor, Mapping[str, Tensor]]) -> str:
    """A row of the table."""
    cells = [apart(run[0], one[0])]
    for teacher in (False, True):
        here = any("networks.copies" in key for key in one[1]) or not teacher
        cells.append(apart(flat(run[1], teacher), flat(one[1], teacher)) if here else "none")
    return f"| {name} | {' | '.join(cells)} |"


def apart(a: Tensor, b: Tensor) -> str:
    """Largest and mean difference, relative to the largest value."""
    gaps = (a - b).abs() / b.abs().max()
    return f"{float(gaps.max()):.0e}, {float(gaps.mean()):.0e}"


def main(only: Sequence[str], strategies: Sequence[str], counts: Sequence[int], steps: int) -> None:
    cases = neighbour("test_many").CASES
    # A process of its own forks those of a run: comparing makes threads, which a fork would not copy.
    server = subprocess.Popen([sys.executable, str(TESTS / "many.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    asked, answers = server.stdin, server.stdout
    print("| objective, layout, strategy | losses: largest, mean | student and heads | teacher |\n|---|---|---|---|", flush=True)
    for objective in only:
        with tempfile.TemporaryDirectory() as place:
            work = Path(place)
            own = [f"train.batch_size={BATCH}", f"train.max_steps={steps}", "train.log_every=1"]
            arguments = [*cases[OBJECTIVES[objective]].arguments(work), *own, "data.lacking=null"]

            def trained(name: str, count: int, *more: str, work: Path = work, arguments: Sequence[str] = arguments) -> Any:
                folder = work / name.replace(" ", "-")
                folder.mkdir()
                request = {"arguments": [*arguments, *more], "processes": count, "folder": str(folder), "seconds": 1200}
                asked.write(json.dumps(request) + "\n")
                asked.flush()
                if any(json.loads(answers.readline())["codes"]):
                    raise SystemExit((folder / "out-0.txt").read_text(encoding="utf-8"))
                return found(folder)

            one = trained("one", 1)
            print(
                line(f"{objective}, {BATCH} accumulated", trained("accumulated", 1, f"train.accumulation={BATCH}"), one), flush=True
            )
            for count in counts:
                for strategy in strategies:
                    run = trained(f"{strategy} {count}", count, "--strategy", strategy)
                    print(line(f"{objective}, {count} x {BATCH // count}, {strategy}", run, one), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--processes", nargs="+", type=int, choices=(2, 4, 8), default=[2, 4])
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    main(options.only, options.strategies, options.processes, options.steps)

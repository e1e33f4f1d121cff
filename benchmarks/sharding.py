"""How far sharded runs end from the run of one process: the table of docs/scale.md.

    python benchmarks/sharding.py                          # all objectives, strategies and layouts
    python benchmarks/sharding.py --only jepa --processes 2 --steps 10 --rows rows.jsonl

Each objective trains on one process with batches of 8; then with 8 micro-batches, and shared among processes by each strategy,
from the same seed, in float32. Compared are the losses of all steps, and every tensor of the objective at the end (student,
teacher, heads): the largest and the mean difference, relative to the largest loss and to the largest weight. AdamW has eps=1e-4:
it blows the rounding of gradients near zero up to steps of the learning rate. Processes are forked, without a GPU.

Each row is kept, as it ends, in a file of lines of JSON; what is there already isn't run again. The table is printed from it.
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


def compared(run: tuple[Tensor, Mapping[str, Tensor]], one: tuple[Tensor, Mapping[str, Tensor]]) -> dict[str, Any]:
    """How far a run is from another, and in which tensor most."""
    found: dict[str, Any] = {"losses": apart(run[0], one[0]), "student": apart(flat(run[1], False), flat(one[1], False))}
    if any("networks.copies" in key for key in one[1]):
        found["teacher"] = apart(flat(run[1], True), flat(one[1], True))
    gaps = {name: float((run[1][name].double() - value.double()).abs().max()) for name, value in one[1].items() if value.numel()}
    return found | {"worst": max(gaps, key=lambda name: gaps[name])}


def apart(a: Tensor, b: Tensor) -> list[float]:
    """Largest and mean difference, relative to the largest value."""
    gaps = (a - b).abs() / b.abs().max()
    return [float(gaps.max()), float(gaps.mean())]


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file by what was run."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {row["run"]: row for row in map(json.loads, lines)}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| objective, layout, strategy | losses: largest, mean | student and heads | teacher |", "|---|---|---|---|"]
    order = [f"{objective}, {layout}" for objective in OBJECTIVES for layout in layouts((2, 4, 8), tuple(STRATEGIES))]
    for name, row in sorted(rows.items(), key=lambda item: order.index(item[0])):
        cells = ["{:.0e}, {:.0e}".format(*row[part]) if part in row else "none" for part in ("losses", "student", "teacher")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def layouts(counts: Sequence[int], strategies: Sequence[str]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """How a step is shared: processes, and arguments."""
    found: dict[str, tuple[int, tuple[str, ...]]] = {f"{BATCH} accumulated": (1, (f"train.accumulation={BATCH}",))}
    for count in counts:
        found |= {f"{count} x {BATCH // count}, {strategy}": (count, ("--strategy", strategy)) for strategy in strategies}
    return found


class Runs:
    """A process of its own forks those of a run: comparing makes threads, which a fork would not copy."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, str(TESTS / "many.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, processes: int, arguments: Sequence[str], **planted: Any) -> None:
        """Run a command in a folder that is made for it; planted: see `many.py`."""
        folder.mkdir()
        request = {"arguments": arguments, "processes": processes, "folder": str(folder), "seconds": 1200, "planted": planted}
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        if any(json.loads(self.server.stdout.readline())["codes"]):
            raise SystemExit((folder / "out-0.txt").read_text(encoding="utf-8"))


def main(only: Sequence[str], strategies: Sequence[str], counts: Sequence[int], steps: int, file: Path) -> None:
    cases, runs = neighbour("test_many").CASES, Runs()
    for objective in only:
        accumulated = f"{objective}, {BATCH} accumulated"
        names = {f"{objective}, {layout}": asked for layout, asked in layouts(counts, strategies).items()}
        if names.keys() <= {name for name, row in read(file).items() if row["steps"] == steps}:
            continue
        with tempfile.TemporaryDirectory() as place:
            work = Path(place)
            own = [f"train.batch_size={BATCH}", f"train.max_steps={steps}", "train.log_every=1"]
            arguments = [*cases[OBJECTIVES[objective]].arguments(work), *own, "data.lacking=null"]
            runs.run(work / "one", 1, arguments)
            one = found(work / "one")
            for name, (count, more) in names.items():
                if read(file).get(name, {"steps": None})["steps"] != steps:
                    runs.run(work / name, count, [*arguments, *more])
                    row = {"run": name, "steps": steps, **compared(found(work / name), one)}
                    if name.endswith("ddp") and (work / accumulated).exists():
                        row["from accumulated"] = compared(found(work / name), found(work / accumulated))
                    with file.open("a", encoding="utf-8") as rows:
                        rows.write(json.dumps(row) + "\n")
    print(table(read(file)))
    near = {name: row["from accumulated"] for name, row in read(file).items() if "from accumulated" in row}
    print(f"\nFrom the run of {BATCH} micro-batches:\n{table(near)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--processes", nargs="+", type=int, choices=(2, 4, 8), default=[2, 4])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=Path, default=Path("docs/results/sharding.jsonl"), help="where the rows are kept")
    options = parser.parse_args()
    main(options.only, options.strategies, options.processes, options.steps, options.rows)

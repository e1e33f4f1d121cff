"""One encoder for six modalities beside six encoders for one each: quality, speed, and memory over a long run.

    python benchmarks/joint.py quality --data ../shared/data --steps 100
    python benchmarks/joint.py speed --data ../shared/data
    python benchmarks/joint.py memory --data ../shared/data --steps 10000

All follow `recipes/joint/six_modalities.yaml`. quality: the joint run makes `--steps` steps for each of its sources, each separate
run as many on its own; both read as many samples and are scored by the recipe's protocol. speed: tokens per second, padding not
counted, of joint steps and of the steps of each source alone, by turns in one process. memory: that of the process while
it mixes all lengths, with an encoder of width 32 and one layer.
"""

import argparse
import ctypes
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import mmssl
from mmssl.data import Batch
from mmssl.recipe import recipe as recipes
from mmssl.training.run import Run
from mmssl.training.session import Session

NAME = "joint/six_modalities"
PLACES = {
    "image": "cifar10",
    "audio": "spoken_digits",
    "text": "sst2",
    "timeseries": "ucr/OSULeaf",
    "tabular": "adult",
    "points": "shapes40",
}
"""Where the data of each source lie in the folder of `--data`."""
LABELS = {"tabular": "label"}


def overrides(data: str, only: str | None = None) -> dict[str, Any]:
    """The recipe's data in a folder; `only`: one source alone."""
    plain = recipes.load(NAME).resolved()
    sources = plain["data"]["sources"]
    for name, place in PLACES.items():
        sources[name]["path"] = f"{data}/{place}"
        if name in LABELS:
            sources[name]["columns"]["label"] = LABELS[name]
    names = [only] if only else list(sources)
    plain["data"]["sources"] = {name: sources[name] for name in names}
    plain["modalities"] = {name: plain["modalities"][name] for name in names}
    return plain


def quality(data: str, steps: int) -> None:
    """Probes of the joint model and of the separate ones, and their mean difference."""
    scores: dict[str, dict[str, float]] = {}
    for only in (None, *PLACES):
        plain = overrides(data, only)
        plain["train"] |= {"max_steps": steps * (1 if only else len(PLACES)), "max_minutes": None}
        plain["run"]["name"] = f"joint_{only or 'all'}_{steps}"
        run = mmssl.train(plain)
        tables = json.loads(run.table_file.read_text(encoding="utf-8"))
        for name in [only] if only else PLACES:
            rows = {row["name"]: row for row in tables[name]["rows"]}
            scores.setdefault(name, {})["separate" if only else "joint"] = rows["pretrained"]["probe"]
    for name, row in scores.items():
        print(f"{name:12} joint {row['joint']:6.2f}  separate {row['separate']:6.2f}  {row['joint'] - row['separate']:+6.2f}")
    print(f"mean difference {fmean(row['joint'] - row['separate'] for row in scores.values()):+.2f}")


class Timed:
    """The steps of a recipe, with the tokens that each of them read."""

    def __init__(self, plain: dict[str, Any], folder: Path) -> None:
        plain["run"] |= {"dir": str(folder), "name": "+".join(plain["data"]["sources"])}
        plain["train"] |= {"max_steps": 10**9, "max_minutes": None}
        plain["evaluate"] = None
        recipe = recipes.load(plain)
        self.session = Session(recipe, Run.open(recipe, "never"), None)
        self.training = self.session.training
        self.training.wrapped.train()
        self.batches, self.tokens = self.counted(), 0

    def counted(self) -> Iterator[Batch]:
        for batch in iter(self.session.feed):
            self.tokens += sum(int(self.training.objective.model.count_tokens(*item).sum()) for item in batch.inputs.items())
            yield batch

    def step(self) -> tuple[float, int]:
        """Seconds and tokens of one step, reading not counted."""
        self.tokens = 0
        row = self.training.step(self.batches)
        self.session.feed.learn(row["loss"])
        return row["step_seconds"], self.tokens


def speed(data: str, steps: int) -> None:
    """Tokens per second of joint steps, and of each source alone."""
    with tempfile.TemporaryDirectory() as folder:
        alone = {name: Timed(overrides(data, name), Path(folder)) for name in PLACES}
        joint = Timed(overrides(data), Path(folder))
        seen: dict[str, list[tuple[float, int]]] = {name: [] for name in alone}
        mixed: dict[str, list[tuple[float, int]]] = {name: [] for name in alone}
        for _ in range(steps):
            for _ in PLACES:
                timing = joint.step()
                mixed[joint.session.feed.current].append(timing)
            for name, one in alone.items():
                seen[name].append(one.step())
    print(f"{'':12} {'alone':>10} {'joint':>10} tokens/s, medians of {steps} steps each")
    for name in PLACES:
        print(f"{name:12} {rate(seen[name]):10,.0f} {rate(mixed[name]):10,.0f}")
    counts = {name: len(mixed[name]) for name in PLACES}
    pooled, together = (pool(side, counts) for side in (seen, mixed))
    print(f"as many steps of each  {pooled:10,.0f} {together:10,.0f}  ratio {together / pooled:.2f}")
    print(f"mean of the six rates  {fmean(rate(steps) for steps in seen.values()):10,.0f}")


def rate(steps: list[tuple[float, int]]) -> float:
    """Median tokens per second; of no steps, nothing."""
    return median(tokens / seconds for seconds, tokens in steps) if steps else float("nan")


def pool(steps: dict[str, list[tuple[float, int]]], counts: dict[str, int]) -> float:
    """Tokens per second of a run that makes so many steps of each source, each of the median time and tokens."""
    parts = [(count, *map(median, zip(*steps[name], strict=True))) for name, count in counts.items() if count]
    return sum(count * tokens for count, _, tokens in parts) / sum(count * seconds for count, seconds, _ in parts)


class Allocated(ctypes.Structure):
    """What glibc's `mallinfo2` returns; bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    ]


def occupied() -> dict[str, float]:
    """MiB in memory: mapped files (libraries, data as they are read), all else; what glibc has in use, and freed but kept."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo.restype = Allocated
    found = mallinfo()
    return {
        "mapped": int(status["RssFile"].split()[0]) / 2**10,
        "resident": int(status["RssAnon"].split()[0]) / 2**10,
        "in use": (found.uordblks + found.hblkhd) / 2**20,
        "kept": found.fordblks / 2**20,
    }


def memory(data: str, steps: int) -> None:
    """Memory over a run, a line for every tenth of it."""
    with tempfile.TemporaryDirectory() as folder:
        plain = overrides(data)
        plain["encoder"] |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        plain["objective"]["predictor"] |= {"hidden_size": 32}
        plain["data"]["cache"] = False  # or memory would grow until every sample has been read once
        timed, begin = Timed(plain, Path(folder)), time.perf_counter()
        for step in range(1, steps + 1):
            timed.step()
            if step % max(1, steps // 10) == 0:
                parts = ", ".join(f"{name} {size:7.1f}" for name, size in occupied().items())
                print(f"step {step:6}  MiB: {parts}  {time.perf_counter() - begin:6.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "memory"))
    parser.add_argument("--data", required=True, help="folder with the data sets named in PLACES")
    parser.add_argument("--steps", type=int, default=12, help="steps of each source (quality, speed), or of the run (memory)")
    arguments = parser.parse_args()
    {"quality": quality, "speed": speed, "memory": memory}[arguments.what](arguments.data, arguments.steps)


if __name__ == "__main__":
    main()

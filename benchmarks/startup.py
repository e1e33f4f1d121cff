"""What the first minute takes: imports, help, `mmssl check`, and the first step of `mmssl train`, each in fresh processes.

    python benchmarks/startup.py --repeats 5

Medians. Wall seconds are what a user waits, on the machine as it was; seconds of the processor say more on one that others use,
whose load is written down. The first of the processes, which may have to read files from the disk, is not counted. Writes
startup.json and startup.md into docs/results.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RECIPE = str(Path(__file__).parents[1] / "recipes" / "quickstart.yaml")
FIRST_STEP = """
import os
from mmssl.training.loop import Training
move = Training.move
def once(*given):
    move(*given)
    os._exit(0)
Training.move = once
"""
COMMAND = "from mmssl_cli import main; main({})"


def measured(folder: str) -> dict[str, tuple[str, float | None]]:
    """What is measured: python code, and the wall seconds on two idle cores that it is meant to stay within."""
    told = [RECIPE, f"run.dir={folder}"]
    return {
        "import torch": ("import torch", None),
        "import torch and transformers' model class": ("import torch; from transformers import PreTrainedModel", None),
        "import torch, mmssl": ("import torch, mmssl", None),
        "from mmssl import MMSSLModel": ("from mmssl import MMSSLModel", None),
        "mmssl --help": (COMMAND.format(["--help"]), None),
        "mmssl check recipes/quickstart.yaml": (COMMAND.format(["check", RECIPE]), 4.0),
        "first step of mmssl train recipes/quickstart.yaml": (FIRST_STEP + COMMAND.format(["train", *told]), 6.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (code, meant) in measured(folder).items():
            runs = [seconds(code) for _ in range(options.repeats + 1)][1:]
            found[name] = {"meant": meant, "wall": [wall for wall, _ in runs], "processor": [cpu for _, cpu in runs]}
            print(row(name, found[name]), flush=True)
    about = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": os.getloadavg()[1],
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "transformers", "torchvision")},
    }
    content = {"about": about, "found": found}
    (options.output / "startup.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (options.output / "startup.md").write_text(page(content), encoding="utf-8")


def seconds(code: str) -> tuple[float, float]:
    """Wall seconds, and seconds of the processor, of a fresh process. RuntimeError with what it said if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name: str, one: Mapping[str, Any]) -> str:
    """One line of the table."""
    meant = "-" if one["meant"] is None else f"{one['meant']:g}"
    return f"| {name} | {spread(one['wall'])} | {spread(one['processor'])} | {meant} |"


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def page(content: Mapping[str, Any]) -> str:
    """The page of what is in the JSON file."""
    about, found = content["about"], content["found"]
    count = len(next(iter(found.values()))["wall"])
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    beyond = {key: median(found["import torch, mmssl"][key]) - median(found["import torch"][key]) for key in ("wall", "processor")}
    return "\n".join(
        [
            "# The first minute",
            "",
            f"Median of {count} fresh processes, the fastest and the slowest in brackets. What a user waits is wall time.",
            f"The machine has {about['cores']} cores and others used it too: its load was {about['load']:.1f} at the end.",
            "Seconds of the processor also grow with the load, but less.",
            "",
            "    python benchmarks/startup.py",
            "",
            "| | wall s | processor s | meant, on two idle cores |",
            "|---|---:|---:|---:|",
            *(row(name, one) for name, one in found.items()),
            "",
            f"`import mmssl` takes {beyond['processor']:.2f} s of the processor more than torch, {beyond['wall']:.2f} s wall;",
            "meant is 1. Every command that builds a model waits for torch and for transformers' model class, which",
            "imports torch's compiler and torchvision.",
            "",
            f"Commit {about['commit']}, {about['date']}, {versions}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

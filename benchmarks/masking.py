"""What hiding tokens saves, and what several masks for each pass of the teacher save.

    python benchmarks/masking.py --repeats 15 --plot docs/images/masking_cost.svg

Two tables, each from steps (forward, backward, clipping, AdamW) that alternate in one process; the numbers are medians.

- Mask ratio: masked modelling on random pixels, only visible tokens encoded. Beside it, as ratio 0, supervised training of the same
  encoder on all tokens, which has no decoder and no mask.
- Masks: prediction of latents at a ratio of 0.75 with 1 to 8 masks of each sample, which share one pass of the teacher.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from mmssl.data import Batch, Labels
from mmssl.draws import keys
from mmssl.masking import Random
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Clock, Objective, Setup
from mmssl.objectives.predict import Jepa, Masked
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.supervised import Supervised
from mmssl.training.loop import set_attention
from mmssl_modalities.image import ImageProcessor

RATIOS = (0.5, 0.75, 0.9)
MASKS = (1, 2, 4, 8)
CLASSES = 10

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Step = Callable[[], None]


def model_of(side: int, patch: int, width: int, layers: int) -> MMSSLModel:
    """An encoder of `(side / patch)^2` tokens."""
    torch.manual_seed(0)
    settings = ImageProcessor(size=side, mean=0.5, std=0.5).settings()
    modalities = {"image": {"processor": settings, "adapter": {"patch_size": patch}}}
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    return MMSSLModel(MMSSLConfig(modalities=modalities, drop_path_rate=0.0, **shape))


def predictor() -> Transformer:
    return Transformer(hidden_size=128, num_hidden_layers=1, num_attention_heads=4)


def step_of(objective: Objective, side: int, batch_size: int) -> Step:
    """One optimizer step on random pixels."""
    set_attention(objective, "auto", torch.device("cpu"))
    ids = torch.arange(batch_size)
    pixels = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    batch = Batch({"image": {"pixel_values": pixels}}, keys(0, 0, ids), ids, ids % CLASSES)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4, fused=True)
    objective.train()

    def step() -> None:
        objective(batch).loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(Clock(1, 0.5))

    return step


def alternate(steps: Mapping[str, Step], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each step, all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            begin = clock()
            step()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(objectives: Mapping[str, Objective], options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step of each objective."""
    steps = {name: step_of(one, options.side, options.batch_size) for name, one in objectives.items()}
    return alternate(steps, options.repeats, CLOCKS[options.clock])


def ratio_table(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step for each mask ratio, printed as a table."""
    make = (options.side, options.patch, options.width, options.layers)
    labels = Labels("classification", [str(i) for i in range(CLASSES)], (torch.arange(options.batch_size) % CLASSES).numpy())
    objectives: dict[str, Objective] = {"0": Supervised(model_of(*make), Setup(labels=labels))}
    for ratio in RATIOS:
        objectives[f"{ratio:g}"] = Masked(model_of(*make), Setup(), mask=Random(ratio=ratio), predictor=predictor())
    medians = measure(objectives, options)
    tokens = (options.side // options.patch) ** 2
    print("| mask ratio | encoded tokens | ms a step | samples/s | of ratio 0 |\n|---|---:|---:|---:|---:|")
    for name, seconds in medians.items():
        cells = [name, tokens - round(float(name) * tokens), f"{1e3 * seconds:.0f}", f"{options.batch_size / seconds:.0f}"]
        print(f"| {' | '.join(map(str, cells))} | {seconds / medians['0']:.2f} |")
    return medians


def mask_table(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds for each predicted target with so many masks for each pass of the teacher, printed as a table."""
    make = (options.side, options.patch, options.width, options.layers)
    mask = Random(ratio=0.75)
    objectives = {str(count): Jepa(model_of(*make), Setup(), mask=mask, masks=count, predictor=predictor()) for count in MASKS}
    medians = measure(objectives, options)
    targets = options.batch_size * round(0.75 * (options.side // options.patch) ** 2)
    each = {name: 1e6 * seconds / (targets * int(name)) for name, seconds in medians.items()}
    print("| masks | ms a step | predicted targets | microseconds for each | of one mask |\n|---|---:|---:|---:|---:|")
    for name, seconds in medians.items():
        cells = [name, f"{1e3 * seconds:.0f}", targets * int(name), f"{each[name]:.1f}"]
        print(f"| {' | '.join(map(str, cells))} | {each[name] / each['1']:.2f} |")
    return each


def plot(path: Path, ratios: Mapping[str, float], masks: Mapping[str, float]) -> None:
    """Both tables as bars."""
    drawn = Figure(figsize=(7, 2.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for axes, values, title, label in (
        (left, {key: 1e3 * value for key, value in ratios.items()}, "Mask ratio", "ms a step"),
        (right, masks, "Masks for each pass of the teacher", "microseconds for each target"),
    ):
        bars = axes.bar(list(values), list(values.values()), color="#4477aa", width=0.6)
        axes.bar_label(bars, fmt="%.0f", padding=2)
        axes.set_xlabel(title)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.15)
    drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: seconds of this process, on a shared machine")
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args()
    print(
        f"batch {options.batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {options.repeats}\n"
    )
    ratios = ratio_table(options)
    print()
    masks = mask_table(options)
    if options.plot is not None:
        plot(options.plot, ratios, masks)


if __name__ == "__main__":
    main()

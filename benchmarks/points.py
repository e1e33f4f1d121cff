"""Farthest-point sampling and nearest neighbours of 64 clouds in plain torch, and the steps around them.

    python benchmarks/points.py --threads 2

The target: 64 groups of 32 out of 1,024 points, for a batch of 64, within 50 ms on two cores. Numbers are medians; the time
of all threads together tells what a busy machine adds to the time on the clock.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from mmssl.losses.points import chamfer
from mmssl_modalities.points import PointsProcessor
from mmssl_modalities.points.geometry import farthest_points, group_points, nearest_points
from mmssl_modalities.points.voxels import voxel_groups

CLOUDS, POINTS, GROUPS, SIZE = 64, 1024, 64, 32
LARGE = (1_000, 10_000, 100_000, 1_000_000)


def milliseconds(work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of one call, after two that are not counted."""
    seconds = []
    for number in range(repeats + 2):
        begin = clock()
        work()
        if number > 1:
            seconds.append(clock() - begin)
    return 1e3 * statistics.median(seconds)


def surface(count: int, points: int) -> torch.Tensor:
    """Points on unit spheres."""
    return torch.nn.functional.normalize(torch.randn(count, points, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{CLOUDS} clouds of {POINTS:,} points, {options.threads} threads, torch {torch.__version__}, median of {options.repeats}"
    )
    print("| | ms | ms of all threads |\n|---|---:|---:|")
    clouds = surface(CLOUDS, POINTS)
    distances = farthest_points(clouds, GROUPS)[2]
    valid = torch.ones(CLOUDS, POINTS, dtype=torch.bool)
    sets = torch.randn(CLOUDS * 38, SIZE, 3)
    guess = sets.flip(0).clone().requires_grad_()
    raw = clouds[0].numpy()
    one = PointsProcessor()
    rows: dict[str, Callable[[], object]] = {
        f"FPS + kNN, {GROUPS} groups of {SIZE}": lambda: group_points(clouds, GROUPS, SIZE),
        "the same with a padding mask": lambda: group_points(clouds, GROUPS, SIZE, valid),
        "FPS alone": lambda: farthest_points(clouds, GROUPS),
        "kNN alone, given the distances": lambda: nearest_points(distances, SIZE),
        f"Chamfer distance of {len(sets):,} pairs of {SIZE} points, forward and backward": lambda: (
            chamfer(guess, sets).sum().backward()
        ),
        f"the processor, one cloud of {POINTS:,}": lambda: one(raw),
    }
    for title, work in rows.items():
        clocks = [milliseconds(work, options.repeats, clock) for clock in (time.perf_counter, time.process_time)]
        print(f"| {title} | {clocks[0]:.1f} | {clocks[1]:.1f} |", flush=True)
    print("\n| points | groups, ms | voxel, ms | voxel cells alone, ns per point |\n|---:|---:|---:|---:|")
    voxel = PointsProcessor(tokenizer="voxel", max_tokens=1024)
    for count in LARGE:
        cloud = surface(1, count)[0].double().numpy()
        repeats = 3 if count > 100_000 else 7
        cells = milliseconds(partial(voxel_groups, cloud, 0.25, 1024, SIZE), repeats)
        times = [milliseconds(partial(p, cloud), repeats) for p in (one, voxel)]
        print(f"| {count:,} | {times[0]:.1f} | {times[1]:.1f} | {1e6 * cells / count:.0f} |", flush=True)


if __name__ == "__main__":
    main()

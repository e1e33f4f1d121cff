"""How many samples a second an encoder reads, by how many at a time: what scoring and embedding cost.

    OMP_NUM_THREADS=1 python benchmarks/encoding.py --data ../shared/data
    OMP_NUM_THREADS=1 python benchmarks/encoding.py --data ../shared/data --only audio/wav2vec2_spoken_digits --sizes 8 16

Each recipe's model with random weights, on samples of its data in the order of the rows, padded to the longest of those that are
read together. The sizes by turns, in one process; the best of `--repeats`, as other processes only ever slow one down.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmssl.data import Batch, batches, cut
from mmssl.evaluation.features import at_once
from mmssl.evaluation.sources import EvaluateOptions
from mmssl.modality import find
from mmssl.model import MMSSLModel
from mmssl.training.allocator import keep_freed_memory
from recipes import opened

RECIPES = (
    "quickstart",
    "image/simclr_cifar10",
    "audio/audiomae_spoken_digits",
    "audio/wav2vec2_spoken_digits",
    "text/bert_sst2",
    "timeseries/patchtst_ucr",
    "tabular/masked_breast_cancer",
    "points/point_mae_shapes40",
)


def seconds(model: MMSSLModel, name: str, read: Sequence[Batch]) -> float:
    """What a model takes for batches."""
    began = time.perf_counter()
    with torch.no_grad():
        for batch in read:
            model.pool(model.encode(name, batch.inputs[name]))
    return time.perf_counter() - began


def rates(recipe_name: str, data: Path, sizes: Sequence[int], count: int, repeats: int) -> tuple[list[float], int]:
    """Samples a second by size, and the size that is taken where models are scored."""
    recipe, splits, pieces = opened(recipe_name, data)
    (name,) = recipe.modalities
    modalities = {name: (find(name), pieces.processor.processors[name])}
    source = cut(next(iter(splits.streams.values())).source.evenly(count), modalities)
    read = {size: list(batches(source, modalities, size)) for size in sizes}
    model, best = pieces.objective.model.eval(), dict.fromkeys(sizes, float("inf"))
    for _ in range(repeats):
        for size in sizes:
            best[size] = min(best[size], seconds(model, name, read[size]))
    rated = [sum(len(batch) for batch in read[size]) / best[size] for size in sizes]
    return rated, min(at_once(source, modalities), EvaluateOptions().batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets that are not bundled")
    parser.add_argument("--only", nargs="+", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 16, 32, 64, 256])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()  # as every command does
    print(f"| recipe | {' | '.join(map(str, options.sizes))} | taken |\n|---|{'---:|' * len(options.sizes)}---:|")
    for name in options.only:
        found, taken = rates(name, options.data, options.sizes, options.samples, options.repeats)
        print(f"| `{name}` | {' | '.join(f'{rate:,.0f}' for rate in found)} | {taken} |", flush=True)


if __name__ == "__main__":
    main()

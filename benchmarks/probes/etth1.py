"""ETTh1: 96 hours forecast from frozen tokens by a linear head, beside a ridge on the raw window.

    python benchmarks/probes/etth1.py --data ../shared/data/ett/ETTh1.parquet

The usual split: 12, 4 and 4 months for training, validation and test; every channel has mean 0 and variance 1 over the training
months. Both forecast each channel by itself from its last hours, as long as the series that the recipe takes: a ridge on the raw
window, a ridge on the window with its mean and scale taken out (and put back after), and a ridge on the tokens of the encoder, in a
row, with the same normalisation. The penalty of each is chosen on the validation months. Mean squared error over all test windows,
channels and hours. The recipe sees the training months only.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

import mmssl
from mmssl.evaluation.features import random_init
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

RECIPE = "patchtst_etth1"
HORIZON = 96
MONTH = 30 * 24
PARTS = {"train": (0, 12 * MONTH), "validation": (12 * MONTH, 16 * MONTH), "test": (16 * MONTH, 20 * MONTH)}
PENALTIES = tuple(10.0**i for i in range(-1, 7))
BATCH = 512

Features = Callable[[Tensor], Tensor]
"""Windows `[n, t]` to features `[n, f]`."""


def read(file: Path) -> Tensor:
    """`[channels, hours]`, normalised by the training months."""
    table = pq.read_table(file)
    columns = [name for name in table.column_names if name != "date"]
    values = torch.tensor(np.stack([np.asarray(table[name]) for name in columns]))
    train = values[:, : PARTS["train"][1]]
    return ((values - train.mean(1, keepdim=True)) / train.std(1, correction=0, keepdim=True)).float()


def windows(series: Tensor, part: str, lookback: int, step: int = 1) -> tuple[Tensor, Tensor]:
    """Windows of one part, of all channels, and what follows each: the forecast hours lie in the part."""
    begin, end = PARTS[part]
    begin = max(0, begin - lookback)
    cut = series[:, begin:end].unfold(1, lookback + HORIZON, step).flatten(0, 1)
    return cut[:, :lookback], cut[:, lookback:]


def identity(window: Tensor) -> Tensor:
    return window


def moments(window: Tensor, *, scaled: bool) -> tuple[Tensor, Tensor]:
    """Location and scale of windows; 0 and 1 where they stay as they are."""
    if not scaled:
        return torch.zeros(len(window), 1), torch.ones(len(window), 1)
    return window.mean(1, keepdim=True), window.std(1, correction=0, keepdim=True).clamp(min=1e-5)


def batches(features: Features, data: tuple[Tensor, Tensor], *, scaled: bool) -> Iterator[tuple[Tensor, ...]]:
    """Features with a column of ones, the hours to forecast as normalised as the window, and its location and scale."""
    for window, future in zip(*(part.split(BATCH) for part in data), strict=True):
        mean, scale = moments(window, scaled=scaled)
        found = features((window - mean) / scale).float()
        yield torch.cat([found, torch.ones(len(found), 1)], 1), (future - mean) / scale, mean, scale


def forecast_error(features: Features, series: Tensor, lookback: int, *, scaled: bool, step: int) -> tuple[float, float, float]:
    """Test error, validation error and penalty of a ridge on these features."""
    gram, cross = None, None
    for x, y, _, _ in batches(features, windows(series, "train", lookback, step), scaled=scaled):
        gram = x.T @ x if gram is None else gram.addmm_(x.T, x)
        cross = x.T @ y if cross is None else cross.addmm_(x.T, y)
    assert gram is not None and cross is not None
    values, axes = torch.linalg.eigh(gram.double())
    turned = axes.T @ cross.double()
    heads = [(axes @ (turned / (values.clamp(min=0) + penalty)[:, None])).float() for penalty in PENALTIES]
    errors = []
    for part in ("validation", "test"):
        total, count = torch.zeros(len(heads), dtype=torch.float64), 0
        for x, y, _, scale in batches(features, windows(series, part, lookback), scaled=scaled):
            total += torch.stack([((x @ head - y) * scale).double().square().sum() for head in heads])
            count += y.numel()
        errors.append(total / count)
    best = int(errors[0].argmin())
    return float(errors[1][best]), float(errors[0][best]), PENALTIES[best]


def tokens_of(model: MMSSLModel, processor: MMSSLProcessor) -> Features:
    """The encoded tokens of a window in a row, without prefix."""
    parts = processor.processors["timeseries"]
    model.eval()

    @torch.no_grad()
    def features(window: Tensor) -> Tensor:
        batch = parts.collate([parts(row) for row in window.numpy()])
        return model.encode("timeseries", batch).values[:, model.encoder.num_prefix :].flatten(1)

    return features


def pretrained(series: Tensor, lookback: int, overrides: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    """The recipe, trained on every window of the training months."""
    train = series[:, : PARTS["train"][1]].unfold(1, lookback, 1).flatten(0, 1).numpy()
    rows = [{"series": window} for window in train]
    with tempfile.TemporaryDirectory() as folder:
        run = mmssl.train(RECIPE, overrides | {"run.dir": folder}, rows=rows)
        return MMSSLModel.from_pretrained(run.model_folder), MMSSLProcessor.from_pretrained(run.model_folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="ETTh1 as a parquet file: a column for each channel")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lookback", type=int, default=504, help="hours that are seen")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe, values as JSON")
    parser.add_argument("--step", type=int, default=1, help="hours between the training windows of the heads")
    options = parser.parse_args()
    changes = {key: json.loads(value) for key, value in (text.split("=", 1) for text in options.set)}
    series = read(options.data)

    def report(name: str, features: Features, *, scaled: bool) -> None:
        begin = time.perf_counter()
        test, validation, penalty = forecast_error(features, series, options.lookback, scaled=scaled, step=options.step)
        seconds = time.perf_counter() - begin
        print(f"{name:34} test {test:.4f}  validation {validation:.4f}  penalty {penalty:g}  {seconds:.0f} s", flush=True)

    report("ridge, raw window", identity, scaled=False)
    report("ridge, window normalised", identity, scaled=True)
    for seed in range(options.seeds):
        model, processor = pretrained(series, options.lookback, changes | {"run.seed": seed})
        report(f"pretrained tokens, seed {seed}", tokens_of(model, processor), scaled=True)
        report(f"random tokens, seed {seed}", tokens_of(random_init(model.config, seed), processor), scaled=True)


if __name__ == "__main__":
    main()

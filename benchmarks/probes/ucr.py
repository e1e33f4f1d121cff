"""Logistic probes on four sets of the UCR / UEA archive.

    python benchmarks/probes/ucr.py --data ../shared/data/ucr --seeds 3

Trains the recipe `data2vec_ucr`, or another one, on the training part of each set, once per seed, with the settings in
`settings`, and probes the frozen model beside the same network with random weights, and, if asked for, a network of this size
that was trained with the labels. Accuracy in percent, on the test part, at the last step.

Beside them what needs no pretraining: nearest neighbour and ridge on the raw values, random convolutions (the reference of the
modality), and MultiRocket with Hydra of aeon, where it is installed (the extra `bench`). `--recipe none` stops there.

The training parts have 36 to 200 series, so that a held-out fifth says little about a penalty: the protocol here is the mean, the
largest and the smallest value of every feature over the tokens, averaged over the pieces of a series; features standardised by the
training part; logistic regression whose C is chosen by 5-fold cross-validation on the training part. With fewer than 50 training
series (ArrowHead, BasicMotions) nothing is chosen, and the penalty is the weakest of those tried, as in the protocol of TS2Vec
(arXiv 2106.10466), which goes back to arXiv 1901.10738. That pooling is the recipe's `encoder.pooling`; the rows "(mean)" have the
mean over the tokens alone.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import mmssl
from mmssl.evaluation.features import random_init
from mmssl.modality import find
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import recipe as recipes

SETS = ("ArrowHead", "OSULeaf", "ItalyPowerDemand", "BasicMotions")
RECIPE = "data2vec_ucr"
STRENGTHS = 10.0 ** np.arange(-3, 3)
FOLDS, ITERATIONS = 5, 2000
FEW = 50
"""With fewer training series the strength of the penalty is not chosen."""
SUPERVISED = {"max_steps": 300, "lr": 1e-3}
"""Training with labels: longer and faster than the recipe, which changes random weights little."""
PHASES = 4
"""Pieces of a series, a quarter of a patch apart, so that features depend less on where patches begin."""


def settings(recipe: str, length: int, rows: int) -> dict[str, Any]:
    """What of the recipe depends on the training series. Short ones: a token for each sample, with its place.

    A patch of one sample has no shape, so targets that are normalised by patch become raw ones there.
    """
    patch = next(size for size in (32, 16, 1) if size * 6 <= length)
    stride = max(1, patch // PHASES)
    short: dict[str, Any] = {"modalities.timeseries.processor": {"normalise": "instance"}, "encoder.absolute_positions": True}
    short["modalities.timeseries.adapter.stem"] = "linear"
    if any(target.get("name") == "normalised" for target in recipes.load(recipe).resolved()["objective"].get("targets", [])):
        short["objective.targets"] = [{"name": "raw"}]
    long = {
        "modalities.timeseries.processor.window": length - (PHASES - 1) * stride,
        "modalities.timeseries.processor.stride": stride,
    }
    sizes = {"modalities.timeseries.adapter.patch_size": patch, "train.batch_size": min(rows, 32)}
    return sizes | (short if patch == 1 else long)


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Series `[n, c, t]` and labels `[n]`."""
    table = pq.read_table(file)
    return np.array(table["series"].to_pylist(), np.float64), np.array(table["label"].to_pylist())


def classical(folder: Path, seeds: int) -> dict[str, list[float]]:
    """Accuracy of what needs no pretraining: on the raw values once, of random convolutions once per seed."""
    (train, labels), (test, truth) = read(folder / "train.parquet"), read(folder / "test.parquet")
    flat = FunctionTransformer(lambda series: series.reshape(len(series), -1))
    processor = find("timeseries").processor()
    processor.fit(list(train))
    reference = processor.reference()
    assert reference is not None, "series have one"
    readers = {
        "1-NN Euclid": [make_pipeline(flat, KNeighborsClassifier(1))],
        "ridge": [make_pipeline(flat, RidgeClassifierCV(np.logspace(-3, 3, 13)))],
        reference.title: [reference.estimator(True, seed) for seed in range(seeds)],
    }
    if find_spec("aeon"):
        from aeon.classification.convolution_based import MultiRocketHydraClassifier

        readers["MultiRocket and Hydra (aeon)"] = [MultiRocketHydraClassifier(random_state=seed) for seed in range(seeds)]
    return {
        name: [100 * float(np.mean(reader.fit(train, labels).predict(test) == truth)) for reader in some]
        for name, some in readers.items()
    }


@torch.no_grad()
def features(model: MMSSLModel, processor: MMSSLProcessor, series: np.ndarray) -> dict[str, np.ndarray]:
    """Pooled tokens of each series, averaged over its pieces, by the name of the pooling."""
    parts, model = processor.processors["timeseries"], model.eval()
    rows = []
    for raw in series:
        tokens = model.encode("timeseries", parts.collate([parts(piece) for piece in parts.pieces(raw)]))
        rows.append(model.pool(tokens).mean(0))
    pooled = torch.stack(rows).numpy()
    return {"mean, max, min": pooled, "mean": pooled[:, : model.config.hidden_size]}


def probe(model: MMSSLModel, processor: MMSSLProcessor, folder: Path) -> dict[str, float]:
    """Test accuracy of the logistic probe, by pooling."""
    (train, labels), (test, truth) = read(folder / "train.parquet"), read(folder / "test.parquet")
    known, asked = features(model, processor, train), features(model, processor, test)
    found = {}
    for name, x in known.items():
        reader = make_pipeline(StandardScaler(), classifier(len(labels)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=ConvergenceWarning)
            found[name] = 100 * float(reader.fit(x, labels).score(asked[name], truth))
    return found


def classifier(count: int) -> LogisticRegression | LogisticRegressionCV:
    """Logistic regression for `count` training series."""
    if count < FEW:
        return LogisticRegression(C=STRENGTHS[-1], max_iter=ITERATIONS)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return LogisticRegressionCV(Cs=STRENGTHS, cv=folds, max_iter=ITERATIONS)


def scores(recipe: str, folder: Path, seed: int, overrides: dict[str, Any], *, supervised: bool) -> dict[str, float]:
    """Probe accuracy of the pretrained, the random and, if asked for, the supervised network."""
    train = read(folder / "train.parquet")[0]
    changes = settings(recipe, train.shape[2], len(train)) | overrides
    changes |= {"data.path": str(folder), "run.seed": seed, "evaluate": None}
    model, processor = trained(recipe, changes)
    networks = {"pretrained": model, "random init": random_init(model.config, seed)}
    if supervised:
        plain = recipes.load(recipe, changes).resolved()
        plain["objective"] = {"name": "supervised"}
        plain["data"]["columns"]["label"] = "label"
        plain["train"] |= SUPERVISED
        networks["supervised"] = trained(plain, {})[0]
    return {
        f"{name} ({pooling})": score
        for name, network in networks.items()
        for pooling, score in probe(network, processor, folder).items()
    }


def trained(recipe: str | dict[str, Any], overrides: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    """What one run makes; its folder is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        run = mmssl.train(recipe, overrides | {"run.dir": folder})
        return MMSSLModel.from_pretrained(run.model_folder), MMSSLProcessor.from_pretrained(run.model_folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--supervised", action="store_true", help="train with labels too")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe, values as JSON")
    options = parser.parse_args()
    changes = {key: json.loads(value) for key, value in (text.split("=", 1) for text in options.set)}
    table: dict[str, dict[str, list[float]]] = {}
    for name in options.sets:
        for row, found in classical(options.data / name, options.seeds).items():
            table.setdefault(row, {})[name] = found
            print(f"{name}, {row}: {found}", flush=True)
        for seed in range(0 if options.recipe == "none" else options.seeds):
            begin = time.perf_counter()
            probed = scores(options.recipe, options.data / name, seed, changes, supervised=options.supervised)
            for row, score in probed.items():
                table.setdefault(row, {}).setdefault(name, []).append(score)
            print(f"{name}, seed {seed}, {time.perf_counter() - begin:.0f} s: {probed}", flush=True)
    print("| | " + " | ".join(options.sets) + " | mean |")
    print("|---|" + "---:|" * (len(options.sets) + 1))
    for row, columns in table.items():
        means = [statistics.mean(columns[name]) for name in options.sets]
        print(f"| {row} | " + " | ".join(f"{value:.1f}" for value in [*means, statistics.mean(means)]) + " |")


if __name__ == "__main__":
    main()

"""Spoken digits, leave one speaker out: what frozen features are worth for a voice that no linear model has heard.

    python benchmarks/probes/spoken_digits_loso.py runs/audiomae_spoken_digits/model ../shared/data/spoken_digits

All recordings of the Free Spoken Digit Dataset, training and test split alike. For each of the six speakers: multinomial logistic
regression on standardised features of the other five, scored on the sixth. Its C is the best on average over five inner folds that
each hold out one of the five speakers. The score is the mean over the six speakers. Rows: the model, the same architecture with
random weights, and `Processor.features` (MFCC) of a processor that normalises over the dataset. --supervised RECIPE adds a row for
that recipe, trained anew on five speakers for each that is held out.

Pretraining sees all speakers' recordings without any label, as in the task's other rows.
"""

import argparse
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import mmssl
from mmssl.data import Source
from mmssl.evaluation import extract, random_init, raw_features
from mmssl.evaluation.probes import accuracy, linear_classify
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor
from mmssl_modalities.audio import AudioProcessor

NAME = "audio"
SPLITS = ("train", "test")


def sources(path: str, label: str) -> Iterator[Source]:
    for split in SPLITS:
        yield Source(path=path, split=split, columns={NAME: "audio", "label": label})


def targets(path: str, label: str) -> Int[Tensor, " n"]:
    """The cells of a label column over both splits, as numbers."""
    found = [source.labels() for source in sources(path, label)]
    cells = [names.names[i] for names in found if names is not None for i in names.values]
    return torch.from_numpy(np.unique(cells, return_inverse=True)[1].astype(np.int64))


def leave_one_speaker_out(x: Float[Tensor, "n d"], y: Int[Tensor, " n"], speaker: Int[Tensor, " n"]) -> list[float]:
    """Accuracy on each speaker."""
    scores = []
    for one in speaker.unique():
        out = speaker == one
        probe = linear_classify(x[~out], y[~out], x[out], groups=speaker[~out])
        scores.append(accuracy(probe.predicted, y[out]))
    return scores


def encode(folder: str, path: str) -> Float[Tensor, "n d"]:
    """Features of all recordings."""
    processor, model = MMSSLProcessor.from_pretrained(folder), MMSSLModel.from_pretrained(folder)
    return torch.cat([extract(model, processor, source, NAME).values for source in sources(path, "label")])


def supervised(recipe: str, path: str, y: Int[Tensor, " n"], speaker: Int[Tensor, " n"], seed: int) -> list[float]:
    """Accuracy on each speaker of a probe on features that the labels of the others trained."""
    rows = [dict(row) for source in sources(path, "label") for row in source.rows(range(len(source)))]
    scores = []
    for one in speaker.unique():
        out = speaker == one
        kept = [row for row, left_out in zip(rows, out.tolist(), strict=True) if not left_out]
        with tempfile.TemporaryDirectory() as folder:
            run = mmssl.train(recipe, {"run.dir": folder, "run.seed": seed, "evaluate": None}, rows=kept)
            x = encode(str(run.model_folder), path)
        scores.append(accuracy(linear_classify(x[~out], y[~out], x[out], groups=speaker[~out]).predicted, y[out]))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="model", help="model folders, and last the folder of the data")
    parser.add_argument("--supervised", metavar="RECIPE", help="a recipe to train for each speaker")
    parser.add_argument("--seeds", type=int, default=1, help="random inits, and supervised trainings")
    parser.add_argument("--only-model", action="store_true", help="leave the baselines out")
    options = parser.parse_args()
    *folders, data = options.models
    y, speaker = targets(data, "label"), targets(data, "speaker")
    print(f"{len(y):,} recordings, {len(speaker.unique())} speakers")
    print("| features | accuracy | by speaker |\n|---|---:|---|")

    def show(name: str, scores: list[float]) -> None:
        print(f"| {name} | {np.mean(scores):.1f} | {', '.join(f'{score:.1f}' for score in scores)} |", flush=True)

    for folder in folders:
        show(folder, leave_one_speaker_out(encode(folder, data), y, speaker))
        if options.only_model:
            continue
        processor, model = MMSSLProcessor.from_pretrained(folder), MMSSLModel.from_pretrained(folder)
        for seed in range(options.seeds):
            fresh = random_init(model.config, seed)
            x = torch.cat([extract(fresh, processor, source, NAME).values for source in sources(data, "label")])
            show(f"random init, seed {seed}", leave_one_speaker_out(x, y, speaker))
        settings = processor.processors[NAME].settings() | {"normalise": "dataset", "mean": 0.0, "std": 1.0}
        plain = AudioProcessor(**settings)
        x = torch.cat([raw_features(source, NAME, plain).values for source in sources(data, "label")])
        show("MFCC: mean, deviation, four parts", leave_one_speaker_out(x, y, speaker))
    for seed in range(options.seeds if options.supervised else 0):
        show(f"supervised, seed {seed}", supervised(options.supervised, data, y, speaker, seed))


if __name__ == "__main__":
    main()

"""Spoken digits, leave one speaker out: what frozen features are worth for a voice that no linear model has heard.

    python benchmarks/probes/spoken_digits_loso.py runs/audiomae_spoken_digits/model ../shared/data/spoken_digits

All recordings of the Free Spoken Digit Dataset, training and test split alike. For each of the six speakers: multinomial logistic
regression on standardised features of the other five, scored on the sixth. Its C, one for all ten digits, is the best on average
over five inner folds that each hold out one of the five speakers (--choose speakers), or on a fifth of their recordings (--choose
rows). The score is the mean over the six speakers. Rows: the model, the same architecture with random weights, and
`Processor.features` (MFCC) of a processor that normalises over the dataset.

Pretraining sees all speakers' recordings without any label, as in the task's other rows.
"""

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mmssl.data import Source
from mmssl.evaluation import extract, random_init, raw_features
from mmssl.evaluation.probes import STRENGTHS, accuracy, linear_classify
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


def standardise(train: Float[Tensor, "n d"], test: Float[Tensor, "m d"]) -> tuple[np.ndarray, np.ndarray]:
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    return ((train - mean) / std).numpy(), ((test - mean) / std).numpy()


Strengths = tuple[float, ...]


def fit_and_score(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    truth: Int[Tensor, " m"],
    strengths: Strengths,
) -> list[float]:
    """Accuracy on `test` for each C, strongest penalty first."""
    train, held = standardise(x, test)
    model, scores = LogisticRegression(warm_start=True, max_iter=300, tol=1e-3), []
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 300 iterations are enough to compare
            model.fit(train, y.numpy())
        scores.append(100 * float((model.predict(held) == truth.numpy()).mean()))
    return scores


def by_speakers(x: Float[Tensor, "n d"], y: Int[Tensor, " n"], speaker: Int[Tensor, " n"], strengths: Strengths) -> float:
    """The C that is best for speakers that were held out of the training part."""
    total = np.zeros(len(strengths))
    for one in speaker.unique():
        inner = speaker == one
        total += fit_and_score(x[~inner], y[~inner], x[inner], y[inner], strengths)
    return strengths[int(total.argmax())]


def leave_one_speaker_out(x: Float[Tensor, "n d"], y: Int[Tensor, " n"], speaker: Int[Tensor, " n"], choose: str) -> list[float]:
    """Accuracy on each speaker."""
    scores = []
    for one in speaker.unique():
        out = speaker == one
        if choose == "rows":
            predicted = linear_classify(x[~out], y[~out], x[out]).predicted
            scores.append(accuracy(predicted, y[out]))
            continue
        strength = by_speakers(x[~out], y[~out], speaker[~out], STRENGTHS)
        scores += fit_and_score(x[~out], y[~out], x[out], y[out], (strength,))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="model", help="model folders, and last the folder of the data")
    parser.add_argument("--choose", choices=["speakers", "rows"], default="speakers")
    parser.add_argument("--seeds", type=int, default=1, help="random inits")
    parser.add_argument("--only-model", action="store_true", help="leave the baselines out")
    options = parser.parse_args()
    *folders, data = options.models
    y, speaker = targets(data, "label"), targets(data, "speaker")
    print(f"{len(y):,} recordings, {len(speaker.unique())} speakers, C chosen on held-out {options.choose}")
    print("| features | accuracy | by speaker |\n|---|---:|---|")

    def show(name: str, parts: list[Tensor]) -> None:
        scores = leave_one_speaker_out(torch.cat(parts), y, speaker, options.choose)
        print(f"| {name} | {np.mean(scores):.1f} | {', '.join(f'{score:.1f}' for score in scores)} |", flush=True)

    for folder in folders:
        processor, model = MMSSLProcessor.from_pretrained(folder), MMSSLModel.from_pretrained(folder)
        show(folder, [extract(model, processor, source, NAME).values for source in sources(data, "label")])
        if options.only_model:
            continue
        for seed in range(options.seeds):
            fresh = random_init(model.config, seed).to(model.device)
            show(f"random init, seed {seed}", [extract(fresh, processor, source, NAME).values for source in sources(data, "label")])
        settings = processor.processors[NAME].settings() | {"normalise": "dataset", "mean": 0.0, "std": 1.0}
        plain = AudioProcessor(**settings)
        show("MFCC: mean, deviation, four parts", [raw_features(source, NAME, plain).values for source in sources(data, "label")])


if __name__ == "__main__":
    main()

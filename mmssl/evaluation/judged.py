"""What a model's own predictions of labels are worth: scores, confusion, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn import metrics
from torch import Tensor

from mmssl.data import Labels
from mmssl.evaluation import probes
from mmssl.model import LabelHead, MMSSLModel

BINS = 15
"""Bins of confidence, of equal width (arXiv 1706.04599, section 2)."""


def logits_of(model: MMSSLModel, pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
    """What a model predicts from pooled outputs, as its head's `logits`."""
    return model.label_head.logits(model.predicted(pooled).float())


def class_names(model: MMSSLModel) -> list[str]:
    """The names of the classes that a model predicts, in the order of its outputs; of a regression none."""
    if model.label_head.kind == "regression":
        return []
    return [str(model.config.id2label[number]) for number in range(model.label_head.size)]


def unlike(model: MMSSLModel, labels: Labels) -> str | None:
    """Why a model's predictions cannot be compared with labels, in words; None: they can."""
    head, known = model.label_head, class_names(model)
    if (head.kind == "regression") != (labels.kind == "regression"):
        return f"the model predicts {'numbers' if head.kind == 'regression' else 'classes'}, the labels are for {labels.kind}"
    if other := [name for name in labels.names if name not in known]:
        return f"the labels have classes that the model does not predict: {', '.join(other[:5])}; it knows {', '.join(known[:5])}"
    return None


def renumbered(values: Shaped[Tensor, " n"], labels: Labels, model: MMSSLModel) -> Shaped[Tensor, " n"]:
    """Label values with the model's numbers of their classes."""
    if labels.kind == "regression":
        return values
    known = class_names(model)
    return torch.tensor([known.index(name) for name in labels.names])[values]


@dataclass(frozen=True)
class Bin:
    """Predictions of like confidence: their mean confidence, the share of them that is right, and their share of all."""

    confidence: float
    accuracy: float
    share: float


@dataclass(frozen=True)
class Judged:
    """Predictions beside the truth.

    score: accuracy in percent, or R2. scores: others, by their titles.
    names: of the classes; confusion: how many samples of class i (row) were taken for class j; empty for a regression.
    bins: of confidence, those that hold predictions.
    """

    kind: str
    num_test: int
    score: float
    scores: Mapping[str, float]
    names: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    bins: tuple[Bin, ...] = ()

    @classmethod
    def of(cls, head: LabelHead, names: Sequence[str], logits: Float[Tensor, "n k"], truth: Shaped[Tensor, " n"]) -> "Judged":
        """From what a head predicts. truth: class numbers as the head's, or values."""
        if head.kind == "regression":
            return cls.of_values(logits[:, 0].double(), truth.double())
        shares = head.probabilities(logits.double())
        predicted, right = shares.argmax(1), truth.numpy()
        known = list(range(len(names)))
        bins = calibration(shares.amax(1), predicted == truth)
        with np.errstate(divide="ignore", invalid="ignore"):
            confusion = metrics.confusion_matrix(right, predicted.numpy(), labels=known)
            recall = np.diag(confusion) / confusion.sum(1)
        scores = {
            "balanced accuracy": 100 * float(np.nanmean(recall)),
            "macro F1": 100 * float(metrics.f1_score(right, predicted.numpy(), labels=known, average="macro", zero_division=0.0)),
            "log loss": float(metrics.log_loss(right, shares.numpy(), labels=known)),
            "expected calibration error": 100 * sum(abs(one.accuracy - one.confidence) * one.share for one in bins),
        }
        if head.kind == "ordinal":
            scores["mean distance in classes"] = (predicted - truth).abs().double().mean().item()
        rows = tuple(tuple(row) for row in confusion.tolist())
        return cls(head.kind, len(truth), probes.accuracy(predicted, truth), scores, tuple(names), rows, bins)

    @classmethod
    def of_values(cls, predicted: Float[Tensor, " n"], truth: Float[Tensor, " n"]) -> "Judged":
        """From predicted numbers."""
        error = predicted - truth
        scores = {"mean absolute error": error.abs().mean().item(), "root mean squared error": error.square().mean().sqrt().item()}
        return cls("regression", len(truth), probes.r2(predicted, truth), scores)

    @property
    def lines(self) -> list[str]:
        """The scores in words."""
        unit = "R2" if self.kind == "regression" else "accuracy in %"
        percent = ("balanced accuracy", "macro F1", "expected calibration error")
        shown = {unit: f"{self.score:.3f}" if self.kind == "regression" else f"{self.score:.1f}"}
        shown |= {title: f"{value:.1f} %" if title in percent else f"{value:.3g}" for title, value in self.scores.items()}
        return [f"{title}: {value}" for title, value in shown.items()]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def calibration(confidence: Float[Tensor, " n"], right: Shaped[Tensor, " n"]) -> tuple[Bin, ...]:
    """Bins of confidence with the accuracy of each (arXiv 1706.04599, eq. 1 and 2)."""
    place, found = (confidence * BINS).ceil().clamp(1, BINS).long() - 1, []
    for number in range(BINS):
        mine = place == number
        if mine.any():
            share = mine.double().mean().item()
            found.append(Bin(confidence[mine].double().mean().item(), right[mine].double().mean().item(), share))
    return tuple(found)

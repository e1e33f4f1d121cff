"""What a model's own predictions of labels are worth: scores, confusion, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from mmssl.data import Labels
from mmssl.data.label_values import shape_told
from mmssl.data.labels import Kind
from mmssl.evaluation import probes
from mmssl.evaluation.forecast_table import MSE
from mmssl.evaluation.table import MAP
from mmssl.model import LabelHead, MMSSLModel

PREDICTS = {
    "regression": "numbers",
    "classification": "one class",
    "multi_label": "any number of labels",
    "dense": "a class for each place",
}
UNITS = {
    "regression": "R2",
    "forecast": MSE,
    "multi_label": f"{MAP} in %",
    "semantic-segmentation": "mean IoU in %",
    "token-classification": "macro F1 in %",
    "frame-classification": "macro F1 in %",
}
"""What the score of each kind is, but for accuracy."""
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
    if kind_of(head) != labels.kind:
        return f"the model predicts {PREDICTS[kind_of(head)]}, the labels are for {labels.kind}"
    if head.shape != (None if labels.shape is None else list(labels.shape)):
        ours, theirs = ("one number" if shape is None else shape_told(tuple(shape)) for shape in (head.shape, labels.shape))
        return f"the model predicts {ours} a row, the labels are {theirs}"
    if other := [name for name in labels.names if name not in known]:
        return f"the labels have classes that the model does not predict: {', '.join(other[:5])}; it knows {', '.join(known[:5])}"
    return None


def renumbered(values: Shaped[Tensor, " n *k"], labels: Labels, model: MMSSLModel) -> Shaped[Tensor, " n *j"]:
    """Label values with the model's numbers of their classes."""
    if labels.kind == "regression":
        return values
    known = class_names(model)
    numbers = torch.tensor([known.index(name) for name in labels.names])
    if labels.kind == "multi_label":
        return values.new_zeros(len(values), len(known)).index_copy(1, numbers, values)
    return numbers[values]


def kind_of(head: LabelHead) -> Kind:
    """How labels are read that a head predicts."""
    return "classification" if head.kind == "ordinal" else head.kind


@dataclass(frozen=True)
class Bin:
    """Predictions of like confidence: their mean confidence, the share of them that is right, and their share of all."""

    confidence: float
    accuracy: float
    share: float


@dataclass(frozen=True)
class Judged:
    """Predictions beside the truth.

    score: accuracy or, of several labels a row, mean average precision in percent, or R2; of forecasts the mean squared error in
        units of each variable; of labels of places mean IoU or macro F1 in percent. scores: others, by their titles.
    names: of the classes; confusion: how many samples of class i (row) were taken for class j; empty for a regression, and for
        several labels a row.
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
    def of(cls, head: LabelHead, names: Sequence[str], logits: Float[Tensor, "n k"], truth: Shaped[Tensor, " n *j"]) -> "Judged":
        """From what a head predicts. truth: class numbers as the head's, 1 for each of several labels, or values."""
        from sklearn import metrics  # takes a second, and few need it

        if head.kind == "regression":
            return cls.of_values((logits[:, 0] if head.shape is None else logits).double(), truth.double())
        shares = head.probabilities(logits.double())
        if head.kind == "multi_label":
            return cls.of_labels(names, shares, truth.double())
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
    def of_values(cls, predicted: Float[Tensor, " n *k"], truth: Float[Tensor, " n *k"]) -> "Judged":
        """From predicted numbers, or lists of them, of which errors are means over all numbers."""
        error = predicted - truth
        scores = {"mean absolute error": error.abs().mean().item(), "root mean squared error": error.square().mean().sqrt().item()}
        if truth.dim() > 1:
            scores["mean squared error"] = error.square().mean().item()
        return cls("regression", len(truth), probes.r2(predicted, truth), scores)

    @classmethod
    def of_labels(cls, names: Sequence[str], shares: Float[Tensor, "n k"], truth: Float[Tensor, "n k"]) -> "Judged":
        """From the probabilities of several labels, each of which is predicted above one half."""
        from sklearn import metrics  # takes a second, and few need it

        predicted, right = (shares > 0.5).numpy(), truth.numpy()
        scores = {
            f"{average} F1": 100 * float(metrics.f1_score(right, predicted, average=average, zero_division=0.0))
            for average in ("micro", "macro")
        }
        scores["exact match"] = 100 * float((predicted == right).all(1).mean())
        scores["log loss"] = F.binary_cross_entropy(shares, truth).item()
        return cls("multi_label", len(truth), probes.mean_average_precision(shares, truth), scores, tuple(names))

    @property
    def lines(self) -> list[str]:
        """The scores in words."""
        unit = UNITS.get(self.kind, "accuracy in %")
        percent = (
            *("balanced accuracy", "macro F1", "micro F1", "exact match", "expected calibration error"),
            *("pixel accuracy", "token accuracy", "frame accuracy"),
        )
        shown = {unit: f"{self.score:.3f}" if self.kind in ("regression", "forecast") else f"{self.score:.1f}"}
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

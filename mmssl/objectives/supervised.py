"""Supervised training: the supervised row of every table, and plain fine-tuning when a run starts from `init`."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Num, Shaped
from pydantic import Field
from torch import Tensor

from mmssl.data import Batch, Labels
from mmssl.data.dense import DENSE
from mmssl.model import LabelHead, MMSSLModel
from mmssl.model.labels import LabelKind
from mmssl.objectives.base import Setup, Step
from mmssl.objectives.dense import balance, dense_head, dense_terms, named_classes
from mmssl.objectives.labelling import Labelling
from mmssl.objectives.networks import AVERAGE
from mmssl.objectives.terms import Mean, Metric, Term, Terms

HEAD = "heads.label."
"""Where the head stands in the state of a network."""


class Supervised(Labelling):
    """A linear head on the pooled output: cross-entropy for classes, binary for each of several labels, squared error for values.

    A list of numbers in each row, all of one shape, is a regression with several outputs, each in units of its own spread. With
    `data.forecast` the label is what follows each window of a series. With `kind: dense` each pixel of a picture has a label, in a
    label map, each word of a text, or each step of a series or sound, in a list: cross-entropy over all that have one.

    The head is published with the model, which then predicts. A head that `init` brings for the same labels is trained on.

    kind: what the labels are: classification, ordinal (classes with an order: that of numbers, or `order`), multi_label (a list of
        labels a row, or a column of 0 and 1 for each), regression (a number a row, or a list of them), or dense (a label map or a
        list of labels a row: a class for each pixel, word or step in time); null: lists of decimals are regressed, other lists are
        several labels, text, booleans and few distinct whole numbers are classes, other numbers are regressed.
    order: of ordinal, the names of all classes from the lowest to the highest; null: numbers in their order.
    modality: of rows that hold several modalities, the one from which the label is told; null: there is one.
    label_smoothing: share of the target spread over all classes (arXiv 1512.00567, section 7).
    class_weights: balanced = a sample counts in inverse proportion to how many training samples its class has; null: all alike.
    reads: of a forecast, what its head reads: tokens = all of them in order of time (PatchTST, arXiv 2211.14730, section 3.1);
        pooled = one vector of each window; null: tokens.
    classes: of dense labels that are numbers, the names of the classes from 0 on; null: the numbers.
    detail: of dense labels of pixels or steps, predictions on a side of each token, along time of steps, between which is
        interpolated.
    """

    needs_labels = True

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        kind: Literal["classification", "ordinal", "multi_label", "regression", "dense"] | None = None,
        order: list[str] | None = None,
        modality: str | None = None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        class_weights: Literal["balanced"] | None = None,
        reads: Literal["tokens", "pooled"] | None = None,
        classes: Annotated[list[str], Field(min_length=2)] | None = None,
        detail: Annotated[int, Field(gt=0)] = 1,
    ) -> None:
        super().__init__(model, setup)
        labels = setup.labels
        if labels is None:
            raise ValueError("the supervised objective needs labels: name their column, data.columns.label=COLUMN")
        if kind is not None and labels.kind != ("classification" if kind == "ordinal" else kind):
            raise ValueError(f"objective.kind is {kind}, but the labels were read for {labels.kind}; read them with kind={kind!r}")
        for key, value in (("label_smoothing", label_smoothing), ("class_weights", class_weights)):
            if value and labels.kind not in ("classification", DENSE):
                raise ValueError(
                    f"objective.{key} is about one class of several, but the labels are for {labels.kind}; leave it out"
                )
        if label_smoothing and kind == "ordinal":
            raise ValueError("objective.label_smoothing spreads over classes without an order; with kind=ordinal leave it out")
        if modality is not None and modality not in self.modalities:
            raise ValueError(f"objective.modality is {modality!r}, but the recipe has {', '.join(self.modalities)}")
        if labels.kind != DENSE and (classes is not None or detail != 1):
            raise ValueError("objective.classes and detail are about labels of places (kind: dense); leave them out")
        self.label_smoothing = label_smoothing
        self.numbers, self.balance = None, None
        if labels.kind == DENSE:
            if reads is not None or order is not None:
                raise ValueError("objective.reads and order say nothing of labels of places (kind: dense); leave them out")
            named = named_classes(labels, classes)
            self.wear(dense_head(labels, model, self.modalities, len(named), detail), named)
            self.balance = balance(labels, len(named)) if class_weights else None
            return
        names = in_order(labels, kind, order)
        self.numbers = None if names == labels.names else torch.tensor([names.index(name) for name in labels.names])
        if reads is not None and labels.windows is None:
            raise ValueError("objective.reads is about forecasts (data.forecast); leave it out, what is read of others is pooled")
        head = head_of(labels, kind or labels.kind, modality)
        self.wear(head if labels.windows is None else forecasting(head, labels, model, self.modalities, reads), names)
        if class_weights:
            counts = np.bincount(labels.values, minlength=len(names))
            self.balance = torch.tensor(len(labels) / np.maximum(counts, 1) / len(names), dtype=torch.float32)

    def terms(self, batch: Batch, step: Step) -> Terms:
        batch = self.read(batch)
        if not len(batch):
            return self.nothing(batch)
        if self.head.dense:
            inputs, tokens = self.encoded(batch)
            return dense_terms(self.model, batch.modality, inputs, tokens, self.balance, self.label_smoothing)
        predicted = self.given(batch)
        assert batch.labels is not None
        truth = batch.labels if self.numbers is None else self.numbers.to(batch.labels.device)[batch.labels]
        level = self.model.level(batch.modality, batch.inputs[batch.modality])
        losses = self.head.loss(predicted, truth, self.label_smoothing, level, batch.units)
        loss = Term.samples(losses, self.counted(batch))
        return Terms({"loss": loss}, agreement(self.head, predicted, truth))

    def counted(self, batch: Batch) -> Num[Tensor, " b"] | None:
        """How much each sample counts; None: all alike."""
        return None if self.balance is None else self.balance.to(batch.ids.device)[batch.labels]

    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        if self.head.dense:
            return super().weights(batch, step)  # of the places that a view shows
        mine = self.read(batch)
        counted = self.counted(mine) if len(mine) else None
        return {"loss": torch.tensor(len(mine), device=batch.ids.device) if counted is None else counted.sum()}

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The head once stood beside the student."""
        own = {f"head.{name}": f"networks.student.{HEAD}{name}" for name in ("weight", "bias")}
        return {own.get(key, key): value for key, value in state.items()}

    def upgraded(self, state: dict[str, Tensor], average: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Of a run that began when the head stood beside the student, too; an average of it starts from the student's."""
        known = any(key.startswith("networks.") for key in state)
        found = super().upgraded(self.renamed(state) if known else state, average)
        if AVERAGE in self.networks.rules:
            student = {key: value for key, value in found.items() if key.startswith(f"networks.student.{HEAD}")}
            found = {key.replace("student", f"copies.{AVERAGE}", 1): value for key, value in student.items()} | found
        return found


def in_order(labels: Labels, kind: str | None, order: list[str] | None) -> list[str]:
    """The names of the classes, in the order that `order` says. ValueError if it is not one of these classes, or must be said."""
    if order is None:
        if kind == "ordinal" and not all(number(name) for name in labels.names):
            raise ValueError(
                f"objective.order: name the classes from the lowest to the highest, as in order: [{', '.join(labels.names[:4])}]; "
                "names that are no numbers have no order of their own"
            )
        return sorted(labels.names, key=float) if kind == "ordinal" else labels.names
    if kind != "ordinal":
        raise ValueError("objective.order belongs to kind: ordinal; leave it out")
    if sorted(order) != sorted(labels.names):
        raise ValueError(f"objective.order must name each class once: {', '.join(labels.names)}; got {', '.join(order)}")
    return order


def number(name: str) -> bool:
    """Whether a class is a number."""
    try:
        return np.isfinite(float(name)).item()
    except ValueError:
        return False


def agreement(head: LabelHead, given: Float[Tensor, "b k"], truth: Shaped[Tensor, " b *j"]) -> dict[str, Metric]:
    """The share of samples, or of their labels, that are predicted rightly; nothing for numbers."""
    if head.kind == "regression":
        return {}
    right = (given > 0) == (truth > 0.5) if head.kind == "multi_label" else given.argmax(1) == truth
    return {"accuracy": Mean.of(right)}


def head_of(labels: Labels, kind: str, modality: str | None) -> LabelHead:
    """The head that predicts such labels."""
    column = labels.column
    if labels.kind == "regression":
        if labels.shape is None:
            mean, std = float(np.mean(labels.values)), float(np.std(labels.values)) or 1.0
            return LabelHead(kind="regression", size=1, column=column, modality=modality, mean=mean, std=std)
        means, stds = np.mean(labels.values, 0, np.float64), np.std(labels.values, 0, np.float64)
        shown: dict[str, Any] = {"mean": means.tolist(), "std": np.where(stds > 0, stds, 1.0).tolist(), "shape": list(labels.shape)}
        return LabelHead(kind="regression", size=means.size, column=column, modality=modality, **shown)
    known: LabelKind = "ordinal" if kind == "ordinal" else labels.kind
    return LabelHead(kind=known, size=len(labels.names), column=column, modality=modality)


def forecasting(
    head: LabelHead, labels: Labels, model: MMSSLModel, modalities: list[str], reads: Literal["tokens", "pooled"] | None
) -> LabelHead:
    """The head that tells what follows windows of series. ValueError for several modalities, or one whose samples have no steps."""
    assert labels.windows is not None and labels.units is not None
    if len(modalities) > 1:
        raise ValueError(f"data.forecast is about one modality; the recipe has {', '.join(modalities)}. Leave the others out")
    (name,) = modalities
    tokens = None if reads == "pooled" else model.adapter(name).places(labels.windows["context"])
    units = float(np.median(labels.units))
    return replace(head, mean=0.0, std=units, modality=name, windows=dict(labels.windows), tokens=tokens)

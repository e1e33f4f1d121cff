"""What supervised training does where labels belong to places of a sample: pixels, words, steps in time."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.data import Labels
from mmssl.modality import IGNORED, Inputs
from mmssl.model import LabelHead, MMSSLModel
from mmssl.model.model import labels_of_places
from mmssl.objectives.terms import Mean, Metric, Term, Terms
from mmssl.tokens import Tokens


def dense_head(labels: Labels, model: MMSSLModel, modalities: Sequence[str], classes: int, detail: int | None) -> LabelHead:
    """The head that tells a class for each place. ValueError for several modalities, or one whose places have no labels."""
    if len(modalities) > 1:
        raise ValueError(
            f"labels of places (objective.kind: dense) are of one modality; the recipe has {', '.join(modalities)}. Leave one"
        )
    (name,) = modalities
    dense = labels_of_places(model.adapter(name), name)
    dense.cells(detail or 1)
    return LabelHead(
        kind="dense",
        size=classes,
        column=labels.column,
        modality=name,
        places=dense.shape,
        detail=None if detail == 1 else detail,
        segments=labels.segments or None,
        background=labels.background,
    )


def named_classes(labels: Labels, classes: Sequence[str] | None) -> list[str]:
    """The names of the classes of places: those that a recipe gives to their numbers, or those that the data have."""
    if classes is None:
        return labels.names
    if labels.names != [str(number) for number in range(len(labels.names))]:
        raise ValueError(f"objective.classes names class numbers, but the labels have names already: {', '.join(labels.names[:8])}")
    if len(set(classes)) < len(classes) or len(classes) < len(labels.names):
        raise ValueError(
            f"objective.classes: give a name, each another one, to all class numbers from 0 to {len(labels.names) - 1}; got "
            f"{', '.join(classes)}"
        )
    return list(classes)


def balance(labels: Labels, classes: int) -> Float[Tensor, " k"]:
    """How much a place of each class counts: in inverse proportion to how many places of the training data have it."""
    counts = np.zeros(classes)
    counts[: labels.values.shape[1]] = labels.values.sum(0)
    return torch.tensor(counts.sum() / np.maximum(counts, 1) / (counts > 0).sum(), dtype=torch.float32)


def dense_terms(
    model: MMSSLModel, name: str, inputs: Inputs, tokens: Tokens, weights: Float[Tensor, " k"] | None, smoothing: float
) -> Terms:
    """The cross-entropy of all places with a label: each counts alike, or by the weight of its class.

    inputs: a view of the samples with its labels. tokens: the same, encoded.
    """
    dense = labels_of_places(model.adapter(name), name)
    labels: Int[Tensor, " b *places"] = inputs[dense.labels]
    logits = dense.at_labels(model.dense(name, tokens, inputs).float(), inputs)
    there = labels != IGNORED
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none")
    counted = there.float() if weights is None else weights.to(labels.device)[labels.clamp(min=0)] * there
    return Terms({"loss": Term((losses * counted).flatten(1).sum(1), counted.flatten(1).sum(1))}, accuracy(logits, labels))


def accuracy(logits: Float[Tensor, "b k *places"], labels: Int[Tensor, " b *places"]) -> dict[str, Metric]:
    """The share of places with a label that are predicted rightly."""
    return {"accuracy": Mean.of(logits.argmax(1) == labels, labels != IGNORED)}

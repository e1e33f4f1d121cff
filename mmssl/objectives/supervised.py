"""Supervised training: the supervised row of every table, and plain fine-tuning when a run starts from `init`."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Num
from pydantic import Field
from torch import Tensor, nn

from mmssl.data import Batch
from mmssl.data.labels import Kind
from mmssl.model import MMSSLModel, initialise_all
from mmssl.objectives.base import Objective, Setup, Step
from mmssl.objectives.terms import Mean, Term, Terms


class Supervised(Objective):
    """A linear head on the pooled output: cross-entropy for classes, mean squared error of standardised values otherwise.

    kind: what the labels are: classification or regression; null: text, booleans and few distinct whole numbers are classes, other
        numbers are regressed.
    modality: of rows that hold several modalities, the one from which the label is told; null: there is one.
    label_smoothing: share of the target spread over all classes (arXiv 1512.00567, section 7).
    """

    needs_labels = True

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        kind: Kind | None = None,
        modality: str | None = None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(model, setup)
        labels = setup.labels
        if labels is None:
            raise ValueError("the supervised objective needs labels: name their column, data.columns.label=COLUMN")
        if kind not in (None, labels.kind):
            raise ValueError(f"objective.kind is {kind}, but the labels were read for {labels.kind}; read them with kind={kind!r}")
        self.classes = labels.kind == "classification"
        if label_smoothing and not self.classes:
            raise ValueError("objective.label_smoothing belongs to classes, but the labels are numbers; leave it out")
        self.label_smoothing = label_smoothing
        self.mean = 0.0 if self.classes else float(np.mean(labels.values))
        self.std = 1.0 if self.classes else float(np.std(labels.values)) or 1.0
        if modality is not None and modality not in self.modalities:
            raise ValueError(f"objective.modality is {modality!r}, but the recipe has {', '.join(self.modalities)}")
        self.modality = modality
        sizes = {model.pooled_size(name) for name in ([modality] if modality else model.adapters)}
        if len(sizes) > 1:
            raise ValueError("pooling='concat' gives modalities vectors of different widths, but there is one head; choose mean")
        self.head = nn.Linear(sizes.pop(), len(labels.names) if self.classes else 1)
        initialise_all(self.head, model.config)

    def terms(self, batch: Batch, step: Step) -> Terms:
        batch = self.read(batch)
        if not len(batch):
            return Terms({"loss": Term.samples(batch.keys.new_zeros(0, dtype=torch.float32))})
        name = batch.modality
        tokens = self.model.embed(name, self.view(batch, name)).keyed(batch.draws.fork(0))
        predicted = self.head(self.model.pool(self.model.encoder(tokens))).float()
        assert batch.labels is not None
        if not self.classes:
            target = (batch.labels - self.mean) / self.std
            return Terms({"loss": Term.samples(F.mse_loss(predicted[:, 0], target, reduction="none"))})
        loss = F.cross_entropy(predicted, batch.labels, label_smoothing=self.label_smoothing, reduction="none")
        return Terms({"loss": Term.samples(loss)}, {"accuracy": Mean.of(predicted.argmax(1) == batch.labels)})

    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        return {"loss": torch.tensor(len(self.read(batch)), device=batch.ids.device)}

    def read(self, batch: Batch) -> Batch:
        """The samples that hold the modality that is read."""
        if self.modality is None:
            return batch
        return batch.of(self.modality) if self.modality in batch.inputs else Batch({}, batch.keys[:0], batch.ids[:0])

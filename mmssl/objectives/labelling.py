"""What objectives have in common that train a label head on the pooled output of one modality."""

from abc import ABC

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.data import Batch
from mmssl.modality import Inputs
from mmssl.model import LabelHead
from mmssl.objectives.base import Objective
from mmssl.objectives.terms import Term, Terms
from mmssl.tokens import Tokens


class Labelling(Objective, ABC):
    """The base of such objectives. head: what is predicted, and from which modality."""

    predicts = True
    head: LabelHead

    def wear(self, head: LabelHead, names: list[str]) -> None:
        """Predict with this head; one that the model has for the same labels stays. names: of its classes, empty for numbers."""
        self.head, config = head, self.model.config
        if config.label_head is not None and head.forecasts and head.is_built_as(LabelHead(**config.label_head)):
            config.label_head = head.settings()
        if config.label_head != head.settings() or (names and list(config.id2label.values()) != names):
            self.model.label(head, names)

    def read(self, batch: Batch) -> Batch:
        """The samples that hold the modality that is read."""
        return batch if self.head.modality is None else batch.holding(self.head.modality)

    def given(self, batch: Batch) -> Float[Tensor, "b k"]:
        """What the student's head gives for a random view of each sample of one modality."""
        return self.model.predicted(self.model.read(batch.modality, self.encoded(batch)[1])).float()

    def encoded(self, batch: Batch) -> tuple[Inputs, Tokens]:
        """A random view of each sample of one modality, and what the student's encoder makes of it."""
        name = batch.modality
        view = self.view(batch, name)
        return view, self.model.encoder(self.model.embed(name, view).keyed(batch.draws.fork(0)))

    @staticmethod
    def nothing(batch: Batch) -> Terms:
        """The loss of no samples."""
        return Terms({"loss": Term.samples(batch.keys.new_zeros(0, dtype=torch.float32))})

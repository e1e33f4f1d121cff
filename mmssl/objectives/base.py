"""An objective is one `nn.Module`: it owns the model, its heads and its teacher, and maps a batch to a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from mmssl.data import Batch, Labels
from mmssl.draws import Draws
from mmssl.modality import Augment as Augment
from mmssl.modality import Inputs, Others, Processor, mixing
from mmssl.model import MMSSLModel


@dataclass(frozen=True)
class Output:
    """loss: what is minimised; metrics: detached scalars to log beside it."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What a run knows besides the recipe's objective section.

    augments: per modality the random view that the recipe asks for.
    labels: the label column's meaning, where the recipe names one.
    """

    augments: Mapping[str, Augment] = field(default_factory=dict)
    labels: Labels | None = None


class Objective(nn.Module, ABC):
    """Base of every objective. Keyword-only arguments of a subclass are its recipe keys.

    A subclass may hold teachers (frozen copies updated in `after_step`), heads and banks: all of its state dict is checkpointed.
    """

    needs_labels: ClassVar[bool] = False
    """Whether batches must carry labels."""

    def __init__(self, model: MMSSLModel, setup: Setup) -> None:
        super().__init__()
        self.model = model
        self.setup = setup

    @property
    def modalities(self) -> list[str]:
        """The modalities that the run trains: those of its recipe, which may be fewer than the model's."""
        return list(self.setup.augments) or list(self.model.adapters)

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Loss of one batch."""

    def view(self, batch: Batch, modality: str, number: int = 0) -> Inputs:
        """Random view `number` of one modality of the batch; the same for the same (seed, step, sample, number)."""
        others = None if batch.others is None else batch.others[modality]
        return self.augmented(modality, batch.inputs[modality], batch.draws, number, others)

    def augmented(self, modality: str, inputs: Inputs, draws: Draws, number: int, others: Others | None = None) -> Inputs:
        """Random view `number` of samples with the draws that they have in their step; `others` None: they are all of the step."""
        augment = self.setup.augments.get(modality)
        if augment is None:
            return inputs
        if others is not None and mixing(augment):
            return augment(inputs, draws.fork(number), others.fork(number))
        return augment(inputs, draws.fork(number))

    @property
    def mixes(self) -> bool:
        """Whether something of one sample may be put in another: then micro-batches need their `others`."""
        return any(mixing(augment) for augment in self.setup.augments.values())

    def after_step(self, progress: float) -> None:
        """Called once per optimizer step; `progress` in [0, 1] is the consumed share of the budget. Teachers move here."""

    def published(self) -> MMSSLModel:
        """The model that a run publishes (an objective with a teacher may return the teacher's)."""
        return self.model

    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """Matplotlib figures for the report, by title. processors: of each modality, what made the batch."""
        return {}

"""An objective is one `nn.Module`: it owns the model, its heads and its teacher, and maps a batch to a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from mmssl.data import Batch, Labels
from mmssl.draws import Draws
from mmssl.modality import Augment as Augment
from mmssl.modality import Inputs, Others, Processor, mixing
from mmssl.model import MMSSLModel
from mmssl.objectives.networks import AVERAGE, Clock, Networks, Published
from mmssl.objectives.terms import Metric, Terms


@dataclass(frozen=True)
class Step:
    """What an objective knows of the optimizer step that a batch belongs to.

    clock: how far the run is, before this step.
    weights: total weight of each term over all micro-batches and processes of the step; None: the batch is the whole step.
    diagnose: whether to measure what is too dear for every step.
    """

    clock: Clock = field(default_factory=Clock)
    weights: Mapping[str, Num[Tensor, ""]] | None = None
    diagnose: bool = False


ALONE = Step()
"""A batch that is a whole step, at the start of a run."""


@dataclass(frozen=True)
class Output:
    """loss: what is minimised, the batch's share of the loss of the step; metrics: what to log beside it."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Metric] = field(default_factory=dict)


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

    A subclass says what a batch loses in `terms`; it may hold heads and banks, and asks `networks` for teachers: all of its state
    dict is checkpointed. Nothing that a later step depends on may change in `terms`: that is for `observe` and `after_step`.
    """

    needs_labels: ClassVar[bool] = False
    """Whether batches must carry labels. Its key `kind`, if it has one, says what labels are (classification, regression)."""
    publish: Published = "student"
    """Which network a run publishes."""

    def __init__(self, model: MMSSLModel, setup: Setup) -> None:
        super().__init__()
        self.networks = Networks(model)
        self.setup = setup

    @property
    def model(self) -> MMSSLModel:
        """The student."""
        return self.networks.student

    @property
    def modalities(self) -> list[str]:
        """The modalities that the run trains: those of its recipe, which may be fewer than the model's."""
        return list(self.setup.augments) or list(self.model.adapters)

    @abstractmethod
    def terms(self, batch: Batch, step: Step) -> Terms:
        """The parts of the loss of one batch: for each a value and a weight for every sample, never a mean."""

    @torch.no_grad()
    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        """The weight of each term of `terms`, summed over the batch.

        Asked before the first backward pass of a step of several micro-batches or processes. A subclass that knows the weights
        without a whole forward pass says them here.
        """
        return {name: term.weight.sum() for name, term in self.terms(batch, step).terms.items()}

    def observe(self, batches: Sequence[Batch], step: Step) -> None:
        """Learn from a step's batches, before any of them is trained on, what is not learned by gradient: statistics, codebooks."""

    def forward(self, batch: Batch, step: Step = ALONE) -> Output:
        """The batch's share of the loss of its step; all of it where the batch is the step."""
        if self.training and step.weights is None:
            self.observe([batch], step)
        found = self.terms(batch, step)
        return Output(found.loss(step.weights), found.metrics)

    @property
    def over_batch(self) -> list[str]:
        """Its parts whose loss of a sample depends on the others of the micro-batch: a step cut in another way loses another."""
        return []

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

    def after_step(self, clock: Clock) -> None:
        """Called once per optimizer step, which `clock` counts. Teachers move here."""
        self.networks.after_step(clock)

    def published(self) -> MMSSLModel:
        """The model that a run publishes: the average of the weights if it keeps one, else as the recipe says."""
        return self.networks.published(self.publish)

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of a subclass's own parts from the time before `networks`, as it is named now."""
        return state

    def upgraded(self, state: dict[str, Tensor], average: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A state dict of this objective from whatever version of mmssl, as `load_state_dict` takes it.

        An average that the state lacks starts from the student; one that the run no longer keeps is left out.
        """
        prefix, student = f"networks.copies.{AVERAGE}.", "networks.student."
        if not any(key.startswith("networks.") for key in state):
            state = self.renamed(
                {key if not key.startswith("model.") else f"networks.student{key[5:]}": value for key, value in state.items()}
            )
            state |= {prefix + key: value for key, value in (average or {}).items()}
        if AVERAGE not in self.networks.rules:
            return {key: value for key, value in state.items() if not key.startswith(prefix)}
        if not any(key.startswith(prefix) for key in state):
            own = {key.removeprefix(student): value for key, value in state.items() if key.startswith(student)}
            state = state | {prefix + key: value for key, value in own.items()}
        return state

    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """Matplotlib figures for the report, by title. processors: of each modality, what made the batch."""
        return {}

"""Learn what a model that predicts labels says of samples: knowledge distillation and self-training, which need no labels."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from pydantic import Field
from torch import Tensor

from mmssl.data import Batch
from mmssl.model import LabelHead, MMSSLModel
from mmssl.objectives.base import Setup, Step
from mmssl.objectives.labelling import Labelling
from mmssl.objectives.networks import Frozen, check_readers
from mmssl.objectives.terms import Mean, Term, Terms

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class LabelTeacher:
    """The model that is imitated, which never changes.

    model: folder or Hub id of a model that predicts labels, as supervised training publishes it.
    temperature: of both softmaxes; the loss is multiplied by its square (arXiv 1503.02531, section 2).
    hard: learn its most probable class, in the place of its probabilities: self-training.
    threshold: a sample counts where the probability of that class reaches it (FixMatch, arXiv 2001.07685, eq. 4).
    """

    model: str
    temperature: Annotated[float, Field(gt=0)] = 1.0
    hard: bool = False
    threshold: Share = 0.0

    def __post_init__(self) -> None:
        if self.hard and self.temperature != 1:
            raise ValueError("objective.teacher: hard labels have no temperature; leave one of the two out")


class KnowledgeDistillation(Labelling):
    """Predict what another model predicts (arXiv 1503.02531, section 2), of samples without labels (arXiv 2103.05959).

    The other model sees samples as they are stored, this one a random view. The head is published with the model.

    teacher: the model that is imitated, and how.
    """

    def __init__(self, model: MMSSLModel, setup: Setup, *, teacher: LabelTeacher) -> None:
        super().__init__(model, setup)
        self.options = teacher
        self.place = self.networks.want("labeller", Frozen(teacher.model))
        config = self.networks.config(self.place)
        if config.label_head is None:
            raise ValueError(
                f"objective.teacher.model: {teacher.model} predicts no labels; name a model that was trained on some, as the "
                "objective supervised publishes it"
            )
        head = LabelHead(**config.label_head)
        if head.forecasts:
            raise ValueError(
                f"objective.teacher.model: {teacher.model} forecasts series; what it tells is measured by what it saw. Name one "
                "that predicts labels, or learn from the series themselves (data.forecast, objective supervised)"
            )
        if head.dense:
            raise ValueError(
                f"objective.teacher.model: {teacher.model} labels places of a sample, and what is learned here is a label of each "
                "sample. Name a model that predicts one"
            )
        names = [head.modality] if head.modality else self.modalities
        if wrong := [name for name in names if name not in self.modalities or name not in config.modalities]:
            raise ValueError(
                f"objective.teacher.model: {teacher.model} reads {', '.join(config.modalities)}, the recipe has "
                f"{', '.join(self.modalities)}: {wrong[0]} is not in both"
            )
        check_readers("objective.teacher.model", teacher.model, config, model.config, names)
        if head.kind in ("regression", "multi_label") and (teacher.hard or teacher.threshold or teacher.temperature != 1):
            raise ValueError(
                f"objective.teacher: temperature, hard and threshold are about one class of several; {teacher.model} is a "
                f"{head.kind}. Leave them out"
            )
        self.wear(head, [] if head.kind == "regression" else list(config.id2label.values()))

    def terms(self, batch: Batch, step: Step) -> Terms:
        batch = self.read(batch)
        if not len(batch):
            return self.nothing(batch)
        given, told = self.given(batch), self.told(batch)
        if self.head.kind in ("regression", "multi_label"):
            right = self.head.logits(told) if self.head.kind == "regression" else told.sigmoid()
            return Terms({"loss": Term.samples(self.head.loss(given, right))})
        counts, best = self.counted(told), told.argmax(1)
        loss = F.cross_entropy(given, best, reduction="none") if self.options.hard else self.softened(given, told)
        same = Mean.of(given.argmax(1) == best)
        return Terms({"loss": Term.samples(loss, counts.long())}, {"agreement": same, "confident": Mean.of(counts)})

    def softened(self, given: Float[Tensor, "b k"], told: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        """T^2 KL(teacher || student) of the softmaxes at temperature T."""
        temperature = self.options.temperature
        mine, its = (given / temperature).log_softmax(1), (told / temperature).log_softmax(1)
        return temperature**2 * F.kl_div(mine, its, reduction="none", log_target=True).sum(1)

    @torch.no_grad()
    def told(self, batch: Batch) -> Float[Tensor, "b k"]:
        """What the teacher's head gives for the samples as they are stored."""
        teacher, name = self.networks[self.place], batch.modality
        return teacher.predicted(teacher.pool(teacher.encode(name, batch.inputs[name]))).float()

    def counted(self, told: Float[Tensor, "b k"]) -> Bool[Tensor, " b"]:
        """The samples of which the teacher is sure enough."""
        return told.softmax(1).amax(1) >= self.options.threshold

    @torch.no_grad()
    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        batch = self.read(batch)
        count = torch.tensor(len(batch), device=batch.ids.device)
        return {"loss": self.counted(self.told(batch)).sum() if len(batch) and self.options.threshold else count}

"""Self-distillation: a student gives to its views what a teacher, its own average, gives to others."""

from typing import Annotated, Literal

import torch
from jaxtyping import Num
from pydantic import Field
from torch import Tensor

from mmssl.data import Batch
from mmssl.masking import Sampler
from mmssl.model import MMSSLModel, initialise_all
from mmssl.model.heads import Head
from mmssl.objectives.agree.agree import Agree, TeacherOptions
from mmssl.objectives.agree.layers import Layers, Matching, joined
from mmssl.objectives.agree.losses.assignments import SelfDistillation
from mmssl.objectives.agree.parts import Agreement
from mmssl.objectives.agree.predictors import Answer
from mmssl.objectives.base import Setup, Step
from mmssl.objectives.networks import check_readers
from mmssl.objectives.terms import Terms
from mmssl.objectives.views import GLOBAL, View

PROJECTOR = Head(layers=3, norm="none", activation="gelu")
TEACHER = TeacherOptions()


class Distill(Agree):
    """Follow a teacher: a moving average of the student (DINO, arXiv 2104.14294), or a saved model that never changes.

    iBOT, DINOv2, BYOL-like self-distillation and distillation from a public model are settings of its parts.

    losses: how views are to agree, each with its weight; null: self_distillation.
    projector: what losses compare: a head on the pooled outputs, of the student and of its average.
    predictor: a head that answers from the student's projections; null: none.
    teacher: the network that the student follows.
    mask: tokens of global views that the student does not see (iBOT); null: it sees all.
    mask_probability: share of the samples of which tokens are hidden.
    layers: hidden states of the student follow those of the teacher too; `losses` may then be empty. null: they do not.
    publish: the student, or the teacher.
    modality: of rows that hold several modalities, the one whose views agree; null: each.
    """

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        losses: list[Agreement] | None = None,
        projector: Head = PROJECTOR,
        predictor: Answer | None = None,
        teacher: TeacherOptions = TEACHER,
        mask: Sampler | None = None,
        mask_probability: Annotated[float, Field(ge=0, le=1)] = 0.5,
        layers: Layers | None = None,
        publish: Literal["student", "teacher"] = "teacher",
        modality: str | None = None,
    ) -> None:
        super().__init__(
            model,
            setup,
            losses=[SelfDistillation()] if losses is None else losses,
            projector=projector,
            predictor=predictor,
            teacher=teacher,
            mask=mask,
            mask_probability=mask_probability,
            publish="student" if teacher.model is not None else publish,
            needs_losses=layers is None,
            modality=modality,
        )
        self.matching = None if layers is None else self.make_matching(layers, teacher)

    def make_matching(self, layers: Layers, teacher: TeacherOptions) -> Matching:
        """What compares hidden states. ValueError for a teacher without any, or one that reads samples in another way."""
        if self.networks.foreign(self.target) is not None:
            raise ValueError(f"objective.layers: {teacher.model} gives no hidden states; name a model of mmssl, or use distance")
        mine, its = self.model.config, self.networks.config(self.target)
        check_readers("objective.teacher.model", teacher.model, its, mine, self.modalities)
        matching = Matching(layers, mine, its, self.target)
        if not self.couples and not matching.last:
            raise ValueError(
                f"objective.layers.pairs leaves out the student's last layer, {mine.num_hidden_layers}, so that nothing would "
                "train it; add it to a pair, or a loss, such as losses: [{name: distance}]"
            )
        initialise_all(matching, mine)
        return matching

    def terms(self, batch: Batch, step: Step) -> Terms:
        if self.matching is None:
            return super().terms(batch, step)
        seen = self.encodings(batch) if step.seen is None else step.seen
        term = joined([self.matching(seen, view) for view in self.followed(batch)], batch.keys.device)
        return Terms({"layers": term}, {"loss_layers": term.measured} if self.couples else {})

    @torch.no_grad()
    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        if self.matching is None:
            return super().weights(batch, step)
        seen = self.encodings(batch)
        found = [self.matching.weight(seen, view) for view in self.followed(batch)]
        return {"layers": torch.stack(found).sum() if found else torch.zeros((), dtype=torch.int64, device=batch.keys.device)}

    def followed(self, batch: Batch) -> list[View]:
        """The views of a batch that both networks see."""
        return [view for view in self.all_views if view.kind == GLOBAL and view.modality in batch.inputs]

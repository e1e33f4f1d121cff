"""Self-distillation: a student gives to its views what a teacher, its own average, gives to others."""

from typing import Annotated, Literal

from pydantic import Field

from mmssl.masking import Sampler
from mmssl.model import MMSSLModel
from mmssl.model.heads import Head
from mmssl.objectives.agree.agree import Agree, TeacherOptions
from mmssl.objectives.agree.losses.assignments import SelfDistillation
from mmssl.objectives.agree.parts import Agreement
from mmssl.objectives.agree.predictors import Answer
from mmssl.objectives.base import Setup

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
    publish: the student, or the teacher.
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
        publish: Literal["student", "teacher"] = "teacher",
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
        )

"""Contrast: two random views of a sample agree, and differ from those of other samples."""

from typing import Literal

from mmssl.model import MMSSLModel
from mmssl.model.heads import Head
from mmssl.objectives.agree.agree import Agree, TeacherOptions
from mmssl.objectives.agree.losses.negatives import InfoNce
from mmssl.objectives.agree.parts import Agreement
from mmssl.objectives.agree.predictors import Answer
from mmssl.objectives.base import Setup

PROJECTOR = Head()


class Contrast(Agree):
    """Make two views of a sample agree without letting all samples agree.

    SimCLR (arXiv 2002.05709) as it stands; MoCo v3, BYOL, SimSiam, Barlow Twins, VICReg, SwAV, NNCLR, LeJEPA, TS2Vec, SimCSE, SCARF
    and others are settings of its parts.

    losses: how views are to agree, each with its weight; null: info_nce.
    projector: what losses compare: a head on the pooled outputs, which is trained with the run and not published.
    predictor: a head that answers from the student's projections; null: none.
    teacher: a second network that the student follows; null: the student itself.
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
        teacher: TeacherOptions | None = None,
        publish: Literal["student", "teacher"] = "student",
        modality: str | None = None,
    ) -> None:
        super().__init__(
            model,
            setup,
            losses=[InfoNce()] if losses is None else losses,
            projector=projector,
            predictor=predictor,
            teacher=teacher,
            mask=None,
            mask_probability=0.0,
            publish=publish,
            modality=modality,
        )

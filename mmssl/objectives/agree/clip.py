"""CLIP: samples of two or more modalities that belong together agree in one space."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mmssl.data import Batch
from mmssl.model import MMSSLModel
from mmssl.model.heads import Head, LogitScale
from mmssl.objectives.agree.agree import Agree, TeacherOptions
from mmssl.objectives.agree.choice import Choice, Chooser
from mmssl.objectives.agree.harmony import Harmonise, check_harmony
from mmssl.objectives.agree.losses.negatives import InfoNce
from mmssl.objectives.agree.parts import Agreement
from mmssl.objectives.agree.predictors import Answer
from mmssl.objectives.base import Setup, Step
from mmssl.objectives.terms import Metric

FACTOR = 1 / 0.07
PROJECTOR = Head(layers=1, size=256, norm="none", bias=False)


class Clip(Agree):
    """Make the modalities of a row agree (CLIP, arXiv 2103.00020, figure 3): any two or more, and rows may lack some of them.

    SigLIP and SLAP are settings of its parts. The projections are published with the model, which then finds samples of one
    modality by those of another. A pair that a row lacks costs nothing.

    losses: how views are to agree, each with its weight; null: info_nce across modalities with a learned temperature.
    projector: the head of each modality on its pooled outputs; null: a linear map without bias to 256 values.
    predictor: a head that answers from the student's projections (SLAP); null: none.
    teacher: a second network that the student follows (SLAP); null: the student itself.
    scale: what similarities are multiplied with at first, where it is learned.
    scale_limit: the most that it can become.
    bias: what is added to scaled similarities at first, for sigmoid; null: nothing.
    choose: train on those samples of a step alone of which the model can still learn; null: on all.
    harmonise: of three modalities or more, let the gradients of different pairs at one sample not contradict; null: add them up.
    publish: the student, or the teacher.
    """

    count: ClassVar[int] = 1
    pairs = True

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        losses: list[Agreement] | None = None,
        projector: Head = PROJECTOR,
        predictor: Answer | None = None,
        teacher: TeacherOptions | None = None,
        scale: Annotated[float, Field(gt=0)] = FACTOR,
        scale_limit: Annotated[float, Field(gt=0)] = 100.0,
        bias: float | None = None,
        choose: Choice | None = None,
        harmonise: Harmonise | None = None,
        publish: Literal["student", "teacher"] = "student",
    ) -> None:
        names = list(setup.augments) or list(model.adapters)
        if len(names) < 2:
            raise ValueError(f"clip pairs modalities, but the recipe has only {names[0]}; add another one, or choose contrast")
        super().__init__(
            model,
            setup,
            losses=[InfoNce(temperature=None, negatives="view", between="across")] if losses is None else losses,
            projector=projector,
            predictor=predictor,
            teacher=teacher,
            mask=None,
            mask_probability=0.0,
            publish=publish,
            scale=LogitScale(scale, scale_limit, bias),
            keeps_heads=True,
        )
        if harmonise is not None:
            check_harmony(self.every_loss, self.modalities)
        self.harmonise = harmonise
        if choose is not None and any(loss.mixes for loss in self.every_loss):
            raise ValueError("objective.choose: views that are mixed of two samples are mixed of all of a step; leave mixed out")
        self.chooser = None if choose is None else Chooser(choose, self.networks, self.all_views)

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.chooser is not None

    def chosen(self, batches: Sequence[Batch], step: Step) -> tuple[list[Batch], dict[str, Metric]]:
        if self.chooser is None:
            return super().chosen(batches, step)
        return self.chooser.choose(batches, [self.encodings(batch) for batch in batches])

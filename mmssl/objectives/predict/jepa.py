"""Joint-embedding prediction: predict what a teacher makes of the hidden places."""

from typing import Annotated, Literal

from pydantic import Field

from mmssl.masking import MultiBlock, Sampler
from mmssl.model import MMSSLModel
from mmssl.objectives.base import Setup
from mmssl.objectives.predict.parts import Predictor, Target
from mmssl.objectives.predict.predict import Across, Predict
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.predict.targets import Latent


class Jepa(Predict):
    """Predict a teacher's representations of target blocks from those of the context (I-JEPA, arXiv 2301.08243, section 3).

    The same machine as `masked`, with blocks, latent targets and the teacher as what is published; data2vec and T-JEPA are settings
    of its parts.

    mask: how tokens are hidden; null: target blocks and a context block (multiblock).
    masks: masks of each sample in a step, which share the teacher's pass.
    predictor: how hidden places are predicted from the others; null: a narrow transformer.
    targets: what is predicted, each with its loss and weight; null: the teacher's output, normalised.
    view: what targets are computed from: the same random view as the encoder sees, or the samples as they are (clean).
    publish: the student, or the teacher.
    across: of rows that pair modalities, whether each is predicted from itself (none), from each other one too (also: MJEPA, arXiv
        2606.25225), or from the others only.
    modality: of rows that hold several modalities, the one that is predicted, from itself; null: each.
    """

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        mask: Sampler | None = None,
        masks: Annotated[int, Field(gt=0)] = 1,
        predictor: Predictor | None = None,
        targets: list[Target] | None = None,
        view: Literal["same", "clean"] = "same",
        publish: Literal["student", "teacher"] = "teacher",
        across: Across = "none",
        modality: str | None = None,
    ) -> None:
        super().__init__(
            model,
            setup,
            mask=mask or MultiBlock(),
            masks=masks,
            predictor=predictor or Transformer(),
            targets=[Latent()] if targets is None else targets,
            view=view,
            publish=publish,
            across=across,
            modality=modality,
        )

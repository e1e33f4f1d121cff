"""Masked modelling: hide tokens, predict what they held."""

from typing import Annotated, Literal

from pydantic import Field

from mmssl.masking import Sampler
from mmssl.model import MMSSLModel
from mmssl.objectives.base import Setup
from mmssl.objectives.predict.parts import Predictor, Target
from mmssl.objectives.predict.predict import Across, Predict
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.predict.targets import Raw


class Masked(Predict):
    """Predict the content of hidden tokens; the loss counts predicted places only.

    MAE (arXiv 2111.06377) as it stands; SimMIM, BERT, MaskFeat, HuBERT, wav2vec 2.0 and others are settings of its parts.

    mask: how tokens are hidden; null: the modality's preference.
    masks: masks of each sample in a step, which share what targets cost (data2vec 2.0, arXiv 2212.07525, section 3.3).
    predictor: how hidden places are predicted from the others; null: a light transformer on the encoded visible tokens.
    targets: what is predicted, each with its loss and weight; null: the raw content.
    view: what targets are computed from: the same random view as the encoder sees, or the samples as they are (clean).
    publish: the student, or the teacher of a target that keeps one.
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
        publish: Literal["student", "teacher"] = "student",
        across: Across = "none",
        modality: str | None = None,
    ) -> None:
        super().__init__(
            model,
            setup,
            mask=mask,
            masks=masks,
            predictor=predictor or Transformer(),
            targets=[Raw()] if targets is None else targets,
            view=view,
            publish=publish,
            across=across,
            modality=modality,
        )

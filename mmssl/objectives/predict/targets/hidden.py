"""The target that is the mask itself: VIME."""

from typing import Literal

import torch

from mmssl.model import MMSSLModel
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target
from mmssl.objectives.terms import Weight


class Hidden(Target):
    """Which places were hidden, at every place: two classes (VIME, NeurIPS 2020, section 4.1: mask vector estimation).

    Needs a predictor that answers at all places, and a corruption that looks like content.

    equal: what a value counts as that was swapped for an equal one: hidden, as in the paper's equation 2, or seen, as in the
        reference code (`pretext_generator` of vime_utils.py): nobody could tell.
    loss: cross_entropy with its settings; null: cross-entropy.
    weight: factor on its loss.
    """

    raw = False
    everywhere = True

    def __init__(self, *, equal: Literal["hidden", "seen"] = "hidden", loss: Loss | None = None, weight: Weight = 1.0) -> None:
        super().__init__(loss, weight)
        self.equal = equal

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"hidden": 2}

    def forward(self, scene: Scene) -> Answer:
        hidden = scene.parts.hidden_places(scene.tokens.values.shape[1])
        return Answer({"hidden": (scene.altered if self.equal == "seen" else hidden).long()})

    def outline(self, scene: Scene) -> Outline:
        hidden = scene.parts.hidden_places(scene.tokens.values.shape[1])
        return Outline({"hidden": torch.ones_like(hidden)})

"""The target that is the mask itself: VIME."""

from mmssl.model import MMSSLModel
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.parts import Answer, Scene, Target
from mmssl.objectives.terms import Weight


class Hidden(Target):
    """Which places were hidden, at every place: two classes (VIME, NeurIPS 2020, section 4.1: mask vector estimation).

    Needs a predictor that answers at all places, and a corruption that looks like content. A value that is swapped for an equal one
    counts as hidden, as in the paper's equation 2; the reference code counts it as not hidden.

    loss: cross_entropy with its settings; null: cross-entropy.
    weight: factor on its loss.
    """

    raw = False
    everywhere = True

    def __init__(self, *, loss: Loss | None = None, weight: Weight = 1.0) -> None:
        super().__init__(loss, weight)

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"hidden": 2}

    def forward(self, scene: Scene) -> Answer:
        return Answer({"hidden": scene.parts.hidden_places(scene.tokens.values.shape[1]).long()})

"""Targets that a modality can say of its tokens beside their content, as a constant-Q transform of a sound."""

from collections.abc import Sequence

from mmssl.model import MMSSLModel
from mmssl.objectives.networks import Networks
from mmssl.objectives.predict.distances import Loss, Mse
from mmssl.objectives.predict.parts import Answer, Scene, Target
from mmssl.objectives.predict.targets.vectors import content_of, content_sizes
from mmssl.objectives.terms import Weight


class Aspect(Target):
    """An aspect of each token that its modality offers by name, as the musical teacher of MERT (arXiv 2306.00107, section 3.3).

    of: name of the aspect; which there are depends on the modality.
    loss: distance between prediction and target; null: squared error.
    weight: factor on its loss.
    """

    raw = False  # an aspect may look beyond its token
    default_loss = Mse

    def __init__(self, *, of: str, loss: Loss | None = None, weight: Weight = 1.0) -> None:
        super().__init__(loss, weight)
        self.of = of

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        for name in modalities:
            content_sizes(networks.student, name, self.of)

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return content_sizes(model, name, self.of)

    def forward(self, scene: Scene) -> Answer:
        return Answer(content_of(scene, self.of))

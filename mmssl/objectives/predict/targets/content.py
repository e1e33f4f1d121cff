"""Targets that are what a token holds: its values as they are, or normalised within the token."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mmssl.losses.tokens import normalise_tokens
from mmssl.model import MMSSLModel
from mmssl.objectives.networks import Networks
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.parts import Answer, Scene, Target
from mmssl.objectives.predict.targets.places import Places, only
from mmssl.objectives.terms import Weight


class Raw(Target):
    """The content of a token: pixels, mel values, ids, cells, points; integer targets are classes.

    places: which of the predicted places count, where a predictor answers at all of them: hidden, seen, or all that are predicted;
        altered = hidden ones, and of others the values that the view changed (with `view: clean`).
    loss: distance between prediction and target; null: squared error, Chamfer distance of sets of points, cross-entropy of classes.
    weight: factor on its loss.
    """

    def __init__(
        self, *, places: Places | Literal["altered"] = "predicted", loss: Loss | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(loss, weight)
        self.places, self.everywhere = places, places in ("seen", "altered")

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return model.adapter(name).target_sizes

    def forward(self, scene: Scene) -> Answer:
        viewed = scene.content_of_view if self.places == "altered" else dict[str, Tensor]()
        return Answer({key: only(value, scene, self.places, viewed.get(key)) for key, value in scene.content.items()})

    def shown(self, predicted: Float[Tensor, "b m t"], truth: Float[Tensor, "b m t"]) -> Float[Tensor, "b m t"]:
        return predicted


class Normalised(Target):
    """The values of a token, normalised within the token (MAE, arXiv 2111.06377, section 4.1); integer targets are classes.

    loss: distance between prediction and target; null: squared error, cross-entropy for classes.
    weight: factor on its loss.
    """

    def __init__(self, *, loss: Loss | None = None, weight: Weight = 1.0) -> None:
        super().__init__(loss, weight)

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        for name in modalities:
            if networks.student.adapter(name).point_dim:
                raise ValueError(f"objective.targets: normalised would mix the axes of the points of {name!r}; choose raw")

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return model.adapter(name).target_sizes

    def forward(self, scene: Scene) -> Answer:
        content = scene.content.items()
        return Answer({key: normalise_tokens(value.float())[0] if value.is_floating_point() else value for key, value in content})

    def shown(self, predicted: Float[Tensor, "b m t"], truth: Float[Tensor, "b m t"]) -> Float[Tensor, "b m t"]:
        _, mean, std = normalise_tokens(truth.float())
        return predicted * std + mean

"""The target that is a token's place among all places: position prediction."""

import math
from collections.abc import Sequence

import torch

from mmssl.model import MMSSLModel
from mmssl.model.config import Positive
from mmssl.objectives.networks import Networks
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.parts import Answer, Scene, Target
from mmssl.objectives.terms import Weight


class Position(Target):
    """The place of a token as one class among all places of a grid (MP3, arXiv 2207.07611).

    Give it to the predictor `unordered`: all others tell the encoder the places.

    grid: places along time, depth, height and width, as in [1, 1, 8, 8] for pictures of 8 x 8 patches.
    loss: distance between prediction and target; null: cross-entropy.
    weight: factor on its loss.
    """

    raw = False

    def __init__(
        self, *, grid: tuple[Positive, Positive, Positive, Positive], loss: Loss | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(loss, weight)
        self.grid = tuple(grid)

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        for name in modalities:
            adapter = networks.student.adapter(name)
            if adapter.has_identity or adapter.point_dim:
                raise ValueError(f"objective.targets: position needs tokens with numbered places, and those of {name!r} have none")

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"position": math.prod(self.grid)}

    def forward(self, scene: Scene) -> Answer:
        coords, valid = scene.tokens.coords, scene.tokens.valid_or_ones()
        place = coords.round().long()
        size = torch.tensor(self.grid, device=coords.device)
        outside = (place < 0) | (place >= size) | ((coords - place).abs() > 1e-3)
        if (outside.any(-1) & valid).any():
            top = [f"{value:g}" for value in coords[valid].amax(0).tolist()]
            raise ValueError(
                f"objective.targets: position has grid: {list(self.grid)}, but tokens of {scene.name!r} lie elsewhere, up to "
                f"{', '.join(top)}. Coordinates must be whole numbers from 0 on, each below its entry of the grid"
            )
        number = torch.zeros_like(place[..., 0])
        for axis, count in enumerate(self.grid):
            number = number * count + place[..., axis]
        return Answer({"position": number.masked_fill(~valid, -100)})

"""Targets that are what a frozen model of mmssl makes of the sample: self-distilled further pretraining."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.losses.tokens import mean_where
from mmssl.model import MMSSLModel, load_model
from mmssl.objectives.distances import Loss, Mse
from mmssl.objectives.parts import Scene, Target
from mmssl.objectives.targets.content import Weight
from mmssl.teacher import ema_copy
from mmssl.tokens import Tokens


class Teacher(Target):
    """What a frozen model makes of the whole sample.

    Self-distilled further pretraining (arXiv 2210.02871, section 3) keeps the student's representation of the whole sample near to
    that of a teacher, the same model after a first round on the same data; the paper compares the CLS tokens, by the sum of squares
    over the width (weight: that width). `predicted` asks for the teacher's tokens at the hidden places instead, as MVP (arXiv
    2203.05175) and EVA (arXiv 2211.07636) do with other teachers.

    model: folder or Hub id of the teacher, read from safetensors; null: the model as it is when the run starts.
    compare: pooled = the pooled representations of the whole sample; tokens = those of all its tokens; predicted = the teacher's
        tokens with the prediction at the predicted places.
    loss: distance between the two; null: squared error, the mean over the width.
    weight: factor on its loss.
    """

    raw = False
    default_loss = Mse

    def __init__(
        self,
        *,
        model: str | None = None,
        compare: Literal["pooled", "tokens", "predicted"] = "pooled",
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.path, self.compare = model, compare
        self.distance: dict[str, Tensor] = {}

    def prepare(self, model: MMSSLModel, modalities: Sequence[str]) -> None:
        self.frozen = ema_copy(model if self.path is None else load_model(self.path)).eval()
        if missing := [name for name in modalities if name not in self.frozen.adapters]:
            known = ", ".join(self.frozen.adapters)
            raise ValueError(f"objective.targets: the teacher {self.path} knows {known}, but not {', '.join(missing)}")
        mine, its = model.config.hidden_size, self.frozen.config.hidden_size
        if self.compare != "predicted" and mine != its:
            raise ValueError(
                f"objective.targets: teacher compares representations of width {mine} with those of {self.path}, of width {its}; "
                "choose compare: predicted, which puts a linear map between them"
            )

    def train(self, mode: bool = True) -> "Teacher":
        """The teacher stays in evaluation mode: no stochastic depth."""
        return super().train(False)

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"teacher": self.frozen.config.hidden_size} if self.compare == "predicted" else {}

    def forward(self, scene: Scene) -> dict[str, Tensor]:
        with torch.no_grad():
            theirs = self.frozen.encode(scene.name, scene.inputs)
        if self.compare == "predicted":
            count = scene.tokens.values.shape[1]
            return {"teacher": theirs.tail(count).values}
        ours = scene.model.encode(scene.name, scene.inputs)
        self.distance = {"teacher_distance": self.weight * self.between(scene, ours, theirs)}
        return {}

    def between(self, scene: Scene, ours: Tokens, theirs: Tokens) -> Float[Tensor, ""]:
        """Mean distance of the two representations."""
        loss = self.loss or Mse()
        if self.compare == "pooled":
            a, b = scene.model.pool(ours)[:, None], self.frozen.pool(theirs)[:, None]
            return mean_where(*loss(a, b, None, scene.draws))
        if ours.values.shape != theirs.values.shape:
            raise ValueError(
                f"objective.targets: the teacher {self.path} makes {theirs.values.shape[1]} tokens of a sample, prefix included, "
                f"the student {ours.values.shape[1]}; choose compare: pooled, or give both the same processor and prefix"
            )
        each, there = loss(ours.values, theirs.values, ours.valid, scene.draws)
        return mean_where(each, there if ours.valid is None else there & ours.valid)

    def extra(self) -> dict[str, Float[Tensor, ""]]:
        return self.distance

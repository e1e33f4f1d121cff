"""Targets that are what a frozen model of mmssl makes of the sample: self-distilled further pretraining."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mmssl.model import MMSSLModel
from mmssl.objectives.networks import Frozen, Networks
from mmssl.objectives.predict.distances import Loss, Mse
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target, moved
from mmssl.objectives.terms import Term, Weight
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

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        self.frozen = networks.want("frozen", Frozen(self.path))
        its, mine = networks.config(self.frozen), networks.student.config
        if missing := [name for name in modalities if name not in its.modalities]:
            known = ", ".join(its.modalities)
            raise ValueError(f"objective.targets: the teacher {self.path} knows {known}, but not {', '.join(missing)}")
        self.width = its.hidden_size
        if self.compare != "predicted" and mine.hidden_size != self.width:
            raise ValueError(
                f"objective.targets: teacher compares representations of width {mine.hidden_size} with those of {self.path}, of "
                f"width {self.width}; choose compare: predicted, which puts a linear map between them"
            )

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return moved(state, {"frozen": self.frozen})

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"teacher": self.width} if self.compare == "predicted" else {}

    def forward(self, scene: Scene) -> Answer:
        theirs = scene.encoded(self.frozen)
        if self.compare == "predicted":
            return Answer({"teacher": theirs.tail(scene.tokens.values.shape[1]).values})
        ours = scene.model.encoder(replace(scene.model.embed(scene.name, scene.inputs), keys=scene.tokens.keys))
        return Answer({}, {"teacher_distance": self.between(scene, ours, theirs)})

    def outline(self, scene: Scene) -> Outline:
        if self.compare == "predicted":
            return Outline({"teacher": torch.ones_like(scene.valid)})
        b, prefix = len(scene.valid), scene.model.encoder.num_prefix
        count = torch.tensor(b) if self.compare == "pooled" else scene.valid.sum() + b * prefix
        return Outline({}, {"teacher_distance": count.to(scene.valid.device)})

    def between(self, scene: Scene, ours: Tokens, theirs: Tokens) -> Term:
        """Distance of the two representations."""
        loss = self.loss or Mse()
        if self.compare == "pooled":
            a, b = scene.model.pool(ours)[:, None], scene.networks[self.frozen].pool(theirs)[:, None]
            return Term.tokens(*loss(a, b, None, scene.draws), factor=self.weight)
        if ours.values.shape != theirs.values.shape:
            raise ValueError(
                f"objective.targets: the teacher {self.path} makes {theirs.values.shape[1]} tokens of a sample, prefix included, "
                f"the student {ours.values.shape[1]}; choose compare: pooled, or give both the same processor and prefix"
            )
        each, there = loss(ours.values, theirs.values, ours.valid, scene.draws)
        return Term.tokens(each, there if ours.valid is None else there & ours.valid, factor=self.weight)

"""Targets that are clusters of a teacher's tokens, found while training: CAPI."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.losses.sinkhorn import sinkhorn
from mmssl.losses.tokens import soft_classification
from mmssl.model import MMSSLModel
from mmssl.model.config import Positive
from mmssl.objectives.networks import Moving, Networks, Shape, WarmupShare
from mmssl.objectives.predict.distances import CrossEntropy, Loss
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target, moved
from mmssl.objectives.predict.targets.latent import Momentum
from mmssl.objectives.terms import Mean, State, Term, Weight

Temperature = Annotated[float, Field(gt=0)]


class Assignments(Target):
    """To which clusters a teacher's token belongs, softly and balanced over the batch (CAPI, arXiv 2502.08769).

    The teacher is a moving average of the student; its tokens, scaled to length 1, are scored by learned prototypes, and
    Sinkhorn-Knopp balances the scores. The same assignments teach the prototypes, whose loss is logged as `clustering`. Balance is
    over the samples of one process in one forward pass: with accumulation it is over less than a batch.

    clusters: number of prototypes; the paper has 16384.
    target_temperature: what scores are divided by before they are balanced.
    temperature: what scores are divided by in the loss of the prototypes.
    iterations: of Sinkhorn-Knopp.
    positional: balance over the samples at each place by itself, so that no cluster stands for a place; false: over all tokens.
    momentum: of the teacher, at the start and at the end of the budget.
    momentum_scale: k, the batch size of the run over the one that the momentum is meant for.
    momentum_schedule: how the momentum goes from start to end.
    momentum_warmup: share of the budget during which the momentum falls from 1 to its start, before that (CAPI).
    loss: distance between prediction and target; null: cross-entropy with temperature 0.12.
    weight: factor on its loss, not on that of the prototypes.
    """

    raw = False
    over_batch = True

    def __init__(
        self,
        *,
        clusters: Positive = 1024,
        target_temperature: Temperature = 0.06,
        temperature: Temperature = 0.12,
        iterations: Positive = 3,
        positional: bool = True,
        momentum: tuple[Momentum, Momentum] = (0.999, 1.0),
        momentum_scale: Annotated[float, Field(gt=0)] = 1.0,
        momentum_schedule: Shape = "linear",
        momentum_warmup: WarmupShare = 0.0,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss or CrossEntropy(temperature=0.12), weight)
        self.clusters, self.iterations, self.positional = clusters, iterations, positional
        self.target_temperature, self.temperature = target_temperature, temperature
        self.rule = Moving(*momentum, momentum_scale, momentum_schedule, momentum_warmup)

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        self.teacher = networks.want("teacher", self.rule)
        self.prototypes = nn.Linear(networks.student.config.hidden_size, self.clusters)
        nn.init.normal_(self.prototypes.weight)
        nn.init.zeros_(self.prototypes.bias)

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return moved(state, {"latent.average": self.teacher}, ("latent.used",))

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"assignments": self.clusters}

    def head(self, width: int, size: int) -> nn.Module:
        return UnitLinear(width, size)

    def forward(self, scene: Scene) -> Answer:
        valid = scene.valid
        latents = scene.encoded(self.teacher).tail(valid.shape[1]).values.float()
        scores = self.prototypes(F.normalize(latents, dim=-1)).float()
        assigned = self.assign(scores.detach() / self.target_temperature, valid)
        clustering = soft_classification(scores / self.temperature, assigned)[0]
        return Answer(
            {"assignments": assigned.masked_fill(~valid[..., None], torch.nan)},
            {"clustering": Term.tokens(clustering, valid)},
            {
                "momentum": State(scores.new_tensor(self.rule.momentum(scene.clock.progress))),
                "target_entropy": Mean.of(torch.special.entr(assigned).sum(-1), valid),
            },
        )

    def outline(self, scene: Scene) -> Outline:
        return Outline({"assignments": scene.valid}, {"clustering": scene.valid.sum()})

    def assign(self, scores: Float[Tensor, "b n k"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b n k"]:
        """Balanced assignments, place by place or all together."""
        if self.positional:
            return sinkhorn(scores.transpose(0, 1), self.iterations, valid.T).transpose(0, 1)
        return sinkhorn(scores.flatten(0, 1), self.iterations, valid.flatten()).view(scores.shape)


class UnitLinear(nn.Module):
    """Scores of unit-length inputs against unit-length directions, each with a learned gain."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, width))
        self.gain = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.ones_(self.gain)

    def forward(self, x: Float[Tensor, "b m w"]) -> Float[Tensor, "b m k"]:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1)) * self.gain

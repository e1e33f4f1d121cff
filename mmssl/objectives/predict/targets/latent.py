"""Targets that are a teacher's encoding of the whole sample: data2vec, I-JEPA."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmssl.losses.spectrum import effective_rank, spread
from mmssl.model import MMSSLModel
from mmssl.objectives.networks import Moving, Networks, Shape, WarmupShare
from mmssl.objectives.predict.distances import Loss, SmoothL1
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target, moved
from mmssl.objectives.terms import Metric, Rows, State, Weight

Momentum = Annotated[float, Field(ge=0, le=1)]


def normalise(values: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"] | None, how: str) -> Float[Tensor, "b n d"]:
    """Zero mean and unit variance without learned gains: of each token (layer), or of each channel over a sample (instance)."""
    if how == "layer":
        return F.layer_norm(values, values.shape[-1:])
    if how == "none":
        return values
    weight = torch.ones_like(values[..., :1]) if valid is None else valid[..., None].to(values.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    mean = (values * weight).sum(1, keepdim=True) / count
    variance = ((values - mean).square() * weight).sum(1, keepdim=True) / count
    return (values - mean) / (variance + 1e-5).sqrt()


class Latent(Target):
    """What a teacher, a moving average of the student, makes of the whole sample at each place.

    data2vec (arXiv 2202.03555, section 3.3: the mean of the top K layers, each normalised) and I-JEPA (arXiv 2301.08243, section 3:
    the output of the last layer, normalised). The momentum goes from start to end over the budget; with a batch k times
    that of the paper it becomes momentum^k (arXiv 2307.13813, definition 1.2).

    layers: layers whose outputs are averaged, from the top; 1: the encoder's output; null: all layers.
    part: block = what a layer gives; ffn = what its MLP adds, before the last residual connection (data2vec).
    normalise: each layer's output before the mean: layer = within each token; instance = each channel over the sample; none.
    final: the same for the mean.
    momentum: of the teacher, at the start and at the end of the budget.
    momentum_scale: k, the batch size of the run over the one that the momentum is meant for.
    momentum_schedule: how the momentum goes from start to end.
    momentum_warmup: share of the budget during which the momentum falls from 1 to its start, before that (CAPI).
    loss: distance between prediction and target; null: smooth L1.
    weight: factor on its loss.
    """

    raw = False
    default_loss = SmoothL1

    def __init__(
        self,
        *,
        layers: Annotated[int, Field(gt=0)] | None = 1,
        part: Literal["block", "ffn"] = "block",
        normalise: Literal["layer", "instance", "none"] = "layer",
        final: Literal["layer", "instance", "none"] = "none",
        momentum: tuple[Momentum, Momentum] = (0.996, 1.0),
        momentum_scale: Annotated[float, Field(gt=0)] = 1.0,
        momentum_schedule: Shape = "linear",
        momentum_warmup: WarmupShare = 0.0,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.wanted, self.part, self.how, self.final = layers, part, normalise, final
        self.rule = Moving(*momentum, momentum_scale, momentum_schedule, momentum_warmup)

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        depth = len(networks.student.encoder.layers)
        self.layers = depth if self.wanted is None else self.wanted
        if self.layers > depth:
            raise ValueError(f"objective.targets: latent averages {self.layers} layers, but the encoder has {depth}; lower layers")
        self.teacher = networks.want("teacher", self.rule)

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return moved(state, {"average": self.teacher}, ("used",))

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"latent": model.config.hidden_size}

    @torch.no_grad()
    def forward(self, scene: Scene) -> Answer:
        tokens = scene.embedded(self.teacher)
        values = normalise(self.latents(scene), tokens.valid, self.final)
        metrics: dict[str, Metric] = {"momentum": State(values.new_tensor(self.rule.momentum(scene.clock.progress)))}
        if scene.diagnose:
            pooled = tokens.with_values(values).mean()
            metrics["target_std"] = Rows(values.flatten(0, 1) if tokens.valid is None else values[tokens.valid], spread)
            metrics["target_sample_std"] = Rows(pooled, spread)
            metrics["target_rank"] = Rows(pooled, effective_rank)
        return Answer({"latent": values}, metrics=metrics)

    def outline(self, scene: Scene) -> Outline:
        return Outline({"latent": torch.ones_like(scene.valid)})

    def latents(self, scene: Scene) -> Float[Tensor, "b n d"]:
        """The mean of the normalised outputs of the teacher's top layers, without prefix tokens."""
        tokens = scene.embedded(self.teacher)
        if self.layers == 1 and self.part == "block":
            found = [scene.encoded(self.teacher)]
        else:
            found = scene.layers(self.teacher, self.layers, self.part)
        count = tokens.values.shape[1]
        return torch.stack([normalise(one.tail(count).values.float(), tokens.valid, self.how) for one in found]).mean(0)

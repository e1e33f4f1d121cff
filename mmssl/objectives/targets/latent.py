"""Targets that are a teacher's encoding of the whole sample: data2vec, I-JEPA."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmssl.losses.health import effective_rank
from mmssl.model import MMSSLModel
from mmssl.objectives.distances import Loss, SmoothL1
from mmssl.objectives.parts import Scene, Target
from mmssl.objectives.targets.content import Weight
from mmssl.teacher import ema_copy, ema_update
from mmssl.tokens import Tokens

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
    the output of the last layer, normalised). The momentum rises linearly from start to end over the budget; with a batch k times
    that of the paper it becomes momentum^k (arXiv 2307.13813, definition 1.2).

    layers: layers whose outputs are averaged, from the top; 1: the encoder's output; null: all layers.
    part: block = what a layer gives; ffn = what its MLP adds, before the last residual connection (data2vec).
    normalise: each layer's output before the mean: layer = within each token; instance = each channel over the sample; none.
    final: the same for the mean.
    momentum: of the teacher, at the start and at the end of the budget.
    momentum_scale: k, the batch size of the run over the one that the momentum is meant for.
    loss: distance between prediction and target; null: smooth L1.
    weight: factor on its loss.
    """

    raw = False
    default_loss = SmoothL1
    used: Tensor
    """The momentum of the last update; kept in checkpoints only so that it can be logged."""

    def __init__(
        self,
        *,
        layers: Annotated[int, Field(gt=0)] | None = 1,
        part: Literal["block", "ffn"] = "block",
        normalise: Literal["layer", "instance", "none"] = "layer",
        final: Literal["layer", "instance", "none"] = "none",
        momentum: tuple[Momentum, Momentum] = (0.996, 1.0),
        momentum_scale: Annotated[float, Field(gt=0)] = 1.0,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.wanted, self.part, self.how, self.final = layers, part, normalise, final
        self.momentum, self.kappa = momentum, momentum_scale
        self.seen: dict[str, Tensor] = {}
        self.register_buffer("used", torch.tensor(self.momentum_at(0.0)))

    def prepare(self, model: MMSSLModel, modalities: Sequence[str]) -> None:
        depth = len(model.encoder.layers)
        self.layers = depth if self.wanted is None else self.wanted
        if self.layers > depth:
            raise ValueError(f"objective.targets: latent averages {self.layers} layers, but the encoder has {depth}; lower layers")
        self.average = ema_copy(model).eval()

    def train(self, mode: bool = True) -> "Latent":
        """The teacher stays in evaluation mode: no stochastic depth."""
        return super().train(False)

    def teacher(self) -> MMSSLModel:
        return self.average

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"latent": model.config.hidden_size}

    @torch.no_grad()
    def forward(self, scene: Scene) -> dict[str, Tensor]:
        tokens = self.average.embed(scene.name, scene.inputs)
        latents = self.encode(tokens)
        values = normalise(latents, tokens.valid, self.final)
        pooled = tokens.with_values(values).mean()
        self.seen = {
            "target_std": spread(values, tokens.valid),
            "target_sample_std": spread(pooled[:, None], None),
            "target_rank": effective_rank(pooled),
        }
        return {"latent": values}

    def encode(self, tokens: Tokens) -> Float[Tensor, "b n d"]:
        """The mean of the normalised outputs of the top layers, without prefix tokens."""
        encoder, count = self.average.encoder, tokens.values.shape[1]
        if self.layers == 1 and self.part == "block":
            found = [encoder(tokens)]
        else:
            found = encoder.layer_outputs(tokens, self.layers, part=self.part)
        outputs = [normalise(one.tail(count).values.float(), tokens.valid, self.how) for one in found]
        return torch.stack(outputs).mean(0)

    def metrics(self) -> dict[str, Tensor]:
        return self.seen | {"momentum": self.used.clone()}

    def after_step(self, model: MMSSLModel, progress: float) -> None:
        momentum = self.momentum_at(progress)
        ema_update(self.average, model, momentum)
        self.used.fill_(momentum)

    def momentum_at(self, progress: float) -> float:
        """The momentum when `progress` of the budget is used up."""
        start, end = self.momentum
        return float((start + (end - start) * progress) ** self.kappa)


def spread(values: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"] | None) -> Float[Tensor, ""]:
    """Mean over channels of the standard deviation over all valid tokens of a batch: near 0 when all are alike (collapse)."""
    flat = values.flatten(0, 1) if valid is None else values[valid]
    return flat.std(0).mean() if len(flat) > 1 else flat.new_zeros(())

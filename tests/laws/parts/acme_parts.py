"""Parts that mmssl does not have: an objective, and a target, a predictor, a sampler and a loss of hide-and-predict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from mmssl.data import Batch
from mmssl.draws import Draws
from mmssl.masking import Scored, Split
from mmssl.model import Encoder, MMSSLConfig, MMSSLModel, initialise_all
from mmssl.objectives import Mean, Objective, Setup, Step, Term, Terms
from mmssl.objectives.distances import Loss, PerToken, Regression
from mmssl.objectives.parts import Answer, Predicted, Predictor, Scene, Target
from mmssl.tokens import Tokens, gather


class Agreement(Objective):
    """Predict the embedding of one view of a sample from another view (SimSiam, arXiv 2011.10566, without its projector).

    hidden_size: width of the predictor.
    """

    def __init__(self, model: MMSSLModel, setup: Setup, *, hidden_size: Annotated[int, Field(gt=0)] = 32) -> None:
        super().__init__(model, setup)
        width = model.config.hidden_size
        self.predictor = nn.Sequential(nn.Linear(width, hidden_size), nn.GELU(), nn.Linear(hidden_size, width))
        initialise_all(self.predictor, model.config)

    def terms(self, batch: Batch, step: Step) -> Terms:
        name = batch.modality
        one, other = (self.model.pool(self.model.encode(name, self.view(batch, name, number))) for number in range(2))
        similarity = F.cosine_similarity(self.predictor(one), other.detach(), dim=-1)
        return Terms({"loss": Term.samples(1 - similarity)}, {"similarity": Mean.of(similarity.detach())})


class Energy(Target):
    """The root mean square of the float values of a token.

    loss: distance between prediction and target; null: squared error.
    weight: factor on its loss.
    """

    def __init__(self, *, loss: Loss | None = None, weight: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__(loss, weight)

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"energy": 1}

    def forward(self, scene: Scene) -> Answer:
        floats = [value for value in scene.content.values() if value.is_floating_point()]
        return Answer({"energy": torch.cat(floats, -1).square().nanmean(-1, keepdim=True).sqrt()})


class PlacesOnly(Predictor):
    """The mean of the encoded seen tokens and a linear function of the place that is asked for."""

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.width = config.hidden_size
        self.place = nn.Linear(4, self.width)

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        context = encoder(tokens.take(parts.seen, parts.seen_real)).mean()
        values = context[:, None] + self.place(gather(tokens.coords, parts.hidden))
        return Predicted(values, parts.hidden, parts.hidden_real)


@dataclass(frozen=True, kw_only=True)
class Every(Scored):
    """Every so many tokens one is hidden, from a first one that is drawn.

    step: tokens from one hidden token to the next.
    """

    step: Annotated[int, Field(gt=1)] = 2

    def __call__(
        self, coords: Float[Tensor, "b n 4"], available: Bool[Tensor, "b n"], draws: Draws
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, " b"]]:
        place = torch.arange(coords.shape[1], device=coords.device) + draws.integers("first", self.step, 1)
        chosen = (place % self.step == 0) & available
        return (~chosen).float(), chosen.sum(1)


@dataclass(frozen=True, kw_only=True)
class LogCosh(Regression):
    """Logarithm of the hyperbolic cosine of the error, mean over the values of a token."""

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        there = ~target.isnan()
        error = predicted.float() - torch.where(there, target, predicted.detach()).float()
        loss = error + F.softplus(-2 * error) - math.log(2)
        count = there.sum(-1)
        return loss.sum(-1) / count.clamp(min=1), count > 0

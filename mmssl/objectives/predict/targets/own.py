"""Targets that the student itself makes: the embedding of a token, and its encoding of the hidden tokens alone."""

from dataclasses import replace

import torch

from mmssl.model import MMSSLModel
from mmssl.objectives.predict.distances import Cosine, Loss, Mse
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target
from mmssl.objectives.terms import Weight


class Embedding(Target):
    """The token itself, as the adapter embeds it before the encoder, in the view that the student sees.

    With the predictor `causal` and the cosine loss the next embedding (NEPA, arXiv 2512.16922); with `info_nce` among the hidden
    places of a sample which of the hidden pieces fits where (Selfie, arXiv 1906.02940).

    stop_gradient: no gradient through the target (NEPA); false: embeddings learn from it too, under a contrastive loss (Selfie).
    head: a linear map between prediction and target; false: what the predictor gives, which must have the encoder's width.
    loss: distance between prediction and target; null: cosine.
    weight: factor on its loss.
    """

    default_loss = Cosine

    def __init__(self, *, stop_gradient: bool = True, head: bool = True, loss: Loss | None = None, weight: Weight = 1.0) -> None:
        super().__init__(loss, weight)
        self.stop_gradient, self.has_head = stop_gradient, head

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"embedding": model.config.hidden_size if self.has_head else 0}

    def forward(self, scene: Scene) -> Answer:
        values = scene.tokens.values.detach() if self.stop_gradient else scene.tokens.values
        valid = scene.tokens.valid
        return Answer({"embedding": values if valid is None else values.masked_fill(~valid[..., None], torch.nan)})


class Encoding(Target):
    """What the student's own encoder makes of the hidden tokens alone, without gradient (CAE, arXiv 2202.03026).

    Compared with what goes into the decoder of the predictor `cross_attention`: the alignment of CAE.

    head: a linear map between prediction and target; false: what the predictor gives, which must have the encoder's width.
    loss: distance between prediction and target; null: squared error.
    weight: factor on its loss; CAE has 2.
    """

    default_loss = Mse
    from_latent = True

    def __init__(self, *, head: bool = True, loss: Loss | None = None, weight: Weight = 1.0) -> None:
        super().__init__(loss, weight)
        self.has_head = head

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"encoding": model.config.hidden_size if self.has_head else 0}

    @torch.no_grad()
    def forward(self, scene: Scene) -> Answer:
        count = scene.tokens.values.shape[1]
        tokens = scene.tokens.repeat(len(scene.parts.hidden) // len(scene.tokens.values))
        hidden = scene.parts.hidden_places(count)
        # A token that is not valid is attended to by none: the hidden ones see each other, and the others are dropped.
        values = scene.model.encoder(replace(tokens, valid=hidden)).tail(count).values
        return Answer({"encoding": values.masked_fill(~hidden[..., None], torch.nan)})

    def outline(self, scene: Scene) -> Outline:
        return Outline({"encoding": scene.parts.hidden_places(scene.tokens.values.shape[1])})

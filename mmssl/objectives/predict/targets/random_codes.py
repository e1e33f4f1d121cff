"""Codes of a frozen random quantiser: BEST-RQ."""

from collections.abc import Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from mmssl.model import MMSSLModel
from mmssl.model.config import Positive
from mmssl.objectives.networks import Clock, Networks
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target, anything
from mmssl.objectives.predict.targets.vectors import Vectors, content_of, content_sizes, counted_of
from mmssl.objectives.terms import Used, Weight


class RandomQuantiser(nn.Module):
    """Frozen random projections and frozen random codebooks; the code of a vector is the entry nearest to its projection.

    Both are normalised first, so that the nearest is that of the largest cosine (BEST-RQ, arXiv 2202.01855, eq. 1). Projections are
    drawn as Xavier's, entries from a normal distribution (section 3.1).
    """

    def __init__(self, size: int, codebooks: int, codes: int, width: int) -> None:
        super().__init__()
        bound = (6 / (size + width)) ** 0.5
        self.register_buffer("projection", torch.empty(codebooks, size, width).uniform_(-bound, bound))
        self.register_buffer("codebook", F.normalize(torch.randn(codebooks, codes, width), dim=-1))
        self.projection: Tensor
        self.codebook: Tensor

    def forward(self, vectors: Float[Tensor, "b n w"]) -> list[Tensor]:
        """The codes `[b, n]` of each codebook."""
        with torch.autocast(vectors.device.type, enabled=False):
            pairs = zip(self.projection, self.codebook, strict=True)
            return [(F.normalize(vectors.float() @ matrix, dim=-1) @ entries.T).argmax(-1) for matrix, entries in pairs]


class RandomCodes(Target):
    """Codes of what a token holds, by a quantiser that is drawn at random and never learns (BEST-RQ, arXiv 2202.01855).

    Several codebooks, each with its own projection and head, are predicted at once (USM, arXiv 2303.01037, section 2.2).

    of: what the codes are made of: null = the content of a token, or the name of an aspect that the modality offers.
    codebooks: codebooks, and predictions.
    codes: entries of each.
    width: width of an entry.
    loss: distance between prediction and target; null: cross-entropy.
    weight: factor on its loss.
    """

    raw = False  # a code of a whole token cannot be read off its border, which is all that an overlapping stem lets through

    def __init__(
        self,
        *,
        of: str | None = None,
        codebooks: Positive = 1,
        codes: Annotated[int, Field(gt=1)] = 8192,
        width: Positive = 16,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.of, self.codebooks, self.codes, self.width = of, codebooks, codes, width

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        model = networks.student
        sets = {name: 0 if self.of else model.adapter(name).point_dim for name in modalities}
        parts = {name: Vectors(content_sizes(model, name, self.of), sets[name]) for name in modalities}
        self.vectors = nn.ModuleDict(parts)
        self.quantisers = nn.ModuleDict(
            {name: RandomQuantiser(part.width, self.codebooks, self.codes, self.width) for name, part in parts.items()}
        )

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {f"codes_{number + 1}": self.codes for number in range(self.codebooks)}

    @torch.no_grad()
    def forward(self, scene: Scene) -> Answer:
        content = content_of(scene, self.of)
        there = anything(content)
        found = self.quantisers[scene.name](self.vectors[scene.name](content))
        values = {f"codes_{number + 1}": codes.masked_fill(~there, -100) for number, codes in enumerate(found)}
        return Answer(values, metrics={"codes_used": used(found[0][there], self.codes)})

    def outline(self, scene: Scene) -> Outline:
        return Outline(dict.fromkeys(self.sizes(scene.model, scene.name), anything(content_of(scene, self.of))))

    def observes(self, name: str, clock: Clock) -> bool:
        return not cast(Vectors, self.vectors[name]).fitted

    @torch.no_grad()
    def observe(self, scenes: Sequence[Scene]) -> None:
        cast(Vectors, self.vectors[scenes[0].name]).fit([counted_of(scene, self.of) for scene in scenes])


def used(codes: Int[Tensor, " n"], count: int) -> Used:
    """How many codes are used, weighed: exp of the entropy of their shares."""
    return Used(torch.bincount(codes, minlength=count)[None].float())

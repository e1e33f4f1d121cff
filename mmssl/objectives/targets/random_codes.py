"""Codes of a frozen random quantiser: BEST-RQ."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.config import Positive
from mmssl.model import MMSSLModel
from mmssl.objectives.distances import Loss
from mmssl.objectives.parts import Scene, Target
from mmssl.objectives.targets.content import Weight
from mmssl.objectives.targets.vectors import Vectors, anything, content_of, content_sizes


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
        self.seen: dict[str, Tensor] = {}

    def prepare(self, model: MMSSLModel, modalities: Sequence[str]) -> None:
        sets = {name: 0 if self.of else model.adapter(name).point_dim for name in modalities}
        parts = {name: Vectors(content_sizes(model, name, self.of), sets[name]) for name in modalities}
        self.vectors = nn.ModuleDict(parts)
        self.quantisers = nn.ModuleDict(
            {name: RandomQuantiser(part.width, self.codebooks, self.codes, self.width) for name, part in parts.items()}
        )

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {f"codes_{number + 1}": self.codes for number in range(self.codebooks)}

    @torch.no_grad()
    def forward(self, scene: Scene) -> dict[str, Tensor]:
        content = content_of(scene, self.of)
        there = anything(content)
        found = self.quantisers[scene.name](self.vectors[scene.name](content))
        self.seen = {"codes_used": used(found[0][there], self.codes)}
        return {f"codes_{number + 1}": codes.masked_fill(~there, -100) for number, codes in enumerate(found)}

    def metrics(self) -> dict[str, Tensor]:
        return self.seen


def used(codes: Tensor, count: int) -> Float[Tensor, ""]:
    """How many codes a batch uses, weighed: exp of the entropy of their shares."""
    shares = torch.bincount(codes, minlength=count) / max(1, len(codes))
    return torch.exp(-torch.xlogy(shares, shares).sum())

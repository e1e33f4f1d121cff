"""What answers, from the student's projection, what the network that it follows makes of another view."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.losses.assignments import direct_predictor
from mmssl.model.heads import Head, HeadNorm
from mmssl.plugins import Parts

Share = Annotated[float, Field(ge=0, lt=1)]


class Predicting(nn.Module, ABC):
    """The module of an `Answer`."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "n d"], step: bool) -> Float[Tensor, "n d"]:
        """step: the rows are all samples of an optimizer step."""

    def learned(self, x: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        """Values of its buffers after a step with these projections: what it learns without a gradient."""
        return {}


class Answer(ABC):
    """A predictor as a recipe describes it."""

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """The module for projections of this width."""


@dataclass(frozen=True, kw_only=True)
class MlpAnswer(Answer):
    """A multilayer perceptron that gives back the width of the projections (BYOL, arXiv 2006.07733, section 3.1).

    layers: linear maps.
    hidden: width between them.
    norm: between them: none, batch, layer, or group.
    last_norm: the same behind the last one, without learned gains (MoCo v3, arXiv 2104.02057).
    """

    layers: Annotated[int, Field(gt=0)] = 2
    hidden: Annotated[int, Field(gt=0)] = 512
    norm: HeadNorm = "batch"
    last_norm: HeadNorm = "none"

    def build(self, width: int) -> nn.Module:
        return Head(layers=self.layers, hidden=self.hidden, size=width, norm=self.norm, last_norm=self.last_norm).build(width)


@dataclass(frozen=True, kw_only=True)
class DirectAnswer(Answer):
    """A linear predictor set from the correlation of its inputs, never by gradient (DirectPred, arXiv 2102.06810, section 4).

    momentum: of the moving average of the correlation.
    eps: what is added to the square roots of its eigenvalues, as a share of the largest.
    """

    momentum: Share = 0.3
    eps: Annotated[float, Field(ge=0)] = 0.1

    def build(self, width: int) -> nn.Module:
        return Direct(self, width)


class Direct(Predicting):
    """The module of a `DirectAnswer`."""

    correlation: Tensor

    def __init__(self, options: DirectAnswer, width: int) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("correlation", torch.zeros(width, width))

    def forward(self, x: Float[Tensor, "n d"], step: bool) -> Float[Tensor, "n d"]:
        with torch.no_grad():
            weight = direct_predictor(self.learned(x)["correlation"], self.options.eps)
        return x @ weight.to(x.dtype)

    @torch.no_grad()
    def learned(self, x: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        unit = F.normalize(x.detach().to(self.correlation.dtype), dim=-1)
        now, momentum = unit.mT @ unit / len(unit), self.options.momentum
        before = self.correlation if self.correlation.any() else now
        return {"correlation": momentum * before + (1 - momentum) * now}


ANSWERS: Parts[Callable[..., Answer]] = Parts("mmssl.answers", Answer, {"mlp": MlpAnswer, "direct": DirectAnswer})

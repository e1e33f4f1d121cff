"""Losses that keep views from collapsing by statistics of all samples of a step, without negatives or teachers."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmssl.losses import moments
from mmssl.model.heads import Prototypes
from mmssl.objectives.agree.parts import Agreed, Agreement, Between, Seen, mean_of
from mmssl.objectives.terms import Term, Weight
from mmssl.objectives.views import View


def mean_term(losses: list[Float[Tensor, ""]]) -> Term:
    """The mean of losses that a step has as a whole."""
    return mean_of([torch.stack(losses)] if losses else [])


class Barlow(Agreement):
    """Correlations of two views' features near the identity (Barlow Twins, arXiv 2103.03230, eq. 1-2).

    off_diagonal: factor on redundancy between features, lambda; the paper has 0.0051 with 8,192 of them.
    mixed: factor, times off_diagonal, on what keeps features from overfitting: a sample that is mixed of two, of which each has a
        drawn share, is to have features that correlate as the mixture of theirs does (Mixed Barlow Twins, arXiv 2312.02151; its
        code has 4 on CIFAR-10). For samples whose weighted sum is a sample; 0: none.
    between: pairs of views within a modality, across two of them, or all.
    weight: factor on its loss.
    """

    plain = True

    def __init__(
        self,
        *,
        off_diagonal: Annotated[float, Field(gt=0)] = 0.0051,
        mixed: Annotated[float, Field(ge=0)] = 0.0,
        between: Between = "within",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.off_diagonal, self.mixed, self.between, self.mixes = off_diagonal, mixed, between, mixed > 0

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for a, b in seen.pairs(self.between, ordered=False):
            at, to = seen.shared(a, b)
            losses.append(moments.barlow_twins(seen.projected(a)[at], seen.projected(b)[to], self.off_diagonal))
        terms = {"": mean_term(losses)}
        if self.mixes:
            parts = []
            for view, (a, b) in seen.mixtures.items():
                mixed, first, second = map(seen.projected, (view, a, b))
                parts.append(moments.mixed_barlow(mixed, first, second, *seen.mixture(view)))
            terms["mixed"] = mean_term(parts).times(self.mixed * self.off_diagonal)
        return Agreed(terms)


class Vicreg(Agreement):
    """Views near each other, each feature of variance 1, features uncorrelated (VICReg, arXiv 2105.04906, eq. 1-6).

    invariance, variance, covariance: factors on the three parts.
    between: pairs of views within a modality, across two of them, or all.
    weight: factor on its loss.
    """

    plain = True

    def __init__(
        self,
        *,
        invariance: Weight = 25.0,
        variance: Weight = 25.0,
        covariance: Weight = 1.0,
        between: Between = "within",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.factors = {"invariance": invariance, "variance": variance, "covariance": covariance}
        self.between = between

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        parts: dict[str, list[Tensor]] = {key: [] for key in self.factors}
        for a, b in seen.pairs(self.between, ordered=False):
            at, to = seen.shared(a, b)
            for key, value in moments.vicreg(seen.projected(a)[at], seen.projected(b)[to], **self.factors).items():
                parts[key].append(value)
        return Agreed({key: mean_term(values) for key, values in parts.items()})


class Sigreg(Agreement):
    """All views near the mean of the global ones, and each view's features normally distributed (LeJEPA, arXiv 2511.08544).

    No teacher, no negatives, no schedule. The statistic grows with the samples of a step, so `share` and batch size go together.

    share: of the regulariser in the loss, lambda; the rest is the distance to the mean.
    directions: random directions, new in every step, along which features are looked at.
    statistic: epps_pulley (SIGReg), or quantiles = centre, scale and sliced Wasserstein distance to the normal distribution, which
        keeps its gradient when features collapse (VISReg, arXiv 2606.02572).
    across: whether views of two modalities are drawn together too.
    weight: factor on its loss.
    """

    alone = True
    plain = True

    def __init__(
        self,
        *,
        share: Annotated[float, Field(gt=0, lt=1)] = 0.05,
        directions: Annotated[int, Field(gt=0)] = 256,
        statistic: Literal["epps_pulley", "quantiles"] = "epps_pulley",
        across: bool = False,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.share, self.directions, self.statistic, self.across = share, directions, statistic, across

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        first = seen.projected(seen.views[0])
        drawn = seen.draws.normal("directions", first.shape[1], self.directions)[0]
        directions = F.normalize(drawn.to(first.device, first.dtype), dim=0)
        spread = [self.spread(seen.projected(view), directions) for view in seen.views]
        groups = [seen.views] if self.across else [[v for v in seen.views if v.modality == name] for name in self.modalities(seen)]
        apart = [self.distances(seen, view, group) for group in groups for view in group]
        return Agreed(
            {"spread": mean_term(spread).times(self.share), "apart": mean_of(apart).times(1 - self.share)},
        )

    def spread(self, z: Float[Tensor, "k p"], directions: Float[Tensor, "p r"]) -> Float[Tensor, ""]:
        """How far features are from a normal distribution."""
        if self.statistic == "epps_pulley":
            return moments.sigreg(z, directions)
        return torch.stack(list(moments.visreg(z, directions).values())).sum()

    @staticmethod
    def modalities(seen: Seen) -> list[str]:
        """Those of the step, in order."""
        return list(dict.fromkeys(view.modality for view in seen.views))

    @staticmethod
    def distances(seen: Seen, view: View, group: Sequence[View]) -> Float[Tensor, " k"]:
        """Mean squared distance of a view from the mean of the global views of its samples in a group of views."""
        width = seen.projected(view).shape[1]
        sums = seen.projected(view).new_zeros(len(seen.share), width)
        counts = sums.new_zeros(len(seen.share), 1)
        for other in [other for other in group if other in seen.globals]:
            sums = sums.index_add(0, seen.rows(other), seen.projected(other))
            counts = counts.index_add(0, seen.rows(other), counts.new_ones(len(seen.rows(other)), 1))
        centre = (sums / counts.clamp(min=1))[seen.rows(view)]
        return (seen.projected(view) - centre).square().mean(1)


class Koleo(Agreement):
    """Spread features evenly: -log of the distance of each to the nearest of another sample (DINOv2, arXiv 2304.07193, section 4).

    of: pooled outputs, as DINOv2, or projections. In each global view on its own.
    weight: factor on its loss, the mean over views; DINOv2's code sums 0.1 times that of each of two, which is 0.2.
    """

    alone = True
    plain = True

    def __init__(self, *, of: Literal["pooled", "projected"] = "pooled", weight: Weight = 0.1) -> None:
        super().__init__(weight)
        self.of, self.projects = of, of == "projected"

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        found = [seen.pooled("student", view) if self.of == "pooled" else seen.projected(view) for view in seen.globals]
        return Agreed({"": mean_of([moments.koleo(vectors) for vectors in found])})


class EntropyBound(Agreement):
    """A bound on the information that views share: entropy of the features plus how well they tell each other (arXiv 2307.10907).

    concentration: of the von Mises-Fisher kernels by whose density the entropy is estimated.
    weight: factor on its loss.
    """

    def __init__(self, *, concentration: Annotated[float, Field(gt=0)] = 5.0, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.concentration = concentration

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for a, b in seen.pairs("within"):
            at, to = seen.shared(a, b)
            losses.append(moments.entropy_bound(seen.predicted(a)[at], seen.keys(b)[to], self.concentration))
        return Agreed({"": mean_term([loss.mean() for loss in losses])})

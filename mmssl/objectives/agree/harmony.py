"""Losses of several pairs of modalities, whose gradients at one representation may contradict each other, in harmony."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmssl.losses.harmony import agreement, realigned
from mmssl.model.heads import Prototypes
from mmssl.objectives.agree.parts import Agreed, Agreement, Seen
from mmssl.objectives.terms import Mean, Metric, State, Term, Terms
from mmssl.objectives.views import View

Cosine = Annotated[float, Field(ge=-1, le=1)]


@dataclass(frozen=True, kw_only=True)
class Harmonise:
    """Harmonise the gradients of the losses of each two modalities (CMGH, arXiv 2211.02077).

    The paper's abstract names two techniques, realignment and a curriculum, and we found no text of its rules. Realignment here is
    PCGrad (arXiv 2001.06782, algorithm 1) of the gradients at each sample's projection. The curriculum is ours: a sample whose
    gradients conflict is noise.

    realign: project a gradient that conflicts with that of another pair onto the plane normal to it.
    keep_above: threshold on the mean cosine of a sample's gradients, at the start and at the end of the budget, linear between.
        The projections of a sample below it are not trained; they only tell others apart. null: all samples count.
    """

    realign: bool = True
    keep_above: tuple[Cosine, Cosine] | None = None


@dataclass
class Harmony:
    """The losses of one step, apart for each two modalities.

    They read copies of the projections, one for each pair; what they say of those goes on to the projections in harmony.
    """

    options: Harmonise
    seen: Seen
    parts: dict[tuple[str, str], Seen] = field(default_factory=dict)
    copies: dict[View, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(dict.fromkeys(view.modality for view in self.seen.views))
        for pair in combinations(names, 2):
            views = [view for view in self.seen.views if view.modality in pair]
            known = {("projected", view): self.seen.projected(view).detach().requires_grad_() for view in views}
            for view in views:
                self.copies.setdefault(view, []).append(known["projected", view])
            self.parts[pair] = replace(self.seen, views=views, mixtures={}, _known=known)

    def agreed(self, loss: Agreement, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        """What a loss says of all pairs: the mean that it has of them at once."""
        found = [loss(part, prototypes) for part in self.parts.values()]
        terms = {name: joined([each.terms[name] for each in found]) for name in found[0].terms}
        metrics = {
            name: together([each.metrics[name] for each in found if name in each.metrics])
            for each in found
            for name in each.metrics
        }
        return Agreed(terms, metrics, {name: value for each in found for name, value in each.state.items()})

    def term(self, terms: Terms) -> tuple[Term, dict[str, Metric]]:
        """A term of value 0 whose gradient at the projections is that of the losses in harmony, and what to log of it.

        terms: of the losses, with their factors.
        """
        leaves = [copy for copies in self.copies.values() for copy in copies]
        slopes = iter(torch.autograd.grad(terms.loss(), leaves, retain_graph=True, materialize_grads=True))
        gradients = {view: torch.stack([next(slopes) for _ in copies]) for view, copies in self.copies.items()}
        cosine, there = self.cosines(gradients)
        kept = self.kept(cosine, there)
        parts = [
            (self.seen.projected(view) * (self.harmonised(found) * kept[self.seen.rows(view), None])).sum()
            for view, found in gradients.items()
        ]
        linear = torch.stack(parts).sum()
        told: dict[str, Metric] = {"gradient_cosine": Mean.of(cosine, there), "conflicts": Mean.of((cosine < 0) & there, there)}
        if self.options.keep_above is not None:
            told["kept"] = State(kept.float().mean())
        return Term.whole(linear - linear.detach()), told

    def harmonised(self, gradients: Float[Tensor, "k n d"]) -> Float[Tensor, "n d"]:
        """The sum of the gradients of all pairs at the projections of a view."""
        if not self.options.realign:
            return gradients.sum(0)
        order = self.seen.draws.uniform("order of gradients", len(gradients))[0].argsort(stable=True)
        return realigned(gradients, order).sum(0).to(gradients.dtype)

    def cosines(self, gradients: dict[View, Float[Tensor, "k _ d"]]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """The mean cosine of the gradients of each sample of the step, over its views; whether it has any."""
        total = torch.zeros(len(self.seen.share), device=self.seen.share.keys.device, dtype=torch.float64)
        count = torch.zeros_like(total, dtype=torch.int64)
        for view, found in gradients.items():
            sums, counts = agreement(found)
            total = total.index_add(0, self.seen.rows(view), sums.double())
            count = count.index_add(0, self.seen.rows(view), counts)
        return total / count.clamp(min=1), count > 0

    def kept(self, cosine: Float[Tensor, " n"], there: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which samples are trained on: those whose gradients agree enough, and those of which nothing is known."""
        if self.options.keep_above is None:
            return torch.ones_like(there)
        start, end = self.options.keep_above
        return ~there | (cosine >= start + (end - start) * self.seen.clock.progress)


def harmony_of(options: Harmonise | None, seen: Seen) -> Harmony | None:
    """What harmonises a step; None where nothing is to be, or no gradient is asked for."""
    trained = options is not None and torch.is_grad_enabled() and len({view.modality for view in seen.views}) > 1
    return Harmony(options, seen) if options is not None and trained else None


def check_harmony(losses: Sequence[Agreement], modalities: Sequence[str]) -> None:
    """ValueError where there are no two pairs of modalities, or a loss is of something else."""
    if len(modalities) < 3:
        raise ValueError(
            f"objective.harmonise: gradients of several pairs of modalities are harmonised, but {' and '.join(modalities)} are one "
            "pair; add a modality, or leave harmonise out"
        )
    if wrong := [type(loss).__name__ for loss in losses if loss.between != "across" or loss.tokens or loss.dense]:
        raise ValueError(
            f"objective.harmonise: losses between two modalities are harmonised, which {wrong[0]} is not alone; set its between to "
            "across, or leave harmonise or the loss out"
        )


def joined(terms: Sequence[Term]) -> Term:
    """The term of all samples of several terms of one factor."""
    return Term(torch.cat([term.total for term in terms]), torch.cat([term.weight for term in terms]), terms[0].factor)


def together(metrics: Sequence[Metric]) -> Metric:
    """The metric of all pairs: the mean over all samples; of anything else that of the last pair."""
    means = [metric for metric in metrics if isinstance(metric, Mean)]
    if len(means) < len(metrics):
        return metrics[-1]
    return Mean(torch.stack([each.total for each in means]).sum(), torch.stack([each.weight for each in means]).sum())

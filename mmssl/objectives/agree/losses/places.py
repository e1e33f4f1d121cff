"""Losses that compare single tokens of views, in the space of the projections."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.losses.negatives import info_nce, similarities
from mmssl.losses.places import grouped_patches
from mmssl.model.heads import Prototypes
from mmssl.objectives.agree.parts import Agreed, Agreement, Between, Seen, Space, mean_of
from mmssl.objectives.terms import Mean, Weight
from mmssl.objectives.views import View


def check_pooling(name: str, space: Space) -> None:
    """ValueError where a projector of pooled outputs cannot read a token, as it is narrower."""
    if wrong := [modality for modality, width in space.pooled.items() if width != space.hidden]:
        raise ValueError(
            f"objective.losses: {name} projects single tokens, of {space.hidden} values, as it does the pooled output, which has "
            f"{space.pooled[wrong[0]]} for {wrong[0]}; set encoder.pooling to mean"
        )


def projected_tokens(seen: Seen, view: View) -> tuple[Float[Tensor, "k n p"], Bool[Tensor, "k n"]]:
    """The student's projections of all tokens of a view, and which are there."""
    tokens, valid = seen.dense("student", view)
    found = tokens.new_zeros(*tokens.shape[:2], seen.projected(view).shape[1])
    there = seen.projector(view.modality, tokens[valid])
    return found.to(there.dtype).masked_scatter(valid[..., None], there), valid


class SameToken(Agreement):
    """Tell a token from others of the step by the token at its place in another view (PointContrast, arXiv 2007.10985, eq. 2).

    Tokens of two views correspond by their numbers, so that views have to keep all tokens in their order: no crop, no mask.

    temperature: what similarities are divided by.
    tokens: pairs of a view that are compared with each other at most, drawn anew in every step; the paper has 4,096.
    weight: factor on its loss.
    """

    dense = True

    def __init__(
        self,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        tokens: Annotated[int, Field(gt=1)] = 4096,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.temperature, self.most = temperature, tokens

    def prepare(self, space: Space) -> Prototypes | None:
        check_pooling("same_token", space)
        return None

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses, right = list[Tensor](), list[Tensor]()
        for a, b in seen.pairs("within"):
            if a not in seen.globals:
                continue
            at, to = seen.shared(a, b)
            (first, valid), (second, there) = projected_tokens(seen, a), projected_tokens(seen, b)
            if first.shape[1] != second.shape[1] or not torch.equal(valid[at], there[to]):
                raise ValueError(
                    f"objective.losses: same_token needs views that keep all tokens, but those of {a} and {b} differ; leave crops "
                    "and masks out of the views"
                )
            chosen = self.chosen(seen, valid[at], str(a))
            found = similarities(first[at][valid[at]][chosen], second[to][there[to]][chosen]) / self.temperature
            own = torch.eye(len(found), dtype=torch.bool, device=found.device)
            losses.append(info_nce(found, own))
            right.append(found.detach().argmax(1) == torch.arange(len(found), device=found.device))
        return Agreed({"": mean_of(losses)}, {"token_accuracy": Mean.of(torch.cat(right))} if right else {})

    def chosen(self, seen: Seen, valid: Bool[Tensor, "k n"], purpose: str) -> Int[Tensor, " t"]:
        """Numbers of the tokens that are compared."""
        count = int(valid.sum())
        drawn = seen.draws.uniform(f"same token {purpose}", count)[0].to(valid.device)
        return drawn.argsort()[: self.most]


class Grouping(Agreement):
    """Tell a text's own patches from those of other pictures, and by them the text (DreamLIP, arXiv 2403.17007, section 3.3).

    For each view of the other modalities, such as one of several captions, the patches that are most similar to it are joined to
    one vector. In the paper's code other captions of the picture are negatives too; here they are in none of the two.

    patches: the modality whose tokens are joined.
    threshold: similarities below it, scaled to [0, 1] over a picture, count nothing.
    temperature: what similarities are divided by.
    weight: factor on its loss.
    """

    dense = True
    between: Between = "across"

    def __init__(
        self,
        *,
        patches: str,
        threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.patches, self.threshold, self.temperature = patches, threshold, temperature

    def prepare(self, space: Space) -> Prototypes | None:
        check_pooling("grouping", space)
        if self.patches not in space.modalities:
            raise ValueError(
                f"objective.losses: grouping.patches is {self.patches!r}; the recipe has {', '.join(space.modalities)}"
            )
        return None

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for a, b in seen.pairs("across"):
            if b.modality != self.patches:
                continue
            at, to = seen.shared(a, b)
            tokens, valid = projected_tokens(seen, b)
            texts = seen.projected(a)[at]
            found = similarities(texts, grouped_patches(texts, tokens[to], valid[to], self.threshold)) / self.temperature
            positive = seen.positive(a, b)[at][:, to]
            losses += [info_nce(found, positive), info_nce(found.mT, positive.mT)]
        return Agreed({"": mean_of(losses)})

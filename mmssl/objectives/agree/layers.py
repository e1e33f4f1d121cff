"""Layer-to-layer distillation: hidden states of the student as another network has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from pydantic import Field
from torch import Tensor, nn

from mmssl.losses.tokens import hidden_distance
from mmssl.model import MMSSLConfig
from mmssl.objectives.terms import Term, Weight
from mmssl.objectives.views import Encodings, View

Number = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Hidden states of layers of the student, through a linear map of each, as layers of the network that it follows have them.

    TinyBERT (arXiv 1909.10351, eq. 8): each layer follows another one. DistilHuBERT (arXiv 2110.01900, section 3): the last layer
    follows several. Both networks see the same tokens; a CLS token counts where both have as many such tokens.

    pairs: layer of the student, and of the other network, the first of which is 1; the last one is the encoder's output.
    distance: mse = mean squared error over the width; l1_cosine = mean absolute error - log sigmoid of the cosine similarity
        (DistilHuBERT, eq. 1).
    normalise: bring what is followed to zero mean and unit variance over its width: layers have no norm behind them here,
        but for the last one.
    weight: factor on the loss, the mean over pairs and tokens.
    """

    pairs: list[tuple[Number, Number]]
    distance: Literal["mse", "l1_cosine"] = "mse"
    normalise: bool = True
    weight: Weight = 1.0


class Matching(nn.Module):
    """The linear maps of `Layers`, and their loss. target: the network that is followed."""

    def __init__(self, options: Layers, mine: MMSSLConfig, its: MMSSLConfig, target: str) -> None:
        super().__init__()
        self.options, self.target = options, target
        if not options.pairs:
            raise ValueError("objective.layers.pairs is empty: name layers, as in pairs: [[2, 4]]")
        for side, config, whose in ((0, mine, "student"), (1, its, "teacher")):
            depth, last = config.num_hidden_layers, max(pair[side] for pair in options.pairs)
            if last > depth:
                raise ValueError(f"objective.layers.pairs names layer {last} of the {whose}, which has {depth}; the first one is 1")
        self.last = max(mine for mine, _ in options.pairs) == mine.num_hidden_layers
        self.maps = nn.ModuleList(nn.Linear(mine.hidden_size, its.hidden_size) for _ in options.pairs)
        self.same_prefix = prefix(mine) == prefix(its)

    def forward(self, seen: Encodings, view: View) -> Term:
        """The loss of the samples of a view."""
        mine, its = (seen.tokens(network, view).values.shape[1] for network in ("student", self.target))
        if mine != its:
            raise ValueError(
                f"objective.layers: the teacher makes {its} tokens of a sample, the student {mine}; give both the same adapter"
            )
        there = self.there(seen, view)
        count = there.shape[1]
        ours = self.states(seen, "student", view, 0, count)
        with torch.no_grad():
            theirs = self.states(seen, self.target, view, 1, count)
        losses = list[Tensor]()
        for states, truth, linear in zip(ours, theirs, self.maps, strict=True):
            aim = F.layer_norm(truth, truth.shape[-1:]) if self.options.normalise else truth
            losses.append(hidden_distance(linear(states), aim, self.options.distance))
        return Term.tokens(torch.stack(losses), there.expand(len(losses), *there.shape), factor=self.options.weight)

    def states(self, seen: Encodings, network: str, view: View, side: int, count: int) -> list[Float[Tensor, "b n d"]]:
        """Hidden states of the layers of a network that pairs name, of the last `count` tokens."""
        found = seen.layers(network, view, [pair[side] for pair in self.options.pairs])
        return [tokens.tail(count).values for tokens in found]

    def there(self, seen: Encodings, view: View) -> Bool[Tensor, "b n"]:
        """Which of the tokens that are compared count."""
        valid = seen.tokens("student", view).valid_or_ones()
        return F.pad(valid, (seen.networks.student.encoder.num_prefix, 0), value=True) if self.same_prefix else valid

    @torch.no_grad()
    def weight(self, seen: Encodings, view: View) -> Num[Tensor, ""]:
        """What the loss of a view weighs."""
        return self.there(seen, view).sum() * len(self.options.pairs)


def prefix(config: MMSSLConfig) -> int:
    """How many tokens stand in front of those of a sample."""
    return int(config.cls_token) + config.num_register_tokens


def joined(terms: Sequence[Term], device: torch.device) -> Term:
    """The term of several views together; of none one without weight."""
    if not terms:
        return Term(torch.zeros(1, device=device), torch.zeros(1, dtype=torch.int64, device=device))
    totals, weights = torch.cat([term.total for term in terms]), torch.cat([term.weight for term in terms])
    return Term(totals, weights, terms[0].factor)

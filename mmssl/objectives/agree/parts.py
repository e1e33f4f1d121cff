"""What the parts of agreement are: losses, and what they see of all samples of an optimizer step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.model.heads import LogitScale, Prototypes
from mmssl.objectives.networks import Clock
from mmssl.objectives.terms import Metric, Term
from mmssl.objectives.together import Share
from mmssl.objectives.views import GLOBAL, View, mixture

Between = Literal["within", "across", "all"]
"""Which pairs of views are made to agree: those of one modality, those of two, or both."""


@dataclass(frozen=True)
class Space:
    """What losses know before the first step.

    width: of projected vectors. pooled: of pooled outputs, by modality. hidden: of the encoder. modalities: those that are trained.
    views: how many each modality has. teacher: whether there is a second network that moves, or never does.
    samples, group_labels: of the data; see `Setup`.
    """

    width: int
    pooled: Mapping[str, int]
    hidden: int
    modalities: Sequence[str]
    views: Mapping[str, Sequence[View]]
    teacher: bool
    prototypes: int = 0
    samples: Callable[[], int | None] | None = None
    group_labels: Callable[[], Int[Tensor, "g m"] | None] | None = None


@dataclass(frozen=True)
class Seen:
    """All samples of a step, on every process the same.

    share: representations by name, `network/what/view`. views: all of them.
    projector, target_projector: what projects pooled outputs, by modality, of the student and of the network that it follows.
    predictor: what answers from the student's projections; None: the projections themselves.
    target: the network that is followed; "student": it follows itself, without gradient.
    scale: the learned factor on similarities, where the objective has one.
    mixtures: views that are mixed of the first of two views and the second of another sample.
    """

    share: Share
    views: Sequence[View]
    projector: Callable[[str, Tensor], Tensor]
    target_projector: Callable[[str, Tensor], Tensor]
    predictor: Callable[[str, Tensor], Tensor] | None
    target: str
    scale: LogitScale | None
    clock: Clock
    diagnose: bool
    mixtures: Mapping[View, tuple[View, View]] = field(default_factory=dict)
    _known: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def draws(self) -> Draws:
        """Random numbers of the step."""
        return self.share.draws

    @property
    def globals(self) -> list[View]:
        """The views that are followed."""
        return [view for view in self.views if view.kind == GLOBAL]

    def once(self, key: Any, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` gives, computed at the first call with this key."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def rows(self, view: View) -> Int[Tensor, " k"]:
        """Which samples of the step have a view."""
        return self.share.rows[f"student/pooled/{view}"]

    def pooled(self, network: str, view: View) -> Float[Tensor, "k d"]:
        """Pooled outputs."""
        return self.share.values[f"{network}/pooled/{view}"]

    def projected(self, view: View) -> Float[Tensor, "k p"]:
        """The student's projections; batch normalisation goes by the samples of one view."""
        return self.once(("projected", view), lambda: self.projector(view.modality, self.pooled("student", view)))

    def predicted(self, view: View) -> Float[Tensor, "k p"]:
        """What the student answers: its projections, or what the predictor makes of them."""
        if self.predictor is None:
            return self.projected(view)
        predictor = self.predictor
        return self.once(("predicted", view), lambda: predictor(view.modality, self.projected(view)))

    def followed(self, view: View) -> Float[Tensor, "k p"]:
        """Projections of the network that is followed, without gradient."""
        if self.target == "student":
            return self.projected(view).detach()

        @torch.no_grad()
        def compute() -> Tensor:
            return self.target_projector(view.modality, self.pooled(self.target, view))

        return self.once(("followed", view), compute)

    def keys(self, view: View) -> Float[Tensor, "k p"]:
        """What queries are compared with: projections of the network that is followed; of the student itself with gradient."""
        return self.projected(view) if self.target == "student" else self.followed(view)

    def tokens(self, network: str, view: View) -> tuple[Float[Tensor, "m d"], Int[Tensor, " m"]]:
        """Tokens of a network at the hidden places of a view, and which samples they belong to."""
        name = f"{network}/hidden/{view}"
        return self.share.values[name], self.share.rows[name]

    def dense(self, network: str, view: View) -> tuple[Float[Tensor, "k n d"], Bool[Tensor, "k n"]]:
        """All tokens of a network of a view, and which are there."""
        name = f"{network}/tokens/{view}"
        return self.share.values[name], self.share.values[f"{network}/valid/{view}"] > 0

    def positive(self, a: View, b: View) -> Bool[Tensor, "k m"]:
        """Which rows of two views belong together: those of one sample, or of one group."""
        rows, others = self.rows(a), self.rows(b)
        same = rows[:, None] == others
        return same if self.share.group is None else same | (self.share.group[rows][:, None] == self.share.group[others])

    def mixture(self, view: View) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
        """Which row of the second view each row of a mixed view holds, and the share of the first."""
        return mixture(Draws(self.share.keys[self.rows(view)]).fork(view.number))

    def shared(self, a: View, b: View) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
        """Places in two views of the samples that have both."""
        rows, others = self.rows(a), self.rows(b)
        if len(rows) == len(others) and torch.equal(rows, others):
            places = torch.arange(len(rows), device=rows.device)
            return places, places
        first, second = torch.nonzero(rows[:, None] == others, as_tuple=True)
        return first, second

    def pairs(self, between: Between, *, ordered: bool = True) -> list[tuple[View, View]]:
        """Pairs of a view and a followed one, never of a view with itself; unordered: every two views once, the first one first."""
        return pairs_of(self.views, between, ordered=ordered)


def pairs_of(views: Sequence[View], between: Between, *, ordered: bool = True) -> list[tuple[View, View]]:
    """See `Seen.pairs`."""
    found = []
    for place, a in enumerate(views):
        for other, b in enumerate(views):
            twice = not ordered and a.kind == GLOBAL and place > other
            kind = "within" if a.modality == b.modality else "across"
            if a != b and b.kind == GLOBAL and not twice and between in ("all", kind):
                found.append((a, b))
    return found


@dataclass(frozen=True)
class Agreed:
    """What a loss says of a step. terms: by name, without its weight; state: its buffers' values after the step."""

    terms: Mapping[str, Term]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)


class Agreement(nn.Module, ABC):
    """A loss of views that are to agree. Keyword-only arguments are recipe keys.

    weight: factor on its loss.
    """

    tokens: bool = False
    """Whether it compares tokens at hidden places, so that the student's global views are to hide some."""
    dense: bool = False
    """Whether it compares all tokens of global views."""
    mixes: bool = False
    """Whether it compares the first two global views of a modality with a view that is mixed of them."""
    alone: bool = False
    """Whether it says something of a single view."""
    projects: bool = True
    """Whether it reads projections: if no loss does, there is no projector."""
    plain: bool = False
    """Whether it reads only what the followed network's encoder gives, which a saved model without a projector has too."""
    follows: bool = False
    """Whether it needs a second network: without one the student would follow itself."""
    between: Between = "within"

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def prepare(self, space: Space) -> Prototypes | None:
        """Build what depends on widths; returns prototypes, which belong to the student's heads and are averaged with them."""
        return None

    @abstractmethod
    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        """The loss of a step. prototypes: the student's, and those of the network that is followed."""


class Queue(nn.Module):
    """The last vectors that were followed, of unit length: a buffer that all processes hold alike (MoCo, arXiv 1911.05722)."""

    vectors: Tensor
    filled: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def held(self) -> Float[Tensor, "q p"]:
        """The vectors that there are, the newest first."""
        return self.vectors[: int(self.filled)]

    def after(self, new: Float[Tensor, "k p"]) -> dict[str, Tensor]:
        """Its buffers once these vectors came in. ValueError for more than it can hold."""
        size = len(self.vectors)
        if len(new) > size:
            raise ValueError(
                f"objective.losses: a queue of {size} cannot hold the {len(new)} samples of a step; set queue to that or more, or "
                "lower train.batch_size"
            )
        kept = torch.cat([F.normalize(new.detach(), dim=-1).to(self.vectors.dtype), self.vectors])[:size]
        return {"vectors": kept, "filled": (self.filled + len(new)).clamp(max=size)}


def mean_of(pairs: Sequence[Float[Tensor, " _"]]) -> Term:
    """The mean over all values of several pairs of views; of none at all a term without weight."""
    return Term.samples(torch.cat(list(pairs))) if pairs else Term(torch.zeros(1), torch.zeros(1, dtype=torch.int64))

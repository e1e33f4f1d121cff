"""Losses that tell what belongs together from other samples."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.losses.arithmetic import unit
from mmssl.losses.negatives import (
    group_ordering,
    hierarchical,
    info_nce,
    mixed_negatives,
    sigmoid_pairs_chunked,
    similarities,
    soft_info_nce,
)
from mmssl.model.heads import Prototypes
from mmssl.objectives.agree.parts import Agreed, Agreement, Between, Queue, Seen, Space, mean_of
from mmssl.objectives.terms import Mean, Metric, State, Weight
from mmssl.objectives.views import View

Temperature = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(ge=0)]


def labels_of_groups(space: Space) -> Int[Tensor, "g m"]:
    """The labels of each group. ValueError where nothing says them."""
    found = None if space.group_labels is None else space.group_labels()
    if found is None:
        raise ValueError(
            "objective.losses: info_nce with soft compares the labels in the cells of columns.group, of one source; name such a "
            "column, or leave soft out"
        )
    return found


def shared_labels(group: Int[Tensor, " n"], labels: Int[Tensor, "g m"]) -> Float[Tensor, "n n"]:
    """Cosine similarity of the labels of each two samples, as vectors of zeros and ones; of a sample without any it is 0.

    group: of the samples; one below 0 has no labels. labels: of each group, -1 where it has fewer.
    """
    held = labels[group.clamp(min=0)].masked_fill(group[:, None] < 0, -1)
    numbers, place = held.unique(return_inverse=True)
    held = torch.zeros(len(group), len(numbers), device=group.device).scatter(1, place, 1.0)
    directions = unit(held[:, numbers >= 0])
    return directions @ directions.mT


class InfoNce(Agreement):
    """Tell another view of a sample from views of other samples, by cosine similarity (SimCLR, arXiv 2002.05709, eq. 1).

    The mean over ordered pairs of views. Settings of it are MoCo v3, CLIP (learned temperature, across modalities), DCL, NNCLR,
    SCARF, SimCSE and supervised contrast by `columns.group`.

    temperature: what similarities are divided by; null: learned, as CLIP's.
    negatives: all = of every view of a sample's modality, its own other samples too (SimCLR); view = of the view that is compared
        with (MoCo v3, CLIP).
    decoupled: leave positives out of the denominator (DCL, arXiv 2110.06848, eq. 6).
    queue: vectors of earlier steps that are further negatives (MoCo), or among which `nearest` looks.
    nearest: the nearest vector of the queue stands for the view that is followed (NNCLR, arXiv 2104.14548, eq. 2).
    hard: of how many of the hardest negatives of a query further ones are mixed (MoCHi, arXiv 2010.01028, section 3).
    mixed: how many are mixed of two of them, and of one and the query itself.
    soft: samples whose cells in `columns.group` share labels, of lists of them, are positives as far as they do: by the cosine
        similarity of their labels (SoftCon, arXiv 2405.20462).
    between: pairs of views within a modality, across two of them, or all.
    weight: factor on its loss.
    """

    labels: Tensor

    def __init__(
        self,
        *,
        temperature: Temperature | None = 0.1,
        negatives: Literal["all", "view"] = "all",
        decoupled: bool = False,
        queue: Size = 0,
        nearest: bool = False,
        hard: Annotated[int, Field(gt=0)] = 1024,
        mixed: tuple[Size, Size] = (0, 0),
        soft: bool = False,
        between: Between = "within",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        if nearest and not queue:
            raise ValueError("objective.losses: info_nce with nearest looks in a queue; set queue")
        if any(mixed) and nearest:
            raise ValueError("objective.losses: info_nce mixes hard negatives of queries, which nearest replaces; leave one out")
        if soft and (decoupled or nearest):
            raise ValueError(
                "objective.losses: info_nce with soft has no positives that could be left out, or replaced; set it alone"
            )
        self.temperature, self.negatives, self.decoupled, self.soft = temperature, negatives, decoupled, soft
        self.size, self.nearest, self.hard, self.mixed, self.between = queue, nearest, hard, mixed, between

    def prepare(self, space: Space) -> Prototypes | None:
        queues = {name: Queue(self.size, space.width) for name in space.modalities} if self.size else {}
        self.queues = torch.nn.ModuleDict(queues)
        if self.soft:
            self.register_buffer("labels", labels_of_groups(space), persistent=False)
        return None

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses, right = list[Tensor](), list[Tensor]()
        for view, others in self.comparisons(seen):
            logits, positive, counted = self.compared(seen, view, others)
            there = positive.any(1)
            if self.soft:
                shares = self.shares(seen, view, others, positive) * counted
                loss, there = soft_info_nce(logits, shares, counted), shares.any(1)
            else:
                loss = info_nce(logits, positive, counted, decoupled=self.decoupled)
            losses.append(loss[there])
            best = logits.detach().masked_fill(~counted, -torch.inf).argmax(1)
            right.append(positive.gather(1, best[:, None])[there, 0])
        if losses and len(seen.share) < 2 and not self.size:
            raise ValueError(
                "objective.losses: info_nce compares a sample with others, but the step has one alone; raise train.batch_size"
            )
        metrics: dict[str, Metric] = {"accuracy": Mean.of(torch.cat(right))} if right else {}
        return Agreed({"": mean_of(losses)}, metrics, self.state_after(seen))

    def comparisons(self, seen: Seen) -> list[tuple[View, list[View]]]:
        """Each view with those that it is compared with at once."""
        found = dict[tuple[View, str], list[View]]()
        for view, other in seen.pairs(self.between):
            apart = str(other) if self.negatives == "view" else other.modality
            found.setdefault((view, apart), []).append(other)
        return [(view, others) for (view, _), others in found.items()]

    def columns(self, seen: Seen, view: View, others: list[View]) -> list[View]:
        """The views whose samples are the first columns."""
        itself = self.negatives == "all" and view in seen.globals and view.modality == others[0].modality
        return [view, *others] if itself else others

    def shares(self, seen: Seen, view: View, others: list[View], positive: Bool[Tensor, "k m"]) -> Float[Tensor, "k m"]:
        """How far each column is a positive: 1 of the same sample or group, else by the labels that it shares."""
        group = torch.full_like(seen.share.ids, -1) if seen.share.group is None else seen.share.group
        likeness = seen.once("likeness of labels", lambda: shared_labels(group, self.labels))
        numbers = torch.cat([seen.rows(other) for other in self.columns(seen, view, others)])
        found = likeness[seen.rows(view)][:, numbers]
        return F.pad(found, (0, positive.shape[1] - found.shape[1])).masked_fill(positive, 1)

    def compared(
        self, seen: Seen, view: View, others: list[View]
    ) -> tuple[Float[Tensor, "k m"], Bool[Tensor, "k m"], Bool[Tensor, "k m"]]:
        """Similarities of a view's samples with the views, over the temperature; which are positives, and which columns count."""
        others = self.columns(seen, view, others)
        if self.nearest:
            queries = self.neighbours(seen, view)
            keys = torch.cat([seen.predicted(other) for other in others])
        else:
            queries = seen.predicted(view)
            keys = torch.cat([seen.keys(other) for other in others])
        rows = seen.rows(view)
        positive = torch.cat([seen.positive(view, other) for other in others], 1)
        itself = torch.cat([(rows[:, None] == seen.rows(other)) & (other == view) for other in others], 1)
        found = similarities(queries, keys)
        if self.size and not self.nearest:
            held = self.queue(others[0].modality).held
            found = torch.cat([found, similarities(queries, held.to(queries.dtype))], 1)
            positive, itself = (F.pad(part, (0, len(held))) for part in (positive, itself))
        if any(self.mixed):
            if self.size:
                keys = torch.cat([keys, self.queue(others[0].modality).held.to(keys.dtype)])
            found, positive, itself = self.with_mixed(seen, queries, keys, found, positive, itself)
        scaled = found / self.temperature if self.temperature is not None else self.learned(seen, found)
        return scaled, positive & ~itself, ~itself

    def learned(self, seen: Seen, found: Float[Tensor, "k m"]) -> Float[Tensor, "k m"]:
        """Similarities times the learned factor."""
        if seen.scale is None:
            raise ValueError("objective.losses: only clip learns a temperature; give info_nce a number")
        return seen.scale(found)

    def with_mixed(
        self, seen: Seen, queries: Tensor, keys: Tensor, found: Tensor, positive: Tensor, itself: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """With mixtures of the hardest negatives of each query as further columns."""
        pairs, towards = (
            seen.draws.uniform(f"mixed negatives {part}", len(queries), count, numbers)[0].to(queries.device)
            for part, (count, numbers) in enumerate(zip(self.mixed, (3, 2), strict=True))
        )
        mixed = mixed_negatives(queries, keys, pairs, towards, self.hard, ~(positive | itself))
        more = (unit(queries)[:, None] * mixed.to(queries.dtype)).sum(-1)
        positive, itself = (F.pad(part, (0, more.shape[1])) for part in (positive, itself))
        return torch.cat([found, more.to(found.dtype)], 1), positive, itself

    def neighbours(self, seen: Seen, view: View) -> Float[Tensor, "k p"]:
        """The nearest vectors of the queue; as long as it is empty those of the view itself."""
        own, held = unit(seen.projected(view).detach()), self.queue(view.modality).held
        return held.to(own.dtype)[(own @ held.to(own.dtype).mT).argmax(1)] if len(held) else own

    def queue(self, name: str) -> Queue:
        """That of a modality."""
        found = self.queues[name]
        assert isinstance(found, Queue)
        return found

    def state_after(self, seen: Seen) -> dict[str, Tensor]:
        found, known = dict[str, Tensor](), set[str]()
        for view in seen.globals if self.size else ():
            if view.modality not in known:
                known.add(view.modality)
                new = self.queue(view.modality).after(seen.followed(view))
                found |= {f"queues.{view.modality}.{key}": value for key, value in new.items()}
        return found


class Sigmoid(Agreement):
    """Say of every pair of samples whether it belongs together (SigLIP, arXiv 2303.15343, algorithm 1).

    The factor and the bias of similarities are learned, as clip's `scale` and `bias` start them.

    chunk: queries whose similarities are held at once; they are computed again in the backward pass.
    between: pairs of views within a modality, across two of them, or all.
    weight: factor on its loss.
    """

    def __init__(self, *, chunk: Annotated[int, Field(gt=0)] = 1024, between: Between = "across", weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.chunk, self.between = chunk, between

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        scale = seen.scale
        if scale is None or scale.bias is None:
            raise ValueError("objective.losses: sigmoid needs a learned scale and bias; use it in clip, with objective.bias")
        losses = []
        for a, b in seen.pairs(self.between, ordered=False):
            first, second = seen.predicted(a), seen.keys(b)
            positive = seen.positive(a, b)
            # Samples without a partner are negatives of the others, but no row of their own: the mean is over those with one.
            each = sigmoid_pairs_chunked(first, second, scale.scale, scale.bias[0], positive, None, self.chunk)
            losses.append(each[positive.any(1)])
        return Agreed({"": mean_of(losses)}, {"logit_bias": State(scale.bias.detach()[0])})


class Hierarchical(Agreement):
    """Agree at every time, at coarser and coarser scales (TS2Vec, arXiv 2106.10466, section 3.3); tokens stand for times.

    temporal: share of the loss that tells times of a sample apart; the rest tells samples apart.
    weight: factor on its loss.
    """

    dense = True
    projects = False

    def __init__(self, *, temporal: Annotated[float, Field(ge=0, le=1)] = 0.5, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.temporal = temporal

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for a, b in seen.pairs("within", ordered=False):
            if a not in seen.globals:
                continue
            at, to = seen.shared(a, b)
            (first, valid), (second, others) = seen.dense("student", a), seen.dense("student", b)
            count = min(first.shape[1], second.shape[1])  # a view may end in points that it lost
            first, second, there = first[at, :count], second[to, :count], valid[at, :count] & others[to, :count]
            losses.append(hierarchical(first, second, 1 - self.temporal, there))
        return Agreed({"": mean_of(losses)})


class GroupOrdering(Agreement):
    """All positives nearer than all negatives, by sorting their distances (GroCo, arXiv 2301.02009, section 3).

    As in the official code (groco.py), negatives are other samples in the anchor's own view, and neither they nor positives get a
    gradient.

    steepness: of the soft comparisons of two distances.
    negatives: how many of the nearest are sorted.
    weight: factor on its loss.
    """

    def __init__(
        self,
        *,
        steepness: Annotated[float, Field(gt=0)] = 1.0,
        negatives: Annotated[int, Field(gt=0)] = 10,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.steepness, self.negatives = steepness, negatives

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for a, b in seen.pairs("within"):
            at, to = seen.shared(a, b)
            anchors = seen.predicted(a)[at]
            own = similarities(anchors, seen.followed(b)[to]).diagonal()[:, None]
            similar, others = similarities(anchors, seen.projected(a)[at].detach()), ~seen.positive(a, a)[at][:, at]
            losses.append(group_ordering(own, similar, others, hardest=self.negatives, steepness=self.steepness))
        return Agreed({"": mean_of(losses)})

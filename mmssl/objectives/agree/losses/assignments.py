"""Losses in which the student follows another network: its vectors, its assignments to prototypes, its tokens."""

from typing import Annotated, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmssl.losses.assignments import centred, cosine_distance, gram, self_distillation
from mmssl.losses.sinkhorn import sinkhorn
from mmssl.model.heads import Prototypes
from mmssl.objectives.agree.parts import Agreed, Agreement, Between, Queue, Seen, Space, mean_of
from mmssl.objectives.networks import Clock
from mmssl.objectives.terms import Mean, Metric, State, Term, Used, Weight
from mmssl.objectives.views import View

Temperature = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=1)]


class Cosine(Agreement):
    """Answer the other view's projection: 2 - 2 cos (BYOL, arXiv 2006.07733, eq. 2; without a teacher SimSiam, arXiv 2011.10566).

    The mean over ordered pairs of views; BYOL sums the two directions (weight 2). No gradient reaches what is followed.

    between: pairs of views within a modality, across two of them (SLAP, arXiv 2506.17815), or all.
    weight: factor on its loss.
    """

    def __init__(self, *, between: Between = "within", weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.between = between

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for a, b in seen.pairs(self.between):
            at, to = seen.shared(a, b)
            losses.append(cosine_distance(seen.predicted(a)[at], seen.followed(b)[to]))
        return Agreed({"": mean_of(losses)})


class _Assigning(Agreement):
    """What losses by prototypes share: temperatures of the teacher, centring, and what is measured."""

    centre: Tensor

    def __init__(
        self,
        weight: float,
        count: int | None,
        temperature: float,
        teacher_temperature: tuple[float, float],
        warmup: float,
        centring: str,
        momentum: float,
        frozen: float,
    ) -> None:
        super().__init__(weight)
        self.count, self.temperature, self.teacher_temperature, self.warmup = count, temperature, teacher_temperature, warmup
        self.centring, self.momentum, self.frozen = centring, momentum, frozen

    def prepare(self, space: Space) -> Prototypes | None:
        if self.centring == "mean":
            self.register_buffer("centre", torch.zeros(self.count or space.prototypes))
        return None if self.count is None else Prototypes(self.count, space.width)

    def sharpness(self, clock: Clock) -> float:
        """The teacher's temperature, which rises in the first `warmup` of the budget."""
        first, last = self.teacher_temperature
        return last if clock.progress >= self.warmup else first + (last - first) * clock.progress / self.warmup

    @torch.no_grad()
    def assigned(self, logits: Float[Tensor, "n k"], clock: Clock) -> Float[Tensor, "n k"]:
        """Probabilities of prototypes that the student is to give."""
        temperature = self.sharpness(clock)
        if self.centring == "sinkhorn":
            return sinkhorn(logits / temperature, 3)
        return centred(logits, self.centre.to(logits.dtype), temperature)

    @torch.no_grad()
    def state_after(self, logits: Float[Tensor, "n k"]) -> dict[str, Tensor]:
        """The centre, moved towards the mean of the teacher's logits, after their use."""
        if self.centring != "mean" or not len(logits):
            return {}
        return {"centre": torch.lerp(logits.mean(0).to(self.centre.dtype), self.centre, self.momentum)}

    @torch.no_grad()
    def measures(self, target: Float[Tensor, "n k"]) -> dict[str, Metric]:
        """How sharp assignments are, and how many prototypes are in use: 1 of them, or all alike, is a collapse."""
        entropy = -torch.xlogy(target, target).sum(1)
        return {
            "target_entropy": Mean.of(entropy / torch.tensor(float(target.shape[1])).log()),
            "prototypes_used": Used(target.sum(0).float()[None]),
        }


class SelfDistillation(_Assigning):
    """Give the prototypes that the teacher gives to another view, sharpened and centred (DINO, arXiv 2104.14294, eq. 1-4).

    prototypes: how many.
    temperature: of the student.
    teacher_temperature: at the start and after the warmup.
    warmup: share of the budget in which it rises.
    centring: mean = subtract a moving mean of the teacher's logits; sinkhorn = balance its assignments over the samples of the step
        (DINOv2, arXiv 2304.07193, section 4).
    momentum: of that mean.
    frozen: share of the budget in which prototypes do not move.
    between: pairs of views within a modality, across two of them, or all.
    weight: factor on its loss.
    """

    follows = True

    def __init__(
        self,
        *,
        prototypes: Count = 1024,
        temperature: Temperature = 0.1,
        teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07),
        warmup: Share = 0.3,
        centring: Literal["mean", "sinkhorn"] = "mean",
        momentum: Share = 0.9,
        frozen: Share = 0.0,
        between: Between = "within",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight, prototypes, temperature, teacher_temperature, warmup, centring, momentum, frozen)
        self.between = between

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        assert prototypes is not None
        own, theirs = prototypes
        frozen = seen.clock.progress < self.frozen
        with torch.no_grad():
            logits = {view: theirs(seen.followed(view)) for view in seen.globals}
            targets = {view: self.assigned(found, seen.clock) for view, found in logits.items()}
        answers = {view: own(seen.predicted(view), frozen) for view in seen.views}
        losses = []
        for a, b in seen.pairs(self.between):
            at, to = seen.shared(a, b)
            losses.append(self_distillation(answers[a][at], targets[b][to], self.temperature))
        every = torch.cat(list(logits.values())) if logits else torch.zeros(0, 1)
        metrics = self.measures(torch.cat(list(targets.values()))) if targets else {}
        return Agreed({"": mean_of(losses)}, metrics, self.state_after(every))


class SwappedAssignment(Agreement):
    """Give the prototypes that balanced assignment gives to another view of the sample (SwAV, arXiv 2006.09882, eq. 1-2).

    prototypes: how many.
    temperature: of the prediction.
    sharpness: what scores are divided by before they are balanced, epsilon.
    iterations: of Sinkhorn and Knopp.
    frozen: share of the budget in which prototypes do not move.
    queue: projections of earlier steps that are balanced together with those of a step; for steps of few samples.
    weight: factor on its loss.
    """

    def __init__(
        self,
        *,
        prototypes: Count = 300,
        temperature: Temperature = 0.1,
        sharpness: Temperature = 0.05,
        iterations: Annotated[int, Field(gt=0)] = 3,
        frozen: Share = 0.0,
        queue: Annotated[int, Field(ge=0)] = 0,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.count, self.temperature, self.sharpness, self.iterations = prototypes, temperature, sharpness, iterations
        self.frozen, self.size = frozen, queue

    def prepare(self, space: Space) -> Prototypes | None:
        kept = [view for name in space.modalities for view in space.views[name] if view.kind == "global"]
        self.queues = torch.nn.ModuleDict({place(view): Queue(self.size, space.width) for view in kept} if self.size else {})
        return Prototypes(self.count, space.width)

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        assert prototypes is not None
        own, theirs = prototypes
        frozen = seen.clock.progress < self.frozen
        answers = {view: own(seen.predicted(view), frozen) for view in seen.views}
        with torch.no_grad():
            targets = {view: self.codes(seen, view, theirs) for view in seen.globals}
        losses = []
        for a, b in seen.pairs("within"):
            at, to = seen.shared(a, b)
            losses.append(self_distillation(answers[a][at], targets[b][to], self.temperature))
        state = dict[str, Tensor]()
        for view in seen.globals if self.size else ():
            new = self.queue(view).after(seen.followed(view))
            state |= {f"queues.{place(view)}.{key}": value for key, value in new.items()}
        counts = [target.sum(0).float() for target in targets.values()]
        return Agreed({"": mean_of(losses)}, {"prototypes_used": Used(torch.stack(counts).sum(0)[None])} if counts else {}, state)

    def queue(self, view: View) -> Queue:
        """That of a view."""
        return cast(Queue, self.queues[place(view)])

    def codes(self, seen: Seen, view: View, prototypes: Prototypes) -> Float[Tensor, "k p"]:
        """Balanced assignments of a view, together with those of a queue that is full."""
        vectors = seen.followed(view)
        if self.size and int(self.queue(view).filled) == self.size:
            vectors = torch.cat([vectors, self.queue(view).held.to(vectors.dtype)])
        return sinkhorn(prototypes(vectors) / self.sharpness, self.iterations)[: len(seen.rows(view))]


def place(view: View) -> str:
    """A view as the name of a module."""
    return str(view).replace(" ", "_")


class MaskedTokens(_Assigning):
    """Give, at hidden places, the prototypes that the teacher gives to the token that is there (iBOT, arXiv 2111.07832, eq. 2).

    Each view counts alike, however many of its tokens are hidden. Projector and prototypes are those of self_distillation, unless
    it has prototypes of its own.

    prototypes: how many of its own; null: those of the first loss that has any.
    temperature: of the student.
    teacher_temperature: at the start and after the warmup.
    warmup: share of the budget in which it rises.
    centring: mean or sinkhorn, over the hidden tokens of the step.
    momentum: of the mean.
    weight: factor on its loss, the mean over views that hide tokens; the code of iBOT and DINOv2 takes the mean over all views, so
        that 0.5 is theirs where half of them hide some.
    """

    alone = True
    follows = True
    tokens = True

    def __init__(
        self,
        *,
        prototypes: Count | None = None,
        temperature: Temperature = 0.1,
        teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07),
        warmup: Share = 0.3,
        centring: Literal["mean", "sinkhorn"] = "mean",
        momentum: Share = 0.9,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight, prototypes, temperature, teacher_temperature, warmup, centring, momentum, 0.0)

    def prepare(self, space: Space) -> Prototypes | None:
        if len(set(space.pooled.values()) | {space.hidden}) > 1:
            raise ValueError(
                "objective.losses: masked_tokens projects tokens as it projects pooled outputs, which must have their width; "
                "choose encoder.pooling: cls or mean"
            )
        return super().prepare(space)

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        if prototypes is None:
            raise ValueError("objective.losses: masked_tokens has no prototypes to share; set its prototypes")
        own, theirs = prototypes
        totals, weights, logits = list[Tensor](), list[Tensor](), list[Tensor]()
        found = []
        for view in seen.globals:
            student, rows = seen.tokens("student", view)
            with torch.no_grad():
                logits.append(theirs(seen.target_projector(view.modality, seen.tokens(seen.target, view)[0])))
            found.append((view, own(seen.projector(view.modality, student)), rows))
        every = torch.cat(logits) if logits else torch.zeros(0, 1)
        if not len(every):
            return Agreed({"": mean_of([])})
        target = self.assigned(every, seen.clock)
        for (_, answer, rows), aim in zip(found, target.split([len(part) for part in logits]), strict=True):
            each = self_distillation(answer, aim, self.temperature)
            count = torch.zeros(len(seen.share), dtype=each.dtype, device=each.device).index_add(0, rows, torch.ones_like(each))
            totals.append(torch.zeros_like(count).index_add(0, rows, each) / count.clamp(min=1))
            weights.append((count > 0).long())
        return Agreed({"": Term(torch.cat(totals), torch.cat(weights))}, {}, self.state_after(every))


class Gram(Agreement):
    """Tokens as similar to each other as those of the network that is followed (Gram anchoring of DINOv3, arXiv 2508.10104).

    weight: factor on its loss.
    """

    alone = True
    follows = True
    plain = True
    dense = True
    projects = False

    def __init__(self, *, weight: Weight = 1.0) -> None:
        super().__init__(weight)

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        losses = []
        for view in seen.globals:
            (student, valid), (teacher, _) = seen.dense("student", view), seen.dense(seen.target, view)
            losses.append(gram(student, teacher, valid))
        return Agreed({"": mean_of(losses)})


class Distance(Agreement):
    """Pooled outputs as the network that is followed has them, through the projector: plain distillation of representations.

    weight: factor on its loss.
    """

    alone = True
    follows = True
    plain = True

    def __init__(self, *, weight: Weight = 1.0) -> None:
        super().__init__(weight)

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        for view in seen.globals[:1]:
            mine, theirs = (part.shape[1] for part in (seen.predicted(view), seen.pooled(seen.target, view)))
            if mine != theirs:
                raise ValueError(
                    f"objective.losses: distance compares {mine} values of the student's projector with {theirs} of the teacher; "
                    f"set objective.projector.size to {theirs}"
                )
        losses = [cosine_distance(seen.predicted(view), seen.pooled(seen.target, view)) for view in seen.globals]
        return Agreed({"": mean_of(losses)}, {"teacher_similarity": State(1 - torch.cat(losses).mean().detach() / 2)})

"""Two views agree: the one machine behind contrastive learning, self-distillation and CLIP.

A view is a modality and an augmentation. The student's views are pooled and projected; losses say how they are to agree with the
views that another network, or the same one, makes of the same samples. A paper is a setting of these parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Annotated, Any, ClassVar, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.data import Batch
from mmssl.losses.arithmetic import unit
from mmssl.losses.negatives import similarities
from mmssl.losses.spectrum import effective_rank, spread
from mmssl.masking import Sampler, split_in_order
from mmssl.modality import Processor
from mmssl.model import MMSSLModel, initialise_all
from mmssl.model.heads import BatchNorm, Head, LogitScale, Mlp, Prototypes
from mmssl.objectives.agree.harmony import Harmonise, harmony_of
from mmssl.objectives.agree.parts import Agreement, Seen, Space, pairs_of
from mmssl.objectives.agree.predictors import Answer, Predicting
from mmssl.objectives.base import Objective, Setup, Step
from mmssl.objectives.networks import Clock, Frozen, Moving, Published, Shape, WarmupShare
from mmssl.objectives.terms import Metric, Rows, State, Term, Terms
from mmssl.objectives.together import Share
from mmssl.objectives.views import GLOBAL, MIXED, Change, Encodings, View, Views, no_saliency, numbered
from mmssl.tokens import Tokens

Momentum = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """The network that the student follows.

    momentum: of a moving average of the student, at the start and at the end of the budget.
    schedule: how the momentum goes from one to the other.
    warmup: share of the budget during which the momentum falls from 1 to its start, before that.
    model: folder or Hub id of a saved model that never changes, in the place of an average: one of mmssl, or a public encoder of
        pictures (ViT, DINOv2, CLIP or SigLIP of transformers, or open_clip:MODEL/PRETRAINED); null: an average.
    size: side in pixels of the pictures that a public encoder gets, where it takes several; null: its own.
    """

    momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    schedule: Shape = "cosine"
    warmup: WarmupShare = 0.0
    model: str | None = None
    size: Annotated[int, Field(gt=0)] | None = None


class Agree(Objective):
    """Make views agree. Its arguments are those of `Contrast`, `Distill` and `Clip`."""

    couples = True
    harmonise: Harmonise | None = None
    count: ClassVar[int] = 2

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        losses: Sequence[Agreement],
        projector: Head,
        predictor: Answer | None,
        teacher: TeacherOptions | None,
        mask: Sampler | None,
        mask_probability: float,
        publish: Published,
        scale: LogitScale | None = None,
        keeps_heads: bool = False,
        needs_losses: bool = True,
        modality: str | None = None,
    ) -> None:
        super().__init__(model, replace(setup, only=modality))
        self.couples = bool(losses)
        if needs_losses and not losses:
            raise ValueError("objective.losses is empty: name how views are to agree, as in losses: [{name: info_nce}]")
        self.losses, self.keeps_heads, self.place = nn.ModuleList(losses), keeps_heads, ""
        every = [view for name in self.modalities for view in numbered(name, self.views[name])]
        self.mixtures = {view: of for view in every if (of := self.views[view.modality][view.kind].of) is not None}
        self.all_views = [view for view in every if view not in self.mixtures]
        self.check_views()
        self.target = self.make_target(teacher)
        self.projects = any(loss.projects for loss in self.every_loss)
        if not self.projects:
            projector, predictor = replace(projector, layers=0), None
        self.attach(projector, scale)
        width = projector.out(min(model.pooled_size(name) for name in self.modalities))
        self.predictors = nn.ModuleDict({} if predictor is None else {name: predictor.build(width) for name in self.modalities})
        space = Space(
            width,
            {name: model.pooled_size(name) for name in self.modalities},
            model.config.hidden_size,
            self.modalities,
            {name: [view for view in self.all_views if view.modality == name] for name in self.modalities},
            self.target != "student",
            samples=setup.samples,
            group_labels=setup.group_labels,
        )
        prototypes = self.make_prototypes(space)
        if len(prototypes):
            self.heads[f"{self.place}prototypes"] = prototypes
        self.mask, self.mask_probability = mask, mask_probability
        if mask is None and any(loss.tokens for loss in self.every_loss):
            raise ValueError("objective.losses: a loss of hidden tokens needs objective.mask: what the student does not see")
        self.mask_token = nn.Parameter(torch.empty(model.config.hidden_size)) if mask is not None else None
        for part in (prototypes, self.predictors):
            initialise_all(part, model.config)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        if publish == "teacher" and not self.networks.teachers:
            raise ValueError("objective.publish: teacher needs objective.teacher to be a moving average; choose student")
        self.publish = publish

    def check_views(self) -> None:
        """ValueError where no loss could say anything: nothing to follow, or no two views that it compares."""
        for name, kinds in self.views.items():
            if GLOBAL not in kinds:
                raise ValueError(
                    f"modalities.{name}.views has {', '.join(kinds)}, but no kind {GLOBAL!r}, which others follow; call one so"
                )
        for loss in self.every_loss:
            if not loss.alone and not pairs_of(self.all_views, loss.between):
                seen = ", ".join(map(str, self.all_views))
                raise ValueError(
                    f"objective.losses: {type(loss).__name__} compares two views ({loss.between} modalities), but there are only "
                    f"{seen}; set modalities.NAME.views.{GLOBAL}.count to 2, or the loss's `between`"
                )

    @property
    def views(self) -> Mapping[str, Mapping[str, Views]]:
        """Those of the recipe, and one that is mixed of two where a loss asks for it."""
        found = super().views
        if not any(loss.mixes for loss in self.every_loss):
            return found
        return {name: {**kinds, MIXED: self.mixed_of(name, kinds)} for name, kinds in found.items()}

    def mixed_of(self, name: str, kinds: Mapping[str, Views]) -> Views:
        """The mixed view of a modality. ValueError where its samples cannot be mixed, or there are no two views."""
        if not self.model.adapter(name).mixable:
            raise ValueError(
                f"objective.losses: mixed needs samples whose weighted sum is a sample, which those of {name} are not (its adapter "
                "is not mixable); leave mixed out, or leave the modality out"
            )
        views = [view for view in numbered(name, kinds) if view.kind == GLOBAL]
        if len(views) < 2:
            raise ValueError(
                f"objective.losses: mixed needs two views of a sample; set modalities.{name}.views.{GLOBAL}.count to 2, "
                f"got {len(views)}"
            )
        return Views(1, of=(views[0], views[1]))

    @property
    def mixes(self) -> bool:
        return super().mixes or bool(self.mixtures)

    def make_prototypes(self, space: Space) -> nn.ModuleDict:
        """Prepare the losses; the prototypes that they ask for, by their numbers."""
        found = nn.ModuleDict()
        for number, loss in enumerate(self.every_loss):
            if loss.follows and self.target == "student":
                raise ValueError(f"objective.losses: {type(loss).__name__} follows another network; set objective.teacher")
            if (made := loss.prepare(space)) is not None:
                found[str(number)] = made
                space = replace(space, prototypes=space.prototypes or len(made.weight))
        return found

    def make_target(self, teacher: TeacherOptions | None) -> str:
        """The name of the network that the student follows."""
        if teacher is None:
            return "student"
        if teacher.model is not None:
            if wrong := [type(loss).__name__ for loss in self.every_loss if not loss.plain]:
                raise ValueError(
                    f"objective.losses: {wrong[0]} follows projections, which the saved model objective.teacher.model has not; use "
                    "distance or gram, or a teacher that is a moving average (model: null)"
                )
            name = self.networks.want("frozen", Frozen(teacher.model, foreign=True, side=teacher.size))
            if self.networks.foreign(name) is not None:
                self.check_foreign(teacher.model)
                return name
            known = self.networks.config(name).modalities
            if missing := [each for each in self.modalities if each not in known]:
                raise ValueError(f"objective.teacher.model: {teacher.model} knows {', '.join(known)}, but not {', '.join(missing)}")
            return name
        return self.networks.want("teacher", Moving(*teacher.momentum, shape=teacher.schedule, warmup=teacher.warmup))

    def check_foreign(self, path: str) -> None:
        """ValueError where a public encoder cannot be followed: samples are no pictures, or a loss wants its tokens."""
        if wrong := [name for name in self.modalities if not self.model.adapter(name).pictured]:
            raise ValueError(f"objective.teacher.model: {path} sees pictures, which samples of {wrong[0]} are not")
        if losses := [type(loss).__name__ for loss in self.every_loss if loss.tokens or loss.dense]:
            raise ValueError(f"objective.losses: {losses[0]} compares tokens, of which {path} gives none; use distance")

    def attach(self, projector: Head, scale: LogitScale | None) -> None:
        """Put the projectors on top of the student, so that every copy of it has its own. A published model's stay as they are."""
        model = self.model
        if self.keeps_heads:
            settings = {name: projector.settings() for name in self.modalities}
            if model.config.projections != settings:
                model.project(settings)
                initialise_all(self.heads, model.config)
        else:
            model.heads = nn.ModuleDict() if model.heads is None else model.heads
            self.place = next(place for place in map("part{}_".format, count(1)) if f"{place}projector" not in self.heads)
            built = nn.ModuleDict({name: projector.build(model.pooled_size(name)) for name in self.modalities})
            initialise_all(built, model.config)
            self.heads[f"{self.place}projector"] = built
        if scale is not None:
            known = dict(self.heads).get("scale")
            if isinstance(known, LogitScale) and (known.bias is None) == (scale.bias is None):
                known.limit = scale.limit
                return
            self.heads["scale"] = scale
            model.config.logit_scale = float(scale.scale.detach())
            model.config.logit_bias = None if scale.bias is None else float(scale.bias.detach())

    @property
    def heads(self) -> nn.ModuleDict:
        """What is trained on top of the student, and averaged with it."""
        return cast(nn.ModuleDict, self.model.heads)

    @property
    def every_loss(self) -> list[Agreement]:
        """The losses, in the recipe's order."""
        return [cast(Agreement, loss) for loss in self.losses]

    @property
    def change(self) -> Change | None:
        return None if self.mask is None else self.hide

    def hide(self, seen: Encodings, view: View, tokens: Tokens) -> Tokens:
        """Tokens of a global view with the mask token at hidden places, in the share `mask_probability` of the samples."""
        if view.kind != GLOBAL or self.mask is None or self.mask_token is None:
            return tokens
        self.look_at(self.mask, tokens, "objective.mask", view.modality)
        draws = seen.draws(view)
        split = split_in_order(self.mask, no_saliency, tokens.coords, tokens.valid, None, draws, tokens.sequences())
        chosen = draws.uniform("masked sample", 1) < self.mask_probability
        hidden = seen.hidden[self.hide, view] = split.hidden_places(tokens.values.shape[1]) & chosen
        return replace(tokens, values=torch.where(hidden[..., None], self.mask_token.to(tokens.values.dtype), tokens.values))

    def represent(self, batch: Batch, step: Step) -> Share:
        seen = step.seen
        assert seen is not None
        views = [view for view in self.all_views if view.modality in batch.inputs]
        values, rows = dict[str, Tensor](), dict[str, Tensor]()
        followed = [view for view in views if view.kind == GLOBAL] if self.target != "student" else []
        mixed = [view for view in self.mixtures if view.modality in batch.inputs]
        for network, some in (("student", views + mixed), (self.target, followed)):
            for view, pooled in zip(some, seen.pooled(network, some), strict=True):
                values[f"{network}/pooled/{view}"], rows[f"{network}/pooled/{view}"] = widened(pooled), batch.held(view.modality)
        if any(loss.tokens or loss.dense for loss in self.every_loss):
            for view in [view for view in views if view.kind == GLOBAL]:
                self.add_tokens(seen, batch, view, values, rows)
        return Share(batch.keys, batch.ids, batch.group, values, rows)

    def add_tokens(self, seen: Encodings, batch: Batch, view: View, values: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        """Add tokens of a global view: those at hidden places, or all."""
        held = batch.held(view.modality)
        for network in dict.fromkeys(("student", self.target)):
            encoded = seen.encoded(network, [view])[0]
            body = encoded.tail(seen.tokens("student", view).values.shape[1])
            if any(loss.tokens for loss in self.every_loss):
                hidden = seen.hidden[self.hide, view]
                values[f"{network}/hidden/{view}"] = widened(body.values[hidden])
                rows[f"{network}/hidden/{view}"] = held[torch.nonzero(hidden)[:, 0]]
            if any(loss.dense for loss in self.every_loss):
                values[f"{network}/tokens/{view}"] = widened(body.values)
                values[f"{network}/valid/{view}"] = body.valid_or_ones().to(torch.float32)
                rows[f"{network}/tokens/{view}"] = rows[f"{network}/valid/{view}"] = held

    def agree(self, share: Share, step: Step) -> Terms:
        if len(share) < 2 and any(isinstance(part, BatchNorm) for part in (*self.heads.modules(), *self.predictors.modules())):
            raise ValueError(
                "batch normalisation in a head needs two samples or more in a step; got one. Raise train.batch_size, or set the "
                "norm of objective.projector and objective.predictor to layer or group"
            )
        seen = self.seen(share, step)
        if not seen.views:
            return Terms({})  # no row of the step holds the modality that it reads
        harmony = harmony_of(self.harmonise, seen)
        terms, metrics, state = dict[str, Term](), dict[str, Metric](), dict[str, Tensor]()
        for number, loss in enumerate(self.every_loss):
            prototypes = self.prototypes(number)
            found = loss(seen, prototypes) if harmony is None else harmony.agreed(loss, prototypes)
            name = f"loss_{number + 1}"
            for key, term in found.terms.items():
                terms[f"{name}_{key}" if key else name] = term.times(loss.weight)
            metrics |= {key if key not in metrics else f"{key}_{number + 1}": metric for key, metric in found.metrics.items()}
            state |= {f"losses.{number}.{key}": value.detach() for key, value in found.state.items()}
        for name, predictor in self.predictors.items():
            first = next((view for view in seen.views if view.modality == name), None)
            if isinstance(predictor, Predicting) and first is not None:
                learned = predictor.learned(seen.projected(first))
                state |= {f"predictors.{name}.{key}": value for key, value in learned.items()}
        if len(terms) > 1:
            metrics |= {name: term.measured for name, term in terms.items()}
        if harmony is not None:
            terms["harmony"], told = harmony.term(Terms(terms))
            metrics |= told
        return Terms(terms, metrics | self.measured(seen), state)

    def seen(self, share: Share, step: Step) -> Seen:
        """What losses see of a step."""
        views = [view for view in self.all_views if f"student/pooled/{view}" in share.values]
        # A public model has no projections, and the losses that follow one ask for none.
        target = self.model if self.networks.foreign(self.target) is not None else self.networks[self.target]
        scale = dict(self.heads).get("scale")
        return Seen(
            share,
            views,
            partial(project, self.model, self.place),
            partial(project, target, self.place),
            self.answer if len(self.predictors) else None,
            self.target,
            cast(LogitScale | None, scale),
            step.clock,
            step.diagnose,
            {view: of for view, of in self.mixtures.items() if f"student/pooled/{view}" in share.values},
        )

    def answer(self, name: str, projected: Tensor) -> Tensor:
        """What the predictor of a modality makes of projections."""
        return self.predictors[name](projected, True)

    def prototypes(self, number: int) -> tuple[Prototypes, Prototypes] | None:
        """Those of a loss, or of the first one that has any: the student's, and those of the network that is followed."""
        place = f"{self.place}prototypes"
        if place not in self.heads:
            return None
        own = cast(nn.ModuleDict, self.heads[place])
        key = str(number) if str(number) in own else next(iter(own))
        other = cast(nn.ModuleDict, cast(nn.ModuleDict, self.networks[self.target].heads)[place])
        return cast(Prototypes, own[key]), cast(Prototypes, other[key])

    @torch.no_grad()
    def measured(self, seen: Seen) -> dict[str, Metric]:
        """What tells whether representations collapse."""
        found = dict[str, Metric]()
        if self.networks.teachers and self.target in self.networks.teachers:
            rule = cast(Moving, self.networks.rules[self.target])
            found["momentum"] = State(torch.tensor(rule.momentum(seen.clock.progress)))
        if seen.views and seen.diagnose:
            first = seen.views[0]
            directions = unit(seen.projected(first).detach().float())
            # 1 where they are spread over the whole sphere, 0 where all are alike.
            found["feature_std"] = State(spread(directions) * directions.shape[1] ** 0.5)
            found["feature_rank"] = Rows(seen.pooled("student", first).detach(), effective_rank)
        if seen.views and any(loss.between != "within" for loss in self.every_loss):
            rows = {view.modality: seen.rows(view) for view in seen.views}
            held = torch.bincount(torch.cat(list(rows.values())), minlength=len(seen.share))
            found["pairs"] = State((held > 1).sum().float())
        if seen.scale is not None:
            found["logit_scale"] = State(seen.scale.scale.detach())
        return found

    @torch.no_grad()
    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """How similar each sample of a view is to each of another one: of pairs that agree, the diagonal stands out."""
        from matplotlib.figure import Figure  # only where something is drawn

        seen = self.seen(self.represent(batch, Step(seen=self.encodings(batch))), Step())
        pair = next(iter(seen.pairs("across") or seen.pairs("within")), None)
        if not self.projects or pair is None:
            return {}
        a, b = pair
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.add_subplot()
        shown = similarities(seen.projected(a), seen.projected(b)).cpu().numpy()
        figure.colorbar(axes.imshow(shown, vmin=-1, vmax=1, cmap="RdBu_r"), label="cosine similarity")
        axes.set(xlabel=str(b), ylabel=str(a))
        return {f"{a.modality}: similarity of {a} and {b}": figure}

    def after_step(self, clock: Clock) -> None:
        if "scale" in self.heads:
            cast(LogitScale, self.heads["scale"]).limited()
        super().after_step(clock)

    def projectors(self, model: MMSSLModel) -> nn.ModuleDict | None:
        found = cast(nn.ModuleDict, cast(nn.ModuleDict, model.heads)[f"{self.place}projector"])
        return found if all(cast(Mlp, head).head.layers for head in found.values()) else None


def project(model: MMSSLModel, place: str, name: str, pooled: Float[Tensor, "k d"]) -> Float[Tensor, "k p"]:
    """What a network's own projector makes of the pooled outputs of all samples of a step. place: where it has it."""
    projector = cast(Mlp, cast(nn.ModuleDict, cast(nn.ModuleDict, model.heads)[f"{place}projector"])[name])
    return projector(pooled, True)


def widened(values: Tensor) -> Tensor:
    """Representations in float32 or wider: those of all processes meet in it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))

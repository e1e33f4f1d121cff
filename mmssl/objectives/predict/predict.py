"""Hide and predict: the one machine behind masked modelling and JEPA.

A sampler hides tokens, a predictor encodes what is left and answers at the hidden places, targets say what the answer should be,
and losses how far it is from that. All of them are parts of a recipe; a paper is a setting of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, permutations
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor, nn

from mmssl.data import Batch
from mmssl.draws import Draws
from mmssl.masking import Sampler, Split, preferred, split_in_order
from mmssl.modality import Inputs, Processor, find
from mmssl.model import MMSSLModel, initialise_all
from mmssl.objectives.base import ALONE, Objective, Setup, Step
from mmssl.objectives.networks import Clock, Published
from mmssl.objectives.predict import sequences
from mmssl.objectives.predict.baseline import Unexplained, Yardstick, constant, variety
from mmssl.objectives.predict.distances import Chamfer, CrossEntropy, Loss, Mse
from mmssl.objectives.predict.parts import Predicted, Predictor, Scene, Target, anything
from mmssl.objectives.terms import Largest, Metric, Rows, Term, Terms
from mmssl.objectives.views import Encodings, View, numbered
from mmssl.tokens import Tokens, gather

Across = Literal["none", "also", "only"]
"""Whether the modalities of a row are predicted from one another: not, beside each from itself, or only so."""


class Heads(nn.ModuleDict):
    """A prediction of each part of a target, linear unless the target has another head; of size 0 what the predictor gives."""

    def __init__(self, target: Target, width: int, sizes: Mapping[str, int]) -> None:
        super().__init__({key: target.head(width, size) for key, size in sizes.items()})

    def forward(self, hidden: Tensor, only: Mapping[str, Bool[Tensor, "b m"]] | None = None) -> dict[str, Tensor]:
        """A prediction of each part at all places; of those in `only` at k places alone, as `[1, k, size]`."""
        where = {} if only is None else only
        return {key: head(hidden[where[key]][None] if key in where else hidden) for key, head in self.items()}


class Predict(Objective):
    """Predict targets at hidden places. Its arguments are those of `Masked` and `Jepa`."""

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        mask: Sampler | None,
        masks: int,
        predictor: Predictor,
        targets: Sequence[Target],
        view: Literal["same", "clean"],
        publish: Published,
        across: Across = "none",
        modality: str | None = None,
    ) -> None:
        super().__init__(model, replace(setup, only=modality))
        self.across = across
        if not targets:
            raise ValueError("objective.targets is empty: name what is to be predicted, as in targets: [{name: raw}]")
        check(model, self.modalities, targets)
        self.samplers = {name: mask or preferred(find(name).mask) for name in self.modalities}
        self.masks, self.clean = masks, view == "clean"
        self.predictor = predictor
        self.predictor.masks = masks
        if not predictor.everywhere and any(target.everywhere for target in targets):
            raise ValueError(
                "objective.targets: a target is about seen places too (hidden, or places: seen), but the predictor answers at "
                "hidden ones only; set predictor.predict: all"
            )
        if across != "none" and not predictor.separate:
            raise ValueError(
                f"objective.across: a modality is predicted from another one alone, but {type(predictor).__name__} sees the places "
                "that it predicts; set objective.predictor to transformer or cross_attention"
            )
        if across != "none" and len(self.modalities) < 2:
            raise ValueError(f"objective.across needs two modalities or more in a row; the recipe has {self.modalities[0]} alone")
        if across != "none" and (apart := [name for name in self.modalities if model.adapter(name).apart]):
            raise ValueError(
                f"objective.across: tokens of two modalities attend to each other, but those of {apart[0]!r} only within "
                f"a sequence of a sample; set modalities.{apart[0]}.adapter.attention: all"
            )
        identities = across != "none" or any(model.adapter(name).has_identity for name in self.modalities)
        self.predictor.prepare(model.config, identities=identities)
        width = model.config.hidden_size
        names = self.modalities if across != "none" else []
        self.marks = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in names})
        self.targets = nn.ModuleList(targets)
        for target in targets:
            target.prepare(self.networks, self.modalities)
        self.heads = nn.ModuleList(
            nn.ModuleDict({name: Heads(target, self.predictor.width, target.sizes(model, name)) for name in self.modalities})
            for target in targets
        )
        self.losses = [{name: self.loss_for(target, name) for name in self.modalities} for target in targets]
        initialise_all(self.predictor, model.config)
        initialise_all(self.heads, model.config)
        if publish == "teacher" and not self.networks.teachers:
            raise ValueError("objective.publish: teacher needs a target that keeps one, such as latent; choose student")
        self.publish = publish

    @property
    def every_target(self) -> list[Target]:
        """The targets, in the recipe's order."""
        return [cast(Target, target) for target in self.targets]

    def head(self, number: int, name: str) -> Heads:
        """What predicts target `number` for a modality."""
        return cast(Heads, cast(nn.ModuleDict, self.heads[number])[name])

    def loss_for(self, target: Target, name: str) -> Loss:
        """The loss of a target's float parts for a modality."""
        size = self.model.adapter(name).point_dim
        loss = target.loss
        if loss is None and target.default_loss is not None:
            return target.default_loss()
        if loss is None:
            return Chamfer(point_dim=size) if size else Mse()
        if isinstance(loss, Chamfer):
            if not size:
                raise ValueError(
                    f"objective.targets: chamfer compares sets of points, but the tokens of {name!r} are none; choose mse or null"
                )
            return replace(loss, point_dim=size)
        return loss

    def terms(self, batch: Batch, step: Step) -> Terms:
        parts, found = self.apart(batch), dict[str, Terms]()
        scenes = self.scenes(parts, step)
        for name, scene in (scenes if self.across != "only" else {}).items():
            found[name] = self.terms_at(scene, self.answered(scene, parts[name]), step)
        if not batch.paired:
            return next(iter(found.values()), Terms({}))
        for key, context, scene in self.across_scenes(batch, parts, scenes):
            found[key] = self.terms_across(context, scene, step)
        terms = {f"{key}_{name}": term for name, each in found.items() for key, term in each.terms.items()}
        return Terms(terms, {f"{key}_{name}": value for name, each in found.items() for key, value in each.metrics.items()})

    def scenes(self, parts: Mapping[str, Batch], step: Step) -> dict[str, Scene]:
        """What there is to predict of each modality. parts: the samples that hold it, as of `apart`."""
        found = dict[str, Scene]()
        for name, own in parts.items():
            inputs = self.view(own, name) if step.seen is None else step.seen.inputs(self.first_view(name))
            found[name] = self.scene(name, inputs, own, step)
        return found

    def across_scenes(
        self, batch: Batch, parts: Mapping[str, Batch], scenes: Mapping[str, Scene]
    ) -> Iterator[tuple[str, Tokens, Scene]]:
        """Each ordered pair of modalities that predict one another: a name, tokens of one, what to predict of the other.

        Of the samples that hold both. Networks encode each modality once for all pairs.
        """
        for a, b in permutations(scenes if self.across != "none" else (), 2):
            if (places := batch.in_both(a, b)) is not None:
                context, asked = places
                yield f"{a}_to_{b}", scenes[a].tokens.rows(context), self.some(scenes[b], parts[b].take(asked), asked)

    def some(self, scene: Scene, batch: Batch, rows: Int[Tensor, " k"]) -> Scene:
        """The scene of some of its samples, which `batch` holds."""
        inputs, view = ({key: x[rows] for key, x in whole.items()} for whole in (scene.inputs, scene.view or scene.inputs))
        return replace(
            scene,
            inputs=inputs,
            view=view,
            tokens=scene.tokens.rows(rows),
            draws=self.draws_of(batch),
            divide=partial(self.divide, inputs=view),
            differ=partial(self.differ, batch=batch),
            part_of=(scene, rows),
        )

    def draws_of(self, batch: Batch) -> Draws:
        """Random numbers of the samples, once for each mask."""
        return batch.draws.repeat(self.masks) if self.masks > 1 else batch.draws

    def terms_across(self, context: Tokens, scene: Scene, step: Step) -> Terms:
        """The terms of one modality predicted from the tokens of another one of the same samples."""
        tokens, first = self.joined(context, scene.tokens, scene.name), context.values.shape[1]
        parts = Split(
            torch.arange(first, device=tokens.values.device).expand(len(scene.parts.hidden), first),
            scene.parts.hidden + first,
            None,
            scene.parts.hidden_real,
            scene.parts.groups,
        )
        predicted = self.predictor(self.model.encoder, tokens.repeat(self.masks), parts, scene.draws)
        return self.terms_at(scene, replace(predicted, index=predicted.index - first), step)

    def joined(self, context: Tokens, asked: Tokens, name: str) -> Tokens:
        """The tokens of two modalities in a row; those that are asked for carry the mark of theirs."""
        none = torch.zeros_like(context.values)
        mark = self.marks[name].to(context.values.dtype).expand_as(asked.values)
        own = none if context.identity is None else context.identity
        both = (context.valid_or_ones(), asked.valid_or_ones())
        return Tokens(
            torch.cat([context.values, asked.values], 1),
            torch.cat([context.coords, asked.coords], 1),
            None if context.valid is None and asked.valid is None else torch.cat(both, 1),
            torch.cat([own, mark if asked.identity is None else asked.identity + mark], 1),
            context.expert,
            context.keys,
        )

    def apart(self, batch: Batch) -> dict[str, Batch]:
        """The samples of each modality of the rows, which are predicted each from itself."""
        names = [name for name in batch.inputs if name in self.modalities]
        return {name: batch.of(name) if batch.paired else batch for name in names}

    def terms_at(self, scene: Scene, predicted: Predicted, step: Step) -> Terms:
        """The terms of what was predicted of a modality."""
        terms, metrics, losses = dict[str, Term](), dict[str, Metric](), dict[str, Metric]()
        extras, yardsticks = dict(predicted.terms), list[Yardstick]()
        if step.diagnose:
            metrics["input_std"] = Rows(scene.tokens.mean().detach(), variety)
        for number, target in enumerate(self.every_target):
            answer = target(scene)
            if answer.values:
                term, yardstick, measured = self.target_term(number, scene, predicted, answer.values)
                terms[f"loss_{number + 1}"], losses[f"loss_{number + 1}"] = term.times(target.weight), term.measured
                yardsticks += [] if yardstick is None else [yardstick]
                metrics |= measured
            extras |= {free_name(key, extras): term for key, term in answer.terms.items()}
            metrics |= answer.metrics
        if len(terms) + len(extras) > 1:
            metrics |= losses | {key: term.measured for key, term in extras.items()}
        if yardsticks:
            metrics["unexplained"] = Unexplained(tuple(yardsticks))
        return Terms(terms | extras, metrics)

    def target_term(
        self, number: int, scene: Scene, predicted: Predicted, values: Mapping[str, Tensor]
    ) -> tuple[Term, Yardstick | None, dict[str, Metric]]:
        """The loss of one target over all its parts and the places that have one, what a constant prediction loses, and metrics.

        Of classes the head answers only at places that count: a vocabulary of logits for each padded place would be most of a step.
        """
        heads = self.head(number, scene.name)
        truths = {key: self.truth(number, scene, predicted, key, values[key]) for key in heads}
        chosen = {key: self.loss_of(number, scene.name, truth) for key, truth in truths.items()}
        counted = {key: loss.there(truths[key]) for key, loss in chosen.items()}
        if predicted.real is not None:
            counted = {key: there & predicted.real for key, there in counted.items()}
        latent = self.every_target[number].from_latent and predicted.latent is not None
        only = {key: counted[key] for key, truth in truths.items() if not truth.is_floating_point()}
        losses, constants, metrics = [], [], dict[str, list[Tensor]]()
        for key, guess in heads(predicted.latent if latent else predicted.values, only).items():
            loss, truth, counts = chosen[key], truths[key], counted[key]
            if key in only:
                each, _ = loss(guess, truth[counts][None], None, scene.draws)
                losses.append(each.new_zeros(counts.shape).masked_scatter(counts, each))
            else:
                if isinstance(heads[key], nn.Identity):
                    same_width(guess, truth)
                losses.append(loss(guess, truth, predicted.real, scene.draws)[0])
            for name, value in loss.metrics(guess, counts[counts][None] if key in only else counts).items():
                metrics.setdefault(name, []).append(value)
            if scene.diagnose:
                constants.append(constant(loss, truth, counts, predicted.real, scene.draws, guess.shape[-1]))
        term = Term.tokens(torch.stack(losses), torch.stack([*counted.values()]))
        yardstick = Yardstick(self.every_target[number].weight, term.measured, tuple(constants)) if scene.diagnose else None
        return term, yardstick, {name: Largest(torch.stack(values).amax()) for name, values in metrics.items()}

    def truth(self, number: int, scene: Scene, predicted: Predicted, key: str, values: Tensor) -> Tensor:
        """The target of a part at the places that are predicted. ValueError for anything but a value for every token."""
        scene.check(type(self.every_target[number]).__name__, key, values)
        return gather(repeated(values, len(predicted.index)), predicted.index)

    def loss_of(self, number: int, name: str, truth: Tensor) -> Loss:
        """The loss of a part; integer targets are classes whatever the loss."""
        loss = self.losses[number][name]
        return loss if truth.is_floating_point() or loss.classes else CrossEntropy()

    @torch.no_grad()
    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        parts, found = self.apart(batch), dict[str, dict[str, Num[Tensor, ""]]]()
        scenes = self.scenes(parts, step)
        for name, scene in (scenes if self.across != "only" else {}).items():
            places = sequences.places(self.predictor, scene.tokens.repeat(self.masks), scene.parts)
            found[name] = self.weights_at(scene, *places)
        if not batch.paired:
            return next(iter(found.values()), {})
        for key, _, scene in self.across_scenes(batch, parts, scenes):
            found[key] = self.weights_at(scene, scene.parts.hidden, scene.parts.hidden_real)
        return {f"{key}_{name}": weight for name, each in found.items() for key, weight in each.items()}

    def weights_at(self, scene: Scene, index: Tensor, real: Bool[Tensor, "b m"] | None) -> dict[str, Num[Tensor, ""]]:
        """The weights of the terms of a modality whose tokens at `index` are predicted."""
        found = {key: torch.tensor(weight, device=index.device) for key, weight in self.predictor.weights().items()}
        weights = dict[str, Tensor]()
        for number, target in enumerate(self.every_target):
            outline = target.outline(scene)
            counts = [self.counted(number, scene.name, there, index, real) for there in outline.there.values()]
            if counts:
                weights[f"loss_{number + 1}"] = torch.stack(counts).sum()
            found |= {free_name(key, found): weight for key, weight in outline.weights.items()}
        return weights | found

    def counted(self, number: int, name: str, there: Tensor, index: Tensor, real: Bool[Tensor, "b m"] | None) -> Tensor:
        """How many of the predicted places have a target; `there` says which tokens have, or what it is."""
        at = gather(repeated(there, len(index)), index)
        if at.dtype != torch.bool:
            at = self.loss_of(number, name, at).there(at)
        return (at if real is None else at & real).sum()

    @torch.no_grad()
    def observe(self, batches: Sequence[Batch], step: Step) -> None:
        apart = [part for batch in batches for part in self.apart(batch).values()]
        for name in dict.fromkeys(part.modality for part in apart):
            observing = [target for target in self.every_target if target.observes(name, step.clock)]
            if observing:
                scenes = [self.scene(name, self.view(part, name), part, step) for part in apart if part.modality == name]
                for target in observing:
                    target.observe(scenes)

    def scene(self, name: str, inputs: Inputs, batch: Batch, step: Step = ALONE) -> Scene:
        """What targets see of one view."""
        tokens = self.model.embed(name, inputs).keyed(batch.draws.fork(0))
        seen = batch.inputs[name] if self.clean else inputs
        divide, shared = partial(self.divide, inputs=inputs), None
        if step.seen is not None and not self.clean and self.views[name][self.first_view(name).kind].mask is None:
            shared = partial(self.encoded, step.seen, self.first_view(name))
        differ = partial(self.differ, batch=batch)
        draws, diagnose = self.draws_of(batch), step.diagnose
        own = (self.networks, name, seen, tokens, draws, divide, self.clean, step.clock, diagnose, shared, inputs, differ)
        return Scene(*own, counts=batch.counts)

    def differ(self, scene: Scene, batch: Batch) -> Bool[Tensor, "b n"]:
        """Which tokens the predictor gives other content than they have."""
        tokens = scene.tokens.repeat(self.masks)
        donors = self.donors(scene.name, scene.tokens, batch) if self.predictor.mixes else {}
        return sequences.altered(self.predictor, tokens, scene.parts, scene.draws, donors)

    def first_view(self, name: str) -> View:
        """The view of a modality whose hidden tokens are predicted."""
        return numbered(name, self.views[name])[0]

    @staticmethod
    def encoded(seen: Encodings, view: View, network: str) -> Tokens:
        """What a network makes of a view, for all parts of an objective."""
        return seen.encoded(network, [view])[0]

    def divide(self, scene: Scene, inputs: Inputs) -> Split:
        """Which tokens of a view are seen and hidden. ValueError if none can be hidden, or the first do not fit the mask."""
        tokens, adapter = scene.tokens, self.model.adapter(scene.name)
        available = anything(adapter.target(inputs)) if adapter.sparse_target else tokens.valid
        self.look_at(self.samplers[scene.name], tokens, "objective.mask", scene.name)
        coords = tokens.coords.repeat(self.masks, 1, 1)
        valid, free = (None if mask is None else mask.repeat(self.masks, 1) for mask in (tokens.valid, available))
        parts = split_in_order(
            self.samplers[scene.name],
            lambda: self.saliency(scene).repeat(self.masks, 1),
            coords,
            valid,
            free,
            scene.draws,
            tokens.repeat(self.masks).sequences(),
        )
        if not parts.hidden.shape[1]:
            raise ValueError(
                f"masked modelling hides tokens and shows others, but no sample of this batch has two tokens of {scene.name!r} "
                "with something to predict. Make tokens of smaller parts of a sample, or leave empty samples out"
            )
        return parts

    def predict(self, name: str, inputs: Inputs, batch: Batch, step: Step = ALONE) -> tuple[Scene, Predicted]:
        """What was seen and hidden of one view, and the predictor's answer at the places that are predicted."""
        scene = self.scene(name, inputs, batch, step)
        return scene, self.answered(scene, batch)

    def answered(self, scene: Scene, batch: Batch) -> Predicted:
        """The predictor's answer at the places of a scene that are predicted, of the samples in `batch`."""
        name, views = scene.name, range(1, self.predictor.views)
        others = [self.model.embed(name, self.view(batch, name, i)).keyed(batch.draws.fork(i)) for i in views]
        many = [tokens.repeat(self.masks) for tokens in (scene.tokens, *others)]
        donors = self.donors(name, scene.tokens, batch) if self.predictor.mixes else {}
        encoder = self.model.encoder
        return sequences.predicted(self.predictor, encoder, many[0], scene.parts, scene.draws, many[1:], donors)

    def donors(self, name: str, tokens: Tokens, batch: Batch) -> dict[str, Any]:
        """The tokens of the whole optimizer step, in the views that the encoder sees, and which samples of it the batch has."""
        if batch.others is None:
            return {"pool": tokens, "place": torch.arange(len(tokens.values), device=tokens.values.device).repeat(self.masks)}
        step = batch.others[name]
        view = self.augmented(name, step.inputs, Draws(step.keys), 0)
        return {"pool": self.model.embed(name, view), "place": step.place.repeat(self.masks)}

    @property
    def over_batch(self) -> list[str]:
        found = [f"predictor ({type(self.predictor).__name__})"] if self.predictor.over_batch else []
        for number, target in enumerate(self.every_target):
            losses = {type(loss).__name__ for loss in self.losses[number].values() if loss.over_batch}
            names = [*([type(target).__name__] if target.over_batch else []), *sorted(losses)]
            found += [f"targets[{number}] ({', '.join(names)})"] if names else []
        return found

    @property
    def mixes(self) -> bool:
        return super().mixes or self.predictor.mixes

    def saliency(self, scene: Scene) -> Tensor:
        """How much each token matters, by the first target that can say."""
        for target in self.every_target:
            if (found := target.saliency(scene)) is not None:
                return found
        raise ValueError("objective.mask.guided needs a target that says what matters, such as rendered; add one, or leave it out")

    def after_step(self, clock: Clock) -> None:
        super().after_step(clock)
        for target in self.every_target:
            target.after_step(clock)

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        found = dict(state)
        for number, target in enumerate(self.every_target):
            prefix = f"targets.{number}."
            own = {key.removeprefix(prefix): found.pop(key) for key in state if key.startswith(prefix)}
            found |= {key if key.startswith("networks.") else prefix + key: value for key, value in target.renamed(own).items()}
        return found

    @torch.no_grad()
    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """What was seen and what the model fills in, drawn by each modality that is predicted from itself, without augmentation."""
        own = self.apart(batch) if self.across != "only" else {}
        return {title: figure for name, part in own.items() for title, figure in self.filled_in(name, part, processors).items()}

    def filled_in(self, name: str, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """What was seen and what the model fills in, of one modality."""
        scene, predicted = self.predict(name, batch.inputs[name], batch)
        for number in range(len(self.targets)):
            if (shown := self.shown(number, scene, predicted)) is not None:
                samples = len(batch)
                hidden = scene.parts.hidden_places(scene.tokens.values.shape[1])[:samples]
                values = {key: value[:samples] for key, value in shown.items()}
                figure = find(name).picture(batch.inputs[name], hidden, values, processors[name])
                return {f"{name}: seen and predicted": figure}
        return {}

    def shown(self, number: int, scene: Scene, predicted: Predicted) -> dict[str, Tensor] | None:
        """Predictions of one target in the values of `Adapter.target`, at the place of their tokens, NaN elsewhere."""
        guesses, found = self.head(number, scene.name)(predicted.values), dict[str, Tensor]()
        for key, content in scene.content.items():
            content = repeated(content, len(predicted.index))
            if key not in guesses:
                return None
            guess = guesses[key]
            if content.is_floating_point():
                guess = self.every_target[number].shown(guess, gather(content, predicted.index))
            if guess is None:
                return None
            found[key] = at_places(guess.float(), predicted, content.shape[1])
        return found


def at_places(values: Tensor, predicted: Predicted, count: int) -> Tensor:
    """`[b, count, t]` with values at the places that were predicted, NaN elsewhere."""
    full = values.new_full((len(values), count, values.shape[-1]), float("nan"))
    rows = torch.arange(len(full), device=full.device)[:, None].expand_as(predicted.index)
    kept = torch.ones_like(predicted.index, dtype=torch.bool) if predicted.real is None else predicted.real
    full[rows[kept], predicted.index[kept]] = values[kept]
    return full


def same_width(guess: Tensor, truth: Tensor) -> None:
    """ValueError where a target without a head meets a predictor of another width."""
    if guess.shape[-1] != truth.shape[-1]:
        raise ValueError(
            f"objective.predictor gives {guess.shape[-1]} values for each place, but the target has {truth.shape[-1]} and no head "
            "between them. Set the predictor's hidden_size to that of the encoder, or the target's head: true"
        )


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, or with the first number from 2 on that makes it new."""
    names = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(each for each in names if each not in taken)


def repeated(values: Tensor, count: int) -> Tensor:
    """The batch as often as makes `count` rows: a target that is the same for all masks of a sample."""
    return values if len(values) == count else values.repeat(count // len(values), *[1] * (values.dim() - 1))


def check(model: MMSSLModel, names: Sequence[str], targets: Sequence[Target]) -> None:
    """ValueError where prediction would train or publish something meaningless."""
    for name in names:
        if model.adapter(name).overlapping and any(target.raw for target in targets):
            raise ValueError(
                f"modality {name!r} has an overlapping stem: hidden content reaches visible tokens, so raw targets can be copied; "
                "choose its non-overlapping adapter, or an objective with latent targets"
            )
    if model.config.pooling == "attention":
        raise ValueError("encoder.pooling: attention has weights that masked modelling never trains; choose another")

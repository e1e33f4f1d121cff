"""Hide and predict: the one machine behind masked modelling and JEPA.

A sampler hides tokens, a predictor encodes what is left and answers at the hidden places, targets say what the answer should be,
and losses how far it is from that. All of them are parts of a recipe; a paper is a setting of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mmssl.data import Batch
from mmssl.draws import Draws
from mmssl.encoder import initialise_all
from mmssl.losses.tokens import mean_where
from mmssl.masking import Sampler, preferred, split_in_order
from mmssl.modality import Inputs, Processor, find
from mmssl.model import MMSSLModel
from mmssl.objectives.base import Objective, Output, Setup
from mmssl.objectives.baseline import constant_loss, share, variety
from mmssl.objectives.distances import Chamfer, CrossEntropy, Loss, Mse, PerToken
from mmssl.objectives.parts import Predicted, Predictor, Scene, Target
from mmssl.tokens import Tokens, gather


class Heads(nn.ModuleDict):
    """A prediction of each part of a target, linear unless the target has another head; of size 0 what the predictor gives."""

    def __init__(self, target: Target, width: int, sizes: Mapping[str, int]) -> None:
        super().__init__({key: target.head(width, size) for key, size in sizes.items()})

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        return {key: head(hidden) for key, head in self.items()}


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
        publish: Literal["student", "teacher"],
    ) -> None:
        super().__init__(model, setup)
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
        self.predictor.prepare(model.config, identities=any(model.adapter(name).has_identity for name in self.modalities))
        self.targets = nn.ModuleList(targets)
        for target in targets:
            target.prepare(model, self.modalities)
        self.heads = nn.ModuleList(
            nn.ModuleDict({name: Heads(target, self.predictor.width, target.sizes(model, name)) for name in self.modalities})
            for target in targets
        )
        self.losses = [{name: self.loss_for(target, name) for name in self.modalities} for target in targets]
        initialise_all(self.predictor, model.config)
        initialise_all(self.heads, model.config)
        if publish == "teacher" and all(target.teacher() is None for target in targets):
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

    def forward(self, batch: Batch) -> Output:
        name = batch.modality
        scene, predicted = self.predict(name, self.view(batch, name), batch)
        added = self.predictor.extra()
        total, constant = (scene.tokens.values.new_zeros(()) for _ in range(2))
        extras = total + sum(added.values())
        metrics = {"input_std": variety(scene.tokens)} | {key: value.detach() for key, value in added.items()}
        self.logged: dict[str, Tensor] = {}
        for number, target in enumerate(self.every_target):
            loss, yardstick = self.target_loss(number, scene, predicted)
            extra = target.extra()
            total, constant = total + target.weight * loss, constant + target.weight * yardstick
            extras = extras + sum(extra.values())
            if len(self.targets) > 1 or extra:
                metrics |= {f"loss_{number + 1}": loss.detach()} | {key: value.detach() for key, value in extra.items()}
            metrics |= target.metrics() | self.logged
        return Output(total + extras, metrics | {"unexplained": share(total, constant)})

    def target_loss(self, number: int, scene: Scene, predicted: Predicted) -> tuple[Tensor, Tensor]:
        """Mean loss of one target over all its parts and the places that have one, and that of a constant prediction."""
        target_of = self.every_target[number]
        found = target_of(scene)
        source = predicted.latent if target_of.from_latent and predicted.latent is not None else predicted.values
        guesses = self.head(number, scene.name)(source)
        losses, constants, counted = [], [], []
        for key, target in found.items():
            truth = gather(repeated(target, len(predicted.index)), predicted.index)
            if target.is_floating_point() and isinstance(self.head(number, scene.name)[key], nn.Identity):
                same_width(guesses[key], truth)
            loss, there = self.token_loss(number, scene, guesses[key], truth, predicted.real)
            counts = there if predicted.real is None else there & predicted.real
            how, classes = self.losses[number][scene.name], guesses[key].shape[-1]
            constants.append(constant_loss(how, truth, counts, predicted.real, scene.draws, classes))
            losses.append(loss)
            counted.append(counts)
        if not losses:  # all of its loss is in `extra`
            nothing = scene.tokens.values.new_zeros(())
            return nothing, nothing
        where = torch.stack(counted)
        return mean_where(torch.stack(losses), where), mean_where(torch.stack(constants), where)

    def token_loss(self, number: int, scene: Scene, guess: Tensor, truth: Tensor, real: Bool[Tensor, "b m"] | None) -> PerToken:
        """Loss of each token and which tokens have a target; integer targets are classes whatever the loss."""
        loss = self.losses[number][scene.name]
        if not truth.is_floating_point() and not loss.classes:
            loss = CrossEntropy()
        for key, value in loss.metrics(guess).items():
            self.logged[key] = torch.maximum(value, self.logged.get(key, value))
        return loss(guess, truth, real, scene.draws)

    def predict(self, name: str, inputs: Inputs, batch: Batch) -> tuple[Scene, Predicted]:
        """What was seen and hidden of one view, and the predictor's answer at the places that are predicted."""
        tokens, draws = self.model.embed(name, inputs), batch.draws
        scene_inputs = batch.inputs[name] if self.clean else inputs
        adapter = self.model.adapter(name)
        available = anything_there(adapter.target(inputs)) if adapter.sparse_target else tokens.valid
        if self.masks > 1:
            draws = draws.repeat(self.masks)
        many = tokens.repeat(self.masks)
        free = None if available is None else available.repeat(self.masks, 1)
        parts = split_in_order(
            self.samplers[name],
            lambda: self.saliency(name, scene_inputs).repeat(self.masks, 1),
            many.coords,
            many.valid,
            free,
            draws,
        )
        if not parts.hidden.shape[1]:
            raise ValueError(
                f"masked modelling hides tokens and shows others, but no sample of this batch has two tokens of {name!r} with "
                "something to predict. Make tokens of smaller parts of a sample, or leave empty samples out"
            )
        others = [self.model.embed(name, self.view(batch, name, number)) for number in range(1, self.predictor.views)]
        step = self.step_of(name, tokens, batch) if self.predictor.mixes else {}
        predicted = self.predictor(self.model.encoder, many, parts, draws, [other.repeat(self.masks) for other in others], **step)
        return Scene(self.model, name, scene_inputs, tokens, parts, draws, self.clean), predicted

    def step_of(self, name: str, tokens: Tokens, batch: Batch) -> dict[str, Any]:
        """The tokens of the whole optimizer step, in the views that the encoder sees, and which samples of it the batch has."""
        if batch.others is None:
            return {"pool": tokens, "place": torch.arange(len(tokens.values), device=tokens.values.device).repeat(self.masks)}
        step = batch.others[name]
        view = self.augmented(name, step.inputs, Draws(step.keys), 0)
        return {"pool": self.model.embed(name, view), "place": step.place.repeat(self.masks)}

    @property
    def mixes(self) -> bool:
        return super().mixes or self.predictor.mixes

    def saliency(self, name: str, inputs: Inputs) -> Tensor:
        """How much each token matters, by the first target that can say."""
        for target in self.every_target:
            if (found := target.saliency(self.model, name, inputs)) is not None:
                return found
        raise ValueError("objective.mask.guided needs a target that says what matters, such as rendered; add one, or leave it out")

    def after_step(self, progress: float) -> None:
        for target in self.every_target:
            target.after_step(self.model, progress)

    def published(self) -> MMSSLModel:
        if self.publish == "student":
            return self.model
        return next(teacher for target in self.every_target if (teacher := target.teacher()) is not None)

    @torch.no_grad()
    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """What was seen and what the model fills in, drawn by the modality, without augmentation."""
        name = batch.modality
        plain = replace(batch, inputs={name: batch.inputs[name]})
        scene, predicted = self.predict(name, plain.inputs[name], plain)
        for number in range(len(self.targets)):
            if (shown := self.shown(number, scene, predicted)) is not None:
                count = len(batch)
                hidden = scene.parts.hidden_places(scene.tokens.values.shape[1])[:count]
                values = {key: value[:count] for key, value in shown.items()}
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


def repeated(values: Tensor, count: int) -> Tensor:
    """The batch as often as makes `count` rows: a target that is the same for all masks of a sample."""
    return values if len(values) == count else values.repeat(count // len(values), *[1] * (values.dim() - 1))


def anything_there(targets: Mapping[str, Tensor]) -> Bool[Tensor, "b n"]:
    """Tokens for which at least one target has a value."""
    there = [~target.isnan().all(-1) if target.is_floating_point() else target != -100 for target in targets.values()]
    return torch.stack(there).any(0)


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

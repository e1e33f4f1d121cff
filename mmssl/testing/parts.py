"""Laws that every objective and every target keeps, on any modality; see `mmssl.testing`."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch, Labels, with_others
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import MMSSLModel
from mmssl.objectives import Objective, Setup, Step
from mmssl.objectives.predict import Masked
from mmssl.objectives.predict.parts import Answer, Target
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant
from mmssl.testing.small import small_model, small_processor
from mmssl.tokens import Tokens
from mmssl.training import checkpoint
from mmssl.training.loop import Training, fit

Make = Callable[[MMSSLModel, Setup], Objective]
STEP, STEPS = 8, 4
"""Samples of a step, and steps of a run that is resumed half way."""


def made(make: Make, name: str, seed: int = 0) -> Objective:
    """An objective with a small model of a modality, two classes of labels, and the modality's default views."""
    labels = Labels("classification", ["a", "b"], (torch.arange(STEP) % 2).numpy())
    model = small_model(name)
    torch.manual_seed(seed)
    return make(model, Setup({name: find(name).augment()}, labels)).train()


def steps(name: str, parts: int = 1, start: int = 0) -> Iterator[Batch]:
    """The modality's examples in every step, with its draws, in so many micro-batches that are padded each on its own."""
    processor, ids = small_processor(name), torch.arange(STEP)
    rows = [processor(raw) for raw in find(name).example(STEP, 0)]
    cut = [(part, processor.collate([rows[i] for i in part])) for part in ids.split(STEP // parts)]
    for step in count(start):
        for part, inputs in cut:
            yield Batch({name: inputs}, keys(0, step, part), part, part % 2, step=step)


def training(objective: Objective, parts: int = 1) -> Training:
    # A large epsilon, or AdamW would blow the rounding of gradients that are zero up to whole steps.
    options = TrainOptions(batch_size=STEP, accumulation=parts, max_steps=STEPS, eps=1e-4, schedule=constant(warmup=0))
    return Training(objective, options)


def state_of(objective: Objective) -> dict[str, Tensor]:
    """A copy of all that a checkpoint holds of an objective."""
    return {key: value.clone() for key, value in objective.state_dict().items()}


def saying(what: str) -> Callable[[str], str]:
    """The message of a comparison, with what is compared."""
    return lambda text: f"{what}: {text}"


def every_weight_learns(make: Make, name: str) -> None:
    """Trained weights get a finite gradient; teachers and what is frozen get none, and stay as they are."""
    objective = made(make, name)
    objective.networks.make()
    frozen = {key: p.clone() for key, p in objective.named_parameters() if not p.requires_grad}
    output = objective(next(steps(name)))
    assert output.loss.isfinite(), f"the loss is {output.loss.item()}"
    assert all(not metric.value.requires_grad for metric in output.metrics.values()), "metrics must be detached"
    output.loss.backward()
    for key, parameter in objective.named_parameters():
        if key in frozen:
            assert parameter.grad is None, f"{key} is not trained, but gets a gradient"
            assert torch.equal(parameter, frozen[key]), f"{key} is not trained, but changes in a forward pass"
        else:
            assert parameter.grad is not None, f"{key} gets no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"


def loss_falls(make: Make, name: str) -> None:
    """The loss falls on one repeated batch."""
    objective, batch = made(make, name), next(steps(name))
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    history: list[float] = []
    while len(history) < 60 and (not history or history[-1] >= 0.9 * history[0]):
        loss = objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0], f"the loss does not fall on one batch: {history}"


def loss_is_a_function_of_batch_and_state(make: Make, name: str) -> None:
    """The loss of a batch is that of another objective with the same state, bit by bit, and asking for it changes nothing."""
    one, other, batch = made(make, name), made(make, name, seed=1), next(steps(name))
    for objective in (one, other):
        objective.networks.make()
        objective(batch)
        objective.eval()
    other.load_state_dict(one.state_dict())
    before, expected = state_of(one), one(batch).loss
    assert_close(state_of(one), before, rtol=0, atol=0, msg=saying("a forward pass changes the state"))
    assert torch.equal(one(batch).loss, expected), "the loss of a batch depends on what came before it"
    assert torch.equal(other(batch).loss, expected), "the loss depends on something that the state does not hold"


def resumed_run_equals_an_uninterrupted_one(make: Make, name: str) -> None:
    """A run that is stopped half way and restored ends in the same bits as one that is not."""
    through, stopped = training(made(make, name)), training(made(make, name))
    fit(through, steps(name), lambda row: False)
    fit(stopped, steps(name), lambda row: stopped.counters.step == STEPS // 2)
    resumed = training(made(make, name, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "step", stopped.state())
        resumed.restore(checkpoint.load(Path(folder) / "step"))
    fit(resumed, steps(name, start=STEPS // 2), lambda row: False)
    assert_close(resumed.objective.state_dict(), through.objective.state_dict(), rtol=0, atol=0)


def weights_are_those_of_the_terms(make: Make, name: str) -> None:
    """What `weights` says before a step of several micro-batches is what the terms of each weigh then."""
    objective = made(make, name)
    objective.networks.make()
    objective.observe(list(islice(steps(name, 2), 2)), Step())
    for batch in with_others(list(islice(steps(name, 2), 2))):
        known, terms = objective.weights(batch, Step()), objective.terms(batch, Step()).terms
        assert known.keys() == terms.keys(), f"weights() knows {sorted(known)}, terms() gives {sorted(terms)}"
        for key, term in terms.items():
            assert_close(known[key].double(), term.weight.sum().double(), msg=saying(f"weight of {key!r}"))


def micro_batches_make_the_step(make: Make, name: str) -> None:
    """A step in micro-batches has the loss, the gradient and the metrics of the whole step, whatever the sizes of the samples.

    An objective with parts that are about a batch (`over_batch`) cannot keep it.
    """
    if made(make, name).over_batch:
        return
    whole, *others = (first_step(make, name, parts) for parts in (1, 2, 4))
    for row, gradient in others:
        for key, value in whole[0].items():
            assert_close(row[key], value, rtol=1e-4, atol=1e-6, msg=saying(f"{key} of a step"))
        error = (gradient - whole[1]).norm() / whole[1].norm()
        assert error < 1e-5, f"the gradient of a step in micro-batches is off by {error:.1e}"


def first_step(make: Make, name: str, parts: int) -> tuple[dict[str, float], Tensor]:
    """What the first step logs, and its gradient times a constant: AdamW's first moment."""
    one, found = training(made(make, name), parts), dict[str, float]()

    def stop(row: dict[str, float]) -> bool:
        found.update(row)
        return True

    fit(one, steps(name, parts), stop)
    moments = [value["exp_avg"].flatten() for value in one.optimizer.state_dict()["state"].values()]
    return {key: value for key, value in found.items() if key != "step_seconds"}, torch.cat(moments)


OBJECTIVE_LAWS: dict[str, Callable[[Make, str], None]] = {
    law.__name__: law
    for law in (
        every_weight_learns,
        loss_falls,
        loss_is_a_function_of_batch_and_state,
        resumed_run_equals_an_uninterrupted_one,
        weights_are_those_of_the_terms,
        micro_batches_make_the_step,
    )
}


def predicting(target: Callable[[], Target], model: MMSSLModel, setup: Setup, masks: int = 1) -> Masked:
    """Masked modelling of a target, with a mask token at the hidden places."""
    return Masked(model, setup, predictor=MaskToken(), targets=[target()], masks=masks)


def targets_have_a_value_for_every_token(target: Callable[[], Target], name: str) -> None:
    """Each part is float `[b, n, t]` or integer `[b, n]`, of the sizes that it announces."""
    objective, batch = made(partial(predicting, target), name), next(steps(name))
    assert isinstance(objective, Masked)
    objective.networks.make()
    objective(batch)
    (one,) = objective.every_target
    scene = objective.scene(name, batch.inputs[name], batch)
    answer, sizes, (b, n) = one(scene), one.sizes(objective.model, name), scene.tokens.values.shape[:2]
    assert answer.values.keys() == sizes.keys(), f"parts are {sorted(answer.values)}, announced {sorted(sizes)}"
    for key, values in answer.values.items():
        what = f"part {key!r} is {values.dtype} {list(values.shape)}"
        assert len(values) % b == 0 and values.shape[1] == n, f"{what}; expected one for each of [{b}, {n}] tokens"
        if values.is_floating_point():
            assert values.dim() == 3 and sizes[key] in (0, values.shape[2]), f"{what}; announced {sizes[key]} values"
        else:
            assert values.dim() == 2 and values.max() < sizes[key], f"{what}, up to {values.max()}; announced {sizes[key]} classes"


def hidden_content_reaches_the_loss_through_the_target_alone(target: Callable[[], Target], name: str) -> None:
    """With the targets kept, other content at the hidden places changes no bit of the loss."""
    objective, batch = made(partial(predicting, target), name), next(steps(name))
    assert isinstance(objective, Masked)
    objective.networks.make()
    objective(batch)
    objective.eval()
    (one,), embed = objective.every_target, objective.model.embed
    scene, _ = objective.predict(name, objective.view(batch, name), batch)
    kept = Answer({key: value.detach() for key, value in one(scene).values.items()})
    if not kept.values:  # all of its loss is in terms, which may be about the whole sample
        return
    hidden = scene.parts.hidden_places(scene.tokens.values.shape[1])

    def other_content(key: str, inputs: dict[str, Tensor]) -> Tokens:
        tokens = embed(key, inputs)
        return replace(tokens, values=torch.where(hidden[..., None], tokens.values.roll(1, 0) + 3, tokens.values))

    with patch.object(one, "forward", lambda _: kept):
        before = objective(batch).loss
        with patch.object(objective.model, "embed", other_content):
            assert torch.equal(objective(batch).loss, before), "hidden content reaches the loss by another way than the target"


def several_masks_share_a_target(target: Callable[[], Target], name: str) -> None:
    """With two masks of each sample the loss is finite, and all weights learn."""
    every_weight_learns(partial(predicting, target, masks=2), name)


def as_objective(law: Callable[[Make, str], None], target: Callable[[], Target], name: str) -> None:
    """A law of objectives for masked modelling of a target."""
    law(partial(predicting, target), name)


TARGET_LAWS: dict[str, Callable[[Callable[[], Target], str], None]] = {
    **{
        law.__name__: law
        for law in (
            targets_have_a_value_for_every_token,
            hidden_content_reaches_the_loss_through_the_target_alone,
            several_masks_share_a_target,
        )
    },
    **{name: partial(as_objective, law) for name, law in OBJECTIVE_LAWS.items()},
}

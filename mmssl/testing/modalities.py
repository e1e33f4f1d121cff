"""Laws that every modality keeps, for the test suites of plug-ins as for mmssl's own.

    import pytest
    from mmssl.testing.modalities import LAWS

    @pytest.mark.parametrize("law", LAWS)
    def test_law(law: str) -> None:
        LAWS[law]("my_modality")

Each law takes the name of an installed modality and raises AssertionError with what it found. The samples are the plug-in's
`example`s, processed and adapted with default settings.
"""

import copy
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

from mmssl.data import Batch, with_others
from mmssl.draws import Draws, keys
from mmssl.masking import Random, Split
from mmssl.modality import Adapter, Augment, Inputs, find, mixing
from mmssl.model import MMSSLModel
from mmssl.objectives import Setup
from mmssl.objectives.agree.losses.assignments import SelfDistillation
from mmssl.objectives.predict import Masked, Predict
from mmssl.objectives.predict.predict import at_places
from mmssl.objectives.predict.predictors import Transformer
from mmssl.processor import MMSSLProcessor
from mmssl.testing.small import SAMPLES, SINGLE, inputs_of, objective_of, samples, small_model, small_processor
from mmssl.testing.steps import (
    assert_same_tokens,
    joined_batches_keep_their_tokens,
    micro_batches_change_nothing,
    real_tokens,
)
from mmssl.tokens import Tokens
from mmssl.training.build import augment_of

PROBED = 200
"""Input elements that the locality laws change, one at a time."""


def about(what: str) -> Callable[[str], str]:
    """What `assert_close` is to say: which comparison failed, then its own message."""
    return lambda text: f"{what}: {text}"


def golden_order(name: str) -> None:
    """Tokens lie where, and hold what, the plug-in's golden example says."""
    processor_settings, adapter_settings, raw, coords, targets = find(name).golden()
    processor = find(name).processor(**processor_settings)
    adapter = find(name).adapter(16, processor, **adapter_settings)
    inputs = processor.collate([processor(raw)])
    assert_close(adapter(inputs).coords[0], coords, msg=about("coordinates of the golden sample"))
    assert adapter.num_tokens in (None, len(coords)), f"announced {adapter.num_tokens} tokens, the golden sample has {len(coords)}"
    found = adapter.target(inputs)
    assert found.keys() == targets.keys(), f"targets are {sorted(found)}, the golden ones {sorted(targets)}"
    for key, expected in targets.items():
        assert_close(found[key][0], expected, equal_nan=True, msg=about(f"golden target {key!r}"))


def target_sizes(name: str) -> None:
    """Targets have the sizes that the adapter announces: values of a float target, classes of an integer one."""
    adapter = small_model(name).adapter(name)
    targets = adapter.target(inputs_of(name))
    assert targets.keys() == adapter.target_sizes.keys(), f"targets are {sorted(targets)}, announced {sorted(adapter.target_sizes)}"
    for key, target in targets.items():
        size = target.shape[-1] if target.is_floating_point() else int(target.max()) + 1
        limit = adapter.target_sizes[key]
        assert size == limit if target.is_floating_point() else size <= limit, f"target {key!r}: {size} values, announced {limit}"


@torch.no_grad()
def padding_invariance(name: str) -> None:
    """Padding never changes the valid tokens: of the collated batch, and of tokens with rubbish behind them."""
    model = small_model(name)
    processor = small_processor(name)
    alone = [model(**processor.collate([sample])).pooler_output[0] for sample in samples(name)]
    together = model(**inputs_of(name)).pooler_output
    assert_close(torch.stack(alone), together, rtol=1e-4, atol=1e-5, msg=about("alone and in a padded batch"))
    tokens = model.embed(name, inputs_of(name))
    plain = model.encoder(tokens)
    padded = model.encoder(with_rubbish(tokens, 3))
    real = plain.valid_or_ones()
    assert_close(padded.values[:, :-3][real], plain.values[real], rtol=1e-4, atol=1e-5)


def with_rubbish(tokens: Tokens, count: int) -> Tokens:
    """The tokens with `count` invalid ones of large values behind them."""
    b, _, d = tokens.values.shape
    identity, sequence = tokens.identity, tokens.sequence
    return Tokens(
        torch.cat([tokens.values, torch.full((b, count, d), 1e3)], 1),
        torch.cat([tokens.coords, torch.full((b, count, 4), 7.0)], 1),
        torch.cat([tokens.valid_or_ones(), torch.zeros(b, count, dtype=torch.bool)], 1),
        None if identity is None else torch.cat([identity, torch.full((b, count, d), 1e3)], 1),
        sequence=None if sequence is None else torch.cat([sequence, sequence.new_zeros(b, count)], 1),
        num_sequences=tokens.num_sequences,
    )


@torch.no_grad()
def batch_equivalence(name: str) -> None:
    """The result for a sample does not depend on its batch mates or on its place, nor do its masked-modelling loss terms."""
    model, processor = small_model(name), small_processor(name)
    rows = samples(name)
    forwards = model(**processor.collate(rows)).pooler_output
    backwards = model(**processor.collate(rows[::-1])).pooler_output.flip(0)
    assert_close(forwards, backwards, rtol=1e-4, atol=1e-5)
    predictor = Transformer(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    objective = Masked(model, Setup(), predictor=predictor).eval()
    ids = torch.arange(len(rows))
    whole = predictions(objective, name, processor.collate(rows), ids)
    single = [predictions(objective, name, processor.collate([row]), ids[i : i + 1])[0] for i, row in enumerate(rows)]
    for expected, found in zip(single, whole, strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True, msg=about("masked prediction"))


def predictions(objective: Masked, name: str, inputs: Inputs, ids: Tensor) -> list[Tensor]:
    """Of each sample the predicted values of the first target at its hidden tokens, NaN at its seen ones."""
    scene, predicted = objective.predict(name, inputs, Batch({name: inputs}, keys(0, 0, ids), ids))
    guesses = objective.head(0, name)(predicted.values)
    full = at_places(guesses[next(iter(guesses))], predicted, scene.tokens.values.shape[1])
    return [values[real] for values, real in zip(full, scene.tokens.valid_or_ones(), strict=True)]


def changes(name: str, adapter: Adapter, inputs: Inputs) -> Iterator[tuple[Inputs, Tensor]]:
    """Copies of a batch with one element of one sample taken from the next sample, and which tokens' targets that changed."""
    generator = torch.Generator().manual_seed(0)
    before, tokens = adapter.target(inputs), adapter(inputs)
    for key, tensor in inputs.items():
        flat = tensor.flatten(1)
        for place in torch.randperm(flat.shape[1], generator=generator)[: PROBED // len(inputs)].tolist():
            changed = copy.copy(inputs)
            changed[key] = tensor.clone()
            changed[key].flatten(1)[0, place] = flat[1, place]
            after = adapter(changed)
            if not torch.equal(after.coords, tokens.coords) or not torch.equal(after.valid_or_ones(), tokens.valid_or_ones()):
                continue
            targets = adapter.target(changed)
            differs = [(~torch.isclose(targets[k].double(), before[k].double(), rtol=0, atol=0, equal_nan=True)) for k in before]
            yield changed, torch.stack([d.flatten(2).any(-1) if d.dim() > 2 else d for d in differs]).any(0)[0]


@torch.no_grad()
def hidden_content_stays_hidden(name: str) -> None:
    """An element of the input reaches only the tokens whose target it is part of, and no visible token if those are hidden."""
    model = small_model(name)
    adapter, inputs = model.adapter(name), inputs_of(name)
    if adapter.overlapping:
        return
    tokens = adapter(inputs)
    draws = Draws(keys(0, 0, torch.arange(len(tokens.values))))
    parts = Random(ratio=0.5).split(tokens.coords, tokens.valid, tokens.valid, draws)
    hidden = set(parts.hidden_places(tokens.values.shape[1])[0].nonzero().flatten().tolist())
    seen = encode_seen(model, tokens, parts)
    met = 0
    for changed, touched in changes(name, adapter, inputs):
        after = adapter(changed)
        moved = (after.values[0] != tokens.values[0]).any(-1) & tokens.valid_or_ones()[0]
        leaked = (moved & ~touched).nonzero().flatten().tolist()
        assert not leaked, f"content of tokens {touched.nonzero().flatten().tolist()} reaches tokens {leaked}"
        if tokens.identity is not None:
            assert torch.equal(after.identity, tokens.identity), "the identity of a token depends on its content"
        if touched.any() and set(touched.nonzero().flatten().tolist()) <= hidden:
            met += 1
            assert torch.equal(encode_seen(model, after, parts), seen), "hidden content reaches the encoder"
    assert met, "no probed element belonged to a hidden token: give more varied examples"


def encode_seen(model: MMSSLModel, tokens: Tokens, parts: Split) -> Float[Tensor, "m d"]:
    """The encoded visible tokens that are real, of all samples in a row."""
    encoded = model.encoder(tokens.take(parts.seen, parts.seen_real))
    return encoded.values[encoded.valid_or_ones()]


def losses_know_nothing_hidden(name: str) -> None:
    """No objective's loss changes when hidden tokens hold something else, as long as the targets are kept."""
    for kind in SINGLE:
        objective, batch = objective_of(kind, name)
        if isinstance(objective, Predict):
            hidden_content_is_not_used(objective, batch)


@torch.no_grad()
def hidden_content_is_not_used(objective: Predict, batch: Batch) -> None:
    """Other content of the hidden tokens, behind the stem, changes no bit of the loss; other content of the seen ones does.

    For objectives with one mask of each sample, whose predictor neither keeps nor swaps hidden tokens.
    """
    name, embed = batch.modality, objective.model.embed
    objective.eval()
    scene, _ = objective.predict(name, objective.view(batch, name), batch)
    hidden = scene.parts.hidden_places(scene.tokens.values.shape[1])
    expected = objective(batch).loss
    for places, kept in ((hidden, True), (~hidden, False)):

        def other(modality: str, inputs: Inputs, places: Tensor = places) -> Tokens:
            tokens = embed(modality, inputs)
            return replace(tokens, values=torch.where(places[..., None], 2 * tokens.values.roll(1, 2) + 1, tokens.values))

        with patch.object(objective.model, "embed", other):
            found = objective(batch).loss
        same = torch.equal(found, expected)
        what = "hidden content reaches the loss" if kept else "the loss does not depend on what is seen"
        assert same == kept, f"{type(objective).__name__}: {what}: {expected.item()} became {found.item()}"


def processor_round_trip(name: str) -> None:
    """Settings survive JSON, the processor survives pickling and saving, and all of them process alike, one sample or many."""
    processor = small_processor(name)
    settings = json.loads(json.dumps(processor.settings(), allow_nan=False))
    with tempfile.TemporaryDirectory() as folder:
        MMSSLProcessor({name: processor}).save_pretrained(folder)
        saved = AutoProcessor.from_pretrained(folder).processors[name]
    for other in (find(name).processor(**settings), pickle.loads(pickle.dumps(processor)), saved):
        assert other.settings() == processor.settings(), f"settings were {processor.settings()}, came back as {other.settings()}"
        raws = find(name).example(SAMPLES, 0)
        for raw in raws:
            assert_same(processor(raw), other(raw))
        assert_same(processor.collate([processor(raw) for raw in raws]), other.batch(raws))


def assert_same(left: Inputs, right: Inputs) -> None:
    assert left.keys() == right.keys(), f"one has {sorted(left)}, the other {sorted(right)}"
    for key in left:
        assert_close(left[key], right[key], rtol=0, atol=0, equal_nan=True, msg=about(key))


@torch.no_grad()
def saved_and_loaded(name: str) -> None:
    """A model saved and loaded through the meta device is the same; weights that a file lacks get a fresh model's statistics."""
    model = small_model(name)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModel.from_pretrained(folder)
    for key, value in model.state_dict().items():
        assert_close(loaded.state_dict()[key], value, rtol=0, atol=0, msg=about(key))
    assert_close(loaded(**inputs_of(name)).last_hidden_state, model(**inputs_of(name)).last_hidden_state, rtol=0, atol=0)
    logging.set_verbosity_error()  # transformers would list the weights that are missing on purpose
    fresh = MMSSLModel.from_pretrained(None, config=copy.deepcopy(model.config), state_dict={})
    for key, value in model.state_dict().items():
        new = fresh.state_dict()[key]
        assert new.isfinite().all(), f"{key} is not initialised when it is missing from a file"
        if value.numel() > 1:
            assert_close(new.std(), value.std(), rtol=0.5, atol=2e-2, msg=about(f"spread of a fresh {key}"))


@torch.no_grad()
def attention_backends_agree(name: str) -> None:
    """Eager and sdpa attention give the same result, with padding."""
    model = small_model(name)
    tokens = with_rubbish(model.embed(name, inputs_of(name)), 2)
    real = torch.cat([torch.ones(len(tokens.values), model.encoder.num_prefix, dtype=torch.bool), tokens.valid_or_ones()], 1)
    results = []
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        results.append(model.encoder(tokens).values[real])
    assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def gradient_checkpointing_agrees(name: str) -> None:
    """Recomputing activations in the backward pass gives the same gradients."""
    plain, again = small_model(name).train(), small_model(name).train()
    again.encoder.recompute_activations()
    for model in (plain, again):
        model(**inputs_of(name)).pooler_output.square().sum().backward()
    for (key, left), right in zip(plain.named_parameters(), again.parameters(), strict=True):
        if left.grad is not None:
            assert_close(left.grad, right.grad, msg=about(f"gradient of {key}"))


def all_parameters_learn(name: str) -> None:
    """Every trainable parameter gets a gradient, and it is not zero, under every objective."""
    for kind in SINGLE:
        objective, batch = objective_of(kind, name)
        objective.train()(batch).loss.backward()
        for key, parameter in objective.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{kind}: {key} gets no gradient"
                assert parameter.grad.isfinite().all(), f"{kind}: gradient of {key} is not finite"
                assert parameter.grad.any(), f"{kind}: gradient of {key} is zero"


def augmentations(name: str) -> Iterator[tuple[Mapping[str, Any], Augment]]:
    """Keys of the default augmentation, and of those that do all they can, each with what they build."""
    for settings in ({}, *find(name).strong):
        yield settings, augment_of(find(name), settings, small_processor(name))


@torch.no_grad()
def augmentation_is_per_sample(name: str) -> None:
    """A view is a function of each sample and its draws, not of its batch, its padding or autocast. Nothing changes in place."""
    processor, adapter, rows, ids = small_processor(name), small_model(name).adapter(name), samples(name), torch.arange(SAMPLES)
    inputs, draws = processor.collate(rows), Draws(keys(0, 0, ids))
    kept = {key: tensor.clone() for key, tensor in inputs.items()}
    for settings, augment in augmentations(name):
        view = augment(inputs, draws)
        assert_same(augment(inputs, Draws(keys(0, 0, ids))), view)
        assert_same(inputs, kept)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(augment(inputs, draws), view)
        expected = real_tokens(adapter(view))
        for size in (SAMPLES // 2, 1):
            parts = [Batch({name: processor.collate([rows[i] for i in part])}, keys(0, 0, part), part) for part in ids.split(size)]
            found = [sample for part in with_others(parts) for sample in real_tokens(adapter(view_of(augment, part)))]
            assert_same_tokens(expected, found, f"of batches of {size}, augmented by {dict(settings)}")


def view_of(augment: Augment, batch: Batch) -> Inputs:
    """The view of a part of a step."""
    if mixing(augment):
        return augment(batch.inputs[batch.modality], batch.draws, (batch.others or {})[batch.modality])
    return augment(batch.inputs[batch.modality], batch.draws)


@torch.no_grad()
def views_are_samples(name: str) -> None:
    """The adapter takes views for samples, whatever their size: of each come tokens at finite places, with targets."""
    adapter, inputs = small_model(name).adapter(name), inputs_of(name)
    for settings, augment in augmentations(name):
        view, what = augment(inputs, Draws(keys(0, 0, torch.arange(SAMPLES)))), f"the view by {dict(settings)}"
        types = {key: (len(tensor), tensor.dtype) for key, tensor in view.items()}
        expected = {key: (len(inputs[key]), inputs[key].dtype) if key in inputs else found for key, found in types.items()}
        assert types == expected, f"{what} has {types}, its samples {expected}"
        assert types.keys() <= set(adapter.input_names), f"{what} has {sorted(types)}, the adapter reads {adapter.input_names}"
        infinite = [key for key, tensor in view.items() if tensor.isinf().any()]
        assert not infinite, f"{what} has infinite values in {infinite}"
        try:
            tokens, targets = adapter(view), adapter.target(view)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            raise AssertionError(f"the adapter does not take {what}: {error}") from error
        real, places = tokens.valid_or_ones(), tokens.values.shape[:2]
        assert real.any(1).all(), f"{what} leaves no token of samples {(~real.any(1)).nonzero().flatten().tolist()}"
        assert tokens.coords[real].isfinite().all(), f"{what} has tokens at no finite place"
        assert tokens.values[real].isfinite().all(), f"{what} has tokens that hold no finite values"
        assert all(target.shape[:2] == places for target in targets.values()), f"{what} has other targets than tokens"


def losses_fall(name: str) -> None:
    """Every objective's loss is finite and falls on one repeated batch."""
    for kind in SINGLE:
        few = {"losses": [SelfDistillation(prototypes=16, centring="sinkhorn")]} if kind == "distill" else {}
        objective, batch = objective_of(kind, name, **few)
        objective.train()
        optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
        share = 0.97 if kind == "distill" else 0.9  # a cross-entropy with soft targets cannot fall below their entropy
        history: list[float] = []
        while len(history) < 40 and (len(history) < 4 or history[-1] >= share * history[0]):
            loss = objective(batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            history.append(loss.item())
        assert all(value == value and abs(value) != float("inf") for value in history), f"{kind}: {history}"
        assert history[-1] < share * history[0], f"{kind}: the loss goes from {history[0]:.4f} to {history[-1]:.4f} on one batch"


def empty_rows_are_refused(name: str) -> None:
    """A processor refuses what is no sample of its modality with ValueError or TypeError, and a message."""
    processor = small_processor(name)
    for wrong in (object(), None, {}, []):
        try:
            processor(wrong)
        except (ValueError, TypeError) as error:
            assert str(error), f"no message for {wrong!r}"
        else:
            raise AssertionError(f"the processor takes {wrong!r} for a sample")


LAWS: dict[str, Callable[[str], None]] = {
    law.__name__: law
    for law in (
        golden_order,
        target_sizes,
        padding_invariance,
        batch_equivalence,
        hidden_content_stays_hidden,
        losses_know_nothing_hidden,
        processor_round_trip,
        saved_and_loaded,
        attention_backends_agree,
        gradient_checkpointing_agrees,
        all_parameters_learn,
        augmentation_is_per_sample,
        views_are_samples,
        joined_batches_keep_their_tokens,
        micro_batches_change_nothing,
        losses_fall,
        empty_rows_are_refused,
    )
}

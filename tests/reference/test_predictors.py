"""Predictors against their definitions: who attends to whom, what may reach what, and in which order."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import Draws, keys
from mmssl.masking import Random, Split
from mmssl.model import Encoder, MMSSLConfig, MMSSLModel, initialise_all
from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.distances import Mse
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.objectives.predict.predictors import Causal, Conv, CrossAttention, MaskToken, Siamese, Transformer, Unordered
from mmssl.objectives.predict.predictors.cross_attention import across
from mmssl.objectives.predict.targets import Embedding, Encoding, Position
from mmssl.tokens import Tokens, cat, gather

PATCH, GRID = 4, 4
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def make(predictor: Predictor, **settings: Any) -> Masked:
    torch.manual_seed(0)
    image = {"processor": {"multiple": PATCH, "mean": 0.0, "std": 1.0}, "adapter": {"patch_size": PATCH}}
    return Masked(MMSSLModel(MMSSLConfig(modalities={"image": image}, **SMALL)), Setup(), predictor=predictor, **settings).eval()


def make_batch(*, ragged: bool = False, count: int = 3, grid: int = GRID) -> Batch:
    side = PATCH * grid
    inputs = {"pixel_values": torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))}
    if ragged:
        inputs["pixel_sizes"] = torch.tensor([[16, 16], [12, 8], [8, 12]])[:count]
    return Batch({"image": inputs}, keys(0, 0, torch.arange(count)), torch.arange(count))


def scene_of(objective: Masked, batch: Batch) -> tuple[Tokens, Split, Predicted]:
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    return scene.tokens, scene.parts, predicted


def changed(tokens: Tokens, sample: int, place: int) -> Tokens:
    values = tokens.values.clone()
    values[sample, place] += torch.linspace(-3, 3, values.shape[2])  # a constant would vanish in LayerNorm
    return replace(tokens, values=values)


@torch.no_grad()
def test_cross_attention_is_attention_to_the_context_alone() -> None:
    """One layer written out in float64, without rotary positions (all coordinates are zero)."""
    predictor = CrossAttention(num_hidden_layers=1)
    make(predictor)
    layers = predictor.regressor.double()
    layer, zero = layers.layers[0], torch.zeros(2, 5, 4, dtype=torch.float64)
    context, queries = torch.randn(2, 5, 32).double(), torch.randn(2, 3, 32).double()
    found = across(layers, Tokens(context, zero), Tokens(queries, zero[:, :3]))
    keyed, asked = layer.norm1(context), layer.norm1(queries)
    heads = [x.unflatten(-1, (2, 16)).transpose(1, 2) for x in (layer.attention.q_proj(asked), layer.attention.k_proj(keyed))]
    weights = (heads[0] @ heads[1].mT / 4).softmax(-1)
    mixed = (weights @ layer.attention.v_proj(keyed).unflatten(-1, (2, 16)).transpose(1, 2)).transpose(1, 2).flatten(2)
    x = queries + layer.attention.o_proj(mixed)
    assert_close(found, layers.norm(x + layer.mlp(layer.norm2(x))))


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@torch.no_grad()
def test_queries_of_cross_attention_do_not_see_each_other(ragged: bool) -> None:
    objective, batch = make(CrossAttention()), make_batch(ragged=ragged)
    tokens, parts, predicted = scene_of(objective, batch)
    for place in range(parts.hidden.shape[1]):
        real = None if parts.hidden_real is None else parts.hidden_real[:, place : place + 1]
        one = Split(parts.seen, parts.hidden[:, place : place + 1], parts.seen_real, real)
        alone = objective.predictor(objective.model.encoder, tokens, one, batch.draws)
        assert_close(alone.values[:, 0], predicted.values[:, place], rtol=1e-5, atol=1e-5)


def test_decoder_of_cae_has_no_way_to_the_visible_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the regressor's output held fixed, no gradient reaches the visible tokens; with it, one does."""
    objective, batch = make(CrossAttention(decoder_layers=2)), make_batch()
    tokens, parts, _ = scene_of(objective, batch)
    gradients = []
    for fixed in (False, True):
        values = tokens.values.detach().requires_grad_()
        if fixed:
            monkeypatch.setattr(
                "mmssl.objectives.predict.predictors.cross_attention.across", lambda *given: across(*given).detach()
            )
        predicted = objective.predictor(objective.model.encoder, replace(tokens, values=values), parts, batch.draws)
        assert predicted.latent is not None and predicted.latent.shape == predicted.values.shape
        (gradient,) = torch.autograd.grad(predicted.values.sum(), values, allow_unused=True, materialize_grads=True)
        gradients.append(gradient)
    assert gradients[0].any() and not gradients[1].any()


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_alignment_of_cae_is_with_the_own_encoding_of_the_hidden_tokens_and_stops_there(ragged: bool) -> None:
    target = Encoding(head=False)
    objective, batch = make(CrossAttention(decoder_layers=1), targets=[target]), make_batch(ragged=ragged)
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    found = target(scene).values["encoding"]
    assert not found.requires_grad
    parts, tokens = scene.parts, scene.tokens
    encoded = objective.model.encoder(tokens.take(parts.hidden, parts.hidden_real)).tail(parts.hidden.shape[1])
    real = encoded.valid_or_ones()
    assert_close(gather(found, parts.hidden)[real], encoded.values[real], rtol=1e-4, atol=1e-5)
    places = parts.hidden_places(GRID**2)
    assert found[~places].isnan().all() and not found[places].isnan().any()
    assert predicted.latent is not None
    expected = (predicted.latent - gather(found, parts.hidden))[real].square().mean(-1).mean()
    assert_close(objective(batch).loss, expected, rtol=1e-4, atol=1e-6)


def test_target_without_head_needs_the_width_of_the_encoder() -> None:
    objective = make(CrossAttention(hidden_size=16, num_attention_heads=2), targets=[Encoding(head=False)])
    with pytest.raises(ValueError, match="gives 16 values for each place, but the target has 32 and no head"):
        objective(make_batch())
    make(CrossAttention(hidden_size=16, num_attention_heads=2), targets=[Encoding()])(make_batch())


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@torch.no_grad()
def test_causal_prediction_depends_on_earlier_tokens_only(ragged: bool) -> None:
    objective, batch = make(Causal()), make_batch(ragged=ragged)
    tokens, parts, predicted = scene_of(objective, batch)
    for sample, valid in enumerate(tokens.valid_or_ones()):
        order = valid.nonzero()[:, 0].tolist()
        real = slice(0, len(order) - 1)
        assert predicted.index[sample, real].tolist() == order[1:]
        assert predicted.real is None or predicted.real[sample].tolist() == [i < len(order) - 1 for i in range(len(valid) - 1)]
        for number, place in enumerate(order):
            after = objective.predictor(objective.model.encoder, changed(tokens, sample, place), parts, batch.draws)
            moved = (after.values[sample, real] - predicted.values[sample, real]).abs().amax(-1) > 1e-5
            assert moved.tolist() == [i >= number for i in range(len(order) - 1)]


def test_next_embedding_is_the_target_without_gradient() -> None:
    """NEPA's loss as a loop, and its gradient: none through the target."""
    target = Embedding(head=False)
    objective, batch = make(Causal(), targets=[target]), make_batch()
    tokens = objective.model.embed("image", batch.inputs["image"])
    encoded = objective.model.encoder(tokens, causal=True).tail(GRID**2).values
    pairs = list(product(range(3), range(1, GRID**2)))
    terms = [1 - F.cosine_similarity(encoded[i, j - 1], tokens.values[i, j].detach(), dim=0) for i, j in pairs]
    loss = objective(batch).loss
    assert_close(loss, torch.stack(terms).mean())
    weight = objective.model.adapter("image").proj.weight
    (expected,) = torch.autograd.grad(torch.stack(terms).mean(), weight)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert_close(gradient, expected)
    objective.predictor.forward = constant(objective.predictor.forward)
    assert not objective(batch).loss.requires_grad
    assert make(Causal(), targets=[Embedding(head=False, stop_gradient=False)])(batch).loss.requires_grad


def constant(forward: Any) -> Any:
    """A predictor whose answer has no gradient."""

    def answer(*given: Any) -> Predicted:
        predicted = forward(*given)
        return replace(predicted, values=predicted.values.detach())

    return answer


@torch.no_grad()
def test_position_prediction_is_equivariant_and_blind_to_places() -> None:
    """Tokens in another order give the same answers in that order; other coordinates give the same answers."""
    objective, batch = make(Unordered(), targets=[Position(grid=(1, 1, GRID, GRID))]), make_batch()
    tokens, parts, predicted = scene_of(objective, batch)
    target = objective.every_target[0](objective.predict("image", batch.inputs["image"], batch)[0]).values["position"]
    assert torch.equal(target, torch.arange(GRID**2).expand(3, -1))
    order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(0)).expand(3, -1)
    back = order.argsort(1)
    shuffled = Split(back.gather(1, parts.seen), back.gather(1, parts.hidden))
    again = objective.predictor(objective.model.encoder, tokens.take(order), shuffled, batch.draws)
    assert_close(again.values, gather(predicted.values, order), rtol=1e-4, atol=1e-5)
    elsewhere = replace(tokens, coords=torch.randn_like(tokens.coords))
    assert_close(objective.predictor(objective.model.encoder, elsewhere, parts, batch.draws).values, predicted.values)
    hidden, other = parts.hidden[0, 0].item(), parts.hidden[0, 1].item()
    after = objective.predictor(objective.model.encoder, changed(tokens, 0, hidden), parts, batch.draws).values
    assert torch.equal(after[0, other], predicted.values[0, other]), "a token outside the context reaches another"
    assert not torch.equal(after[0, hidden], predicted.values[0, hidden])


@torch.no_grad()
def test_encoder_without_positions_is_blind_to_places() -> None:
    torch.manual_seed(0)
    config = MMSSLConfig(**SMALL, absolute_positions=False, rotary_positions=False)
    encoder = Encoder(config)
    initialise_all(encoder, config)
    values = torch.randn(2, 5, 32)
    found = encoder(Tokens(values, torch.randn(2, 5, 4))).values
    assert_close(found, encoder(Tokens(values, torch.zeros(2, 5, 4))).values)
    assert_close(encoder(Tokens(values.flip(1), torch.randn(2, 5, 4))).values[:, 1:], found[:, 1:].flip(1))


def test_position_outside_the_grid_is_said() -> None:
    objective = make(Unordered(), targets=[Position(grid=(1, 1, 2, 4))])
    with pytest.raises(ValueError, match=r"grid: \[1, 1, 2, 4\], but tokens of 'image' lie elsewhere, up to 0, 0, 3, 3"):
        objective(make_batch())


@torch.no_grad()
def test_siamese_predicts_from_both_views_and_sees_two_patches_of_the_first() -> None:
    objective = make(Siamese(**SMALL), mask=Random(ratio=0.97))
    batch = make_batch(grid=8)
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    tokens, parts = scene.tokens, scene.parts
    assert parts.seen.shape == (3, 2) and parts.hidden.shape == (3, 62) and predicted.values.shape[1] == 62
    encoder, draws = objective.model.encoder, batch.draws
    assert_close(objective.predictor(encoder, tokens, parts, draws, [tokens]).values, predicted.values)
    for place in (0, 63):
        other = objective.predictor(encoder, tokens, parts, draws, [changed(tokens, 1, place)]).values
        differs = (other - predicted.values).abs().amax(-1) > 1e-6
        assert differs[1].all() and not differs[0].any()
    for place, reaches in ((parts.seen[0, 1].item(), True), (parts.hidden[0, 1].item(), False)):
        own = objective.predictor(encoder, changed(tokens, 0, place), parts, draws, [tokens]).values
        assert bool((own[0] - predicted.values[0]).abs().amax() > 1e-6) is reaches


def convolved(full: Tensor, conv: nn.Conv2d) -> Tensor:
    """A grouped convolution of `[d, h, w]` as a loop over places and channels."""
    out, (_, height, width) = torch.zeros(conv.out_channels, *full.shape[1:]).double(), full.shape
    rows, columns = conv.kernel_size
    for o, y, x in product(range(conv.out_channels), range(height), range(width)):
        first = o // (conv.out_channels // conv.groups) * (full.shape[0] // conv.groups)
        total = conv.bias[o].double()
        for i, dy, dx in product(range(conv.weight.shape[1]), range(rows), range(columns)):
            v, u = y + dy - rows // 2, x + dx - columns // 2
            if 0 <= v < height and 0 <= u < width:
                total = total + conv.weight[o, i, dy, dx].double() * full[first + i, v, u]
        out[o, y, x] = total
    return out


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@torch.no_grad()
def test_convolutions_run_over_the_grid_with_noise_at_hidden_places(ragged: bool) -> None:
    predictor = Conv(hidden_size=16, num_hidden_layers=2, groups=8, noise=0.5)
    objective, batch = make(predictor), make_batch(ragged=ragged, count=2)
    tokens, parts, predicted = scene_of(objective, batch)
    noise = 0.5 * batch.draws.normal("conv", GRID**2, 32).double()
    seen = objective.model.encoder(tokens.take(parts.seen, parts.seen_real)).tail(parts.seen.shape[1])
    for sample in range(2):
        full = torch.zeros(32, GRID, GRID).double()
        for place in tokens.valid_or_ones()[sample].nonzero()[:, 0].tolist():
            full[:, place // GRID, place % GRID] = noise[sample, place]
        for entry, place in enumerate(parts.seen[sample].tolist()):
            if parts.seen_real is None or parts.seen_real[sample, entry]:
                full[:, place // GRID, place % GRID] = seen.values[sample, entry].double()
        for conv in predictor.layers:
            assert isinstance(conv, nn.Conv2d)
            after = F.gelu(F.layer_norm(convolved(full, conv).movedim(0, -1), (16,)).movedim(-1, 0))
            full = after + full if after.shape == full.shape else after
        for entry, place in enumerate(parts.hidden[sample].tolist()):
            if parts.hidden_real is None or parts.hidden_real[sample, entry]:
                assert_close(predicted.values[sample, entry].double(), full[:, place // GRID, place % GRID], rtol=1e-4, atol=1e-5)


def test_position_noise_goes_to_mask_tokens_through_the_matrix_of_the_context() -> None:
    """FlexPredict: m + A n with n of variance sigma and A that of the context; without noise, or outside training, the base."""
    noisy, base = Transformer(position_noise=0.25), Transformer()
    objective, plain, batch = make(noisy), make(base), make_batch()
    plain.load_state_dict(objective.state_dict())
    assert torch.equal(objective(batch).loss, plain(batch).loss)
    entered: list[Tokens] = []
    noisy.decoder.register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    _, parts, _ = scene_of(objective, batch)
    objective.train()
    scene_of(objective, batch)
    without, with_noise = (one.values for one in entered)
    count = parts.hidden.shape[1]
    assert torch.equal(without[:, :-count], with_noise[:, :-count]), "the context changes"
    drawn = 0.5 * batch.draws.normal("positions", count, 32)
    assert_close(with_noise[:, -count:] - without[:, -count:], drawn @ noisy.queries.enter.weight.T, rtol=1e-4, atol=1e-5)
    assert drawn.var().item() == pytest.approx(0.25, rel=0.1)


@torch.no_grad()
def test_corruption_puts_noise_or_another_samples_content_at_hidden_places_only() -> None:
    batch = make_batch()
    hidden = torch.rand(3, GRID**2, generator=torch.Generator().manual_seed(2)) < 0.5
    draws = Draws(keys(0, 0, torch.arange(3)))
    for kind in ("noise", "swap"):
        predictor = MaskToken(corruption=kind)
        tokens, _, _ = scene_of(make(predictor), batch)
        out = predictor.corrupt(tokens, hidden, draws)
        assert torch.equal(out[~hidden], tokens.values[~hidden])
        if kind == "noise":
            assert out[hidden].mean().abs() < 0.1 and abs(out[hidden].std() - 1) < 0.1
            continue
        for sample, place in hidden.nonzero().tolist():
            others = [i for i in range(3) if i != sample]
            assert any(torch.equal(out[sample, place], tokens.values[other, place]) for other in others)


def test_grids_are_those_of_the_coordinates() -> None:
    conv = Conv(hidden_size=16)
    conv.prepare(MMSSLConfig(**SMALL), identities=False)
    three = Tokens(torch.zeros(1, 8, 32), torch.tensor([[0.0, *place] for place in product((0, 1), repeat=3)])[None])
    between = Tokens(torch.zeros(1, 3, 32), torch.tensor([[0.0, 0, 0, 0], [0.5, 0, 0, 0], [2, 0, 0, 0]])[None])
    twice = Tokens(torch.zeros(1, 3, 32), torch.zeros(1, 3, 4))
    encoder = make(MaskToken()).model.encoder
    parts = Split(torch.tensor([[0]]), torch.tensor([[1, 2]]))
    for tokens, message in ((three, "along depth, height, width"), (between, "whole coordinates"), (twice, "one at each place")):
        with pytest.raises(ValueError, match=message):
            conv(encoder, tokens, parts, Draws(keys(0, 0, torch.arange(1))))


def test_losses_of_several_masks_share_one_target() -> None:
    """`masks: 3` is the mean over three masks, which for equal counts is the loss of the batch three times over."""
    objective, batch = make(MaskToken(), masks=3), make_batch()
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    assert len(predicted.values) == 9 and len(scene.tokens.values) == 3
    pixels = scene.content["pixels"]
    guess = objective.head(0, "image")(predicted.values)["pixels"]
    terms = [Mse()(guess[i : i + 3], gather(pixels, scene.parts.hidden[i : i + 3]), None, batch.draws)[0] for i in (0, 3, 6)]
    assert_close(objective(batch).loss, torch.stack(terms).mean())
    assert not torch.equal(scene.parts.hidden[:3], scene.parts.hidden[3:6])
    assert cat([scene.tokens.with_values(scene.tokens.values)]).values.shape[1] == GRID**2


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_places_that_samples_share_change_nothing(monkeypatch: pytest.MonkeyPatch, layers: int, ragged: bool) -> None:
    """The transformer predictor computes the first layer of mask tokens once for all samples: the same loss and gradients."""
    objective, batch = make(Transformer(hidden_size=16, num_hidden_layers=layers, num_attention_heads=2)), make_batch(ragged=ragged)
    tokens = objective.model.embed("image", batch.inputs["image"])
    assert tokens.same_places and not tokens.take(torch.arange(4).expand(3, 4)).same_places
    found = []
    for shared in (tokens.same_places, False):
        monkeypatch.setattr(Tokens, "same_places", shared)
        loss = objective(batch).loss
        found.append([loss, *torch.autograd.grad(loss, list(objective.parameters()), allow_unused=True)])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

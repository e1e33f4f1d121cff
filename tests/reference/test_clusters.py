"""Balanced clusters (CAPI) and which piece fits (Selfie) against loops in float64 and closed forms."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import Draws, keys
from mmssl.losses.sinkhorn import sinkhorn
from mmssl.masking import Split
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.distances import CrossEntropy, InfoNce
from mmssl.objectives.predict.parts import Predictor, Target
from mmssl.objectives.predict.predictors import CrossAttention, MaskToken
from mmssl.objectives.predict.targets import Assignments, Embedding, Raw
from mmssl.testing import objective_of
from mmssl.tokens import gather

PATCH, GRID = 4, 3


def make(target: Target, predictor: Predictor | None = None) -> Masked:
    torch.manual_seed(0)
    image = {"processor": {"multiple": PATCH, "mean": 0.0, "std": 1.0}, "adapter": {"patch_size": PATCH}}
    config = MMSSLConfig(modalities={"image": image}, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    return Masked(MMSSLModel(config), Setup(), predictor=predictor or CrossAttention(), targets=[target])


def make_batch(*, ragged: bool = False, count: int = 4) -> Batch:
    inputs = {"pixel_values": torch.randn(count, 3, PATCH * GRID, PATCH * GRID, generator=torch.Generator().manual_seed(1))}
    if ragged:
        inputs["pixel_sizes"] = torch.tensor([[12, 12], [8, 12], [4, 8], [12, 4]])[:count]
    return Batch({"image": inputs}, keys(0, 0, torch.arange(count)), torch.arange(count))


def sinkhorn_by_loops(scores: list[list[float]], iterations: int) -> list[list[float]]:
    """Rows are samples; every column, then every row, is divided by its sum."""
    shares = [[math.exp(value) for value in row] for row in scores]
    rows, columns = range(len(shares)), range(len(shares[0]))
    for _ in range(iterations):
        for j in columns:
            total = sum(shares[i][j] for i in rows)
            for i in rows:
                shares[i][j] /= total
        for i in rows:
            total = sum(shares[i])
            shares[i] = [value / total for value in shares[i]]
    return shares


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_matches_loops(iterations: int) -> None:
    scores = 5 * torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([sinkhorn_by_loops(one, iterations) for one in scores.double().tolist()])
    found = sinkhorn(scores, iterations)
    assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-6)
    assert_close(found.sum(-1), torch.ones(2, 7))
    if iterations == 20:
        assert_close(found.sum(-2), torch.full((2, 4), 7 / 4), rtol=5e-2, atol=0)


def test_sinkhorn_leaves_out_rows_and_bears_large_scores() -> None:
    scores = 1e4 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([True, False, True, True, False, True])
    found = sinkhorn(scores, 3, valid)
    assert_close(found[valid], sinkhorn(scores[valid], 3))
    assert not found[~valid].any() and not sinkhorn(scores, 3, torch.zeros(6, dtype=torch.bool)).any()


def assigned_by_loops(target: Assignments, latents: Tensor, valid: Tensor, *, positional: bool) -> Tensor:
    """`[b, n, k]`: place by place over the samples that have it, or over all tokens."""
    weight, bias = target.prototypes.weight.double(), target.prototypes.bias.double()
    scores = (F.normalize(latents.double(), dim=-1) @ weight.T + bias) / 0.06
    found = torch.zeros_like(scores)
    groups = [(torch.arange(len(valid)), place) for place in range(valid.shape[1])] if positional else [valid.nonzero().unbind(1)]
    for rows, places in groups:
        kept = valid[rows, places]
        rows = rows[kept]
        places = places if isinstance(places, int) else places[kept]
        if len(rows):
            table = scores[rows, places]
            shifted = table - table.amax(0)
            found[rows, places] = torch.tensor(sinkhorn_by_loops(shifted.tolist(), 3)).double()
    return found


@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_assignments_are_those_of_loops_and_teach_both_sides(ragged: bool, positional: bool) -> None:
    target = Assignments(clusters=6, positional=positional)
    objective, batch = make(target), make_batch(ragged=ragged)
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    answer = target(scene)
    found, clustering = answer.values["assignments"], answer.terms["clustering"].mean()
    teacher = objective.networks[target.teacher]
    tokens = teacher.embed("image", batch.inputs["image"])
    latents, valid = teacher.encoder(tokens).tail(GRID**2).values, tokens.valid_or_ones()
    expected = assigned_by_loops(target, latents, valid, positional=positional).detach()
    assert_close(found[valid].double(), expected[valid], rtol=1e-3, atol=1e-5)
    assert found[~valid].isnan().all() and not found.requires_grad

    scores = target.prototypes(F.normalize(latents, dim=-1)) / 0.12
    assert_close(clustering, -(expected * scores.log_softmax(-1)).sum(-1)[valid].mean().float(), rtol=1e-3, atol=1e-5)
    head = objective.head(0, "image")["assignments"]
    logits = F.normalize(predicted.values, dim=-1) @ F.normalize(head.weight, dim=-1).T * head.gain / 0.12
    terms = -(gather(expected, predicted.index) * logits.log_softmax(-1)).sum(-1)
    real = torch.ones_like(terms, dtype=torch.bool) if predicted.real is None else predicted.real
    output = objective(batch)
    assert_close(output.loss.double(), terms[real].mean().double() + clustering.double(), rtol=1e-3, atol=1e-5)
    assert {"loss_1", "clustering", "target_entropy"} <= output.metrics.keys()

    output.loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert target.prototypes.weight.grad is not None
    scores = target.prototypes(F.normalize(latents.detach(), dim=-1)) / 0.12
    (alone,) = torch.autograd.grad(-(expected.float() * scores.log_softmax(-1)).sum(-1)[valid].mean(), target.prototypes.weight)
    assert_close(target.prototypes.weight.grad, alone, rtol=1e-3, atol=1e-6)


def test_a_collapsed_teacher_gets_equal_shares() -> None:
    """When all tokens are alike, balance gives each cluster the same share of all of them, not one cluster everything."""
    found = sinkhorn(torch.randn(1, 5).expand(8, 5) / 0.06, 3)
    assert_close(found, torch.full((8, 5), 0.2))


def selfie(**settings: Any) -> Masked:
    target = Embedding(stop_gradient=False, head=False, loss=InfoNce(temperature=0.1, negatives="sample", **settings))
    return make(target, CrossAttention(num_hidden_layers=1))


def test_which_piece_fits_is_a_guess_among_the_hidden_pieces_of_the_sample() -> None:
    """A predictor that says the same everywhere is right once in m times, and pays log m if all pieces look alike to it."""
    objective, batch = selfie(), make_batch()
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    m = scene.parts.hidden.shape[1]
    truth = gather(scene.tokens.values, scene.parts.hidden)
    loss, _ = InfoNce()(torch.zeros_like(truth), truth, None, batch.draws)
    assert_close(loss, torch.full_like(loss, math.log(m)))
    same = torch.randn(1, 1, 32).expand(truth.shape)
    logits = F.normalize(same, dim=-1) @ F.normalize(truth, dim=-1).mT
    assert ((logits.argmax(-1) == torch.arange(m)).sum(1) == 1).all()
    similarity = F.normalize(predicted.values, dim=-1) @ F.normalize(truth, dim=-1).mT / 0.1
    assert similarity.shape == (4, m, m)
    assert_close(objective(batch).loss, F.cross_entropy(similarity.flatten(0, 1), torch.arange(m).repeat(4)))


def test_which_piece_fits_does_not_depend_on_the_order_of_the_pieces() -> None:
    objective, batch = selfie(), make_batch(ragged=True)
    scene, predicted = objective.predict("image", batch.inputs["image"], batch)
    tokens, parts = scene.tokens, scene.parts
    order = torch.randperm(parts.hidden.shape[1], generator=torch.Generator().manual_seed(0))
    real = None if parts.hidden_real is None else parts.hidden_real[:, order]
    shuffled = Split(parts.seen, parts.hidden[:, order], parts.seen_real, real)
    again = objective.predictor(objective.model.encoder, tokens, shuffled, batch.draws)
    loss = InfoNce()
    before, _ = loss(predicted.values, gather(tokens.values, predicted.index), predicted.real, batch.draws)
    after, _ = loss(again.values, gather(tokens.values, again.index), again.real, batch.draws)
    assert_close(after, before[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negatives", ["sample", "batch"])
def test_similarities_are_not_rounded_under_autocast(negatives: Any) -> None:
    guess, truth = torch.randn(2, 2, 5, 32, generator=torch.Generator().manual_seed(0)).unbind(0)
    loss, draws = InfoNce(negatives=negatives), Draws(keys(0, 0, torch.arange(2)))
    expected, _ = loss(guess, truth, None, draws)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = loss(guess, truth, None, draws)
    assert_close(found, expected)


def test_embeddings_of_selfie_learn_from_being_the_target() -> None:
    """With the prediction held fixed the patch embedding still gets a gradient; with stop_gradient it does not."""
    batch = make_batch()
    for objective, learns in ((selfie(), True), (make(Embedding(head=False, loss=InfoNce())), False)):
        scene, predicted = objective.predict("image", batch.inputs["image"], batch)
        truth = gather(objective.every_target[0](scene).values["embedding"], predicted.index)
        loss = InfoNce()(predicted.values.detach(), truth, None, batch.draws)[0].mean()
        assert loss.requires_grad is learns


def test_largest_logit_is_logged_with_the_z_loss() -> None:
    logits, target = torch.tensor([[[1.0, -7.0, 2.0]]]), torch.tensor([[2]])
    counted = torch.tensor([[True]])
    loss = CrossEntropy(z_loss=1e-4, temperature=0.5)
    value, _ = loss(logits, target, None, Draws(keys(0, 0, torch.arange(1))))
    z = math.log(math.exp(2) + math.exp(-14) + math.exp(4))
    assert value.item() == pytest.approx(z - 4 + 1e-4 * z**2, rel=1e-5)
    assert loss.metrics(logits, counted) == {"largest_logit": torch.tensor(14.0)} and not CrossEntropy().metrics(logits, counted)
    many, some = torch.cat([logits, 100 * logits], 1), torch.tensor([[True, False]])
    assert loss.metrics(many, some) == {"largest_logit": torch.tensor(14.0)}, "a place that is not counted"
    objective, batch = objective_of("masked", "text", predictor=MaskToken(), targets=[Raw(loss=CrossEntropy(z_loss=1e-4))])
    assert objective(batch).metrics["largest_logit"].value > 0

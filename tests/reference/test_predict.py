"""Losses of papers against loops over single values in float64: VIME, T-JEPA, SimMTM, self-distilled further pretraining."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.losses.similarity import copies_loss, mixture, similarity_weights
from mmssl.masking import Column, Subset
from mmssl.objectives import Jepa, Setup
from mmssl.objectives.predict import Predict
from mmssl.objectives.predict.distances import Mse
from mmssl.objectives.predict.predictors import MaskToken, Transformer
from mmssl.objectives.predict.targets import Hidden, Latent, Raw, Teacher
from mmssl.testing import batch_of, objective_of, small_model
from mmssl.tokens import Tokens


def built(kind: str, name: str, **settings: object) -> tuple[Predict, object]:
    objective, batch = objective_of(kind, name, **settings)
    assert isinstance(objective, Predict)
    return objective.eval(), batch


def linear(head: torch.nn.Module, x: list[float]) -> list[float]:
    """A linear map as a loop."""
    weight, bias = head.weight.double().tolist(), head.bias.double().tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def cross_entropy(logits: list[float], wanted: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[wanted]


@torch.no_grad()
@pytest.mark.parametrize("equal", ["hidden", "seen"])
def test_vime(equal: Literal["hidden", "seen"]) -> None:
    """Section 4.1: which cells were swapped, by cross-entropy, plus alpha times what stood there, at every cell.

    By equation 2 the mask that was drawn; by pretext_generator of vime_utils.py, where the row that is seen differs from the row.
    """
    predictor = MaskToken(corruption="swap", predict="all")
    targets = [Hidden(equal=equal), Raw(weight=2.0)]
    objective, batch = built("masked", "tabular", mask=Column(ratio=0.3), predictor=predictor, targets=targets)
    scene, predicted = objective.predict("tabular", batch.inputs["tabular"], batch)
    drawn, content = scene.parts.hidden_places(scene.tokens.values.shape[1]), scene.content
    donors = objective.donors("tabular", scene.tokens, batch)
    swapped = (objective.predictor.corrupt(scene.tokens, drawn, scene.draws, **donors) != scene.tokens.values).any(-1)
    assert (drawn & ~swapped).any() and not (swapped & ~drawn).any()
    hidden = (drawn if equal == "hidden" else swapped).tolist()
    valid = scene.tokens.valid_or_ones().tolist()
    estimates, features = [], []
    for i, row in enumerate(predicted.values.double().tolist()):
        for j, x in enumerate(row):
            if not valid[i][j]:
                continue
            estimates.append(cross_entropy(linear(objective.head(0, "tabular")["hidden"], x), int(hidden[i][j])))
            for key, target in content.items():
                truth = target[i, j].tolist()
                head = objective.head(1, "tabular")[key]
                if not target.is_floating_point():
                    if truth != -100:
                        features.append(cross_entropy(linear(head, x), truth))
                elif not all(math.isnan(value) for value in truth):
                    pairs = [(a, b) for a, b in zip(linear(head, x), truth, strict=True) if not math.isnan(b)]
                    features.append(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    expected = sum(estimates) / len(estimates) + 2 * sum(features) / len(features)
    assert objective(batch).loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_swap_for_an_equal_value_is_none() -> None:
    """Columns: one value for all rows, two values, and one for each row; values that differ by rounding are equal."""
    rows = torch.arange(40)
    values = torch.stack([torch.ones(40), 1.0 + rows % 2, 1.0 + rows], 1)[..., None].repeat(1, 1, 8)
    values = values * (1 + 1e-7 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))
    tokens = Tokens(values, torch.zeros(40, 3, 4))
    hidden = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    predictor = MaskToken(corruption="swap")
    predictor.prepare(small_model("tabular").config, identities=True)
    draws = Draws(keys(0, 0, rows))
    altered = predictor.altered(tokens, hidden, draws)
    assert not altered[:, 0].any() and hidden[:, 0].any()
    assert torch.equal(altered[:, 2], hidden[:, 2])
    new = predictor.corrupt(tokens, hidden, draws).round()[..., 0]
    assert torch.equal(altered[:, 1], new[:, 1] != values[:, 1, 0].round())


@torch.no_grad()
def test_swapped_cells_come_from_the_same_column_of_another_row() -> None:
    """Equation 2: x~ = (1 - m) x + m x-, where x- is drawn from the column's values in the batch."""
    objective, batch = built("masked", "tabular", predictor=MaskToken(corruption="swap"))
    tokens = objective.model.embed("tabular", batch.inputs["tabular"])
    hidden = torch.rand(tokens.values.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5
    corrupted = objective.predictor.corrupt(tokens, hidden, batch.draws)
    for i, j in torch.ones_like(hidden).nonzero().tolist():
        others = [tokens.values[k, j] for k in range(len(hidden)) if k != i]
        allowed = others if hidden[i, j] else [tokens.values[i, j]]
        assert any(torch.equal(corrupted[i, j], value) for value in allowed)


@torch.no_grad()
def test_tjepa() -> None:
    """Section 3: squared error between predictions of target subsets and the teacher's tokens of the row; a register token."""
    predictor = Transformer(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = small_model("tabular", cls_token=False, num_register_tokens=1)
    mask, target = Subset(subsets=4), Latent(normalise="none", loss=Mse())
    objective, batch = Jepa(model, Setup(), mask=mask, predictor=predictor, targets=[target]).eval(), batch_of("tabular")
    scene, predicted = objective.predict("tabular", batch.inputs["tabular"], batch)
    teacher = objective.networks[target.teacher]
    prefix = teacher.encoder.num_prefix
    assert prefix == 1
    latents = teacher.encode("tabular", batch.inputs["tabular"]).values.double().tolist()
    real = torch.ones_like(predicted.index) if predicted.real is None else predicted.real
    errors = []
    for i, places in enumerate(predicted.index.tolist()):
        for j, place in enumerate(places):
            if real[i, j]:
                guess = linear(objective.head(0, "tabular")["latent"], predicted.values[i, j].double().tolist())
                truth = latents[i][prefix + place]
                errors.append(sum((a - b) ** 2 for a, b in zip(guess, truth, strict=True)) / len(truth))
    assert objective(batch).loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    seen, hidden = scene.parts.seen, scene.parts.hidden_places(scene.tokens.values.shape[1])
    kept = torch.ones_like(seen, dtype=torch.bool) if scene.parts.seen_real is None else scene.parts.seen_real
    assert not (hidden.gather(1, seen) & kept).any(), "context and target subsets share a column"


@torch.no_grad()
def test_distance_to_the_teacher() -> None:
    """arXiv 2210.02871, section 3: the squared distance of the pooled representations, mean over the batch."""
    target = Teacher(weight=32.0)
    objective, batch = built("masked", "text", targets=[Raw(), target])
    objective.networks.make()
    for parameter in objective.model.encoder.parameters():
        parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel(), dtype=torch.float32)).view_as(parameter))
    total, pooled = 0.0, []
    for model in (objective.model, objective.networks[target.frozen]):
        tokens = model.encode("text", batch.inputs["text"])
        first, rows = model.encoder.num_prefix, []
        for values, valid in zip(tokens.values.double().tolist(), tokens.valid_or_ones().tolist(), strict=True):
            real = [value for value, there in list(zip(values, valid, strict=True))[first:] if there]
            rows.append([sum(column) / len(real) for column in zip(*real, strict=True)])
        pooled.append(rows)
    for ours, theirs in zip(*pooled, strict=True):
        total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
    found = objective(batch).metrics["teacher_distance"].value.item()
    assert found == pytest.approx(total / len(pooled[0]) / objective.model.config.hidden_size * 32, rel=1e-4)
    assert found > 0


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(rows=st.integers(1, 7), width=st.integers(1, 4), seed=st.integers(0, 1000), temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_similarity_weights(rows: int, width: int, seed: int, temperature: float) -> None:
    summaries = numbers(rows, width, seed=seed)
    found = similarity_weights(summaries, temperature)
    for i in range(rows):
        others = [j for j in range(rows) if j != i] or [i]
        scale = {}
        for j in others:
            a, b = summaries[i].tolist(), summaries[j].tolist()
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
            scale[j] = math.exp(cosine / temperature)
        for j in range(rows):
            assert found[i, j].item() == pytest.approx(scale.get(j, 0.0) / sum(scale.values()), rel=1e-9, abs=1e-12)
        assert found[i].sum().item() == pytest.approx(1, rel=1e-12)


@given(rows=st.integers(2, 6), places=st.integers(1, 4), seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.4]))
def test_mixture(rows: int, places: int, seed: int, missing: float) -> None:
    weights, values = similarity_weights(numbers(rows, 3, seed=seed), 0.2), numbers(rows, places, 2, seed=seed + 1)
    valid = torch.rand(rows, places, generator=torch.Generator().manual_seed(seed)) >= missing
    found = mixture(weights, values, valid if missing else None)
    for i in range(rows):
        for j in range(places):
            there = [s for s in range(rows) if (valid[s, j] or not missing) and s != i]
            total = sum(weights[i, s].item() for s in there)
            for c in range(2):
                expected = sum(weights[i, s].item() * values[s, j, c].item() for s in there) / total if there else 0.0
                assert found[i, j, c].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(samples=st.integers(1, 4), copies=st.integers(2, 4), seed=st.integers(0, 1000))
def test_copies_loss(samples: int, copies: int, seed: int) -> None:
    weights = similarity_weights(numbers(samples * copies, 3, seed=seed), 0.2)
    rows = range(samples * copies)
    losses = [-sum(math.log(weights[i, j].item()) for j in rows if j != i and j % samples == i % samples) for i in rows]
    assert copies_loss(weights, copies).item() == pytest.approx(sum(losses) / len(losses), rel=1e-9, abs=1e-12)


def test_copies_of_a_sample_attract_the_weight() -> None:
    """The masks of one sample have like summaries, those of others do not: their weight is nearly all there is."""
    sample = numbers(5, 8, seed=0)
    weights = similarity_weights((sample.repeat(3, 1) + 0.01 * numbers(15, 8, seed=1)), 0.05)
    same = torch.arange(15)[:, None] % 5 == torch.arange(15)[None] % 5
    assert (weights * same).sum(1).min() > 0.95

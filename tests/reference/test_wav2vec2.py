"""The quantiser and the losses of wav2vec 2.0 against transformers with the same weights, and against loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices

from mmssl.draws import Draws, keys
from mmssl.losses.contrast import pick_negatives, same_sample, token_info_nce
from mmssl.objectives.predict.targets.quantised import GumbelQuantiser, gumbel, perplexities

GROUPS, CODES, WIDTH = 2, 12, 16


def noise_like(logits: Tensor) -> Tensor:
    """The noise that torch's gumbel_softmax draws next."""
    return -torch.empty_like(logits).exponential_().log()


@pytest.fixture
def theirs() -> Wav2Vec2ForPreTraining:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        conv_dim=(24, 24), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, num_codevector_groups=GROUPS, num_codevectors_per_group=CODES, codevector_dim=WIDTH,
        proj_codevector_dim=20, num_negatives=30, hidden_dropout=0.0, attention_dropout=0.0, feat_quantizer_dropout=0.0,
        activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
    )  # fmt: skip
    return Wav2Vec2ForPreTraining(config).train()


def ours(theirs: Wav2Vec2ForPreTraining) -> GumbelQuantiser:
    """The quantiser with their weights."""
    quantiser, other = GumbelQuantiser(24, GROUPS, CODES, WIDTH), theirs.quantizer
    with torch.no_grad():
        quantiser.choose.weight.copy_(other.weight_proj.weight)
        quantiser.choose.bias.copy_(other.weight_proj.bias)
        quantiser.entries.copy_(other.codevectors.view(GROUPS, CODES, -1))
    return quantiser


def test_contrastive_and_diversity_losses_and_their_gradients(
    theirs: Wav2Vec2ForPreTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, original = [], F.gumbel_softmax

    def watched(*arguments: object, **named: object) -> Tensor:
        states.append(torch.get_rng_state())
        return original(*arguments, **named)

    monkeypatch.setattr(F, "gumbel_softmax", watched)
    theirs.set_gumbel_temperature(1.3)
    waveform = torch.randn(3, 600)
    count = int(theirs._get_feat_extract_output_lengths(600))
    hidden = torch.rand(3, count) < 0.5
    negatives = torch.as_tensor(_sample_negative_indices((3, count), 30, hidden.numpy()))
    output = theirs(waveform, mask_time_indices=hidden, sampled_negative_indices=negatives)
    features = theirs.wav2vec2(waveform, mask_time_indices=hidden).extract_features

    quantiser = ours(theirs)
    torch.set_rng_state(states[0])
    noise = noise_like(torch.empty(3 * count * GROUPS, CODES)).view(3, count, GROUPS, CODES)
    chosen, probabilities = quantiser(features.detach(), noise, 1.3)
    projected = F.linear(chosen, theirs.project_q.weight, theirs.project_q.bias)
    assert_close(projected, output.projected_quantized_states)
    losses = token_info_nce(output.projected_states.detach(), projected, hidden, 0.1, chosen=negatives)
    total = (losses * hidden).sum()
    assert_close(total, output.contrastive_loss)
    used = perplexities(probabilities, hidden)
    assert_close(used.sum(), output.codevector_perplexity)
    diversity = 1 - used.sum() / (GROUPS * CODES)
    assert_close(diversity * hidden.sum(), output.diversity_loss)

    (total + theirs.config.diversity_loss_weight * diversity * hidden.sum()).backward()
    output.loss.backward()
    other = theirs.quantizer
    assert_close(quantiser.entries.grad, other.codevectors.grad.view_as(quantiser.entries), rtol=1e-4, atol=1e-5)
    assert_close(quantiser.choose.weight.grad, other.weight_proj.weight.grad, rtol=1e-4, atol=1e-4)
    assert_close(quantiser.choose.bias.grad, other.weight_proj.bias.grad, rtol=1e-4, atol=1e-4)


def test_choice_without_noise_is_the_most_probable(theirs: Wav2Vec2ForPreTraining) -> None:
    features = torch.randn(2, 7, 24)
    expected, _ = theirs.eval().quantizer(features)
    found, _ = ours(theirs)(features, None, 1.0)
    assert_close(found, expected)


def test_gumbel_softmax_is_torchs_with_its_gradient() -> None:
    torch.manual_seed(1)
    quantiser, features = GumbelQuantiser(8, GROUPS, CODES, WIDTH), torch.randn(2, 5, 8)
    torch.manual_seed(2)
    noise = noise_like(torch.empty(2, 5, GROUPS, CODES))
    found, _ = quantiser(features, noise, 0.7)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    gradient, quantiser.choose.weight.grad = quantiser.choose.weight.grad, None
    torch.manual_seed(2)
    one_hot = F.gumbel_softmax(quantiser.choose(features).unflatten(-1, (GROUPS, CODES)), tau=0.7, hard=True)
    expected = torch.stack([one_hot[..., g, :] @ quantiser.entries[g] for g in range(GROUPS)], 2).flatten(2)
    assert_close(found, expected)
    (expected * weights).sum().backward()
    assert_close(gradient, quantiser.choose.weight.grad)


def test_noise_is_gumbel_distributed() -> None:
    noise = gumbel(Draws(keys(0, 0, torch.arange(50))), 20_000)
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    for value in (-1.0, 0.0, 1.0, 3.0):
        assert (noise < value).float().mean().item() == pytest.approx(math.exp(-math.exp(-value)), abs=2e-3)


def test_contrastive_loss_equals_a_loop() -> None:
    torch.manual_seed(0)
    b, m, k = 3, 6, 8
    predicted, target = torch.randn(b, m, 5, dtype=torch.float64), torch.randn(b, m, 5, dtype=torch.float64)
    target[1, 2] = target[1, 4]  # the same code: no distractor of each other
    there = torch.rand(b, m) < 0.8
    chosen = pick_negatives(torch.rand(b, m, k), there, "sample")
    found = token_info_nce(predicted, target, there, 0.1, chosen=chosen)
    truth = target.masked_fill(~there[..., None], 0).flatten(0, 1)
    for i in range(b):
        for j in range(m):
            if not there[i, j]:
                continue
            own = truth[i * m + j]
            others = [truth[n] for n in chosen[i, j].tolist() if not torch.equal(truth[n], own)]
            scores = [F.cosine_similarity(predicted[i, j], value, dim=0).item() / 0.1 for value in [own, *others]]
            expected = math.log(sum(map(math.exp, scores))) - scores[0]
            assert found[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_places_of_other_samples_are_drawn_evenly() -> None:
    there = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]]).bool()
    uniform = torch.rand(4, 4, 6000, generator=torch.Generator().manual_seed(0))
    found = pick_negatives(uniform, there, "others")
    for i in range(4):
        expected = [n for n in range(16) if there.flatten()[n] and n // 4 != i]
        for j in range(4):
            values, counts = found[i, j].unique(return_counts=True)
            assert values.tolist() == expected
            assert counts.min() > 0.85 * 6000 / len(expected)
    lonely = pick_negatives(uniform[:2], there[:2], "others")
    assert_close(lonely[0], torch.arange(4)[:, None].expand(4, 6000))


def test_same_sample_loss_equals_a_loop() -> None:
    torch.manual_seed(0)
    b, m, k = 3, 4, 5
    predicted, target = torch.randn(b, m, 6, dtype=torch.float64), torch.randn(b, m, 6, dtype=torch.float64)
    there = torch.ones(b, m, dtype=torch.bool)
    alike = pick_negatives(torch.rand(b, m, k), there, "sample")
    others = pick_negatives(torch.rand(b, m, k), there, "others")
    found = same_sample(predicted, target, there, 0.1, alike=alike, others=others)
    rows = target.flatten(0, 1)
    for i in range(b):
        for j in range(m):
            pairs = [(i * m + j, 1), *((n, 1) for n in alike[i, j].tolist()), *((n, 0) for n in others[i, j].tolist())]
            loss = 0.0
            for n, same in pairs:
                assert (n // m == i) == bool(same)
                probability = 1 / (1 + math.exp(-F.cosine_similarity(predicted[i, j], rows[n], dim=0).item() / 0.1))
                loss -= math.log(probability if same else 1 - probability)
            assert found[i, j].item() == pytest.approx(loss / len(pairs), rel=1e-4)
    # Of a sample without others only the pairs with itself count.
    itself = torch.arange(m).view(1, m, 1).expand(1, m, k)
    alone = same_sample(predicted[:1], target[:1], there[:1], 0.1, alike=alike[:1], others=itself)
    index = torch.cat([itself[..., :1], alike[:1]], -1)
    similarity = F.cosine_similarity(predicted[:1, :, None], rows[index], dim=-1)
    assert_close(alone, F.softplus(-similarity / 0.1).mean(-1).float(), rtol=1e-4, atol=1e-5)

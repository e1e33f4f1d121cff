"""Gradients of pairs of modalities in harmony, against a slow computation in float64 with closed-form gradients."""

from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mmssl.draws import keys
from mmssl.losses.harmony import agreement, realigned
from mmssl.model.heads import LogitScale
from mmssl.objectives.agree.harmony import Harmonise, Harmony, check_harmony, harmony_of
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.agree.parts import Seen
from mmssl.objectives.networks import Clock
from mmssl.objectives.terms import Terms
from mmssl.objectives.together import Share
from mmssl.objectives.views import GLOBAL, View

NAMES = ("a", "b", "c", "d")
ROWS = {"a": [0, 1, 2, 3, 4, 5], "b": [0, 1, 2, 4], "c": [1, 2, 3, 5, 4], "d": [5, 0, 2]}
SCALE, WIDTH, SAMPLES = float(LogitScale(3.0, 100.0, None).double().scale.detach()), 5, 6


def slowly_realigned(gradients: Sequence[Tensor], order: Sequence[int]) -> list[Tensor]:
    """PCGrad, algorithm 1, of one sample: gradients are vectors."""
    found = []
    for i in range(len(gradients)):
        own = gradients[i].clone()
        for j in order:
            dot = sum(float(x * y) for x, y in zip(own, gradients[j], strict=True))
            if j != i and dot < 0:
                own -= dot / sum(float(x * x) for x in gradients[j]) * gradients[j]
        found.append(own)
    return found


def softmax_gradient(queries: Tensor, keys_: Tensor, own: list[int], other: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of one way of CLIP and, of their sum, the gradients at queries and keys, from the formula (not from autograd)."""
    q, k = (each / each.norm(dim=1, keepdim=True) for each in (queries, keys_))
    losses, by_q, by_k = [], torch.zeros_like(q), torch.zeros_like(k)
    for i, row in enumerate(own):
        if row not in other:
            continue
        shares = (SCALE * k @ q[i]).softmax(0)
        losses.append(-shares[other.index(row)].log())
        error = shares.clone()
        error[other.index(row)] -= 1
        by_q[i] += SCALE * error @ k
        by_k += SCALE * error[:, None] * q[i]

    def behind_length(gradient: Tensor, direction: Tensor, raw: Tensor) -> Tensor:
        return (gradient - (gradient * direction).sum(1, keepdim=True) * direction) / raw.norm(dim=1, keepdim=True)

    return torch.stack(losses), behind_length(by_q, q, queries), behind_length(by_k, k, keys_)


def seen_of(values: dict[str, Tensor], progress: float = 0.0) -> Seen:
    views = [View(name, GLOBAL, 0) for name in values]
    ids = torch.arange(SAMPLES)
    share = Share(
        keys(0, 3, ids),
        ids,
        None,
        {f"student/pooled/{view}": values[view.modality] for view in views},
        {f"student/pooled/{view}": torch.tensor(ROWS[view.modality]) for view in views},
    )
    project: Any = lambda name, pooled: pooled  # noqa: E731
    return Seen(share, views, project, project, None, "student", LogitScale(3.0, 100.0, None).double(), Clock(0, progress), False)


def drawn(names: Sequence[str], seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(len(ROWS[name]), WIDTH, generator=draws, dtype=torch.float64).requires_grad_() for name in names}


def clip_loss() -> Any:
    return AGREEMENTS["info_nce"](temperature=None, negatives="view", between="across")


def harmonised(values: dict[str, Tensor], options: Harmonise, progress: float = 0.0) -> tuple[Tensor, dict[str, Any], Harmony]:
    seen = seen_of(values, progress)
    harmony = harmony_of(options, seen)
    assert harmony is not None
    terms = dict(harmony.agreed(prepared(clip_loss()), None).terms)
    terms["harmony"], told = harmony.term(Terms(terms))
    return Terms(terms).loss(), told, harmony


def prepared(loss: Any) -> Any:
    loss.queues = nn.ModuleDict()
    return loss


@pytest.mark.parametrize("names", [NAMES[:3], NAMES])
@pytest.mark.parametrize("keep_above", [None, (-1.0, 0.4)])
@pytest.mark.parametrize("realign", [True, False])
def test_value_and_gradient(names: Sequence[str], keep_above: tuple[float, float] | None, realign: bool) -> None:
    values, progress = drawn(names), 0.75
    loss, told, harmony = harmonised(values, Harmonise(realign=realign, keep_above=keep_above), progress)
    loss.backward()

    losses, found = [], {name: list[Tensor]() for name in names}
    for a, b in combinations(names, 2):
        there, ga, gb = softmax_gradient(values[a].detach(), values[b].detach(), ROWS[a], ROWS[b])
        back, gb2, ga2 = softmax_gradient(values[b].detach(), values[a].detach(), ROWS[b], ROWS[a])
        losses += [there, back]
        found[a].append(ga + ga2)
        found[b].append(gb + gb2)
    count = sum(map(len, losses))
    assert_close(loss.detach(), torch.cat(losses).mean(), rtol=1e-12, atol=1e-12)

    cosines: dict[int, list[float]] = {sample: [] for sample in range(SAMPLES)}
    for name in names:
        for place, sample in enumerate(ROWS[name]):
            for g, h in combinations([each[place] for each in found[name]], 2):
                cosines[sample].append(float(g @ h / g.norm() / h.norm()))
    mean = {sample: sum(each) / len(each) for sample, each in cosines.items()}
    kept = {sample: keep_above is None or value >= -1.0 + 1.4 * progress for sample, value in mean.items()}
    assert keep_above is None or 0 < sum(kept.values()) < SAMPLES, "the threshold parts the samples"
    draws = harmony.seen.draws.uniform("order of gradients", len(names) - 1)[0]
    order = sorted(range(len(names) - 1), key=lambda number: float(draws[number]))
    for name in names:
        for place, sample in enumerate(ROWS[name]):
            each = [gradient[place] / count for gradient in found[name]]
            expected = sum(slowly_realigned(each, order) if realign else each) * kept[sample]
            assert values[name].grad is not None
            assert_close(values[name].grad[place], expected, rtol=1e-9, atol=1e-12)
    assert float(told["gradient_cosine"].value) == pytest.approx(sum(mean.values()) / SAMPLES, abs=1e-6)
    assert float(told["conflicts"].value) == pytest.approx(sum(value < 0 for value in mean.values()) / SAMPLES)
    assert ("kept" in told) == (keep_above is not None)


def test_the_learned_scale_has_the_gradient_of_the_plain_loss() -> None:
    values = drawn(NAMES[:3])
    loss, _, harmony = harmonised(values, Harmonise())
    seen = seen_of(values)
    plain = Terms(dict(prepared(clip_loss())(seen, None).terms)).loss()
    assert seen.scale is not None and harmony.seen.scale is not None
    (expected,) = torch.autograd.grad(plain, seen.scale.parameters())
    (found,) = torch.autograd.grad(loss, harmony.seen.scale.parameters())
    assert float(expected.abs().max()) > 0
    assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: AGREEMENTS["cosine"](between="across"),
        lambda: AGREEMENTS["barlow_twins"](between="across"),
        lambda: AGREEMENTS["vicreg"](between="across"),
    ],
)
def test_other_losses_keep_their_value(loss: Any) -> None:
    seen = seen_of(drawn(NAMES[:3]))
    harmony, one = harmony_of(Harmonise(), seen), loss()
    assert harmony is not None
    plain, apart = one(seen, None).terms, harmony.agreed(one, None).terms
    assert_close(Terms(dict(apart)).loss(), Terms(dict(plain)).loss(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_surgery_by_vectors(count: int) -> None:
    gradients = torch.randn(count, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    gradients[0, :2] = 0
    for order in list(permutations(range(count)))[:6]:
        found = realigned(gradients, torch.tensor(order))
        for sample in range(40):
            expected = slowly_realigned(list(gradients[:, sample]), order)
            assert_close(found[:, sample], torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_two_conflicting_losses_agree_afterwards_and_both_fall() -> None:
    gradients = torch.randn(2, 200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = realigned(gradients, torch.tensor([0, 1]))
    before, after = (agreement(each)[0] for each in (gradients, found))
    assert float(before.min()) < -0.5 and float(after.min()) >= 0
    step = found.sum(0)
    assert float((gradients * step).sum(-1).min()) >= 0
    agreeing = before >= 0
    assert torch.equal(found[:, agreeing], gradients[:, agreeing])


def test_a_gradient_of_zero_has_no_cosine() -> None:
    gradients = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]])
    sums, counts = agreement(gradients)
    assert counts.tolist() == [3, 1]
    assert sums.tolist() == pytest.approx([-1.0, 0.5**0.5])


def test_nothing_is_harmonised_without_gradient() -> None:
    with torch.no_grad():
        assert harmony_of(Harmonise(), seen_of(drawn(NAMES[:3]))) is None
    assert harmony_of(None, seen_of(drawn(NAMES[:3]))) is None


def test_one_pair_and_other_losses_are_refused() -> None:
    check_harmony([clip_loss()], NAMES[:3])
    with pytest.raises(ValueError, match=r"harmonise: .* but a and b are one pair; add a modality"):
        check_harmony([clip_loss()], NAMES[:2])
    with pytest.raises(ValueError, match=r"harmonise: .*which InfoNce is not alone; set its between to across"):
        check_harmony([AGREEMENTS["info_nce"]()], NAMES[:3])

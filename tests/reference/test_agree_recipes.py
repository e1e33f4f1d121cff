"""What official code decides beside the formula: which pairs are compared, what has a gradient, what each loss counts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import keys
from mmssl.losses.negatives import group_ordering
from mmssl.model.heads import Head, Prototypes
from mmssl.objectives.agree.losses.assignments import MaskedTokens
from mmssl.objectives.agree.losses.moments import Koleo
from mmssl.objectives.agree.losses.negatives import GroupOrdering, InfoNce
from mmssl.objectives.agree.parts import Seen, Space
from mmssl.objectives.agree.predictors import MlpAnswer
from mmssl.objectives.networks import Clock
from mmssl.objectives.together import Share
from mmssl.objectives.views import View
from mmssl.recipe.yaml12 import parse
from mmssl_catalogue import recipes_found

FIRST, SECOND = View("image", "global", 0), View("image", "global", 1)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen_of(values: dict[str, Tensor], rows: dict[str, Tensor], count: int, target: str = "student") -> Seen:
    """Two views of a step whose projections are the pooled outputs."""
    identity = torch.arange(count)
    share = Share(keys(0, 0, identity), identity, None, values, rows)
    return Seen(share, [FIRST, SECOND], lambda _, x: x, lambda _, x: x, None, target, None, Clock(), False)


def pooled(first: Tensor, second: Tensor) -> Seen:
    values = {"student/pooled/image global 0": first, "student/pooled/image global 1": second}
    return seen_of(values, {name: torch.arange(len(first)) for name in values}, len(first))


def objective(name: str) -> dict[str, Any]:
    found: dict[str, Any] = parse(recipes_found()[name].read_text(), name)["objective"]
    return found


def setting(name: str, loss: str) -> dict[str, Any]:
    (found,) = [each for each in objective(name)["losses"] if each["name"] == loss]
    return dict(found)


def test_anchors_of_groco_are_compared_with_others_in_their_own_view_and_alone_have_a_gradient() -> None:
    """groco.py: positives and negatives are detached (stop_grad), and negatives are the anchors of the other samples."""
    ours, theirs = ([numbers(7, 5, seed=seed).requires_grad_() for seed in (0, 1)] for _ in range(2))
    found = GroupOrdering(negatives=3)(pooled(*ours), None).terms[""].mean()
    losses = []
    for anchors, others in (theirs, theirs[::-1]):
        for i, anchor in enumerate(anchors):
            negatives = [F.cosine_similarity(anchor, anchors[j].detach(), dim=0) for j in range(7) if j != i]
            own = F.cosine_similarity(anchor, others[i].detach(), dim=0)
            losses.append(group_ordering(own[None, None], torch.stack(negatives)[None], hardest=3))
    expected = torch.cat(losses).mean()
    found.backward()
    expected.backward()
    assert_close(found, expected)
    for mine, its in zip(ours, theirs, strict=True):
        assert_close(mine.grad, its.grad)


@pytest.mark.parametrize("name", ["image/ibot_cifar10", "image/dinov2_cifar10", "image/dinov2_own"])
def test_views_that_hide_nothing_count_as_zero(name: str) -> None:
    """iBOTLoss.forward: sums over hidden tokens by max(1, their number), the mean over all views; forward_masked of DINOv2."""
    count, hidden = 6, {0: 2, 2: 1, 3: 3}
    place = torch.tensor([row for row, times in hidden.items() for _ in range(times)])
    student, teacher, known = ([numbers(len(place), 4, seed=10 * which + view) for view in (0, 1)] for which in (1, 2, 1))
    for each in (*student, *known):
        each.requires_grad_()
    values, rows = dict[str, Tensor](), dict[str, Tensor]()
    for view, mine, its in ((FIRST, student[0], teacher[0]), (SECOND, student[1], teacher[1])):
        values |= {f"student/hidden/{view}": mine, f"teacher/hidden/{view}": its}
        rows |= {f"student/hidden/{view}": place, f"teacher/hidden/{view}": place}
    keyed = setting(name, "masked_tokens")
    torch.manual_seed(0)
    prototypes = Prototypes(5, 4).double()
    loss = MaskedTokens(prototypes=5, warmup=0.0, centring="mean", weight=keyed["weight"])
    loss.prepare(Space(4, {"image": 4}, 4, ["image"], {}, True))
    found = loss.weight * loss(seen_of(values, rows, count, "teacher"), (prototypes, prototypes)).terms[""].mean()
    expected = torch.zeros((), dtype=torch.float64)
    for mine, its in zip(known, teacher, strict=True):
        for row, times in hidden.items():
            for token in (place == row).nonzero().flatten().tolist():
                aim = (prototypes(its[token : token + 1]) / 0.07).softmax(-1)
                answer = (prototypes(mine[token : token + 1]) / 0.1).log_softmax(-1)
                expected = expected - (aim.detach() * answer).sum() / times / (2 * count)
    assert objective(name)["mask_probability"] == len(hidden) / count
    found.backward()
    expected.backward()
    assert_close(found, expected)
    for mine, its in zip(student, known, strict=True):
        assert_close(mine.grad, its.grad)


@pytest.mark.parametrize("name", ["image/dinov2_cifar10", "image/dinov2_own"])
def test_koleo_is_summed_over_both_views(name: str) -> None:
    """ssl_meta_arch.py: 0.1 times the sum over the two global crops; koleo_loss.py: -log of the distance of unit vectors."""
    ours, theirs = ([numbers(6, 4, seed=seed).requires_grad_() for seed in (0, 1)] for _ in range(2))
    loss = Koleo(weight=setting(name, "koleo")["weight"])
    found = loss.weight * loss(pooled(*ours), None).terms[""].mean()
    expected = torch.zeros((), dtype=torch.float64)
    for vectors in theirs:
        unit = F.normalize(vectors, dim=-1)
        for i in range(6):
            nearest = max((j for j in range(6) if j != i), key=lambda j: float(unit[i].detach() @ unit[j].detach()))
            expected = expected - 0.1 * ((unit[i] - unit[nearest] + 1e-8).norm() + 1e-8).log() / 6
    found.backward()
    expected.backward()
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for mine, its in zip(ours, theirs, strict=True):
        assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-6)


def test_moco_v3_sums_both_directions_times_twice_the_temperature() -> None:
    """builder.py: cross-entropy x 2 T for each direction, no gradient to keys, a predictor with a norm behind its last layer."""
    keyed = setting("image/moco_v3_cifar10", "info_nce")
    ours, theirs = ([numbers(5, 4, seed=seed).requires_grad_() for seed in (0, 1)] for _ in range(2))
    teacher = [numbers(5, 4, seed=seed) for seed in (2, 3)]
    values = {
        f"{network}/pooled/{view}": each[view.number]
        for network, each in (("student", ours), ("teacher", teacher))
        for view in (FIRST, SECOND)
    }
    seen = seen_of(values, {name: torch.arange(5) for name in values}, 5, "teacher")
    loss = InfoNce(temperature=keyed["temperature"], negatives=keyed["negatives"], weight=keyed["weight"])
    loss.prepare(Space(4, {"image": 4}, 4, ["image"], {}, True))
    found = loss.weight * loss(seen, None).terms[""].mean()
    temperature, expected = 0.2, torch.zeros((), dtype=torch.float64)
    for queries, side in zip(theirs, teacher[::-1], strict=True):
        logits = F.normalize(queries, dim=1) @ F.normalize(side, dim=1).mT / temperature
        expected = expected + 2 * temperature * F.cross_entropy(logits, torch.arange(5))
    found.backward()
    expected.backward()
    assert_close(found, expected)
    for mine, its in zip(ours, theirs, strict=True):
        assert_close(mine.grad, its.grad)
    answer = objective("image/moco_v3_cifar10")["predictor"]
    head = MlpAnswer(**{key: value for key, value in answer.items() if key != "name"}).build(128)
    assert isinstance(head.head, Head) and (head.head.last_norm, head.linears[-1].bias, head.norms[-1].weight) == (
        "batch",
        None,
        None,
    )

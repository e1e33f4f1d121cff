"""Losses of two views that agree, against loops over single values in float64: values and gradients."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmssl.losses import assignments, moments, negatives, places
from mmssl.losses.sinkhorn import sinkhorn

Scalar = Tensor  # a tensor of one value, so that the loops have gradients
rows, widths, seeds = st.integers(2, 9), st.integers(1, 7), st.integers(0, 1000)
few = settings(max_examples=25)


def normal(*shape: int, seed: int, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(*shape: int, seed: int, share: float = 0.5) -> Tensor:
    return uniform(*shape, seed=seed) < share


def check(found: Tensor, wanted: Tensor | Sequence[Scalar], *leaves: Tensor, tolerance: float = 1e-9) -> None:
    """Same values, and the same gradients of a sum in which every value has another weight."""
    if not isinstance(wanted, Tensor):
        wanted = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in wanted])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    weights = torch.linspace(1, 2, found.numel(), dtype=torch.float64).view(found.shape)
    ours = torch.autograd.grad((weights * found).sum(), leaves, allow_unused=True, materialize_grads=True, retain_graph=True)
    if wanted.requires_grad:
        theirs = torch.autograd.grad((weights * wanted).sum(), leaves, allow_unused=True, materialize_grads=True, retain_graph=True)
    else:
        theirs = tuple(torch.zeros_like(leaf) for leaf in leaves)
    torch.testing.assert_close(ours, theirs, rtol=100 * tolerance, atol=100 * tolerance)


def dot(a: Tensor, b: Tensor) -> Scalar:
    return sum((x * y for x, y in zip(a, b, strict=True)), torch.zeros((), dtype=torch.float64))


def cos(a: Tensor, b: Tensor) -> Scalar:
    return dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())


def log_sum_exp(values: Sequence[Scalar]) -> Scalar:
    return sum((value.exp() for value in values), torch.zeros((), dtype=torch.float64)).log()


def mean(values: Sequence[Scalar]) -> Scalar:
    return sum(values, torch.zeros((), dtype=torch.float64)) / len(values)


ZERO = torch.zeros((), dtype=torch.float64)


# Negatives


@few
@given(n=rows, m=rows, d=widths, seed=seeds)
def test_similarities(n: int, m: int, d: int, seed: int) -> None:
    a, b = normal(n, d, seed=seed), normal(m, d, seed=seed + 1)
    check(negatives.similarities(a, b).flatten(), [cos(x, y) for x in a for y in b], a, b)


@pytest.mark.parametrize("decoupled", [False, True])
@few
@given(n=rows, m=rows, seed=seeds, share=st.sampled_from([0.1, 0.5, 1.0]), counting=st.booleans())
def test_info_nce(decoupled: bool, n: int, m: int, seed: int, share: float, counting: bool) -> None:
    logits, positive = normal(n, m, seed=seed), mask(n, m, seed=seed + 1, share=share)
    counted = mask(n, m, seed=seed + 2, share=0.7) if counting else None
    expected = []
    for i in range(n):
        there = [j for j in range(m) if counted is None or counted[i, j]]
        own = [j for j in there if positive[i, j]]
        below = [j for j in there if not (decoupled and positive[i, j])]
        if own and below:
            expected.append(mean([log_sum_exp([logits[i, k] for k in below]) - logits[i, j] for j in own]))
        else:
            expected.append(ZERO)
    check(negatives.info_nce(logits, positive, counted, decoupled=decoupled), expected, logits)


@few
@given(n=rows, m=rows, seed=seeds, counting=st.booleans())
def test_soft_info_nce(n: int, m: int, seed: int, counting: bool) -> None:
    logits, target = normal(n, m, seed=seed), uniform(n, m, seed=seed + 1) * mask(n, m, seed=seed + 2)
    counted = mask(n, m, seed=seed + 3) if counting else None
    expected = []
    for i in range(n):
        there = [j for j in range(m) if counted is None or counted[i, j]]
        total = sum(target[i, j].item() for j in there)
        if total:
            partition = log_sum_exp([logits[i, k] for k in there])
            expected.append(sum((target[i, j] / total * (partition - logits[i, j]) for j in there), ZERO))
        else:
            expected.append(ZERO)
    check(negatives.soft_info_nce(logits, target, counted), expected, logits)


def test_soft_targets_that_are_one_hot_are_info_nce() -> None:
    logits, counted = normal(6, 6, seed=0), mask(6, 6, seed=1, share=0.8) | torch.eye(6, dtype=torch.bool)
    eye = torch.eye(6, dtype=torch.bool)
    check(negatives.soft_info_nce(logits, 3.0 * eye, counted), negatives.info_nce(logits, eye, counted), logits)


@few
@given(n=rows, m=rows, d=widths, seed=seeds, counting=st.booleans(), chunk=st.integers(1, 10))
def test_sigmoid_pairs(n: int, m: int, d: int, seed: int, counting: bool, chunk: int) -> None:
    a, b, positive = normal(n, d, seed=seed), normal(m, d, seed=seed + 1), mask(n, m, seed=seed + 2)
    scale, bias = normal(seed=seed + 3), normal(seed=seed + 4)
    counted = mask(n, m, seed=seed + 5) if counting else None
    expected = []
    for i in range(n):
        parts = []
        for j in range(m):
            if counted is None or counted[i, j]:
                sign = 1 if positive[i, j] else -1
                parts.append(torch.log1p((-sign * (scale * cos(a[i], b[j]) + bias)).exp()))
        expected.append(sum(parts, ZERO))
    check(negatives.sigmoid_pairs(scale * negatives.similarities(a, b) + bias, positive, counted), expected, a, b, scale, bias)
    check(negatives.sigmoid_pairs_chunked(a, b, scale, bias, positive, counted, chunk), expected, a, b, scale, bias)


def test_chunks_keep_only_their_own_rows() -> None:
    a, b, kept = normal(64, 4, seed=0), normal(32, 4, seed=1), []
    scale, bias, positive = normal(seed=2), normal(seed=3), torch.eye(64, 32, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
        negatives.sigmoid_pairs_chunked(a, b, scale, bias, positive, None, 8)
    assert max(kept) <= 64 * 4
    with pytest.raises(ValueError, match="1 or more; got 0"):
        negatives.sigmoid_pairs_chunked(a, b, scale, bias, positive, None, 0)


@few
@given(n=rows, m=rows, d=st.integers(2, 7), hardest=st.integers(1, 6), seed=seeds, counting=st.booleans())
def test_mixed_negatives(n: int, m: int, d: int, hardest: int, seed: int, counting: bool) -> None:
    queries, others = normal(n, d, seed=seed), normal(m, d, seed=seed + 1)
    between, towards = uniform(n, 3, 3, seed=seed + 2), uniform(n, 2, 2, seed=seed + 3)
    counted = mask(n, m, seed=seed + 4) if counting else None
    found = negatives.mixed_negatives(queries, others, between, towards, hardest, counted)
    assert not found.requires_grad
    for i in range(n):
        there = [j for j in range(m) if counted is None or counted[i, j]]
        hard = sorted(there, key=lambda j: -cos(queries[i], others[j]).item())[:hardest]
        if not hard:
            assert not found[i].any()
            continue
        units = [others[j] / others[j].norm() for j in hard]
        mixtures = []
        for first, second, share in between[i].tolist():
            one = math.floor(first * len(hard))
            rest = [k for k in range(len(hard)) if k != one] or [one]
            two = rest[math.floor(second * len(rest))]
            mixtures.append(share * units[one] + (1 - share) * units[two])
        for first, share in towards[i].tolist():
            query = queries[i] / queries[i].norm()
            mixtures.append(share / 2 * query + (1 - share / 2) * units[math.floor(first * len(hard))])
        torch.testing.assert_close(found[i], torch.stack([x / x.norm() for x in mixtures]).detach())


def test_mixed_negatives_are_harder() -> None:
    queries, others = normal(4, 16, seed=0, grad=False), normal(200, 16, seed=1, grad=False)
    made = negatives.mixed_negatives(queries, others, uniform(4, 8, 3, seed=2), uniform(4, 8, 2, seed=3), 10)
    harder = (torch.nn.functional.normalize(queries, dim=-1)[:, None] * made).sum(-1).mean(1)
    assert (harder > negatives.similarities(queries, others).mean(1)).all()
    with pytest.raises(ValueError, match="1 or more; got 0"):
        negatives.mixed_negatives(queries, others, uniform(4, 8, 3, seed=2), uniform(4, 8, 2, seed=3), 0)


@few
@given(n=st.integers(1, 5), views=st.integers(1, 2), m=rows, seed=seeds, seen=st.booleans(), gamma=st.sampled_from([0.0, 0.3, 1.0]))
def test_individual_temperatures(n: int, views: int, m: int, seed: int, seen: bool, gamma: float) -> None:
    r = n * views
    similarity, positive = normal(r, m, seed=seed), mask(r, m, seed=seed + 1, share=0.4)
    counted = mask(r, m, seed=seed + 2, share=0.8)
    tau, slope = 0.2 + uniform(n, seed=seed + 3), normal(n, seed=seed + 4, grad=False)
    log_mean = normal(n, seed=seed + 5, grad=False) if seen else torch.full((n,), -math.inf, dtype=torch.float64)
    found, kept = negatives.individual_temperatures(
        similarity,
        positive,
        tau,
        log_mean,
        slope,
        counted,
        gamma=gamma,
        rho=0.5,
        rate=0.1,
        memory=0.3,
        lowest=0.3,
        highest=1,
        clip=1.5,
    )
    assert not any(value.requires_grad for value in kept)
    gradient = torch.zeros(r, m, dtype=torch.float64)
    sums: dict[int, list[tuple[float, float]]] = {i: [] for i in range(n)}
    for row in range(r):
        i = row % n
        own = [j for j in range(m) if counted[row, j] and positive[row, j]]
        rivals = [j for j in range(m) if counted[row, j] and not positive[row, j]]
        if not own or not rivals:
            assert found[row].item() == 0
            continue
        values, t = similarity[row].tolist(), tau[i].item()
        now = sum(math.exp(values[j] / t) for j in rivals) / len(rivals)
        moved = (1 - gamma) * math.exp(log_mean[i].item()) + gamma * now if seen else now
        assert found[row].item() == pytest.approx(t * math.log(moved) - sum(values[j] for j in own) / len(own), rel=1e-9)
        weights = {j: math.exp(values[j] / t) / moved / len(rivals) for j in rivals}
        for j in rivals:
            gradient[row, j] = weights[j]
        for j in own:
            gradient[row, j] = -1 / len(own)
        sums[i].append((moved, math.log(moved) + 0.5 - sum(weights[j] * values[j] / t for j in rivals)))
    torch.testing.assert_close(torch.autograd.grad(found.sum(), similarity)[0], gradient)
    for i, parts in sums.items():
        expected = (tau[i].item(), log_mean[i].item(), slope[i].item())
        if parts:
            step = sum(derivative for _, derivative in parts) / len(parts)
            drift = 0.3 * slope[i].item() + 0.7 * min(1.5, max(-1.5, step))
            logs = math.log(sum(moved for moved, _ in parts) / len(parts))
            expected = (min(1.0, max(0.3, tau[i].item() - 0.1 * drift)), logs, drift)
        assert [value[i].item() for value in kept] == pytest.approx(list(expected), rel=1e-9)


def test_one_temperature_for_all_is_the_global_loss() -> None:
    similarity, positive = normal(6, 8, seed=0), torch.eye(6, 8, dtype=torch.bool)
    tau, zeros = torch.full((6,), 0.2, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    found, kept = negatives.individual_temperatures(similarity, positive, tau, zeros, zeros, gamma=1, rate=0)
    wanted = 0.2 * (negatives.info_nce(similarity / 0.2, positive, decoupled=True) - math.log(7))
    check(found, wanted, similarity)
    torch.testing.assert_close(kept.temperature, tau)
    with pytest.raises(ValueError, match="got 6 of 4 samples"):
        negatives.individual_temperatures(similarity, positive, tau[:4], zeros[:4], zeros[:4])


def test_temperatures_of_frequent_samples_grow() -> None:
    # The first three anchors have many candidates that are nearly as near as their positive.
    similarity, positive = torch.full((6, 6), -0.9, dtype=torch.float64), torch.eye(6, dtype=torch.bool)
    similarity[:3, :3], similarity[positive] = 0.9, 1.0
    state = negatives.Temperatures(torch.full((6,), 0.1), torch.full((6,), -math.inf), torch.zeros(6))
    for _ in range(200):
        _, state = negatives.individual_temperatures(similarity, positive, *state, rho=0.5, rate=0.01)
    assert state.temperature[:3].min() > state.temperature[3:].max()


@few
@given(n=st.integers(1, 4), t=st.integers(1, 6), d=st.integers(1, 4), seed=seeds, alpha=st.sampled_from([0, 0.5, 0.3, 1]))
def test_hierarchical(n: int, t: int, d: int, seed: int, alpha: float) -> None:
    a, b = normal(n, t, d, seed=seed), normal(n, t, d, seed=seed + 1)

    def both(one: Tensor, two: Tensor, k: int) -> Scalar:
        """Both directions of pair k of two lists of vectors."""
        directions = []
        for x, y in ((one, two), (two, one)):
            others = [dot(x[k], y[i]) for i in range(len(y))] + [dot(x[k], x[i]) for i in range(len(x)) if i != k]
            directions.append(log_sum_exp(others) - dot(x[k], y[k]))
        return mean(directions)

    levels, x, y = [], a, b
    while True:
        times = range(x.shape[1])
        instance = [mean([both(x[:, time], y[:, time], i) for time in times]) for i in range(n)]
        temporal = [mean([both(x[i], y[i], time) for time in times]) for i in range(n)]
        levels.append([alpha * one + (1 - alpha) * two for one, two in zip(instance, temporal, strict=True)])
        if len(times) == 1:
            break
        x, y = (torch.stack([z[:, 2 * i : 2 * i + 2].amax(1) for i in range(len(times) // 2)], 1) for z in (x, y))
    check(negatives.hierarchical(a, b, alpha), [mean(parts) for parts in zip(*levels, strict=True)], a, b)


@few
@given(n=st.integers(1, 4), p=st.integers(1, 6), d=st.integers(2, 4), seed=seeds, threshold=st.sampled_from([0, 0.1, 0.5]))
def test_grouped_patches(n: int, p: int, d: int, seed: int, threshold: float) -> None:
    texts, patches, valid = normal(n, d, seed=seed), normal(n, p, d, seed=seed + 1), mask(n, p, seed=seed, share=0.7)
    valid[:, 0] = True
    wanted = []
    for text, own, there in zip(texts, patches, valid, strict=True):
        kept = [patch for patch, real in zip(own, there, strict=True) if real]
        similar = [cos(text, patch) for patch in kept]
        low, high = min(similar), max(similar)
        scaled = [(each - low) / (high - low) if high > low else torch.ones((), dtype=torch.float64) for each in similar]
        shares = [each if each >= threshold else each * 0 for each in scaled]
        parts = [share / sum(shares) * patch / dot(patch, patch).sqrt() for share, patch in zip(shares, kept, strict=True)]
        wanted.append(torch.stack(parts).sum(0))
    check(places.grouped_patches(texts, patches, valid, threshold), torch.stack(wanted), texts, patches)


def sorted_by_loop(values: list[Scalar], steepness: float, there: list[bool]) -> tuple[list[Scalar], list[list[Scalar]]]:
    size = len(values)
    values, made = list(values), [[torch.tensor(float(i == j), dtype=torch.float64) for j in range(size)] for i in range(size)]
    for layer in range(size):
        for j in range(layer % 2, size - 1, 2):
            if not (there[j] and there[j + 1]):
                continue
            stay = torch.atan(steepness * (values[j + 1] - values[j])) / math.pi + 0.5
            for row in [values, *made]:
                row[j], row[j + 1] = stay * row[j] + (1 - stay) * row[j + 1], (1 - stay) * row[j] + stay * row[j + 1]
    return values, made


@few
@given(n=st.integers(1, 4), m=st.integers(1, 7), seed=seeds, steepness=st.sampled_from([1, 7.5]), part=st.booleans())
def test_soft_sort(n: int, m: int, seed: int, steepness: float, part: bool) -> None:
    values, there = normal(n, m, seed=seed), mask(n, m, seed=seed + 1, share=0.7) if part else None
    found, placed = negatives.soft_sort(values, steepness, there)
    expected = [sorted_by_loop(list(values[i]), steepness, [True] * m if there is None else there[i].tolist()) for i in range(n)]
    check(found, torch.stack([torch.stack(row) for row, _ in expected]), values)
    check(placed, torch.stack([torch.stack([torch.stack(line) for line in made]) for _, made in expected]), values)
    torch.testing.assert_close(placed.sum(1), torch.ones(n, m, dtype=torch.float64))
    torch.testing.assert_close(placed.sum(2), torch.ones(n, m, dtype=torch.float64))
    assert (placed >= 0).all()


def test_a_steep_network_sorts() -> None:
    values = normal(5, 8, seed=0, grad=False)
    found, placed = negatives.soft_sort(values, 1e9)
    torch.testing.assert_close(found, values.sort(1).values)
    torch.testing.assert_close(placed.argmax(1), values.argsort(1))


@few
@given(n=st.integers(1, 4), p=st.integers(1, 3), m=st.integers(1, 6), seed=seeds, hardest=st.integers(1, 4), part=st.booleans())
def test_group_ordering(n: int, p: int, m: int, seed: int, hardest: int, part: bool) -> None:
    positives, others = normal(n, p, seed=seed), normal(n, m, seed=seed + 1)
    counted = mask(n, m, seed=seed + 2, share=0.6) if part else None
    expected, width = [], min(hardest, m)
    for i in range(n):
        there = [others[i, j] for j in range(m) if counted is None or counted[i, j]]
        hard = sorted(there, key=lambda value: value.item())[-hardest:]
        absent = [ZERO] * (width - len(hard))
        values = absent + hard + sorted(positives[i], key=lambda value: value.item())
        _, made = sorted_by_loop(values, 2.0, [k >= len(absent) for k in range(len(values))])
        own = [sum(made[k][:width] if k < width else made[k][width:], ZERO) for k in range(len(absent), len(values))]
        expected.append(mean([-share.log() for share in own]))
    check(negatives.group_ordering(positives, others, counted, hardest=hardest, steepness=2.0), expected, positives, others)


def test_group_ordering_is_zero_for_the_right_order() -> None:
    near, far = torch.tensor([[0.8, 0.9]]), torch.tensor([[0.1, 0.5, -0.3]])
    assert negatives.group_ordering(near, far, steepness=1e5).item() < 1e-3
    assert negatives.group_ordering(far[:, :2], near, steepness=1e5).item() > 5
    assert negatives.group_ordering(near, far, torch.zeros(1, 3, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)


# Moments


def standardised(z: Tensor, eps: float = 1e-5) -> list[list[Scalar]]:
    n, d = z.shape
    centres = [mean(list(z[:, j])) for j in range(d)]
    variances = [mean([(z[i, j] - centres[j]) ** 2 for i in range(n)]) for j in range(d)]
    return [[(z[i, j] - centres[j]) / (variances[j] + eps).sqrt() for j in range(d)] for i in range(n)]


def correlation(x: list[list[Scalar]], y: list[list[Scalar]], j: int, k: int) -> Scalar:
    return mean([one[j] * two[k] for one, two in zip(x, y, strict=True)])


@few
@given(n=rows, d=st.integers(1, 5), seed=seeds)
def test_barlow_twins(n: int, d: int, seed: int) -> None:
    a, b = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    x, y = standardised(a), standardised(b)
    pairs = [(j, k) for j in range(d) for k in range(d)]
    expected = sum(((1 - correlation(x, y, j, j)) ** 2 for j in range(d)), ZERO)
    expected = expected + sum((0.3 * correlation(x, y, j, k) ** 2 for j, k in pairs if j != k), ZERO)
    check(moments.barlow_twins(a, b, 0.3), expected, a, b)


@few
@given(n=rows, d=st.integers(1, 4), seed=seeds)
def test_mixed_barlow(n: int, d: int, seed: int) -> None:
    """The paper has one share for the batch."""
    mixed, a, b = (normal(n, d, seed=seed + k) for k in range(3))
    partner, share = uniform(n, seed=seed + 3).argsort(), uniform(1, seed=seed + 4).item()
    m, x, y = standardised(mixed), standardised(a), standardised(b)
    other = [y[k] for k in partner.tolist()]
    expected = ZERO
    for j in range(d):
        for k in range(d):
            for one in (x, y):
                wanted = share * correlation(x, one, j, k) + (1 - share) * correlation(other, one, j, k)
                expected = expected + (correlation(m, one, j, k) - wanted) ** 2
    check(moments.mixed_barlow(mixed, a, b, partner, torch.full((n,), share, dtype=torch.float64)), expected, mixed, a, b)


@few
@given(n=rows, d=widths, seed=seeds)
def test_vicreg(n: int, d: int, seed: int) -> None:
    a, b = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    found = moments.vicreg(a, b, invariance=3, variance=2, covariance=5)
    spread, shared = [], []
    for z in (a, b):
        centres = [mean(list(z[:, j])) for j in range(d)]

        def covariance(j: int, k: int, z: Tensor = z, centres: list[Scalar] = centres) -> Scalar:
            return sum(((z[i, j] - centres[j]) * (z[i, k] - centres[k]) for i in range(n)), ZERO) / (n - 1)

        spread.append(mean([(1 - (covariance(j, j) + 1e-4).sqrt()).relu() for j in range(d)]))
        shared.append(sum((covariance(j, k) ** 2 for j in range(d) for k in range(d) if j != k), ZERO) / d)
    check(found["invariance"], 3 * mean([(a[i, j] - b[i, j]) ** 2 for i in range(n) for j in range(d)]), a, b)
    check(found["variance"], 2 * mean(spread), a, b)
    check(found["covariance"], 5 * sum(shared, ZERO), a, b)


@few
@given(n=st.integers(1, 9), d=widths, k=st.integers(1, 3), seed=seeds)
def test_sigreg(n: int, d: int, k: int, seed: int) -> None:
    z, directions = normal(n, d, seed=seed), normal(d, k, seed=seed + 1, grad=False)
    parts = []
    for column in directions.T:
        projected = [dot(row, column) / column.norm() for row in z]
        area, step = ZERO, 2.0 / 8
        for index in range(9):
            t = step * index
            real, imaginary = mean([(t * x).cos() for x in projected]), mean([(t * x).sin() for x in projected])
            error = (real - math.exp(-(t**2) / 2)) ** 2 + imaginary**2
            area = area + (step / 2 if index in (0, 8) else step) * math.exp(-(t**2) / 2) * error
        parts.append(n * 2 * area)
    check(moments.sigreg(z, directions, points=9, limit=2), mean(parts), z)


@few
@given(n=rows, d=widths, k=st.integers(1, 3), seed=seeds)
def test_visreg(n: int, d: int, k: int, seed: int) -> None:
    z, directions = normal(n, d, seed=seed), normal(d, k, seed=seed + 1, grad=False)
    found = moments.visreg(z, directions)
    centres = [mean(list(z[:, j])) for j in range(d)]
    deviations = [mean([(z[i, j] - centres[j]) ** 2 for i in range(n)]).sqrt() + 1e-6 for j in range(d)]
    gaps = []
    for column in directions.T:
        one = column / column.norm()
        values = [sum(((row[j] - centres[j]) / deviations[j].item() * one[j] for j in range(d)), ZERO) for row in z]
        values = sorted(values, key=lambda value: value.item())
        for i, value in enumerate(values):
            quantile = math.sqrt(2) * torch.erfinv(torch.tensor(2 * (i + 1) / (n + 1) - 1, dtype=torch.float64)).item()
            gaps.append((value - quantile) ** 2)
    check(found["centre"], mean([centre**2 for centre in centres]), z)
    check(found["scale"], mean([(deviation - 1) ** 2 for deviation in deviations]), z)
    check(found["shape"], mean(gaps), z)


@few
@given(n=rows, d=st.integers(2, 7), seed=seeds)
def test_koleo(n: int, d: int, seed: int) -> None:
    x = normal(n, d, seed=seed)
    expected = []
    for i in range(n):
        near = max((j for j in range(n) if j != i), key=lambda j: cos(x[i], x[j]).item())
        gap = x[i] / dot(x[i], x[i]).sqrt() - x[near] / dot(x[near], x[near]).sqrt()
        expected.append(-(dot(gap, gap).sqrt() + 1e-8).log())
    check(moments.koleo(x), expected, x)


@few
@given(n=st.integers(1, 9), d=widths, seed=seeds)
def test_entropy_bound(n: int, d: int, seed: int) -> None:
    a, b = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    expected = [log_sum_exp([3 * cos(b[i], row) for row in b]) - math.log(n) - 3 * cos(a[i], b[i]) for i in range(n)]
    check(moments.entropy_bound(a, b, 3), expected, a, b)


def test_the_entropy_is_that_of_directions_spread_over_the_circle() -> None:
    """With its constant, -log of the density of the von Mises distribution, the estimate nears ln 2 pi from above or below."""
    angles = torch.linspace(0, 2 * math.pi, 400, dtype=torch.float64)[:-1]
    z = torch.stack([angles.cos(), angles.sin()], 1)
    constant = math.log(2 * math.pi) + torch.special.i0(torch.tensor(10.0, dtype=torch.float64)).log()
    entropy = constant - (moments.entropy_bound(z, z) + 10).mean()
    assert entropy.item() == pytest.approx(math.log(2 * math.pi), rel=1e-6)


def test_decorrelated_features_cost_nothing() -> None:
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert moments.barlow_twins(z, z, 1).item() == pytest.approx(0, abs=1e-9)
    found = moments.vicreg(z, z)
    assert [found[name].item() for name in ("invariance", "variance", "covariance")] == pytest.approx([0, 0, 0])
    mixed = 0.5 * (z + z[[1, 0, 3, 2]])
    linear = moments.mixed_barlow(z, z, z, torch.arange(4), torch.full((4,), 0.3))
    assert linear.item() == pytest.approx(0, abs=1e-9)
    assert moments.mixed_barlow(mixed.flip(1), z, z, torch.tensor([1, 0, 3, 2]), torch.full((4,), 0.5)).item() > 0.1


def test_normal_features_cost_less_than_constant_ones() -> None:
    directions = normal(8, 64, seed=1, grad=False)
    good, collapsed = normal(2000, 8, seed=0, grad=False), torch.full((2000, 8), 0.5, dtype=torch.float64)
    collapsed = collapsed + 1e-4 * good
    assert moments.sigreg(good, directions) < 2
    assert moments.sigreg(collapsed, directions) > 200
    assert sum(moments.visreg(good, directions).values()) < 0.01
    leaf = collapsed.clone().requires_grad_()
    scale = moments.visreg(leaf, directions)["scale"]
    assert scale.item() == pytest.approx(1, abs=1e-3)
    # The gradient is as large at collapse as far from it.
    assert torch.autograd.grad(scale, leaf)[0].norm().item() == pytest.approx(2 / math.sqrt(2000 * 8), rel=0.01)


@pytest.mark.parametrize("loss", ["barlow_twins", "vicreg", "visreg", "mixed_barlow"])
def test_one_row_has_no_statistics(loss: str) -> None:
    one, directions = torch.ones(1, 3), torch.ones(3, 2)
    calls: dict[str, Callable[[], object]] = {
        "barlow_twins": lambda: moments.barlow_twins(one, one, 0.1),
        "vicreg": lambda: moments.vicreg(one, one),
        "visreg": lambda: moments.visreg(one, directions),
        "mixed_barlow": lambda: moments.mixed_barlow(one, one, one, torch.tensor([0]), torch.ones(1)),
    }
    with pytest.raises(ValueError, match=f"{loss} needs statistics of two samples or more in a step, got 1"):
        calls[loss]()


# Assignments


@few
@given(n=rows, k=widths, seed=seeds)
def test_self_distillation(n: int, k: int, seed: int) -> None:
    student, teacher, centre = normal(n, k, seed=seed), normal(n, k, seed=seed + 1), normal(k, seed=seed + 2)
    target = assignments.centred(teacher, centre, 0.5)
    wanted = [[((teacher[i, j] - centre[j]) / 0.5).exp() for j in range(k)] for i in range(n)]
    check(target.flatten(), [value / sum(row, ZERO) for row in wanted for value in row], teacher, centre)
    expected = []
    for i in range(n):
        partition = log_sum_exp([student[i, j] / 0.2 for j in range(k)])
        expected.append(sum((target[i, j] * (partition - student[i, j] / 0.2) for j in range(k)), ZERO))
    check(assignments.self_distillation(student, target, 0.2), expected, student, teacher)


def test_uniform_students_cost_ln_k() -> None:
    target = assignments.centred(normal(5, 7, seed=0), torch.zeros(7), 1)
    torch.testing.assert_close(assignments.self_distillation(torch.ones(5, 7), target, 1), torch.full((5,), math.log(7)).double())


@few
@given(b=st.integers(1, 3), n=st.integers(1, 5), d=st.integers(1, 4), e=st.integers(1, 4), seed=seeds, part=st.booleans())
def test_gram(b: int, n: int, d: int, e: int, seed: int, part: bool) -> None:
    student, teacher = normal(b, n, d, seed=seed), normal(b, n, e, seed=seed + 1)
    valid = mask(b, n, seed=seed + 2) if part else None
    expected = []
    for i in range(b):
        there = [j for j in range(n) if valid is None or valid[i, j]]
        gaps = [(cos(student[i, j], student[i, k]) - cos(teacher[i, j], teacher[i, k])) ** 2 for j in there for k in there]
        expected.append(mean(gaps) if gaps else ZERO)
    check(assignments.gram(student, teacher, valid), expected, student, teacher)


@few
@given(n=rows, d=widths, seed=seeds)
def test_cosine_distance(n: int, d: int, seed: int) -> None:
    a, b = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    check(assignments.cosine_distance(a, b), [2 - 2 * cos(x, y) for x, y in zip(a, b, strict=True)], a, b)


@few
@given(n=rows, d=widths, seed=seeds)
def test_predictors(n: int, d: int, seed: int) -> None:
    z, target = normal(n, d, seed=seed, grad=False), normal(n, d, seed=seed + 1, grad=False)
    covariance, cross = z.T @ z / n, target.T @ z / n
    eye = torch.eye(d, dtype=torch.float64)
    found = assignments.direct_predictor(covariance, 0)
    torch.testing.assert_close(found @ found, covariance, atol=1e-7, rtol=1e-7)
    largest = torch.linalg.eigvalsh(covariance)[-1]
    torch.testing.assert_close(assignments.direct_predictor(covariance, 0.3), found + 0.3 * largest * eye, atol=1e-7, rtol=1e-7)
    # The minimum of a convex function has no gradient.
    weight = assignments.ridge_predictor(covariance, cross, 0.1).requires_grad_()
    error = sum((dot(weight[j], z[i]) - target[i, j]) ** 2 for i in range(n) for j in range(d)) / n + 0.1 * weight.square().sum()
    torch.testing.assert_close(torch.autograd.grad(error, weight)[0], torch.zeros_like(weight))
    turned = assignments.orthogonal_predictor(cross)
    torch.testing.assert_close(turned @ turned.T, eye)
    best = (z @ turned.T - target).square().sum()
    for k in range(20):
        other = torch.linalg.qr(normal(d, d, seed=seed + k, grad=False)).Q
        assert best <= (z @ other.T - target).square().sum() + 1e-9


def test_predictors_of_a_rotation_find_it() -> None:
    rotation = torch.linalg.qr(normal(4, 4, seed=0, grad=False)).Q
    z = normal(50, 4, seed=1, grad=False)
    covariance, cross = z.T @ z / 50, rotation @ z.T @ z / 50
    torch.testing.assert_close(assignments.ridge_predictor(covariance, cross, 0), rotation)
    torch.testing.assert_close(assignments.orthogonal_predictor(cross), rotation)


# Extremes


def every_loss(a: Tensor, b: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Each loss of two views [n, d], summed to one number. Logits are as large as the views make them."""
    n, d = a.shape
    eye = torch.eye(n, dtype=torch.bool)
    one = torch.ones(())
    state = (torch.full((n,), 0.5), torch.full((n,), -math.inf), torch.zeros(n))
    directions = normal(d, 3, seed=9, grad=False).float()
    logits = a @ b.mT
    return {
        "similarities": lambda: negatives.similarities(a, b).sum(),
        "info_nce": lambda: negatives.info_nce(logits, eye).sum(),
        "decoupled": lambda: negatives.info_nce(logits, eye, decoupled=True).sum(),
        "soft_info_nce": lambda: negatives.soft_info_nce(logits, eye.float()).sum(),
        "sigmoid_pairs": lambda: negatives.sigmoid_pairs(logits, eye).sum(),
        "chunked": lambda: negatives.sigmoid_pairs_chunked(a, b, one, one, eye, None, 2).sum(),
        "individual": lambda: negatives.individual_temperatures(logits, eye, *state)[0].sum(),
        "hierarchical": lambda: negatives.hierarchical(a[:, None], b[:, None]).sum(),
        "group_ordering": lambda: negatives.group_ordering(logits.diagonal()[:, None], logits, ~eye).sum(),
        "koleo": lambda: moments.koleo(a).sum(),
        "sigreg": lambda: moments.sigreg(a, directions),
        "entropy_bound": lambda: moments.entropy_bound(a, b).sum(),
        "self_distillation": lambda: assignments.self_distillation(a, assignments.centred(b, b[0] * 0, 0.04), 0.1).sum(),
        "gram": lambda: assignments.gram(a[None], b[None]).sum(),
        "grouped_patches": lambda: places.grouped_patches(a, b[None].expand(n, n, d), eye | ~eye).sum(),
        "cosine_distance": lambda: assignments.cosine_distance(a, b).sum(),
    } | (
        {
            "barlow_twins": lambda: moments.barlow_twins(a, b, 0.1),
            "mixed_barlow": lambda: moments.mixed_barlow(a, b, b, torch.arange(n), torch.ones(n)),
            "vicreg": lambda: torch.stack(list(moments.vicreg(a, b).values())).sum(),
            "visreg": lambda: torch.stack(list(moments.visreg(a, directions).values())).sum(),
        }
        if n > 1
        else {}
    )


@pytest.mark.parametrize("name", every_loss(torch.ones(2, 3), torch.ones(2, 3)))
@pytest.mark.parametrize("case", ["zeros", "one row", "duplicates", "huge", "bfloat16"])
def test_extremes(name: str, case: str) -> None:
    """Every value and gradient is a number, in float32."""
    a, b = normal(4, 3, seed=0).detach().float(), normal(4, 3, seed=1).detach().float()
    if case == "zeros":
        a[1:], b[2:] = 0, 0
    elif case == "one row":
        a, b = a[:1], b[:1]
    elif case == "duplicates":
        a, b = a[:1].repeat(4, 1), b[:1].repeat(4, 1)
    elif case == "huge":
        a, b = 1e6 * a, 1e6 * b
    a, b = a.requires_grad_(), b.requires_grad_()
    inputs = (a.bfloat16(), b.bfloat16()) if case == "bfloat16" else (a, b)
    losses = every_loss(*inputs)
    if name not in losses:
        pytest.skip("has no meaning for one row, and says so")
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "bfloat16"):
        loss = losses[name]()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, (a, b), allow_unused=True, materialize_grads=True):
        assert gradient.isfinite().all()
        assert case != "zeros" or gradient.abs().max() < 100  # a zero vector's would be 1e12 times too large


def test_autocast_rounds_nothing() -> None:
    a, b = normal(6, 5, seed=0, grad=False).float(), normal(6, 5, seed=1, grad=False).float()
    outside = negatives.similarities(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(negatives.similarities(a, b), outside, rtol=0, atol=0)


def test_zero_vectors_are_like_nothing() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    found = negatives.similarities(a, torch.ones(1, 3))
    assert not found.any()
    assert torch.autograd.grad(found.sum(), a)[0].abs().max() < 1
    torch.testing.assert_close(assignments.cosine_distance(a, torch.ones(2, 3)), torch.full((2,), 2.0))


def test_koleo_of_duplicates() -> None:
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    found = moments.koleo(x)
    torch.testing.assert_close(found, torch.full((2,), -math.log(1e-8), dtype=torch.float64))
    assert not torch.autograd.grad(found.sum(), x)[0].any()
    assert moments.koleo(torch.ones(1, 3)).item() == 0


def test_columns_that_do_not_count_may_hold_anything() -> None:
    logits = torch.tensor([[1.0, 2.0, math.nan], [math.inf, 0.5, 1.0]], requires_grad=True)
    counted = torch.tensor([[True, True, False], [False, True, True]])
    positive = torch.tensor([[True, False, True], [False, True, False]])
    for loss in (negatives.info_nce, negatives.sigmoid_pairs):
        found = loss(logits, positive, counted)
        assert found.isfinite().all()
        assert torch.autograd.grad(found.sum(), logits)[0].isfinite().all()


# Other libraries


def test_clip_against_open_clip() -> None:
    loss = pytest.importorskip("open_clip.loss")
    a, b = (torch.nn.functional.normalize(normal(6, 5, seed=k, grad=False), dim=-1).requires_grad_() for k in range(2))
    scale, eye = torch.tensor(7.0, dtype=torch.float64, requires_grad=True), torch.eye(6, dtype=torch.bool)
    wanted = loss.ClipLoss()(a, b, scale)
    logits = scale * negatives.similarities(a, b)
    found = (negatives.info_nce(logits, eye).mean() + negatives.info_nce(logits.mT, eye).mean()) / 2
    torch.testing.assert_close(found, wanted)
    # open_clip takes vectors of length one as given, so only gradients along the sphere can agree.
    ours, theirs = (torch.autograd.grad(value, (a, b, scale)) for value in (found, wanted))
    for z, one, two in zip((a, b), ours, theirs, strict=False):
        torch.testing.assert_close(one, two - (two * z).sum(-1, keepdim=True) * z)
    torch.testing.assert_close(ours[2], theirs[2])


def test_siglip_against_open_clip() -> None:
    loss = pytest.importorskip("open_clip.loss")
    a, b = (torch.nn.functional.normalize(normal(6, 5, seed=k, grad=False), dim=-1).requires_grad_() for k in range(2))
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (7.0, -2.0))
    wanted = loss.SigLipLoss()(a, b, scale, bias)
    found = negatives.sigmoid_pairs_chunked(a, b, scale, bias, torch.eye(6, dtype=torch.bool), None, 4).mean()
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(value, (a, b, scale, bias)) for value in (found, wanted))
    for z, one, two in zip((a, b), ours, theirs, strict=False):
        torch.testing.assert_close(one, two - (two * z).sum(-1, keepdim=True) * z)
    torch.testing.assert_close(ours[2:], theirs[2:])


def two_views(a: Tensor, b: Tensor, temperature: float, *, decoupled: bool = False) -> Tensor:
    """NT-Xent: each of 2n anchors against the other 2n - 1."""
    n = len(a)
    both = torch.cat([a, b])
    itself = torch.eye(2 * n, dtype=torch.bool)
    logits = negatives.similarities(both, both) / temperature
    return negatives.info_nce(logits, itself.roll(n, 1), ~itself, decoupled=decoupled).mean()


@pytest.mark.parametrize(
    "name", ["nt_xent", "dcl", "barlow", "vicreg", "koleo", "byol", "dino", "ibot", "swav", "sigreg", "visreg"]
)
def test_against_lightly(name: str) -> None:
    loss = pytest.importorskip("lightly.loss")
    a, b = normal(6, 5, seed=0), normal(6, 5, seed=1)
    if name == "nt_xent":
        found, wanted = two_views(a, b, 0.2), loss.NTXentLoss(temperature=0.2)(a, b)
    elif name == "dcl":
        found, wanted = two_views(a, b, 0.2, decoupled=True), loss.DCLLoss(temperature=0.2)(a, b)
    elif name == "barlow":
        found, wanted = moments.barlow_twins(a, b, 0.005), loss.BarlowTwinsLoss(lambda_param=0.005)(a, b)
    elif name == "vicreg":
        found, wanted = torch.stack(list(moments.vicreg(a, b).values())).sum(), loss.VICRegLoss()(a, b)
    elif name == "koleo":
        found, wanted = moments.koleo(a).mean(), loss.KoLeoLoss()(a)
    elif name == "byol":
        found, wanted = assignments.cosine_distance(a, b).mean(), 2 + 2 * loss.NegativeCosineSimilarity()(a, b)
    elif name == "sigreg":
        torch.manual_seed(0)
        directions = torch.randn(5, 8, dtype=torch.float64)
        torch.manual_seed(0)
        found, wanted = (
            moments.sigreg(a, directions),
            pytest.importorskip("lightly.loss.lejepa_loss").SIGReg(num_vectors=8).double()(a),
        )
    elif name == "visreg":
        torch.manual_seed(0)
        directions = torch.randn(5, 8, dtype=torch.float64)
        torch.manual_seed(0)
        found = torch.stack(list(moments.visreg(a, directions).values())).sum()
        theirs = pytest.importorskip("lightly.loss.visreg_loss")
        wanted = theirs.visreg_center_loss(a) + theirs.visreg_scale_loss(a) + theirs.visreg_shape_loss(a, 8, eps=1e-6)
    elif name == "dino":
        criterion = loss.DINOLoss(output_dim=5, warmup_teacher_temp=0.3, teacher_temp=0.3, center_momentum=0.5).double()
        teacher = [a.detach(), b.detach()]
        criterion(teacher, [a, b])  # moves the centre away from zero
        wanted = criterion(teacher, [a, b])
        centre = (teacher[0].mean(0) + teacher[1].mean(0)) / 4
        targets = [assignments.centred(z, centre, 0.3) for z in teacher]
        pairs = [assignments.self_distillation(z, t, 0.1).mean() for z, t in ((b, targets[0]), (a, targets[1]))]
        found = torch.stack(pairs).mean()
    elif name == "ibot":
        criterion = loss.IBOTPatchLoss(output_dim=5, teacher_temp=0.07, student_temp=0.1).double()
        masked = torch.tensor([[True, True, False], [False, True, True], [True, True, False]])[:, None]
        wanted = criterion(b.detach(), a, masked)
        target = assignments.centred(b.detach(), torch.zeros(5, dtype=torch.float64), 0.07)
        # The mean over the masked tokens of each picture, here two each.
        found = assignments.self_distillation(a, target, 0.1).view(3, 2).mean(1).mean()
    else:
        assert name == "swav"
        criterion = loss.SwaVLoss(temperature=0.1, sinkhorn_iterations=60, sinkhorn_epsilon=0.5)
        wanted = criterion([a, b], []).squeeze()
        codes = [sinkhorn(z.detach() / 0.5, 60).double() for z in (a, b)]
        found = (
            assignments.self_distillation(a, codes[1], 0.1).mean() + assignments.self_distillation(b, codes[0], 0.1).mean()
        ) / 2
    # lightly's KoLeo adds its 1e-8 to every value too, its frequencies and quantiles are float32, and so is our `sinkhorn`.
    tolerance = 1e-5
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    ours, theirs = (torch.autograd.grad(value, (a, b), allow_unused=True, materialize_grads=True) for value in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)

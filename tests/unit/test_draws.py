"""Counter-based draws: the mixer against plain integers, distributions, independence, and what a draw must not depend on."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mmssl.draws import Draws, hash_text, keys, mix, most

GOLDEN = 0x9E3779B97F4A7C15
COUNT = 4096
"""Numbers in a statistical test. They repeat, so such a test passes always or never."""

Draw = Callable[[Draws, tuple[int, ...]], Tensor]
DRAWS: dict[str, Draw] = {
    "uniform": lambda draws, shape: draws.uniform("test", *shape),
    "normal": lambda draws, shape: draws.normal("test", *shape),
    "between": lambda draws, shape: draws.between("test", -2.0, 3.0, *shape),
    "integers": lambda draws, shape: draws.integers("test", 1000, *shape),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def unsigned(value: int) -> int:
    return value % 2**64


def plain_mix(x: int) -> int:
    """SplitMix64's finalizer on unsigned Python integers."""
    x = unsigned((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9)
    x = unsigned((x ^ (x >> 27)) * 0x94D049BB133111EB)
    return x ^ (x >> 31)


def plain_key(seed: int, step: int, number: int) -> int:
    return plain_mix(unsigned(plain_mix(unsigned((seed + 1) * GOLDEN + step)) + (number + 1) * GOLDEN))


def plain_uniform(key: int, purpose: str, place: int) -> float:
    text = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    return (plain_mix(unsigned(plain_mix(key ^ text) + (place + 1) * GOLDEN)) >> 40) / 2**24


def draws_for(seed: int = 0, step: int = 0, count: int = 1) -> Draws:
    return Draws(keys(seed, step, torch.arange(count)))


# Against plain integers


def test_mix_gives_the_published_outputs_of_splitmix64() -> None:
    """The first outputs of SplitMix64 from the state 1234567, as its authors' C code prints them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    states = [unsigned(1234567 + (number + 1) * GOLDEN) for number in range(5)]
    found = mix(torch.tensor([state - 2**64 if state >= 2**63 else state for state in states]))
    assert [unsigned(value) for value in found.tolist()] == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_mix_matches_plain_integers(value: int) -> None:
    assert unsigned(int(mix(torch.tensor(value)))) == plain_mix(unsigned(value))


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_keys_match_plain_integers(seed: int, step: int, ids: list[int]) -> None:
    found = keys(seed, step, torch.tensor(ids))
    assert [unsigned(key) for key in found.tolist()] == [plain_key(seed, step, unsigned(number)) for number in ids]


@given(st.integers(0, 2**32), st.text(max_size=8))
def test_uniform_matches_plain_integers(number: int, purpose: str) -> None:
    found = Draws(keys(3, 5, torch.tensor([number]))).uniform(purpose, 2, 3)
    expected = [plain_uniform(plain_key(3, 5, number), purpose, place) for place in range(6)]
    assert found.flatten().tolist() == expected  # 24 bits: exact in float32


def test_forks_match_plain_integers() -> None:
    """Of a key, fork k has the output k + 1 of SplitMix64."""
    draws = draws_for(count=3)
    for number in (0, 1, 2, 7):
        expected = [plain_mix(unsigned(key + (number + 1) * GOLDEN)) for key in draws.keys.tolist()]
        assert [unsigned(key) for key in draws.fork(number).keys.tolist()] == expected


def test_normal_is_box_muller_of_neighbouring_uniform_numbers() -> None:
    draws = draws_for(count=3)
    u, v = draws.uniform("test", 50, 2).double().unbind(-1)
    expected = (-2 * torch.log(1 - u)).sqrt() * torch.cos(2 * torch.pi * v)
    torch.testing.assert_close(draws.normal("test", 50).double(), expected, rtol=1e-4, atol=1e-5)


def test_between_and_integers_follow_from_uniform() -> None:
    draws = draws_for(count=5)
    u = draws.uniform("test", 200)
    torch.testing.assert_close(draws.between("test", -2.0, 3.0, 200), 5 * u - 2)
    assert draws.integers("test", 7, 200).tolist() == [[int(value * 7) for value in row] for row in u.tolist()]


def test_hash_of_a_text_fits_int64() -> None:
    hashes = [hash_text(f"purpose {number}") for number in range(1000)]
    assert len(set(hashes)) == 1000
    assert all(-(2**63) <= value < 2**63 for value in hashes)
    assert min(hashes) < 0 < max(hashes)


# Distributions

STREAMS: dict[str, Callable[[], Tensor]] = {
    "tokens": lambda: draws_for().uniform("test", COUNT)[0],
    "samples": lambda: draws_for(count=COUNT).uniform("test"),
    "distant samples": lambda: Draws(keys(0, 0, torch.arange(COUNT) * 2**32)).uniform("test"),
    "steps": lambda: torch.cat([draws_for(step=step).uniform("test") for step in range(COUNT // 4)]),
    "seeds": lambda: torch.cat([draws_for(seed=seed).uniform("test") for seed in range(COUNT // 4)]),
    "purposes": lambda: torch.cat([draws_for().uniform(f"test {number}") for number in range(COUNT // 4)]),
    "views": lambda: torch.cat([draws_for().fork(number).uniform("test") for number in range(COUNT // 4)]),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_uniform_in_every_direction(stream: Callable[[], Tensor]) -> None:
    """Kolmogorov and Smirnov find nothing; neighbours of a stream are independent."""
    values = stream().numpy()
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert_independent(values[:-1], values[1:])


def test_moments_and_distribution_of_normal_numbers() -> None:
    values = draws_for(count=8).normal("test", 8 * COUNT).flatten().numpy()
    assert np.isfinite(values).all()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    n = len(values)
    # Bounds are four standard errors of each moment's estimate.
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(stats.skew(values)) < 4 * (6 / n) ** 0.5
    assert abs(stats.kurtosis(values)) < 4 * (24 / n) ** 0.5


def test_integers_are_uniform_and_in_range() -> None:
    values = draws_for(count=4).integers("test", 12, COUNT)
    assert stats.chisquare(torch.bincount(values.flatten(), minlength=12).numpy()).pvalue > 1e-3
    assert values.max() < 12


def assert_independent(left: np.ndarray, right: np.ndarray) -> None:
    """Two uniform streams do not correlate, and fill the unit square evenly."""
    assert abs(np.corrcoef(left, right)[0, 1]) < 4.5 / len(left) ** 0.5
    cells = np.histogram2d(left, right, bins=6, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.flatten()).pvalue > 1e-4


SIBLINGS: dict[str, Callable[[], list[Tensor]]] = {
    "purposes": lambda: [draws_for().uniform(purpose, COUNT) for purpose in ("mask", "mask2", "masks", "", "centres")],
    "steps": lambda: [draws_for(step=step).uniform("test", COUNT) for step in (0, 1, 2, 3, 2**32)],
    "seeds": lambda: [draws_for(seed=seed).uniform("test", COUNT) for seed in (0, 1, 2, 3, 2**32)],
    "samples": lambda: list(draws_for(count=5).uniform("test", COUNT)),
    "views": lambda: [draws.uniform("test", COUNT) for draws in (draws_for(), *(draws_for().fork(i) for i in range(4)))],
    "steps, over samples": lambda: [draws_for(step=step, count=COUNT).uniform("test") for step in range(5)],
    "views, over samples": lambda: [draws_for(count=COUNT).fork(number).uniform("test") for number in range(5)],
}


@pytest.mark.parametrize("siblings", SIBLINGS.values(), ids=SIBLINGS)
def test_siblings_are_independent(siblings: Callable[[], list[Tensor]]) -> None:
    streams = [stream.flatten().numpy() for stream in siblings()]
    for number, left in enumerate(streams):
        for right in streams[:number]:
            assert_independent(left, right)


def test_keys_are_distinct() -> None:
    """Also where seed, step and sample exchange their numbers."""
    found = torch.cat([keys(seed, step, torch.arange(50)) for seed in range(20) for step in range(20)])
    assert len(found.unique()) == 20 * 20 * 50


# What a draw must not depend on


@every_draw
def test_draws_of_a_sample_ignore_its_batch(draw: Draw) -> None:
    ids = torch.tensor([7, 3, 900, 0, 12])
    together = draw(Draws(keys(1, 2, ids)), (4, 3))
    order = torch.tensor([4, 0, 3, 1, 2])
    assert torch.equal(draw(Draws(keys(1, 2, ids[order])), (4, 3)), together[order])
    for row, number in zip(together, ids, strict=True):
        assert torch.equal(draw(Draws(keys(1, 2, number[None])), (4, 3))[0], row)


@every_draw
def test_more_tokens_do_not_change_the_first(draw: Draw) -> None:
    """So a sample draws the same in a batch that pads it."""
    draws = draws_for(count=3)
    for rest in ((), (3,), (3, 2)):
        assert torch.equal(draw(draws, (9, *rest))[:, :5], draw(draws, (5, *rest)))


@every_draw
def test_one_number_per_sample(draw: Draw) -> None:
    draws = draws_for(count=3)
    assert torch.equal(draw(draws, ()), draw(draws, (1,))[:, 0])


def test_forks_repeat() -> None:
    draws = draws_for(count=3)
    assert torch.equal(draws.fork(2).keys, draws_for(count=3).fork(2).keys)
    assert not torch.equal(draws.fork(0).fork(1).keys, draws.fork(1).fork(0).keys)


def test_equal_labels_of_a_sample_share_a_number() -> None:
    draws = Draws(keys(0, 0, torch.arange(50)))
    labels = torch.tensor([5, 3, 5, -9, 2**40, 3]).expand(50, -1)
    found = draws.shared("tubes", labels)
    assert torch.equal(found[:, 0], found[:, 2]) and torch.equal(found[:, 1], found[:, 5])
    assert found.min() >= 0
    assert len(found.unique()) == 50 * 4
    assert len(torch.cat([found, draws.shared("others", labels)]).unique()) == 100 * 4
    assert torch.equal(Draws(draws.keys[7:8]).shared("tubes", labels[:1]), found[7:8])


def test_shared_numbers_are_uniform() -> None:
    found = Draws(keys(0, 0, torch.arange(100))).shared("tubes", torch.arange(200).expand(100, -1))
    counts = torch.bincount((found.double() / 2**63 * 20).long().flatten(), minlength=20)
    assert ((counts - 1000).double() / 1000**0.5).abs().max() < 4


@pytest.mark.parametrize("shares", [(0.1, 0.6), (0.6, 0.6), (1, 1), (0.01, 0.02)])
def test_parts_of_things_are_a_drawn_share_of_them(shares: tuple[float, float]) -> None:
    draws, counts = Draws(keys(0, 0, torch.arange(400))), torch.arange(400)[:, None] % 40 + 1
    parts = draws.part("views", shares, counts)
    drawn = (draws.between("views", *shares, 1).double() * counts - 1e-5).ceil().clamp(min=1)
    assert torch.equal(parts, drawn.long())
    for count in range(1, 41):
        assert parts[counts <= count].max() <= most(shares[1], count)
        if shares[0] == shares[1]:
            assert (parts[counts == count] == most(shares[1], count)).all()
    starts = draws.start("place", parts, counts)
    assert (starts >= 0).all() and (starts + parts <= counts).all()


def test_runs_begin_anywhere_with_equal_chance() -> None:
    draws = Draws(keys(0, 0, torch.arange(6000)))
    starts = draws.start("place", torch.full((6000, 1), 5), torch.full((6000, 1), 10))
    counts = torch.bincount(starts.flatten(), minlength=6)
    assert len(counts) == 6 and (counts - 1000).abs().max() < 120

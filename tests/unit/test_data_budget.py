"""Batches of a token budget: nothing is lost, nothing is larger than the budget, and every batch can be asked for at any time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data.budget import GROWTH, SHORT, BudgetOrder

LENGTHS: list[int] = list(np.random.default_rng(0).integers(3, 200, 500).tolist())


def epoch(order: BudgetOrder, number: int = 0) -> list[np.ndarray]:
    count = order.batches_per_epoch
    return [order.batch(number * count + i) for i in range(count)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=80), st.integers(1, 4), st.integers(0, 3))
def test_every_sample_is_in_every_epoch_within_the_budget(lengths: list[int], multiple: int, seed: int) -> None:
    tokens = 2 * multiple * max(max(lengths), 1)
    order = BudgetOrder(lengths, tokens, seed, shares=multiple)
    for number in (0, 1, 5):
        found = epoch(order, number)
        assert set(np.concatenate(found).tolist()) == set(range(len(lengths)))
        for batch in found:
            longest = max(lengths[i] for i in batch)
            assert len(batch) >= 1
            assert longest * len(batch) <= tokens
            assert longest <= SHORT or min(max(lengths[i], 1) for i in batch) >= longest / GROWTH - 1


def test_lone_tokens_are_not_among_themselves() -> None:
    """Masked modelling has nothing to hide and to show in a batch of single tokens, which a corpus of sentences has a few of."""
    lengths = [1] * 5 + list(range(2, 30)) * 20
    for batch in epoch(BudgetOrder(lengths, 1024, 0)):
        assert max(lengths[i] for i in batch) > 1


def test_few_samples_are_read_twice() -> None:
    order = BudgetOrder(LENGTHS, 4096, 0)
    read = sum(map(len, epoch(order)))
    assert len(LENGTHS) <= read < 1.1 * len(LENGTHS)


def test_steps_cost_alike() -> None:
    order = BudgetOrder(np.random.default_rng(1).integers(20, 60, 20000).tolist(), 4096, 0)
    lengths = np.random.default_rng(1).integers(20, 60, 20000)
    costs = [len(batch) * lengths[batch].max() for batch in epoch(order)]
    assert min(costs) > 0.8 * 4096


def test_batches_depend_on_seed_and_number_alone() -> None:
    order, again = BudgetOrder(LENGTHS, 1024, 3), BudgetOrder(LENGTHS, 1024, 3)
    late = again.batch(order.batches_per_epoch + 5)
    assert np.array_equal(epoch(order, 1)[5], late)
    assert not np.array_equal(epoch(order, 0)[5], epoch(order, 1)[5])
    assert not np.array_equal(epoch(BudgetOrder(LENGTHS, 1024, 4))[0], epoch(order)[0])
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            epoch(BudgetOrder(LENGTHS, 1024, 3, shuffle=False), 1),
            epoch(BudgetOrder(LENGTHS, 1024, 3, shuffle=False), 0),
            strict=True,
        )
    )


def test_a_budget_too_small_for_the_longest_sample() -> None:
    with pytest.raises(
        ValueError, match=r"a step of 100 tokens cannot hold 2 samples of 60 tokens.*train.batch_tokens to at least 120"
    ):
        BudgetOrder([10, 60], 100, 0, shares=2)


def test_a_step_is_the_same_however_it_is_cut() -> None:
    """Lengths that no number of shares divides evenly."""
    lengths = [(7 * i) % 50 + 3 for i in range(211)]
    whole = BudgetOrder(lengths, 512, seed=1)
    for shares in (2, 4, 8):
        cut = BudgetOrder(lengths, 512, seed=1, shares=shares)
        assert cut.batches_per_epoch == whole.batches_per_epoch
        assert all((cut.batch(i) == whole.batch(i)).all() for i in range(2 * whole.batches_per_epoch))

import numpy as np
import pytest

from mmssl.data import Order


def test_each_epoch_is_a_permutation_and_epochs_and_seeds_differ():
    epochs = Order(50, seed=1).rows(0, 150).reshape(3, 50)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(50))
    others = [*epochs, np.arange(50), Order(50, seed=2).rows(0, 50)]
    assert len({tuple(order) for order in others}) == len(others)


def test_any_range_equals_that_part_of_the_concatenated_epochs():
    whole = np.concatenate([Order(7, seed=3).rows(7 * epoch, 7) for epoch in range(5)])
    order = Order(7, seed=3)
    for start, count in [(0, 35), (20, 3), (6, 2), (5, 20), (34, 1), (0, 0), (1, 6)]:
        assert np.array_equal(order.rows(start, count), whole[start : start + count])


def test_order_is_the_same_in_every_version():
    assert Order(10, seed=0).rows(0, 20).tolist() == [1, 6, 3, 4, 0, 8, 7, 2, 5, 9, 8, 0, 7, 9, 2, 3, 6, 1, 4, 5]


def test_first_places_are_uniform_over_seeds():
    firsts = np.bincount([Order(4, seed=seed).rows(0, 1)[0] for seed in range(2000)], minlength=4)
    assert np.all(np.abs(firsts - 500) < 100)


def test_without_shuffling_rows_follow_the_data():
    assert Order(3, seed=0, shuffle=False).rows(2, 5).tolist() == [2, 0, 1, 2, 0]


def test_impossible_orders_are_refused():
    with pytest.raises(ValueError, match="at least one sample; got num_samples=0"):
        Order(0, seed=0)
    with pytest.raises(ValueError, match="start at 0; got start=-1, count=2"):
        Order(3, seed=0).rows(-1, 2)

"""Bundled digits: read without scikit-learn, and split as scikit-learn splits them."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mmssl.data.bundled import SPLIT_SEED, TEST_SHARE, bundled_table


def test_digits_are_those_of_scikit_learn_and_split_as_it_does() -> None:
    known = load_digits()
    train, test = train_test_split(
        np.arange(len(known.target)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=known.target.tolist()
    )
    for split, rows in (("train", np.sort(train)), ("test", np.sort(test)), (None, np.arange(len(known.target)))):
        table = bundled_table("digits", split)
        held = table.rows(range(len(table)))
        assert [row["target"] for row in held] == known.target[rows].tolist()
        pixels = np.stack([np.asarray(row["image"], np.float64) for row in held])
        np.testing.assert_array_equal(pixels, (known.images[rows] * (255 / 16)).round())

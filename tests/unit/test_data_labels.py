import re

import numpy as np
import pandas as pd
import pytest
import torch

from mmssl.data import Labels


def read(column, **options):
    return Labels.read(column, where="data.csv, column y", **options)


@pytest.mark.parametrize(
    ("column", "names", "values"),
    [
        (["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1]),
        ([10, 2, 10], ["2", "10"], [1, 0, 1]),
        ([True, False], ["False", "True"], [1, 0]),
        ([np.int32(1), np.int32(0)], ["0", "1"], [1, 0]),
        (list(range(100)) * 10, [str(i) for i in range(100)], list(range(100)) * 10),
    ],
)
def test_classes_are_numbered_in_sorted_order(column, names, values):
    labels = read(column)
    assert (labels.kind, labels.names) == ("classification", names)
    assert labels.values.dtype == np.int64
    assert labels.values.tolist() == values
    assert torch.equal(labels.tensor(), torch.tensor(values))


def test_class_names_of_the_data_keep_their_order():
    labels = read([1, 0, 1], class_names=["zebra", "ant", "bee"])
    assert (labels.names, labels.values.tolist()) == (["zebra", "ant", "bee"], [1, 0, 1])


@pytest.mark.parametrize("column", [[0.5, 1.0], [1, 2.5], list(range(21))])
def test_numbers_are_regressed(column):
    labels = read(column)
    assert (labels.kind, labels.names, labels.values.dtype) == ("regression", [], np.float32)
    assert labels.values.tolist() == column


def test_kind_can_be_forced():
    assert read([1.0, 2.0, 1.0], kind="classification").names == ["1", "2"]
    assert read(list(range(30)), kind="classification").values.tolist() == list(range(30))
    assert read([3, 4], kind="regression").values.tolist() == [3.0, 4.0]


def test_other_split_is_numbered_like_the_training_split():
    train = read(["a", "b", "c"])
    assert read(["c", "c"], like=train).values.tolist() == [2, 2]
    assert read([2, 0], class_names=["c", "x", "b"], like=train).values.tolist() == [1, 2]
    assert read([2.0], like=read([1, 2])).values.tolist() == [1]
    assert read([7], like=read([0.5, 0.6])).values.tolist() == [7.0]


@pytest.mark.parametrize(
    ("column", "options", "error", "message"),
    [
        (["a", None], {}, ValueError, "row 1 of data.csv, column y: the label is missing"),
        ([1.0, float("nan")], {}, ValueError, "row 1 of data.csv, column y: the label is missing"),
        (["a", ""], {}, ValueError, "row 1 of data.csv, column y: the label is missing; every row needs one, and 1 of 2 have none"),
        (["a", "b", " \t"], {}, ValueError, "row 2 of data.csv, column y: the label is missing"),
        (
            ["a", pd.NA, "b", pd.NaT],
            {},
            ValueError,
            "row 1 of data.csv, column y: the label is missing; every row needs one, and 2 of 4",
        ),
        (
            ["a", np.float64("nan"), "b"],
            {},
            ValueError,
            "Drop such rows; or use all rows without labels, by an objective that learns",
        ),
        ([0, -1], {"class_names": ["a", "b"]}, ValueError, "row 1 of data.csv, column y: the label is missing"),
        (["a", None], {"row_of": lambda i: 10 * i}, ValueError, "row 10 of data.csv"),
        ([float("inf"), 1.0], {}, ValueError, "row 0 of data.csv, column y: a label must be a finite float32 number; got inf"),
        (["a", 1], {}, ValueError, "labels must all be of one type; got int, str"),
        ([[1], [2]], {}, TypeError, "labels are strings, booleans or numbers; got list"),
        (["a", "a"], {}, ValueError, "classification needs at least two classes; every row is 'a'"),
        ([1, 1], {"class_names": ["a", "b"]}, ValueError, "at least two classes; every row is 'b'"),
        (["a", "b"], {"kind": "regression"}, ValueError, "regression needs numbers; got str, such as 'a'"),
        ([True, False], {"kind": "regression"}, ValueError, "regression needs numbers; got bool"),
        ([i / 2 for i in range(21)], {"kind": "classification"}, ValueError, "21 distinct numbers in 21 rows are no classes"),
        (["a", "z"], {"like": read(["a", "b"])}, ValueError, "that the training labels do not have: 'z'; known: 'a', 'b'"),
        ([str(i) for i in range(12)], {"like": read(["a", "b"])}, ValueError, "'5' and 4 more; known"),
    ],
)
def test_bad_labels_are_refused_with_a_reason(column, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read(column, **options)

import re
from datetime import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmssl.data import Labels
from mmssl.data.labels import natural_classes


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


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ([0.0, 1.0, 0.0], ["0", "1"]),
        ([3, 4.0, 5], ["3", "4", "5"]),
        ([np.float32(2), np.float32(1)], ["1", "2"]),
        ([Decimal(2), Decimal("1.0")], ["1", "2"]),
        ([-1.0, 1.0], ["-1", "1"]),
        ([float(i % 30) for i in range(300)], [str(i) for i in range(30)]),
    ],
)
def test_whole_numbers_are_classes_however_they_are_stored(column, names):
    labels = read(column)
    assert (labels.kind, labels.names) == ("classification", names)


def test_decimals_of_a_database_are_numbers():
    assert read([Decimal("0.5"), Decimal("1.5")]).values.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("column", "options", "reason"),
    [
        (["b", "a"], {}, "2 classes (a, b), as it holds text"),
        ([True, False], {}, "2 classes (False, True), as it holds true and false"),
        ([3, 4, 8], {}, "3 classes (3, 4, 8), as it has few distinct whole numbers"),
        ([3.0, 4.0], {}, "2 classes (3, 4), as it has few distinct whole numbers, stored as decimals"),
        ([-1, 0, 1], {}, "3 classes (-1, 0, 1), as it has few distinct whole numbers; -1 is taken for a class"),
        ([0, 1], {"class_names": ["x", "y"]}, "2 classes (x, y), which the data name"),
        (list(range(12)), {}, "12 classes (0, 1, 2, 3, 4, 5, 6, ..., 11), as it has few distinct whole numbers"),
        ([0.5, 8], {}, "2 values between 0.5 and 8, with decimals: regression"),
        (list(range(1900, 1990)), {}, "90 values between 1900 and 1989, many distinct whole numbers: regression"),
        ([1, 2], {"kind": "regression"}, "2 values between 1 and 2, as the key kind says: regression"),
        (list(range(30)), {"kind": "classification"}, "30 classes (0, 1, 2, 3, 4, 5, 6, ..., 29), as the key kind says"),
        (["b", "b"], {"like": read(["a", "b"])}, "2 classes (a, b), as it holds text"),
    ],
)
def test_the_kind_is_told_with_its_reason(column, options, reason):
    assert read(column, **options).reason == reason


@pytest.mark.parametrize("column", [[-1, 1], [-1, 0, 1], [-1, 0], [-2, -1, 0, 1, 2], [-1.0, 1.0]])
def test_minus_one_is_a_class_beside_its_likes(column):
    assert read(column).names == [str(int(cell)) for cell in column]


@pytest.mark.parametrize("column", [[0, 1, 2, -1, -1], [0.0, 2.0, 1.0, -1.0, -1.0], [5, 3, 3, -1, -1]])
def test_minus_one_for_unlabelled_is_refused_unless_the_kind_is_said(column):
    with pytest.raises(ValueError, match=r"row 3 of data.csv, column y: the label -1 beside .* 2 of 5 rows have it\. Drop .*kind"):
        read(column)
    assert read(column, kind="classification").names[0] == "-1"
    assert -1 in read(column, kind="regression").values
    assert natural_classes(column, where="y").min() == 0


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([1], "[1] (list). A row has one label"),
        (np.array([1, 2]), "array([1, 2]) (ndarray). A row has one label"),
        ((1, 2), "(1, 2) (tuple)"),
        ({"id": 3}, "{'id': 3} (dict). Make a column of the value that is the label"),
        (b"cat", "b'cat' (bytes). Decode it"),
        (datetime(2024, 2, 29), "(datetime). Make a number or text of it"),
        (torch.tensor(1), "tensor(1) (Tensor)"),
        (1j, "1j (complex)"),
    ],
)
@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_a_cell_that_is_no_label_is_named(cell, told, names):
    place = re.escape("row 20 of data.csv, column y: labels are strings, booleans or numbers; got ")
    with pytest.raises(TypeError, match=f"{place}.*{re.escape(told)}"):
        read([0, 1, cell, cell], class_names=names, row_of=lambda i: 10 * i)


@given(
    st.lists(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=3)
        | st.lists(st.integers(), max_size=2)
        | st.decimals(),
        max_size=30,
    ),
    st.sampled_from([None, "classification", "regression"]),
)
def test_any_column_is_read_or_refused(column, kind):
    try:
        labels = read(column, kind=kind)
    except (TypeError, ValueError) as error:
        assert "data.csv, column y" in str(error)
        return
    assert len(labels) == len(column)
    assert labels.reason
    assert np.isfinite(labels.values).all()


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
            "Drop such rows; or leave their labels empty, and train by an objective that learns none",
        ),
        ([0, -1], {"class_names": ["a", "b"]}, ValueError, "row 1 of data.csv, column y: the label is missing"),
        (["a", None], {"row_of": lambda i: 10 * i}, ValueError, "row 10 of data.csv"),
        ([float("inf"), 1.0], {}, ValueError, "row 0 of data.csv, column y: a label must be a finite float32 number; got inf"),
        (
            ["a", "b", 1],
            {},
            ValueError,
            "rows 0 and 2 of data.csv, column y: labels must all be of one type; got 'a' (str) and 1 (int). Write them alike",
        ),
        (
            [True, 1],
            {},
            ValueError,
            "rows 0 and 1 of data.csv, column y: labels must all be of one type; got True (bool) and 1 (int)",
        ),
        ([1, 2.5, "x"], {}, ValueError, "rows 0 and 2 of data.csv, column y: labels must all be of one type; got 1 (int) and 'x'"),
        (["a", 1], {"row_of": lambda i: 10 * i}, ValueError, "rows 0 and 10 of data.csv"),
        (
            [0, 2],
            {"class_names": ["a", "b"]},
            ValueError,
            "row 1 of data.csv, column y: the data name 2 classes, numbered from 0; got 2",
        ),
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

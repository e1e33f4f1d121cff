"""Several labels a row: how they are read, held out, probed and judged, against scikit-learn."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch.testing import assert_close

from mmssl.data import Labels, Source
from mmssl.data.arrow import ArrowTable
from mmssl.data.label_lists import PartedTable, TogetherTable, parted, rarest
from mmssl.data.tables import RowTable
from mmssl.evaluation import probes
from mmssl.evaluation.sources import fifth_of

LISTS = [["b", "a"], [], ["c"], ["a"], ["a", "a"]]


def test_lists_are_several_labels() -> None:
    found = Labels.read(LISTS, where="y")
    assert (found.kind, found.names) == ("multi_label", ["a", "b", "c"])
    assert found.values.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert found.reason == "3 labels (a, b, c), any number of them a row, as it holds lists; 1 rows have none"
    assert Labels.read([["c"], []], where="y", like=found).values.tolist() == [[0, 0, 1], [0, 0, 0]]
    numbers = Labels.read([np.array([10, 9]), np.array([9])], where="y")
    assert numbers.names == ["9", "10"]
    named = Labels.read([[1], [0, 1]], where="y", class_names=["no", "yes"])
    assert named.names == ["no", "yes"] and named.values.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        ([["a"], None], {}, "row 1 of y: the labels are missing; .* an empty one if none applies"),
        (["a;b", "c"], {"kind": "multi_label"}, "row 0 of y: 'a;b' is no list of labels; .* data.lists="),
        ([["a"], [1.5]], {}, "row 1 of y: labels of a list are texts or whole numbers; got 1.5"),
        ([["a"], [" "]], {}, "row 1 of y: labels of a list are texts or whole numbers; got ' '"),
        ([["a"], [2]], {}, "y: labels must all be of one type; got int, str"),
        ([["a"], ["a"]], {}, "y: every row has the same labels, a: nothing can be learned"),
        ([["d"]], {"like": Labels.read(LISTS, where="y")}, "y: labels that the training rows do not have: d; they have a, b, c"),
        ([[2], [0]], {"class_names": ["no", "yes"]}, "row 0 of y: the data name 2 classes, numbered from 0; got 2"),
    ],
)
def test_what_is_no_list_of_labels_is_named(column, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Labels.read(column, where="y", **options)


def test_texts_are_parted_and_columns_put_together() -> None:
    assert [parted(cell, "|") for cell in ("a| b |", None, float("nan"), "", 3, ["x"])] == [["a", "b"], [], [], [], [3], ["x"]]
    table = PartedTable(RowTable([{"x": 1, "tags": "a|b"}, {"x": 2, "tags": None}]), {"tags": "|"})
    assert table.rows([1, 0]) == [{"x": 2, "tags": []}, {"x": 1, "tags": ["a", "b"]}]
    assert table.column("tags") == [["a", "b"], []] and table.column("x") == [1, 2]
    rows = [{"x": 5, "p": 1, "q": False}, {"x": 6, "p": 1, "q": True}, {"x": 7, "p": 0, "q": False}]
    both = TogetherTable(RowTable(rows), "p, q", ["p", "q"])
    assert both.column("p, q") == [["p"], ["p", "q"], []] and both.class_names("p, q") == ["p", "q"]
    assert both.select(["x", "p, q"]).rows([1])[0]["p, q"] == ["p", "q"]
    source = Source.from_rows(rows, {"label": ["q", "p"]})
    labels = source.labels()
    assert labels is not None and labels.names == ["q", "p"] and labels.values.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert source.stored_columns == ["x", "p", "q"] and source.made_from("q, p") == ["q", "p"]


def test_lists_of_named_classes_of_a_dataset_go_by_their_names() -> None:
    features = Features({"y": List(ClassLabel(names=["cat", "dog"])), "x": Value("int64")})
    source = Source.from_rows([{"y": [1]}], None)
    source._table = ArrowTable(Dataset.from_dict({"y": [[1], [0, 1], []], "x": [1, 2, 3]}, features=features))
    source.columns = {"label": "y"}
    labels = source.labels()
    assert labels is not None and labels.names == ["cat", "dog"] and labels.values.tolist() == [[0, 1], [1, 1], [0, 0]]


def test_a_fifth_holds_a_fifth_of_each_label() -> None:
    draw = np.random.default_rng(0)
    rows = [
        {
            "x": float(i),
            "y": [name for name, share in zip("abcdef", (0.5, 0.4, 0.3, 0.2, 0.1, 0.05), strict=True) if draw.random() < share],
        }
        for i in range(1000)
    ]
    source = Source.from_rows(rows, {"label": "y"})
    labels = source.labels()
    assert labels is not None
    held = fifth_of(source, "y").rows
    shares = labels.values[held].sum(0) / labels.values.sum(0)
    assert 0.17 < len(held) / 1000 < 0.22 and (np.abs(shares - 0.2) < 0.06).all()
    assert rarest(np.array([[1, 1], [1, 0], [0, 0]], dtype=np.float32)).tolist() == [1, 0, -1]


def test_the_probe_is_a_logistic_regression_for_each_label() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(200, 5)).astype(np.float32), np.zeros((200, 3), dtype=np.float32)
    y[:, 0], y[:, 1], y[:, 2] = x[:, 0] > 0.5, x[:, 1] + draw.normal(size=200) > 0, x[:, 2] * x[:, 3] > 0.3
    train, test = torch.tensor(x[:150]), torch.tensor(x[150:])
    found = probes.linear_labels(train, torch.tensor(y[:150]), test)
    assert found.converged
    mean, std = x[:150].mean(0), x[:150].std(0)
    for number in range(3):
        solver = LogisticRegression(C=found.strength, tol=1e-8, max_iter=5000).fit((x[:150] - mean) / std, y[:150, number])
        expected = solver.decision_function((x[150:] - mean) / std)
        assert_close(found.predicted[:, number].double(), torch.tensor(expected).double(), atol=5e-3, rtol=5e-3)
    scored = probes.mean_average_precision(found.predicted, torch.tensor(y[150:]))
    assert scored == pytest.approx(100 * average_precision_score(y[150:], found.predicted.numpy()))
    near = probes.knn_labels(train, torch.tensor(y[:150]), test)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x[:150].astype(np.float64), x[150:].astype(np.float64)))
    for row, given in zip(b, near, strict=True):
        like = a @ row
        best = np.argsort(-like)[:20]
        weights = np.exp(like[best] / 0.07)
        np.testing.assert_allclose(given, weights @ y[:150][best] / weights.sum(), rtol=1e-3, atol=1e-5)


def test_labels_that_no_sample_has_do_not_count() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert probes.mean_average_precision(torch.tensor([[0.9, 0.1], [0.1, 0.2]]), truth) == 100
    with pytest.raises(ValueError, match="none of the 2 samples has one"):
        probes.mean_average_precision(truth, torch.zeros(2, 2))

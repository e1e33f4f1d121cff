"""Lists of numbers as labels: how they are read, learned, probed and published, against loops in float64 and scikit-learn."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import mmssl
from mmssl import MMSSLForRegression
from mmssl.data import Labels
from mmssl.data.labels import natural_classes
from mmssl.evaluation import probes
from mmssl.evaluation.judged import Judged, unlike
from mmssl.model import LabelHead
from mmssl.objectives import Setup, Supervised
from mmssl.testing import SAMPLES, batch_of, small_model

NUMBERS = [[1.5, 2], [0.5, -3], [2.5, 7]]


def test_lists_of_decimals_are_regressed() -> None:
    found = Labels.read(NUMBERS, where="y")
    assert (found.kind, found.names, found.shape) == ("regression", [], (2,))
    assert found.values.tolist() == [[1.5, 2], [0.5, -3], [2.5, 7]] and found.values.dtype == np.float32
    assert found.reason == "2 numbers a row between -3 and 7, as it holds lists of them: regression"
    like = Labels.read([[0.0, 1.0]], where="y", like=found)
    assert like.values.tolist() == [[0, 1]] and like.shape == (2,)
    assert natural_classes(NUMBERS, where="y") is None


@pytest.mark.parametrize(
    "column",
    [
        [np.arange(6.0).reshape(2, 3), np.ones((2, 3), np.float32)],
        [[[0, 1, 2], [3, 4, 5]], [[1, 1, 1], [1, 1, 1]]],
        [([0.0, 1.0, 2.0], [3, 4, 5]), [np.ones(3), np.ones(3)]],
    ],
)
def test_lists_of_lists_are_regressed_row_after_row(column: list[Any]) -> None:
    found = Labels.read(column, where="y")
    assert found.shape == (2, 3) and found.values.tolist() == [[0, 1, 2, 3, 4, 5], [1] * 6]


def test_whole_numbers_and_texts_are_regressed_where_the_kind_says_so() -> None:
    assert Labels.read([[1, 2], [2, 3]], where="y").kind == "multi_label"
    for column in ([[1, 2], [2, 3]], [["1", "2.0"], ["2", "3e0"]]):
        found = Labels.read(column, where="y", kind="regression")
        assert found.kind == "regression" and found.values.tolist() == [[1, 2], [2, 3]]
    assert Labels.read([[1.5], [2.5]], where="y").shape == (1,)
    many = [[str(3 * row), str(3 * row + 1)] for row in range(30)]
    assert natural_classes(many, where="y") is None
    assert natural_classes([[1, 2], [2, 3], [1, 2]], where="y") is not None


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        ([[1.5], [1.5, 2.0]], {}, "row 1 of y: .* expected 1 numbers, as in other rows, got 2 numbers"),
        ([[1.5], None], {}, "row 1 of y: a list of numbers is needed, as other rows have one; got None"),
        ([[1.5], []], {}, "row 1 of y: a list of numbers is needed"),
        ([[[]], [[1.0]]], {}, "row 0 of y: a list of numbers is needed; .* which holds none"),
        ([[1.5], 2.5], {}, "row 1 of y: a list of numbers is needed, as other rows have one; got 2.5"),
        ([[1.5, float("nan")]], {}, "row 0 of y: a label must be a finite float32 number; got nan"),
        ([[1.5, None]], {}, "row 0 of y: labels of a regression are numbers; got None"),
        ([[1.5, 10**400]], {}, "a label must be a finite float32 number"),
        ([[1.5, 1e39]], {}, "a label must be a finite float32 number; got 1e\\+39"),
        ([[1.5, True]], {}, "labels of a regression are numbers; got True"),
        ([["a", "1"]], {"kind": "regression"}, "labels of a regression are numbers; got 'a'"),
        ([[Decimal("1"), 1.5]], {}, "labels of a regression are numbers; got Decimal"),
        ([[[1.0], [1.0, 2.0]]], {}, "row 0 of y: lists of lists must be equally long"),
        ([[1.5, 2.5, 3.5]], {"like": Labels.read(NUMBERS, where="y")}, "expected 2 numbers, as in other rows, got 3 numbers"),
        ([1.5], {"like": Labels.read(NUMBERS, where="y")}, "a list of numbers is needed"),
        ([["a", 1.5]], {}, "labels of a list are texts or whole numbers; got 1.5"),
    ],
)
def test_what_is_refused(column: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labels.read(column, where="y", **options)


def test_the_loss_is_the_squared_error_in_units_of_each_spread() -> None:
    torch.manual_seed(0)
    values = np.random.default_rng(0).normal([100, -3, 7], [20, 0.1, 0], (SAMPLES, 3)).astype(np.float32)
    labels = Labels.read(values.tolist(), where="y")
    objective = Supervised(small_model("tabular"), Setup(labels=labels))
    head, batch = objective.head, batch_of("tabular", labels=labels.tensor())
    assert head.size == 3 and head.shape == [3] and isinstance(head.std, list) and head.std[2] == 1
    given = objective.model.predicted(objective.model(**batch.inputs["tabular"]).pooler_output)
    each = []
    for row, truth in zip(given.double().tolist(), values.tolist(), strict=True):
        for place in range(3):
            column = [float(value) for value in values[:, place]]
            mean = sum(column) / SAMPLES
            std = (sum((value - mean) ** 2 for value in column) / SAMPLES) ** 0.5 or 1.0
            each.append((row[place] - (truth[place] - mean) / std) ** 2)
    assert objective(batch).loss.item() == pytest.approx(sum(each) / len(each), rel=1e-5)
    double = torch.randn(SAMPLES, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: head.loss(given, labels.tensor().double()), (double,))
    with pytest.raises(ValueError, match="labels must be 3 numbers of each of"):
        head.loss(given, torch.zeros(SAMPLES, 2))


def test_the_saved_model_predicts_in_the_unit_of_each_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = small_model("tabular").eval()
    head = LabelHead(kind="regression", size=4, column="y", mean=[5.0, 0.0, 1.0, 2.0], std=[2.0, 1.0, 3.0, 4.0], shape=[2, 2])
    encoder.label(head, [])
    mmssl.model.faced(encoder).save_pretrained(tmp_path)
    inputs = batch_of("tabular").inputs["tabular"]
    with torch.no_grad():
        given = encoder.predicted(encoder(**inputs).pooler_output)
        expected = given * torch.tensor([2.0, 1, 3, 4]) + torch.tensor([5.0, 0, 1, 2])
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert type(model) is MMSSLForRegression and model.config.num_labels == 4
        assert model.config.id2label == {0: "y_0", 1: "y_1", 2: "y_2", 3: "y_3"}
        labels = torch.randn(SAMPLES, 2, 2)
        out = model(**inputs, labels=labels)
    assert_close(out.logits, expected)
    assert_close(model.label_head.shaped(out.logits), expected.reshape(SAMPLES, 2, 2))
    wanted = (given - (labels.flatten(1) - torch.tensor([5.0, 0, 1, 2])) / torch.tensor([2.0, 1, 3, 4])).square().mean()
    assert_close(out.loss, wanted)
    assert model.label_head == head and "shape" not in LabelHead(kind="regression", size=1).settings()
    flat = Labels("regression", [], np.zeros((2, 4), np.float32), shape=(4,))
    assert unlike(model, flat) == "the model predicts 2 x 2 numbers a row, the labels are 4 numbers"
    with pytest.raises(ValueError, match="a regression head of 4 outputs cannot give lists of numbers of shape"):
        LabelHead(kind="regression", size=4, shape=[3])


def test_a_fresh_head_of_several_numbers(tmp_path: Path) -> None:
    small_model("tabular").save_pretrained(tmp_path)
    several = MMSSLForRegression.from_pretrained(tmp_path, num_labels=3, problem_type="regression")
    assert several.label_head.shape == [3] and several(**batch_of("tabular").inputs["tabular"]).logits.shape == (SAMPLES, 3)
    assert MMSSLForRegression.from_pretrained(tmp_path).label_head.shape is None


def test_scores_and_probes_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 5))
    y = x @ draw.normal(size=(5, 3)) * [1, 10, 0.1] + draw.normal(size=(80, 3))
    train, test = (torch.from_numpy(part).float() for part in (x[:60], x[60:]))
    labels, truth = (torch.from_numpy(part).float() for part in (y[:60], y[60:]))
    probe = probes.linear_regress(train, labels, test)
    mean, std = x[:60].mean(0), x[:60].std(0)
    ridge = Ridge(alpha=1 / probe.strength).fit((x[:60] - mean) / std, y[:60])
    expected = ridge.predict((x[60:] - mean) / std)
    assert_close(probe.predicted.double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)
    assert probes.r2(probe.predicted, truth) == pytest.approx(r2_score(y[60:], expected), rel=1e-4)
    near = probes.knn_regress(train, labels, test)
    for column in range(3):
        assert_close(near[:, column], probes.knn_regress(train, labels[:, column], test))
    head = LabelHead(kind="regression", size=3, shape=[3])
    judged = Judged.of(head, [], probe.predicted, truth)
    error = np.abs(expected - y[60:])
    found = [judged.scores[f"{name} error"] for name in ("mean absolute", "mean squared", "root mean squared")]
    assert found == pytest.approx([error.mean(), np.square(error).mean(), np.square(error).mean() ** 0.5], rel=1e-4)
    same = torch.cat([truth, torch.ones(20, 1)], 1)
    assert probes.r2(torch.cat([probe.predicted, torch.zeros(20, 1)], 1), same) == pytest.approx(judged.score)
    with pytest.raises(ValueError, match="R2 needs labels that differ"):
        probes.r2(torch.zeros(4, 2), torch.ones(4, 2))

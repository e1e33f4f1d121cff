"""The tabular modality: fitting, missing and bad cells, every way to pass a table, tokens, corruption."""

import json
import math
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.utils import Bunch

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl.model import MMSSLConfig, initialise_all
from mmssl_modalities.tabular import TABULAR, TabularAdapter, TabularAugment, TabularProcessor

NAN = math.nan
ROWS = [
    {"age": 20, "job": "nurse", "member": True},
    {"age": 40, "job": "cook", "member": False},
    {"age": 30, "job": "nurse", "member": True},
]


def fitted(rows: list[dict[str, Any]], **settings: Any) -> TabularProcessor:
    processor = TabularProcessor(**settings)
    processor.fit(rows)
    return processor


def assert_same(a: Inputs, b: Inputs) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def batch() -> tuple[TabularProcessor, Inputs]:
    rows = TABULAR.example(64, 0)
    processor = fitted(rows)
    return processor, processor.collate([processor(row) for row in rows])


# Fitting


def test_fit_finds_kinds_statistics_and_categories() -> None:
    assert fitted(ROWS).columns == [
        {"name": "age", "kind": "numeric", "missing": 0.0, "mean": 30.0, "std": math.sqrt(200 / 3)},
        {"name": "job", "kind": "categorical", "missing": 0.0, "categories": ["nurse", "cook"]},
        {"name": "member", "kind": "categorical", "missing": 0.0, "categories": [True, False]},
    ]


def test_named_columns_override_detection() -> None:
    processor = fitted(ROWS, categorical_columns=["age"], numeric_columns=["member"])
    assert [(column["name"], column["kind"]) for column in processor.columns] == [
        ("age", "categorical"),
        ("job", "categorical"),
        ("member", "numeric"),
    ]
    assert processor.columns[0]["categories"] == [20, 30, 40]
    # An integer column with gaps arrives as floats from pandas.
    assert_same(processor({**ROWS[1], "age": 40.0}), processor(ROWS[1]))


@pytest.mark.parametrize("data", [load_wine(), load_breast_cancer()], ids=["wine", "breast_cancer"])
def test_standard_scaling_is_that_of_scikit_learn(data: Bunch) -> None:
    frame = pd.DataFrame(data.data, columns=data.feature_names)
    processor = TabularProcessor()
    processor.fit(processor.many(frame))
    expected = torch.from_numpy(StandardScaler().fit_transform(data.data)).float()
    torch.testing.assert_close(processor.table(frame)["table_numeric"], expected, rtol=1e-6, atol=1e-6)


def test_quantile_scaling_is_near_that_of_scikit_learn_and_flat_outside() -> None:
    values = np.random.default_rng(0).lognormal(sigma=2, size=5000)
    processor = fitted([{"x": value} for value in values], numeric="quantile")
    found = processor.table({"x": values})["table_numeric"].numpy()
    expected = QuantileTransformer(n_quantiles=5000, output_distribution="normal").fit_transform(values[:, None])
    inside = np.abs(expected) < 2.5
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.06)
    outside = processor.table({"x": [-1e9, 1e9]})["table_numeric"]
    torch.testing.assert_close(outside, torch.tensor([[-2.8070338], [2.8070338]]))


def test_quantile_scaling_gives_a_frequent_value_the_score_of_its_mean_rank() -> None:
    processor = fitted([{"x": 0.0}] * 50 + [{"x": float(i)} for i in range(1, 51)], numeric="quantile")
    assert processor({"x": 0.0})["table_numeric"].item() == pytest.approx(-0.674, abs=0.02)  # the 25 % quantile of a normal


def test_a_constant_column_becomes_zero() -> None:
    for numeric in ("standard", "quantile"):
        processor = fitted([{"x": 0.1, "y": i} for i in range(10)], numeric=numeric)
        assert processor({"x": 0.1, "y": 4.5})["table_numeric"].abs().max() < 1e-6


def test_an_outlier_is_cut() -> None:
    assert fitted(ROWS)({**ROWS[0], "age": -1e300})["table_numeric"].tolist() == [-20.0]


def test_rare_and_unseen_categories_share_a_class() -> None:
    rows = [{"city": city} for city in ["Lima", "Pune", "Oslo", "Pune", "Lima", "Bern"]]
    processor = fitted(rows, max_categories=2)
    assert processor.columns[0]["categories"] == ["Lima", "Pune"]
    classes = processor.table({"city": ["Lima", "Pune", "Oslo", "Rome", None]})["table_categories"]
    assert classes.tolist() == [[2], [3], [1], [1], [0]]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "fitted on one row or more; got none"),
        ([{}], {}, r"training row 0: a table needs one column or more, with text for names; got \[\]"),
        ([{0: 1.0}], {}, r"training row 0: .* with text for names; got \[0\]"),
        ([ROWS[0], {"age": 1}], {}, "training row 1: the first row has the columns age, job, member; this one has age. Pass None"),
        ([{"x": 1.0}, {"x": math.inf}], {}, "training row 1: column 'x' takes finite numbers; got inf. Pass None"),
        ([{"x": 10**400}], {}, "training row 0: column 'x' takes finite numbers; got 1000"),
        ([{"x": None, "y": 1}, {"x": NAN, "y": 2}], {}, "'x' has no value in any of the 2 training rows. Leave it out: name"),
        (
            [{"x": 1.5}, {"x": "a"}],
            {},
            r"'x' mixes numbers such as 1.5 \(training row 0\) and categories such as 'a' \(training row 1\)\. Clean it",
        ),
        ([{"x": 1e308}, {"x": -1.7e308}], {}, r"'x' holds numbers too large to average, up to 1.7e\+308. Use numeric: quan"),
        (ROWS, {"numeric_columns": ["size"]}, "numeric_columns names 'size', which is no column; the row has age, job, member"),
        (ROWS, {"unseen": "raise", "max_categories": 1}, "'job' has 2 categories, more than max_categories=1; with unseen"),
    ],
)
def test_rows_that_cannot_be_fitted(rows: list[dict[str, Any]], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(rows, **settings)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([[1, 2]], {}, r"training row 0: a row is a dict, column -> cell; got list. Pass a dict, a list of dicts, or a DataFrame"),
        (ROWS, {"numeric_columns": ["job"]}, r"training row 0: column 'job' takes numbers; got 'nurse' \(str\). Convert it"),
        ([{"wait": pd.Timedelta(1)}], {}, r"column 'wait' takes numbers; got Timedelta\(.*\(Timedelta\). Convert it"),
    ],
)
def test_training_cells_of_a_wrong_type(rows: list[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fitted(rows, **settings)


def test_a_column_has_one_kind() -> None:
    with pytest.raises(ValueError, match="but numeric_columns and categorical_columns both name job"):
        TabularProcessor(numeric_columns=["age", "job"], categorical_columns=["job"])


# Processing


def test_the_golden_row() -> None:
    settings, adapter_settings, row, coords, targets = TABULAR.golden()
    processor = TabularProcessor(**settings)
    inputs = processor.collate([processor(row)])
    adapter = TabularAdapter(8, processor, **adapter_settings)
    assert_same(adapter.target(inputs), {name: target[None] for name, target in targets.items()})
    tokens = adapter(inputs)
    torch.testing.assert_close(tokens.coords, coords[None])
    assert tokens.values.shape == (1, 4, 8)
    assert tokens.valid is None


@pytest.mark.parametrize("gap", [None, NAN, "", pd.NA, pd.NaT, np.float32("nan"), Decimal("NaN")], ids=repr)
def test_every_form_of_missing(gap: Any) -> None:
    assert_same(
        fitted(ROWS)({"age": gap, "job": gap, "member": gap}),
        {"table_numeric": torch.tensor([NAN]), "table_categories": torch.tensor([0, 0])},
    )
    assert fitted(ROWS, numeric="quantile")({**ROWS[0], "age": gap})["table_numeric"].isnan().tolist() == [True]
    processor = fitted([*ROWS, dict.fromkeys(ROWS[0], gap)])
    assert [column["missing"] for column in processor.columns] == [0.25] * 3
    assert processor.columns[0]["mean"] == 30.0


@pytest.mark.parametrize("forty", [40, 40.0, np.int64(40), np.float32(40), Decimal(40)], ids=lambda x: type(x).__name__)
def test_every_form_of_number(forty: Any) -> None:
    assert_same(fitted(ROWS)({**ROWS[1], "age": forty}), fitted(ROWS)(ROWS[1]))
    assert_same(fitted([*ROWS[:1], {**ROWS[1], "age": forty}, *ROWS[2:]])(ROWS[1]), fitted(ROWS)(ROWS[1]))


def test_columns_that_were_not_fitted_are_ignored() -> None:
    assert_same(fitted(ROWS)({"label": 1, **ROWS[0]}), fitted(ROWS)(ROWS[0]))


@pytest.mark.parametrize("unseen", ["unknown", "raise"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"age": "forty"}, TypeError, r"column 'age' takes numbers; got 'forty' \(str\). Convert it, or pass None"),
        ({"age": -math.inf}, ValueError, "column 'age' takes finite numbers; got -inf. Pass None"),
        ({"job": 3}, TypeError, r"column 'job' takes categories such as 'nurse', 'cook'; got 3 \(int\). Convert it"),
        ({"job": ["cook"]}, TypeError, r"column 'job' takes categories such as 'nurse', 'cook'; got \['cook'\] \(list\)"),
        ({"member": "yes"}, TypeError, r"column 'member' takes categories such as True, False; got 'yes' \(str\)"),
    ],
)
def test_bad_cells(unseen: Any, change: dict[str, Any], error: type[Exception], message: str) -> None:
    processor = fitted(ROWS, unseen=unseen)
    bad = {**ROWS[0], **change}
    with pytest.raises(error, match=f"^{message}"):
        processor(bad)
    with pytest.raises(error, match=f"^row 1: {message}"):
        processor.table({name: [ROWS[0][name], bad[name]] for name in bad})


def test_an_unseen_category_can_be_an_error() -> None:
    message = r"^column 'job' has the unseen category 'cop'; training held 'nurse', 'cook'. Pass None, or set unseen: unknown$"
    with pytest.raises(ValueError, match=message):
        fitted(ROWS, unseen="raise")({**ROWS[0], "job": "cop"})


def test_a_row_that_lacks_a_column() -> None:
    message = "missing column 'job'; the model was fitted on age, job, member, and this has age, member. Pass None where"
    for call, given in [("__call__", {"age": 1, "member": True}), ("table", {"age": [1], "member": [True]})]:
        with pytest.raises(ValueError, match=message):
            TabularProcessor.__dict__[call](fitted(ROWS), given)


def test_a_row_is_a_dict_and_comes_after_fitting() -> None:
    with pytest.raises(TypeError, match=r"a row is a dict, column -> cell; got tuple. Pass a dict"):
        fitted(ROWS)((20, "nurse", True))
    with pytest.raises(ValueError, match=r"columns of the table are not known yet: call fit\(rows\)"):
        TabularProcessor()(ROWS[0])


def test_frames_columns_and_rows_give_the_same() -> None:
    rows = TABULAR.example(40, 1)
    processor = fitted(rows)
    frame = pd.DataFrame(rows)
    expected = processor.collate([processor(row) for row in rows])
    arrays = {name: frame[name].to_numpy() for name in frame}
    forms = [rows, tuple(rows), frame, frame.convert_dtypes(), frame.to_dict("list"), arrays]
    for form in forms:
        assert_same(processor.collate([processor(row) for row in processor.many(form)]), expected)
    for form in forms[2:]:
        assert_same(processor.table(form), expected)
    assert processor.many(rows[0]) == [rows[0]]


def test_tables_that_are_no_tables() -> None:
    with pytest.raises(ValueError, match=r"columns of a table need one length; got \{'age': 2, 'job': 1\}"):
        fitted(ROWS).many({"age": [1, 2], "job": ["cook"]})
    with pytest.raises(ValueError, match="a table needs different column names; got age, age"):
        fitted(ROWS).many(pd.DataFrame([[1, 2]], columns=["age", "age"]))


@pytest.mark.parametrize("numeric", ["standard", "quantile"])
def test_settings_survive_json_and_pickle(numeric: Any) -> None:
    rows = TABULAR.example(50, 2)
    processor = fitted(rows, numeric=numeric, numeric_columns=["visits"], max_categories=2, unseen="unknown")
    again = TabularProcessor(**json.loads(json.dumps(processor.settings(), allow_nan=False)))
    assert again.fitted
    assert again.settings() == processor.settings()
    for copy in (again, pickle.loads(pickle.dumps(processor))):
        for row in rows:
            assert_same(copy(row), processor(row))
    assert not TabularProcessor(**TabularProcessor(numeric=numeric).settings()).fitted


def test_columns_fitted_with_another_scaling() -> None:
    columns = fitted(ROWS, numeric="quantile").columns
    with pytest.raises(ValueError, match=r"columns has an entry that does not fit numeric: standard: {'name': 'age'.* Fit again"):
        TabularProcessor(columns=columns, numeric="standard")


def test_features_are_numbers_gaps_and_one_hot_categories() -> None:
    rows = [{"a": 0.0, "b": None, "c": "x"}, {"a": 2.0, "b": 4.0, "c": "y"}, {"a": 4.0, "b": 8.0, "c": None}]
    processor = fitted(rows)
    scale = math.sqrt(1.5)
    expected = [[-scale, 0, 1, 0, 1, 0], [0, -1, 0, 0, 0, 1], [scale, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose([processor.features(processor(row)) for row in rows], expected, rtol=1e-6)


# Tokens


def test_a_number_moves_its_token_along_its_weight_and_a_category_picks_a_row(batch: tuple[TabularProcessor, Inputs]) -> None:
    processor, inputs = batch
    adapter = TabularAdapter(8, processor)
    assert adapter.numeric is not None
    assert adapter.categories is not None
    values = adapter(inputs).values
    for i, (numbers, classes) in enumerate(zip(inputs["table_numeric"].tolist(), inputs["table_categories"].tolist(), strict=True)):
        for j, number in enumerate(numbers):
            present = adapter.numeric.bias[j] + number * adapter.numeric.slope[j]
            torch.testing.assert_close(values[i, j], adapter.missing[j] if math.isnan(number) else present)
        for j, label in enumerate(classes):
            present = adapter.categories.weight[label]
            torch.testing.assert_close(values[i, 3 + j], adapter.missing[3 + j] if label == 0 else present)


def test_every_column_has_classes_and_an_identity_of_its_own(batch: tuple[TabularProcessor, Inputs]) -> None:
    processor, inputs = batch
    adapter = TabularAdapter(8, processor)
    first, second = inputs["table_categories"].T
    assert not set(first[first > 0].tolist()) & set(second[second > 0].tolist())
    assert int(second.max()) == processor.num_classes - 1
    identity = adapter(inputs).identity
    assert identity is not None
    torch.testing.assert_close(identity, adapter.column.expand(64, 5, 8))


def test_gradients_are_finite_beside_missing_cells(batch: tuple[TabularProcessor, Inputs]) -> None:
    processor, inputs = batch
    adapter = TabularAdapter(8, processor)
    tokens = adapter(inputs)
    assert tokens.identity is not None
    (tokens.values + tokens.identity).square().sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("dropped", "size"), [({"job", "member"}, {"numeric": 1}), ({"age"}, {"categorical": 7})])
def test_a_table_of_one_kind(dropped: set[str], size: dict[str, int]) -> None:
    rows = [{name: cell for name, cell in row.items() if name not in dropped} for row in ROWS]
    processor = fitted(rows)
    inputs = processor.collate([processor(row) for row in rows])
    adapter = TabularAdapter(8, processor)
    assert adapter.target_sizes == size
    assert adapter.target(inputs).keys() == size.keys()
    assert adapter(inputs).values.shape == (3, len(rows[0]), 8)
    assert not adapter.sparse_target
    assert_same(processor.table({name: [row[name] for row in rows] for name in rows[0]}), inputs)


def test_parameters_can_be_made_on_the_meta_device() -> None:
    with torch.device("meta"):
        adapter = TabularAdapter(8, fitted(ROWS))
    adapter.to_empty(device="cpu")
    initialise_all(adapter, MMSSLConfig(modalities={}))
    assert not list(adapter.buffers())
    for name, parameter in adapter.named_parameters():
        assert 0.005 < parameter.std() < 0.05, name


# Augmentation and picture


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.7])
def test_a_view_keeps_a_share_of_the_columns(batch: tuple[TabularProcessor, Inputs], keep: float) -> None:
    """Of all kinds together, each as often as another; what is lost is missing."""
    processor, inputs = batch
    before, draws = {name: cells.clone() for name, cells in inputs.items()}, Draws(keys(0, 0, torch.arange(64)))
    view = TabularAugment(keep=keep)(inputs, draws)
    columns = sum(cells.shape[1] for cells in inputs.values())
    chance = draws.uniform("table keep", columns)
    kept = torch.stack([row.argsort().argsort() < max(1, math.ceil(keep * columns)) for row in chance])
    first = 0
    for name in ("table_numeric", "table_categories"):
        own = kept[:, first : first + before[name].shape[1]]
        missing = torch.nan if name == "table_numeric" else 0
        torch.testing.assert_close(view[name], before[name].masked_fill(~own, missing), rtol=0, atol=0, equal_nan=True)
        first += own.shape[1]
    assert first == columns
    assert torch.equal(inputs["table_categories"], before["table_categories"])
    assert (kept.float().mean(0) - kept.float().mean()).abs().max() < 0.2
    tokens = TabularAdapter(8, processor)(view)
    assert tokens.values.shape[1] == columns and tokens.values.isfinite().all()


def test_rows_of_various_columns_keep_a_share_of_their_own() -> None:
    rows = [{f"c{j}": float(j) if j % 2 else f"text {j}" for j in range(1 + i % 7)} for i in range(21)]
    processor = TabularProcessor(schema="shared")
    processor.fit(rows)
    samples = [processor(row) for row in rows]
    whole = TabularAugment(keep=0.5)(processor.collate(samples), Draws(keys(0, 0, torch.arange(21))))
    for i, sample in enumerate(samples):
        alone = TabularAugment(keep=0.5)(processor.collate([sample]), Draws(keys(0, 0, torch.tensor([i]))))
        count = len(rows[i])
        there = ~alone["table_cell_numbers"][0].isnan() | (alone["table_cell_words"][0] > 0).any(-1)
        assert there.sum() == math.ceil(count / 2)
        for name in ("table_cell_numbers", "table_cell_classes"):
            torch.testing.assert_close(whole[name][i, :count], alone[name][0], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(alone["table_column_words"][0], sample["table_column_words"])


@pytest.mark.parametrize("corruption", [0.0, 0.6, 1.0])
def test_corruption_against_a_loop(batch: tuple[TabularProcessor, Inputs], corruption: float) -> None:
    _, inputs = batch
    draws = Draws(keys(3, 5, torch.arange(64)))
    found = TabularAugment(corruption=corruption)(inputs, draws)
    for name, cells in inputs.items():
        chance, donor = draws.uniform(f"corrupt {name}", cells.shape[1]), draws.integers(f"donor {name}", 64, cells.shape[1])
        expected = cells.clone()
        for row in range(64):
            for column in range(cells.shape[1]):
                if chance[row, column] < corruption:
                    expected[row, column] = cells[donor[row, column], column]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0, equal_nan=True)
    if corruption == 0:
        assert found is inputs


def test_the_picture_shows_hidden_cells(batch: tuple[TabularProcessor, Inputs]) -> None:
    processor, inputs = batch
    target = TabularAdapter(8, processor).target(inputs)
    hidden = torch.rand(64, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    logits = torch.nn.functional.one_hot(target["categorical"].clamp(min=0), processor.num_classes).float()
    predictions = {"numeric": target["numeric"], "categorical": logits}
    guesses = {key: value.masked_fill(~hidden[..., None], NAN) for key, value in predictions.items()}
    figure = TABULAR.picture(inputs, hidden, guesses, processor)
    numbers, categories = figure.axes
    shown = hidden[:, :3] & ~inputs["table_numeric"].isnan()
    for number, points in enumerate(numbers.collections):
        cells = inputs["table_numeric"][:, number][shown[:, number]]
        np.testing.assert_allclose(points.get_offsets().data, cells[:, None].expand(-1, 2))
    names = [column.name for column in (*processor.numeric, *processor.categorical)]
    assert [text.get_text() for text in numbers.get_legend().get_texts()] == names[:3]
    assert [label.get_text() for label in categories.get_yticklabels()] == names[3:]
    assert numbers.get_title() == "Hidden numbers: squared error 0.00\n(always the mean: 1.04)"
    assert [bar.get_width() for bar in categories.containers[0]] == [1.0, 1.0]
    nothing_hidden = TABULAR.picture(inputs, torch.zeros_like(hidden), predictions, processor)
    assert [axes.get_title() for axes in nothing_hidden.axes] == ["Hidden numbers", "Hidden categories"]

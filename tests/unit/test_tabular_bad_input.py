"""Bad and odd tables: each gives one clear error that names the row and the column, or is handled as documented."""

import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.modality import Inputs
from mmssl.processor import MMSSLProcessor
from mmssl_modalities.tabular import TabularAdapter, TabularProcessor

SURROGATE = "caf\ud800"
HUGE = "x" * 1_000_000


def good(i: int) -> dict[str, Any]:
    return {
        "age": 20.0 + i % 7,
        "job": ("cook", "nurse", "smith")[i % 3],
        "user": f"u{i}",
        "born": datetime(1990, 1 + i % 12, 1 + i % 28),
        "note": f"visit {i}",
    }


ROWS = [good(i) for i in range(40)]
KEYS: dict[str, Any] = {"text_columns": ["note"], "hash_above": 20, "hash_buckets": 16, "text_buckets": 64}


def fitted(**keys: Any) -> TabularProcessor:
    processor = TabularProcessor(**KEYS, **keys)
    processor.fit(ROWS)
    return processor


FITTED = {"standard": fitted(), "quantile": fitted(numeric="quantile"), "shared": fitted(schema="shared")}


class Odd:
    """A cell that is not even equal to itself."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "Odd()"


# Cells: the column, the cell, and what becomes of it: an error's text, or None where it is taken

CELLS: list[tuple[str, Any, type[Exception] | None, str]] = [
    ("age", "forty", TypeError, r"column 'age' takes numbers; got 'forty' \(str\)"),
    ("age", "40", TypeError, r"column 'age' takes numbers; got '40' \(str\)"),
    ("age", math.inf, ValueError, "column 'age' takes finite numbers; got inf"),
    ("age", -np.inf, ValueError, "column 'age' takes finite numbers; got -inf"),
    ("age", Decimal("Infinity"), ValueError, "column 'age' takes finite numbers"),
    ("age", Decimal("sNaN"), ValueError, "column 'age' takes numbers; got Decimal"),
    ("age", 10**400, ValueError, "column 'age' takes finite numbers; got 1000"),
    ("age", 10**9999, ValueError, "column 'age' takes finite numbers; got a number of 33,216 bits"),
    ("age", 1 + 2j, TypeError, r"column 'age' takes numbers; got \(1\+2j\) \(complex\)"),
    ("age", [1.0], TypeError, r"column 'age' takes numbers; got \[1.0\] \(list\)"),
    ("age", np.array([1.0, 2.0]), TypeError, r"column 'age' takes numbers; got array"),
    ("age", {"a": 1}, TypeError, "column 'age' takes numbers; got .*dict"),
    ("age", b"1", TypeError, r"column 'age' takes numbers; got b'1' \(bytes\)"),
    ("age", Fraction(1, 2), TypeError, "column 'age' takes numbers; got Fraction"),
    ("age", torch.tensor(1.0), TypeError, r"column 'age' takes numbers; got tensor"),
    ("age", datetime(2020, 1, 1), TypeError, r"column 'age' takes numbers; got datetime"),
    ("age", pd.Timedelta(1), TypeError, r"column 'age' takes numbers; got Timedelta"),
    ("age", HUGE, TypeError, r"column 'age' takes numbers; got 'x{76}\.\.\. \(str\)"),
    ("age", 1e308, None, ""),
    ("age", -1e308, None, ""),
    ("age", 5e-324, None, ""),
    ("age", np.float16(3), None, ""),
    ("age", True, None, ""),
    ("age", np.uint64(2**64 - 1), None, ""),
    ("job", 3, TypeError, r"column 'job' takes categories.* got 3 \(int\)"),
    ("job", ["cook"], TypeError, r"column 'job' takes categories.* got \['cook'\] \(list\)"),
    ("job", {"cook"}, TypeError, "column 'job' takes categories.* got {'cook'}"),
    ("job", b"cook", TypeError, r"column 'job' takes categories.* got b'cook' \(bytes\)"),
    ("job", Odd(), TypeError, r"column 'job' takes categories.* got Odd\(\) \(Odd\)"),
    ("job", "astronaut", None, ""),
    ("job", SURROGATE, None, ""),
    ("job", "\0", None, ""),
    ("job", " ", None, ""),
    ("job", HUGE, None, ""),
    ("user", 3, TypeError, r"column 'user' takes categories, in training text; got 3 \(int\)"),
    ("user", ("u1",), TypeError, "column 'user' takes categories, in training text; got .*tuple"),
    ("user", "never seen", None, ""),
    ("user", SURROGATE, None, ""),
    ("born", 1990, TypeError, r"column 'born' takes dates; got 1990 \(int\)"),
    ("born", "yesterday", ValueError, "column 'born' takes dates in ISO 8601, such as .*; got 'yesterday'. Convert it"),
    ("born", "2024-02-30", ValueError, "column 'born' takes dates in ISO 8601, .*; got '2024-02-30'"),
    ("born", np.datetime64(10**6, "Y"), TypeError, "column 'born' takes dates; got np.datetime64"),
    ("born", [2020, 1, 1], TypeError, r"column 'born' takes dates; got \[2020, 1, 1\] \(list\)"),
    ("born", pd.Timedelta(1), TypeError, "column 'born' takes dates; got Timedelta"),
    ("born", date(1, 1, 1), None, ""),
    ("born", datetime.max, None, ""),
    ("born", "2024-02-29", None, ""),
    ("note", 5, TypeError, r"column 'note' takes text; got 5 \(int\)"),
    ("note", b"hi", TypeError, r"column 'note' takes text; got b'hi' \(bytes\)"),
    ("note", ["hi"], TypeError, r"column 'note' takes text; got \['hi'\] \(list\)"),
    ("note", SURROGATE, None, ""),
    ("note", "?!\u200d\U0001f468", None, ""),
    ("note", HUGE, None, ""),
    ("note", "\0\n\t", None, ""),
]
MISSING: list[Any] = [None, math.nan, np.float32("nan"), pd.NA, pd.NaT, "", np.datetime64("NaT"), Decimal("NaN")]


def checked(inputs: Inputs) -> Inputs:
    """Numbers are finite or missing, classes and words are in their ranges."""
    for name, tensor in inputs.items():
        assert not tensor.is_floating_point() or not tensor.isinf().any(), name
        assert tensor.is_floating_point() or (tensor >= 0).all(), name
    return inputs


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize(("column", "cell", "error", "message"), CELLS, ids=range(len(CELLS)))
def test_cells(kind: str, column: str, cell: Any, error: type[Exception] | None, message: str) -> None:
    processor = FITTED[kind]
    rows = [ROWS[0], {**ROWS[1], column: cell}]
    if error is None:
        inputs = checked(processor.table(rows))
        both = processor.collate([processor(row) for row in rows])
        for name, tensor in inputs.items():
            torch.testing.assert_close(tensor, both[name], rtol=0, atol=0, equal_nan=True)
        assert TabularAdapter(8, processor)(inputs).values.isfinite().all()
        return
    for call, argument in ((processor, rows[1]), (processor.table, rows), (processor.batch, rows)):
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            call(argument)
        assert isinstance(caught.value, error)
        assert len(str(caught.value)) < 500
    where = r"table\[1\]: "
    with pytest.raises(error, match=where + message):
        MMSSLProcessor({"tabular": processor})(table=rows)


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("gap", MISSING, ids=repr)
def test_rows_of_nothing_but_gaps(kind: str, gap: Any) -> None:
    processor = FITTED[kind]
    rows = [dict.fromkeys(ROWS[0], gap), ROWS[0]]
    inputs = processor.collate([processor(row) for row in rows])
    tokens = TabularAdapter(8, processor)(inputs)
    assert tokens.values.isfinite().all()
    for target in TabularAdapter(8, processor).target(inputs).values():
        assert (target[0].isnan() if target.is_floating_point() else target[0] == -100).all()


# Tables

TABLES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("no rows", lambda: [], TypeError, "a table is a DataFrame, .* or a list of one row or more; got list"),
    ("None", lambda: None, TypeError, "a table is a DataFrame, .*; got NoneType"),
    ("text", lambda: "age,job", TypeError, "a table is a DataFrame, .*; got str"),
    ("a number", lambda: 3, TypeError, "a table is a DataFrame, .*; got int"),
    ("an array", lambda: np.zeros((2, 5)), TypeError, "a table is a DataFrame, .*; got ndarray"),
    ("lists", lambda: [[1, "cook"]], TypeError, "row 0: a row is a dict, column -> cell; got list"),
    ("a gap in the rows", lambda: [ROWS[0], None], TypeError, "row 1: a row is a dict, column -> cell; got NoneType"),
    ("empty rows", lambda: [{}], ValueError, "missing column 'age'; .* and this has none"),
    ("an empty dict", dict, ValueError, "the columns of a table need one length; got no column"),
    ("a row for a table", lambda: dict(ROWS[0]), TypeError, "a column of a table is a list, .*; column 'age' is float"),
    ("a missing column", lambda: pd.DataFrame(ROWS).drop(columns="job"), ValueError, "missing column 'job'"),
    ("a row without a column", lambda: [ROWS[0], {"age": 1}], ValueError, "missing column 'job'; .*, and this has age. Pass None"),
    (
        "two of one name",
        lambda: pd.DataFrame(ROWS).rename(columns={"user": "job"}),
        ValueError,
        "different column names; got age, j",
    ),
    ("two in arrow", lambda: pa.table([pa.array([1.0])] * 2, ["age", "age"]), ValueError, "different column names; got age, age"),
    ("two lengths", lambda: {"age": [1.0], "job": []}, ValueError, r"need one length; got \{'age': 1, 'job': 0\}"),
    ("numbers for names", lambda: pd.DataFrame([[1.0, 2.0]]), ValueError, "missing column 'age'; .* and this has 0, 1"),
    ("names of another case", lambda: [{k.upper(): v for k, v in ROWS[0].items()}], ValueError, "and this has AGE, JOB, USER"),
    ("a deep array", lambda: {k: np.zeros((2, 2)) for k in ROWS[0]}, TypeError, r"row 0: column 'age' takes numbers; got \[0.0, 0"),
    ("dates for numbers", lambda: pd.DataFrame(ROWS).assign(age=pd.Timestamp(0)), TypeError, "row 0: column 'age' takes numbers"),
    ("codes for names", lambda: pd.DataFrame(ROWS).assign(job=1), TypeError, r"row 0: column 'job' takes categories"),
    ("dates for names", lambda: pd.DataFrame(ROWS).assign(job=pd.Timestamp(0)), TypeError, "row 0: column 'job' takes categories"),
    ("bad category", lambda: pd.DataFrame(ROWS).assign(job=pd.Categorical([1] * 40)), TypeError, "row 0: column 'job' takes"),
]


@pytest.mark.parametrize(("make", "error", "message"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
def test_tables(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FITTED["standard"].table(make())


def test_frames_without_rows() -> None:
    inputs = FITTED["standard"].table(pd.DataFrame(ROWS).iloc[:0])
    assert {name: len(tensor) for name, tensor in inputs.items()} == dict.fromkeys(inputs, 0)
    with pytest.raises(ValueError, match="table= holds no sample"):
        MMSSLProcessor({"tabular": FITTED["standard"]})(table=pd.DataFrame(ROWS).iloc[:0])


# Fitting

TRAINING: list[tuple[str, list[Any], dict[str, Any], type[Exception], str]] = [
    ("nothing but gaps", [{"x": None}] * 3, {}, ValueError, "column 'x' has no value in any of the 3 training rows"),
    ("gaps, shared", [{"x": None}] * 3, {"schema": "shared"}, ValueError, "every cell of the training rows is missing"),
    (
        "numbers and dates",
        [{"x": 1.0}, {"x": date(2020, 1, 1)}],
        {},
        ValueError,
        r"mixes numbers such as 1.0 \(training row 0\) and dates such as 20",
    ),
    ("text and dates", [{"x": "a"}, {"x": date(2020, 1, 1)}], {}, ValueError, "mixes dates such as .* and categories such as 'a'"),
    ("numbers for dates", [{"x": 3}], {"datetime_columns": ["x"]}, TypeError, "training row 0: column 'x' takes dates; got 3"),
    ("no date", [{"x": "soon"}], {"datetime_columns": ["x"]}, ValueError, "training row 0: column 'x' takes dates in ISO 8601"),
    ("no text", [{"x": 3}], {"text_columns": ["x"]}, TypeError, r"training row 0: column 'x' takes text; got 3 \(int\)"),
    ("lists", [{"x": [1]}], {}, TypeError, r"training row 0: column 'x' takes numbers; got \[1\] \(list\)"),
    (
        "infinity",
        [{"x": 1.0}, {"x": math.inf}],
        {"schema": "shared"},
        ValueError,
        "training row 1: column 'x' takes finite numbers",
    ),
    (
        "mixed, shared",
        [{"x": 1.0}, {"x": "a"}],
        {"schema": "shared"},
        ValueError,
        r"column 'x' mixes numbers such as 1.0 \(training row 0\) and categ",
    ),
    ("bytes", [{"x": b"\xff"}], {}, TypeError, r"training row 0: column 'x' takes numbers; got b'\\xff'"),
    ("no column", [{"x": 1}], {"text_columns": ["y"]}, ValueError, "text_columns names 'y', which is no column; the row has x"),
]


@pytest.mark.parametrize(("rows", "keys", "error", "message"), [row[1:] for row in TRAINING], ids=[row[0] for row in TRAINING])
def test_training_rows(rows: list[Any], keys: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TabularProcessor(**keys).fit(rows)


class Undecodable(dict[str, Any]):
    """A row whose cells cannot be read, with an error that takes five arguments."""

    def __getitem__(self, key: str) -> Any:
        return b"\xff".decode() if key == "age" else super().__getitem__(key)

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


def test_errors_that_take_more_than_a_text() -> None:
    with pytest.raises(ValueError, match="training row 0: 'utf-8' codec can't decode byte 0xff"):
        TabularProcessor().fit([Undecodable(ROWS[0])])
    with pytest.raises(UnicodeDecodeError):
        FITTED["standard"](Undecodable(ROWS[0]))


@pytest.mark.parametrize("numeric", ["standard", "quantile"])
@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308],
        [1.7e308] * 2,
        [5e-324, 0.0],
        [1e-200, 2e-200],
        [0.0] * 5,
        [1.0],
        [1e30, 1.0, 2.0],
        [2**63, -(2**63)],
        [1, 3],
    ],
    ids=str,
)
def test_odd_numbers_to_fit(numeric: Any, values: list[float]) -> None:
    processor = TabularProcessor(numeric=numeric)
    try:
        processor.fit([{"x": value} for value in values])
    except ValueError as error:
        assert numeric == "standard"
        assert "holds numbers too large to average" in str(error)
        return
    probes = [*values, 0.0, 1e308, -1e308, 1e-300, None]
    table = checked(processor.table({"x": probes}))["table_numeric"]
    each = torch.stack([processor({"x": value})["table_numeric"] for value in probes])
    torch.testing.assert_close(table, each, rtol=0, atol=0, equal_nan=True)
    assert table.isnan().sum() == 1


CELL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.datetimes(),
    st.dates(),
    st.binary(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.decimals(),
    st.sampled_from([pd.NA, pd.NaT, np.float32(1), np.bool_(True), SURROGATE, "2024-01-01"]),
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(FITTED)), st.fixed_dictionaries(dict.fromkeys(ROWS[0], CELL)))
def test_any_row_gives_tensors_or_an_error(kind: str, row: dict[str, Any]) -> None:
    processor = FITTED[kind]
    try:
        inputs = processor.collate([processor(ROWS[0]), processor(row)])
    except (TypeError, ValueError) as error:
        assert "column '" in str(error)
        with pytest.raises(type(error)):
            processor.table([ROWS[0], row])
    else:
        checked(inputs)
        assert TabularAdapter(8, processor)(inputs).values.isfinite().all()
        for name, tensor in processor.table([ROWS[0], row]).items():
            torch.testing.assert_close(tensor, inputs[name], rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=6), st.sampled_from(["standard", "quantile"]))
def test_any_column_is_fitted_or_refused(cells: list[Any], numeric: Any) -> None:
    processor = TabularProcessor(numeric=numeric)
    try:
        processor.fit([{"x": cell} for cell in cells])
    except (TypeError, ValueError) as error:
        assert "column 'x'" in str(error)
    else:
        checked(processor.table({"x": cells}))

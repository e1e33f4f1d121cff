"""Whole tables as users hold them: pandas and pyarrow tables, dicts of columns, lists of rows."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mmssl_modalities.tabular.columns import Cells

if TYPE_CHECKING:
    import pandas as pd


def _is_column(column: Any) -> bool:
    import pandas as pd  # takes half a second, and few need it

    return isinstance(column, list | tuple | np.ndarray | pd.Series)


def is_columnar(raw: Any) -> bool:
    """Whether it is a table that holds columns, not rows."""
    import pandas as pd  # takes half a second, and few need it

    if isinstance(raw, Mapping):
        return bool(raw) and all(_is_column(column) for column in raw.values())
    return isinstance(raw, pd.DataFrame | pa.Table | pa.RecordBatch)


def rows_of(raw: Any) -> list[dict[Any, Any]]:
    """The rows of a columnar table. ValueError for two columns of one name, or of different lengths."""
    table = _table(raw)
    cells = [_listed(column) for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*cells, strict=True)]


def columns_of(raw: Any, names: Sequence[str]) -> "dict[str, Cells | pd.Categorical]":
    """The named columns of a table or of a list of rows. KeyError with the name of one that is not there, and those that are."""
    if not is_columnar(raw) and not isinstance(raw, Mapping):
        return _turned(raw, names)
    table = _table(raw)
    for name in names:
        if name not in table:
            raise KeyError(name, list(table))
    return {name: _column(table[name]) for name in names}


def _table(raw: Any) -> Mapping[Any, Any]:
    import pandas as pd  # takes half a second, and few need it

    if isinstance(raw, pa.Table | pa.RecordBatch):
        raw = raw.to_pandas(strings_to_categorical=True)
    if isinstance(raw, pd.DataFrame):
        if not raw.columns.is_unique:
            raise ValueError(f"a table needs different column names; got {', '.join(map(str, raw.columns))}")
        return {name: raw[name] for name in raw.columns}
    for name, column in raw.items():
        if not _is_column(column):
            raise TypeError(f"a column of a table is a list, an array or a Series; column {name!r} is {type(column).__name__}")
    lengths = {name: len(column) for name, column in raw.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the columns of a table need one length; got {lengths or 'no column'}")
    return raw


def _turned(rows: Any, names: Sequence[str]) -> "dict[str, Cells | pd.Categorical]":
    if not isinstance(rows, list | tuple) or not rows:
        raise TypeError(
            f"a table is a DataFrame, a pyarrow table, a dict of columns, or a list of one row or more; got {type(rows).__name__}"
        )
    for number, row in enumerate(rows):
        if type(row) is not dict and not isinstance(row, Mapping):
            raise TypeError(f"row {number}: a row is a dict, column -> cell; got {type(row).__name__}")
    try:
        if len(names) == 1:
            return {names[0]: [row[names[0]] for row in rows]}
        return dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
    except KeyError as error:
        raise KeyError(error.args[0], list(next(row for row in rows if error.args[0] not in row))) from None


def _column(column: Any) -> "Cells | pd.Categorical":
    """A column in the form that encodes fastest: categories by code, numbers and dates as an array, else Python values."""
    import pandas as pd  # takes half a second, and few need it

    if isinstance(column, pd.Series):
        if isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype):
            return pd.Categorical(column)  # type: ignore[return-value]  # generic in its stubs alone
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiubM":
            return column.to_numpy()
        return column.tolist()
    if isinstance(column, np.ndarray) and (column.ndim != 1 or column.dtype.kind not in "fiubM"):
        return column.tolist()
    return column


def _listed(column: Any) -> Sequence[Any]:
    import pandas as pd  # takes half a second, and few need it

    if isinstance(column, np.ndarray):
        return pd.Series(column).tolist() if column.dtype.kind == "M" and column.ndim == 1 else column.tolist()
    return column.tolist() if isinstance(column, pd.Series) else column

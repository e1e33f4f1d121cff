"""What follows each series, as a table that is written to a file: a row for each series, variable and step."""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from mmssl.data import Source, Track, processes, silent
from mmssl.data.forecast import NEXT, ForecastOptions, WindowTable
from mmssl.data.series import SeriesOptions
from mmssl.data.source import OnError
from mmssl.data.table_format import TableFormat
from mmssl.data.variables import free_name, listed
from mmssl.evaluation.forecasts import Errors, Forecasts, forecast
from mmssl.evaluation.judged import Judged
from mmssl.evaluation.predictions import PREDICTION
from mmssl.model import LabelHead, MMSSLModel
from mmssl.processor import MMSSLProcessor

STEP, WINDOW, TRUTH, UNIT = "step", "window", "truth", "unit"
"""Columns: which of the steps that follow, from 1; of held-out windows the number of the window, what came, and what errors are
measured in where variables are to count alike."""


def as_trained(head: LabelHead, table_format: TableFormat) -> TableFormat:
    """How rows make series and windows are cut of them, as a forecasting model was trained, but for what the user says."""
    settings = dict(head.windows or {})
    series = settings.pop("series")
    known = {field.name for field in fields(ForecastOptions)}
    options = ForecastOptions(**{name: value for name, value in settings.items() if name in known})
    chosen = table_format.series or (SeriesOptions(**series) if series else None)
    return replace(table_format, series=chosen, forecast=options)


def refuse(label: Any, keep: Sequence[str] | None) -> None:
    """ValueError for what says nothing of forecasts."""
    if label is not None:
        raise ValueError("--label: what a forecast is scored by is what follows in the data. Leave it out, and say --split test")
    if keep:
        raise ValueError(f"--keep {keep[0]}: forecasts are written with what says which series they are of. Leave it out")


def windows_of(source: Source, on_error: OnError) -> WindowTable:
    """The windows of a source. ValueError naming the series of which there are none, as they are too short."""
    table = source.window_table
    assert table is not None, "windows were cut"
    if table.left_out and on_error == "raise":
        need = table.options.context if table.part == NEXT else table.options.window
        raise ValueError(
            f"{source}: {len(table.left_out):,} series are shorter than the {need} steps that the model needs, and have none: "
            f"{listed(table.left_out)}. Give more of their past, or leave them out with --on-error skip"
        )
    return table


def forecast_source(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    *,
    batch_size: int = 256,
    on_error: OnError = "raise",
    track: Track = silent,
) -> tuple[pa.Table, Judged | None] | None:
    """What follows each window of a source, as a table, and what it is worth where that is known; None on other processes.

    Columns: what says which series it is, the variable where there are several, the time where it is known, `step`, `prediction`;
    of a part of the past also `window`, `truth` and `unit`.
    """
    table = windows_of(source, on_error)
    found = forecast(model, processor, source, name, batch_size=batch_size, on_error=on_error, track=track)
    if not processes.is_first():
        return None
    labels = None if table.part == NEXT else source.labels()
    judged, truth = None, None
    if labels is not None:
        assert labels.units is not None, "they are windows"
        truth = labels.values
        judged = Errors.of(found, labels.tensor(), torch.from_numpy(labels.units)).judged() if len(found.ids) else None
    return written(table, found, truth), judged


def written(table: WindowTable, found: Forecasts, truth: Float[np.ndarray, "n h"] | None) -> pa.Table:
    """The forecasts of windows as rows for each step."""
    rows, horizon = found.ids.numpy(), table.options.horizon
    columns: dict[str, Any] = {}
    for name, cells in table.fixed.items():
        columns[name] = repeated([cells[owner] for owner in table.owner[rows]], horizon)
    if (time := table.variables.time_column) is not None:
        columns[time] = pa.array([moment(each) for row in rows.tolist() for each in table.times(row) or ()])
    taken = set(columns)
    if truth is not None:
        columns[free_name(WINDOW, taken)] = repeated(rows.tolist(), horizon)
    columns[free_name(STEP, taken)] = pa.array(np.tile(np.arange(1, horizon + 1), len(rows)))
    columns[free_name(PREDICTION, taken)] = pa.array(found.values.numpy().ravel())
    if truth is not None:
        columns[free_name(TRUTH, taken)] = pa.array(truth[rows].ravel())
        columns[free_name(UNIT, taken)] = repeated(table.units[rows].tolist(), horizon)
    return pa.table(columns)


def repeated(cells: list[Any], times: int) -> pa.Array:
    """Each cell so many times."""
    places: Int[np.ndarray, " n"] = np.repeat(np.arange(len(cells)), times)
    return pa.array(cells, from_pandas=True).take(pa.array(places))


def moment(time: Any) -> Any:
    """A time as a table holds it."""
    pandas = sys.modules.get("pandas")  # before it is imported no time can be its own
    return time.to_pydatetime(warn=False) if pandas is not None and isinstance(time, pandas.Timestamp) else time

"""How forecasts of held-out windows are scored, and those of what comes next are made."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.data import Batch, DataOptions, Source, Track, processes, silent
from mmssl.data.source import OnError
from mmssl.evaluation import naive
from mmssl.evaluation.features import each_batch
from mmssl.evaluation.forecast_table import ForecastRow, ForecastTable
from mmssl.evaluation.history import Exposure, History, label_column
from mmssl.evaluation.judged import Judged
from mmssl.evaluation.sources import EvaluateOptions, Sources
from mmssl.evaluation.table import OWN
from mmssl.model import MMSSLModel
from mmssl.model.tasks import load_predictor
from mmssl.processor import MMSSLProcessor

FORECAST_PROTOCOL = "mmssl-forecast-v1"
"""Version of everything below: scores of different versions must not stand in one table.

Errors are means over all steps of all windows of all variables of the test part, which lies after all that was trained on. MSE and
MAE are in units of the standard deviation of each variable over the training part of its series, as in the tables of papers; the
others are in the units of the data. Windows that lack a value to forecast are left out.
Rows: the model's own forecasts; the last value; the last season, where a period is given; the mean of what was seen; a ridge on
what was seen, in units of its mean and deviation, fitted on the training windows.
"""
EXAMPLES = 4
"""Windows that a picture shows."""


class Forecasts(NamedTuple):
    """What a model says follows windows, by their places in the source."""

    values: Float[Tensor, "n h"]
    ids: Int[Tensor, " n"]


class Example(NamedTuple):
    """A window as a picture shows it."""

    title: str
    seen: Float[Tensor, " t"]
    future: Float[Tensor, " h"]
    forecast: Float[Tensor, " h"]


def forecast(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    *,
    batch_size: int = 256,
    on_error: OnError = "raise",
    track: Track = silent,
) -> Forecasts:
    """What follows each window of a source, in its own units; empty on all processes but the first.

    ValueError that names a window whose forecast is not finite, or which the processor of the model cuts into pieces.
    """

    def answer(batch: Batch, source: Source) -> Forecasts:
        if source.is_cut and len(source) > source.num_rows:
            raise ValueError(
                f"{source}: the processor of the model cuts windows into pieces (processor.window); what follows is told of "
                "a whole one. Make data.forecast.context no longer than that"
            )
        inputs = batch.to(model.device).inputs[name]
        values = model.label_head.logits(model.labelled(name, inputs).float(), model.level(name, inputs)).float().cpu()
        if not values.isfinite().all():
            row = source.row_number(int(batch.ids[(~values.isfinite()).any(1)][0]))
            raise ValueError(f"row {row} of {source}: the forecast is not finite; the model has diverged, or the series is extreme")
        return Forecasts(values, batch.ids)

    options: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "track": track, "title": "forecasts"}
    found = list(each_batch(model, processor, source, name, answer, **options))
    empty = Forecasts(torch.empty(0, model.label_head.size), torch.empty(0, dtype=torch.int64))
    return Forecasts(*(torch.cat(parts) for parts in zip(empty, *found, strict=True)))


class Errors(NamedTuple):
    """Of each window the mean squared and absolute error, in units of its variable and in its own. ids: its place in the source."""

    squared: Float[Tensor, " n"]
    absolute: Float[Tensor, " n"]
    own_squared: Float[Tensor, " n"]
    own_absolute: Float[Tensor, " n"]
    ids: Int[Tensor, " n"]

    @classmethod
    def of(cls, told: Forecasts, truth: Float[Tensor, "m h"], units: Float[Tensor, " m"]) -> "Errors":
        """Of forecasts beside what came. truth, units: of all windows of the source."""
        error = told.values.double() - truth[told.ids].double()
        squared, absolute, unit = error.square().mean(1), error.abs().mean(1), units[told.ids].double()
        return cls(squared / unit.square(), absolute / unit, squared, absolute, told.ids)

    def plain(self) -> list[list[Any]]:
        """As JSON values."""
        return [each.tolist() for each in self]

    @classmethod
    def from_plain(cls, values: list[list[Any]]) -> "Errors":
        """What `plain` returned."""
        *scores, ids = values
        squared, absolute, *own = (torch.tensor(each, dtype=torch.float64) for each in scores)
        return cls(squared, absolute, own[0], own[1], torch.tensor(ids, dtype=torch.int64))

    def among(self, ids: Int[Tensor, " k"]) -> "Errors":
        """Those of some windows."""
        kept = torch.isin(self.ids, ids)
        return Errors(*[each[kept] for each in self])

    @property
    def means(self) -> list[float]:
        """Over all windows, in the order of the columns of a table."""
        return [each.mean().item() for each in self[:4]]

    def row(self, name: str, first: "Errors | None" = None, independent: float = 1.0, **more: Any) -> ForecastRow:
        """A row of a table. first: of its first row. independent: how many windows have no step in common."""
        error, (mse, mae, own_mse, own_mae) = 0.0, self.means
        if first is not None and len(self.squared) > 1:
            error = 1.96 * (self.squared - first.squared).std().item() / max(independent, 1.0) ** 0.5
        return ForecastRow(name, mse, mae, own_mse, own_mae, error=error, **more)

    def judged(self) -> Judged:
        """What the forecasts are worth."""
        mse, mae, own_mse, own_mae = self.means
        own = {"mean squared error in own units": own_mse, "mean absolute error in own units": own_mae}
        return Judged("forecast", len(self.squared), mse, {"mean absolute error": mae, **own})


class ForecastEvaluator:
    """Scores the forecasts of models on the held-out windows of one dataset; the baselines are computed once.

    sources: training and test windows. history: what the scored model was trained on.
    ValueError for windows that the model was not made for.
    """

    def __init__(
        self,
        options: EvaluateOptions,
        data: DataOptions,
        processor: MMSSLProcessor,
        name: str,
        sources: Sources,
        history: History,
        track: Track = silent,
    ) -> None:
        self.options, self.data, self.processor, self.sources, self.track = options, data, processor, sources, track
        self.modality, self.history = name, history
        labels = sources.test_labels
        assert labels.windows is not None and labels.units is not None, "they are windows"
        self.windows, self.truth, self.units = labels.windows, labels.tensor(), torch.from_numpy(labels.units)
        self.judged: Judged | None = None
        self.last: Forecasts | None = None
        self._baselines: dict[str, Errors] | None = None

    def exposure(self, history: History) -> Exposure:
        """What a model of that history saw of the test windows: one that was trained on the whole series did."""
        column = label_column(self.sources.test)
        assert column is not None, "labels were read from it"
        found = history.exposure(self.sources.test, column, None)
        return replace(found, labelled=found.labelled or found.unlabelled)

    def score(self, model: MMSSLModel) -> dict[str, float]:
        """The errors of `model` as it is now, MSE and MAE."""
        row = self.errors(model).row(OWN)
        return {"mse": row.mse, "mae": row.mae}

    def forecasts(self, model: MMSSLModel, processor: MMSSLProcessor | None = None) -> Forecasts:
        """What a model says follows the test windows."""
        options: dict[str, Any] = {"batch_size": self.options.batch_size, "on_error": self.data.on_error, "track": self.track}
        return forecast(model, processor or self.processor, self.sources.test, self.modality, **options)

    def errors(self, model: MMSSLModel, processor: MMSSLProcessor | None = None) -> Errors:
        """Of each test window that could be read; the same on all processes."""
        check_windows(model, self.windows)
        self.last = found = self.forecasts(model, processor)
        return Errors.from_plain(processes.by_first(lambda: Errors.of(found, self.truth, self.units).plain()))

    def table(self, model: MMSSLModel, *, name: str | None = None, others: Mapping[str, str | Path] | None = None) -> ForecastTable:
        """A row for the forecasts of `model`, for other saved models (name: folder or Hub id), and for each baseline."""
        first, shown = self.errors(model), self.last
        self.judged = first.judged()
        independent = len(first.squared) * min(1.0, self.windows["stride"] / self.windows["horizon"])
        seen = self.exposure(self.history).labelled
        rows = [first.row(name or OWN, num_features=model.labelled_size(model.label_head), seen=seen)]
        for other, path in (others or {}).items():
            loaded, own = load_predictor(path).to(model.device), MMSSLProcessor.from_pretrained(path)
            exposed = self.exposure(History.read(path)).labelled
            rows.append(self.errors(loaded, own).row(other, first, independent, seen=exposed))
        if self._baselines is None:
            measured = processes.by_first(lambda: {title: errors.plain() for title, errors in self._measured().items()})
            self._baselines = {title: Errors.from_plain(values) for title, values in measured.items()}
        rows += [errors.among(first.ids).row(title, first, independent) for title, errors in self._baselines.items()]
        test, self.last = self.sources.test, shown
        notes = ["The test windows lie after all that was trained on." if not seen else "What is forecast was trained on."]
        return ForecastTable(
            protocol=FORECAST_PROTOCOL,
            data=test.path,
            num_test=len(first.squared),
            context=self.windows["context"],
            horizon=self.windows["horizon"],
            rows=tuple(rows),
            notes=tuple(notes),
        )

    def _measured(self) -> dict[str, Errors]:
        """The errors of the baselines."""
        horizon, period, train = self.windows["horizon"], self.windows["period"], self.sources.train_labels
        assert train.units is not None, "they are windows"
        baselines = {"last value": naive.last_value(horizon)}
        if period is not None:
            baselines[f"last season ({period})"] = naive.last_season(horizon, period)
        baselines["mean of what was seen"] = naive.mean(horizon)
        baselines["ridge"] = naive.ridge(self.sources.train, self.modality, train.tensor(), torch.from_numpy(train.units))
        told: dict[str, list[Tensor]] = {title: [] for title in baselines}
        for seen in naive.contexts(self.sources.test, self.modality):
            for title, baseline in baselines.items():
                told[title].append(baseline(seen))
        ids = torch.arange(len(self.truth))
        return {title: Errors.of(Forecasts(torch.cat(parts), ids), self.truth, self.units) for title, parts in told.items()}

    def examples(self) -> list[Example]:
        """Some test windows, evenly spaced, with what the model that was scored last says of them; on the first process."""
        if self.last is None or not len(self.last.ids):
            return []
        count, test = len(self.last.ids), self.sources.test
        places = sorted({place * count // EXAMPLES for place in range(EXAMPLES)})
        ids = self.last.ids[places].tolist()
        numbers = [test.row_number(i) for i in ids]
        seen = torch.cat(list(naive.contexts(test.select(np.array(numbers)), self.modality)))
        told = zip(numbers, seen, self.truth[ids].double(), self.last.values[places].double(), strict=True)
        return [Example(f"window {number}", *values) for number, *values in told]


def check_windows(model: MMSSLModel, windows: Mapping[str, Any]) -> None:
    """ValueError unless a model tells what follows windows of these sizes."""
    if not model.forecasts:
        raise ValueError(
            "data.forecast: the model does not forecast, so its forecasts cannot be scored; train it with the objective supervised"
        )
    known = model.label_head.windows or {}
    for key in ("context", "horizon"):
        if known[key] != windows[key]:
            raise ValueError(f"data.forecast.{key}: the model was trained with {known[key]}; got {windows[key]}")

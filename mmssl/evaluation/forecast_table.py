"""Forecasts of a model beside those that cost nothing, as a table that is printed, stored and published."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmssl.evaluation.table import PairTable, Shown, Table, checked_values

MSE = "mean squared error"
COLUMNS = {"mse": "MSE", "mae": "MAE", "own_mse": "MSE, own units", "own_mae": "MAE, own units"}
"""Scores, with their titles: in units of the deviation of each variable over the training part, and as the data are."""


@dataclass(frozen=True)
class ForecastRow:
    """Scores of one way to forecast; see `COLUMNS`.

    error: by how much, over other windows as many, its MSE may differ from that of the first row by chance. num_features: what the
    head reads. seen: whether what is forecast was trained on.
    """

    name: str
    mse: float
    mae: float
    own_mse: float
    own_mae: float
    error: float = 0.0
    num_features: int | None = None
    seen: bool = False


@dataclass(frozen=True)
class ForecastTable(Shown):
    """Forecasts of held-out windows. All scores are errors: the lowest is the best.

    data, num_test: what was forecast, in windows. context, horizon: steps that are seen, and forecast.
    """

    protocol: str
    data: str
    num_test: int
    context: int
    horizon: int
    rows: tuple[ForecastRow, ...]
    notes: tuple[str, ...] = ()
    metric: str = MSE

    @property
    def titles(self) -> Mapping[str, str]:
        return COLUMNS

    def value(self, row: ForecastRow, score: str) -> float:
        return float(vars(row)[score])

    def shown(self, score: float) -> str:
        if math.isnan(score):
            return "-"
        return f"{score:.3f}" if abs(score) < 1000 else f"{score:.4g}"

    def best(self, score: str) -> float:
        """The lowest value of a score, rounded as shown."""
        return min(float(self.shown(self.value(row, score))) for row in self.rows)

    def share(self, row: ForecastRow, score: str) -> int:
        """Length of a bar in percent: full for the largest error."""
        largest, value = max(self.value(each, score) for each in self.rows), self.value(row, score)
        return round(100 * value / largest) if largest > 0 and math.isfinite(value) else 0

    @property
    def title(self) -> str:
        steps = f"{self.horizon} steps from the {self.context} before"
        return f"{self.data}: errors of {steps}, {self.num_test:,} windows, {self.protocol}"

    @property
    def remarks(self) -> list[str]:
        return list(self.notes)

    @property
    def margins(self) -> dict[str, float]:
        """By how much the MSE of the first row lies below each other."""
        return {row.name: row.mse - self.rows[0].mse for row in self.rows[1:]}

    @property
    def wins(self) -> bool:
        """Whether the first row, on unseen windows, has a lower MSE than all others, by more than chance."""
        return not self.rows[0].seen and all(margin > self.row(name).error for name, margin in self.margins.items())

    @property
    def verdict(self) -> str:
        """One sentence: who forecasts best, and the first row beside the others."""
        first = self.rows[0]
        if first.seen:
            return f"No verdict: what is forecast was among what {first.name} was trained on."
        parts = []
        for name, margin in self.margins.items():
            unclear = " (within error)" if abs(margin) <= self.row(name).error else ""
            parts.append(f"{self.shown(abs(margin))} {'better' if margin >= 0 else 'worse'} than {name}{unclear}")
        best = min(self.rows, key=lambda row: row.mse).name
        beside = f"{', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"
        leads = "" if best == first.name else f"; {best} has the lowest"
        return f"MSE: {first.name} reaches {self.shown(first.mse)}, {beside}{leads}."

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ForecastTable":
        """What `to_dict` returned. ValueError for anything else."""
        return cls(**checked_values(cls, values, ForecastRow))


def table_of(values: Mapping[str, Any]) -> Shown:
    """A table of any kind that was stored. ValueError for what is none."""
    if "horizon" in values:
        return ForecastTable.from_dict(values)
    return PairTable.from_dict(values) if "task" in values else Table.from_dict(values)

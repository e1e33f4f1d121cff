"""Scores of a frozen model beside what costs nothing to have, as a value that is printed, stored and published."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import rich
import rich.table
from rich.text import Text

PRETRAINED, RANDOM, RAW = "pretrained", "random init", "raw features"
BASELINES = (RANDOM, RAW)
SCORES = {"knn": "20-NN", "probe": "linear probe"}
"""Fields of a row that are scores, with their titles."""


@dataclass(frozen=True)
class Row:
    """Scores of one model.

    knn, probe: accuracy in percent, or R2. num_features: width of the features. strength: the chosen C of the linear probe.
    converged: whether the linear probe reached its tolerance.
    seen: whether the model was trained on test samples with their labels.
    """

    name: str
    knn: float
    probe: float
    num_features: int | None = None
    strength: float | None = None
    converged: bool = True
    seen: bool = False


@dataclass(frozen=True)
class Table:
    """Scores of several models by one protocol.

    metric: "accuracy" (in percent) or "R2". data, train, test: what was read. notes: what a reader should know besides.
    """

    protocol: str
    metric: str
    data: str
    num_train: int
    num_test: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        unit = "accuracy in %" if self.metric == "accuracy" else self.metric
        return f"{self.data}: {unit}, {self.num_train:,} train and {self.num_test:,} test samples, {self.protocol}"

    @property
    def remarks(self) -> list[str]:
        """The notes, and what is known about single rows."""
        unfinished = [row.name for row in self.rows if not row.converged]
        return [*self.notes, *(f"The linear probe of {name} stopped before it had converged." for name in unfinished)]

    def row(self, name: str) -> Row:
        """The row of that name; LookupError if there is none."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            raise LookupError(f"the table has no row {name!r}; it has {', '.join(row.name for row in self.rows)}")
        return found

    def shown(self, score: float) -> str:
        """A score with the digits that mean something."""
        return f"{score:.1f}" if self.metric == "accuracy" else f"{score:.3f}"

    def best(self, score: str) -> float:
        """The highest value of a score, rounded as shown."""
        return max(float(self.shown(vars(row)[score])) for row in self.rows)

    def share(self, score: str, value: float) -> int:
        """Length of a bar in percent: of the best score, but of 0 for what is below."""
        best = self.best(score)
        return round(100 * max(0.0, value) / best) if best > 0 else 0

    @property
    def margins(self) -> dict[str, float]:
        """By how much the linear probe of the first row beats each baseline."""
        return {row.name: self.rows[0].probe - row.probe for row in self.rows if row.name in BASELINES}

    @property
    def wins(self) -> bool:
        """Whether the linear probe of the first row, on unseen samples, beats every baseline by more than sampling error."""
        first = self.rows[0]
        return not first.seen and all(margin > self.sampling_error(first, self.row(name)) for name, margin in self.margins.items())

    @property
    def verdict(self) -> str:
        """One sentence: the linear probe of the first row beside the baselines, or why there is nothing to compare."""
        first = self.rows[0]
        if first.seen:
            return f"No verdict: {first.name} was trained on test samples with their labels."
        unit = " points" if self.metric == "accuracy" else ""
        parts = []
        for name, margin in self.margins.items():
            unclear = abs(margin) <= self.sampling_error(first, self.row(name))
            side = "above" if margin >= 0 else "below"
            parts.append(f"{self.shown(abs(margin))}{unit} {side} {name}{' (within sampling error)' if unclear else ''}")
        return f"Linear probe: {first.name} reaches {self.shown(first.probe)}, {' and '.join(parts)}."

    def sampling_error(self, a: Row, b: Row) -> float:
        """The difference of two scores, on as many independent test samples, whose 95 % interval just holds 0.

        Of accuracies: one success and one failure are added to each (Agresti and Caffo 2000, doi 10.1080/00031305.2000.10474560),
        as two right answers of two would otherwise have no error at all; they shrink the difference, here the error grows instead.
        Of R2: that of two mean squares of n normal errors, whose standard error is sqrt(2 / n) of themselves.
        """
        if self.metric != "accuracy":
            return 1.96 * math.sqrt(sum((1 - row.probe) ** 2 * 2 / self.num_test for row in (a, b)))
        count = self.num_test + 2
        shares = [(row.probe / 100 * self.num_test + 1) / count for row in (a, b)]
        variance = sum(share * (1 - share) / count for share in shares)
        return 100 * 1.96 * math.sqrt(variance) * count / self.num_test

    def print(self) -> None:
        """Show the table on the terminal, or as lines in a log."""
        grid = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("model", *SCORES.values(), "features"):
            grid.add_column(title, justify="left" if title == "model" else "right", overflow="fold")
        for row in self.rows:
            grid.add_row(Text(row.name), *(self.shown(vars(row)[key]) for key in SCORES), str(row.num_features or "-"))
        say = partial(rich.get_console().print, markup=False, highlight=False)
        say(self.title, soft_wrap=True)
        say(grid)
        for line in (*self.remarks, self.verdict):
            say(line, soft_wrap=True)

    def to_markdown(self) -> str:
        """The table in Markdown, best scores bold, with its protocol and notes."""
        lines = [f"| | {' | '.join(SCORES.values())} | features |", "|---|" + "---:|" * (len(SCORES) + 1)]
        for row in self.rows:
            cells = [self._bold_best(key, vars(row)[key]) for key in SCORES]
            lines.append(f"| {row.name} | {' | '.join(cells)} | {row.num_features or '-'} |")
        return "\n".join([*lines, "", f"{self.title}.", *self.remarks])

    def _bold_best(self, score: str, value: float) -> str:
        text = self.shown(value)
        return f"**{text}**" if float(text) == self.best(score) else text

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Table":
        """What `to_dict` returned. ValueError for anything else."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(f"not a table of scores: expected the keys {sorted(known)}, got {sorted(values)}")
        rows = tuple(Row(**row) for row in values["rows"])
        return cls(**{**values, "rows": rows, "notes": tuple(values["notes"])})

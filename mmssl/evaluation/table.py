"""Scores of a frozen model beside what costs nothing to have, as a value that is printed, stored and published."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from statistics import mean, stdev
from typing import Any

import rich
import rich.table
from rich.text import Text

PRETRAINED, RANDOM, RAW = "pretrained", "random init", "raw features"
TUNED, OWN = "supervised", "its own head"
"""A model that predicts labels, by the features of its encoder and by its own predictions."""
BEHIND = "behind the projector"
"""The model of the first row, with what its projector makes of the features."""
CHANCE, FREQUENT = "chance", "most frequent class"
MAP = "mean average precision"
SHARES = ("accuracy", MAP)
"""Metrics that are given in percent."""
BASELINES = (RANDOM, RAW)
NAME_WIDTH = 20
"""Characters of a model's name that stand on one line of a terminal, however many scores there are."""
RETRIEVAL, ZERO_SHOT = "retrieval", "zero-shot classification"
PAIR_BASELINES = (RANDOM, RAW, CHANCE, FREQUENT)
SCORES = {"knn": "20-NN", "probe": "linear probe"}
"""Fields of a row that are scores, with their titles."""


class Shown(ABC):
    """What tables of scores have in common: they are printed, stored and published, the scored model in the first row."""

    rows: tuple[Any, ...]
    protocol: str
    metric: str
    data: str

    @property
    @abstractmethod
    def titles(self) -> Mapping[str, str]:
        """The scores of each row, with their titles."""

    @abstractmethod
    def value(self, row: Any, score: str) -> float:
        """A score of a row."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What was scored, and how."""

    @property
    @abstractmethod
    def remarks(self) -> list[str]:
        """What a reader should know besides."""

    @property
    @abstractmethod
    def margins(self) -> dict[str, float]:
        """By how much the first row beats each baseline."""

    @property
    @abstractmethod
    def wins(self) -> bool:
        """Whether the first row, on unseen samples, beats every baseline by more than sampling error."""

    @property
    @abstractmethod
    def verdict(self) -> str:
        """One sentence: the first row beside the baselines, or why there is nothing to compare."""

    def row(self, name: str) -> Any:
        """The row of that name; LookupError if there is none."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            raise LookupError(f"the table has no row {name!r}; it has {', '.join(row.name for row in self.rows)}")
        return found

    def shown(self, score: float) -> str:
        """A score with the digits that mean something; a dash for none."""
        if math.isnan(score):
            return "-"
        return f"{score:.1f}" if self.metric in SHARES else f"{score:.3f}"

    def spread(self, row: Any, score: str) -> float:
        """Standard deviation of a score over several draws of the same row; 0 if there is one."""
        return 0.0

    def cell(self, row: Any, score: str) -> str:
        """A score of a row as a table shows it, with its spread where it is a mean."""
        spread, text = self.spread(row, score), self.shown(self.value(row, score))
        return f"{text} ± {self.shown(spread)}" if spread else text

    def best(self, score: str) -> float:
        """The highest value of a score, rounded as shown."""
        values = [self.value(row, score) for row in self.rows]
        return max(float(self.shown(value)) for value in values if not math.isnan(value))

    def is_best(self, row: Any, score: str) -> bool:
        """Whether no row shows a higher value of a score."""
        value = self.value(row, score)
        return not math.isnan(value) and float(self.shown(value)) == self.best(score)

    def share(self, row: Any, score: str) -> int:
        """Length of a bar in percent: of the best score, but of 0 for what is below, and for none."""
        best, value = self.best(score), self.value(row, score)
        return round(100 * max(0.0, value) / best) if best > 0 and not math.isnan(value) else 0

    def beside(self, margins: Mapping[str, tuple[float, float]]) -> str:
        """Margins over baselines in words. margins: by the baseline's name the margin, and its error."""
        unit = " points" if self.metric in SHARES else ""
        parts = []
        for name, (margin, error) in margins.items():
            unclear = " (within error)" if abs(margin) <= error else ""
            parts.append(f"{self.shown(abs(margin))}{unit} {'above' if margin >= 0 else 'below'} {name}{unclear}")
        return f"{', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"

    def print(self) -> None:
        """Show the table on the terminal, or as lines in a log."""
        grid = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        longest = max(len(row.name) for row in self.rows)
        grid.add_column("model", overflow="fold", no_wrap=longest <= NAME_WIDTH)
        for title in (*self.titles.values(), "features"):
            grid.add_column(title, justify="right", overflow="fold")
        for row in self.rows:
            cells = (self.cell(row, key) for key in self.titles)
            grid.add_row(Text(row.name), *cells, str(row.num_features or "-"))
        say = partial(rich.get_console().print, markup=False, highlight=False)
        say(self.title, soft_wrap=True)
        say(grid)
        for line in (*self.remarks, self.verdict):
            say(line, soft_wrap=True)

    def to_markdown(self) -> str:
        """The table in Markdown, best scores bold, with its protocol and notes."""
        lines = [f"| | {' | '.join(self.titles.values())} | features |", "|---|" + "---:|" * (len(self.titles) + 1)]
        for row in self.rows:
            cells = [f"**{self.cell(row, key)}**" if self.is_best(row, key) else self.cell(row, key) for key in self.titles]
            lines.append(f"| {row.name} | {' | '.join(cells)} | {row.num_features or '-'} |")
        return "\n".join([*lines, "", f"{self.title}.", *self.remarks])

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON values."""


def difference_error(shares: Sequence[float], count: int) -> float:
    """The difference of two accuracies in percent, on `count` independent samples, whose 95 % interval just holds 0.

    One success and one failure are added to each (Agresti and Caffo 2000, doi 10.1080/00031305.2000.10474560), as two right answers
    of two would otherwise have no error at all; they shrink the difference, here the error grows instead.
    """
    known = [(share / 100 * count + 1) / (count + 2) for share in shares]
    variance = sum(share * (1 - share) / (count + 2) for share in known)
    return 100 * 1.96 * math.sqrt(variance) * (count + 2) / count


@dataclass(frozen=True)
class Row:
    """Scores of one model.

    knn, probe: accuracy in percent, or R2; of several draws the mean. num_features: width of the features.
    strength: the chosen C of the linear probe. converged: whether the linear probe reached its tolerance.
    seen: whether the model was trained on test samples with their labels.
    draws: how often the weights were drawn. knn_spread, probe_spread: standard deviation over the draws.
    reference: whether this is a method that learns from the training samples alone; its score stands for a linear probe, and it has
        no neighbours.
    """

    name: str
    knn: float | None
    probe: float
    num_features: int | None = None
    strength: float | None = None
    converged: bool = True
    seen: bool = False
    draws: int = 1
    knn_spread: float = 0.0
    probe_spread: float = 0.0
    reference: bool = False

    @classmethod
    def mean(cls, rows: Sequence["Row"]) -> "Row":
        """The mean of rows that differ in their draw only, under the name of the first."""
        knn, probe = ([float(vars(row)[score]) for row in rows] for score in SCORES)
        spreads = (stdev(knn), stdev(probe)) if len(rows) > 1 else (0.0, 0.0)
        return replace(
            rows[0],
            knn=mean(knn),
            probe=mean(probe),
            converged=all(row.converged for row in rows),
            draws=len(rows),
            knn_spread=spreads[0],
            probe_spread=spreads[1],
        )


@dataclass(frozen=True)
class Table(Shown):
    """Scores of several models by one protocol.

    metric: "accuracy" or "mean average precision" (in percent), or "R2". data, train, test: what was read.
    notes: what a reader should know besides.
    """

    protocol: str
    metric: str
    data: str
    num_train: int
    num_test: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def titles(self) -> Mapping[str, str]:
        return SCORES

    def value(self, row: Row, score: str) -> float:
        found: float | None = vars(row)[score]
        return math.nan if found is None else float(found)

    def spread(self, row: Row, score: str) -> float:
        return float(vars(row)[f"{score}_spread"])

    @property
    def title(self) -> str:
        unit = f"{self.metric} in %" if self.metric in SHARES else self.metric
        return f"{self.data}: {unit}, {self.num_train:,} train and {self.num_test:,} test samples, {self.protocol}"

    @property
    def remarks(self) -> list[str]:
        """The notes, and what is known about single rows."""
        drawn = [f"{row.name}: mean and standard deviation of {row.draws} draws." for row in self.rows if row.draws > 1]
        unfinished = [row.name for row in self.rows if not row.converged]
        return [*self.notes, *drawn, *(f"The linear probe of {name} stopped before it had converged." for name in unfinished)]

    @property
    def margins(self) -> dict[str, float]:
        """By how much the linear probe of the first row beats each baseline."""
        return {row.name: self.rows[0].probe - row.probe for row in self.rows if row.name in BASELINES or row.reference}

    @property
    def wins(self) -> bool:
        """Whether the linear probe of the first row, on unseen samples, beats every baseline by more than the error."""
        first = self.rows[0]
        return not first.seen and all(margin > self.error(first, self.row(name)) for name, margin in self.margins.items())

    @property
    def verdict(self) -> str:
        """One sentence: the linear probe of the first row beside the baselines, or why there is nothing to compare."""
        first = self.rows[0]
        if first.seen:
            return f"No verdict: {first.name} was trained on test samples with their labels."
        margins = {name: (margin, self.error(first, self.row(name))) for name, margin in self.margins.items()}
        return f"Linear probe: {first.name} reaches {self.shown(first.probe)}, {self.beside(margins)}."

    def error(self, a: Row, b: Row) -> float:
        """The difference of two scores that samples and draws alone may make.

        Draws: half the 95 % interval of one more draw beside the mean of n, t(n - 1) s sqrt(1 + 1 / n), as the scored model is one.
        Of rows of a single draw that is not known, and counts nothing.
        """
        from scipy.stats import t  # takes a second, and few need it

        several = [row for row in (a, b) if row.draws > 1]
        drawn = [row.probe_spread * float(t.ppf(0.975, row.draws - 1)) * math.sqrt(1 + 1 / row.draws) for row in several]
        return math.hypot(self.sampling_error(a, b), *drawn)

    def sampling_error(self, a: Row, b: Row) -> float:
        """The difference of two scores, on as many independent test samples, whose 95 % interval just holds 0.

        Of accuracies: `difference_error`; so of average precisions, whose interval is nearly binomial (Boyd, Eng and Page 2013, doi
        10.1007/978-3-642-40994-3_29), here of as many trials as samples. Of R2: that of two mean squares of n normal errors, whose
        standard error is sqrt(2 / n) of themselves.
        """
        if self.metric not in SHARES:
            return 1.96 * math.sqrt(sum((1 - row.probe) ** 2 * 2 / self.num_test for row in (a, b)))
        return difference_error((a.probe, b.probe), self.num_test)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Table":
        """What `to_dict` returned. ValueError for anything else."""
        return cls(**checked_values(cls, values, Row))


@dataclass(frozen=True)
class PairRow:
    """Scores of one model in percent, by the keys of the table's `titles`.

    num_features: width of the space. seen: whether the model was trained on these pairs, or on the samples with their labels.
    """

    name: str
    scores: dict[str, float]
    num_features: int | None = None
    seen: bool = False


@dataclass(frozen=True)
class PairTable(Shown):
    """Scores of models that map modalities into one space, or label places of samples.

    task: `RETRIEVAL`, `ZERO_SHOT` or the scores of places. data: what was scored. num_test: pairs, or samples.
    columns: title of each score. headline: the scores whose mean the verdict is about, with what to call it.
    """

    protocol: str
    task: str
    data: str
    num_test: int
    columns: dict[str, str]
    headline: tuple[str, ...]
    headline_title: str
    rows: tuple[PairRow, ...]
    notes: tuple[str, ...] = ()
    metric: str = "accuracy"

    @property
    def titles(self) -> Mapping[str, str]:
        return self.columns

    def value(self, row: PairRow, score: str) -> float:
        return row.scores[score]

    @property
    def title(self) -> str:
        return (
            f"{self.data}: {self.task} in %, {self.num_test:,} {'pairs' if len(self.headline) > 1 else 'samples'}, {self.protocol}"
        )

    @property
    def remarks(self) -> list[str]:
        return list(self.notes)

    def main(self, row: PairRow) -> float:
        """The score of a row that the verdict is about."""
        return mean(row.scores[key] for key in self.headline)

    @property
    def margins(self) -> dict[str, float]:
        """By how much the first row beats each baseline."""
        return {row.name: self.main(self.rows[0]) - self.main(row) for row in self.rows if row.name in PAIR_BASELINES}

    @property
    def wins(self) -> bool:
        errors = self._errors
        return not self.rows[0].seen and all(margin > errors[name] for name, margin in self.margins.items())

    @property
    def _errors(self) -> dict[str, float]:
        first = self.main(self.rows[0])
        return {name: difference_error((first, self.main(self.row(name))), self.num_test) for name in self.margins}

    @property
    def verdict(self) -> str:
        first = self.rows[0]
        if first.seen:
            return f"No verdict: {first.name} was trained on what is scored."
        errors = self._errors
        margins = {name: (margin, errors[name]) for name, margin in self.margins.items()}
        return f"{self.headline_title}: {first.name} reaches {self.shown(self.main(first))}, {self.beside(margins)}."

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back."""
        found = asdict(self) | {"rows": [asdict(row) for row in self.rows]}
        return found | {"notes": list(self.notes), "headline": list(self.headline)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PairTable":
        """What `to_dict` returned. ValueError for anything else."""
        found = checked_values(cls, values, PairRow)
        return cls(**{**found, "headline": tuple(found["headline"])})


def checked_values(kind: type[Any], values: Mapping[str, Any], row: type[Any]) -> dict[str, Any]:
    """The arguments of a table that was stored. ValueError for anything else."""
    known = {field.name for field in fields(kind)}
    if set(values) != known:
        raise ValueError(f"not a table of scores: expected the keys {sorted(known)}, got {sorted(values)}")
    return {**values, "rows": tuple(row(**one) for one in values["rows"]), "notes": tuple(values["notes"])}

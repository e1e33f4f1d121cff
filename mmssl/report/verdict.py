"""One word on a run, before all numbers: did it learn, and is what it made better than nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmssl.evaluation import Shown
from mmssl.evaluation.table import RANDOM

Level = Literal["good", "watch", "bad", "open"]

NOT_LEARNING = ("constant", "diverging", "collapse", "flat", "alike", "one_prototype", "uniform", "no_pairs")
"""Flags of a run (`mmssl.training.health`) that has nothing to show, whatever its scores."""


@dataclass(frozen=True)
class Verdict:
    """level: good, watch (look closer), bad, or open (not scored). title: a few words. text: the reason, and what to do."""

    level: Level
    title: str
    text: str

    def beside(self, tables: Sequence[Shown]) -> str:
        """A line below printed tables, which say their part themselves."""
        told = any(table.verdict in self.text for table in tables)
        return f"verdict: {self.title}" + ("" if told else f": {self.text}")


def verdict(tables: Sequence[Shown], flags: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on a run with these scores and flags (each with `name` and `message`)."""
    grave = [flag for flag in flags if flag["name"] in NOT_LEARNING]
    if grave:
        return Verdict("bad", "Not learning", f"{grave[-1]['message']}.")
    unseen = [table for table in tables if not table.rows[0].seen]
    if tables and not unseen:
        return Verdict("open", "No verdict", tables[0].verdict.removeprefix("No verdict: "))
    below = [table for table in unseen if table.margins.get(RANDOM, 0.0) < 0]
    if below:
        return Verdict("bad", "Below random weights", f"{below[0].verdict} Train for longer, or change train.lr or the objective.")
    if flags:
        return Verdict("watch", "Look closer", f"{flags[-1]['message']}.")
    if not tables:
        way_out = "Name a column of labels (data.columns.label) and set evaluate={}, or look at curves and pictures"
        return Verdict("open", "Not scored", f"nothing was asked to be scored. {way_out}.")
    weak = next((table for table in unseen if not table.wins), None)
    if weak is not None:
        return Verdict("watch", "Not clearly better than its baselines", f"{weak.verdict} Train for longer, or score more samples.")
    return Verdict("good", "Healthy", unseen[0].verdict)

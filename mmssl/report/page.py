"""What a run leaves for people: a self-contained page of its results, and the card of its model."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmssl import files
from mmssl.evaluation import SCORES, Shown, Table
from mmssl.report.charts import Chart, chart
from mmssl.report.contents import share
from mmssl.report.numbers import compact
from mmssl.report.places import Tagged
from mmssl.report.verdict import verdict
from mmssl.report.words import explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
NOT_DRAWN = ("step", "epoch", "samples", "seconds", "skipped", "flags")
"""Columns of metrics.jsonl that say where a run is, or what is wrong with it, not how well it does."""
TITLES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "teacher_left": "Share of its first weights left in the teacher",
    "samples_per_second": "Samples per second",
    "grad_norm": "Gradient norm",
}
LINEAR = ("lr", "samples_per_second")
TILES = {"parameters": "parameters", "steps": "steps", "samples": "samples", "minutes": "minutes of training", "skipped": "skipped"}
"""Facts that are shown large, with their captions."""
OWN_PLACE = ("command", "skipped_messages", "flags", "notes", "contents")
"""Facts with a section of their own."""
MOST_PARTS = 300
"""Parts of samples (columns of a table) that the page lists; run.json has all."""

Row = Mapping[str, int | float]
T = TypeVar("T")


def write_report(
    run_folder: Path,
    *,
    recipe_yaml: str,
    tables: Sequence[Shown],
    figures: "Mapping[str, Figure | Tagged]",
    metrics: Sequence[Row],
    facts: Mapping[str, Any],
    tell: Callable[[str], object] = str,
) -> Path:
    """Write `report.html` into the folder of a run: one file without scripts, that loads nothing from elsewhere; returns its path.

    A picture, or the charts, that cannot be drawn are left out; `tell` hears of it, and the notes of the report say it.
    figures: pictures, or words in colours, by title. metrics: rows of metrics.jsonl, each with its `step`.
    facts: `command`, `skipped_messages` and `notes` (lists), `contents` (by modality, records of `mmssl.contents.Content`), `flags`
        (each with `name`, `step` and `message`), the numbers named in `TILES`, and anything else worth a line.
    """
    missing: list[str] = []
    probed = [table for table in tables if isinstance(table, Table)]
    tagged = {title: each for title, each in figures.items() if isinstance(each, Tagged)}
    pictures = {title: partial(picture, each) for title, each in figures.items() if not isinstance(each, Tagged)}
    drawn = _drawn(pictures, missing)
    curves = _drawn({"": partial(charts, metrics, probed[0] if len(probed) == 1 else None)}, missing)
    page = template("page.html.j2").render(
        name=run_folder.name,
        verdict=verdict(tables, facts.get("flags", [])),
        tables=tables,
        tiles=[(compact_count(facts[key]), caption) for key, caption in TILES.items() if key in facts],
        charts=curves.get("", []),
        pictures=list(drawn.items()),
        tagged=tagged,
        facts=[(key, plain(value)) for key, value in facts.items() if key not in (*TILES, *OWN_PLACE)],
        recipe=recipe_yaml,
        command=facts.get("command"),
        flags=facts.get("flags", []),
        skipped=facts.get("skipped", 0),
        messages=facts.get("skipped_messages", []),
        notes=[*facts.get("notes", []), *missing],
        contents={name: odd_first(parts) for name, parts in facts.get("contents", {}).items()},
        most=MOST_PARTS,
        share=share,
        words={TITLES.get(word, word.replace("_", " ")): meaning for word, meaning in explained(shown(tables, metrics)).items()},
    )
    path = run_folder / REPORT
    files.write_text(path, page)
    for note in missing:
        tell(note)
    return path


def _drawn(what: Mapping[str, Callable[[], T]], missing: list[str]) -> dict[str, T]:
    """What could be drawn, by its title; the rest is told. Whatever a plug-in's figure does, the scores are worth a report."""
    found: dict[str, T] = {}
    for title, draw in what.items():
        try:
            found[title] = draw()
        except Exception as error:
            missing.append(f"The report has no {f'picture {title!r}' if title else 'charts'}: {type(error).__name__}: {error}")
    return found


def template(name: str) -> Any:
    """A page of this folder to fill in; what is put in is escaped."""
    environment = Environment(
        loader=PackageLoader("mmssl.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def shown(tables: Sequence[Shown], metrics: Sequence[Row]) -> set[str]:
    """Names that stand in tables and above charts."""
    rows = {row.name for table in tables for row in table.rows}
    return {title for table in tables for title in table.titles.values()} | rows | {key for row in metrics for key in row}


def odd_first(parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that look odd before the others, as the page shows `MOST_PARTS`; else in their order."""
    return sorted(parts, key=lambda part: not part["odd"]) if len(parts) > MOST_PARTS else list(parts)


def charts(metrics: Sequence[Row], table: Table | None) -> list[Chart]:
    """Charts of all metrics over steps: loss first, then probes during training beside the baselines, then the others."""
    names = dict.fromkeys(key for row in metrics for key in row if key not in (*NOT_DRAWN, *SCORES))
    order = sorted(names, key=lambda name: name != "loss")
    found = [
        chart(
            TITLES.get(name, name.replace("_", " ").capitalize()),
            {name: series(metrics, name)},
            allow_log=name not in LINEAR,
            from_zero=name in LINEAR,
        )
        for name in order
    ]
    return [chart for chart in (*found[:1], probe_chart(metrics, table), *found[1:]) if chart is not None]


def probe_chart(metrics: Sequence[Row], table: Table | None) -> Chart | None:
    """Scores during training; levels are the linear probes of the baselines."""
    levels = {} if table is None else {f"{name}, linear probe": table.row(name).probe for name in table.margins}
    return chart("Probes during training", {title: series(metrics, key) for key, title in SCORES.items()}, levels=levels)


def series(metrics: Sequence[Row], name: str) -> list[tuple[int | float, int | float]]:
    return [(row["step"], row[name]) for row in metrics if name in row]


def picture(figure: "Figure") -> str:
    """A figure as a data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, bbox_inches="tight", facecolor="white")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def compact_count(value: int | float) -> str:
    """A number as a person would say it: 360, 1,797, 12.3k, 2.67M, 9.98."""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10_000 else compact(value, 3)
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def plain(value: Any) -> str:
    """A fact in words; what it holds is listed, empty values are a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items() if item not in (None, "", []))
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)

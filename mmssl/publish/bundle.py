"""The folder that is published: a model with all that people need to use it, and nothing of the machine that made it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from mmssl import files
from mmssl.evaluation import Shown, table_of
from mmssl.evaluation.history import History
from mmssl.model import faced, no_weights_bar, without_deepspeed
from mmssl.model.auto import write_auto_files
from mmssl.model.needed import write_needed
from mmssl.model.sentence import write_sentence_files
from mmssl.publish.benchmarks import leaderboard
from mmssl.publish.card import CURVES, HUB_NAME, Facts, Licence, card
from mmssl.publish.chosen import Chosen
from mmssl.publish.local import Machine
from mmssl.publish.remote import write_remote_code
from mmssl.recipe import Recipe, yaml12
from mmssl.training.run import Run

RECIPE, METRICS, ENVIRONMENT, RESULTS = "recipe.yaml", "metrics.jsonl", "environment.json", ".eval_results"
FROM_RECORD = ("published", "parameters", "steps", "samples", "minutes", "skipped", "started", "trained", "commit", "platform")
"""Facts of a run that its environment.json holds beside versions and hardware. Nothing else of run.json leaves."""
DRAWN = ("loss", "lr", "knn", "probe")
"""Columns of the metrics that the picture shows, where there are such."""

NOTE = "# Published by mmssl. Paths are cut to their last part: give your own, as in data.path=PATH.\n"


def assemble(
    folder: Path, run: Run, found: Chosen, machine: Machine, *, name: str, repo: str | None, licence: Licence, with_code: bool
) -> list[str]:
    """Fill a folder with what is published of a run; returns what a user should know."""
    found.model.config.published = found.kind
    with no_weights_bar(), without_deepspeed():
        faced(found.model).save_pretrained(folder)
    found.processor.save_pretrained(folder)
    write_sentence_files(folder, found.processor.processors)
    write_auto_files(folder, found.processor)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    history = without_paths(found.history, machine)
    history.write(folder)
    recipe = machine.cleaned(Recipe.read_resolved(run.recipe_file))
    recipe_yaml = yaml12.dump(recipe)
    (folder / RECIPE).write_text(NOTE + recipe_yaml, encoding="utf-8")
    rows = run.rows()
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record = run.read_record()
    files.write_json(folder / ENVIRONMENT, environment(record, found.kind, machine))
    tables = [table_without_paths(table, machine) for table in found.tables]
    notes = write_results(folder / RESULTS, tables, record["trained"])
    drawn = draw_curves(rows, folder / CURVES)
    (write_remote_code if with_code else write_needed)(folder, found.model.config)
    init = recipe.get("init")
    facts = Facts(
        name=name,
        repo=repo,
        kind=found.kind,
        modalities=list(found.model.config.modalities),
        trained=history.trained,
        complete=history.complete,
        tables=tables,
        judged=found.judged,
        record=told(record, machine),
        recipe_yaml=recipe_yaml,
        licence=licence,
        head=None if found.model.config.label_head is None else found.model.label_head,
        base=init if isinstance(init, str) and HUB_NAME.fullmatch(init) and not Path(init).exists() else None,
        alone=with_code,
        curves=drawn,
    )
    (folder / "README.md").write_text(card(facts), encoding="utf-8")
    return notes


def write_results(folder: Path, tables: Sequence[Shown], date: str) -> list[str]:
    """Write the scores that leaderboards of the Hub read, a file for each table that has some; returns what could not be asked."""
    notes = []
    for number, table in enumerate(tables):
        try:
            entries = leaderboard(table, date)
        except (ConnectionError, ValueError) as error:
            notes.append(f"there is nothing for the leaderboard of {table.data}: {error}")
            continue
        if entries:
            folder.mkdir(exist_ok=True)
            title = table.data.replace("/", "--").replace(":", "--")
            file = folder / f"{title}{f'-{number}' if number else ''}.yaml"
            file.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    return notes


def told(record: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """What a card says of a run, its paths cut."""
    facts = {key: record.get(key) for key in ("versions", "flags", "skipped", *FROM_RECORD)}
    cleaned: dict[str, Any] = machine.cleaned(facts)
    return cleaned | {"command": machine.without_paths(record["command"])}


def environment(record: Mapping[str, Any], kind: str | None, machine: Machine) -> dict[str, Any]:
    """Where and how a run was made: versions, hardware, counts."""
    facts = {key: record[key] for key in ("versions", "hardware", *FROM_RECORD) if key in record}
    found: dict[str, Any] = machine.cleaned({"weights": kind} | facts)
    return found


def without_paths(history: History, machine: Machine) -> History:
    """What a model was trained on, its data by their names alone; fingerprints tell which they are."""
    return replace(history, trained=tuple(replace(entry, path=machine.cleaned(entry.path)) for entry in history.trained))


def table_without_paths(table: Shown, machine: Machine) -> Shown:
    """The same scores, the data by their names."""
    values = machine.cleaned(table.to_dict())
    return table_of(values)


def draw_curves(rows: list[dict[str, Any]], file: Path) -> bool:
    """A picture of what was measured over the steps; whether there was anything to draw."""
    names = [name for name in DRAWN if sum(name in row for row in rows) > 1]
    if not names:
        return False
    figure = Figure(figsize=(3.2 * len(names), 2.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), linewidth=1.4)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    return True

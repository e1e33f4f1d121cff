"""Scores for leaderboards of the Hub: `.eval_results/` beside a model, where its data are a benchmark there.

A benchmark is a dataset whose `eval.yaml` names tasks. A result names one of them; the Hub refuses others
(https://huggingface.co/docs/hub/eval-results). All other scores are the card's, as `model-index`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from mmssl.evaluation import Shown, Table
from mmssl.evaluation.table import OWN
from mmssl.publish.card import HUB_NAME
from mmssl.recipe.yaml12 import parse
from mmssl.report.card import named, share

TASKS = "eval.yaml"
"""The file of a dataset that makes it a benchmark."""
DEFAULT = "default"
"""The configuration of a dataset that has one only."""


def leaderboard(table: Shown, date: str) -> list[dict[str, Any]]:
    """What `.eval_results/` says of a table: one score of the model for the task that its data are; nothing of other data.

    date: of the score. ConnectionError where the Hub cannot be asked what it knows of the data, ValueError where that is no YAML.
    """
    if not HUB_NAME.fullmatch(table.data) or table.rows[0].seen:
        return []
    task = task_of(table.data)
    if task is None:
        return []
    own = next((row for row in table.rows if row.name == OWN and isinstance(table, Table)), None)
    key = "probe" if isinstance(table, Table) else next(iter(table.titles))
    title = named(table, table.titles[key]) if own is None else "its own predictions"
    entry = EvalResultEntry(
        dataset_id=table.data.partition(":")[0],
        task_id=task,
        value=share(table, table.value(own or table.rows[0], key)),
        date=date,
        notes=f"{title}, {table.protocol}, by mmssl",
    )
    return eval_result_entries_to_yaml([entry])


def task_of(data: str) -> str | None:
    """The task that a dataset of the Hub, `owner/name` or `owner/name:configuration`, stands for; None where it is no benchmark.

    None as well where several of its tasks are on this configuration. ConnectionError where the Hub cannot be reached.
    """
    name, _, config = data.partition(":")
    try:
        file = hf_hub_download(name, TASKS, repo_type="dataset")
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise ConnectionError(f"whether {name} is a benchmark of the Hub cannot be asked now") from error
        return None
    said = parse(Path(file).read_text(encoding="utf-8"), f"{name}/{TASKS}")
    tasks = said.get("tasks") if isinstance(said, Mapping) else None
    found = [
        each["id"]
        for each in (tasks if isinstance(tasks, list) else [])
        if isinstance(each, Mapping) and isinstance(each.get("id"), str) and each.get("config", DEFAULT) == (config or DEFAULT)
    ]
    return found[0] if len(found) == 1 else None

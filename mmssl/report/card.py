"""The card of a published model, as the Hub shows it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmssl.evaluation import DENSE_PROTOCOL, RETRIEVAL, ZERO_SHOT, ForecastTable, Judged, PairTable, Shown, Table
from mmssl.evaluation.table import MAP, OWN, SHARES
from mmssl.modality import find
from mmssl.model import LabelHead

MOST_CLASSES = 20
"""Up to so many classes the card has a table of their confusion."""

FOLDER = "path/to/this/folder"
"""What stands for the place of a model that is not on the Hub."""

FEATURES, FORECASTING = "feature-extraction", "time-series-forecasting"
"""Tasks, as the Hub calls them."""


def model_card(
    *,
    name: str,
    modalities: Sequence[str],
    tables: Sequence[Shown],
    record: Mapping[str, Any],
    recipe_yaml: str,
    head: LabelHead | None = None,
    judged: Sequence[Judged] = (),
    kind: str | None = None,
) -> str:
    """README.md of a published model: metadata for the Hugging Face Hub, how to use it, how good it is, how it was made.

    record: `command`, `versions` and `flags` of the run. The licence is left to whoever publishes the model.
    head: of a model that predicts labels. judged: what its predictions are worth. kind: student, teacher or average.
    """
    header = metadata(name, head, modalities, tables)
    card = ModelCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        name=name,
        modalities=modalities,
        tables=tables,
        warnings=[flag["message"] for flag in record.get("flags", [])],
        command=record["command"],
        versions=", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        recipe=recipe_yaml.rstrip(),
        usage=partial(usage, head),
        introduction=f"{introduction(head, modalities)}{WEIGHTS.get(kind, '')}",
        confusions=[confused(one.names, one.confusion) for one in judged if 0 < len(one.confusion) <= MOST_CLASSES],
        fenced=fenced,
    )
    return f"{card}\n"


def metadata(name: str, head: LabelHead | None, modalities: Sequence[str], tables: Sequence[Shown], **more: Any) -> ModelCardData:
    """What the Hub's pages read of a model: library, task, tags, and its scores. more: other keys of the header.

    transformers opens it, and pages of the Hub say how; what it is made with stands among the tags.
    """
    task = pipeline_of(head, modalities[0])
    scores = [result for table in tables for result in results(table, task)]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["mmssl", "self-supervised-learning" if head is None else task_of(head), *modalities],
        model_name=name if scores else None,
        eval_results=scores or None,
        **more,
    )


def task_of(head: LabelHead | None) -> str:
    """What a model with this head does, as tags of the Hub say it."""
    return "classification" if head is None else head.task


def pipeline_of(head: LabelHead | None, modality: str) -> str | None:
    """The Hub's name of that task for a modality, where it has one."""
    if head is None:
        return FEATURES
    task = task_of(head)
    return task if head.forecasts else find(modality).tasks.get(task)


WEIGHTS: Mapping[str | None, str] = {
    "student": " These weights are the student's, as the last step left them.",
    "teacher": " These weights are the teacher's, an average that training itself keeps.",
    "average": " These weights are the average of the weights over training.",
}
"""What a card says of the network that a run publishes."""


def results(table: Shown, task: str | None = None) -> list[EvalResult]:
    """All scores of a table in the Hub's form: its own predictions first, then features, then baselines by their names.

    None of samples that were trained on with labels. Accuracies are shares. task: of the model, as the Hub calls it.
    """
    if table.rows[0].seen:
        return []
    found = []
    for row in sorted(table.rows, key=lambda row: row.name != OWN):
        suffix = "" if row is table.rows[0] else f", {row.name}"
        own = row.name == OWN and isinstance(table, Table)
        titles = {"probe": "its own predictions"} if own else {key: named(table, t) for key, t in table.titles.items()}
        values = {title: table.value(row, key) for key, title in titles.items()}
        found += [
            EvalResult(
                task_type=(row.name == OWN and task) or task_type_of(table),
                dataset_type=table.data,
                dataset_name=table.data,
                metric_type=metric_type_of(table, title),
                metric_name=title if own else f"{title}{suffix} ({table.protocol})",
                metric_value=share(table, value),
            )
            for title, value in values.items()
            if value == value  # a reference has no neighbours
        ]
    return found


def share(table: Shown, value: float) -> float:
    """A score as the Hub counts it."""
    return round(value / (100 if table.metric in SHARES else 1), 4)


def task_type_of(table: Shown) -> str:
    """The Hub's name of what a table scores: forecasts, or features."""
    return FORECASTING if isinstance(table, ForecastTable) else FEATURES


def named(table: Shown, title: str) -> str:
    """A score by a name that stands alone."""
    return f"zero-shot {title}" if isinstance(table, PairTable) and table.task == ZERO_SHOT else title


def metric_type_of(table: Shown, name: str) -> str:
    """What the Hub calls a score of that name."""
    if isinstance(table, PairTable) and table.protocol == DENSE_PROTOCOL:
        return {"mean IoU": "mean_iou", "macro F1": "f1"}.get(name.partition(" (")[0], "accuracy")
    if isinstance(table, ForecastTable):
        return "mse" if name.startswith("MSE") else "mae"
    if table.metric != "accuracy":
        return "map" if table.metric == MAP else "r_squared"
    return "recall" if isinstance(table, PairTable) and table.task == RETRIEVAL else "accuracy"


def introduction(head: LabelHead | None, modalities: Sequence[str]) -> str:
    """What the model is, in a sentence."""
    data = " and ".join(modalities)
    if head is None:
        return f"A self-supervised encoder for {data} data, pretrained with mmssl."
    if head.dense:
        place = {"map": "pixel", "sequence": "word", "steps": "step"}[head.places or "map"]
        return f"A model that predicts the class of each {place} of {data} data, trained on labels with mmssl."
    what = {"regression": "number" if head.shape is None else "numbers", "multi_label": "labels"}.get(head.kind, "class")
    if head.windows is not None:
        steps = f"the next {head.windows['horizon']} steps of {data} data from the {head.windows['context']} before"
        return f"A model that forecasts {steps}, trained with mmssl."
    named = f" `{head.column}`" if head.column else ""
    return f"A model that predicts the {what}{named} of {data} data, trained on labels with mmssl."


def usage(head: LabelHead | None, modality: str, place: str = FOLDER) -> str:
    """How features, or labels, are told of samples, as a person would type it. place: what `from_pretrained` takes."""
    keyword = find(modality).keyword
    if head is None:
        return f"""import mmssl  # registers the classes below
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{place}").eval()
processor = AutoProcessor.from_pretrained("{place}")
features = model(**processor({keyword}={keyword})).pooler_output"""
    name = head.face
    return f"""from mmssl import {name}
from transformers import AutoProcessor

model = {name}.from_pretrained("{place}").eval()
processor = AutoProcessor.from_pretrained("{place}")
logits = model(**processor({keyword}={keyword})).logits
{told_of_logits(head)}"""


def told_of_logits(head: LabelHead) -> str:
    """What a person makes of logits, in a line of Python."""
    values = "next_steps = logits" if head.forecasts else f"values = logits.reshape{(-1, *(head.shape or ()))}"
    return {
        "dense": {"map": "label_map = logits.argmax(1)", "sequence": "tags = logits.argmax(2)"}.get(
            head.places or "map", "classes = logits.argmax(2)"
        ),
        "regression": "value = logits[:, 0]" if head.shape is None else values,
        "multi_label": "labels = [model.config.id2label[int(number)] for number in (logits[0] > 0).nonzero()]",
    }.get(head.kind, "label = model.config.id2label[int(logits[0].argmax())]")


def confused(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """A table of how many samples of each class were taken for each class."""
    lines = [f"| true \\ predicted | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    rows = zip(names, confusion, strict=True)
    return "\n".join([*lines, *(f"| {name} | {' | '.join(map(str, counts))} |" for name, counts in rows)])


def fenced(text: str, language: str) -> str:
    """A Markdown code block that ends where `text` does, whatever it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"

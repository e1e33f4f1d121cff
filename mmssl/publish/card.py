"""The card of a model on the Hub: metadata that its pages read, and what people should know before they use it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from mmssl.evaluation import Shown
from mmssl.evaluation.history import Trained
from mmssl.modality import find
from mmssl.model import LabelHead
from mmssl.model.needed import OTHERS, TASKS
from mmssl.report.card import (
    FOLDER,
    MOST_CLASSES,
    WEIGHTS,
    confused,
    fenced,
    introduction,
    metadata,
    pipeline_of,
    told_of_logits,
    usage,
)

CURVES = "curves.png"
MOST_COLUMNS = 20
"""Columns of data that the card names."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
"""A dataset of the Hub as a recipe names it, `owner/name` or `owner/name:configuration`."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """What the Hub's metadata say of the licence of a model.

    key: one of the Hub's identifiers (apache-2.0, cc-by-4.0, ...), or other, which needs `name`; None: it is not set. link: to its
    text, a file of the repository or an address.
    """

    key: str | None = None
    name: str | None = None
    link: str | None = None

    def __post_init__(self) -> None:
        if self.key is None and (self.name or self.link):
            raise ValueError("--license-name and --license-link go with --license other; add it")
        if self.key is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.key):
            raise ValueError(f"--license takes an identifier of the Hub, as apache-2.0, mit, cc-by-4.0 or other; got {self.key!r}")
        if self.key == "other" and not self.name:
            raise ValueError("--license other needs its name, as in --license-name my-licence-1.0, and better a --license-link")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is made of; texts hold no paths any more.

    name: of the model. repo: of the Hub; None for a folder. kind: student, teacher or average, where it is known.
    trained: what the model was trained on. tables: its scores. judged: what its own predictions are worth.
    record: of the run. recipe_yaml: its recipe. base: the model of the Hub that it started from. alone: whether the folder brings
    code that needs no mmssl. curves: whether there is a picture of them.
    """

    name: str
    repo: str | None
    kind: str | None
    modalities: Sequence[str]
    trained: Sequence[Trained]
    complete: bool
    tables: Sequence[Shown]
    judged: Sequence[Mapping[str, Any]]
    record: Mapping[str, Any]
    recipe_yaml: str
    licence: Licence
    head: LabelHead | None
    base: str | None
    alone: bool
    curves: bool

    @property
    def place(self) -> str:
        """What a user gives to `from_pretrained`."""
        return self.repo or FOLDER


def card(facts: Facts) -> str:
    """README.md of a published model."""
    header = metadata(
        facts.name,
        facts.head,
        facts.modalities,
        facts.tables,
        license=facts.licence.key,
        license_name=facts.licence.name,
        license_link=facts.licence.link,
        datasets=sorted({name.partition(":")[0] for name in map(hub_dataset, facts.trained) if name}) or None,
        base_model=facts.base,
    )
    record = facts.record
    made = ModelCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        facts=facts,
        introduction=introduction(facts.head, facts.modalities),
        weights=WEIGHTS.get(facts.kind, ""),
        data=[told(entry) for entry in facts.trained],
        confusions=[confused(one["names"], one["confusion"]) for one in facts.judged if 0 < len(one["confusion"]) <= MOST_CLASSES],
        versions=", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        flags=record.get("flags", []),
        usage=partial(usage, facts.head, place=facts.place),
        alone=alone,
        by_command=by_command,
        fenced=fenced,
        curves=CURVES if facts.curves else None,
    )
    return re.sub(r"\n{3,}", "\n\n", f"{made}\n")  # of what the template left out


def hub_dataset(entry: Trained) -> str | None:
    """The dataset of the Hub that was trained on; None for local data, whose names say nothing there, and for bundled ones."""
    return entry.path if HUB_NAME.fullmatch(entry.path) and not entry.path.startswith("bundled:") else None


def told(entry: Trained) -> str:
    """What was trained on, in a sentence."""
    columns = ", ".join(f"`{name}`" for name in entry.inputs[:MOST_COLUMNS])
    more = f" and {len(entry.inputs) - MOST_COLUMNS:,} more columns" if len(entry.inputs) > MOST_COLUMNS else ""
    labels = f" with the labels `{entry.label}`" if entry.label is not None else " without labels"
    held = f"; a fifth, chosen by `{entry.held_out}`, was held out" if entry.held_out is not None else ""
    part = f", {entry.split}" if entry.split else ""
    prints = f"fingerprint `{entry.content}`" + (f", of its labels `{entry.labels}`" if entry.labels else "")
    return f"`{entry.path}`{part}: {entry.rows:,} rows, {columns}{more}, {entry.objective}{labels}{held}; {prints}"


def alone(facts: Facts, modality: str) -> str:
    """Features, or labels, by transformers alone, with the code of the folder."""
    keyword = find(modality).keyword
    auto = "AutoModel" if facts.head is None else auto_of(facts.head, modality)
    last = "features = {}.pooler_output" if facts.head is None else "logits = {}.logits\n" + told_of_logits(facts.head)
    return f"""from transformers import {auto}, AutoProcessor

model = {auto}.from_pretrained("{facts.place}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{facts.place}", trust_remote_code=True)
{last.format(f"model(**processor({keyword}={keyword}))")}"""


def auto_of(head: LabelHead, modality: str) -> str:
    """The Auto class that opens a model with this head: that of its pipeline, where there is one."""
    autos, task = OTHERS.get(head.task, TASKS), (pipeline_of(head, modality) or "").replace("-", "")
    return next((auto for auto in autos if task and auto.lower().endswith(task)), autos[-1])


def by_command(facts: Facts) -> str:
    """On the command line."""
    what = "embed" if facts.head is None else "predict"
    lines = [f"mmssl {what} {facts.place} --data PATH --output {what}.parquet"]
    lines += [f"mmssl train hf://{facts.repo} data.path=PATH init={facts.repo}"] if facts.repo else []
    return "\n".join(lines)

"""The card of a published model, as the Hub shows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmssl.evaluation import RETRIEVAL, ZERO_SHOT, PairTable, Shown
from mmssl.modality import find


def model_card(
    *, name: str, modalities: Sequence[str], tables: Sequence[Shown], record: Mapping[str, Any], recipe_yaml: str
) -> str:
    """README.md of a published model: metadata for the Hugging Face Hub, how to use it, how good it is, how it was made.

    record: `command` and `versions` of the run. The licence is left to whoever publishes the model.
    """
    scores = [result for table in tables for result in results(table)]
    header = ModelCardData(
        library_name="mmssl",
        pipeline_tag="feature-extraction",
        tags=["mmssl", "self-supervised-learning", *modalities],
        model_name=name if scores else None,
        eval_results=scores or None,
    )
    card = ModelCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        name=name,
        modalities=modalities,
        tables=tables,
        command=record["command"],
        versions=", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        recipe=recipe_yaml.rstrip(),
        usage=usage,
        fenced=fenced,
    )
    return f"{card}\n"


def results(table: Shown) -> list[EvalResult]:
    """The scores of the model in the Hub's form, where accuracies are shares; none of samples whose labels it was trained on."""
    first, is_share = table.rows[0], table.metric == "accuracy"
    if first.seen:
        return []
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=table.data,
            dataset_name=table.data,
            metric_type=metric_type_of(table),
            metric_name=f"{named(table, title)} ({table.protocol})",
            metric_value=round(table.value(first, key) / (100 if is_share else 1), 4),
        )
        for key, title in table.titles.items()
    ]


def named(table: Shown, title: str) -> str:
    """A score by a name that stands alone."""
    return f"zero-shot {title}" if isinstance(table, PairTable) and table.task == ZERO_SHOT else title


def metric_type_of(table: Shown) -> str:
    """What the Hub calls a score."""
    if table.metric != "accuracy":
        return "r_squared"
    return "recall" if isinstance(table, PairTable) and table.task == RETRIEVAL else "accuracy"


def usage(modality: str) -> str:
    """How features are computed, as a person would type it."""
    keyword = find(modality).keyword
    return f"""import mmssl  # registers the classes below
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("path/to/this/folder").eval()
processor = AutoProcessor.from_pretrained("path/to/this/folder")
features = model(**processor({keyword}={keyword})).pooler_output"""


def fenced(text: str, language: str) -> str:
    """A Markdown code block that ends where `text` does, whatever it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"

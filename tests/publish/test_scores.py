"""Scores in what is published: one builder for the card of a run and of a push, and what leaderboards of the Hub read."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from mmssl.evaluation import Table
from mmssl.evaluation.table import OWN, Row
from mmssl.model import LabelHead
from mmssl.publish import push
from mmssl.publish.benchmarks import leaderboard
from mmssl.publish.bundle import write_results
from mmssl.publish.card import alone
from mmssl.training.run import Run

BENCHMARK = """
name: Digits
tasks:
  - {id: digits_easy, config: easy, split: test}
  - {id: digits_hard, config: hard, split: test}
  - {id: digits_hard_open, config: hard, split: test}
  - {id: digits, split: test}
"""


def scored(data: str, *rows: Row) -> Table:
    given = rows or (Row("pretrained", 90.0, 92.5), Row("random init", 50.0, 60.0))
    return Table("mmssl-frozen-v1", "accuracy", data, 64, 32, given)


def test_both_cards_of_a_run_say_the_same_scores(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.publish.publishing.check_reload", lambda *given: 0.0)
    push(run.folder, folder=tmp_path / "out", with_code=False)
    own, sent = (ModelCard.load(folder / "README.md").data for folder in (run.model_folder, tmp_path / "out"))
    for key in ("library_name", "pipeline_tag", "tags"):
        assert getattr(own, key) == getattr(sent, key)
    assert own.library_name == "transformers"
    said = [
        [(one.metric_name, one.metric_type, one.metric_value, one.task_type) for one in card.eval_results] for card in (own, sent)
    ]
    assert said[0] == said[1] and len(said[0]) > 2


@pytest.mark.parametrize(
    ("data", "task"),
    [
        ("anna/digits", "digits"),
        ("anna/digits:easy", "digits_easy"),
        ("anna/digits:hard", None),
        ("anna/digits:other", None),
        ("anna/plain", None),
        ("anna/missing", None),
        ("bundled:digits", None),
    ],
)
def test_a_leaderboard_hears_of_its_own_tasks_alone(data: str, task: str | None, hub: Any) -> None:
    hub.put("datasets/anna/digits", {"eval.yaml": BENCHMARK.encode()})
    hub.put("datasets/anna/plain", {"README.md": b"no benchmark"})
    entries = parse_eval_result_entries(leaderboard(scored(data), "2026-11-30"))
    assert [(entry.dataset_id, entry.task_id, entry.value, entry.date) for entry in entries] == (
        [("anna/digits", task, 0.925, "2026-11-30")] if task else []
    )


def test_its_own_predictions_come_before_features(hub: Any) -> None:
    hub.put("datasets/anna/digits", {"eval.yaml": BENCHMARK.encode()})
    rows = Row("supervised", 90.0, 92.5), Row(OWN, None, 95.0), Row("random init", 50.0, 60.0)
    (entry,) = leaderboard(scored("anna/digits", *rows), "2026-11-30")
    assert entry["value"] == 0.95 and entry["notes"].startswith("its own predictions")
    seen = Row("supervised", 90.0, 92.5, seen=True), *rows[1:]
    assert leaderboard(scored("anna/digits", *seen), "2026-11-30") == []


def test_files_of_results(hub: Any, tmp_path: Path) -> None:
    hub.put("datasets/anna/digits", {"eval.yaml": BENCHMARK.encode()})
    hub.put("datasets/anna/broken", {"eval.yaml": b"tasks: [\tunclosed"})
    tables = [scored("anna/digits:easy"), scored("photos"), scored("anna/broken")]
    notes = write_results(tmp_path / ".eval_results", tables, "2026-11-30")
    (file,) = (tmp_path / ".eval_results").iterdir()
    assert file.name == "anna--digits--easy.yaml"
    assert yaml.safe_load(file.read_text()) == [
        {
            "dataset": {"id": "anna/digits", "task_id": "digits_easy"},
            "value": 0.925,
            "date": "2026-11-30",
            "notes": "linear probe, mmssl-frozen-v1, by mmssl",
        }
    ]
    (note,) = notes
    assert re.search("nothing for the leaderboard of anna/broken: anna/broken/eval.yaml, line 1", note)


def test_a_hub_that_cannot_be_asked_is_told(hub: Any, tmp_path: Path) -> None:
    hub.break_at = ("HEAD", "/datasets/anna/digits")
    (note,) = write_results(tmp_path / ".eval_results", [scored("anna/digits")], "2026-11-30")
    assert "whether anna/digits is a benchmark of the Hub cannot be asked now" in note
    assert not (tmp_path / ".eval_results").exists()


HEADS = {
    "features": (None, "AutoModel"),
    "pictures": (LabelHead(kind="classification", size=2), "AutoModelForImageClassification"),
    "numbers": (LabelHead(kind="regression", size=1), "AutoModelForSequenceClassification"),
    "maps": (LabelHead(kind="dense", size=2, places="map"), "AutoModelForSemanticSegmentation"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_code_without_mmssl_opens_what_the_model_does(kind: str) -> None:
    """The lines of the card, with transformers' names replaced by ones that hand out what the card then reads."""
    head, auto = HEADS[kind]
    given: Any = SimpleNamespace(head=head, place="anna/tiny")
    code = alone(given, "image")
    assert f"import {auto}, AutoProcessor" in code and code.count("trust_remote_code=True") == 2
    asked: list[str] = []

    class Opened:
        """A model that anything opens, and that gives the same whatever it is given."""

        config = SimpleNamespace(id2label={0: "low"})

        @classmethod
        def from_pretrained(cls, place: str, trust_remote_code: bool) -> "Opened":
            asked.append(place)
            return cls()

        def eval(self) -> "Opened":
            return self

        def __call__(self, **inputs: Any) -> Any:
            return SimpleNamespace(pooler_output="features", logits=torch.zeros(1, 2))

    reads = SimpleNamespace(from_pretrained=lambda *place, **options: lambda **samples: {})
    names: dict[str, Any] = {auto: Opened, "AutoProcessor": reads, "images": []}
    exec(code.partition("\n")[2], names)
    assert asked == ["anna/tiny"]
    assert ("features" in names) == (head is None) and ("logits" in names) == (head is not None)

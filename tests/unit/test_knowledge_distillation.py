"""Learning what another model predicts: losses against float64 loops, who counts, and the stages of a compact model."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmssl
from mmssl.data import Labels
from mmssl.model import LabelHead, load_model
from mmssl.objectives import KnowledgeDistillation, Setup, Step, Supervised
from mmssl.objectives.imitation import LabelTeacher
from mmssl.testing import SAMPLES, batch_of, small_model


def teacher_of(folder: Path, head: LabelHead, names: list[str], **settings: Any) -> str:
    model = small_model("tabular", **settings)
    torch.manual_seed(7)
    model.label(head, names)
    torch.nn.init.normal_(model.heads["label"].weight)
    mmssl.model.faced(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def classes(tmp_path: Path) -> str:
    return teacher_of(tmp_path / "teacher", LabelHead(kind="classification", size=3, column="kind"), ["a", "b", "c"])


def shares(logits: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


@torch.no_grad()
def both(path: str, objective: KnowledgeDistillation) -> list[tuple[list[float], list[float]]]:
    """What teacher and student say of each sample, by the models' public face."""
    inputs = batch_of("tabular").inputs["tabular"]
    said = []
    for model in (load_model(path), objective.model):
        said.append(model.predicted(model(**inputs).pooler_output).double().tolist())
    return list(zip(*said, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_is_the_divergence_of_softened_predictions(temperature: float, classes: str) -> None:
    teacher = LabelTeacher(model=classes, temperature=temperature)
    objective = KnowledgeDistillation(small_model("tabular", hidden_size=48), Setup(), teacher=teacher).eval()
    expected, same = 0.0, 0
    for its, mine in both(classes, objective):
        p, q = shares(its, temperature), shares(mine, temperature)
        expected += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        same += int(np.argmax(its) == np.argmax(mine))
    output = objective(batch_of("tabular"))
    assert output.loss.item() == pytest.approx(expected / SAMPLES, rel=1e-4)
    assert output.metrics["agreement"].value.item() == pytest.approx(same / SAMPLES)
    output.loss.backward()
    assert all(parameter.grad is None for parameter in objective.networks["labeller"].parameters())
    assert objective.model.config.id2label == {0: "a", 1: "b", 2: "c"} and objective.model.label_head.column == "kind"


def test_hard_labels_count_where_the_teacher_is_sure(classes: str) -> None:
    objective = KnowledgeDistillation(
        small_model("tabular"), Setup(), teacher=LabelTeacher(model=classes, hard=True, threshold=0.6)
    ).eval()
    losses = [-math.log(shares(mine)[int(np.argmax(its))]) for its, mine in both(classes, objective) if max(shares(its)) >= 0.6]
    assert 0 < len(losses) < SAMPLES
    batch = batch_of("tabular")
    output = objective(batch)
    assert output.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert objective.weights(batch, Step())["loss"].item() == len(losses)
    assert output.metrics["confident"].value.item() == pytest.approx(len(losses) / SAMPLES)


def test_numbers_are_imitated_in_units_of_the_teacher(tmp_path: Path) -> None:
    path = teacher_of(tmp_path / "numbers", LabelHead(kind="regression", size=1, mean=10.0, std=4.0), [])
    objective = KnowledgeDistillation(small_model("tabular", hidden_size=48), Setup(), teacher=LabelTeacher(model=path)).eval()
    expected = sum((its[0] - mine[0]) ** 2 for its, mine in both(path, objective)) / SAMPLES
    assert objective(batch_of("tabular")).loss.item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="are about one class of several"):
        KnowledgeDistillation(small_model("tabular"), Setup(), teacher=LabelTeacher(model=path, hard=True))


def test_what_is_refused(classes: str, tmp_path: Path) -> None:
    small_model("tabular").save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="predicts no labels; name a model that was trained on some"):
        KnowledgeDistillation(small_model("tabular"), Setup(), teacher=LabelTeacher(model=str(tmp_path / "encoder")))
    with pytest.raises(ValueError, match=r"reads tabular, the recipe has image: image is not in both"):
        KnowledgeDistillation(small_model("image"), Setup(), teacher=LabelTeacher(model=classes))
    with pytest.raises(ValueError, match="hard labels have no temperature"):
        LabelTeacher(model=classes, hard=True, temperature=2.0)


def test_a_student_keeps_the_head_that_it_brings(classes: str) -> None:
    labels = Labels("classification", ["a", "b", "c"], np.arange(SAMPLES) % 3, column="kind")
    student = Supervised(small_model("tabular"), Setup(labels=labels)).model
    head = student.heads["label"]
    assert KnowledgeDistillation(student, Setup(), teacher=LabelTeacher(model=classes)).model.heads["label"] is head


def test_a_small_student_learns_from_rows_without_labels(tmp_path: Path) -> None:
    """Label-free distillation through runs: the student's own head is scored on rows that nobody trained on."""
    modalities = {"image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 2}}}
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    common = {"modalities": modalities, "data": {"path": "bundled:digits"}, "evaluate": {}}
    run = {"dir": str(tmp_path)}
    train = {"max_steps": 150, "batch_size": 64, "lr": 2e-3}
    teacher = mmssl.train({**common, "encoder": shape, "objective": {"name": "supervised"}, "run": run, "train": train})
    student = mmssl.train(
        {
            **common,
            "encoder": {**shape, "hidden_size": 32, "num_hidden_layers": 1},
            "objective": {"name": "knowledge_distillation", "teacher": {"model": str(teacher.model_folder), "temperature": 2.0}},
            "run": {**run, "name": "student"},
            "train": train,
        }
    )

    rows = {row["name"]: row for row in json.loads(student.table_file.read_text())["rows"]}
    assert rows["its own head"]["probe"] > 60 and not rows["its own head"]["seen"]
    assert student.rows()[-1]["agreement"] > 0.6

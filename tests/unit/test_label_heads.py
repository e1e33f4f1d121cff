"""Heads that predict labels: losses against float64 loops, the published model under transformers' names, `predict`."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification

import mmssl
from mmssl import MMSSLForClassification, MMSSLForRegression, MMSSLModel, MMSSLProcessor
from mmssl.data import Labels
from mmssl.model import LabelHead, load_predictor
from mmssl.model.labels import Ordinal
from mmssl.objectives import Setup, Supervised
from mmssl.testing import SAMPLES, batch_of, small_model
from mmssl_cli import main

ORDERED = Labels("classification", ["1", "10", "2"], np.arange(SAMPLES) % 3)


def test_ordered_classes_are_proportional_odds() -> None:
    torch.manual_seed(0)
    head, x = Ordinal(3, 5).double(), torch.randn(7, 3, dtype=torch.float64)
    torch.nn.init.normal_(head.score.weight)
    torch.nn.init.normal_(head.steps)
    thresholds = [head.first.item()]
    for step in head.steps.tolist():
        thresholds.append(thresholds[-1] + math.log1p(math.exp(step)))
    for row, found in zip(x, head(x).detach(), strict=True):
        score = float(head.score.weight[0].detach() @ row)
        below = [0.0, *(1 / (1 + math.exp(score - threshold)) for threshold in thresholds), 1.0]
        for number in range(5):
            assert math.exp(found[number]) == pytest.approx(below[number + 1] - below[number], rel=1e-9)
    assert torch.autograd.gradcheck(head, x.requires_grad_())


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_ordered_classes_are_alike_at_first(classes: int) -> None:
    assert_close(Ordinal(4, classes)(torch.zeros(1, 4)).exp(), torch.full((1, classes), 1 / classes))


def test_order_is_that_of_numbers_or_what_the_recipe_says() -> None:
    objective = Supervised(small_model("tabular"), Setup(labels=ORDERED), kind="ordinal")
    assert list(objective.model.config.id2label.values()) == ["1", "2", "10"]
    batch = batch_of("tabular", labels=ORDERED.tensor())
    logits = objective.model.predicted(objective.model(**batch.inputs["tabular"]).pooler_output)
    truth = [["1", "2", "10"].index(ORDERED.names[number]) for number in ORDERED.values]
    expected = -sum(row[number].item() for row, number in zip(logits, truth, strict=True)) / SAMPLES
    assert objective(batch).loss.item() == pytest.approx(expected, rel=1e-5)
    words = Labels("classification", ["high", "low", "mid"], np.arange(SAMPLES) % 3)
    named = Supervised(small_model("tabular"), Setup(labels=words), kind="ordinal", order=["low", "mid", "high"])
    assert list(named.model.config.id2label.values()) == ["low", "mid", "high"]
    for settings, message in (
        ({"kind": "ordinal"}, "name the classes from the lowest to the highest"),
        ({"kind": "ordinal", "order": ["low", "high"]}, "must name each class once: high, low, mid; got low, high"),
        ({"order": ["low", "mid", "high"]}, "belongs to kind: ordinal"),
        ({"kind": "ordinal", "order": ["low", "mid", "high"], "label_smoothing": 0.1}, "without an order"),
    ):
        with pytest.raises(ValueError, match=message):
            Supervised(small_model("tabular"), Setup(labels=words), **settings)


def test_balanced_classes_count_alike() -> None:
    values = np.array([0, 0, 0, 0, 0, 1])[:SAMPLES]
    labels = Labels("classification", ["many", "few"], values)
    batch = batch_of("tabular", labels=labels.tensor())
    plain = Supervised(small_model("tabular"), Setup(labels=labels))
    balanced = Supervised(plain.model, Setup(labels=labels), class_weights="balanced")
    logits = plain.model.predicted(plain.model(**batch.inputs["tabular"]).pooler_output)
    each = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    assert_close(balanced(batch).loss, (each[:5].mean() + each[5]) / 2)
    assert_close(plain(batch).loss, each.mean())


def test_a_head_of_the_same_labels_is_kept_and_another_one_replaced() -> None:
    labels = Labels("classification", ["a", "b"], np.arange(SAMPLES) % 2)
    model = Supervised(small_model("tabular"), Setup(labels=labels)).model
    head = model.heads["label"]
    assert Supervised(model, Setup(labels=labels)).model.heads["label"] is head
    other = Labels("classification", ["a", "c"], np.arange(SAMPLES) % 2)
    assert Supervised(model, Setup(labels=other)).model.heads["label"] is not head
    model.unlabel()
    assert model.heads is None and model.config.label_head is None


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_saved_model_predicts_under_every_name(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = small_model("tabular")
    if kind == "classification":
        encoder.label(LabelHead(kind="classification", size=3), ["a", "b", "c"])
    else:
        encoder.label(LabelHead(kind="regression", size=1, mean=5.0, std=2.0), [])
    face = MMSSLForClassification if kind == "classification" else MMSSLForRegression
    mmssl.model.faced(encoder).save_pretrained(tmp_path)
    inputs = batch_of("tabular").inputs["tabular"]
    encoder.eval()
    with torch.no_grad():
        given = encoder.predicted(encoder(**inputs).pooler_output)
        expected = given if kind == "classification" else 5 + 2 * given
        for loader in (face, AutoModelForImageClassification, AutoModelForSequenceClassification):
            model = loader.from_pretrained(tmp_path).eval()
            assert type(model) is face
            assert_close(model(**inputs).logits, expected)
        assert type(load_predictor(tmp_path)) is face
        assert_close(AutoModel.from_pretrained(tmp_path).eval()(**inputs).pooler_output, encoder(**inputs).pooler_output)
        out = model(**inputs, labels=torch.zeros(SAMPLES, dtype=torch.int64), output_hidden_states=True)
    wanted = (given[:, 0] + 2.5).square().mean() if kind == "regression" else -given.log_softmax(1)[:, 0].mean()
    assert_close(out.loss, wanted)
    assert len(out.hidden_states) == len(encoder.encoder.layers) + 1


def test_a_fresh_head_as_in_transformers(tmp_path: Path) -> None:
    small_model("tabular").save_pretrained(tmp_path)
    model = MMSSLForClassification.from_pretrained(tmp_path, num_labels=4, problem_type="multi_label_classification")
    assert model.label_head.kind == "multi_label" and model.heads["label"].weight.shape == (4, 32)
    inputs = batch_of("tabular").inputs["tabular"]
    labels = (torch.arange(SAMPLES * 4).reshape(SAMPLES, 4) % 3 == 0).float()
    out = model(**inputs, labels=labels)
    assert_close(out.loss, torch.nn.functional.binary_cross_entropy_with_logits(out.logits, labels))
    with pytest.raises(ValueError, match="is an encoder and predicts no labels: fine-tune it first"):
        load_predictor(tmp_path)


TABLE = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "train": {"max_steps": 60, "batch_size": 32, "lr": 3e-3},
    "evaluate": {},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a table in which the class, and a number, follow from two columns."""
    folder = tmp_path_factory.mktemp("table")
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 300))
    kinds = np.where(x + 0.1 * y > 0, "warm", "cold")
    frame = pd.DataFrame({"id": [f"r{i}" for i in range(300)], "x": x, "y": y, "kind": kinds, "price": 100 + 7 * x})
    frame.to_csv(folder / "rows.csv", index=False)
    return folder


def trained(folder: Path, label: str, **sections: Any) -> Any:
    columns = {"tabular": ["x", "y"], "label": label}
    data = {"path": str(folder / "rows.csv"), "columns": columns}
    return mmssl.train({**TABLE, "data": data, "run": {"dir": str(folder / "runs"), "name": label}}, **sections)


def test_predictions_have_the_scores_that_the_run_reported(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(table, "kind")
    rows = {row["name"]: row for row in json.loads(run.table_file.read_text())["rows"]}
    assert list(rows)[:2] == ["supervised", "its own head"] and rows["its own head"]["probe"] > 80
    main(["predict", str(run.folder), "--data", str(table / "rows.csv"), "--output", str(table / "p.csv"), "--label", "kind"])
    told = capsys.readouterr().out
    found, given = pd.read_csv(table / "p.csv"), pd.read_csv(table / "rows.csv")
    kept = ["row", "id", "x", "y", "kind", "price"]
    assert list(found.columns) == [*kept, "held_out", "prediction", "probability_cold", "probability_warm"]
    assert found["id"].equals(given["id"]) and np.allclose(found[["probability_cold", "probability_warm"]].sum(axis=1), 1)
    accuracy = 100 * (found["prediction"] == found["kind"])[found["held_out"]].mean()
    assert (
        f"300 predictions in {table / 'p.csv'}" in told
        and f"{found['held_out'].sum()} labels: accuracy in %: {accuracy:.1f}" in told
    )
    assert accuracy == pytest.approx(rows["its own head"]["probe"]) and "held out of training" in told
    copy, trained_on = table / "copy.csv", given.iloc[:100]
    trained_on.to_csv(copy, index=False)
    assert mmssl.predict(run.folder, str(copy), table / "q.csv", label="kind").note is None, (
        "another file, of which nothing is known"
    )
    model, processor = (
        MMSSLForClassification.from_pretrained(run.model_folder).eval(),
        MMSSLProcessor.from_pretrained(run.model_folder),
    )
    with torch.no_grad():
        logits = model(**processor(table=given[["x", "y"]])).logits
    assert [model.config.id2label[i] for i in logits.argmax(1).tolist()] == found["prediction"].tolist()
    judged = json.loads((run.folder / "run.json").read_text())["judged"]
    (own,) = judged.values()
    assert own["score"] == rows["its own head"]["probe"] and sum(map(sum, own["confusion"])) == own["num_test"]
    card = (run.model_folder / "README.md").read_text()
    assert (
        "pipeline_tag: tabular-classification" in card and "trained on labels with mmssl" in card and "its own predictions" in card
    )
    assert "| cold |" in card and "self-supervised" not in card
    assert "confidence and how often it is right" in run.report_file.read_text()


def test_numbers_are_predicted_in_their_unit(table: Path) -> None:
    run = trained(table, "price")
    found = mmssl.predict(run.folder, str(table / "rows.csv"), table / "p.parquet", keep=["id"], label="price")
    frame = pd.read_parquet(table / "p.parquet")
    assert list(frame.columns) == ["row", "id", "held_out", "prediction"] and 50 < frame["held_out"].sum() < 70
    truth = pd.read_csv(table / "rows.csv")["price"]
    frame, truth = frame[frame["held_out"]], truth[frame["held_out"]]
    assert found.judged is not None
    assert found.judged.scores["mean absolute error"] == pytest.approx((frame["prediction"] - truth).abs().mean(), rel=1e-4)
    assert found.judged.score > 0.5


def test_what_predict_refuses(table: Path, tmp_path: Path) -> None:
    run = trained(table, "kind", train={**TABLE["train"], "max_steps": 2})
    rows = str(table / "rows.csv")
    encoder = tmp_path / "encoder"
    MMSSLModel.from_pretrained(run.model_folder).config.save_pretrained(encoder)
    plain = MMSSLModel.from_pretrained(run.model_folder)
    plain.unlabel()
    plain.save_pretrained(encoder)
    MMSSLProcessor.from_pretrained(run.model_folder).save_pretrained(encoder)
    for arguments, message in (
        ({"model": encoder}, "is an encoder and predicts no labels"),
        ({"output": tmp_path / "p.txt"}, r"must be a file that ends in \.parquet or \.csv"),
        ({"label": "price"}, "distinct numbers|classes that the model does not predict"),
        ({"keep": ["nothing"]}, "--keep nothing: .* has no such column"),
    ):
        given = {"model": run.folder, "output": tmp_path / "p.csv", **arguments}
        with pytest.raises((ValueError, LookupError), match=message):
            mmssl.predict(given.pop("model"), rows, **given)
    mmssl.predict(run.folder, rows, tmp_path / "p.csv")
    whole = trained(table, "kind", train={**TABLE["train"], "max_steps": 2}, evaluate=None)
    said = mmssl.predict(whole.folder, rows, tmp_path / "r.csv", label="kind")
    assert (
        said.note is not None and "trained on rows of these data" in said.note and "held_out" not in pd.read_csv(tmp_path / "r.csv")
    )
    with pytest.raises(LookupError, match="the predictions would both be called so"):
        mmssl.predict(run.folder, str(tmp_path / "p.csv"), tmp_path / "q.csv")


def test_rows_that_cannot_be_read_stand_without_a_prediction(table: Path, tmp_path: Path) -> None:
    run = trained(table, "kind", train={**TABLE["train"], "max_steps": 2})
    rows = pd.read_csv(table / "rows.csv").to_dict("records")
    rows[3]["x"] = math.inf
    pd.DataFrame(rows).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="row 3"):
        mmssl.predict(run.folder, str(tmp_path / "bad.parquet"), tmp_path / "p.csv")
    found = mmssl.predict(run.folder, str(tmp_path / "bad.parquet"), tmp_path / "p.csv", on_error="skip")
    assert (found.rows, found.unread) == (300, 1)
    written = pd.read_csv(tmp_path / "p.csv")
    assert written["prediction"].isna().tolist() == [i == 3 for i in range(300)]

"""Several labels a row by the command line: lists, columns of 0 and 1, and texts that a sign parts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from transformers import AutoConfig

import mmssl
from mmssl_cli import main

NAMES = ["big", "bright", "odd"]
RECIPE = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "train": {"max_steps": 80, "lr": 5e-3, "batch_size": 64},
    "evaluate": {"random_draws": 1},
}
COLUMNS = {
    "lists.jsonl": {"label": "tags"},
    "signs.csv": {"label": "tags"},
    "zeros.csv": {"label": NAMES},
}


def write(folder: Path) -> pd.DataFrame:
    """The same rows in three forms; returns which labels each has."""
    draw = np.random.default_rng(0)
    x = pd.DataFrame(draw.normal(size=(400, 3)).round(3), columns=["x", "y", "z"])
    has = pd.DataFrame({"big": x.x > 0.3, "bright": x.y + x.z > 0, "odd": x.z < -0.8})
    tags = [[name for name in NAMES if row[name]] for _, row in has.iterrows()]
    x.assign(tags=["|".join(held) for held in tags]).to_csv(folder / "signs.csv", index=False)
    pd.concat([x, has.astype(int)], axis=1).to_csv(folder / "zeros.csv", index=False)
    rows = [{**row, "tags": held} for row, held in zip(x.to_dict("records"), tags, strict=True)]
    (folder / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return has


@pytest.mark.parametrize("name", COLUMNS)
def test_a_run_learns_scores_and_predicts_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    has = write(tmp_path)
    lists = ["data.lists={tags: '|'}"] if name == "signs.csv" else []
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    columns = json.dumps(COLUMNS[name])
    main(["train", "recipe.yaml", f"data.path={name}", f"data.columns={columns}", "run.name=tuned", *lists])
    told = capsys.readouterr().out
    assert "3 labels (big, bright, odd), any number of them a row" in told
    config = AutoConfig.from_pretrained("runs/tuned/model")
    assert config.problem_type == "multi_label_classification" and list(config.id2label.values()) == NAMES

    asked = ["--lists", "tags=|"] if name == "signs.csv" else []
    label = COLUMNS[name]["label"]
    asked += ["--label", *([label] if isinstance(label, str) else label)]
    main(["predict", "runs/tuned", "--data", name, "--output", "p.parquet", *asked])
    said = capsys.readouterr().out
    frame = pd.read_parquet("p.parquet")
    assert {"x", "prediction", "held_out", *(f"probability_{each}" for each in NAMES)} <= set(frame)
    assert ", ".join(NAMES) not in frame
    shares, truth = frame[[f"probability_{each}" for each in NAMES]].to_numpy()[frame.held_out], has[frame.held_out].to_numpy()
    score = 100 * average_precision_score(truth, shares)
    judged = json.loads(Path("runs/tuned/run.json").read_text())["judged"]["data"]
    assert judged["score"] == pytest.approx(score) and judged["kind"] == "multi_label"
    assert judged["num_test"] == frame.held_out.sum()
    for average in ("micro", "macro"):
        assert judged["scores"][f"{average} F1"] == pytest.approx(100 * f1_score(truth, shares > 0.5, average=average))
    assert f"mean average precision in %: {score:.1f}" in said
    assert [list(held) for held in frame.prediction] == [
        [each for each in NAMES if row[f"probability_{each}"] > 0.5] for _, row in frame.iterrows()
    ]
    table = json.loads(Path("runs/tuned/table.json").read_text())
    rows: dict[str, Any] = {row["name"]: row for row in table["rows"]}
    assert table["metric"] == "mean average precision"
    assert rows["its own head"]["probe"] > 85 > rows["share of each label"]["probe"]

    model = mmssl.MMSSLForClassification.from_pretrained("runs/tuned/model").eval()
    processor = mmssl.MMSSLProcessor.from_pretrained("runs/tuned/model")
    logits = model(**processor(table=frame[["x", "y", "z"]])).logits
    expected = frame[[f"probability_{each}" for each in NAMES]].to_numpy()
    torch.testing.assert_close(logits.detach().sigmoid(), torch.tensor(expected), atol=1e-5, rtol=1e-4)
    truths = torch.tensor(has.to_numpy()).float()
    loss = model(**processor(table=frame[["x", "y", "z"]]), labels=truths).loss.item()
    eps = np.where(has, expected, 1 - expected)
    assert loss == pytest.approx(-np.log(eps).mean(), rel=1e-4)


def test_the_saved_model_is_probed_and_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    recipe = RECIPE | {"data": {"path": "lists.jsonl", "columns": {"label": "tags"}}}
    mmssl.train(recipe, train={"max_steps": 3, "batch_size": 64}, run={"name": "a"}, evaluate=None)
    run = mmssl.train(recipe, init="runs/a/model", train={"max_steps": 3, "batch_size": 64}, run={"name": "b"}, evaluate=None)
    assert "the label head of runs/a/model is trained on, with its 3 outputs" in capsys.readouterr().out
    main(["evaluate", str(run.folder), "--data", "zeros.csv", "--column", "x", "y", "z", "--label", *NAMES])
    assert "mean average precision in %" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"row 0 of zeros.csv, column odd: 0 is no list of labels"):
        main(["predict", str(run.folder), "--data", "zeros.csv", "--column", "x", "y", "z", "--label", "odd", "--output", "p.csv"])


@pytest.mark.parametrize(
    ("name", "columns", "lists", "message"),
    [
        ("signs.csv", {"label": "tags"}, {}, "is no list of labels.*data.lists="),
        ("signs.csv", {"label": "tags"}, {"tag": "|"}, "data.lists names 'tag', which is no column; there are x, y, z, tags"),
        ("zeros.csv", {"label": ["big", "x"]}, {}, "row 0, column x: several label columns hold 1 .* got 0.126"),
        ("zeros.csv", {"label": ["big", "odd"], "tabular": ["x", "odd"]}, {}, "is named for the labels and for tabular"),
    ],
)
def test_what_cannot_be_labels_says_so(
    name: str, columns: dict[str, Any], lists: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    data = {"path": name, "columns": columns, "lists": lists}
    with pytest.raises((ValueError, LookupError), match=message):
        mmssl.train(RECIPE | {"data": data, "objective": {"name": "supervised", "kind": "multi_label"}})

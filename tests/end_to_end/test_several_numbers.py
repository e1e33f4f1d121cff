"""Lists of numbers as labels, by the command line: train, the scores of the run, predict, the model again in Python."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig

import mmssl
from mmssl_cli import main

SEEN, AHEAD = 32, 4
RECIPE: dict[str, Any] = {
    "modalities": {"timeseries": {"processor": {"normalise": "instance"}, "adapter": {"patch_size": 8}, "augment": {"scale": 0.0}}},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "train": {"max_steps": 150, "lr": 5e-3, "batch_size": 64},
    "evaluate": {"random_draws": 1},
}


def waves(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Waves of several levels: what is seen `[n, 32]`, and what follows `[n, 4]`."""
    draw = np.random.default_rng(seed)
    phase, level, size = draw.uniform(0, 6, (count, 1)), draw.normal(20, 4, (count, 1)), draw.uniform(1, 2, (count, 1))
    whole = level + size * np.sin(2 * np.pi * np.arange(SEEN + AHEAD) / 16 + phase)
    return whole[:, :SEEN], whole[:, SEEN:]


def write(folder: Path, nested: bool) -> None:
    folder.mkdir()
    for seed, (part, count) in enumerate({"train": 400, "test": 100}.items()):
        seen, future = waves(count, seed)
        label = future.reshape(count, 2, 2) if nested else future
        columns = {"name": [f"{part} {i}" for i in range(count)], "series": seen.tolist(), "future": label.tolist()}
        pq.write_table(pa.table(columns), folder / f"{part}.parquet")


def scores(predicted: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, float]:
    """Figures number by number, in float64."""
    r2, squares, sizes = [], [], []
    for column in range(truth.shape[1]):
        mean = sum(truth[:, column]) / len(truth)
        error = [float(p) - float(t) for p, t in zip(predicted[:, column], truth[:, column], strict=True)]
        r2.append(1 - sum(e * e for e in error) / sum((t - mean) ** 2 for t in truth[:, column]))
        squares += [e * e for e in error]
        sizes += [abs(e) for e in error]
    mse = sum(squares) / len(squares)
    return {
        "R2": sum(r2) / len(r2),
        "mean absolute error": sum(sizes) / len(sizes),
        "root mean squared error": mse**0.5,
        "mean squared error": mse,
    }


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_learns_scores_and_predicts_them(
    nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", nested)
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    main(["train", "recipe.yaml", "data.path=data", "data.columns={timeseries: series, label: future}", "run.name=tuned"])
    shape = [2, 2] if nested else [4]
    told = capsys.readouterr().out
    assert f"label future: {'2 x 2' if nested else '4'} numbers a row between" in told and "regression" in told
    config = AutoConfig.from_pretrained("runs/tuned/model")
    assert config.problem_type == "regression" and config.num_labels == 4 and config.label_head["shape"] == shape
    _, train_future = waves(400, 0)
    np.testing.assert_allclose(config.label_head["mean"], train_future.mean(0), rtol=1e-6)
    np.testing.assert_allclose(config.label_head["std"], train_future.std(0), rtol=1e-6)

    main(
        ["predict", "runs/tuned", "--data", "data/test.parquet", "--output", "p.parquet", "--label", "future", "--column", "series"]
    )
    said = capsys.readouterr().out
    table = pq.read_table("p.parquet")
    assert table.column_names == ["row", "name", "series", "future", "prediction"]
    predicted = np.array(table["prediction"].to_pylist())
    seen, truth = waves(100, 1)
    assert predicted.shape == (100, *shape)
    expected = scores(predicted.reshape(100, 4), truth.astype(np.float32))
    judged = json.loads(Path("runs/tuned/run.json").read_text())["judged"]["data"]
    assert judged["kind"] == "regression" and judged["num_test"] == 100
    assert {"R2": judged["score"], **judged["scores"]} == pytest.approx(expected, rel=1e-5)
    assert f"R2: {expected['R2']:.3f}" in said and f"mean squared error: {expected['mean squared error']:.3g}" in said
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(Path("runs/tuned/table.json").read_text())["rows"]}
    assert rows["its own head"]["probe"] == judged["score"] > 0.8 > 0.1 > rows["mean label"]["probe"]
    assert {"supervised", "random convolutions", "raw features", "random init"} <= set(rows)

    main(["predict", "runs/tuned", "--data", "data/test.parquet", "--output", "p.csv", "--column", "series", "--keep", "name"])
    frame = pd.read_csv("p.csv")
    np.testing.assert_allclose(np.array([json.loads(cell) for cell in frame.prediction]), predicted, rtol=1e-6)

    model = mmssl.MMSSLForRegression.from_pretrained("runs/tuned/model").eval()
    processor = mmssl.MMSSLProcessor.from_pretrained("runs/tuned/model")
    with torch.no_grad():
        out = model(**processor(timeseries=list(seen)), labels=torch.tensor(truth.reshape(100, *shape)))
    np.testing.assert_allclose(model.label_head.shaped(out.logits).numpy(), predicted, rtol=1e-5)
    units = (predicted.reshape(100, 4) - truth) / train_future.std(0)
    assert out.loss.item() == pytest.approx(np.square(units).mean(), rel=1e-4)
    assert "values = logits.reshape(-1, " in Path("runs/tuned/model/README.md").read_text()


def test_a_fifth_is_held_out_and_the_head_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 200)).round(3)
    pd.DataFrame({"x": x, "y": y, "both": [f"{a + b:.3f};{a - b:.3f}" for a, b in zip(x, y, strict=True)]}).to_csv(
        "r.csv", index=False
    )
    recipe = {
        **{key: RECIPE[key] for key in ("encoder", "evaluate")},
        "modalities": {"tabular": {}},
        "objective": {"name": "supervised", "kind": "regression"},
        "data": {"path": "r.csv", "columns": {"label": "both"}, "lists": {"both": ";"}},
        "train": {"max_steps": 60, "batch_size": 64, "lr": 5e-3},
    }
    run = mmssl.train(recipe, run={"name": "a"})
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(run.table_file.read_text())["rows"]}
    assert rows["its own head"]["probe"] > 0.5 and "boosted trees" in rows
    main(["predict", "runs/a", "--data", "r.csv", "--lists", "both=;", "--label", "both", "--output", "p.parquet"])
    frame = pd.read_parquet("p.parquet")
    predicted, truth = np.stack(list(frame.prediction)), np.stack([x + y, x - y], 1).round(3)
    expected = scores(predicted[frame.held_out], truth[frame.held_out])["R2"]
    assert rows["its own head"]["probe"] == pytest.approx(expected, rel=1e-4)
    mmssl.train(recipe, init="runs/a/model", run={"name": "b"}, train={"max_steps": 1})
    assert "the label head of runs/a/model is trained on, with its 2 outputs" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="the model predicts 2 numbers a row, the labels are one number"):
        main(["predict", "runs/a", "--data", "r.csv", "--label", "x", "--output", "q.csv", "--column", "y"])

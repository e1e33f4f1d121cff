"""Forecasts by the command line: train on a table of one's own, the scores of the run, what comes next, the model in Python."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForTimeSeriesPrediction

import mmssl
from mmssl.data.series import SeriesOptions
from mmssl.data.table_format import TableFormat
from mmssl_cli import main

CONTEXT, HORIZON, DAYS = 24, 4, 160
WITHOUT_MMSSL = """
import sys
sys.modules["mmssl"] = None
import json, numpy as np, torch
from transformers import AutoModelForTimeSeriesPrediction, AutoProcessor
model = AutoModelForTimeSeriesPrediction.from_pretrained("published", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("published", trust_remote_code=True)
with torch.no_grad():
    print(json.dumps(model(**processor(timeseries=list(np.load("seen.npy")))).logits.tolist()))
"""
RECIPE: dict[str, Any] = {
    "modalities": {"timeseries": {"adapter": {"patch_size": 8}, "augment": {"scale": 0.0}}},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "data": {"forecast": {"horizon": HORIZON, "context": CONTEXT, "period": 8}},
    "train": {"max_steps": 150, "lr": 5e-3, "batch_size": 64},
    "evaluate": {},
}


def shops() -> pd.DataFrame:
    """Two series of two variables, day by day: waves of several levels and sizes, with noise."""
    draw, parts = np.random.default_rng(0), []
    for number, shop in enumerate(("north", "south")):
        wave = np.sin(2 * np.pi * np.arange(DAYS) / 8 + number)
        frame = pd.DataFrame({"shop": shop, "day": pd.date_range("2025-01-01", periods=DAYS).strftime("%Y-%m-%d")})
        frame["sold"] = 100 * (number + 1) + 10 * wave + draw.normal(0, 1, DAYS)
        frame["visits"] = 5000 + 500 * np.roll(wave, 2) + draw.normal(0, 40, DAYS)
        parts.append(frame)
    return pd.concat(parts)


def errors(frame: pd.DataFrame) -> dict[str, float]:
    """Figures by the rows of a file, in float64."""
    error = frame.prediction.astype(float) - frame.truth.astype(float)
    scaled = error / frame.unit.astype(float)
    return {"mse": (scaled**2).mean(), "mae": scaled.abs().mean(), "own_mse": (error**2).mean(), "own_mae": error.abs().mean()}


@pytest.mark.parametrize("reads", ["tokens", "pooled"])
def test_a_table_is_forecast(
    reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = shops()
    frame.to_csv("shops.csv", index=False)
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    series = "data.series={by: shop, time: day}"
    main(["train", "recipe.yaml", "data.path=shops.csv", series, f"objective.reads={reads}", "run.name=tuned"])
    told = capsys.readouterr().out
    assert "shops.csv: 404 windows of the part train of 4 variables: 24 steps are seen, 4 forecast." in told
    assert "The test windows lie after all that was trained on." in told
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(Path("runs/tuned/table.json").read_text())["rows"]}
    assert list(rows) == ["its own head", "last value", "last season (8)", "mean of what was seen", "ridge"]
    assert rows["its own head"]["mse"] < 0.5 * min(rows[name]["mse"] for name in ("last value", "mean of what was seen"))

    # The scores of the run are those of the file.
    main(["predict", "runs/tuned", "--data", "shops.csv", "--split", "test", "--output", "test.parquet"])
    said = capsys.readouterr().out
    file = pd.read_parquet("test.parquet")
    assert list(file.columns) == ["shop", "variable", "time", "window", "step", "prediction", "truth", "unit"]
    found = errors(file)
    assert {key: rows["its own head"][key] for key in found} == pytest.approx(found, rel=1e-5)
    assert f"mean squared error: {found['mse']:.3f}" in said
    values = frame.set_index(["shop", "day"])
    keys = list(zip(file["shop"], file["time"].dt.strftime("%Y-%m-%d"), file["variable"], strict=True))
    np.testing.assert_allclose(file.truth, [values.loc[key[:2], key[2]] for key in keys], rtol=1e-6)
    units = frame.groupby("shop").head(DAYS - 32).groupby("shop")[["sold", "visits"]].std(ddof=0)
    np.testing.assert_allclose(file.unit, [units.loc[key[0], key[2]] for key in keys], rtol=1e-6)
    assert file["time"].min() == pd.Timestamp("2025-01-01") + pd.Timedelta(days=DAYS - 32)
    # Last value, by hand.
    last = [
        values.loc[(shop, (time - pd.Timedelta(days=step)).strftime("%Y-%m-%d")), variable]
        for shop, time, variable, step in file[["shop", "time", "variable", "step"]].itertuples(index=False)
    ]
    naive = errors(file.assign(prediction=last))
    assert {key: rows["last value"][key] for key in naive} == pytest.approx(naive, rel=1e-5)

    # What comes next.
    main(["predict", "runs/tuned", "--data", "shops.csv", "--output", "next.csv"])
    after = pd.read_csv("next.csv")
    assert list(after.columns) == ["shop", "variable", "time", "step", "prediction"] and len(after) == 4 * HORIZON
    assert list(pd.to_datetime(after.time[:HORIZON])) == list(pd.date_range("2025-06-10", periods=HORIZON))
    assert after.step.tolist() == [1, 2, 3, 4] * 4

    # The same in Python.
    model = AutoModelForTimeSeriesPrediction.from_pretrained("runs/tuned/model").eval()
    assert isinstance(model, mmssl.MMSSLForTimeSeriesPrediction)
    processor = mmssl.MMSSLProcessor.from_pretrained("runs/tuned/model")
    known = [frame[frame["shop"] == shop][name].to_numpy() for shop in ("north", "south") for name in ("sold", "visits")]
    seen = [each[-CONTEXT:] for each in known]
    with torch.no_grad():
        out = model(**processor(timeseries=seen), labels=torch.zeros(4, HORIZON))
    np.testing.assert_allclose(out.logits.numpy().ravel(), after.prediction, rtol=1e-4)
    assert out.loss.item() == pytest.approx(np.square(after.prediction / model.label_head.std).mean(), rel=1e-4)
    card = Path("runs/tuned/model/README.md").read_text()
    assert "A model that forecasts the next 4 steps of timeseries data from the 24 before" in card
    assert "pipeline_tag: time-series-forecasting" in card and "next_steps = logits" in card
    assert "forecasts of held-out windows" in Path("runs/tuned/report.html").read_text()
    main(["compare", "runs/tuned"])
    assert "MSE below ridge" in capsys.readouterr().out

    # Scored again, and published.
    main(["evaluate", "runs/tuned", "--data", "shops.csv", "--output", "again.json"])
    assert json.loads(Path("again.json").read_text())["rows"] == json.loads(Path("runs/tuned/table.json").read_text())["rows"]
    main(["push", "runs/tuned", "--dir", "published", "--license", "mit"])
    assert "outputs differ by at most 0" in capsys.readouterr().out
    (scored,) = {result.task_type for result in ModelCard.load("published/README.md").data.eval_results}
    assert scored == "time-series-forecasting"
    np.save("seen.npy", np.stack(seen))
    done = subprocess.run([sys.executable, "-I", "-c", WITHOUT_MMSSL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), out.logits.tolist(), rtol=1e-5)


def trained(tmp_path: Path, **sections: Any) -> Any:
    return mmssl.train({**RECIPE, "train": {"max_steps": 2, "batch_size": 16}}, run={"dir": str(tmp_path)}, **sections)


def test_rows_in_memory_and_wide_tables_are_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    rows = [{"name": f"s{i}", "series": draw.normal(10, 2, (2, 60)).cumsum(1).tolist()} for i in range(3)]
    run = mmssl.train({**RECIPE, "train": {"max_steps": 2, "batch_size": 16}}, rows=rows, run={"dir": str(tmp_path)})
    assert "last value" in run.table_file.read_text()
    wide = pd.DataFrame(draw.normal(size=(3, 30)), columns=[f"t{i}" for i in range(30)])
    wide.insert(0, "name", ["a", "b", "c"])
    wide.to_csv(tmp_path / "wide.csv", index=False)
    rows_are_series = TableFormat(series=SeriesOptions(values="t*"))
    mmssl.predict(run.model_folder, str(tmp_path / "wide.csv"), tmp_path / "w.parquet", table_format=rows_are_series)
    found = pd.read_parquet(tmp_path / "w.parquet")
    assert list(found.columns) == ["row", "name", "step", "prediction"] and found.name.tolist() == [*"aaaabbbbcccc"]


def test_who_saw_what_is_forecast_gets_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shops().to_csv("shops.csv", index=False)
    data = {"path": "shops.csv", "series": {"by": "shop", "time": "day"}}
    short = {"max_steps": 2, "batch_size": 2}
    base = {**RECIPE, "objective": {"name": "masked"}, "train": short, "evaluate": None}
    whole = mmssl.train({**base, "data": data}, run={"name": "whole"})
    honest = mmssl.train({**base, "data": {**data, **RECIPE["data"]}}, run={"name": "honest"})
    for init, seen in ((whole, True), (honest, False)):
        run = mmssl.train({**RECIPE, "data": {**data, **RECIPE["data"]}, "train": short, "init": str(init.model_folder)})
        assert json.loads(run.table_file.read_text())["rows"][0]["seen"] is seen
    assert "trains on what is forecast in shops.csv (test)" in capsys.readouterr().out


def test_what_cannot_be_forecast_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = shops()
    frame.to_csv("shops.csv", index=False)
    trained(tmp_path, data={"path": "shops.csv", "series": {"by": "shop", "time": "day"}}, evaluate=None)
    model = tmp_path / "recipe" / "model"
    extra = frame.head(10).assign(shop="new")
    pd.concat([frame, extra]).to_csv("more.csv", index=False)
    data = {"path": "more.csv", "series": {"by": "shop", "time": "day"}}
    trained(tmp_path, data=data, evaluate=None, init=str(model))  # other data, and so other units
    assert f"the label head of {model} is trained on, with its 4 outputs" in capsys.readouterr().out
    command = ["predict", str(model), "--data", "more.csv", "--output", "p.csv"]
    with pytest.raises(SystemExit, match="1 series are shorter than the 24 steps that the model needs"):
        main(command)
    main([*command, "--on-error", "skip"])
    assert set(pd.read_csv("p.csv")["shop"]) == {"north", "south"}
    for flags, message in (
        (["--label", "sold"], "what a forecast is scored by is what follows in the data"),
        (["--keep", "sold"], "forecasts are written with what says which series they are of"),
        (["--split", "dev"], "no split 'dev'; with data.forecast it has train, validation"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*command, *flags])
    with pytest.raises(ValueError, match="reads is about forecasts"):
        mmssl.train({**RECIPE, "data": {"columns": {"label": "y"}}}, objective={"reads": "pooled"},
                    rows=[{"series": [1.0, 2.0], "y": i / 2} for i in range(50)])  # fmt: skip

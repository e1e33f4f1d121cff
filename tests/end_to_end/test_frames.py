"""A class for each step of series and each frame of sounds, by the command line: train, scores, a file, the model, a graph."""

import itertools
import json
import math
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mmssl
from mmssl_cli import main

ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
STATES = ["flat", "wave"]
RATE = 8000
SOUNDS: dict[str, Any] = {
    "modalities": {
        "audio": {
            "processor": {
                **{"sample_rate": RATE, "mel_bins": 16, "patch": [4, 16], "label_rate": 20, "max_seconds": 1.2},
            },
            "augment": {"gain": 0.0},
        }
    },
    "encoder": ENCODER,
    "objective": {"name": "supervised", "kind": "dense"},
    "data": {"path": "data", "columns": {"audio": "file", "label": "states"}},
    "train": {"max_steps": 40, "lr": 1e-2, "batch_size": 8},
    "evaluate": {"random_draws": 1},
}
SERIES: dict[str, Any] = {
    "modalities": {"timeseries": {"processor": {"window": 40}, "adapter": {"patch_size": 4}, "augment": {"permute": 2}}},
    "encoder": ENCODER,
    "objective": {"name": "supervised", "kind": "dense", "detail": 2},
    "data": {"path": "data", "columns": {"timeseries": "values", "label": "states"}},
    "train": {"max_steps": 40, "lr": 1e-2, "batch_size": 16},
    "evaluate": {"random_draws": 1},
}
SERIES_OF_LISTS = SERIES | {"data": {"background": "no", "columns": SERIES["data"]["columns"]}, "evaluate": None}
GRAPH = """
import sys, json
import numpy as np, onnxruntime as ort, pyarrow.parquet as pq, torch
import mmssl
from mmssl.publish import export_onnx

folder, data = sys.argv[1:]
export_onnx(folder, "graph")
model = mmssl.MMSSLForFrameClassification.from_pretrained(folder).eval()
processor = mmssl.MMSSLProcessor.from_pretrained("graph")
session = ort.InferenceSession("graph/model.onnx")
series = pq.read_table(data)["values"].to_pylist()
found = []
for some in (series[:1], series[1:4]):
    inputs = processor(timeseries=[each[:40] for each in some])
    with torch.no_grad():
        wanted = model(**inputs).logits.numpy()
    fed = {each.name: np.asarray(inputs[each.name]) for each in session.get_inputs() if each.name in inputs}
    for each in session.get_inputs():
        if each.name == "timeseries_observed" and each.name not in fed:
            fed[each.name] = np.ones(fed["timeseries_values"].shape, dtype=bool)
        if each.name == "timeseries_times" and each.name not in fed:
            shape = fed["timeseries_values"].shape
            fed[each.name] = np.tile(np.arange(shape[2], dtype=np.float32), (shape[0], 1))
    (logits,) = session.run(["logits"], fed)
    found.append([float(np.abs(logits - wanted).max()), list(logits.shape), list(wanted.shape)])
print("FOUND" + json.dumps(found))
"""


def states(random: np.random.Generator, count: int) -> list[str]:
    found = list[str]()
    while len(found) < count:
        found += [STATES[int(random.integers(2))]] * 10
    return found[:count]


def write_series(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for part, count in {"train": 60, "test": 20}.items():
        labels = [states(random, int(random.integers(30, 60))) for _ in range(count)]
        values = []
        for each in labels:
            on = np.array([state == "wave" for state in each])
            values.append((on * np.sin(np.arange(len(each)) * 1.9) + random.normal(0, 0.1, len(each))).tolist())
        pq.write_table(pa.table({"id": list(range(count)), "values": values, "states": labels}), folder / f"{part}.parquet")


def write_sounds(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for part, count in {"train": 40, "test": 12}.items():
        files, labels = [], []
        for number in range(count):
            own = states(random, int(random.integers(15, 40)))
            on = np.repeat([state == "wave" for state in own], RATE // 20)[: -int(random.integers(1, RATE // 20))]
            sound = 0.5 * on * np.sin(np.arange(len(on)) * 0.7) + random.normal(0, 0.01, len(on))
            files.append(f"{part}{number}.wav")
            labels.append(own)
            with wave.open(str(folder / files[-1]), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes((32000 * sound.clip(-1, 1)).astype("<i2").tobytes())
        pq.write_table(pa.table({"file": files, "states": labels}), folder / f"{part}.parquet")


SEGMENTS = SOUNDS | {"data": {"path": "data", "background": "flat", "columns": {"audio": "file", "label": "events"}}}


def write_segments(folder: Path) -> None:
    """The same sounds, annotated by the stretches that are no background."""
    write_sounds(folder)
    for part in ("train", "test"):
        table = pq.read_table(folder / f"{part}.parquet")
        events = []
        for row, own in enumerate(table["states"].to_pylist()):
            with wave.open(str(folder / f"{part}{row}.wav")) as file:
                seconds = file.getnframes() / RATE
            edges = [0, *(place for place in range(1, len(own)) if own[place] != own[place - 1]), len(own)]
            pairs = [(a / 20, min(b / 20, seconds), own[a]) for a, b in itertools.pairwise(edges)]
            events.append([{"start": a, "end": b, "label": state} for a, b, state in pairs if state == "wave"])
        kind = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("label", pa.string())]))
        table = table.drop_columns(["states"]).append_column("events", pa.array(events, kind))
        pq.write_table(table, folder / f"{part}.parquet")


def in_frames(file: Path, segments: list[dict[str, Any]]) -> list[str]:
    """The state of each frame of a sound, by a loop over its segments."""
    with wave.open(str(file)) as sound:
        seconds = sound.getnframes() / RATE
    middles = [(number / 20 + min((number + 1) / 20, seconds)) / 2 for number in range(math.ceil(seconds * 20 - 1e-6))]
    return ["wave" if any(one["start"] <= middle < one["end"] for one in segments) else "flat" for middle in middles]


def test_segments_from_training_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions have the form of the labels, and score as the run says; they can be the labels of another run."""
    monkeypatch.chdir(tmp_path)
    write_segments(tmp_path / "data")
    Path("recipe.yaml").write_text(json.dumps(SEGMENTS))
    main(["train", "recipe.yaml", "run.name=tuned"])
    assert "segments of time, of 2 classes (flat, wave); steps outside of them are 'flat'" in capsys.readouterr().out
    data = ["--data", "data", "--split", "test", "--column", "file"]
    for output in ("p.parquet", "p.csv"):
        main(["predict", "runs/tuned", *data, "--output", output, "--label", "events"])
    table = pq.read_table("p.parquet")
    truth, predicted = (
        [in_frames(Path(file), cell) for file, cell in zip(table["file"].to_pylist(), table[name].to_pylist(), strict=True)]
        for name in ("events", "prediction")
    )
    f1, accuracy = scores(predicted, truth)
    judged = json.loads(Path("runs/tuned/run.json").read_text())["judged"]["data"]
    assert f1 > 80 and judged["score"] == pytest.approx(f1) and judged["scores"] == {"frame accuracy": pytest.approx(accuracy)}
    for cell in table["prediction"].to_pylist():
        assert all(one["label"] == "wave" and 0.5 <= one["probability"] <= 1 and one["start"] < one["end"] for one in cell)
    rows = {row["name"]: row["scores"] for row in json.loads(Path("runs/tuned/table.json").read_text())["rows"]}
    train = pq.read_table("data/train.parquet").to_pylist()
    learned = [state for row in train for state in in_frames(Path("data") / row["file"], row["events"])]
    frequent = max(STATES, key=learned.count)
    share = 100 * sum(own.count(frequent) for own in truth) / sum(map(len, truth))
    assert rows["most frequent class"]["accuracy"] == pytest.approx(share)
    config = json.loads(Path("runs/tuned/model/config.json").read_text())["label_head"]
    assert config["segments"] is True and config["background"] == "flat"
    again = json.loads(pd.read_csv("p.csv")["prediction"][0])
    assert again == table["prediction"].to_pylist()[0]
    with pytest.raises(ValueError, match=r"data\.background='no' is the class of steps outside of all segments"):
        mmssl.train(SERIES_OF_LISTS, rows=[{"values": [0.0, 1.0], "states": ["a", "b"]}] * 8, run={"name": "bad"})


def scores(predicted: list[list[str]], truth: list[list[str]]) -> tuple[float, float]:
    """Macro F1 and accuracy in percent, step by step."""
    pairs = [pair for mine, true in zip(predicted, truth, strict=True) for pair in zip(mine, true, strict=True)]
    f1 = []
    for name in STATES:
        hit = sum(a == b == name for a, b in pairs)
        f1.append(2 * hit / (sum(a == name for a, _ in pairs) + sum(b == name for _, b in pairs)))
    return 100 * sum(f1) / 2, 100 * sum(a == b for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("kind", ["series", "sounds"])
def test_steps_from_training_to_a_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = SERIES if kind == "series" else SOUNDS
    (write_series if kind == "series" else write_sounds)(tmp_path / "data")
    Path("recipe.yaml").write_text(json.dumps(recipe))
    main(["train", "recipe.yaml", "run.name=tuned"])
    assert "a label for each place, of 2 classes (flat, wave)" in capsys.readouterr().out
    column = next(iter(recipe["data"]["columns"].values()))
    data = ["--data", "data", "--split", "test", "--column", column]
    main(["predict", "runs/tuned", *data, "--output", "p.parquet", "--label", "states"])
    said = capsys.readouterr().out
    table = pq.read_table("p.parquet")
    truth, predicted = table["states"].to_pylist(), table["prediction"].to_pylist()
    f1, accuracy = scores(predicted, truth)
    judged = json.loads(Path("runs/tuned/run.json").read_text())["judged"]["data"]
    assert (judged["kind"], judged["num_test"], judged["names"]) == ("frame-classification", len(truth), STATES)
    assert judged["score"] == pytest.approx(f1) and judged["scores"] == {"frame accuracy": pytest.approx(accuracy)}
    assert f"{len(truth)} lists of labels: macro F1 in %: {f1:.1f}, frame accuracy: {accuracy:.1f} %" in said
    rows = {row["name"]: row["scores"] for row in json.loads(Path("runs/tuned/table.json").read_text())["rows"]}
    assert list(rows) == ["its own head", "supervised", "random init", "raw features", "most frequent class"]
    assert f1 > 80 and rows["its own head"]["f1"] == pytest.approx(f1) and rows["most frequent class"]["f1"] < 50
    report = Path("runs/tuned/report.html").read_text()
    assert "labels of held-out samples, and what the model says" in report and "has no picture" not in report
    card = Path("runs/tuned/model/README.md").read_text()
    assert "MMSSLForFrameClassification" in card and "predicts the class of each step" in card
    auto = json.loads(Path("runs/tuned/model/config.json").read_text())["auto_map"]
    assert auto["AutoModelForAudioFrameClassification"].endswith("MMSSLForFrameClassification")
    if kind == "series":
        check_by_hand(predicted)


def check_by_hand(predicted: list[list[str]]) -> None:
    """The same by transformers' class, of series that are one window; and by a graph."""
    from transformers import AutoModelForAudioFrameClassification, AutoProcessor

    model = AutoModelForAudioFrameClassification.from_pretrained("runs/tuned/model").eval()
    processor = AutoProcessor.from_pretrained("runs/tuned/model")
    assert isinstance(model, mmssl.MMSSLForFrameClassification)
    series = pq.read_table("data/test.parquet")["values"].to_pylist()
    short = [number for number, each in enumerate(series) if len(each) <= 40]
    with torch.no_grad():
        logits = model(**processor(timeseries=[series[number] for number in short])).logits
    assert len({len(series[number]) for number in short}) > 1
    for number, own in zip(short, logits.argmax(2).tolist(), strict=True):
        assert [model.config.id2label[each] for each in own[: len(series[number])]] == predicted[number]
    done = subprocess.run(
        [sys.executable, "-c", GRAPH, "runs/tuned/model", "data/test.parquet"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for apart, given, wanted in json.loads(done.stdout.partition("FOUND")[2]):
        assert given == wanted and apart < 1e-4
    assert json.loads(Path("graph/onnx.json").read_text())["labels"] == {"0": "flat", "1": "wave"}


def test_too_few_labels_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "data")
    table = pq.read_table("data/train.parquet").to_pylist()
    table[7]["states"] = table[7]["states"][1:]
    pq.write_table(pa.Table.from_pylist(table), "data/train.parquet")
    count = len(table[7]["values"])
    with pytest.raises(ValueError, match=rf"row 7 of data.*a label for each of its steps: expected {count}, got {count - 1}"):
        mmssl.train(SERIES, run={"name": "bad"})

"""From own data to predictions by the command line: a table, pictures, sounds. The scores of the file are those of the run."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

from mmssl import MMSSLForClassification, MMSSLProcessor
from mmssl_cli import main

KINDS = ("high", "low")
ENCODER = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
TRAIN = "{batch_size: 16, max_steps: 60, lr: 3.0e-3}"


def a_table(folder: Path, draw: np.random.Generator) -> None:
    """One csv file, no test part."""
    size, weight = draw.normal(size=(2, 200))
    kinds = np.where(size + 0.3 * weight + 0.4 * draw.normal(size=200) > 0, *KINDS)
    pd.DataFrame({"name": [f"item {i}" for i in range(200)], "size": size, "weight": weight, "kind": kinds}).to_csv(
        folder / "items.csv", index=False
    )


def pictures(folder: Path, draw: np.random.Generator) -> None:
    """A folder for each part and class, bright or dark in the upper half."""
    for part, count in (("train", 30), ("test", 10)):
        for kind in KINDS:
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 130, (8, 8), dtype=np.uint8)
                pixels[:4] += np.uint8(60 if kind == "high" else 0)
                Image.fromarray(pixels).save(folder / part / kind / f"{number}.png")


def sounds(folder: Path, draw: np.random.Generator) -> None:
    """A folder for each part and class, of tones in noise."""
    time = np.arange(2000) / 8000
    for part, count in (("train", 20), ("test", 10)):
        for kind in KINDS:
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                pitch = draw.uniform(900, 1500) if kind == "high" else draw.uniform(300, 1100)
                values = np.sin(2 * np.pi * pitch * time) + draw.normal(size=2000)
                with wave.open(str(folder / part / kind / f"{number}.wav"), "wb") as file:
                    file.setparams((1, 2, 8000, 0, "NONE", ""))
                    file.writeframes((6000 * values).astype("<i2").tobytes())


MADE: dict[str, tuple[Callable[[Path, np.random.Generator], None], str, str, str, list[str]]] = {
    "tabular": (a_table, "items.csv", "{}", "{tabular: [size, weight], label: kind}", []),
    "image": (
        pictures,
        "",
        "{processor: {size: 8, channels: 1}, adapter: {patch_size: 4}}",
        "{label: label}",
        ["--split", "test"],
    ),
    "audio": (
        sounds,
        "",
        "{processor: {sample_rate: 8000, mel_bins: 32, patch: [4, 32]}}",
        "{label: label}",
        ["--split", "test"],
    ),
}
"""By modality: what makes the data, the file in their folder, the keys of the modality, the columns, and what of them is scored."""


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("modality", MADE)
@pytest.mark.usefixtures("one_thread", "no_pictures")
def test_scores_of_the_file_are_those_that_the_run_reported(
    modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, file, keys, columns, split = MADE[modality]
    data = Path("data") / file
    Path("data").mkdir()
    make(Path("data"), np.random.default_rng(0))
    Path("first.yaml").write_text(
        f"modalities: {{{modality}: {keys}}}\nencoder: {ENCODER}\nobjective: {{name: masked}}\n"
        f"data: {{path: {data}, columns: {columns}}}\ntrain: {TRAIN}\n"
    )
    said(capsys, "train", "first.yaml", "train.max_steps=3")
    tuned = ["init=runs/first/model", "objective={name: supervised}", "evaluate={}", "run.name=tuned"]
    said(capsys, "train", "first.yaml", *tuned)
    (judged,) = json.loads(Path("runs/tuned/run.json").read_text())["judged"].values()
    assert 60 < judged["score"] < 100, "it learned something, and errs at times"

    label = "kind" if modality == "tabular" else "label"
    told = said(
        capsys, "predict", "runs/tuned", "--data", str(data), *split, "--label", label, "--output", "p.csv", *columns_of(modality)
    )
    frame = pd.read_csv("p.csv")
    scored = frame[frame["held_out"]] if modality == "tabular" else frame
    right = scored["prediction"] == scored[label]
    assert 100 * right.mean() == pytest.approx(judged["score"], abs=1e-9) and len(scored) == judged["num_test"]
    assert f"accuracy in %: {judged['score']:.1f}" in told and ("held out of training" in told) == (modality == "tabular")
    table = pd.crosstab(scored[label], scored["prediction"]).reindex(index=judged["names"], columns=judged["names"], fill_value=0)
    assert table.to_numpy().tolist() == judged["confusion"]
    sure = scored[[f"probability_{name}" for name in judged["names"]]].to_numpy()
    truth = scored[label].map(judged["names"].index).to_numpy()
    assert -np.log(sure[np.arange(len(truth)), truth]).mean() == pytest.approx(judged["scores"]["log loss"], rel=1e-4)
    assert in_python(modality, frame) == frame["prediction"].tolist()
    assert f"{judged['score']:.1f}" in Path("runs/tuned/model/README.md").read_text()


def columns_of(modality: str) -> list[str]:
    """What predict is to be told of the columns."""
    return ["--column", "size", "weight"] if modality == "tabular" else []


def in_python(modality: str, frame: pd.DataFrame) -> list[str]:
    """The same predictions by the classes of transformers."""
    kind: Any = {"image": AutoModelForImageClassification, "audio": AutoModelForAudioClassification}.get(
        modality, MMSSLForClassification
    )
    model, processor = kind.from_pretrained("runs/tuned/model").eval(), MMSSLProcessor.from_pretrained("runs/tuned/model")
    if modality == "tabular":
        inputs = processor(table=frame[["size", "weight"]])
    else:
        files = frame[modality].tolist()
        inputs = processor(**{"images" if modality == "image" else "audio": files})
    with torch.no_grad():
        numbers = model(**inputs).logits.argmax(1).tolist()
    return [model.config.id2label[number] for number in numbers]

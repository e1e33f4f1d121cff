"""A class for each pixel, by the command line: train, the scores of the run, label maps, the model again in a clean interpreter."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from PIL import Image

import mmssl
from mmssl.model import MMSSLConfig
from mmssl.model.adaptation import quiet
from mmssl_cli import main

NAMES = ["ground", "red", "blue"]
COLOURS = np.array([[30, 30, 30], [220, 40, 40], [40, 40, 220]])
RECIPE: dict[str, Any] = {
    "modalities": {"image": {"processor": {"multiple": 4}, "adapter": {"patch_size": 4}, "augment": {"flip": 0.5}}},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised", "kind": "dense", "classes": NAMES, "detail": 2, "class_weights": "balanced"},
    "data": {"path": "data", "columns": {"label": "mask"}},
    "train": {"max_steps": 40, "lr": 5e-3, "batch_size": 8},
    "evaluate": {"random_draws": 1},
}
CLEAN = """
import sys, json
import numpy as np, torch
import mmssl
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

folder, files = sys.argv[1], sys.argv[2:]
model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
served = pipeline("image-segmentation", model=folder)
found = []
for file in files:
    image = Image.open(file)
    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"))
    (own,) = processor.post_process_semantic_segmentation(output, target_sizes=[image.size[::-1]])
    parts = {each["label"]: (np.asarray(each["mask"]) > 0).tolist() for each in served(image)}
    found.append({"map": own.tolist(), "parts": parts, "shape": list(output.logits.shape)})
print("FOUND" + json.dumps(found))
"""


def picture(random: np.random.Generator, upright: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two boxes on a ground, and the class of each pixel; a corner has no label."""
    height, width = (26, 16) if upright else (16, 26)
    classes = np.zeros((height, width), dtype=np.uint8)
    for number in (1, 2):
        top, left = random.integers(0, height - 8), random.integers(0, width - 8)
        classes[top : top + 8, left : left + 8] = number
    noisy = COLOURS[classes] + random.normal(0, 10, (height, width, 3))
    classes[:2, :2] = 255
    return noisy.clip(0, 255).astype(np.uint8), classes


def write(folder: Path) -> None:
    (folder / "masks").mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in {"train": 40, "test": 12}.items():
        with (folder / f"{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["name", "image", "mask"])
            for number in range(count):
                pixels, classes = picture(random, number % 2 == 0)
                name = f"{part}{number}"
                Image.fromarray(pixels).save(folder / f"{name}.png")
                Image.fromarray(classes).save(folder / "masks" / f"{name}.png")
                table.writerow([name, f"{name}.png", f"masks/{name}.png"])


def scores(predicted: list[Any], truth: list[Any]) -> tuple[float, float]:
    """Mean IoU and accuracy in percent, pixel by pixel."""
    inter, union, right, every = [0] * 3, [0] * 3, 0, 0
    for mine, true in zip(predicted, truth, strict=True):
        assert mine.shape == true.shape
        for a, b in zip(mine.ravel().tolist(), true.ravel().tolist(), strict=True):
            if b == 255:
                continue
            every, right = every + 1, right + (a == b)
            for number in range(3):
                inter[number] += a == b == number
                union[number] += number in (a, b)
    return 100 * sum(i / u for i, u in zip(inter, union, strict=True)) / 3, 100 * right / every


def test_pixels_from_training_to_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    main(["train", "recipe.yaml", "run.name=tuned"])
    assert "a label for each place, of 3 classes (0, 1, 2)" in capsys.readouterr().out
    main(["predict", "runs/tuned", "--data", "data", "--split", "test", "--output", "out/p.parquet", "--label", "mask"])
    said = capsys.readouterr().out
    table = pq.read_table("out/p.parquet")
    assert table.column_names == ["row", "name", "image", "mask", "prediction"]
    maps = [np.asarray(Image.open(Path("out", file))) for file in table["prediction"].to_pylist()]
    truth = [np.asarray(Image.open(f"data/masks/test{number}.png")) for number in range(12)]
    miou, accuracy = scores(maps, truth)
    judged = json.loads(Path("runs/tuned/run.json").read_text())["judged"]["data"]
    assert judged["kind"] == "semantic-segmentation" and judged["num_test"] == 12 and judged["names"] == NAMES
    assert judged["score"] == pytest.approx(miou) and judged["scores"] == {"pixel accuracy": pytest.approx(accuracy)}
    assert f"12 label maps: mean IoU in %: {miou:.1f}, pixel accuracy: {accuracy:.1f} %" in said
    rows = {row["name"]: row["scores"] for row in json.loads(Path("runs/tuned/table.json").read_text())["rows"]}
    assert list(rows) == ["its own head", "supervised", "random init", "raw features", "most frequent class"]
    assert rows["its own head"] == {"miou": judged["score"], "accuracy": judged["scores"]["pixel accuracy"]}
    shares = np.bincount(np.concatenate([each[each < 255] for each in truth]))
    assert rows["most frequent class"]["accuracy"] == pytest.approx(100 * shares[0] / shares.sum())
    assert miou > 75 and rows["raw features"]["miou"] > rows["most frequent class"]["miou"] == pytest.approx(
        100 * shares[0] / shares.sum() / 3
    )

    files = [f"data/test{number}.png" for number in range(3)]
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, "runs/tuned/model", *files], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for mine, wanted in zip(json.loads(done.stdout.partition("FOUND")[2]), maps, strict=False):
        assert np.array_equal(mine["map"], wanted)
        assert {NAMES[number] for number in np.unique(wanted)} == set(mine["parts"])
        assert all(np.array_equal(part, wanted == NAMES.index(name)) for name, part in mine["parts"].items())
        assert mine["shape"] == [1, 3, *(2 * (-(-side // 4) if side % 4 >= 2 else side // 4) for side in wanted.shape)]
    card = Path("runs/tuned/model/README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and "MMSSLForSemanticSegmentation" in card and "mean_iou" in card


def test_adapters_keep_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    mmssl.train(RECIPE, run={"name": "base"}, evaluate=None, train={"max_steps": 2})
    mmssl.train(RECIPE, run={"name": "lora"}, evaluate=None, train={"max_steps": 2}, init="runs/base/model", peft={"name": "lora"})
    config = MMSSLConfig.from_pretrained("runs/lora/adapter")
    base = mmssl.MMSSLForSemanticSegmentation.from_pretrained("runs/base/model", config=config)
    with quiet():  # what peft asks of transformers is deprecated there
        adapted = PeftModel.from_pretrained(base, "runs/lora/adapter").eval()
    whole = mmssl.MMSSLForSemanticSegmentation.from_pretrained("runs/lora/model").eval()
    inputs = mmssl.MMSSLProcessor.from_pretrained("runs/lora/model")(images=["data/test0.png", "data/test1.png"])
    labels = torch.zeros(2, *inputs["pixel_values"].shape[2:], dtype=torch.int64)
    with torch.no_grad():
        a, b = adapted(**inputs, labels=labels), whole(**inputs, labels=labels)
    torch.testing.assert_close(a.logits, b.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.loss, b.loss, atol=1e-5, rtol=1e-5)


def broken(folder: Path, number: int, image: Image.Image) -> None:
    """Put another label map in the place of one."""
    image.save(folder / "masks" / f"train{number}.png")


def test_labels_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    short: dict[str, Any] = {"train": {"max_steps": 1}, "run": {"name": "bad"}}
    good = Image.open("data/masks/train1.png").copy()
    cases = [
        (Image.new("L", (9, 9)), "column image: the label map must be as large as its image, 16 x 26 .* got 9 x 9"),
        (Image.new("RGB", good.size), "row 1 of .*train.*, column mask: .*train1.png is no label map: its pixels are RGB"),
    ]
    for image, message in cases:
        broken(tmp_path / "data", 1, image)
        with pytest.raises(ValueError, match=message):
            mmssl.train(RECIPE, **short)
    broken(tmp_path / "data", 1, good)
    Image.fromarray(np.full((26, 16), 7, dtype=np.uint8)).save("data/masks/test0.png")
    with pytest.raises(ValueError, match=r"row 0 of data \(test\), column mask: class numbers are from 0 to 2 .*got 7"):
        mmssl.train(RECIPE, **short)
    Path("data/masks/train3.png").unlink()
    with pytest.raises(ValueError, match=r"row 3 of .*, column mask: no label map .*train3.png"):
        mmssl.train(RECIPE, **short)
    with pytest.raises(ValueError, match=r"objective.classes: give a name, .* from 0 to 7; got a, b"):
        mmssl.train(RECIPE, **short, data={"split": "test"}, evaluate=None, objective={"classes": ["a", "b"]})

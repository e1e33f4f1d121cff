"""`mmssl new DATA --train`: a folder of anything becomes a trained encoder and a report, by one command."""

import json
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import trimesh
from PIL import Image
from skimage import data as pictures
from sklearn import datasets

import mmssl
from mmssl.data import Source
from mmssl.recipe import load
from mmssl.training.beginning import look
from mmssl.training.run import Run
from mmssl.training.starters import starters_by_modalities
from mmssl_cli import main


def photos(folder: Path) -> str:
    """Two classes by sub-folders, three formats and sizes, and what is no picture."""
    whole, random = pictures.astronaut(), np.random.default_rng(0)
    for number in range(24):
        place = folder / "photos" / ("left", "right")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (y, x), side = random.integers(0, 300, 2), int(random.integers(40, 90))
        Image.fromarray(whole[y : y + side, x : x + side]).save(place / f"{number}.{('JPG', 'png', 'webp')[number % 3]}")
    (folder / "photos" / "notes.txt").write_text("no picture")
    (folder / "photos" / ".hidden").write_text("")
    return "photos"


def table(folder: Path) -> str:
    datasets.load_wine(as_frame=True).frame.to_csv(folder / "wine.csv", index=False)
    return "wine.csv"


def sounds(folder: Path) -> str:
    (folder / "sounds").mkdir()
    for number in range(24):
        time = np.arange(int(11025 * (0.5 + 0.02 * number))) / 11025
        soundfile.write(folder / "sounds" / f"{number}.wav", 0.5 * np.sin(2 * np.pi * 100 * (1 + number % 4) * time), 11025)
    return "sounds"


def documents(folder: Path) -> str:
    (folder / "texts").mkdir()
    for name, text in list(pydoc_data.topics.topics.items())[:30]:
        (folder / "texts" / f"{name}.txt").write_text(text[:800])
    return "texts"


def lines(folder: Path) -> str:
    paragraphs = [part for text in pydoc_data.topics.topics.values() for part in text.split("\n\n") if len(part) > 60][:60]
    rows = [json.dumps({"remark": part, "topic": number % 3}) for number, part in enumerate(paragraphs)]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    return "texts.jsonl"


def series(folder: Path) -> str:
    held = [{"series": np.sin(np.arange(80 + i) / (3 + i % 3)).tolist(), "label": f"kind {i % 3}"} for i in range(30)]
    pd.DataFrame(held).to_parquet(folder / "series.parquet")
    return "series.parquet"


def meshes(folder: Path) -> str:
    (folder / "meshes").mkdir()
    made = (trimesh.creation.box, trimesh.creation.icosphere, trimesh.creation.capsule)
    for number in range(18):
        made[number % 3]().export(folder / "meshes" / f"{number}.off")
    return "meshes"


def clouds(folder: Path) -> str:
    (folder / "clouds").mkdir()
    for number in range(18):
        np.save(folder / "clouds" / f"{number}.npy", np.random.default_rng(number).standard_normal((200 + number, 3)))
    return "clouds"


def pairs(folder: Path) -> str:
    (folder / "pairs").mkdir()
    faces = datasets.load_digits()
    names = ["nothing", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for number in range(32):
        Image.fromarray((faces.images[number] * 15).astype(np.uint8)).save(folder / "pairs" / f"{number}.png")
    rows = {"file_name": [f"{n}.png" for n in range(32)], "text": [f"picture {n} of a {names[faces.target[n]]}" for n in range(32)]}
    pd.DataFrame(rows).to_csv(folder / "pairs" / "metadata.csv", index=False)
    return "pairs"


def spoken(folder: Path) -> str:
    """Sounds, each with what is said; some say the same."""
    sounds(folder)
    rows = {
        "file_name": [f"{n}.wav" for n in range(24)],
        "text": [f"a tone which is the {min(n, 20)}th of many" for n in range(24)],
    }
    pd.DataFrame(rows).to_csv(folder / "sounds" / "metadata.csv", index=False)
    return "sounds"


def sensors(folder: Path) -> str:
    """A series and a cloud of points in a row, and a remark on both."""
    random = np.random.default_rng(0)
    rows = [
        {
            "series": np.sin(np.arange(80 + i) / (3 + i % 3)).tolist(),
            "points": random.standard_normal((60 + i, 3)).tolist(),
            "text": f"the {i}th of the things that were measured",
        }
        for i in range(30)
    ]
    pd.DataFrame(rows).to_parquet(folder / "sensors.parquet")
    return "sensors.parquet"


MADE: dict[str, tuple[Callable[[Path], str], set[str], str]] = {
    "photos": (photos, {"image"}, "1 files with suffixes that are not read: .txt 1"),
    "table": (table, {"tabular"}, "labels: column target"),
    "sounds": (sounds, {"audio"}, "no labels known"),
    "texts in files": (documents, {"text"}, "30 of 30 files: .txt 30"),
    "texts in lines": (lines, {"text"}, "column remark holds texts"),
    "series": (series, {"timeseries"}, "labels: column label"),
    "meshes": (meshes, {"points"}, "18 of 18 files: .off 18"),
    "pairs": (pairs, {"image", "text"}, "32 samples"),
    "sounds with texts": (spoken, {"audio", "text"}, "rows of the same text belong together (data.columns.group)"),
    "three of a row": (sensors, {"timeseries", "points", "text"}, "30 samples"),
}


@pytest.mark.parametrize("name", MADE)
def test_one_command_from_a_folder_of_anything_to_a_report(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, modalities, told = MADE[name]
    monkeypatch.chdir(tmp_path)
    data = make(tmp_path)
    main(["new", data, "--set", "train.max_minutes=0.02", "--train"])
    recipe, shown = load("recipe.yaml"), capsys.readouterr().out
    assert set(recipe.modalities) == modalities
    assert told in shown
    assert "samples a second on this machine" in shown
    assert not recipe.settled, "nothing is left to be taken from the data"
    run = Run(tmp_path / "runs" / "recipe")
    assert run.report_file.exists()
    if recipe.section("evaluate") is not None and len(modalities) == 1:
        assert json.loads(run.table_file.read_text())["rows"][0]["name"] == "pretrained"


def test_what_is_ignored_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = mmssl.new(photos(tmp_path))
    assert "24 of 26 files: .jpg 8, .png 8, .webp 8" in made.lines
    assert "1 hidden files and folders: without suffix 1" in made.lines


def test_a_recipe_that_exists_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already: give another --output"):
        mmssl.new(table(tmp_path))
    assert Path("recipe.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ({"a": [{"x": 1}] * 9}, "cannot be read by any modality: its columns are a"),
        ({"n": range(9), "m": range(9), "remark": [f"a remark of five words {n}" for n in range(9)]}, "--modality"),
    ],
)
def test_what_may_be_several_things_is_asked(rows: dict, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(rows).to_json("rows.jsonl", orient="records", lines=True)
    with pytest.raises(ValueError, match=asked):
        mmssl.new("rows.jsonl")
    assert not Path("recipe.yaml").exists()


def test_the_user_decides_what_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {"n": range(40), "m": range(40), "remark": [f"a remark of five words {n}" for n in range(40)]}
    pd.DataFrame(rows).to_csv("rows.csv", index=False)
    made = mmssl.new("rows.csv", modality="text")
    assert made.recipe.resolved()["data"]["columns"] == {"text": "remark"}
    made = mmssl.new("rows.csv", "other.yaml", modality="tabular", label="m")
    assert made.recipe.resolved()["data"]["columns"] == {"label": "m"}
    with pytest.raises(LookupError, match=r"--label q: rows\.csv has no such column; it has n, m, remark"):
        mmssl.new("rows.csv", "third.yaml", label="q")
    with pytest.raises(ValueError, match="cannot be read as image"):
        mmssl.new("rows.csv", "third.yaml", modality="image")


@pytest.mark.parametrize(("names", "kind"), list(starters_by_modalities()), ids=str)
def test_starters_are_written_out_with_the_values_that_auto_stands_for(
    names: tuple[str, ...], kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    starter = load(starters_by_modalities()[names, kind])
    made = mmssl.new(starter.resolved()["data"]["path"], modality=names)
    before, after = starter.resolved(), made.recipe.resolved()
    after["data"]["columns"] = before["data"]["columns"]
    assert before == after
    assert "auto" not in {
        line.partition("#")[0].rstrip().rpartition(" ")[2] for line in Path("recipe.yaml").read_text().splitlines()
    }


def test_pictures_with_label_maps_are_known_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("images", "masks"):
        (tmp_path / "scenes" / part).mkdir(parents=True)
    rows = Source(path="synthetic:scenes", split="train").rows(range(24))
    for number, row in enumerate(rows):
        row["image"].save(f"scenes/images/{number}.png")
        row["label"].save(f"scenes/masks/{number}.png")
    main(["new", "scenes"])
    assert "labels: column label, label maps" in capsys.readouterr().out
    recipe = load("recipe.yaml")
    assert recipe.label_kind == "dense" and recipe.resolved()["modalities"]["image"]["processor"]["resize"] == "squash"
    mmssl.train("recipe.yaml", ["train.max_steps=2", "train.max_minutes=null", "evaluate.random_draws=1"])
    rows = json.loads(Path("runs/recipe/table.json").read_text())["rows"]
    assert rows[0]["name"] == "its own head" and set(rows[0]["scores"]) == {"miou", "accuracy"}
    report = Path("runs/recipe/report.html").read_text()
    assert "image: labels of held-out samples, and what the model says" in report
    Image.fromarray(np.zeros((8, 9), dtype=np.uint8)).save("scenes/masks/3.png")
    with pytest.raises(ValueError, match=r"must be as large as its image, 32 x 32 .*got 8 x 9.*\(label map scenes/masks/3\.png\)"):
        mmssl.train("recipe.yaml", ["train.max_steps=2", "train.max_minutes=null", "run.name=bad"])


def test_a_long_table_is_asked_about_and_read_as_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "time": t, "x": float(np.sin(t / (3 + i % 3))), "y": float(t * i)} for i in range(12) for t in range(40)]
    pd.DataFrame(rows).to_csv("long.csv", index=False)
    main(["new", "long.csv", "--output", "table.yaml"])
    assert "if rows are steps of a series in time, say how: --series" in capsys.readouterr().out
    main(["new", "long.csv", "--series", "{by: id, time: time, values: [x, y]}"])
    assert "12 samples" in capsys.readouterr().out
    plain = load("recipe.yaml").resolved()
    assert set(plain["modalities"]) == {"timeseries"}
    assert plain["data"]["series"]["values"] == ["x", "y"]


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_samples_are_told(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"n": range(count), "m": range(count)}).to_csv("rows.csv", index=False)
    with pytest.raises(ValueError, match=rf"rows\.csv holds {count} samples?: to learn takes 4 or more"):
        mmssl.new("rows.csv")
    assert not Path("recipe.yaml").exists()


def test_segments_of_time_are_no_labels_to_score_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.1, (20, 4000))
    rows = []
    for number, wave in enumerate(noise):
        soundfile.write(f"{number}.wav", wave, 8000)
        cut = 0.1 + number / 100
        segments = [{"start": 0.0, "end": cut, "label": "a"}, {"start": cut, "end": 0.5, "label": "b"}]
        rows.append({"file_name": f"{number}.wav", "label": json.dumps(segments)})
    pd.DataFrame(rows).to_csv("sounds.csv", index=False)
    found = look("sounds.csv")
    assert found.label is None and list(found.claims) == ["audio"]
    assert any("column label holds segments of time, which a model learns by objective=" in line for line in found.lines())
    with pytest.raises(ValueError, match=r"--label label: sounds\.csv holds segments of time"):
        look("sounds.csv", label="label")
    where = {"data.path": "sounds.csv", "data.columns.audio": "file_name", "data.columns.label": "label"}
    mmssl.train("start/audio", where | {"train.max_steps": 2, "train.max_minutes": None, "evaluate": None})
    assert "the report has no pictures" not in capsys.readouterr().out

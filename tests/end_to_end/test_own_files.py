"""Forms in which people keep samples: `mmssl new`, `check` and `train` read them alike, or refuse them with one message."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import datasets

from mmssl.recipe import load
from mmssl_cli import main

DIGITS = datasets.load_digits()
PIXELS = (DIGITS.images * 15).astype(np.uint8).repeat(2, 1).repeat(2, 2)
WORDS = ["nothing", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RANDOM = np.random.default_rng(0)


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(content, "png")
    return content.getvalue()


def clouds_with_normals() -> str:
    Path("d").mkdir()
    for number in range(16):
        points = RANDOM.normal(size=(200, 3)) * (1 + number % 3)
        np.save(f"d/{number}.npy", np.concatenate([points, points / np.linalg.norm(points, axis=1, keepdims=True)], 1))
    return "d"


def series_in_an_array() -> str:
    np.savez("d.npz", X=np.sin(np.arange(60) / (3 + np.arange(32)[:, None] % 3)), y=np.arange(32) % 3)
    return "d.npz"


def channels_in_an_array() -> str:
    np.save("d.npy", np.sin(np.arange(60)[:, None] / (3 + np.arange(32)[:, None, None] % 3) + np.arange(3)))
    return "d.npy"


def clouds_in_an_array() -> str:
    np.save("d.npy", RANDOM.normal(size=(20, 100, 3)))
    return "d.npy"


def pictures_in_an_array() -> str:
    np.savez("d.npz", x_train=PIXELS[:40], y_train=DIGITS.target[:40], x_test=PIXELS[40:60], y_test=DIGITS.target[40:60])
    return "d.npz"


def nested_classes() -> str:
    for number in range(40):
        place = Path("d", ("train", "test")[number % 5 == 4], "digits", WORDS[number % 2])
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(number))
    return "d"


def classes_in_a_tar_file() -> str:
    with tarfile.open("d.tar", "w") as tar:
        for number in range(32):
            info = tarfile.TarInfo(f"digits/{WORDS[DIGITS.target[number] % 2]}/{number}.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
    return "d.tar"


def texts_beside() -> str:
    Path("d").mkdir()
    for number in range(32):
        Path(f"d/{number}.png").write_bytes(png(number))
        Path(f"d/{number}.txt").write_text(f"picture {number} of a {WORDS[DIGITS.target[number]]}\n")
    return "d"


def separators_at_the_ends() -> str:
    rows = [f"{a:.3f},{b:.3f},{'ab'[int(a > 0)]},," for a, b in RANDOM.normal(size=(40, 2))]
    Path("d.csv").write_text("\n".join(["x,y,label,,", *rows]))
    return "d.csv"


def shuffled_columns() -> str:
    frame = pd.DataFrame(np.sin(np.arange(30) / (3 + np.arange(32)[:, None] % 3)), columns=[f"t{i}" for i in range(30)])
    frame[sorted(frame.columns)].to_csv("d.csv", index=False)
    return "d.csv"


MADE: dict[str, tuple[Callable[[], str], list[str], set[str], str]] = {
    "clouds with normals": (clouds_with_normals, ["--modality", "points"], {"points"}, "16 samples"),
    "series in an array": (series_in_an_array, [], {"timeseries"}, "labels: column label"),
    "channels last in an array": (channels_in_an_array, ["--modality", "timeseries"], {"timeseries"}, "32 samples"),
    "clouds in an array": (clouds_in_an_array, [], {"points"}, "20 samples"),
    "pictures in an array": (pictures_in_an_array, [], {"image"}, "60 samples"),
    "classes within one folder": (nested_classes, [], {"image"}, "2 classes by folders: nothing 20, one 20"),
    "classes in a tar file": (classes_in_a_tar_file, [], {"image"}, "labels: column label"),
    "texts beside pictures": (texts_beside, [], {"image", "text"}, "such as 0.png and 0.txt"),
    "separators at the ends of rows": (separators_at_the_ends, [], {"tabular"}, "labels: column label"),
    "columns in another order": (shuffled_columns, ["--series", "{values: 't*'}"], {"timeseries"}, "in the order of their numbers"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.usefixtures("one_thread", "no_pictures")
def test_files_are_read_by_new_check_and_train_alike(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, options, modalities, told = MADE[name]
    main(["new", make(), *options])
    assert told in capsys.readouterr().out
    assert set(load("recipe.yaml").modalities) == modalities
    main(["check", "recipe.yaml"])
    main(["train", "recipe.yaml", "train.max_minutes=null", "train.max_steps=2", "evaluate=null"])
    assert Path("runs/recipe/model/model.safetensors").exists()


def ambiguous_array() -> None:
    np.save("d.npy", RANDOM.normal(size=(40, 50)))


def lengths_that_differ() -> None:
    np.savez("d.npz", X=RANDOM.normal(size=(40, 50)), y=np.zeros(39))


def splits_in_a_tar_file() -> None:
    with tarfile.open("d.tar", "w") as tar:
        for name in ("train/one/0.png", "test/one/1.png"):
            tar.addfile(info := tarfile.TarInfo(name), io.BytesIO(b"\0" * info.size))


def rows_of_several_lengths() -> None:
    Path("d.csv").write_text("a,b\n1,2,,\n3,4\n")


REFUSED: dict[str, tuple[Callable[[], None], str, str, str]] = {
    "an array of two axes": (ambiguous_array, "d.npy", "timeseries", "may be 40 samples, or one. Say data.arrays=many"),
    "labels of another length": (lengths_that_differ, "d.npz", "timeseries", "array y has 39. Correct it"),
    "splits in a tar file": (splits_in_a_tar_file, "d.tar", "image", "Unpack it and give the folder"),
    "rows of several lengths": (rows_of_several_lengths, "d.csv", "tabular", "row 1 has 2 cells, its header names 4 columns"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_are_refused_by_new_check_and_train_alike(name: str) -> None:
    make, path, recipe, message = REFUSED[name]
    make()
    for command in (["new", path], ["check", recipe, f"data.path={path}"], ["train", recipe, f"data.path={path}"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert message in str(ended.value.code)
    assert not Path("runs").exists()

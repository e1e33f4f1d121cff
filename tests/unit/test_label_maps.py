"""A folder of pictures with a folder of label maps: which layouts are read, and what is told of those at odds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmssl.data import Source
from mmssl.data.survey import survey
from mmssl.evaluation.truth import Truth


def write(folder: Path, *names: str, value: int | None = None, size: int = 8) -> None:
    """Pictures, or label maps of one class on another."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((size, size) if value is not None else (size, size, 3), dtype=np.uint8)
        pixels[: size // 2] = value or 0
        Image.fromarray(pixels).save(file)


LAYOUTS = {
    "plain": ("images/{}", "masks/{}"),
    "labels": ("images/{}", "labels/{}"),
    "splits above": ("train/images/{}", "train/masks/{}"),
    "splits below": ("images/train/{}", "annotations/train/{}"),
    "deeper": ("data/Image/a/{}", "data/Masks/a/{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    pictures, maps = LAYOUTS[layout]
    for number, name in enumerate(("b", "a")):
        write(tmp_path, pictures.format(f"{name}.jpg"))
        write(tmp_path, maps.format(f"{name}.png"), value=1 + number)
    if "train" in pictures:
        write(tmp_path, pictures.replace("train", "val").format("c.jpg"))
        write(tmp_path, maps.replace("train", "val").format("c.png"), value=3)
    source = Source(path=str(tmp_path), split="train")
    assert source.columns["label"] == "label" and source.column_names == ["image", "label"] and source.num_rows == 2
    assert [Path(row["image"]["path"]).stem for row in source.rows([0, 1])] == ["a", "b"]
    labels = source.labels(kind="dense")
    assert labels is not None and labels.names == ["0", "1", "2"] and labels.values.tolist() == [[32, 0, 32], [32, 32, 0]]
    assert source.natural_classes("label") is None
    if "train" in pictures:
        (row,) = Source(path=str(tmp_path), split="validation").rows([0])
        assert row["image"]["path"].endswith("c.jpg") and row["label"].endswith("c.png")
    seen = survey(str(tmp_path))
    assert not seen.labels and not seen.mixed and [each.modality for each in seen.candidates] == ["image"]


def test_a_picture_without_a_map_is_named(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", "images/b.png", "images/c.png")
    write(tmp_path, "masks/a.png", value=1)
    message = r"2 of 3 pictures have no label map of their name: images/b\.png, images/c\.png; there is, for example, masks/a\.png"
    with pytest.raises(ValueError, match=message):
        Source(path=str(tmp_path))
    write(tmp_path, "masks/b.png", "masks/c.png", "masks/d.png", value=1)
    source = Source(path=str(tmp_path))
    assert source.num_rows == 3 and any("1 label map has no picture and is left out: masks/d.png" in note for note in source.notes)
    write(tmp_path, "masks/a.bmp", value=1)
    with pytest.raises(ValueError, match=r"masks/a\.bmp and masks/a\.png have one name"):
        Source(path=str(tmp_path))


def test_folders_that_are_classes_stay_classes(tmp_path: Path) -> None:
    """Label maps may not be lossy; and folders of one of both kinds are classes."""
    write(tmp_path / "one", "images/a.jpg", "labels/a.jpg")
    assert {row["label"] for row in Source(path=str(tmp_path / "one")).rows([0, 1])} == {"images", "labels"}
    write(tmp_path / "two", "masks/a.png", "faces/a.png")
    assert {row["label"] for row in Source(path=str(tmp_path / "two")).rows([0, 1])} == {"faces", "masks"}


def test_truth_is_decoded_once_and_forgotten_where_it_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path, "masks/a.png", "masks/b.png", value=255)
    source, read = Source(path=str(tmp_path)), list[int]()
    real = Source.dense_labels

    def counted(self: Source, rows: list[int], names: list[str]) -> object:
        read.extend(rows)
        return real(self, rows, names)

    monkeypatch.setattr(Source, "dense_labels", counted)
    truth = Truth(source, ["x", "y"], most=64)
    first = [truth(row) for row in (0, 1)]
    again = [truth(row) for row in (0, 1, 0)]
    assert read == [0, 1, 1], "one map of 64 bytes has room"
    for a, b in zip(first, again, strict=False):
        assert a.dtype == b.dtype == np.int64 and np.array_equal(a, b)
    assert set(np.unique(first[0])) == {-100, 0}

"""What folders say of the files in them: classes below splits, classes within one folder, texts beside files."""

from pathlib import Path

import pytest
from PIL import Image

from mmssl.data import Source
from mmssl.data.survey import survey
from mmssl.modality import find
from mmssl.training.beginning import look

WORDS = ("a grey square", "another square of grey", "the third square", "one more, which is grey", "nothing but grey", "grey again")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), number).save(name)


def labels(path: str, split: str | None = None) -> list[str]:
    return Source(path=path, split=split).cells("label")


@pytest.mark.parametrize("top", ["", "animals/", "data/animals/"])
def test_classes_lie_in_folders_that_hold_all_of_them(top: str) -> None:
    pictures(f"d/{top}cat/0.png", f"d/{top}dog/1.png")
    assert labels("d") == ["cat", "dog"] == labels("d/**/*.png")
    assert survey("d").labels == {"cat": 1, "dog": 1}
    pictures(f"e/train/{top}cat/0.png", f"e/train/{top}dog/1.png", f"e/test/{top}dog/2.png")
    assert labels("e", "train") == ["cat", "dog"]
    assert labels("e", "test") == ["dog"]
    pictures(f"f/{top}cat/train_0.png", f"f/{top}dog/train_1.png", f"f/{top}dog/test_2.png")
    assert labels("f", "train") == ["cat", "dog"]
    assert labels("f", "test") == ["dog"]


def test_folders_below_those_of_classes_are_told() -> None:
    pictures("d/animals/cat/0.png", "d/animals/dog/1.png", "d/plants/rose/2.png")
    assert labels("d") == ["animals", "animals", "plants"]
    told = "labels are the folders animals; those below them, animals/cat, animals/dog, are not read: for these as labels give d/"
    assert any(told in note for note in Source(path="d").notes)
    assert labels("d/animals") == ["cat", "dog"]
    pictures("e/cat/2023/0.png", "e/dog/2024/1.png", "f/cat/train/0.png", "f/cat/test/1.png", "f/dog/train/2.png")
    assert not any("are not read" in note for path in ("e", "f") for note in Source(path=path).notes)
    pictures("g/one/0.png", "g/one/1.png")
    assert labels("g") == ["one", "one"]


def captions(*names: str) -> None:
    for name, words in zip(names, WORDS, strict=False):
        Path(name).write_text(words + "\n")


def test_round_trip_of_texts_beside_pictures() -> None:
    names = [f"d/{number}.{('JPG', 'png')[number % 2]}" for number in range(6)]
    pictures(*names)
    captions(*(f"{name.rpartition('.')[0]}.txt" for name in names))
    source = Source(path="d")
    assert source.column_names == ["image", "text"]
    image, text = find("image"), find("text")
    processor = text.processor()
    for row, words in zip(source.rows(range(6)), WORDS, strict=True):
        assert bytes(processor(source.raw(text, row))["input_ids"].tolist()).decode().strip() == words
        assert processor(source.raw(text, row))["input_ids"].tolist() == processor(words + "\n")["input_ids"].tolist()
        assert Path(source.raw(image, row)["path"]).stem == Path(source.raw(text, row)["path"]).stem
    assert source.notes == ("d: files have the text beside them that is called like them, such as 0.JPG and 0.txt: column text.",)
    found = look("d")
    assert set(found.claims) == {"image", "text"}
    assert not found.survey.passed
    assert set(look("d", modalities=["image"]).claims) == {"image"}


def test_some_files_without_a_text_are_told_and_few_texts_are_notes() -> None:
    pictures(*(f"d/cat/{number}.png" for number in range(3)), *(f"d/dog/{number}.png" for number in range(3)))
    captions(*(f"d/cat/{number}.txt" for number in range(3)), "d/dog/0.txt")
    Path("d/readme.txt").write_text("notes")
    source = Source(path="d")
    assert [text is None for text in source.cells("text")] == [False, False, False, False, True, True]
    assert source.cells("label") == ["cat"] * 3 + ["dog"] * 3
    assert "d: 2 files have no text beside: dog/1.png, dog/2.png." in source.notes
    assert "d: 1 file passed over: 1 .txt." in source.notes
    for name in ("cat/0", "cat/1"):
        Path(f"d/{name}.txt").unlink()
    assert Source(path="d").column_names == ["image", "label"]
    assert Source(path="d").notes == ("d: 3 files passed over: 3 .txt.",)


def test_numbers_beside_pictures_are_no_texts_to_learn_from() -> None:
    names = [f"d/{number}" for number in range(6)]
    pictures(*(f"{name}.png" for name in names))
    for name in names:
        Path(f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n")
    found = look("d")
    assert set(found.claims) == {"image"}
    assert any("holds numbers in every line" in line for line in found.lines())


def test_a_text_that_cannot_be_read_is_named() -> None:
    pictures("d/0.png")
    Path("d/0.txt").write_bytes(b"\xff\xfe\x00bad")
    source, text = Source(path="d"), find("text")
    with pytest.raises(ValueError, match=r"cannot read d/0\.txt: .*UTF"):
        text.processor()(source.raw(text, source.rows([0])[0]))

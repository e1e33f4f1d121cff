"""Folders as people have them: links, names of splits, suffixes, tables of labels, signs in names."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from mmssl.data import Source
from mmssl.data.identity import content_digits, files_digits
from mmssl.modality import find
from mmssl.plugins import installed


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    """Files that hold their own name."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def link(name: str, target: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).symlink_to(target)


def read(path: str, split: str | None = "train") -> list[tuple[str, str | None]]:
    """Files and labels."""
    source = Source(path=path, split=split)
    return [(row["image"]["path"], row.get("label")) for row in source.rows(range(len(source)))]


def labels(path: str, split: str | None = "train") -> list[str | None]:
    return [label for _, label in read(path, split)]


def notes(path: str, split: str | None = "train") -> str:
    return " ".join(Source(path=path, split=split).notes)


# Links


def test_linked_class_folders_and_files_are_followed() -> None:
    touch("real/cat/1.png", "real/cat/2.png", "store/x.png", "mix/dog/1.png")
    link("mix/cat", "../real/cat")
    link("mix/bird/1.png", "../../store/x.png")
    assert labels("mix") == ["bird", "cat", "cat", "dog"] == labels("mix/**/*.png") == labels("mix/*/*.png")
    link("all", "mix")
    assert labels("all") == labels("mix")
    assert notes("mix") == ""


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "dog"])
def test_links_that_lead_back_are_not_followed_and_told(target: str) -> None:
    touch("pets/cat/1.png", "pets/dog/small/1.png")
    link("pets/dog/loop", target)
    files = ["pets/cat/1.png", "pets/dog/small/1.png"]
    if target == "dog":
        Path("pets/dog/loop").unlink()
        link("pets/dog/loop", "loop")
        assert notes("pets") == "pets: 1 link leads nowhere: dog/loop."
    else:
        assert "pets: 1 link leads back to a folder above and is not followed: dog/loop." in (notes("pets"), notes("pets/**/*.png"))
    assert [file for file, _ in read("pets")] == files == [file for file, _ in read("pets/**/*.png")]


def test_two_folders_that_hold_links_to_each_other() -> None:
    touch("pets/cat/1.png", "pets/dog/2.png")
    link("pets/cat/other", "../dog")
    link("pets/dog/other", "../cat")
    assert [file for file, _ in read("pets")] == [
        "pets/cat/1.png",
        "pets/cat/other/2.png",
        "pets/dog/2.png",
        "pets/dog/other/1.png",
    ]
    assert "cat and dog/other" in notes("pets")
    assert "are one folder; its files count each time" in notes("pets")


def test_links_that_lead_nowhere_are_counted_and_told() -> None:
    touch("pets/cat/1.png")
    for i in range(9):
        link(f"pets/cat/gone{i}.png", "nowhere.png")
    assert len(read("pets")) == 1
    assert "pets: 9 links lead nowhere: cat/gone0.png, " in notes("pets")
    assert "cat/gone7.png and 1 more." in notes("pets")
    assert "pets/*/*.png: 9 links lead nowhere" in notes("pets/*/*.png")
    Path("pets/cat/1.png").unlink()
    for path in ("pets", "pets/*/*.png"):
        with pytest.raises(FileNotFoundError, match="9 links lead nowhere"):
            Source(path=path)


def test_pipes_are_not_read_and_told() -> None:
    touch("pets/1.png")
    os.mkfifo("pets/2.png")
    assert len(read("pets")) == 1
    assert notes("pets") == "pets: 1 pipe, socket or device passed over."


def test_a_folder_that_cannot_be_listed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("pets/cat/1.png", "pets/dog/1.png")
    scandir = os.scandir

    def refuse(place: str) -> Any:
        if str(place).endswith("dog"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr("mmssl.data.walk.os.scandir", refuse)
    with pytest.raises(ValueError, match="cannot list the folder pets/dog: Permission denied"):
        Source(path="pets")


# Suffixes


def test_what_is_passed_over_is_counted_by_suffix() -> None:
    touch("pets/1.png", "pets/a.docx", "pets/b.DOCX", "pets/c.txt", "pets/README", "pets/.hidden.txt", "pets/.git/config")
    hidden = "pets: 2 hidden files and folders are left out: .git, .hidden.txt."
    assert notes("pets") == f"pets: 4 files passed over: 2 .docx, 1 without suffix, 1 .txt. {hidden}"
    touch(*(f"many/{i}.x{i}" for i in range(12)), "many/1.png")
    shown = (0, 1, 10, 11, 2, 3, 4, 5)
    assert notes("many") == "many: 12 files passed over: " + ", ".join(f"1 .x{i}" for i in shown) + ", 4 with 4 more suffixes."
    touch("none/1.docx")
    with pytest.raises(FileNotFoundError, match=r"none holds no data files; looked for .*none: 1 file passed over: 1 \.docx\."):
        Source(path="none")


def test_every_suffix_that_pillow_decodes_is_an_image() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    undecoded = {".eps", ".ps", ".wmf", ".emf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".pcd"}
    assert known - undecoded <= set(find("image").suffixes)
    assert not undecoded & set(find("image").suffixes)


@pytest.mark.filterwarnings("ignore:.* image format is deprecated:DeprecationWarning")
@pytest.mark.parametrize("suffix", find("image").suffixes)
def test_images_of_every_suffix_that_can_be_written_are_found_and_read(suffix: str) -> None:
    Path("pets").mkdir()
    picture = Image.fromarray((np.arange(64 * 64) % 251).astype(np.uint8).reshape(64, 64))
    for name, mode in ((f"a{suffix}", "L"), (f"b{suffix.upper()}", "RGB"), (f"c{suffix}", "1"), (f"d{suffix}", "RGBA")):
        try:
            picture.convert(mode).save(f"pets/{name}")
        except (KeyError, ValueError, OSError):
            Path(f"pets/{name}").unlink(missing_ok=True)
    written = sorted(path.name for path in Path("pets").iterdir())
    if not written:
        pytest.skip(f"Pillow does not write {suffix}")
    files = [file for file, _ in read("pets")]
    assert [Path(file).name for file in files] == written
    image = find("image").processor(size=32, channels=1, mean=0.0, std=1.0)
    for file in files:
        assert image({"path": file, "bytes": None})["pixel_values"].shape == (1, 32, 32)


FORMATS = {
    "AIFF": ".aiff .aif .aifc",
    "AU": ".au .snd",
    "AVR": ".avr",
    "CAF": ".caf",
    "FLAC": ".flac",
    "HTK": ".htk",
    "SVX": ".svx .8svx .iff",
    "MPC2K": ".mpc",
    "MP3": ".mp3",
    "OGG": ".ogg .oga .opus",
    "PAF": ".paf .fap",
    "PVF": ".pvf",
    "RF64": ".rf64",
    "SD2": ".sd2",
    "SDS": ".sds",
    "IRCAM": ".sf .ircam",
    "VOC": ".voc",
    "W64": ".w64",
    "WAV": ".wav .wave .bwf",
    "NIST": ".sph .nist",
    "WAVEX": ".wav",
    "WVE": ".wve",
    "XI": ".xi",
}


def test_every_format_of_libsndfile_has_a_suffix() -> None:
    assert soundfile.available_formats().keys() - {"RAW", "MAT4", "MAT5"} <= FORMATS.keys()
    assert {suffix for suffixes in FORMATS.values() for suffix in suffixes.split()} <= set(find("audio").suffixes)


@pytest.mark.parametrize("kind", sorted(FORMATS.keys() & soundfile.available_formats().keys()))
def test_sounds_of_every_format_are_found_and_read(kind: str) -> None:
    Path("sounds").mkdir()
    sound = np.sin(np.arange(8000) / 20).astype(np.float32) * 0.3
    for suffix in FORMATS[kind].split():
        for name in (f"a{suffix}", f"b{suffix.upper()}"):
            subtype = "OPUS" if suffix == ".opus" else soundfile.default_subtype(kind)
            soundfile.write(f"sounds/{name}", sound, 8000, format=kind, subtype=subtype)
    source = Source(path="sounds")
    found = [row["audio"] for row in source.rows(range(len(source)))]
    assert [Path(cell["path"]).name for cell in found] == sorted(p.name for p in Path("sounds").glob("[ab]*"))
    audio = find("audio").processor(sample_rate=8000, max_seconds=2.0)
    for cell in found:
        assert len(audio.pieces(cell)) >= 1


# Splits


@pytest.mark.parametrize(
    ("train", "others"),
    [
        ("train", {"test": "test", "unlabeled": "unlabeled"}),
        ("training", {"testing": "test"}),
        ("Train", {"TEST": "test", "Val": "validation"}),
        ("train", {"dev": "validation", "eval": "test"}),
        ("train", {"valid": "validation", "unlabelled": "unlabeled", "extra": "extra"}),
        ("train_images", {"test_images": "test", "validation-set": "validation"}),
        ("train2017", {"val2017": "validation"}),
        ("seg_train", {"seg_test": "test"}),
        ("trainA", {"testA": "test"}),
        ("mnist-training", {"mnist-testing": "test"}),
    ],
)
@pytest.mark.parametrize("arranged", ["split/class", "class/split", "wrapped", "flat"])
def test_split_folders_in_usual_forms_on_either_level(train: str, others: dict[str, str], arranged: str) -> None:
    def place(name: str, kind: str, number: int) -> str:
        forms = {"split/class": f"{name}/{kind}", "class/split": f"{kind}/{name}", "wrapped": f"set/{name}/{kind}", "flat": name}
        return f"data/{forms[arranged]}/{kind}{number}.png"

    for name in (train, *others):
        for kind in ("cat", "dog"):
            touch(place(name, kind, 1), place(name, kind, 2))
    inner = arranged == "class/split" and train in ("seg_train", "trainA", "mnist-training")
    if inner:  # below classes a word inside of a name may be anything
        return
    classes = None if arranged == "flat" else ["cat", "cat", "dog", "dog"]
    assert (labels("data") == [None] * 4) if classes is None else (labels("data") == classes)
    for name, split in others.items():
        assert len(read("data", split)) == 4
        assert all(name in file for file, _ in read("data", split))
        if name.isalpha() and name != "testA":
            assert read("data", name) == read("data", split), "the folder's own name works, too"
    assert len(read("data", None)) == 4 * (1 + len(others))


@pytest.mark.parametrize(
    ("files", "named", "strangers"),
    [
        ("train/a/1.png bus/b/2.png", "train", "bus"),
        ("train/1.png test/2.png 3.png", "train, test|test, train", "3.png"),
        ("train/1.png test/2.png holiday/3.png", "train, test|test, train", "holiday"),
        ("seg_train/a/1.png seg_test/a/1.png seg_pred/1.png", "seg_train, seg_test|seg_test, seg_train", "seg_pred"),
        ("cat/train/1.png cat/test/2.png dog/3.png", "train, test|test, train", "dog/3.png"),
        ("cat/train/1.png cat/test/2.png dog/indoor/3.png", "train, test|test, train", "dog/indoor"),
        ("cat/train/1.png dog/test/2.png 3.png", "train, test|test, train", "3.png"),
        ("UNLABELED/1.png cat/2.png", "UNLABELED", "cat"),
    ],
)
def test_strangers_beside_splits_are_refused_by_name(files: str, named: str, strangers: str) -> None:
    touch(*(f"data/{file}" for file in files.split()))
    with pytest.raises(ValueError, match=rf"({named}) (is|are) called after a split, .* {re.escape(strangers)}\. .*pattern: data/"):
        Source(path="data")
    assert len(read("data/**/*.png")) == len(files.split())


@pytest.mark.parametrize("names", ["test eval", "train training", "val dev", "train trainval"])
def test_two_words_for_one_split_are_refused(names: str) -> None:
    first, second = names.split()
    touch(f"data/{first}/1.png", f"data/{second}/2.png", f"tables/{first}.csv", f"tables/{second}.csv")
    for folder in ("data", "tables"):
        with pytest.raises(
            ValueError, match=rf"folder {folder}: {first}.* and {second}.* name one split|{second}.* and {first}.* name"
        ):
            Source(path=folder)


def test_classes_whose_names_hold_a_split_are_classes() -> None:
    touch("sun/train_station/1.png", "sun/train_interior/1.png", "sun/bus/1.png")
    assert labels("sun") == ["bus", "train_interior", "train_station"]


def test_flat_files_that_are_all_called_after_splits() -> None:
    touch("flat/train_1.png", "flat/train_2.png", "flat/test_1.png", "one/val_1.png", "one/val_2.png")
    assert (len(read("flat")), len(read("flat", "test"))) == (2, 1)
    assert len(read("one")) == 2


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        ("train-00000-of-00002 train-00001-of-00002 test-00000-of-00001", {"train": 2, "test": 1}),
        ("training testing dev", {"train": 1, "test": 1, "validation": 1}),
        ("mnist_train mnist_test", {"train": 1, "test": 1}),
        ("ECG5000_TRAIN ECG5000_TEST", {"train": 1, "test": 1}),
        ("trainData testData", {"train": 1, "test": 1}),
        ("trainb testb", {"train": 1, "test": 1}),
        ("train eval unlabelled extra", {"train": 1, "test": 1, "unlabeled": 1, "extra": 1}),
        ("data/train/0000 data/validation/0000", {"train": 1, "validation": 1}),
        ("values EXTRACT devices pretrained", {"train": 4}),
    ],
)
def test_table_files_named_after_splits(names: str, sizes: dict[str, int]) -> None:
    for name in names.split():
        Path("data", name).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"x": [name]}).to_parquet(f"data/{name}.parquet")
    assert {split: len(Source(path="data", split=split)) for split in sizes} == sizes
    with pytest.raises(LookupError, match=f"data has no split 'predict'; it has {', '.join(sorted(sizes))}"):
        Source(path="data", split="predict")


# Tables beside media files


def images(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(name)


def pixels(source: Source) -> list[int]:
    """What the images of a source hold, read as a run reads them."""
    image = find("image")
    processor = image.processor(size=4, channels=1, mean=0.0, std=1.0)
    narrow = source.only([image])
    values = [processor(narrow.raw(image, row))["pixel_values"] for row in narrow.rows(range(len(narrow)))]
    return [round(float(value.mean()) * 255) for value in values]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["file_name", "photo", "image"])
def test_a_folder_with_one_table_is_read_by_it(kind: str, column: str) -> None:
    images("pets/images/a.png", "pets/images/b.png", "pets/c.png", "pets/spare.png")
    frame = pd.DataFrame({column: ["c.png", "images/b.png", "images/a.png"], "breed": ["x", "y", "x"], "label": ["u", "v", "u"]})
    write(frame, f"pets/metadata.{kind}")
    source = Source(path="pets", split="train")
    assert pixels(source) == [2, 1, 0]
    assert source.labels().names == ["u", "v"]  # type: ignore[union-attr]
    assert source.cells("breed") == ["x", "y", "x"]
    assert set(source.column_names) == {"image", column, "breed", "label"}
    assert f"pets is read by pets/metadata.{kind}: a row is a sample, its file is named by {column}." in source.notes
    assert f"pets: 1 media file is not named by pets/metadata.{kind} and not read, such as spare.png." in source.notes
    assert pixels(Source(path="pets", columns={"image": column})) == [2, 1, 0]
    assert len(source.parts) == 4


def write(frame: pd.DataFrame, name: str) -> None:
    if name.endswith("csv"):
        frame.to_csv(name, index=False)
    elif name.endswith("jsonl"):
        frame.to_json(name, orient="records", lines=True)
    else:
        frame.to_parquet(name)


def test_names_are_found_wherever_they_lie_and_never_guessed() -> None:
    images("pets/images/a.png", "pets/images/b.png")
    write(pd.DataFrame({"file": ["b.png", "./images/a.png", "images\\b.png"]}), "pets/t.csv")
    assert pixels(Source(path="pets")) == [1, 0, 1]
    images("pets/more/b.png")
    with pytest.raises(ValueError, match=r"row 0 of pets, column file, names 'b\.png', which may be images/b\.png and more/b\.png"):
        Source(path="pets")


def test_rows_without_their_file_are_told_and_refused_when_read() -> None:
    images("pets/a.png", "pets/b.png")
    write(pd.DataFrame({"file_name": ["a.png", "gone.png"]}), "pets/t.csv")
    source = Source(path="pets")
    assert "1 of 2 rows of pets/t.csv name no file of the folder in the column file_name, the first is row 1." in source.notes
    with pytest.raises(FileNotFoundError, match=r"no image file gone\.png; .*in a table first to the table's folder"):
        pixels(source)


@pytest.mark.parametrize("arranged", ["in each split", "beside splits", "one for all", "shared images"])
def test_tables_of_several_splits(arranged: str) -> None:
    split = {"train": [0, 1], "test": [2]}
    names = ["train/a.png", "train/b.png", "test/a.png"]
    if arranged == "shared images":
        names = ["images/a.png", "images/b.png", "images/c.png"]
    images(*(f"pets/{name}" for name in names))
    for part, numbers in split.items():
        bare = pd.DataFrame({"file_name": [names[i].split("/")[1] for i in numbers], "y": numbers})
        if arranged == "in each split":
            write(bare, f"pets/{part}/metadata.csv")
        elif arranged != "one for all":
            write(bare, f"pets/{part}.csv")
    if arranged == "one for all":
        write(pd.DataFrame({"file_name": names[::-1], "y": [2, 1, 0]}), "pets/metadata.csv")
    for part, numbers in split.items():
        source = Source(path="pets", split=part)
        assert sorted(pixels(source)) == numbers
        assert source.cells("y") == pixels(source)
        assert not any("not named" in note for note in source.notes) or arranged == "shared images"
    whole = Source(path="pets", split=None)
    assert whole.cells("y") == pixels(whole)
    assert sorted(pixels(whole)) == [0, 1, 2]


def test_two_columns_of_files_each_get_their_modality() -> None:
    images("pets/a.png", "pets/b.png")
    for name in ("a", "b"):
        soundfile.write(f"pets/{name}.wav", np.zeros(100, np.float32), 8000)
    write(pd.DataFrame({"sound": ["a.wav", "b.wav"], "picture": ["b.png", "a.png"]}), "pets/pairs.csv")
    source = Source(path="pets")
    assert pixels(source) == [1, 0]
    row = source.rows([0])[0]
    assert source.raw(find("audio"), row) == {"path": "pets/a.wav", "bytes": None}


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"t.csv": {"x": [1, 2]}}, r"no column of t\.csv names them, as `file_name` would"),
        ({"a.csv": {"file": ["1.png"]}, "b.csv": {"file": ["1.png"]}}, "there are 2 tables"),
    ],
)
def test_other_tables_beside_media_are_refused(tables: dict[str, Any], why: str) -> None:
    images("pets/1.png")
    for name, columns in tables.items():
        write(pd.DataFrame(columns), f"pets/{name}")
    with pytest.raises(ValueError, match=rf"pets mixes formats: csv .*{why}.* pattern such as folder/\*\*/\*\.png"):
        Source(path="pets")


def test_paths_in_a_table_are_relative_to_it_first_then_to_the_working_directory() -> None:
    images("set/img/a.png", "img/a.png", "img/b.png")
    Path("far").mkdir()
    write(pd.DataFrame({"image": ["img/a.png", "img/b.png", str(Path("img/b.png").absolute())], "text": "img/a.png"}), "set/t.csv")
    source = Source(path="set/t.csv")
    assert pixels(source) == [0, 2, 2]
    assert pixels(source.only([find("image")])) == [0, 2, 2]
    assert source.only([find("text")]).rows([0]) == [{"text": "img/a.png"}], "text is text"
    records = [{"image": {"path": "img/a.png", "bytes": None}}]
    pd.DataFrame(records).to_parquet("set/p.parquet")
    assert pixels(Source(path="set/p.parquet")) == [0]


def test_tables_in_several_folders_each_have_their_own_files() -> None:
    images("all/x/img/1.png", "all/y/img/1.png", "all/y/img/2.png")
    for name, files in {"x": ["img/1.png"], "y": ["img/2.png", "img/1.png"]}.items():
        write(pd.DataFrame({"image": files}), f"all/{name}/part.csv")
    source = Source(path="all/*/part.csv")
    assert pixels(source) == [0, 2, 1]
    first, second = (Source(path=f"all/{name}/part.csv") for name in "xy")
    write(pd.DataFrame({"image": ["img/1.png"]}), "all/y/part.csv")
    first, second = (Source(path=f"all/{name}/part.csv") for name in "xy")
    assert content_digits(first, ["image"]) != content_digits(second, ["image"]), "the same words, other files"


# Signs in names


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["t[1]", "t*", "t?", "t[!a]", "[t]"])
def test_a_name_that_exists_is_no_pattern(kind: str, name: str) -> None:
    Path("data[1]").mkdir()
    for place in ("", "data[1]/"):
        write(pd.DataFrame({"x": ["right"]}), f"{place}{name}.{kind}")
        for other in ("t1", "tt", "t", "t[2]"):
            write(pd.DataFrame({"x": ["wrong"]}), f"{place}{other}.{kind}")
        assert Source(path=f"{place}{name}.{kind}").cells("x") == ["right"]
    Path("data[1]/sub").mkdir()
    write(pd.DataFrame({"x": ["below"]}), f"data[1]/sub/[a].{kind}")
    assert Source(path="data[1]/sub").cells("x") == ["below"]
    assert Source(path=f"data[1]/sub/*.{kind}").cells("x") == ["below"]
    assert Source(path=f"data[1]/*/[[]a].{kind}").cells("x") == ["below"]
    assert Source(path=f"dat?[[]1]/*/*.{kind}").cells("x") == ["below"]


def test_patterns_with_brackets_still_are_patterns() -> None:
    touch("p/a1.png", "p/b1.png", "p/c1.png", "p/.a1.png", "p[1]/z.png")
    assert [file for file, _ in read("p/[ab]1.png")] == ["p/a1.png", "p/b1.png"]
    assert [file for file, _ in read("p/[!a]*.png")] == ["p/b1.png", "p/c1.png"]
    assert [file for file, _ in read("p/*.png")] == ["p/a1.png", "p/b1.png", "p/c1.png"], "hidden files stay out"
    assert [file for file, _ in read("p/.a*.png")] == ["p/.a1.png"]
    assert [file for file, _ in read("p[1]/*.png")] == ["p[1]/z.png"]


# What a run writes down


def test_digest_of_files_changes_with_names_and_sizes_only() -> None:
    touch("pets/cat/1.png", "pets/dog/2.png")
    before = files_digits(Source(path="pets"))
    assert files_digits(Source(path=str(Path("pets").absolute()))) == before
    os.utime("pets/cat/1.png", (0, 0))
    Path("pets").rename("moved")
    assert files_digits(Source(path="moved")) == before
    Path("moved/cat/1.png").write_text("longer than before")
    assert files_digits(Source(path="moved")) != before
    touch("pets/cat/1.png", "pets/dog/3.png")
    assert files_digits(Source(path="pets")) != before
    assert files_digits(Source.from_rows([{"x": 1}])) is None


def test_suffixes_of_modalities_are_listed_once() -> None:
    for name in installed():
        assert len(set(find(name).suffixes)) == len(find(name).suffixes)

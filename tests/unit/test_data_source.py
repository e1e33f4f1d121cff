import gc
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import HfApi
from PIL import Image

datasets = pytest.importorskip("datasets")

from mmssl.data import DataOptions, Source, arrow, open_streams  # noqa: E402
from mmssl.modality import Adapter, MaskPreference, Modality, Processor  # noqa: E402


def modality(name, columns=()):
    return Modality(name, name + "s", columns, Processor, Adapter, dict, MaskPreference("random", 0.5), list, tuple, dict)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def closing():
    """A failed csv reader of `datasets` leaves its file to the garbage collector: let that happen inside the test."""
    yield
    gc.collect()


FRAME = pd.DataFrame({"text": ["a", "b", "c"], "size": [1.5, 2.5, 3.5]})
ROWS = FRAME.to_dict("records")


def write_images(folder, *names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), i).save(path)


def paths_of(source):
    return [Path(row["image"]["path"]).name for row in source.rows(range(len(source)))]


# Bundled data


@pytest.mark.parametrize(
    ("name", "num_rows", "num_columns", "kind", "num_classes"),
    [
        ("digits", 1797, 2, "classification", 10),
        ("breast_cancer", 569, 31, "classification", 2),
        ("wine", 178, 14, "classification", 3),
        ("diabetes", 442, 11, "regression", 0),
    ],
)
def test_bundled_data_split_without_overlap(name, num_rows, num_columns, kind, num_classes):
    whole, train, test = (Source(path=f"bundled:{name}", split=split) for split in (None, "train", "test"))
    assert (len(whole), len(train) + len(test)) == (num_rows, num_rows)
    assert len(test) == -(-num_rows // 5)
    assert len(whole.column_names) == num_columns
    labels = train.labels()
    assert (labels.kind, len(labels.names)) == (kind, num_classes)
    if num_classes:
        shares = [np.bincount(x.labels(like=labels).values) / len(x) for x in (whole, train, test)]
        np.testing.assert_allclose(shares[1], shares[0], atol=0.02)
        np.testing.assert_allclose(shares[2], shares[0], atol=0.02)
    again = Source(path=f"bundled:{name}", split="test")
    assert np.array_equal(again.labels(like=labels).values, test.labels(like=labels).values)


def test_bundled_digits_are_grey_images():
    row = Source(path="bundled:digits").rows([3])[0]
    assert (row["image"].mode, row["image"].size, row["target"]) == ("L", (8, 8), 3)
    pixels = np.concatenate([np.asarray(r["image"]) for r in Source(path="bundled:digits").rows(range(50))])
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_bundled_classes_have_readable_names():
    assert Source(path="bundled:breast_cancer").labels().names == ["benign", "malignant"]
    assert Source(path="bundled:wine").rows([0])[0]["target"] == "class_0"


def test_unknown_bundled_data():
    with pytest.raises(LookupError, match=r"no bundled dataset 'digit'; there are breast_cancer, .*Did you mean 'digits'"):
        Source(path="bundled:digit")
    with pytest.raises(LookupError, match="bundled:digits has no split 'dev'; it has train, test"):
        Source(path="bundled:digits", split="dev")


# Rows in memory


def test_rows_in_memory_need_no_datasets_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = Source.from_rows(ROWS, {"label": "size"})
    assert source.rows([2, 0]) == [ROWS[2], ROWS[0]]
    assert source.labels().values.tolist() == [1.5, 2.5, 3.5]
    assert len(Source(path="bundled:wine", split="test")) == 36


def test_files_say_which_package_they_need(here, monkeypatch):
    FRAME.to_csv("data.csv", index=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"reading data\.csv needs the package `datasets`: pip install datasets"):
        Source(path="data.csv")
    with pytest.raises(ModuleNotFoundError, match="reading org/name needs the package `datasets`"):
        Source(path="org/name")


def test_bad_rows_in_memory():
    with pytest.raises(ValueError, match="rows in memory has no rows"):
        Source.from_rows([])
    with pytest.raises(ValueError, match=re.escape("row 0 has ['a'], row 1 has ['b']")):
        Source.from_rows([{"a": 1}, {"b": 1}])


# Files and folders


def test_every_file_format_gives_the_same_rows(here):
    FRAME.to_parquet("data.parquet")
    FRAME.to_csv("data.csv", index=False)
    FRAME.to_json("data.jsonl", orient="records", lines=True)
    for name in ("data.parquet", "data.csv", "data.jsonl"):
        source = Source(path=name, split="train")
        assert source.column_names == ["text", "size"]
        assert source.rows(np.array([2, 0])) == [ROWS[2], ROWS[0]]
    assert Source(path=str(here / "data.csv")).rows(range(3)) == ROWS


def test_pattern_joins_files_in_sorted_order(here):
    for i, name in enumerate(["b", "a", "c"]):
        FRAME[i : i + 1].to_csv(f"{name}.csv", index=False)
    for pattern in ("*.csv", "./[abc].csv", str(here / "**/?.csv")):
        assert [row["text"] for row in Source(path=pattern).rows(range(3))] == ["b", "a", "c"]


def test_folder_splits_by_file_name(here):
    (here / "data" / "test").mkdir(parents=True)
    FRAME[:1].to_csv("data/train-0.csv", index=False)
    FRAME[1:2].to_csv("data/train-1.csv", index=False)
    FRAME[2:].to_csv("data/test/part.csv", index=False)
    FRAME[2:].to_csv("data/val.csv", index=False)
    Path("data/notes.txt").write_text("passed over")
    Path("data/.hidden.csv").write_text("passed over")
    sizes = {split: len(Source(path="data", split=split)) for split in ("train", "test", "validation", None)}
    assert sizes == {"train": 2, "test": 1, "validation": 1, None: 4}
    with pytest.raises(LookupError, match="data has no split 'dev'; it has test, train, validation"):
        Source(path="data", split="dev")


def test_folder_without_split_names_is_one_split(here):
    Path("data").mkdir()
    FRAME.to_csv("data/one.csv", index=False)
    FRAME.to_csv("data/values.csv", index=False)
    assert len(Source(path="data", split="train")) == 6


def test_folder_where_only_some_files_name_a_split_is_refused(here):
    Path("data").mkdir()
    FRAME.to_csv("data/train.csv", index=False)
    FRAME.to_csv("data/more.csv", index=False)
    with pytest.raises(ValueError, match=r"folder data: some files are named after a split .* these are not: more\.csv"):
        Source(path="data")


def test_lists_of_numbers_come_as_arrays(here):
    cells = {
        "points": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]], None],
        "ids": [[1, 2, 3], [], [4]],
        "ragged": [[[1.0], [2.0, 3.0]], [[1.0]], [[None]]],
        "words": [["a"], [], None],
    }
    pd.DataFrame(cells).to_parquet("data.parquet")
    first, second, third = Source(path="data.parquet").rows(range(3))
    assert first["points"].tolist() == cells["points"][0]
    assert second["points"].shape == (1, 2)
    assert third["points"] is None
    assert (first["ids"].dtype, first["ids"].tolist(), second["ids"].shape) == (np.int64, [1, 2, 3], (0,))
    assert first["ragged"] == [[1.0], [2.0, 3.0]]
    assert np.isnan(third["ragged"]).tolist() == [[True]]
    assert (first["words"], third["words"]) == (["a"], None)


def test_image_and_audio_features_stay_undecoded(here):
    write_images(here, "a.png")
    features = datasets.Features({"image": datasets.Image(), "audio": datasets.Audio()})
    cells = {"image": [{"bytes": Path("a.png").read_bytes(), "path": None}], "audio": [{"bytes": b"not audio", "path": None}]}
    datasets.Dataset.from_dict(cells).cast(features).to_parquet("data.parquet")
    row = Source(path="data.parquet").rows([0])[0]
    assert row["image"]["bytes"][1:4] == b"PNG"
    assert row["audio"] == {"bytes": b"not audio", "path": None}


def test_class_label_names_are_used(here):
    features = datasets.Features({"y": datasets.ClassLabel(names=["zebra", "ant"])})
    datasets.Dataset.from_dict({"y": [1, 0, 1]}, features=features).to_parquet("data.parquet")
    labels = Source(path="data.parquet", columns={"label": "y"}).labels()
    assert (labels.names, labels.values.tolist()) == (["zebra", "ant"], [1, 0, 1])


def test_worker_does_not_receive_the_data(here):
    pd.DataFrame({"text": ["x" * 100] * 10_000}).to_parquet("data.parquet")
    copied = pickle.dumps(Source(path="data.parquet"))
    assert len(copied) < 20_000
    assert pickle.loads(copied).rows([9_999]) == [{"text": "x" * 100}]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data/trian.csv", r"no file or folder data/trian\.csv; in the folder .*data, did you mean train\.csv\?"),
        ("dta/train.csv", r"no file or folder dta/train\.csv; in the folder .*, did you mean data\?"),
        ("./cifar", r"no file or folder cifar; in the folder .*, it holds data"),
        ("~/no such folder", "no file or folder .*no such folder"),
        ("/nowhere/at/all", "no file or folder /nowhere/at/all; in the folder /"),
        ("org/name/more", "no file or folder org/name/more"),
        ("org/photos.zip", "no file or folder org/photos.zip"),
        ("data/*.parquet", r"no file matches data/\*\.parquet; searched .*data"),
        ("nowhere/*.csv", r"no file matches nowhere/\*\.csv"),
        (
            "empty",
            r"folder empty holds no data files; looked for \.parquet, \.pq, \.csv, \.tsv, \.jsonl, .*\.wav, .*\.png, .*\.ply",
        ),
    ],
)
def test_missing_files_name_what_there_is(here, path, message, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", None)
    monkeypatch.setenv("HOME", str(here))
    Path("data").mkdir()
    FRAME.to_csv("data/train.csv", index=False)
    if path == "empty":
        Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        Source(path=path)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_unreadable_files(here, closing):
    Path("data").mkdir()
    FRAME.to_parquet("data/a.parquet")
    Path("data/b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"cannot read data/b\.parquet: .*Parquet"):
        Source(path="data")
    Path("zero.csv").touch()
    with pytest.raises(ValueError, match=r"cannot read zero\.csv: it is empty"):
        Source(path="zero.csv")
    Path("bad.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"cannot read bad\.jsonl: "):
        Source(path="bad.jsonl")
    Path("notes.log").touch()
    with pytest.raises(ValueError, match=r"cannot read notes\.log: its suffix must be one of \.parquet, .*; got \.log"):
        Source(path="notes.log")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_files_that_do_not_fit_together(here, closing):
    FRAME.to_csv("a.csv", index=False)
    FRAME.rename(columns={"text": "words"}).to_csv("b.csv", index=False)
    with pytest.raises(
        ValueError, match=r"the files do not fit together: a\.csv has the columns text, size; b\.csv has words, size"
    ):
        Source(path="*.csv")
    FRAME.to_parquet("c.parquet")
    with pytest.raises(ValueError, match=r"\* mixes formats: csv \(a\.csv and 1 more\), parquet \(c\.parquet\)\. Choose one"):
        Source(path="*")


def test_empty_file_has_no_rows(here):
    FRAME[:0].to_parquet("data.parquet")
    FRAME.to_parquet("more.parquet")
    assert len(Source(path="*.parquet")) == 3
    with pytest.raises(ValueError, match=r"data\.parquet \(train\) has no rows"):
        Source(path="data.parquet", split="train")


# Media folders


def test_sub_folders_are_classes(here):
    write_images(here, "pets/dog/1.png", "pets/cat/indoor/2.PNG", "pets/cat/1.png")
    Path("pets/readme.txt").touch()
    source = Source(path="pets", split="train")
    assert source.column_names == ["image", "label"]
    assert paths_of(source) == ["1.png", "2.PNG", "1.png"]
    assert source.rows([1]) == [{"image": {"path": str(Path("pets/cat/indoor/2.PNG")), "bytes": None}, "label": "cat"}]
    assert (source.labels().names, source.labels().values.tolist()) == (["cat", "dog"], [0, 0, 1])


def test_flat_folder_of_images_has_no_labels(here):
    write_images(here, "pets/2.jpg", "pets/1.png")
    source = Source(path="pets")
    assert (source.column_names, paths_of(source), source.labels()) == (["image"], ["1.png", "2.jpg"], None)


def test_top_folders_named_after_splits_are_splits(here):
    write_images(here, "pets/train/dog/1.png", "pets/train/cat/2.png", "pets/val/dog/3.png")
    train, validation = Source(path="pets", split="train"), Source(path="pets", split="validation")
    assert (paths_of(train), paths_of(validation)) == (["2.png", "1.png"], ["3.png"])
    assert validation.labels(like=train.labels()).values.tolist() == [1]
    write_images(here, "traffic/train/1.png", "traffic/bus/2.png")
    with pytest.raises(
        ValueError, match=r"folder traffic: train is called after a split, .* there is bus\. .*traffic/\*\*/\*\.png"
    ):
        Source(path="traffic", split="train")
    assert Source(path="traffic/**/*.png", split="train").labels().names == ["bus", "train"]


def test_pattern_of_images(here):
    write_images(here, "pets/dog/1.png", "pets/cat/2.png")
    assert Source(path="pets/*/*.png").labels().names == ["cat", "dog"]
    assert Source(path="pets/dog/*.png").labels() is None


def test_image_outside_the_classes_has_no_label(here):
    write_images(here, "pets/dog/1.png", "pets/z.png")
    with pytest.raises(ValueError, match="row 1 of pets, column label: the label is missing"):
        Source(path="pets").labels()


def test_images_beside_tables_are_refused(here):
    write_images(here, "pets/1.png")
    FRAME.to_csv("pets/labels.csv", index=False)
    with pytest.raises(ValueError, match=r"pets mixes formats: csv \(labels\.csv\), image \(1\.png\)"):
        Source(path="pets")


class Plugged:
    """Plug-ins that read files, in the place of those that are installed; counts how often one was asked for."""

    def __init__(self, monkeypatch, **suffixes):
        self.asked, self.suffixes = [], suffixes
        monkeypatch.setattr("mmssl.data.formats.installed", lambda: list(suffixes))
        monkeypatch.setattr("mmssl.data.formats.find", self.find)

    def find(self, name):
        self.asked.append(name)
        return replace(modality(name, (f"{name}_file",)), suffixes=self.suffixes[name])


def test_suffixes_are_those_of_the_plug_ins_and_tables_need_none(here, monkeypatch):
    plugged = Plugged(monkeypatch, ecg=(".ecg", ".npy"), cloud=(".npy", ".ply"))
    FRAME.to_csv("train.csv", index=False)
    assert len(Source(path="train.csv")) == len(Source(path=".")) == 3
    assert plugged.asked == []
    hearts, others = "sick/1.ecg well/2.ECG notes.txt", "arrays/a.npy both/a.npy both/b.ply torn/a.ecg torn/b.ply"
    for name in (*(f"hearts/{name}" for name in hearts.split()), *others.split()):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    cell = {"path": str(Path("hearts/sick/1.ecg")), "bytes": None}
    assert Source(path="hearts").rows([0]) == [{"ecg_file": cell, "label": "sick"}]
    assert Source(path="hearts").labels().names == ["sick", "well"]
    assert Source(path="both").column_names == ["cloud_file"]
    either = Source(path="arrays")
    assert either.column_names == ["ecg_file", "cloud_file"]
    for name in ("ecg", "cloud"):
        assert either.raw(plugged.find(name), either.rows([0])[0])["path"] == str(Path("arrays/a.npy"))
    with pytest.raises(ValueError, match=r"torn mixes formats: cloud_file \(b\.ply\), ecg_file \(a\.ecg\)\. Choose one"):
        Source(path="torn")
    with pytest.raises(
        ValueError,
        match=r"must be one of \.parquet, \.pq, \.csv, .*, \.ecg \(ecg_file\), \.npy, \.ply \(cloud_file\); those .*; got \.txt",
    ):
        Source(path="hearts/notes.txt")


def test_suffixes_of_a_modality_are_checked():
    for suffixes in ((".WAV",), ("wav",)):
        with pytest.raises(ValueError, match=r"suffixes of modality 'ecg' are lower case with their dot, as '\.wav'; got .*[wW]"):
            replace(modality("ecg", ("ecg",)), suffixes=suffixes)
    with pytest.raises(ValueError, match=r"modality 'ecg' has suffixes, but no column"):
        replace(modality("ecg"), suffixes=(".ecg",))


def test_sound_files_make_an_audio_column(here):
    Path("sounds").mkdir()
    Path("sounds/a.wav").touch()
    assert Source(path="sounds").rows([0]) == [{"audio": {"path": str(Path("sounds/a.wav")), "bytes": None}}]


# The Hub


def test_hub_names_go_to_the_hub(here, monkeypatch):
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return datasets.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for path in ("org/name", "org/name:config", "name", "org/name-v0.1"):
        assert Source(path=path, split="train").rows([0]) == [{"text": "a"}]
    assert calls == [
        (("org/name", None), {"split": "train"}),
        (("org/name", "config"), {"split": "train"}),
        (("name", None), {"split": "train"}),
        (("org/name-v0.1", None), {"split": "train"}),
    ]


def test_all_splits_of_a_hub_dataset(here, monkeypatch):
    parts = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: parts)
    assert Source(path="org/name").rows([0, 1]) == [{"text": "train"}, {"text": "test"}]


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("x"), FileNotFoundError, r"'org/name' is neither .* Write \./org/name"),
        (ConnectionError("offline"), ConnectionError, "'org/name' is no local .* the Hub cannot be reached: offline"),
        (ValueError("Unknown split 'dev', not one of [...]"), ValueError, "org/name: Unknown split 'dev', not one of"),
    ],
)
def test_hub_errors(here, monkeypatch, raised, error, message):
    def load_dataset(*args, **options):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(error, match=message):
        Source(path="org/name", split="dev")


def test_a_hub_that_does_not_answer_is_told_at_once_and_what_lies_here_under_such_a_name(here, monkeypatch):
    write_images(here, "pictures/1.png")
    monkeypatch.setattr(arrow, "is_offline_mode", lambda: False)
    monkeypatch.setattr(arrow, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(
        ConnectionError, match=r"'picture' is no local .*, and the Hub cannot be reached: .*; did you mean \./pictures\?$"
    ):
        Source(path="picture")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", here)
    (here / "org___picture").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_dict({"text": ["a"]}))
    assert Source(path="org/picture", split="train").rows([0]) == [{"text": "a"}]


def test_what_exists_is_never_taken_for_a_hub_name(here, monkeypatch):
    write_images(here, "org/name/1.png")
    monkeypatch.setattr(datasets, "load_dataset", None)
    assert paths_of(Source(path="org/name")) == ["1.png"]


# Columns and limit


def test_raw_sample_of_a_modality():
    rows = [{"img": "i", "text": "t", "age": 1, "y": 0}]
    source = Source.from_rows(rows, {"image": "img", "label": "y"})
    assert source.raw(modality("image", ("image",)), rows[0]) == "i"
    assert source.raw(modality("text", ("sentence", "text")), rows[0]) == "t"
    assert source.raw(modality("tabular"), rows[0]) == {"text": "t", "age": 1}
    chosen = Source.from_rows(rows, {"tabular": ["age", "y"]})
    assert chosen.raw(modality("tabular"), rows[0]) == {"age": 1, "y": 0}
    assert Source.from_rows(rows, {"tabular": "age"}).raw(modality("tabular"), rows[0]) == {"age": 1}


def test_narrowed_source_reads_only_its_columns(here):
    FRAME.to_parquet("data.parquet")
    text = modality("text", ("text",))
    assert Source(path="data.parquet").only([text]).rows([1]) == [{"text": "b"}]
    table = modality("tabular")
    narrow = Source(path="data.parquet", columns={"label": "text"}).only([table])
    assert narrow.raw(table, narrow.rows([1])[0]) == {"size": 2.5}


def test_missing_columns():
    with pytest.raises(LookupError, match=r"no column 'siz', named for 'label' .* it has text, size\. Did you mean 'size'\?"):
        Source.from_rows(ROWS, {"label": "siz"})
    with pytest.raises(LookupError, match=r"no column for 'image' \(looked for image, img\); it has text, size\. Name one, as in"):
        Source.from_rows(ROWS).places(modality("image", ("image", "img")))
    with pytest.raises(
        ValueError, match=r"columns\.label must be the name of one column, or a list of several, each once; got \['text'\]"
    ):
        Source.from_rows(ROWS, {"label": ["text"]}).labels()


def test_limit_keeps_evenly_spaced_rows():
    whole, some = Source(path="bundled:wine"), Source(path="bundled:wine", limit=10)
    kept = [some.row_number(i) for i in range(len(some))]
    assert kept == [0, 17, 35, 53, 71, 89, 106, 124, 142, 160]
    assert some.rows(range(10)) == whole.rows(kept)
    assert some.labels().values.tolist() == whole.labels().values[kept].tolist()
    assert len(Source(path="bundled:wine", limit=1000)) == 178
    with pytest.raises(ValueError, match="limit must be at least 1; got 0"):
        Source(path="bundled:wine", limit=0)


def test_options_open_their_source():
    options = DataOptions(path="bundled:wine", split="test", columns={"label": "alcohol"}, limit=5)
    source = open_streams(options, ["tabular"])["data"].source
    assert (len(source), str(source), source.labels().kind) == (5, "bundled:wine (test)", "regression")

"""Arrow and Feather files, folders that `datasets` saved, and tar files of WebDataset."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import feather

from mmssl.data import Source
from mmssl.modality import find

FRAME = pd.DataFrame({"text": ["one", "two", "drei", "vier"], "n": [1.5, None, 2.0, 3.0], "kind": ["a", "b", "a", "b"]})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(source: Source) -> list[dict[str, object]]:
    return source.rows(range(len(source)))


WANTED = [{"text": t, "n": None if n != n else n, "kind": k} for t, n, k in FRAME.itertuples(index=False)]


@pytest.mark.parametrize("form", ["file", "stream", "feather"])
def test_round_trip_of_arrow_files(form: str) -> None:
    table = pa.Table.from_pandas(FRAME)
    name = "t.feather" if "feather" in form else "t.arrow"
    if "feather" in form:
        feather.write_feather(table.replace_schema_metadata(), name, compression="zstd")
    else:
        with (
            pa.OSFile(name, "wb") as sink,
            (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    assert rows(Source(path=name)) == WANTED
    Path("set").mkdir()
    for split in ("train", "test"):
        (Path("set") / f"{split}{Path(name).suffix}").write_bytes(Path(name).read_bytes())
    source = Source(path="set", split="test")
    assert rows(pickle.loads(pickle.dumps(source))) == WANTED


def saved(features: datasets.Features | None = None) -> datasets.Dataset:
    content = {"text": FRAME["text"].tolist(), "label": [0, 1, 0, 1]}
    return datasets.Dataset.from_dict(content, features=features)


def test_round_trip_of_saved_datasets() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    saved(features).save_to_disk("one")
    source = Source(path="one", columns={"label": "label"})
    assert rows(source) == [{"text": t, "label": i % 2} for i, t in enumerate(FRAME["text"])]
    assert source.labels().names == ["no", "yes"]
    datasets.DatasetDict({"train": saved(), "test": saved().select([2])}).save_to_disk("two")
    assert rows(Source(path="two", split="test")) == [{"text": "drei", "label": 0}]
    assert len(Source(path="two", split=None)) == 5
    for path, split, message in (("two", "dev", "it has train, test"), ("one", "test", "it has train")):
        with pytest.raises(LookupError, match=f"{path} has no split '{split}'; {message}"):
            Source(path=path, split=split)


def test_saved_datasets_that_are_damaged_are_named() -> None:
    saved().save_to_disk("one")
    state = json.loads(Path("one/state.json").read_text())
    for change, message in (
        ({"_data_files": [{"filename": "../other.arrow"}]}, r"it names the file \.\./other\.arrow, which is not beside it"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "cannot read one, which `datasets` saved"),
        (None, "cannot read one/state.json"),
    ):
        Path("one/state.json").write_text("{" if change is None else json.dumps(state | change))
        with pytest.raises(ValueError, match=message):
            Source(path="one")
    datasets.DatasetDict({"train": saved()}).save_to_disk("two")
    Path("two/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="it names splits that are no folders"):
        Source(path="two", split=None)


PICTURES = [np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8) for i in range(3)]


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def shard(name: str, members: dict[str, bytes]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(name, "w") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_round_trip_of_tar_files() -> None:
    for number, pixels in enumerate(PICTURES):
        members = {
            f"a/{number:03}.png": png(pixels),
            f"a/{number:03}.cls": str(number % 2).encode(),
            f"a/{number:03}.txt": f"picture {number}".encode(),
            f"a/{number:03}.json": json.dumps({"age": number, "label": "other"}).encode(),
            f"a/{number:03}.xcf": b"",
        }
        shard(f"set/train-{number:04}.tar", members)
    shard("set/test-0000.tar", {"x.png": png(PICTURES[0])})
    source = Source(path="set", split="train")
    assert source.column_names == ["image", "points", "text", "label", "age"]
    assert source.notes == ("set: 3 files passed over: 3 .xcf.",)
    assert source.cells("label") == [0, 1, 0]
    assert source.cells("age") == [0, 1, 2]
    image, text = find("image"), find("text")
    for found in (source, pickle.loads(pickle.dumps(source))):
        narrow = found.only([image])
        for row, pixels in zip(narrow.rows(range(3)), PICTURES, strict=True):
            processor = image.processor(mean=0.0, std=1.0)
            expected = processor(Image.fromarray(pixels))["pixel_values"]
            assert torch.equal(processor(narrow.raw(image, row))["pixel_values"], expected)
    narrow = source.only([text])
    ids = text.processor()(narrow.raw(text, narrow.rows([1])[0]))["input_ids"]
    assert bytes(ids.tolist()) == b"picture 1"
    assert len(Source(path="set", split="test")) == 1


def test_tar_files_that_are_none_are_named() -> None:
    shard("good.tar", {"a.png": png(PICTURES[0]) * 50})
    good = Path("good.tar").read_bytes()
    Path("cut.tar").write_bytes(good[:2000])
    Path("text.tar").write_bytes(b"hello" * 300)
    shard("twice.tar", {"a.png": b"1", "a.jpg": b"2"})
    shard("none.tar", {"a.xcf": b"1"})
    shard("list.tar", {"a.png": b"", "a.json": b"[1]"})
    for name, message in {
        "cut.tar": r"cannot read cut\.tar: (it ends within a\.png|unexpected end of data)",
        "text.tar": r"cannot read text\.tar: .*A shard is a tar file that is not compressed",
        "twice.tar": r"cannot read twice\.tar: a\.png and a\.jpg are both the image of one sample",
        "none.tar": r"none\.tar has no rows",
        "list.tar": r"cannot read list\.tar, a\.json: it holds a list",
    }.items():
        with pytest.raises(ValueError, match=message):
            Source(path=name)


@settings(max_examples=60, deadline=None)
@given(
    suffix=st.sampled_from(["arrow", "feather", "tar"]),
    content=st.binary(max_size=80),
    start=st.sampled_from([b"", b"ARROW1\0\0", b"FEA1"]),
)
def test_any_bytes_are_refused_by_name(suffix: str, content: bytes, start: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    path.write_bytes(start + content)
    with pytest.raises(ValueError, match=f"{path}"):
        Source(path=str(path))


def test_folders_in_a_tar_file_name_classes() -> None:
    members = {f"{folder}/{i}.png": png(PICTURES[i]) for i, folder in enumerate(("pets/cat", "pets/dog", "pets/cat"))}
    shard("pets.tar", members)
    found = Source(path="pets.tar")
    assert found.column_names == ["image", "label"]
    assert found.cells("label") == ["cat", "dog", "cat"]
    assert [row["label"] for row in found.rows([1, 2])] == ["dog", "cat"]
    assert found.rows([1])[0]["image"]["bytes"] == png(PICTURES[1])
    shard("one.tar", {f"train/{name}": content for name, content in members.items()})
    assert Source(path="one.tar").cells("label") == ["cat", "dog", "cat"], "a part of the data is no class"
    shard("known.tar", {**members, **{name.replace(".png", ".cls"): b"7" for name in members}})
    assert Source(path="known.tar").cells("label") == [7, 7, 7], "what a sample itself says comes first"
    shard("flat.tar", {"0.png": png(PICTURES[0]), "1.png": png(PICTURES[1])})
    assert Source(path="flat.tar").column_names == ["image"]
    for number in range(2):
        shard(f"shards/{number:05}.tar", {f"{number:05}/{i}.png": png(PICTURES[i]) for i in range(2)})
    assert Source(path="shards").column_names == ["image"], "folders that number the shards are no classes"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("test/cat", r"called after a part of the data: train, test\. .* Unpack it and give the folder, .* such as train\.tar"),
        ("other/cat", r"called after a part of the data, and others are not\. Unpack it, and give the folder"),
    ],
)
def test_splits_in_a_tar_file_are_refused(second: str, message: str) -> None:
    shard("d.tar", {"train/cat/0.png": png(PICTURES[0]), f"{second}/1.png": png(PICTURES[1])})
    with pytest.raises(ValueError, match=r"cannot read d\.tar: .*" + message):
        Source(path="d.tar")

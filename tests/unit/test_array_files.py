"""Files of numpy's that hold many samples: read as such, asked about, or refused by name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmssl.data import Source
from mmssl.data.table_format import TableFormat
from mmssl.modality import find
from mmssl.training.beginning import look

RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(30, 40))
LABELS = np.arange(30) % 3


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(path: str, arrays: Any = None, **said: Any) -> Source:
    return Source(path=path, table_format=TableFormat(arrays=arrays), **said)


def cells(found: Source, modality: str) -> list[np.ndarray]:
    plug_in = find(modality)
    return [found.raw(plug_in, row) for row in found.rows(range(len(found)))]


STACKS = {
    "timeseries": RNG.normal(size=(6, 3, 50)),
    "points": RNG.normal(size=(6, 50, 3)).astype(np.float32),
    "image": RNG.integers(0, 256, (6, 32, 20, 3)).astype(np.uint8),
}


@pytest.mark.parametrize("modality", STACKS)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_round_trip_of_arrays_with_an_axis_of_samples(modality: str, kind: str) -> None:
    stack = STACKS[modality]
    np.save("x.npy", stack) if kind == "npy" else np.savez_compressed("x.npz", anything=stack)
    found = pickle.loads(pickle.dumps(source(f"x.{kind}")))  # as a worker process has it
    assert len(found) == 6
    assert all(np.array_equal(a, b) for a, b in zip(cells(found, modality), stack, strict=True))
    processor = find(modality).processor()
    processor.fit(cells(found, modality))
    alone = [processor(cell) for cell in stack]
    for a, b in zip(map(processor, cells(found, modality)), alone, strict=True):
        assert all(a[name].equal(b[name]) for name in b)
    assert any(
        f"each of 6 entries along the first axis of {'array' if kind == 'npy' else 'anything'} 6 x" in n for n in found.notes
    )


@pytest.mark.parametrize(("x", "y"), [("X", "y"), ("data", "labels"), ("series", "Label"), ("arr", "target")])
def test_labels_lie_beside_in_an_archive_or_a_folder(x: str, y: str) -> None:
    np.savez("d.npz", **{x: SERIES, y: LABELS})
    Path("d").mkdir()
    np.save(f"d/{x}.npy", SERIES)
    np.save(f"d/{y}.npy", LABELS)
    for path in ("d.npz", "d"):
        found = source(path)
        assert np.array_equal(cells(found, "timeseries"), SERIES)
        labels = found.labels()
        assert labels is not None
        assert labels.names == ["0", "1", "2"]
        assert np.array_equal(labels.values, LABELS)


def test_names_of_arrays_and_files_say_splits() -> None:
    parts = {"x_train": SERIES[:20], "y_train": LABELS[:20], "x_test": SERIES[20:], "y_test": LABELS[20:]}
    np.savez("d.npz", **parts)
    Path("d").mkdir()
    for name, part in parts.items():
        np.save(f"d/{name}.npy", part)
    Path("e").mkdir()
    np.savez("e/train.npz", x=SERIES[:20], y=LABELS[:20])
    np.savez("e/test.npz", x=SERIES[20:], y=LABELS[20:])
    for path in ("d.npz", "d", "e"):
        assert np.array_equal(cells(source(path, split="train"), "timeseries"), SERIES[:20])
        assert np.array_equal(cells(source(path, split="test"), "timeseries"), SERIES[20:])
        assert len(source(path)) == 30
        with pytest.raises(LookupError, match="has no split 'validation'; it has test, train"):
            source(path, split="validation")


def test_shards_follow_one_another_and_folders_name_their_classes() -> None:
    for number, name in enumerate(("a", "a", "b")):
        Path("d", name).mkdir(parents=True, exist_ok=True)
        np.save(f"d/{name}/{number}.npy", STACKS["timeseries"][2 * number : 2 * number + 2])
    found = source("d")
    assert np.array_equal(cells(found, "timeseries"), STACKS["timeseries"])
    assert found.cells("label") == ["a", "a", "a", "a", "b", "b"]


def test_two_axes_are_one_sample_or_many_as_is_said() -> None:
    np.save("x.npy", SERIES)
    with pytest.raises(ValueError, match=r"x\.npy \(30 x 40\) may be 30 samples, or one\. Say data\.arrays=many if"):
        source("x.npy")
    assert np.array_equal(cells(source("x.npy", "many"), "timeseries"), SERIES)
    assert len(source("x.npy", "one")) == 1
    np.save("recording.npy", RNG.normal(size=(3, 5000)))
    np.save("cloud.npy", RNG.normal(size=(500, 6)))
    assert [len(source(f"{name}.npy")) for name in ("recording", "cloud")] == [1, 1]
    np.savez("narrow.npz", x=RNG.normal(size=(30, 4)), y=LABELS)
    with pytest.raises(ValueError, match="rows of a table with columns of their own belong in a csv file"):
        source("narrow.npz")
    np.savez("one.npz", values=RNG.normal(size=(3, 50)), rate=np.array(10.0))
    np.savez("cloud.npz", points=RNG.normal(size=(50, 3)), colors=np.zeros((50, 3), np.uint8))
    assert [len(source(f"{name}.npz")) for name in ("one", "cloud")] == [1, 1]


def test_a_folder_of_files_that_are_a_sample_each_stays_so() -> None:
    Path("d").mkdir()
    for number in range(3):
        np.save(f"d/{number}.npy", SERIES)
    assert len(source("d")) == 3
    assert len(source("d", "many")) == 90


def test_arrays_are_claimed_in_the_column_that_a_run_would_look_for() -> None:
    np.save("x.npy", SERIES)
    found = look("x.npy", table_format=TableFormat(arrays="many"))
    assert {name: claim.columns for name, claim in found.claims.items()} == {"timeseries": "series"}
    assert found.columns == {}


def test_several_arrays_are_columns() -> None:
    np.savez("d.npz", signal=STACKS["timeseries"], image=STACKS["image"], person=np.array(list("aabbcc")))
    found = source("d.npz")
    assert found.column_names == ["signal", "image", "person"]
    assert found.cells("person") == list("aabbcc")
    assert np.array_equal(cells(found, "image"), STACKS["image"])


def objects() -> np.ndarray:
    found = np.empty(6, object)
    found[:] = list("aabbcc")
    return found


BAD: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "lengths": ({"x": SERIES, "y": LABELS[:29]}, r"b\.npz, array x has 30 x 40; b\.npz, array y has 29\. Correct it"),
    "objects": ({"x": STACKS["points"], "y": objects()}, r"b\.npz, array y: it holds Python objects, which are not unpickled"),
    "none": ({"x": np.empty((0, 3, 50))}, "has no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_named(case: str) -> None:
    arrays, message = BAD[case]
    np.savez("b.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        source("b.npz")


def test_damaged_files_and_other_kinds_are_named() -> None:
    np.save("x.npy", STACKS["timeseries"])
    whole = Path("x.npy").read_bytes()
    Path("x.npy").write_bytes(whole[:2000])
    with pytest.raises(ValueError, match=r"cannot read x\.npy: .* Replace it"):
        cells(source("x.npy"), "timeseries")
    Path("x.npy").write_bytes(b"nothing of numpy's")
    with pytest.raises(ValueError, match=r"cannot read x\.npy: .* Replace it"):
        source("x.npy", "many")
    Path("x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"data\.arrays=many is for \.npy and \.npz files, and x\.csv has \.csv\. Leave it out"):
        source("x.csv", "many")
    Path("d").mkdir()
    np.savez("d/0.npz", x=STACKS["timeseries"])
    np.savez("d/1.npz", z=STACKS["timeseries"])
    with pytest.raises(ValueError, match="the files of d do not fit together: they hold the arrays x and z"):
        source("d")
    with pytest.raises(ValueError, match=r"data\.arrays=many is for .* files, and bundled:digits is none\. Leave it out"):
        source("bundled:digits", "many")

"""`mmssl new` on data that nobody hopes for: each is told clearly, or handled as documented, and nothing is lost without a word."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

import mmssl
from mmssl.data import Source
from mmssl.data.table_format import TableFormat
from mmssl_cli import main

RANDOM = np.random.default_rng(0)
KEYS = {"by": "id", "time": "time", "values": ["x", "y"]}


def table(name: str, *lines: str) -> str:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def numbers(count: int) -> list[str]:
    return [f"{value:.3f}" for value in RANDOM.normal(size=count)]


def steps() -> list[str]:
    """A long table whose rows are in no order."""
    return ["id,time,x,y", *(f"{row},{time},{row + time},{-time}" for row in range(8) for time in RANDOM.permutation(20))]


def mesh(name: str, faces: bool) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
    Path(name).write_text(corners + ("f 1 2 3\nf 1 3 4\n" if faces else ""))


def meshes(good: int, bad: int) -> str:
    for number in range(good):
        mesh(f"meshes/z{number}.obj", faces=True)
    for number in range(bad):
        mesh(f"meshes/a{number}.obj", faces=False)
    return "meshes"


def written(name: str, content: bytes) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(content)
    return name


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "another separator": (
        lambda: table("a.csv", "a;b", *(f"{x};{x}" for x in numbers(9))),
        r"a\.csv.*is a semicolon its delimiter\? Then set",
    ),
    "no file": (lambda: str(Path("empty").mkdir() or "empty"), r"folder empty holds no data files; looked for"),
    "an empty text": (lambda: written("texts/a.txt", b"") and "texts", r"texts has no rows"),
    "one sample": (lambda: table("one.csv", "a,b", "1,2"), r"one\.csv holds 1 sample: to learn takes 4 or more"),
    "another encoding": (
        lambda: written("latin.csv", "naïve,v\né,1\n".encode("latin-1") * 9),
        r"latin\.csv: line 1 is no UTF-8 \(byte 0xef\), but seems to be .*iconv",
    ),
    "a broken shard": (lambda: written("shards/a.tar", b"\x00garbage" * 99) and "shards", r"shards/a\.tar: invalid header"),
    "a broken gzip": (lambda: written("t.csv.gz", b"no gzip\n1\n"), r"t\.csv\.gz: .*incorrect header check\. Replace it"),
    "a broken zstandard": (lambda: written("z.jsonl.zst", b"abc" * 50), r"z\.jsonl\.zst: ZSTD decompress failed"),
    "a broken parquet": (lambda: written("p.parquet", b"PAR1" + b"x" * 99), r"p\.parquet: Parquet magic bytes not found"),
    "meshes without faces": (lambda: meshes(0, 6), r"as points, meshes/a0\.obj is .*no faces, so there is no surface"),
    "names without points": (
        lambda: [written(f"clouds/{n}.xyz", b"x y z\n") for n in range(5)] and "clouds",
        r"as points, clouds/0\.xyz is .*no line with a point below the names of columns \(x y z\)",
    ),
}


@pytest.mark.parametrize(("made", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_told(made: Callable[[], str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = made()
    with pytest.raises((ValueError, OSError), match=told):
        mmssl.new(path)
    assert not Path("recipe.yaml").exists()


def test_one_bad_mesh_among_good_ones_is_left_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"row 0 of meshes.*a0\.obj is damaged"):
        mmssl.new(meshes(5, 1))
    assert list(mmssl.new("meshes", "skip.yaml", overrides=["data.on_error=skip"]).recipe.modalities) == ["points"]


def test_times_in_no_order_are_sorted_and_double_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = steps()
    path, form = table("log.csv", *rows), TypeAdapter(TableFormat).validate_python({"series": KEYS})
    held = Source(path=path, table_format=form)
    assert len(held) == 8
    for number, row in enumerate(held.rows(range(8))):
        np.testing.assert_array_equal(row["series"]["values"]["x"].to_numpy(), number + np.arange(20))
    table("log.csv", *rows, "3,7,1,2")
    with pytest.raises(ValueError, match=r"log\.csv: two rows of the series id 3 have one time, time 7\. Drop one, or average"):
        mmssl.new(path, table_format=form)


def test_rows_without_a_label_train_and_are_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{a},{b},{'xy'[row % 2] if row % 3 else ''}" for row, (a, b) in enumerate(zip(numbers(90), numbers(90), strict=True))]
    table("some.csv", "a,b,kind", *lines)
    mmssl.new("some.csv", "all.yaml", label="kind")
    main(["train", "all.yaml", "train.max_steps=2", "train.max_minutes=null", "run.name=all"])
    told = capsys.readouterr().out
    assert "label kind: 30 of 90 rows of some.csv (train) have none: they train, and are not scored" in told
    scored = json.loads(Path("runs/all/table.json").read_text())
    assert scored["num_train"] + scored["num_test"] == 60
    assert json.loads(Path("runs/all/training.json").read_text())["trained"][0]["rows"] == 90
    with pytest.raises(SystemExit, match=r"row 0 of some\.csv.*30 of 90 have none\. Drop such rows; or leave their labels empty"):
        main(["train", "all.yaml", "objective={name: supervised}", "run.name=labelled"])

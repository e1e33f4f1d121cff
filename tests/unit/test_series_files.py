"""Series in tables and files: what was written is what is read, and what is no series is named."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mmssl.data import Source
from mmssl.data.natural import by_number
from mmssl.data.series import SeriesOptions
from mmssl.data.table_format import TableFormat
from mmssl.modality import find

MODALITY = find("timeseries")
RNG = np.random.default_rng(0)
SERIES = [RNG.normal(size=(2, length)).round(3) for length in (7, 5, 9)]
NAMES = ["walk", "run", "walk"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(path: str, series: dict[str, Any] | None = None, **said: Any) -> Source:
    columns = said.pop("columns", None)
    table_format = TypeAdapter(TableFormat).validate_python({"series": series, **said})
    return Source(path=path, split=None, table_format=table_format, columns=columns)


def tensors(found: Source) -> list[dict[str, torch.Tensor]]:
    processor = MODALITY.processor(num_channels=0, length=0)
    narrow = found.only([MODALITY])
    return [processor(narrow.raw(MODALITY, row)) for row in narrow.rows(range(len(narrow)))]


def expected(raws: list[Any]) -> list[dict[str, torch.Tensor]]:
    return [MODALITY.processor(num_channels=0, length=0)(raw) for raw in raws]


def same(found: list[dict[str, torch.Tensor]], wanted: list[dict[str, torch.Tensor]]) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def long(times: Callable[[int], Any] = lambda length: np.arange(length)) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"id": f"s{i}", "t": times(x.shape[1]), "x": x[0], "y": x[1], "kind": NAMES[i]}) for i, x in enumerate(SERIES)
    ]
    return pd.concat(parts, ignore_index=True)


LONG = {"by": "id", "time": "t", "values": ["x", "y"]}


@pytest.mark.parametrize("name", ["l.csv", "l.parquet", "l.jsonl", "l.csv.gz"])
def test_round_trip_of_long_tables(name: str) -> None:
    shuffled = long().sample(frac=1, random_state=1)
    shuffled = pd.concat([shuffled[shuffled["id"] == f"s{i}"] for i in range(3)])
    if ".csv" in name:
        shuffled.to_csv(name, index=False)
    elif name.endswith("parquet"):
        shuffled.to_parquet(name, index=False)
    else:
        shuffled.to_json(name, orient="records", lines=True)
    found = source(name, LONG, columns={"label": "kind"})
    assert same(tensors(found), expected([{"values": x, "rate": 1.0} for x in SERIES]))
    assert found.labels().names == ["run", "walk"]
    assert found.cells("id") == ["s0", "s1", "s2"]
    assert found.notes == (
        f"{name}: 21 rows are 3 series of x, y.",
        f"{name}: the rows of 3 of 3 series are not in order of t; they are sorted.",
    )
    assert same(tensors(pickle.loads(pickle.dumps(found))), tensors(found)), "a worker reads what the process reads"


def test_interleaved_rows_and_no_time() -> None:
    frame = long().sort_values("t", kind="stable").drop(columns="t")
    frame.to_csv("l.csv", index=False)
    found = source("l.csv", {"by": "id", "values": ["x", "y"]})
    assert same(tensors(found), expected(SERIES))


def test_gaps_are_missing_values_and_other_times_are_kept() -> None:
    frame = long(lambda length: pd.date_range("2026-01-01", periods=length, freq="h"))
    frame.drop(index=[2, 3, 9]).to_csv("gaps.csv", index=False)
    wanted = [x.copy() for x in SERIES]
    wanted[0][:, [2, 3]] = np.nan
    wanted[1][:, 2] = np.nan
    raws = [{"values": x, "rate": 1 / 3600} for x in wanted]
    assert same(tensors(source("gaps.csv", LONG)), expected(raws))
    odd = np.array([0, 1, 2, 3, 4.3, 5, 6, 7, 8])
    long(lambda length: odd[:length]).to_csv("odd.csv", index=False)
    raws = [{"values": x, "times": odd[: x.shape[1]]} for x in SERIES]
    assert same(tensors(source("odd.csv", LONG)), expected(raws))
    far = pd.DataFrame({"t": [0, 1, 2, 10_000_000], "x": [1.0, 2.0, 4.0, 3.0]})
    far.to_csv("far.csv", index=False)
    raws = [{"values": far["x"].to_numpy(), "times": far["t"].to_numpy()}]
    assert same(tensors(source("far.csv", {"time": "t", "values": "x"})), expected(raws)), "no grid of ten million steps"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_round_trip_of_wide_tables(kind: str) -> None:
    rows = RNG.normal(size=(4, 12)).round(3)
    rows[1, 10:] = np.nan
    frame = pd.DataFrame(rows, columns=[f"t{i}" for i in range(12)])
    frame["kind"], frame["age"] = ["a", "b", "a", "b"], [1, 2, 3, 4]
    getattr(frame, f"to_{kind}")(f"w.{kind}", index=False)
    found = source(f"w.{kind}", {"values": "t*"}, columns={"label": "kind"})
    assert same(tensors(found), expected(list(rows)))
    assert found.labels().names == ["a", "b"]
    every = source(f"w.{kind}", {}, columns={"label": "age"})
    assert same(tensors(every), expected(list(rows))), "all numbers but the label"


@pytest.mark.parametrize("names", [[f"t{i}" for i in range(12)], [f"{400 + i / 4:.2f} nm" for i in range(12)]])
def test_columns_of_a_pattern_are_taken_in_the_order_of_their_numbers(names: list[str]) -> None:
    rows = RNG.normal(size=(4, 12)).round(3)
    order = RNG.permutation(12)
    pd.DataFrame(rows[:, order], columns=[names[i] for i in order]).to_csv("w.csv", index=False)
    found = source("w.csv", {"values": "t*" if names[0] == "t0" else "* nm"})
    assert same(tensors(found), expected(list(rows)))
    assert any("in the order of their numbers" in note for note in found.notes)
    assert same(tensors(source("w.csv", {"layout": "wide"})), expected(list(rows)))
    listed = source("w.csv", {"values": [names[i] for i in order]})
    assert same(tensors(listed), expected(list(rows[:, order]))), "as they are listed"


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ("t0 t1 t10 t2", "t0 t1 t2 t10"),
        ("t01 t1 t00", "t00 t01 t1"),
        ("lag3 lag2 lag1", "lag3 lag2 lag1"),
        ("x2 y2 x1 y1 x3 y0", "x1 x2 x3 y2 y1 y0"),
        ("b a c", "b a c"),
        ("2024-10-01 2024-09-30", "2024-10-01 2024-09-30"),
        ("2024-10-01 2024-09-30 2024-11-01", "2024-09-30 2024-10-01 2024-11-01"),
        ("v1.5 v1.25 v1.75", "v1.25 v1.5 v1.75"),
    ],
)
def test_names_by_number(names: str, ordered: str) -> None:
    assert by_number(names.split()) == ordered.split()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_round_trip_of_a_file_a_series(kind: str) -> None:
    for i, x in enumerate(SERIES):
        path = Path(f"set/{NAMES[i]}/{i}.{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        getattr(pd.DataFrame({"t": np.arange(x.shape[1]) * 0.5, "x": x[0], "y": x[1]}), f"to_{kind}")(path, index=False)
    found = source("set", {"time": "t"})
    order = [1, 0, 2]
    assert same(tensors(found), expected([{"values": SERIES[i], "rate": 2.0} for i in order]))
    assert found.labels().names == ["run", "walk"]
    assert found.cells("file") == [f"set/{NAMES[i]}/{i}.{kind}" for i in order]
    again = source("set", {"layout": "files", "values": ["x", "y"]})
    assert same(tensors(again), expected([SERIES[i] for i in order]))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_round_trip_of_numpy_files(kind: str) -> None:
    for i, x in enumerate(SERIES):
        Path(f"set/{NAMES[i]}").mkdir(parents=True, exist_ok=True)
        path = f"set/{NAMES[i]}/{i}.{kind}"
        if kind == "npy":
            np.save(path, x)
        else:
            np.savez(path, values=x, times=np.arange(x.shape[1]) ** 1.5)
    found, order = source("set"), [1, 0, 2]
    raws: list[Any] = [SERIES[i] for i in order]
    if kind == "npz":
        raws = [{"values": x, "times": np.arange(x.shape[1]) ** 1.5} for x in raws]
    assert same(tensors(found), expected(raws))
    assert found.labels().names == ["run", "walk"]


def test_round_trip_of_archive_files() -> None:
    lines = ["# a comment", "@problemName Made", "@univariate false", "@dimensions 2", "@classLabel true run walk", "@data"]
    for x, name in zip(SERIES, NAMES, strict=True):
        cells = [",".join("?" if i == 1 else str(value) for i, value in enumerate(channel)) for channel in x]
        lines.append(":".join([*cells, name]))
    Path("Made_TRAIN.ts").write_text("\n".join(lines))
    wanted = [x.copy() for x in SERIES]
    for x in wanted:
        x[:, 1] = np.nan
    found = source("Made_TRAIN.ts")
    assert same(tensors(found), expected(wanted))
    assert found.cells("label") == NAMES
    rows = RNG.normal(size=(3, 4)).round(3)
    head = "@relation Made\n" + "".join(f"@attribute att{i} numeric\n" for i in range(4)) + "@attribute target {1,2}\n@data\n"
    Path("u.arff").write_text(head + "\n".join(",".join([*map(str, row), str(1 + i % 2)]) for i, row in enumerate(rows)))
    found = source("u.arff")
    assert same(tensors(found), expected(list(rows)))
    assert found.cells("label") == ["1", "2", "1"]
    inner = "".join(f" @attribute t{i} numeric\n" for i in range(3))
    text = f"@relation M\n@attribute rel relational\n{inner}@end rel\n@attribute class {{a,b}}\n@data\n"
    Path("m.arff").write_text(text + "'1,2,3\\n4,5,6',a\n'7,8,9\\n1,1,2',b\n")
    found = source("m.arff")
    assert same(tensors(found), expected([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 1, 2]]]))
    assert found.cells("label") == ["a", "b"]


def test_round_trip_of_the_archive_s_tsv() -> None:
    rows = RNG.normal(size=(3, 5)).round(4)
    Path("Gun_TRAIN.tsv").write_text("\n".join("\t".join([str(1 + i % 2), *map(str, row)]) for i, row in enumerate(rows)))
    with pytest.raises(ValueError, match=r"its first line holds numbers, 1, .* set data\.header=false"):
        source("Gun_TRAIN.tsv", {"values": "c*"})
    found = source("Gun_TRAIN.tsv", {"values": "c*"}, header=False, columns={"label": "c0"})
    assert same(tensors(found), expected(list(rows)))
    assert found.cells("c0") == [1, 2, 1]


def test_round_trip_of_edf() -> None:
    pyedflib = pytest.importorskip("pyedflib")
    digital = [RNG.integers(-2000, 2000, 400).astype(np.int32) for _ in range(2)]
    for suffix in ("edf", "bdf"):
        kind = pyedflib.FILETYPE_EDFPLUS if suffix == "edf" else pyedflib.FILETYPE_BDFPLUS
        with pyedflib.EdfWriter(f"a.{suffix}", 3, file_type=kind) as file:
            for i, (name, rate) in enumerate((("C3", 100), ("C4", 100), ("breath", 50))):
                head = {"label": name, "dimension": "uV", "sample_frequency": rate, "physical_max": 2000, "physical_min": -2000}
                file.setSignalHeader(i, head | {"digital_max": 2000, "digital_min": -2000, "transducer": "", "prefilter": ""})
            file.writeSamples([*digital, digital[0][:200]], digital=True)
        processor = MODALITY.processor(num_channels=0, length=0, signals=["C3", "C4"])
        raw = {"path": f"a.{suffix}", "bytes": None}
        assert same([processor(raw)], expected([{"values": np.stack(digital).astype(np.float64), "rate": 100.0}]))
        with pytest.raises(ValueError, match=r"signals have different rates: C3 \(100\), C4 \(100\), breath \(50\)\. Name some"):
            MODALITY.processor()(raw)
        with pytest.raises(ValueError, match=rf"a\.{suffix}: it has no signal 'Cz', named in processor\.signals"):
            MODALITY.processor(signals=["Cz"])(raw)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of wfdb's writer
def test_round_trip_of_wfdb() -> None:
    wfdb = pytest.importorskip("wfdb")
    values = RNG.normal(size=(300, 2)).round(2)
    wfdb.wrsamp("rec", fs=250, units=["mV", "mV"], sig_name=["I", "II"], p_signal=values, fmt=["16", "16"])
    stored = wfdb.rdrecord("rec").p_signal
    assert np.abs(stored - values).max() < 1e-3
    Path("set").mkdir()
    for name in ("rec.hea", "rec.dat"):
        Path(name).rename(f"set/{name}")
    found = source("set")
    assert same(tensors(found), expected([{"values": stored.T, "rate": 250.0}]))
    assert found.notes == ("set: 1 file passed over: 1 .dat.",)
    Path("set/rec.dat").unlink()
    with pytest.raises(ValueError, match=r"set/rec\.hea"):
        tensors(found)


def bad(name: str, text: str | pd.DataFrame) -> str:
    if isinstance(text, str):
        Path(name).write_text(text)
    else:
        text.to_csv(name, index=False)
    return name


def test_bad_tables_are_named_with_the_way_out() -> None:
    frame = long()
    cases: list[tuple[str | pd.DataFrame, dict[str, Any], type[Exception], str]] = [
        (pd.concat([frame, frame.iloc[[8]]]), LONG, ValueError, r"two rows of the series id 's1' have one time, t 1\. Drop one"),
        (frame.assign(t=frame["t"].where(frame["t"] != 4)), LONG, ValueError, "row 4: column t, the time, is empty"),
        (frame.assign(id=frame["id"].where(frame["t"] != 4)), LONG, ValueError, "row 4: column id, .* is empty"),
        (frame.assign(t="noon"), LONG, ValueError, "times are numbers, or dates such as 2026-01-31 .* got 'noon'"),
        (frame.assign(x="1,5"), LONG, ValueError, r"row 0, column x: .* got '1,5'\. Set data\.decimal=','"),
        (frame.assign(x="a"), LONG, ValueError, r"row 0, column x: .* got 'a'\. Say what stands for a missing value"),
        (frame, {**LONG, "by": "ID"}, LookupError, r"no column 'ID', named in data\.series; it has id, .* Did you mean 'id'\?"),
        (frame, {**LONG, "values": "z*"}, LookupError, r"no column 'z\*', named in data\.series"),
        (frame[["id", "kind"]], {"by": "id"}, ValueError, "no column of numbers beside id"),
    ]
    for number, (text, series, error, message) in enumerate(cases):
        with pytest.raises(error, match=rf"b{number}\.csv.*{message}"):
            source(bad(f"b{number}.csv", text), series)


def test_a_label_that_changes_within_a_series_names_it() -> None:
    frame = long()
    frame.loc[9, "kind"] = "swim"
    frame.to_csv("l.csv", index=False)
    found = source("l.csv", LONG, columns={"label": "kind"})
    tensors(found)
    with pytest.raises(ValueError, match="column kind is 'run' and 'swim' in the rows of one series, id 's1'"):
        found.labels()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layout": "long"}, "layout: long needs `by`"),
        ({"layout": "wide", "by": "id"}, "is for layout: long, and layout is wide"),
        ({"layout": "wide", "time": "t"}, "in layout: wide a row is a whole series"),
        ({"values": []}, "at least 1 item"),
    ],
)
def test_keys_are_checked(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SeriesOptions).validate_python(keys)


def test_bad_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("objects.npy", np.array([{}], dtype=object))
    np.savez("many.npz", a=np.ones(3), b=np.ones(3))
    for name, content in (("cut.npy", b"\x93NUMPY\x01"), ("text.npy", b"1,2,3"), ("zip.npz", b"PK\x03\x04"), ("a.edf", b"0" * 300)):
        Path(name).write_bytes(content)
    Path("r.hea").write_text("r 1 x\n")
    cases = {
        "objects.npy": "allow_pickle=False",
        "many.npz": "an archive has one array, or 'values'",
        "cut.npy": "cut.npy",
        "text.npy": "it is no .npy or .npz file",
        "zip.npz": "zip",
        "a.edf": "a.edf",
        "r.hea": "r.hea",
    }
    processor = MODALITY.processor(num_channels=0, length=0)
    for name, message in cases.items():
        with pytest.raises(ValueError, match=rf"cannot read {name}.*{message}|{message}"):
            processor({"path": name, "bytes": None})
    for name in ("gone.npy", "gone.edf"):
        with pytest.raises(FileNotFoundError, match=f"no series file {name}"):
            processor({"path": name, "bytes": None})
    for text, message in {
        "1,2": "expected a key such as @data",
        "@data\n1,x": "line 2: could not convert",
        "@classLabel true a b\n@data\n1,2:c": "'c' is none of the classes a, b",
        "@classLabel true a\n@data\na": "it has a label, but no values",
        "@timeStamps true\n@data\n": "its values have time stamps",
        "@univariate true": "no line @data",
        "@data\n": "no series follows @data",
    }.items():
        with pytest.raises(ValueError, match=message):
            source(bad("b.ts", text))
    with pytest.raises(ValueError, match=r"cannot read b\.arff"):
        source(bad("b.arff", "@relation x\n@attribute a numeric\n@data\nhello"))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    step=st.sampled_from([0.1, 1.0, 60.0, 1e-3]),
    data=st.data(),
)
def test_any_rows_in_any_order_are_the_series_that_they_are(lengths: list[int], step: float, data: st.DataObject) -> None:
    places = [sorted(data.draw(st.sets(st.integers(0, 12), min_size=n, max_size=n))) for n in lengths]
    rows = [{"id": i, "t": p * step, "x": float(i * 100 + p)} for i, own in enumerate(places) for p in own]
    rows = data.draw(st.permutations(rows))
    found = Source.from_rows(rows, series=SeriesOptions(by="id", time="t", values="x"))
    ids = list(dict.fromkeys(row["id"] for row in rows))
    assert found.cells("id") == ids
    for i, cell in zip(ids, found.cells("series"), strict=True):
        values = cell["values"]["x"].to_numpy()
        own = places[i]
        if "times" in cell:
            assert np.allclose(cell["times"], (np.array(own) - own[0]) * step)
            at = values
        else:
            unit = 1 / cell["rate"] if "rate" in cell else step
            at = values[np.round((np.array(own) - own[0]) * step / unit).astype(int)] if len(own) > 1 else values
            assert np.isnan(values).sum() == len(values) - len(own)
        assert at.tolist() == [float(i * 100 + p) for p in own]

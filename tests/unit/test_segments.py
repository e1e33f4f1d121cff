"""Segments of time as labels of steps: read, checked, laid on steps, and made of steps again."""

import json
import re
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmssl.data import Labels, Source
from mmssl.data.label_tracks import read_track
from mmssl.data.segments import joined, read_segments
from mmssl.data.series import SeriesOptions
from mmssl.modality import IGNORED, StepTimes, find
from mmssl_modalities.audio import AudioProcessor
from mmssl_modalities.image import ImageProcessor
from mmssl_modalities.timeseries import TimeseriesProcessor

SOUND = AudioProcessor(sample_rate=8000, mel_bins=8, patch=[4, 8], mean=0.0, std=1.0, label_rate=20.0, max_seconds=0.5)
SERIES = TimeseriesProcessor(num_channels=1, length=0)


def segment(start: float, end: float, label: Any, **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


def drawn(random: np.random.Generator, last: float) -> list[dict[str, Any]]:
    """Segments in any order, some of them side by side."""
    cuts = np.sort(random.uniform(0, last, 9)).round(3)
    found = [segment(a, b, "abc"[int(random.integers(3))]) for a, b in pairwise(cuts.tolist()) if b > a]
    return [found[number] for number in random.permutation(len(found)) if number % 3]


@pytest.mark.parametrize("background", [None, "rest"])
def test_a_step_has_the_label_of_the_segment_that_its_point_lies_in(background: str | None) -> None:
    """Against a loop over steps and segments."""
    random = np.random.default_rng(0)
    for _ in range(20):
        cell, points = drawn(random, 4.0), np.sort(random.uniform(0, 4, 30))
        times = StepTimes(points, np.concatenate([[0.0], points[1:], [4.0]]))
        names = ["a", "b", "c", "rest"]
        found = read_segments(cell, "row 0", background).at(times, names, "row 0")
        outside = IGNORED if background is None else 3
        for point, number in zip(points, found, strict=True):
            own = [one["label"] for one in cell if one["start"] <= point < one["end"]]
            assert number == (names.index(own[0]) if own else outside)


def test_segments_of_one_label_may_overlap() -> None:
    cell = [segment(0, 3, "a"), segment(1, 2, "a"), segment(3 - 1e-7, 4, "b")]
    times = StepTimes(np.arange(5) + 0.5, np.arange(6.0))
    assert read_segments(cell, "row 0").at(times, ["a", "b"], "row 0").tolist() == [0, 0, 0, 1, IGNORED]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([segment(2, 1, "a")], "row 3: segment 0, 'a', ends before it begins: from 2 to 1"),
        ([segment(1, 2, "a"), segment(2, 2, "b")], "row 3: segment 1, 'b', has no length: from 2 to 2"),
        (
            [segment(0, 2, "a"), segment(1, 3, "b")],
            "two segments overlap and have different labels: 'a' from 0 to 2, and 'b' from 1",
        ),
        ([segment(0, 9, "a"), segment(1, 2, "a"), segment(8, 10, "b")], "'a' from 0 to 9, and 'b' from 8 to 10"),
        ([{"start": 0, "label": "a"}], "segment 0 needs start, end and label; got {'start': 0, 'label': 'a'}"),
        ([segment(0, 1, None)], "segment 0 needs start, end and label"),
        (
            [segment(0, float("inf"), "a")],
            "end of segment 0 must be a finite number (seconds of a sound, times of a series); got inf",
        ),
        ([segment("0", 1, "a")], "start of segment 0 must be a finite number"),  # type: ignore[arg-type]
        ([segment(0, 1, " ")], "the label of segment 0 must be a text or a whole number; got ' '"),
        ([segment(0, 1, 0.5)], "the label of segment 0 must be a text or a whole number; got 0.5"),
        (None, "expected a list of segments (start, end, label)"),
    ],
)
def test_what_is_no_segment_is_told(cell: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_segments(cell, "row 3")


def test_a_segment_outside_of_its_sample_is_told() -> None:
    sound = {"array": np.zeros(8000, np.float32), "sampling_rate": 8000}
    times = SOUND.step_times(sound)
    assert read_segments([segment(0.5, 1.04, "a")], "row 3").at(times, ["a"], "row 3").tolist() == [IGNORED] * 10 + [0] * 10
    for start, end in ((0.5, 1.2), (-0.2, 0.5), (7, 8)):
        with pytest.raises(
            ValueError, match=re.escape(f"row 3: the segment 'a' from {start:g} to {end:g} does not lie in the sample")
        ):
            read_segments([segment(start, end, "a")], "row 3").at(times, ["a"], "row 3")
    with pytest.raises(ValueError, match="have no steps in time"):
        ImageProcessor(size=8).step_times(None)


def test_the_last_frame_of_a_sound_may_be_a_part_of_one() -> None:
    times = SOUND.step_times({"array": np.zeros(1000, np.float32), "sampling_rate": 8000})
    assert times.edges == pytest.approx([0, 0.05, 0.1, 0.125]) and times.points == pytest.approx([0.025, 0.075, 0.1125])
    assert read_segments([segment(0.1, 0.12, "a")], "row 0").at(times, ["a"], "row 0").tolist() == [IGNORED, IGNORED, 0]


def test_steps_of_series_are_at_their_times() -> None:
    values = np.arange(4.0)
    cell = [segment(10.5, 13, "a")]
    for raw, lasts in (
        ({"values": values, "times": [10, 11, 12, 20]}, [10, 11, 12, 20, 21]),
        ({"values": values, "rate": 2.0}, [0, 0.5, 1, 1.5, 2]),
        (values, [0, 1, 2, 3, 4]),
        ({"values": values, "times": np.array([0, 60, 120, 180], "datetime64[s]")}, [0, 60, 120, 180, 240]),
    ):
        times = SERIES.step_times(raw)
        assert times.edges.tolist() == lasts and times.points.tolist() == lasts[:-1]
    found = read_segments(cell, "row 0").at(SERIES.step_times({"values": values, "times": [10, 11, 12, 20]}), ["a"], "row 0")
    assert found.tolist() == [IGNORED, 0, 0, IGNORED]


def test_steps_become_segments_and_these_the_same_steps() -> None:
    random = np.random.default_rng(0)
    for size in (1, 2, 40):
        places, sure = np.repeat(random.integers(-1, 3, size), 3), random.uniform(size=3 * size)
        times = StepTimes((np.arange(3 * size) + 0.5) / 20, np.arange(3 * size + 1) / 20)
        cell = joined(places, sure, times, ["a", "b", "rest"], 2)
        again = read_segments(cell, "row 0", "rest").at(times, ["a", "b", "rest"], "row 0")
        assert again.tolist() == [2 if number < 0 else number for number in places]
        for one in cell:
            inside = (times.points > one["start"]) & (times.points < one["end"])
            assert one["probability"] == pytest.approx(sure[inside].mean(), abs=1e-6) and one["label"] in ("a", "b")
    assert joined(np.array([-1, 2]), np.ones(2), StepTimes(np.arange(2.0), np.arange(3.0)), ["a", "b", "rest"], 2) == []


def rows_of(count: int) -> list[dict[str, Any]]:
    """Sounds of a second, of which the last has no segment."""
    sound = {"array": np.zeros(8000, np.float32), "sampling_rate": 8000}
    cells = [[segment(0.1 * row, 0.1 * row + 0.2, "ab"[row % 2])] for row in range(count - 1)] + [[]]
    return [{"audio": sound, "events": cell} for cell in cells]


def test_a_source_counts_the_steps_of_its_segments() -> None:
    columns = {"label": "events"}
    source = Source.from_rows(rows_of(3), columns, background="rest")
    first = source.labels(kind="dense")
    assert first is not None and first.names == ["a", "b", "rest"] and first.segments and first.background == "rest"
    assert "2 segments of time, of 3 classes (a, b, rest); steps outside of them are 'rest'" in first.reason
    stepped = source.in_steps(find("audio"), SOUND)
    labels = stepped.labels(like=first)
    assert labels is not None and labels.values.tolist() == [[4, 0, 16], [0, 4, 16], [0, 0, 20]]
    places = stepped.dense_labels([1, 2], labels.names)
    assert places[0].tolist() == [2] * 2 + [1] * 4 + [2] * 14 and places[1].tolist() == [2] * 20
    none = Source.from_rows(rows_of(3), columns).in_steps(find("audio"), SOUND)
    assert none.dense_labels([0], ["a", "b"])[0].tolist() == [0] * 4 + [IGNORED] * 16
    assert source.natural_classes("events") is None
    with pytest.raises(ValueError, match=r"holds segments of time .* Say objective\.kind=dense"):
        source.labels()
    with pytest.raises(ValueError, match="row 1 of rows in memory, column events: b is no class that is known; there are a"):
        source.labels(like=Labels("dense", ["a", "rest"], np.zeros((1, 2), np.int64), segments=True))
    lone = Source.from_rows([{"audio": 0, "events": [segment(0, 1, "a")]}], columns)
    with pytest.raises(ValueError, match=r"at least two classes; there is a\. If steps .* data\.background=NAME"):
        lone.labels(kind="dense")


def test_labels_that_are_numbers_keep_their_order_and_text_of_json_is_read() -> None:
    cells = [json.dumps([segment(0, 1, 10), segment(1, 2, 9)]), "[]"]
    assert Labels.read(cells, where="column events", kind="dense").names == ["9", "10"]


def test_segments_of_a_long_table_are_those_of_its_series() -> None:
    rows = [
        {"id": one, "t": t, "x": float(t), "events": [segment(2, 4, "b"), segment(0, 2, "a")]} for one in (1, 2) for t in range(5)
    ]
    options = SeriesOptions(by="id", time="t", values="x")
    source = Source.from_rows(rows, {"label": "events"}, series=options).in_steps(find("timeseries"), SERIES)
    assert source.dense_labels([1], ["a", "b"])[0].tolist() == [0, 0, 1, 1, IGNORED]


def write_sound(file: Path, seconds: float) -> None:
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(np.zeros(int(8000 * seconds), "<i2").tobytes())


def test_label_tracks_of_audacity_lie_beside_their_sounds(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for number in range(2):
            write_sound(tmp_path / part / f"{number}.wav", 1.0)
            (tmp_path / part / f"{number}.txt").write_text(f"0.0\t0.5\tfirst word\n\\\t100\t2000\n\n0.5\t{0.6 + number / 10}\tb\n")
    (tmp_path / "notes.pdf").write_text("these are mine")
    source = Source(path=str(tmp_path), split="train").in_steps(find("audio"), SOUND)
    labels = source.labels(kind="dense")
    assert labels is not None and labels.names == ["b", "first word"] and labels.values.tolist() == [[2, 10], [4, 10]]
    assert ".pdf" in " ".join(source.notes) and ".txt" not in " ".join(source.notes)
    (tmp_path / "test" / "1.txt").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 files have no label file of their name: test/1\.wav; there is, for example, "):
        Source(path=str(tmp_path))
    (tmp_path / "test" / "1.txt").write_text("0.0\t0.5\ta\n0.5 0.7 b\n")
    with pytest.raises(ValueError, match=r"1\.txt, line 2: expected start, end and label with tabs between them"):
        read_track(tmp_path / "test" / "1.txt")

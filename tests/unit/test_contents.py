"""What samples hold is told in `mmssl check`, in the run, its record and its report, whatever the modality."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mmssl import api
from mmssl.modality import Content, Odd
from mmssl.report.contents import LISTED, lines, notes, share

ODD = Odd("constant", "one value", "Leave it out")


def test_a_line_for_each_part() -> None:
    parts = [
        Content("age", "number", "1 to 9", 0.25, "3"),
        Content("the colour", "category", "2 classes", 0.0, "'red'", (ODD, Odd("odd", "", "Mend it"))),
    ]
    assert lines(parts) == [
        "age         number, 1 to 9, 25.0 % missing, such as 3",
        "the colour  category, 2 classes, such as 'red'; constant (one value); odd",
    ]
    assert lines([]) == []


def test_of_very_many_parts_the_odd_ones_are_told_and_the_others_counted() -> None:
    plain = [Content(f"x{i}", "number") for i in range(500)]
    assert lines(plain) == ["500 parts (500 number); none looks odd"]
    found = lines([*plain, Content("k", "category", odd=(ODD,))])
    assert found == ["501 parts (500 number, 1 category); those that look odd:", "k  category; constant (one value)"]
    assert len(lines([Content(f"k{i}", "number", odd=(ODD,)) for i in range(500)])) == LISTED + 1


def test_a_note_for_each_oddity_names_some_of_its_parts() -> None:
    parts = [Content(f"x{i}", "number", odd=(ODD,)) for i in range(12)]
    first, second = notes([*parts, Content("y", "category", odd=(Odd("identifier", "9 of 9", "Drop it"),))])
    assert first.startswith("constant: x0 (one value), x1 (one value), ")
    assert first.endswith("x7 (one value) and 4 more. Leave it out")
    assert second == "identifier: y (9 of 9). Drop it"


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    assert [share(part) for part in (0.00001, 0.5, 0.99999, 1.0)] == ["under 0.1 %", "50.0 %", "over 99.9 %", "100 %"]


RECIPE: dict[str, Any] = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "masked"},
    "data": {"path": "t.csv"},
    "train": {"batch_size": 8, "max_steps": 1},
}


def write(rows: list[dict[str, Any]]) -> None:
    with Path("t.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_check_run_record_and_report_tell_the_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write([{"price": f"{i},5", "colour": "red" if i % 2 else "blue", "x": i % 7 + 0.5} for i in range(40)])
    summary = api.check(RECIPE)
    assert "tabular     price   category, 40 classes, such as '0,5'; numbers in text (as '0,5')" in summary
    assert "            colour  category, 2 classes, such as 'blue'" in summary
    assert "            x       number, 0.5 to 6.5, such as 0.5" in summary
    note = "numbers in text: price (as '0,5'). As text every spelling is a category of its own."
    assert note in summary
    capsys.readouterr()
    run = api.train(RECIPE, run={"dir": str(tmp_path / "runs")})
    assert f"note: {note}" in capsys.readouterr().out
    record = json.loads((run.folder / "run.json").read_text())
    assert [part["name"] for part in record["contents"]["tabular"]] == ["price", "colour", "x"]
    assert record["contents"]["tabular"][0]["odd"] == ["numbers in text (as '0,5')"]
    assert any(told.startswith(note) for told in record["notes"])
    page = run.report_file.read_text(encoding="utf-8")
    for text in ("What the samples hold: tabular", "<td>colour</td><td>category, 2 classes</td>", "numbers in text: price"):
        assert text in page


def test_wide_tables_are_summarised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write([{f"x{j}": (i * j) % 11 for j in range(120)} for i in range(12)])
    summary = api.check(RECIPE)
    assert (
        "tabular     120 parts (120 number); those that look odd:\n            x0    number, 0 to 0, such as 0; constant" in summary
    )
    assert " x1 " not in summary

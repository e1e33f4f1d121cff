"""Which rows train and which are scored, for every way to name them; nothing is trained here."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmssl import api
from mmssl.data import Source
from mmssl.evaluation import EvaluateOptions, open_sources
from mmssl.evaluation.history import FILE, Exposure, History, Trained
from mmssl.recipe import Recipe, load
from mmssl.training.splits import Splits, open_splits

ROWS = 61
COLUMNS = {"label": "kind", "tabular": ["x", "y"]}
RECIPE: dict[str, Any] = {
    "modalities": {"tabular": {}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised"},
    "data": {"path": "cells.csv", "columns": COLUMNS},
    "train": {"batch_size": 8, "max_steps": 1},
    "evaluate": {},
}


def cells(seed: int = 0, count: int = ROWS) -> list[dict[str, Any]]:
    """Numbers with classes of three sizes, a class for each row's parity, and a value."""
    draw = np.random.default_rng(seed)
    names = draw.permutation(["a"] * (count - 20) + ["b"] * 17 + ["c"] * 3)
    return [
        {"x": float(x), "y": int(y), "kind": str(name), "other": "pq"[number % 2], "value": float(x + y)}
        for number, (x, y, name) in enumerate(zip(draw.normal(size=count), draw.integers(9, size=count), names, strict=True))
    ]


def write(file: str, rows: list[dict[str, Any]]) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    with Path(file).open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cells.csv and a copy, and the folder parts with other rows as train and test."""
    monkeypatch.chdir(tmp_path)
    write("cells.csv", cells())
    write("copy.csv", cells())
    write("parts/train.csv", cells(1))
    write("parts/test.csv", cells(2))
    Path("link.csv").symlink_to("cells.csv")


def recipe(**changes: Any) -> Recipe:
    return load(RECIPE, changes)


def numbers(source: Source) -> set[int]:
    return {source.row_number(i) for i in range(len(source))}


def exposure(splits: Splits) -> Exposure:
    """What the model will have seen of what it is scored on."""
    (scored,) = splits.scored.values()
    label, fifth = scored.sources.test.columns["label"], scored.sources.fifth
    assert isinstance(label, str)
    return splits.history.exposure(scored.sources.test, label, fifth.column if fifth else None)


SAME = {
    "the data": {},
    "by name": {"path": "cells.csv"},
    "spelled otherwise": {"path": "parts/../cells.csv"},
    "a link": {"path": "link.csv"},
    "a pattern": {"path": "cell?.csv"},
    "a copy": {"path": "copy.csv"},
    "all parts": {"train_split": None},
    "some rows": {"train_limit": 10, "test_limit": 5},
    "during training": {"every": 5},
    "other labels": {"columns": {"label": "other"}},
    "values": {"columns": {"label": "value"}},
}


@pytest.mark.parametrize("options", SAME.values(), ids=SAME.keys())
@pytest.mark.parametrize("limit", [None, 30])
def test_rows_that_are_scored_are_not_trained_on(options: dict[str, Any], limit: int | None) -> None:
    evaluate = options | {"columns": COLUMNS | options.get("columns", {})}
    splits = open_splits(recipe(evaluate=evaluate, **{"data.limit": limit}))
    (stream,), (scored,) = splits.streams.values(), splits.scored.values()
    trained, tested = numbers(stream.source), numbers(scored.sources.test)
    assert not trained & tested
    assert stream.source.num_held_out == 13, "a fifth of each class: 41 / 5, 17 / 5, 3 / 5, one more where something is left"
    assert len(trained) == (limit or ROWS - 13)
    assert splits.labels is not None
    assert splits.labels.names == ["a", "b", "c"]
    assert exposure(splits) == Exposure(held_out=True)
    assert [entry.held_out for entry in splits.history.trained] == ["kind"]


def test_rows_in_memory_are_held_out_alike() -> None:
    splits = open_splits(recipe(), rows=cells())
    same = open_splits(recipe())
    held = [numbers(found.scored["data"].sources.test) for found in (splits, same)]
    assert held[0] == held[1]
    assert not numbers(splits.streams["data"].source) & held[0]
    assert splits.history.trained[0].same(Source(path="cells.csv")), "a file with the same rows is known"
    shuffled = cells()[::-1]
    assert not splits.history.trained[0].overlaps(Source.from_rows(shuffled)), "the limit of what is recognised"


ELSEWHERE = {"evaluate": {"path": "parts", "columns": COLUMNS}}


@pytest.mark.parametrize("changes", [{"evaluate": None}, {"objective": {"name": "masked"}}, ELSEWHERE])
def test_all_rows_train_where_no_label_can_leak(changes: dict[str, Any]) -> None:
    splits = open_splits(recipe(**changes))
    assert len(splits.streams["data"].source) == ROWS
    assert splits.history.trained[0].held_out is None
    if splits.scored:
        unlabelled = "objective" in changes
        assert exposure(splits) == Exposure(unlabelled=unlabelled)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.path": "parts"}, Exposure()),
        ({"data.path": "parts", "data.split": None}, Exposure(labelled=True)),
        ({"data.path": "parts", "evaluate.train_split": None}, Exposure(labelled=True)),
        ({"data.path": "parts", "evaluate": {"train_split": "test", "test_split": "train"}}, Exposure(labelled=True)),
        ({"data.path": "parts/test.csv", "evaluate.path": "parts"}, Exposure(labelled=True)),
        ({"data.path": "parts/*.csv", "evaluate.path": "parts"}, Exposure(labelled=True)),
        ({"data.path": "parts", "data.split": None, "objective": {"name": "jepa"}}, Exposure(unlabelled=True)),
    ],
)
def test_a_test_part_that_was_trained_on_is_known(changes: dict[str, Any], expected: Exposure) -> None:
    splits = open_splits(recipe(**changes, **{"evaluate.columns": COLUMNS}))
    assert exposure(splits) == expected


@pytest.mark.parametrize(
    "evaluate",
    [
        {"path": "parts", "train_split": "train", "test_split": "train"},
        {"path": "parts", "train_split": None, "test_split": "test"},
        {"train_split": "train", "test_split": "train"},
        {"path": "twice"},
    ],
)
def test_readers_are_not_fitted_on_what_is_scored(evaluate: dict[str, Any]) -> None:
    for split in ("train", "test"):
        write(f"twice/{split}.csv", cells())
    with pytest.raises(ValueError, match="on which the readers are fitted, so they would be asked what they were told"):
        open_splits(recipe(evaluate=evaluate | {"columns": COLUMNS}))


def test_a_column_cannot_be_label_and_input() -> None:
    with pytest.raises(ValueError, match="column 'kind' is named for the labels and for tabular, which could then read the answer"):
        open_splits(recipe(evaluate={"columns": {"tabular": ["x", "kind"]}}))


def test_labels_that_were_read_as_samples_count_as_learned() -> None:
    """Masked modelling of all columns learns each from the others."""
    changes = {"objective": {"name": "masked"}, "data.columns": None, "evaluate": {"columns": {"label": "kind"}}}
    splits = open_splits(recipe(**changes))
    assert "kind" in splits.history.trained[0].inputs
    assert splits.streams["data"].source.num_held_out == 13
    assert exposure(splits) == Exposure(held_out=True)
    every = open_splits(recipe(**changes | {"evaluate": None}))
    assert every.history.exposure(Source(path="cells.csv"), "kind", "kind") == Exposure(labelled=True)


# Earlier runs


def saved(folder: str, splits: Splits) -> str:
    Path(folder).mkdir()
    splits.history.write(Path(folder))
    assert History.read(folder) == splits.history
    return folder


@pytest.mark.parametrize("again", ["init", "teacher"])
def test_a_history_of_labels_is_passed_on(again: str) -> None:
    first = saved("first", open_splits(recipe()))
    objective = {"name": "masked", "targets": [{"name": "teacher", "model": first}]} if again == "teacher" else {"name": "masked"}
    where = {"init": first} if again == "init" else {}
    second = open_splits(recipe(objective=objective, **where))
    assert second.streams["data"].source.num_held_out == 13
    assert exposure(second) == Exposure(held_out=True)
    assert [(entry.objective, entry.label, entry.held_out) for entry in second.history.trained] == [
        ("supervised", "kind", "kind"),
        ("masked", None, "kind"),
    ]
    third = open_splits(recipe(objective={"name": "jepa"}, init=saved("second", second), evaluate=None))
    assert len(third.streams["data"].source) == ROWS, "nothing is scored"
    later = open_splits(recipe(objective={"name": "jepa"}, init=saved("third", third)))
    assert exposure(later) == Exposure(held_out=True, unlabelled=True)


def test_rows_that_an_earlier_run_saw_with_labels_stay_seen() -> None:
    first = saved("first", open_splits(recipe(evaluate=None)))
    second = open_splits(recipe(objective={"name": "masked"}, init=first))
    assert exposure(second) == Exposure(labelled=True)
    elsewhere = open_splits(recipe(objective={"name": "masked"}, init=first, **{"data.path": "parts"}))
    assert exposure(elsewhere) == Exposure()


def test_the_fifth_stays_that_of_the_first_run() -> None:
    """Another label column would choose other rows, of which the first run has seen labels."""
    first = open_splits(recipe())
    second = open_splits(recipe(init=saved("first", first), **{"data.columns.label": "other"}))
    assert numbers(second.streams["data"].source) == numbers(first.streams["data"].source)
    assert exposure(second) == Exposure(held_out=True)
    assert second.labels is not None
    assert second.labels.names == ["p", "q"]


def test_each_of_several_sources_has_its_own_fifth() -> None:
    sources = {
        "tabular": {"path": "cells.csv", "columns": COLUMNS},
        "image": {"path": "bundled:digits", "limit": 50},
        "text": {"path": "words.csv", "columns": {"label": "kind", "text": "x"}},
    }
    write("words.csv", cells(5))
    changes = {
        "modalities": {"tabular": {}, "image": {}, "text": {}},
        "objective": {"name": "masked"},
        "data": {"path": None, "columns": None, "sources": sources},
        "init": saved("first", open_splits(recipe())),
    }
    splits = open_splits(recipe(**changes))
    held = {name: stream.source.num_held_out for name, stream in splits.streams.items()}
    assert held == {"tabular": 13, "image": 0, "text": 13}, "the digits have a test part"
    for name in ("tabular", "text"):
        assert not numbers(splits.streams[name].source) & numbers(splits.scored[name].sources.test)


def test_a_model_without_a_record_may_have_seen_anything() -> None:
    Path("unknown").mkdir()
    assert exposure(open_splits(recipe(objective={"name": "masked"}, init="unknown"))) == Exposure(unlabelled=True, known=False)
    assert exposure(open_splits(recipe(objective={"name": "masked"}, init="nobody/on-the-hub"))).known is False


def test_a_record_of_another_version_is_refused() -> None:
    Path("other").mkdir()
    Path("other", FILE).write_text(json.dumps({"complete": True, "trained": [{"objective": "masked"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match="no record of training that this version of mmssl reads; update mmssl, or delete"):
        History.read("other")


def test_a_record_names_no_folder_of_this_machine() -> None:
    folder = Path(saved("first", open_splits(recipe())))
    assert str(Path.cwd()) not in (folder / FILE).read_text(encoding="utf-8")


def test_rows_that_were_added_later_do_not_hide_those_that_were_seen() -> None:
    first = saved("first", open_splits(recipe()))
    write("cells.csv", [*cells(), *cells(3)])
    assert exposure(open_splits(recipe(objective={"name": "masked"}, init=first))) == Exposure(labelled=True)


# Sources


def test_slices_of_a_split_are_apart() -> None:
    def trained(*parts: str) -> Trained:
        values = open_splits(recipe()).history.trained[0]
        return Trained(**{**vars(values), "parts": parts, "content": "none"})

    class Sliced(Source):
        parts = ("name/train[:80%]",)

    source = Sliced(path="cells.csv")
    for parts, shared in [(("name/train[80%:]",), False), (("name/train",), True), (("name/train[:80%]",), True), ((), False)]:
        assert trained(*parts).overlaps(source) is shared, parts


def test_bundled_parts_are_known_by_name() -> None:
    data = {"path": "bundled:wine", "columns": None}
    assert exposure(open_splits(recipe(data=data))) == Exposure()
    assert exposure(open_splits(recipe(data=data | {"split": None}))) == Exposure(labelled=True)


@pytest.mark.parametrize("kind", ["csv", "parquet", "rows", "pandas"])
def test_a_copy_in_another_form_is_recognised(kind: str) -> None:
    trained = open_splits(recipe()).history.trained[0]
    if kind == "parquet":
        pd.DataFrame(cells()).to_parquet("cells.parquet")
        assert trained.same(Source(path="cells.parquet"))
    elif kind == "csv":
        shutil.copy("cells.csv", "elsewhere.csv")
        assert trained.same(Source(path="elsewhere.csv", limit=5)), "the whole dataset counts"
    else:
        rows = cells() if kind == "rows" else pd.DataFrame(cells()).to_dict("records")
        assert trained.same(Source.from_rows(rows))
    changed = cells()
    changed[7]["kind"] = "c" if changed[7]["kind"] != "c" else "a"
    assert not trained.same(Source.from_rows(changed)), "every label counts"
    assert not trained.same(Source.from_rows(cells()[:-1]))
    assert not trained.same(Source(path="bundled:wine"))


# Too little


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("aab", "takes two classes of at least 3 rows each, and it has 2 of 'a', 1 of 'b'"),
        ("aaaaaaaaab", "takes two classes of at least 3 rows each, and it has 9 of 'a', 1 of 'b'"),
        (
            [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
            "takes at least 7 rows whose values differ, and it has 6 rows, of which",
        ),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], "takes at least 7 rows whose values differ, and it has 8 rows"),
    ],
)
@pytest.mark.parametrize("objective", ["supervised", "masked"])
def test_too_few_rows_are_not_scored(kinds: Any, message: str, objective: str) -> None:
    write("few.csv", [{"x": number, "y": 0, "kind": kind} for number, kind in enumerate(kinds)])
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        open_splits(recipe(objective={"name": objective}, **{"data.path": "few.csv"}))
    assert "Add rows, name a test split or other data to score on, or do without scores (evaluate=null)" in str(caught.value)
    assert len(open_splits(recipe(evaluate=None, **{"data.path": "few.csv"})).streams["data"].source) == len(kinds)


def test_six_rows_are_enough() -> None:
    write("few.csv", [{"x": number, "y": 0, "kind": "ab"[number % 2]} for number in range(6)])
    splits = open_splits(recipe(**{"data.path": "few.csv"}))
    assert (len(splits.streams["data"].source), len(splits.scored["data"].sources.test)) == (4, 2)


def test_integer_labels_stay_classes_when_some_are_held_out() -> None:
    """21 numbers in 210 rows are classes, in 168 they would be values."""
    write("classes.csv", [{"x": number, "y": 0, "kind": number % 21} for number in range(210)])
    labels = open_splits(recipe(**{"data.path": "classes.csv"})).labels
    assert labels is not None
    assert (labels.kind, len(labels.names), len(labels)) == ("classification", 21, 168)


WITHOUT = (5, 9)
"""Rows that lack their label."""


def some_labelled(seed: int = 0) -> list[dict[str, Any]]:
    rows = cells(seed)
    for number, blank in zip(WITHOUT, ("", "  "), strict=True):
        rows[number]["kind"] = blank
    return rows


def test_an_objective_that_learns_labels_needs_them_all() -> None:
    write("some.csv", some_labelled())
    message = r"row 5 of some.csv \(train\), column kind: the label is missing; every row needs one, and 2 of 61 have none\. Drop"
    with pytest.raises(ValueError, match=message):
        open_splits(recipe(**{"data.path": "some.csv"}))


def test_rows_without_a_label_train_and_are_not_scored() -> None:
    """The fifth that is scored is that of the rows with labels, whether rows without one lie between them or not."""
    write("some.csv", some_labelled())
    write("labelled.csv", [row for row in some_labelled() if row["kind"].strip()])
    splits = open_splits(recipe(**{"data.path": "some.csv", "objective": {"name": "masked"}}))
    alone = open_splits(recipe(**{"data.path": "labelled.csv", "objective": {"name": "masked"}}))
    assert len(splits.streams["data"].source) == ROWS
    found, expected = splits.scored["data"].sources, alone.scored["data"].sources
    for part in ("train", "test"):
        mine, theirs = getattr(found, part), getattr(expected, part)
        assert mine.rows(range(len(mine))) == theirs.rows(range(len(theirs)))
        labels = getattr(found, f"{part}_labels")
        assert labels.values.tolist() == getattr(expected, f"{part}_labels").values.tolist()
        assert len(labels) == len(mine)
    assert "label kind: 2 of 61 rows of some.csv (train) have none: they train, and are not scored" in splits.notes
    assert not any("have none" in note for note in alone.notes)


def test_rows_without_a_label_of_each_part_are_left_out_of_scores() -> None:
    write("some/train.csv", some_labelled(1))
    write("some/test.csv", some_labelled(2))
    splits = open_splits(recipe(**{"data.path": "some", "objective": {"name": "masked"}, "evaluate.test_limit": 20}))
    sources = splits.scored["data"].sources
    assert (len(sources.train), len(sources.test)) == (ROWS - 2, 20), "a limit counts what is scored"
    assert sources.lacking() == [
        f"label kind: 2 of 61 rows of some ({part}) have none: they are not scored" for part in ("train", "test")
    ]
    told = [note for note in splits.notes if "have none" in note]
    assert told == [sources.lacking({"some (train)"})[0], sources.lacking()[1]]


def test_without_any_label_there_is_nothing_to_score() -> None:
    write("none.csv", [row | {"kind": ""} for row in cells()])
    with pytest.raises(ValueError, match=r"row 0 of none.csv \(train\), column kind: the label is missing.* 61 of 61 have none"):
        open_splits(recipe(**{"data.path": "none.csv", "objective": {"name": "masked"}}))
    assert len(open_splits(recipe(**{"data.path": "none.csv", "objective": {"name": "masked"}}, evaluate=None)).streams) == 1


# What a user is told


def test_check_tells_how_many_rows_are_held_out() -> None:
    lines = api.check(RECIPE).splitlines()
    assert "data        cells.csv (train), 48 samples" in lines
    assert "held out    13 rows, which are scored: they do not train, as labels are learned" in lines
    assert "held out" not in api.check(RECIPE, evaluate=None)
    with pytest.raises(ValueError, match=r"the 48 rows of cells.csv \(train\) \(13 more are held out for scores\); got 60"):
        api.check(RECIPE, {"train.batch_size": 60})


# Kinds of labels


def write_labels(labels: list[Any]) -> None:
    Path("kinds.jsonl").write_text("".join(json.dumps({"x": i * 0.5, "y": label}) + "\n" for i, label in enumerate(labels)))


def of_kinds(*overrides: str, labels: list[Any], objective: str = "supervised") -> Splits:
    write_labels(labels)
    data = {"path": "kinds.jsonl", "columns": {"label": "y", "tabular": ["x"]}}
    return open_splits(load({**RECIPE, "objective": {"name": objective}, "data": data}, list(overrides)))


GRADES = [3 + i % 6 for i in range(60)]


def test_the_kind_of_labels_is_noted_once_for_training_and_scores() -> None:
    splits = of_kinds(labels=GRADES)
    assert [note for note in splits.notes if note.startswith("label")] == [
        "label y: 6 classes (3, 4, 5, 6, 7, 8), as it has few distinct whole numbers"
    ]
    splits = of_kinds(labels=[grade + 0.5 for grade in GRADES])
    assert "label y: 6 values between 3.5 and 8.5, with decimals: regression" in splits.notes


def test_whole_numbers_stored_as_decimals_are_the_same_classes_in_the_same_fifth() -> None:
    whole, decimals = of_kinds(labels=GRADES), of_kinds(labels=[float(grade) for grade in GRADES])
    for splits in (whole, decimals):
        assert splits.labels is not None
        assert (splits.labels.kind, splits.labels.names) == ("classification", list("345678"))
    rows = [splits.scored["data"].sources.fifth.rows for splits in (whole, decimals)]  # type: ignore[union-attr]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize(
    ("overrides", "trained", "scored"),
    [
        (["objective.kind=regression"], "regression", "regression"),
        (["evaluate.kind=regression"], "classification", "regression"),
        (["objective.kind=regression", "evaluate.kind=classification"], "regression", "classification"),
        (["objective.kind=regression", "evaluate.path=kinds.jsonl", "evaluate.columns={label: y}"], "regression", "classification"),
    ],
)
def test_keys_set_the_kind_and_the_fifth_stays(overrides: list[str], trained: str, scored: str) -> None:
    natural, splits = of_kinds(labels=GRADES), of_kinds(*overrides, labels=GRADES)
    assert splits.labels is not None
    sources = splits.scored["data"].sources
    assert (splits.labels.kind, sources.train_labels.kind, sources.test_labels.kind) == (trained, scored, scored)
    assert sources.fifth is not None
    np.testing.assert_array_equal(sources.fifth.rows, natural.scored["data"].sources.fifth.rows)  # type: ignore[union-attr]


def test_minus_one_is_refused_until_the_kind_is_said() -> None:
    labels = [i % 5 - 1 for i in range(60)]
    for objective in ("supervised", "masked"):
        with pytest.raises(ValueError, match=r"row 0 of kinds.jsonl .*12 of 60 rows have it.*objective.kind or evaluate.kind"):
            of_kinds(labels=labels, objective=objective)
    said = of_kinds("objective.kind=classification", labels=labels)
    assert said.labels is not None
    assert said.labels.names == ["-1", "0", "1", "2", "3"]
    assert of_kinds("evaluate.kind=regression", labels=labels, objective="masked").scored["data"].sources.train_labels.names == []


@pytest.mark.parametrize("form", ["jsonl", "parquet", "rows"])
def test_a_dict_for_a_label_is_refused_by_row_column_and_type(form: str) -> None:
    label = {"id": 1}
    table = [{"x": i * 0.5, "y": label} for i in range(60)]
    recipe = load({**RECIPE, "data": {"path": f"kinds.{form}", "columns": {"label": "y", "tabular": ["x"]}}})
    write_labels([label] * 60)
    pd.DataFrame(table).to_parquet("kinds.parquet")
    place = "rows in memory" if form == "rows" else rf"kinds\.{form} \(train\)"
    with pytest.raises(TypeError, match=rf"row 0 of {place}, column y: labels are strings.*\(dict\)\. .*name another"):
        open_splits(recipe, table if form == "rows" else None)


def test_evaluate_takes_the_kind() -> None:
    write_labels(GRADES)
    data = load({**RECIPE, "data": {"path": "kinds.jsonl", "columns": {"label": "y", "tabular": ["x"]}}}).section("data")
    for kind in ("classification", "regression"):
        assert open_sources(EvaluateOptions(kind=kind), data).test_labels.kind == kind  # type: ignore[arg-type]

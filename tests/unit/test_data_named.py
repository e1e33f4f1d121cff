"""Values that stand for names are read as these."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from mmssl.data import DataOptions, Source, open_streams
from mmssl.data.named import named
from mmssl.modality import find

DIGITS = {"0": "zero", "1": "one", "2": "two"}


def classes(folder: Path, labels: list[int]) -> str:
    """A file whose label column holds numbers of classes, which are named by digits."""
    features = datasets.Features({"label": datasets.ClassLabel(names=["0", "1", "2"]), "note": datasets.Value("string")})
    path = folder / "rows.parquet"
    datasets.Dataset.from_dict({"label": labels, "note": ["a"] * len(labels)}, features=features).to_parquet(str(path))
    return str(path)


def texts(source: Source) -> list[Any]:
    text = find("text")
    narrow = source.only([text])
    return [narrow.raw(text, row) for row in narrow.rows(range(len(narrow)))]


def test_class_numbers_are_read_as_the_names_that_the_data_have(tmp_path: Path) -> None:
    source = Source(path=classes(tmp_path, [2, 0, -1, 1]), columns={"text": "label"})
    assert texts(source) == ["2", "0", None, "1"]
    assert texts(Source(path=source.path, columns={"text": "note"})) == ["a"] * 4


def test_called_renames_what_a_modality_reads_and_nothing_else(tmp_path: Path) -> None:
    path = classes(tmp_path, [2, 0, 1, 1])
    source = Source(path=path, columns={"text": "label", "label": "label"}, called={"label": DIGITS})
    assert texts(source) == ["two", "zero", "one", "one"]
    labels = source.labels()
    assert labels is not None and labels.names == ["0", "1", "2"]
    assert source.cells("label") == [2, 0, 1, 1]


@pytest.mark.parametrize("cells", [[0, 2, 1], ["0", "2", "1"]])
def test_called_names_numbers_and_texts_without_classes_too(cells: list[Any]) -> None:
    source = Source.from_rows([{"digit": cell} for cell in cells], {"text": "digit"}, called={"digit": DIGITS})
    assert texts(source) == ["zero", "two", "one"]


def test_a_recipe_says_what_values_are_called() -> None:
    rows = [{"digit": 0}, {"digit": 7}]
    data = DataOptions(columns={"text": "digit"}, called={"digit": DIGITS})
    assert texts(open_streams(data, ["text"], rows)["data"].source) == ["zero", 7]


def test_numbers_without_names_are_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"got int\. Convert it, say what it stands for \(data\.called\)"):
        find("text").processor()(7)


def test_a_number_beyond_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the data name 3 classes, numbered from 0; got 7\. Correct it"):
        named(["a", "b", "c"], {}, 7)


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(LookupError, match="no column 'lable', named in `called`; it has digit"):
        Source.from_rows([{"digit": 0}], called={"lable": DIGITS})

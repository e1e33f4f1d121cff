"""Keys of a recipe that are `auto`, synthetic sets, and texts that every installation has."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmssl.data import Source
from mmssl.data.docstrings import EACH, LONGEST, SHORTEST
from mmssl.data.synthetic import MADE, SIZES
from mmssl.modality import find
from mmssl.plugins import installed
from mmssl.recipe import RecipeError, load
from mmssl.recipe.recipe import override

MASKED: dict[str, Any] = {
    "modalities": {"image": {"processor": {"size": "auto", "channels": "auto"}, "adapter": {"patch_size": "auto"}}},
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "masked"},
    "data": {"path": "bundled:digits"},
    "train": {"max_minutes": "auto", "batch_size": "auto", "precision": "auto"},
    "evaluate": "auto",
}


def test_values_come_from_the_data_and_are_told() -> None:
    recipe = load(MASKED)
    plain = recipe.resolved()
    assert plain["modalities"]["image"]["processor"]["size"] == 8
    assert plain["modalities"]["image"]["processor"]["channels"] == 1
    assert plain["train"]["precision"] == "auto", "a value of its own, not to be taken from the data"
    assert plain["evaluate"] is not None
    assert "auto: modalities.image.processor.size is 8: shorter sides are 8 pixels" in recipe.notes
    assert load(plain).resolved() == plain
    assert load(MASKED).fingerprint == recipe.fingerprint


def test_they_follow_the_data(tmp_path: Path) -> None:
    for number in range(20):
        Image.new("RGB", (70 + number, 90), (number, 0, 0)).save(tmp_path / f"{number}.png")
    recipe = load(MASKED, {"data.path": str(tmp_path)})
    assert recipe.resolved()["modalities"]["image"]["processor"]["size"] == 64
    assert recipe.resolved()["modalities"]["image"]["processor"]["channels"] == 3
    assert recipe.resolved()["evaluate"] is None, "no labels"
    assert recipe.resolved()["train"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"modalities.image.processor.mean": "auto"},
            r"modalities\.image\.processor\.mean: auto has no meaning there",
        ),
        ({"data.path": None}, r"neither data\.path nor data\.sources is set"),
        ({"train.lr": "auto"}, r"train\.lr"),
        ({"train.lr": -1.0}, r"train\.lr"),
    ],
)
def test_where_auto_has_no_meaning_is_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load(MASKED, changes)


@pytest.mark.parametrize("name", installed())
def test_what_suits_examples_is_what_a_recipe_takes(name: str) -> None:
    """Every modality found: its own examples get values that its processor and adapter accept; unreadable ones are passed over."""
    modality = find(name)
    found = modality.suited([*modality.example(8, 0), object()])
    changes = {f"modalities.{name}.{key}": suited.value for key, suited in found.items()}
    base = {**MASKED, "modalities": {name: {}}, "train": {"max_steps": 1}, "evaluate": None, "data": {"path": "nowhere"}}
    recipe = load(override(base, changes))
    assert all(suited.why for suited in found.values())
    modality.processor(**recipe.modalities[name]["processor"])
    assert modality.suited([]).keys() == found.keys()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("bundled:digits", "image"),
        ("bundled:docstrings", "text"),
        ("bundled:wine", "tabular"),
        ("synthetic:series", "timeseries"),
        ("synthetic:shapes", "points"),
        ("synthetic:tones", "audio"),
    ],
)
def test_the_modality_that_samples_are_of_claims_them_most_surely(path: str, name: str) -> None:
    rows = (source := Source(path=path).evenly(40)).rows(range(40))
    cells = {column: [row[column] for row in rows] for column in source.column_names if column != source.columns["label"]}
    claims = {other: claim.certainty for other in installed() if (claim := find(other).claimed(cells)) is not None}
    assert max(claims, key=lambda other: claims[other]) == name, claims


@pytest.mark.parametrize("kind", MADE)
def test_synthetic_samples_are_drawn_by_number_with_balanced_classes(kind: str) -> None:
    train, test = (Source(path=f"synthetic:{kind}", split=split) for split in SIZES)
    column = MADE[kind].column
    again = Source(path=f"synthetic:{kind}", split="train").rows([5])[0][column]
    np.testing.assert_equal(train.rows([5])[0][column], again)
    with pytest.raises(AssertionError):
        np.testing.assert_equal(test.rows([5])[0][column], again)
    counts = Counter(train.cells("label"))
    assert set(counts) == set(MADE[kind].classes)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert "synthetic" in train.notes[0]


def test_difficulty_is_noise() -> None:
    quiet, loud = (Source(path=f"synthetic:series:{noise}", split="test").rows([0])[0]["series"][0] for noise in (0, 2))
    assert np.abs(np.diff(loud)).mean() / np.std(loud) > 3 * np.abs(np.diff(quiet)).mean() / np.std(quiet)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("synthetic:tone", "there are series, shapes, tones"),
        ("synthetic:tones:loud", "difficulty is the noise"),
        ("synthetic:tones:-1", "got '-1'"),
    ],
)
def test_unknown_synthetic_sets_are_told(path: str, told: str) -> None:
    with pytest.raises((LookupError, ValueError), match=told):
        Source(path=path)


def test_docstrings_are_prose_by_package() -> None:
    frame = pd.DataFrame(Source(path="bundled:docstrings").rows(range(100)))
    whole = Source(path="bundled:docstrings")
    assert max(Counter(whole.cells("target")).values()) <= EACH
    assert frame.text.str.len().between(SHORTEST, LONGEST).all()
    assert frame.text.is_unique

"""Labels at random cannot be predicted: whatever was trained, and however it is scored, no row may say that they can.

The samples are noise, the labels a coin; the encoder is large enough to learn those that it sees by heart.
"""

import csv
import json
import math
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmssl
import mmssl_cli as cli
from mmssl.evaluation import Row, Table
from mmssl.objectives import OBJECTIVES
from mmssl.testing import SINGLE
from mmssl.training.run import Run
from mmssl.training.session import Session

ROWS, COLUMNS = 240, 8
STEPS = {True: 100, False: 10}
"""With labels, enough to know those that are seen by heart; without there is nothing to know."""
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN = {"batch_size": 96, "lr": 6e-3, "weight_decay": 0.0, "schedule": {"name": "cosine", "warmup": 0.1}}
TABLE = {"modalities": {"tabular": {}}, "data": {"path": "noise.csv", "columns": {"label": "coin"}, "cache": True}}
PICTURES = {
    "modalities": {"image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 4}}},
    "data": {"path": "noise", "cache": True},
}
ALLOWED = 2.0
"""Half widths of a 95 % interval: of 10,000 honest scores one or two are further above chance."""


def recipe(base: dict[str, Any], objective: str) -> dict[str, Any]:
    """A recipe with scores."""
    train = {**TRAIN, "max_steps": STEPS[OBJECTIVES[objective].needs_labels]}
    return {**base, "encoder": ENCODER, "objective": {"name": objective}, "train": train, "evaluate": {}}


def noise() -> list[dict[str, Any]]:
    """Rows of numbers without meaning, and a coin tossed for each."""
    draw = np.random.default_rng(0)
    values, coins = draw.normal(size=(ROWS, COLUMNS)), draw.integers(2, size=ROWS)
    return [
        {f"x{i}": float(value) for i, value in enumerate(row)} | {"coin": "ab"[coin]}
        for row, coin in zip(values, coins, strict=True)
    ]


def write_noise() -> None:
    """The rows as noise.csv, and as many pictures in the folder noise, a sub-folder for each side of the coin."""
    rows, draw = noise(), np.random.default_rng(1)
    with Path("noise.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        folder = Path("noise", row["coin"])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module", autouse=True)
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with the data for all tests, whose runs are shared; one thread, and reports without pictures."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("honest"))
        patch.setattr(Session, "pictures", lambda *given: {})
        torch.set_num_threads(1)
        write_noise()
        yield
    torch.set_num_threads(threads)
    by_python.cache_clear()
    by_command.cache_clear()


@cache
def by_python(objective: str) -> Run:
    """A run on rows in memory."""
    return mmssl.train(recipe(TABLE, objective), {"run.name": f"rows-{objective}"}, rows=noise())


@cache
def by_command(objective: str, *overrides: str, pictures: bool = False) -> Run:
    """A run that `mmssl train` makes of a file, or of a folder of pictures."""
    Path("recipe.yaml").write_text(json.dumps(recipe(PICTURES if pictures else TABLE, objective)), encoding="utf-8")
    before = set(Path("runs").glob("*"))
    cli.main(["train", "recipe.yaml", f"run.name=command-{objective}", *overrides])
    (folder,) = set(Path("runs").glob("*")) - before
    return Run(folder)


def scores_of(run: Run) -> Table:
    """The table at the end of a run."""
    return Table.from_dict(json.loads(run.table_file.read_text(encoding="utf-8")))


def evaluated(run: Run, data: str, *options: str) -> Table:
    """What `mmssl evaluate` says of a run's model."""
    cli.main(["evaluate", str(run.model_folder), "--data", data, "--output", "scores.json", *options])
    return Table.from_dict(json.loads(Path("scores.json").read_text(encoding="utf-8")))


def highest(table: Table, row: Row) -> float:
    """The better score of a row; a reference has one."""
    return max(value for score in table.titles if not math.isnan(value := table.value(row, score)))


def assert_at_chance(table: Table) -> None:
    """No row beats the constant one, and nothing claims it."""
    constant = table.rows[-1]
    assert 45 < constant.probe < 60, "a coin"
    for row in table.rows:
        above = highest(table, row) - constant.probe
        assert above <= ALLOWED * table.sampling_error(row, constant), f"{row.name} predicts coins:\n{table.to_markdown()}"
    assert not table.wins


HELD_OUT = "supervised: the test samples were held out of training, seed 0."
UNLABELLED = "pretrained: the test samples were seen in training, without their labels."


@pytest.mark.parametrize("train", [by_python, by_command])
@pytest.mark.parametrize("objective", SINGLE)
def test_no_objective_predicts_coins(objective: str, train: Any) -> None:
    table = scores_of(train(objective))
    assert_at_chance(table)
    assert (HELD_OUT if OBJECTIVES[objective].needs_labels else UNLABELLED) in table.notes


def test_pictures_do_not_predict_the_folder_they_lie_in() -> None:
    run = by_command("supervised", pictures=True)
    for table in (scores_of(run), evaluated(run, os.path.abspath("noise"))):  # noqa: PTH100 (as a user might name it)
        assert_at_chance(table)
        assert HELD_OUT in table.notes


def test_values_that_are_noise_are_not_predicted() -> None:
    """One column of the noise by the others; what was learned by heart would reach an R2 near 1."""
    run = by_command("supervised", "data.columns.label=x0")
    for table in (scores_of(run), evaluated(run, "noise.csv", "--label", "x0")):
        assert table.metric == "R2"
        for row in table.rows:
            error = table.sampling_error(row, table.rows[-1])
            assert highest(table, row) <= error, f"{row.name} predicts noise:\n{table.to_markdown()}"
        assert not table.wins
        assert HELD_OUT in table.notes


def test_a_saved_model_is_scored_on_rows_that_it_has_not_seen() -> None:
    """Also on a copy of the data, of which it knows the rows but not the name, and beside other models."""
    shutil.copy("noise.csv", "copy.csv")
    run, other = by_python("supervised"), by_command("supervised")
    table = evaluated(run, "copy.csv", "--label", "coin", "--compare", f"other={other.model_folder}")
    assert_at_chance(table)
    assert {HELD_OUT, HELD_OUT.replace("supervised", "other")} <= set(table.notes)


def test_a_model_remembers_labels_through_later_runs() -> None:
    first = by_command("supervised")
    second = by_command("masked", f"init={first.model_folder}")
    carried = by_command("supervised", f"init={first.folder}", "train.max_steps=110")
    for table in (scores_of(second), evaluated(second, "noise.csv", "--label", "coin"), scores_of(carried)):
        assert_at_chance(table)
        assert HELD_OUT.replace("supervised", table.rows[0].name) in table.notes


def test_labels_that_were_seen_are_no_result() -> None:
    """A run without scores trains on all rows; what is scored afterwards has been seen, and the table says so."""
    seen = by_command("supervised", "evaluate=null")
    table, later = evaluated(seen, "noise.csv", "--label", "coin"), by_command("masked", f"init={seen.model_folder}")
    assert table.rows[0].probe > 75, "the labels are known by heart"
    for scores in (table, scores_of(later)):
        assert scores.rows[0].seen
        assert not scores.wins
        assert scores.verdict == f"No verdict: {scores.rows[0].name} was trained on test samples with their labels."
    card, report = (later.model_folder / "README.md").read_text(encoding="utf-8"), later.report_file.read_text(encoding="utf-8")
    for text in (card, report):
        assert "No verdict" in text
        assert "test samples were trained on with their labels, so its scores say nothing about unseen ones" in text
    assert "model-index" not in card

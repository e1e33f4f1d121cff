"""Statistics over tokens: what padding, lone tokens and equal tokens do, and what follows the wider output."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mmssl
from mmssl.data import Labels
from mmssl.model.pooling import STATISTICS, concatenated, every_token, statistics
from mmssl.objectives.base import Setup
from mmssl.objectives.supervised import Supervised
from mmssl.testing import batch_of, inputs_of, small_model
from mmssl.tokens import Tokens

WIDE = {"mean_max": 2, "mean_std": 2, "mean_max_min": 3, "concat": 5}


def tokens(valid: list[bool] | None, values: list[list[float]]) -> Tokens:
    there = None if valid is None else torch.tensor([valid])
    return Tokens(torch.tensor([values]), torch.zeros(1, len(values), 4), there)


@pytest.mark.parametrize("name", STATISTICS)
def test_padding_changes_nothing(name: str) -> None:
    body = [[1.0, -2.0], [3.0, -7.0]]
    padded = tokens([True, True, False, False], [*body, [99.0, 99.0], [-99.0, -99.0]])
    assert torch.equal(STATISTICS[name](padded), STATISTICS[name](tokens(None, body)))


def test_values() -> None:
    found = concatenated(tokens(None, [[1.0, -2.0], [3.0, -8.0]]), ["mean", "max", "min", "std"])
    assert found.tolist() == [[2.0, -5.0, 3.0, -2.0, 1.0, -8.0, 1.0, 3.0]]


@pytest.mark.parametrize("name", ["mean", "max", "min"])
def test_nothing_valid_is_zero(name: str) -> None:
    assert STATISTICS[name](tokens([False], [[5.0, -5.0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("valid", [[True, False], [True, True], [False, False]])
def test_gradients_of_equal_tokens_are_finite(valid: list[bool]) -> None:
    values = torch.ones(1, 2, 3, requires_grad=True)
    concatenated(Tokens(values, torch.zeros(1, 2, 4), torch.tensor([valid])), list(STATISTICS)).sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


def test_names() -> None:
    assert statistics("mean_max_min") == ["mean", "max", "min"]
    assert statistics("mean") == ["mean"]
    assert statistics("cls") == statistics("attention") == statistics("concat") == []


def test_concat_keeps_each_token_and_no_padding() -> None:
    assert every_token(tokens([True, False], [[1.0, 2.0], [9.0, 9.0]])).tolist() == [[1.0, 2.0, 0.0, 0.0]]


def test_concat_is_refused_where_samples_differ() -> None:
    with pytest.raises(ValueError, match=r"pooling='concat' needs samples of equally many tokens, but those of 'image' may differ"):
        small_model("image", pooling="concat")


@pytest.mark.parametrize(("pooling", "times"), WIDE.items())
def test_head_is_as_wide_as_the_output(pooling: str, times: int) -> None:
    model, labels = small_model("tabular", pooling=pooling), Labels("classification", ["a", "b"], np.array([0, 1]))
    width = times * model.config.hidden_size
    assert model(**inputs_of("tabular")).pooler_output.shape[1] == model.pooled_size("tabular") == width
    objective = Supervised(model, Setup(labels=labels))
    assert objective.model.heads["label"].weight.shape == (2, width)
    batch = batch_of("tabular")
    objective(batch_of("tabular", labels=torch.zeros(len(batch.keys), dtype=torch.int64))).loss.backward()


def test_run_evaluates_and_embeds_the_wide_output(tmp_path: Path) -> None:
    recipe = {
        "modalities": {"tabular": {}},
        "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pooling": "mean_max_min"},
        "objective": {"name": "masked", "predictor": {"name": "mask_token"}},
        "data": {"path": "bundled:breast_cancer"},
        "train": {"batch_size": 32, "max_steps": 2},
        "evaluate": {},
        "run": {"dir": str(tmp_path)},
    }
    run = mmssl.train(recipe)
    assert run.table_file.is_file()
    out = tmp_path / "features.parquet"
    mmssl.embed(run.model_folder, "bundled:breast_cancer", out)
    assert len(pq.read_table(out)["embedding"][0]) == 48

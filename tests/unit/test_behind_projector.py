"""Scores behind the projector: what a run keeps of it, and the row that is about it."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

import mmssl
from mmssl.api import headed
from mmssl.data import DataOptions
from mmssl.evaluation import EvaluateOptions, Evaluator, Table, extract, probes
from mmssl.evaluation.table import BEHIND, PRETRAINED
from mmssl.model import MMSSLConfig, MMSSLModel, load_model
from mmssl.model.heads import Head
from mmssl.objectives import Contrast, Distill, Masked, Objective, Setup, Sum
from mmssl.processor import MMSSLProcessor
from mmssl.training.ending import check_headed, projectors_of, restore_projectors
from mmssl.training.run import Run

LIMITS = {"train_limit": 80, "test_limit": 60}
RECIPE: dict[str, Any] = {
    "modalities": {
        "image": {
            "processor": {"size": 8, "channels": 1},
            "adapter": {"patch_size": 4},
            "augment": {"crop": [0.5, 1.0]},
        }
    },
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pooling": "mean_std"},
    "objective": {"name": "contrast", "projector": {"hidden": 24, "size": 12}},
    "data": {"path": "bundled:digits", "limit": 64},
    "train": {"batch_size": 32, "max_steps": 6, "lr": 1e-2},
    "evaluate": {"heads": True, **LIMITS},
}


def trained(folder: Path, **sections: Any) -> Run:
    return mmssl.train({**RECIPE, **sections, "run": {"dir": str(folder), "name": "run"}})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("behind"))


def table_of(run: Run) -> Table:
    return Table.from_dict(json.loads(run.table_file.read_text()))


def by_hand(pooled: Float[Tensor, "n d"], weights: dict[str, Tensor]) -> Float[Tensor, "n e"]:
    """Linear map, batch norm by the averages of the run, ReLU, linear map: in float64."""
    w = {name: value.double() for name, value in weights.items()}
    x = pooled.double() @ w["image.linears.0.weight"].T
    x = (x - w["image.norms.0.running_mean"]) / (w["image.norms.0.running_var"] + 1e-5).sqrt()
    x = (x * w["image.norms.0.weight"] + w["image.norms.0.bias"]).clamp(min=0)
    return (x @ w["image.linears.1.weight"].T + w["image.linears.1.bias"]).float()


def test_row_is_the_probe_of_what_the_projector_makes_of_the_features(run: Run) -> None:
    model, processor = load_model(run.model_folder), MMSSLProcessor.from_pretrained(run.model_folder)
    evaluator = Evaluator(EvaluateOptions(**LIMITS), DataOptions(path="bundled:digits"), processor, model.config)
    sources, weights = evaluator.sources, load_file(run.projector_file)
    train = extract(model, processor, sources.train, "image", labels=sources.train_labels)
    test = extract(model, processor, sources.test, "image", labels=sources.test_labels)
    assert train.labels is not None and test.labels is not None
    before, after = by_hand(train.values, weights), by_hand(test.values, weights)
    row = table_of(run).row(BEHIND)
    linear = probes.linear_classify(before, train.labels, after, seed=0)
    assert row.probe == pytest.approx(probes.accuracy(linear.predicted, test.labels), abs=2), "one sample, by rounding"
    assert row.knn == pytest.approx(probes.accuracy(probes.knn_classify(before, train.labels, after), test.labels), abs=2)
    whole = headed(model, run.folder)
    projected = extract(whole, processor, sources.test, "image", then=partial(whole.projected, "image")).values
    torch.testing.assert_close(projected, after, rtol=1e-3, atol=1e-4)
    names = [row.name for row in table_of(run).rows]
    assert names[:2] == [PRETRAINED, BEHIND] and row.num_features == 12 and table_of(run).rows[0].num_features == 32


def test_published_model_has_no_projector_and_the_command_finds_that_of_the_run(run: Run) -> None:
    assert not any("heads" in name for name in load_file(run.model_folder / "model.safetensors"))
    assert AutoModel.from_pretrained(run.model_folder).heads is None
    again = mmssl.evaluate(run.folder, "bundled:digits", heads=True, **LIMITS)
    assert again.row(BEHIND).knn == table_of(run).row(BEHIND).knn
    assert [row.name for row in mmssl.evaluate(run.folder, "bundled:digits", **LIMITS).rows if row.name == BEHIND] == []
    with pytest.raises(ValueError, match=r"--heads needs the projector of a run, and there is none at .*give the folder of a run"):
        mmssl.evaluate(run.model_folder, "bundled:digits", heads=True, **LIMITS)


def test_projector_is_kept_without_the_checkpoints(run: Run) -> None:
    model, kept = MMSSLModel(MMSSLConfig.from_pretrained(run.model_folder)), load_file(run.projector_file)
    fresh = Contrast(model, Setup(), projector=Head(hidden=24, size=12))
    restore_projectors(fresh, run)
    headed_model = fresh.headed()
    assert headed_model is not None
    found = projectors_of(headed_model).state_dict()
    assert found.keys() == kept.keys() and all(torch.equal(found[name], value) for name, value in kept.items())


@pytest.mark.parametrize("publish", ["student", "teacher"])
def test_projector_is_that_of_the_published_network(run: Run, publish: Literal["student", "teacher"]) -> None:
    parts = [partial(Distill), partial(Contrast)]
    for make in (partial(Distill, publish=publish), partial(Sum, parts=parts, publish=publish)):
        objective: Objective = make(MMSSLModel(MMSSLConfig.from_pretrained(run.model_folder)), Setup())
        network = objective.networks[publish]
        found, bare = objective.headed(), objective.published()
        assert found is not None and network.heads is not None and bare.heads is None
        assert projectors_of(found) is network.heads["part1_projector"]
        assert found.encoder is bare.encoder is network.encoder


def test_objectives_without_a_projector_are_refused(run: Run, tmp_path: Path) -> None:
    nothing = r"evaluate.heads: this objective has no projector.*Leave evaluate.heads out"
    model = MMSSLModel(MMSSLConfig.from_pretrained(run.model_folder))
    with pytest.raises(ValueError, match=nothing):
        check_headed(Masked(model, Setup()))
    with pytest.raises(ValueError, match=nothing):
        trained(tmp_path, objective={"name": "contrast", "projector": {"layers": 0}})
    assert not (tmp_path / "run").exists()


def test_model_without_a_projector_has_no_such_row(run: Run) -> None:
    model, processor = load_model(run.model_folder), MMSSLProcessor.from_pretrained(run.model_folder)
    evaluator = Evaluator(EvaluateOptions(heads=True, **LIMITS), DataOptions(path="bundled:digits"), processor, model.config)
    with pytest.raises(LookupError, match="no projection of 'image'"):
        evaluator.table(model)

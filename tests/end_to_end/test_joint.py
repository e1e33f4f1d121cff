"""One run on several sources: mixing, token budgets, experts, adding a modality, and pieces of long samples."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from mmssl import api
from mmssl.data import Batch, Order
from mmssl.draws import keys
from mmssl.model import load_model
from mmssl.training.loop import Made, Training
from mmssl.training.run import Run
from mmssl.training.session import Session

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

JOINT: dict[str, Any] = {
    "modalities": {
        "image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 4}},
        "tabular": {},
    },
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "masked", "mask": {"name": "random", "ratio": 0.5}, "predictor": {"name": "mask_token"}},
    "data": {"sources": {"image": {"path": "bundled:digits", "limit": 60}, "tabular": {"path": "bundled:wine"}}},
    "train": {"batch_size": 16, "max_steps": 12, "checkpoint_every": 4, "log_every": 4},
}


def recipe(**changes: Any) -> dict[str, Any]:
    return api.recipes.override(JOINT, changes)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(run: Run) -> Mapping[str, torch.Tensor]:
    return load_model(run.model_folder).state_dict()


def test_one_model_serves_both_modalities_and_is_scored_on_both() -> None:
    run = api.train(recipe(evaluate={"train_limit": 50}))
    model, processor = AutoModel.from_pretrained(run.model_folder), AutoProcessor.from_pretrained(run.model_folder)
    image = model(**processor(images=[torch.rand(8, 8).numpy()])).pooler_output
    assert image.shape == (1, 16)
    assert list(json.loads(run.table_file.read_text(encoding="utf-8"))) == ["image", "tabular"]
    losses = {key for row in run.rows() for key in row if key.startswith("loss_")}
    assert losses == {"loss_image", "loss_tabular"}
    report = run.report_file.read_text(encoding="utf-8")
    assert "bundled:digits" in report
    assert "bundled:wine" in report


@pytest.mark.parametrize("mixing", ["weights", "temperature", "learned"])
def test_an_interrupted_mixture_ends_in_the_same_weights(mixing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"data.mixing": {"name": mixing}, "train.batch_tokens": 96}
    through = api.train(recipe(**changes, **{"run.name": "through"}))
    move, stopped = Training.move, []

    def interrupt(self: Training, micro: list[Batch]) -> Made:
        made = move(self, micro)
        if self.counters.step == 6 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(Training, "move", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.train(recipe(**changes, **{"run.name": "stopped"}))
    resumed = api.train(recipe(**changes, **{"run.name": "stopped", "resume": "auto"}))
    for key, value in weights(through).items():
        assert torch.equal(weights(resumed)[key], value), key


def test_sources_have_an_order_and_draws_of_their_own() -> None:
    """Rows 7 of two sources at their step 3 are two samples; a run of one source draws from the seed of the run."""
    digits = {"path": "bundled:digits", "limit": 60}
    image = {"modalities": {"image": JOINT["modalities"]["image"]}, "train": JOINT["train"] | {"batch_size": 60}}
    two = JOINT | image | {"data": {"sources": {"image": digits, "more": digits | {"modalities": ["image"]}}}}
    feed = Session(api.read(two, (), {}), Run.open(api.read(two, (), {}), "never"), None).feed
    found = {name: next(feed.read(stream, 3)) for name, stream in feed.streams.items()}
    assert {name: (batch.source, batch.step) for name, batch in found.items()} == {"image": ("image", 3), "more": ("more", 3)}
    assert sorted(found["image"].ids.tolist()) == sorted(found["more"].ids.tolist()) == list(range(60))
    assert not torch.equal(found["image"].ids, found["more"].ids)
    one, other = (batch.keys[batch.ids == 7] for batch in found.values())
    assert one != other
    single = JOINT | image | {"data": digits}
    feed = Session(api.read(single, (), {}), Run.open(api.read(single, (), {}), "never"), None).feed
    batch = next(feed.read(feed.streams["data"], 3))
    assert batch.source == "data"
    assert batch.ids.tolist() == Order(60, seed=0).rows(180, 60).tolist()
    assert torch.equal(batch.keys, keys(0, 3, batch.ids))


def test_experts_see_their_modality_alone() -> None:
    session = Session(
        api.read(recipe(**{"encoder.modality_experts": True}), (), {}), Run.open(api.read(JOINT, (), {}), "never"), None
    )
    objective = session.pieces.objective
    layer = "networks.student.encoder.layers.0.mlp"
    batch = next(iter(session.feed))
    objective(batch).loss.backward()
    grads = {key: parameter.grad for key, parameter in objective.named_parameters() if key.startswith(layer)}
    used = batch.modality
    assert {key.removeprefix(f"{layer}.").split(".")[0] for key, grad in grads.items() if grad is not None} == {used}
    assert len({key.removeprefix(f"{layer}.").split(".")[0] for key in grads}) == 2


def test_adding_a_modality_leaves_the_others_as_they_were() -> None:
    image = {"modalities": {"image": JOINT["modalities"]["image"]}, "data": {"path": "bundled:digits", "limit": 60}}
    first = api.train({**JOINT, **image, "encoder": {**JOINT["encoder"], "modality_experts": True}, "run": {"name": "first"}})
    added = {"modalities": {"tabular": {}}, "data": {"path": "bundled:wine"}, "init": str(first.model_folder)}
    second = api.train(
        {**JOINT, **added, "encoder": {}, "train": {**JOINT["train"], "freeze": "encoder"}, "run": {"name": "second"}}
    )
    before, after = weights(first), weights(second)
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    new = after.keys() - before.keys()
    assert any(key.startswith("adapters.tabular.") for key in new)
    assert any(key.startswith("encoder.layers.0.mlp.tabular.") for key in new)
    pixels = torch.rand(8, 8).numpy()
    outputs = []
    for run in (first, second):
        model, processor = AutoModel.from_pretrained(run.model_folder).eval(), AutoProcessor.from_pretrained(run.model_folder)
        outputs.append(model(**processor(images=[pixels])).pooler_output)
    assert torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.path": "bundled:digits"}, "both data.path and data.sources are set"),
        ({"data.sources": None}, "neither data.path nor data.sources is set"),
        ({"data.sources.sound": {"path": "bundled:digits"}}, "data.sources.sound: the recipe has no modality 'sound'"),
        ({"data.sources": {"image": {"path": "bundled:digits"}}}, "data.sources has no source for tabular"),
        ({"data.sources.image.pth": "x"}, "data.sources.image.pth: unknown key; did you mean 'path'?"),
        ({"data.sources.image.weight": -1.0}, "data.sources.image.weight: expected a number > 0, got -1.0"),
        ({"data.mixing": {"name": "weight"}}, "data.mixing.name: unknown name 'weight'; did you mean 'weights'?"),
        ({"train.freeze": "encoder"}, "train.freeze: a frozen encoder must come from a trained model"),
        ({"train.batch_tokens": 2}, "a step of 2 tokens cannot hold 1 samples of"),
    ],
)
def test_wrong_mixtures_say_so(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, LookupError)) as error:
        api.train(recipe(**changes))
    assert message in str(error.value)
    assert not list(Path("runs").glob("*")), "a run that never started leaves no folder"


def test_labels_of_several_sources_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective supervised learns the labels of one source; got image, tabular"):
        api.train({**JOINT, "objective": {"name": "supervised"}})


def test_check_shows_every_source() -> None:
    text = api.check(recipe(**{"train.batch_tokens": 96}))
    assert "bundled:digits (train), 60 samples" in text
    assert "bundled:wine (train), " in text
    assert "image: 4 per sample" in text

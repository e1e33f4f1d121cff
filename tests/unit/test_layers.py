"""Layer-to-layer distillation: hidden states that follow those of a saved model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mmssl.modality import find
from mmssl.model.heads import Head
from mmssl.objectives import Distill, Setup, Step
from mmssl.objectives.agree.agree import TeacherOptions
from mmssl.objectives.agree.layers import Layers
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.views import Views
from mmssl.testing import batch_of, small_model

PAIRS = [(1, 2), (2, 3), (2, 1)]


def saved(folder: Path, name: str = "text", **fields: Any) -> TeacherOptions:
    """A teacher of another width and depth."""
    torch.manual_seed(1)
    small_model(name, **{"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2} | fields).save_pretrained(folder)
    return TeacherOptions(model=str(folder))


def distill(teacher: TeacherOptions, layers: Layers | None, name: str = "text", **settings: Any) -> Distill:
    torch.manual_seed(0)
    setup = Setup({name: find(name).augment()}, views={name: {"global": Views(2, find(name).augment())}})
    return Distill(small_model(name, num_hidden_layers=2), setup, teacher=teacher, layers=layers, **{"losses": []} | settings)


@pytest.mark.parametrize(("distance", "normalise"), [("mse", False), ("l1_cosine", True)])
def test_the_loss_is_the_mean_distance_of_real_tokens(tmp_path: Path, distance: Any, normalise: bool) -> None:
    """Value and gradient, in loops over pairs, samples and tokens, with padding and the CLS token."""
    objective = distill(saved(tmp_path), Layers(pairs=PAIRS, distance=distance, normalise=normalise, weight=0.5)).double()
    batch = batch_of("text")._map(lambda x: x.double() if x.is_floating_point() else x)
    objective(batch).loss.backward()
    found = {name: weight.grad.clone() for name, weight in objective.named_parameters() if weight.grad is not None}
    objective.zero_grad()
    networks = (objective.model, objective.networks[objective.target])
    tokens, theirs = (network.embed("text", batch.inputs["text"]) for network in networks)
    ours, aims = (
        [
            *(layer.values for layer in network.encoder.layer_outputs(each, len(network.encoder.layers))[:-1]),
            network.encoder(each).values,
        ]
        for network, each in zip(networks, (tokens, theirs), strict=True)
    )
    assert objective.matching is not None
    prefix = objective.model.encoder.num_prefix
    valid, losses = torch.nn.functional.pad(tokens.valid_or_ones(), (prefix, 0), value=True), []
    assert prefix and not valid.all(), "no prefix, or no sample that is padded"
    for (mine, its), linear in zip(PAIRS, objective.matching.maps, strict=True):
        for row, place in torch.nonzero(valid).tolist():
            guess, aim = linear(ours[mine - 1][row, place]), aims[its - 1][row, place].detach()
            aim = (aim - aim.mean()) / (aim.var(correction=0) + 1e-5).sqrt() if normalise else aim
            similarity = (guess * aim).sum() / (guess.norm() * aim.norm())
            l1 = (guess - aim).abs().mean() + torch.log1p(torch.exp(-similarity))
            losses.append((guess - aim).square().mean() if distance == "mse" else l1)
    expected = 0.5 * torch.stack(losses).mean()
    assert_close(objective(batch).loss.double(), expected, rtol=1e-5, atol=1e-6)
    expected.backward()
    for name, weight in objective.named_parameters():
        if weight.grad is not None:
            assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert all(weight.grad is None for weight in networks[1].parameters())


def test_layers_beside_another_loss_cost_no_further_pass(tmp_path: Path) -> None:
    teacher = saved(tmp_path)
    objective = distill(teacher, Layers(pairs=PAIRS), losses=[AGREEMENTS["distance"]()], projector=Head(size=48))
    batch = batch_of("text")
    step = Step(seen=objective.encodings(batch))
    total = sum(found.loss() for found in (objective.terms(batch, step), objective.agree(objective.represent(batch, step), step)))
    assert step.seen is not None and dict(step.seen.passes) == {"student": 2, "frozen": 2}
    assert_close(objective(batch).loss, total)
    plain = distill(teacher, None, losses=[AGREEMENTS["distance"]()], projector=Head(size=48))
    plain.load_state_dict({name: value for name, value in objective.state_dict().items() if not name.startswith("matching")})
    assert_close(plain(batch).loss, objective.agree(objective.represent(batch, step), step).loss())
    assert math.isclose(
        float(objective.weights(batch, Step())["layers"]), float(objective.terms(batch, step).terms["layers"].weight.sum())
    )


def test_bad_teachers_are_named(tmp_path: Path) -> None:
    teacher = saved(tmp_path / "text")
    for pairs, message in (([(3, 1)], "names layer 3 of the student, which has 2"), ([(1, 4)], "names layer 4 of the teacher")):
        with pytest.raises(ValueError, match=message):
            distill(teacher, Layers(pairs=pairs))
    with pytest.raises(ValueError, match="leaves out the student's last layer, 2, so that nothing would train it"):
        distill(teacher, Layers(pairs=[(1, 3)]))
    with pytest.raises(ValueError, match=r"objective\.losses is empty"):
        distill(teacher, None)
    images = saved(tmp_path / "image", "image")
    other = small_model("image")
    other.config.modalities["image"]["processor"]["mean"] = 0.1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"reads image in another way: its processor has mean=0\.1"):
        distill(TeacherOptions(model=str(tmp_path / "other")), Layers(pairs=[(2, 1)]), "image")
    assert distill(images, Layers(pairs=[(2, 1)]), "image")(batch_of("image")).loss > 0

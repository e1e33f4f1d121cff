"""Targets of teachers: data2vec's averages of layers and I-JEPA's loss, sample by sample and block by block in float64."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.masking import MultiBlock
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Jepa, Masked, Setup
from mmssl.objectives.predict import Predict
from mmssl.objectives.predict.predictors import MaskToken, Transformer
from mmssl.objectives.predict.targets import Latent
from mmssl.tokens import Tokens, cat

PATCH, GRID = 4, 4
NARROW = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def make(kind: type[Predict], **settings: Any) -> Predict:
    torch.manual_seed(0)
    image = {"processor": {"multiple": PATCH, "mean": 0.0, "std": 1.0}, "adapter": {"patch_size": PATCH}}
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "layer_scale": 0.3}
    objective = kind(MMSSLModel(MMSSLConfig(modalities={"image": image}, **shape)), Setup(), **settings)
    objective.networks.make()
    with torch.no_grad():  # a teacher that is not the student
        for parameter in [*objective.networks.copies.parameters(), *objective.targets.parameters()]:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return objective


def make_batch(*, ragged: bool = False) -> Batch:
    side = PATCH * GRID
    inputs = {"pixel_values": torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))}
    if ragged:
        inputs["pixel_sizes"] = torch.tensor([[16, 16], [12, 16], [8, 12]])
    return Batch({"image": inputs}, keys(0, 0, torch.arange(3)), torch.arange(3))


def alone(tokens: Tokens, sample: int) -> tuple[Tokens, Tensor]:
    """The valid tokens of one sample in float64, and their places."""
    places = tokens.valid_or_ones()[sample].nonzero()[:, 0]
    return Tokens(tokens.values[sample, places][None].double(), tokens.coords[sample, places][None]), places


def standardised(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in values]


def normalised(table: list[list[float]], how: str) -> list[list[float]]:
    """Tokens by channels, normalised within each token or each channel."""
    if how == "layer":
        return [standardised(row) for row in table]
    if how == "instance":
        columns = [standardised(list(column)) for column in zip(*table, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]
    return table


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("part", ["ffn", "block"])
@pytest.mark.parametrize(
    ("layers", "how", "final"),
    [(2, "instance", "layer"), (None, "instance", "layer"), (3, "layer", "instance"), (2, "none", "none")],
)
@torch.no_grad()
def test_data2vec_targets_are_means_of_normalised_layers(layers: int | None, how: Any, final: Any, part: Any, ragged: bool) -> None:
    """What hooks see in a float64 copy of the teacher: what the MLP adds after LayerScale, or what the layer gives."""
    target = Latent(layers=layers, part=part, normalise=how, final=final)
    objective, batch = make(Masked, predictor=MaskToken(), targets=[target]), make_batch(ragged=ragged)
    scene, _ = objective.predict("image", batch.inputs["image"], batch)
    found = target(scene).values["latent"]
    tokens = objective.networks[target.teacher].embed("image", batch.inputs["image"])
    encoder, seen = copy.deepcopy(objective.networks[target.teacher].encoder).double(), list[Tensor]()
    depth = len(encoder.layers) if layers is None else layers
    for layer in encoder.layers[-depth:]:
        (layer if part == "block" else layer.scale2).register_forward_hook(lambda module, given, out: seen.append(out))
    for sample in range(3):
        one, places = alone(tokens, sample)
        seen.clear()
        if part == "block":
            encoder(one)
        else:
            encoder.layer_outputs(one, depth)
        tables = [normalised(out[0, -len(places) :].tolist(), how) for out in seen]
        mean = [[sum(values) / depth for values in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]
        expected = torch.tensor(normalised(mean, final), dtype=torch.float64)
        assert_close(found[sample, places].double(), expected, rtol=1e-3, atol=1e-4)


def smooth_l1(error: float) -> float:
    return error**2 / 2 if abs(error) < 1 else abs(error) - 0.5


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@torch.no_grad()
def test_ijepa_loss_is_that_of_a_loop_over_samples_and_blocks(ragged: bool) -> None:
    """Context -> predictor for each block by itself -> smooth L1 to the layer-normalised output of the teacher."""
    objective = make(Jepa, mask=MultiBlock(blocks=3, scale=0.2), predictor=Transformer(**NARROW))
    batch = make_batch(ragged=ragged)
    scene, _ = objective.predict("image", batch.inputs["image"], batch)
    parts, predictor = scene.parts, objective.predictor.double()
    head = objective.head(0, "image").double()["latent"]
    assert isinstance(head, nn.Linear)
    target = objective.every_target[0]
    assert isinstance(target, Latent) and parts.groups == 3
    student, teacher = (copy.deepcopy(model.encoder).double() for model in (objective.model, objective.networks[target.teacher]))
    errors = []
    for sample in range(3):
        one, places = alone(scene.tokens, sample)
        number = {int(place): i for i, place in enumerate(places)}
        wanted, _ = alone(objective.networks[target.teacher].embed("image", batch.inputs["image"]), sample)
        truth = [standardised(row) for row in teacher(wanted).values[0, 1:].tolist()]
        seen = [number[p] for p, real in listed(parts.seen, parts.seen_real, sample) if real]
        context = student(Tokens(one.values[:, seen], one.coords[:, seen]))
        hidden = listed(parts.hidden, parts.hidden_real, sample)
        each = len(hidden) // 3
        for block in range(3):
            index = [number[p] for p, real in hidden[block * each : (block + 1) * each] if real]
            assert not set(index) & set(seen)
            queries = Tokens(predictor.queries.mask_token.expand(1, len(index), -1), one.coords[:, index])
            entered = context.with_values(predictor.queries.enter(context.values))
            guess = head(predictor.decoder(cat([entered, queries])).values[0, -len(index) :]).tolist()
            errors += [
                sum(smooth_l1(a - b) for a, b in zip(row, truth[place], strict=True)) / len(row)
                for row, place in zip(guess, index, strict=True)
            ]
    predictor.float(), head.float()
    assert objective(batch).loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def listed(index: Tensor, real: Tensor | None, sample: int) -> list[tuple[int, bool]]:
    """The places of a sample, and which of them count."""
    places = index[sample].tolist()
    return list(zip(places, [True] * len(places) if real is None else real[sample].tolist(), strict=True))

"""The masked objective's loss against loops over pixels in float64, and against transformers' ViTMAE."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.masking import Column, Split
from mmssl.modality import Inputs
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Masked, Setup
from mmssl.objectives.predict.distances import LOSSES
from mmssl.objectives.predict.predictors import MaskToken, Transformer
from mmssl.objectives.predict.targets import TARGETS
from mmssl.tokens import Tokens, gather

SIDE, PATCH, CHANNELS = 12, 4, 3
GRID = SIDE // PATCH


def make(encode: str = "visible", target: str = "raw", loss: str = "mse", **settings: Any) -> Masked:
    torch.manual_seed(0)
    image = {"processor": {"multiple": PATCH, "mean": 0.0, "std": 1.0}, "adapter": {"patch_size": PATCH}}
    config = MMSSLConfig(modalities={"image": image}, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    predictor = Transformer(**narrow) if encode == "visible" else MaskToken()
    targets = [TARGETS[target](loss=LOSSES[loss]())]
    return Masked(MMSSLModel(config), Setup(), predictor=predictor, targets=targets, **settings)


def predict(objective: Masked, inputs: Inputs, batch: Batch) -> tuple[Split, Tensor]:
    """What was hidden, and the predicted pixels of the hidden patches."""
    scene, predicted = objective.predict("image", inputs, batch)
    return scene.parts, objective.head(0, "image")(predicted.values)["pixels"]


def make_batch(*, ragged: bool = False, count: int = 4) -> Batch:
    """Images of noise; if ragged, some fill only a part of their square."""
    inputs = {"pixel_values": torch.randn(count, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))}
    if ragged:
        inputs["pixel_sizes"] = torch.tensor([[12, 12], [8, 12], [4, 8], [12, 4]])[:count]
    return Batch({"image": inputs}, keys(0, 0, torch.arange(count)), torch.arange(count))


def patch_of(pixels: np.ndarray, place: int) -> list[float]:
    """Pixels of a patch in the order row, column, channel."""
    top, left = PATCH * (place // GRID), PATCH * (place % GRID)
    return [float(pixels[c, top + y, left + x]) for y, x, c in product(range(PATCH), range(PATCH), range(CHANNELS))]


def normalised(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return [(value - mean) / (variance + 1e-6) ** 0.5 for value in values]


DISTANCES = {
    "mse": lambda error: error**2,
    "l1": abs,
    "smooth_l1": lambda error: error**2 / 2 if abs(error) < 1 else abs(error) - 0.5,
}


def loss_by_loops(inputs: Inputs, parts: Split, predicted: Tensor, target: str, distance: str) -> float:
    """Mean over the hidden patches of all samples of the mean over their pixels."""
    real = torch.ones_like(parts.hidden, dtype=torch.bool) if parts.hidden_real is None else parts.hidden_real
    losses = []
    for sample, pixels in enumerate(inputs["pixel_values"].double().numpy()):
        for entry, place in enumerate(parts.hidden[sample].tolist()):
            if real[sample, entry]:
                wanted = patch_of(pixels, place) if target == "raw" else normalised(patch_of(pixels, place))
                errors = [DISTANCES[distance](a - b) for a, b in zip(predicted[sample, entry].tolist(), wanted, strict=True)]
                losses.append(sum(errors) / len(errors))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("encode", ["visible", "mask_token"])
@pytest.mark.parametrize(
    ("target", "distance"), [("normalised", "mse"), ("raw", "mse"), ("raw", "l1"), ("normalised", "smooth_l1")]
)
@torch.no_grad()
def test_loss_matches_loops(encode: str, target: str, distance: str, ragged: bool) -> None:
    objective, batch = make(encode=encode, target=target, loss=distance), make_batch(ragged=ragged)
    parts, predicted = predict(objective, batch.inputs["image"], batch)
    expected = loss_by_loops(batch.inputs["image"], parts, predicted, target, distance)
    assert objective(batch).loss.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_the_loops_can_tell() -> None:
    """Another target, or the loss over all patches, is another number."""
    objective, batch = make(target="normalised"), make_batch()
    parts, predicted = predict(objective, batch.inputs["image"], batch)
    loss = objective(batch).loss.item()
    assert abs(loss_by_loops(batch.inputs["image"], parts, predicted, "raw", "mse") - loss) > 1e-3
    shifted = Split(parts.seen, parts.hidden.roll(1, 1))
    assert abs(loss_by_loops(batch.inputs["image"], shifted, predicted, "normalised", "mse") - loss) > 1e-3


class Given(nn.Module):
    """A head that predicts what it was given."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, hidden: Tensor) -> Tensor:
        return self.prediction


@pytest.mark.parametrize("target", ["raw", "normalised"])
@torch.no_grad()
def test_mask_and_loss_are_those_of_vit_mae(target: str) -> None:
    """transformers' `ViTMAEForPreTraining` on the same pixels and noise hides the same patches; its predictions cost the same.

    It keeps the patches of the least noise, we hide those of the lowest score.
    """
    batch = make_batch()
    pixels, noise = batch.inputs["image"]["pixel_values"], 1 - batch.draws.uniform("mask", GRID**2)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    decoder = {f"decoder_{key}": value for key, value in small.items()}
    config = ViTMAEConfig(image_size=SIDE, patch_size=PATCH, norm_pix_loss=target == "normalised", **small, **decoder)
    expected = ViTMAEForPreTraining(config).eval()(pixels, noise=noise)
    objective = make(target=target)
    parts, _ = predict(objective, batch.inputs["image"], batch)
    assert torch.equal(parts.hidden_places(GRID**2), expected.mask.bool())
    objective.head(0, "image")["pixels"] = Given(gather(expected.logits, parts.hidden))
    torch.testing.assert_close(objective(batch).loss, expected.loss, rtol=1e-5, atol=1e-6)


def alone(objective: Masked, tokens: Tokens, seen: Tensor, hidden: Tensor) -> Tensor:
    """The prediction of the hidden tokens of one sample without padding, written out."""
    encoder, predictor = objective.model.encoder, objective.predictor
    if isinstance(predictor, MaskToken):
        values = tokens.values.clone()
        values[0, hidden] = predictor.mask_token
        real = torch.cat([seen, hidden]).sort().values
        encoded = encoder(Tokens(values[:, real], tokens.coords[:, real])).values[0, -len(real) :]
        return encoded[torch.searchsorted(real, hidden)]
    encoded = encoder(Tokens(tokens.values[:, seen], tokens.coords[:, seen]))
    queries = predictor.queries.mask_token.expand(1, len(hidden), -1)
    places = torch.cat([encoded.coords, tokens.coords[:, hidden]], 1)
    decoded = predictor.decoder(Tokens(torch.cat([predictor.queries.enter(encoded.values), queries], 1), places))
    return decoded.values[0, -len(hidden) :]


@pytest.mark.parametrize("encode", ["visible", "mask_token"])
@pytest.mark.parametrize(
    ("ragged", "mask"),
    [(False, None), (True, None), (False, Column(ratio=0.5)), (True, Column(ratio=0.5))],
    ids=["even", "ragged", "even column", "ragged column"],
)
@torch.no_grad()
def test_hidden_places_are_predicted_from_the_visible_ones(encode: str, ragged: bool, mask: Column | None) -> None:
    """Sample by sample, without padding: the encoder sees what is visible; a mask token at each hidden place is all else."""
    objective, batch = make(encode=encode, mask=mask), make_batch(ragged=ragged)
    inputs = batch.inputs["image"]
    parts, predicted = predict(objective, inputs, batch)
    tokens, covered = objective.model.embed("image", inputs), parts.hidden_places(GRID**2)
    for sample, valid in enumerate(tokens.valid_or_ones()):
        seen, hidden = (torch.nonzero(flags & valid)[:, 0] for flags in (~covered[sample], covered[sample]))
        one = Tokens(tokens.values[sample][None], tokens.coords[sample][None])
        expected = objective.head(0, "image")["pixels"](alone(objective, one, seen, hidden))
        kept = slice(None) if parts.hidden_real is None else parts.hidden_real[sample]
        order = parts.hidden[sample, kept].argsort()
        torch.testing.assert_close(predicted[sample, kept][order], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mask_tokens_replace_the_content_only() -> None:
    """With the predictor mask_token the encoder sees every place; hidden pixels do not reach the prediction, visible ones do."""
    objective, batch = make(encode="mask_token"), make_batch(count=1)
    pixels = batch.inputs["image"]["pixel_values"]
    parts, predicted = predict(objective, {"pixel_values": pixels}, batch)
    for place, changes in ((parts.hidden[0, 0].item(), False), (parts.seen[0, 0].item(), True)):
        top, left = PATCH * (place // GRID), PATCH * (place % GRID)
        other = pixels.clone()
        other[..., top : top + PATCH, left : left + PATCH] = 3.0
        found = predict(objective, {"pixel_values": other}, batch)[1]
        assert torch.equal(found, predicted) is not changes


@pytest.mark.parametrize("encode", ["visible", "mask_token"])
def test_nothing_to_hide_is_said(encode: str) -> None:
    inputs = {"pixel_values": torch.randn(2, CHANNELS, PATCH, PATCH)}
    batch = Batch({"image": inputs}, keys(0, 0, torch.arange(2)), torch.arange(2))
    with pytest.raises(ValueError, match="no sample of this batch has two tokens of 'image' with something to predict"):
        make(encode=encode)(batch)

"""Prediction of one modality from another: what is computed once for all pairs is what each pair would compute alone."""

from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from mmssl.data import Batch, Source
from mmssl.data.loader import batches
from mmssl.masking import Random
from mmssl.modality import find
from mmssl.model import Encoder, MMSSLConfig, MMSSLModel
from mmssl.objectives import Jepa, Masked, Setup, Step
from mmssl.objectives.predict.predictors import Transformer
from mmssl.objectives.predict.targets import Latent
from mmssl.testing import SMALL, small_processor

NAMES = ("image", "text", "timeseries")
LACKING: dict[str, set[int]] = {"image": {1}, "text": {0, 4}, "timeseries": set()}
"""Rows that lack a modality."""
PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]
PROCESSORS = {name: small_processor(name) for name in NAMES}


def rows() -> Batch:
    """Six rows of three modalities, of which some lack one."""
    modalities = {name: (find(name), PROCESSORS[name]) for name in NAMES}
    samples = {name: find(name).example(6, 0) for name in NAMES}
    content = [{name: None if i in LACKING[name] else samples[name][i] for name in NAMES} for i in range(6)]
    (batch,) = batches(Source.from_rows(content), modalities, 6)
    return batch


def predicting(across: Any, **latent: Any) -> Jepa:
    torch.manual_seed(0)
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}} for name in NAMES}
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL))
    predictor = Transformer(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return Jepa(model, Setup(), mask=Random(ratio=0.5), predictor=predictor, targets=[Latent(**latent)], across=across).train()


def gradients(objective: Jepa, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in objective.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("latent", [{}, {"layers": None, "part": "ffn"}], ids=["last layer", "mean of layers"])
def test_each_pair_is_what_it_is_alone(latent: dict[str, Any]) -> None:
    """Value and gradient, beside a batch that has no other rows and no other modality."""
    objective, batch = predicting("only", **latent), rows()
    terms = objective.terms(batch, Step()).terms
    assert set(terms) == {f"loss_1_{a}_to_{b}" for a, b in PAIRS}
    weights = objective.weights(batch, Step())
    for a, b in PAIRS:
        both = torch.tensor([i for i in range(6) if i not in LACKING[a] | LACKING[b]])
        alone = batch.take(both)
        assert alone.rows is not None
        alone = Batch(
            {name: alone.inputs[name] for name in (a, b)},
            alone.keys,
            alone.ids,
            rows={name: alone.rows[name] for name in (a, b)},
        )
        term = objective.terms(alone, Step()).terms[f"loss_1_{a}_to_{b}"]
        assert_close(terms[f"loss_1_{a}_to_{b}"].mean(), term.mean())
        assert weights[f"loss_1_{a}_to_{b}"] == term.weight.sum()
        mine = gradients(objective, objective.terms(batch, Step()).terms[f"loss_1_{a}_to_{b}"].mean())
        its = gradients(objective, objective.terms(alone, Step()).terms[f"loss_1_{a}_to_{b}"].mean())
        assert_close({name: mine[name] for name in its}, its, rtol=1e-4, atol=1e-7)


def test_networks_make_each_modality_once() -> None:
    """Student and teacher embed each modality, and the teacher encodes it, however many pairs ask for it."""
    objective, batch = predicting("also"), rows()
    embedded, encoded = Counter[tuple[bool, str]](), Counter[bool]()
    teacher = objective.networks["teacher"]
    embed, encode = MMSSLModel.embed, Encoder.forward

    def counting_embed(model: MMSSLModel, name: str, inputs: Any) -> Any:
        embedded[model is teacher, name] += 1
        return embed(model, name, inputs)

    def counting_encode(encoder: Encoder, *given: Any, **named: Any) -> Any:
        encoded[encoder is teacher.encoder] += 1
        return encode(encoder, *given, **named)

    with patch.object(MMSSLModel, "embed", counting_embed), patch.object(Encoder, "forward", counting_encode):
        objective.terms(batch, Step())
    assert embedded == Counter({(is_teacher, name): 1 for is_teacher in (False, True) for name in NAMES})
    assert encoded[True] == len(NAMES)


@pytest.mark.parametrize("modality", [None, NAMES[0]])
def test_what_is_filled_in_is_drawn_of_each_modality_of_a_row(modality: str | None) -> None:
    model, batch = predicting("only").model, rows()
    drawn = Masked(model, Setup(), mask=Random(ratio=0.5), modality=modality).eval().pictures(batch, PROCESSORS)
    assert set(drawn) == {f"{name}: seen and predicted" for name in NAMES if modality in (None, name)}
    assert predicting("only").eval().pictures(batch, PROCESSORS) == {}, "nothing is predicted from itself"

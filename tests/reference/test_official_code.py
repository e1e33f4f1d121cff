"""What the official code of papers gives, where a recipe says that it follows it: values, gradients and shares."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import Draws, keys
from mmssl.losses.similarity import copies_loss, similarity_weights
from mmssl.model import MMSSLConfig
from mmssl.model.teacher import ema_update
from mmssl.objectives.networks import KEPT, Moving
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.objectives.predict.predictors.transformer import Queries
from mmssl.recipe.yaml12 import parse
from mmssl.tokens import Tokens
from mmssl_catalogue import recipes_found


def draws_for(count: int) -> Draws:
    return Draws(keys(0, 0, torch.arange(count)))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_swapped_token_is_padding() -> None:
    """s3prl draws a replacement from the frames that an utterance has (mockingjay/task.py), BERT from the vocabulary."""
    valid = torch.arange(20) < torch.tensor([[10], [20], [3], [1], [17], [5]])
    values = torch.where(valid[..., None], numbers(6, 20, 8).float(), 99.0)
    predictor = MaskToken(corruption="noise", swap=1.0)
    predictor.prepare(MMSSLConfig(modalities={}, hidden_size=8, num_hidden_layers=1, num_attention_heads=1), identities=False)
    found = predictor.corrupt(Tokens(values, torch.zeros(6, 20, 4), valid), valid, draws_for(6))
    assert (found[valid] != values[valid]).any(-1).float().mean() > 0.9
    assert (found[valid] == 99).sum() == 0


def simmtm(summaries: Tensor, copies: int, temperature: float) -> Tensor:
    """SimMTM_Classification/code/loss.py, ContrastiveWeight: KLDivLoss(batchmean) of log softmax without itself and 1 on positives."""
    unit = summaries / summaries.norm(dim=1, keepdim=True)
    rows, losses = len(unit), []
    for i in range(rows):
        others = [j for j in range(rows) if j != i]
        logits = torch.stack([unit[i] @ unit[j] / temperature for j in others])
        log = logits - logits.exp().sum().log()
        losses += [-log[n] for n, j in enumerate(others) if (j - i) % (rows // copies) == 0]
    return torch.stack(losses).sum() / rows


def test_the_constraint_of_simmtm_asks_every_copy_for_weight() -> None:
    ours, theirs = (numbers(24, 6).requires_grad_() for _ in range(2))
    found, expected = copies_loss(similarity_weights(ours, 0.2), 3), simmtm(theirs, 3, 0.2)
    found.backward()
    expected.backward()
    assert_close(found, expected)
    assert_close(ours.grad, theirs.grad)
    # All weight on one of two copies is not enough.
    lopsided = torch.full((3, 3), 1e-9).masked_fill(torch.tensor([[0, 1, 0], [1, 0, 0], [1, 0, 0]]).bool(), 1.0)
    assert copies_loss(lopsided, 3).item() > 0.9 * -math.log(1e-9)


def recipe(name: str) -> dict[str, Any]:
    return parse(recipes_found()[name].read_text(), name)


def test_the_noise_of_flexpredict_is_that_of_its_code() -> None:
    """amirbar/StoP, src/deit.py: torch.normal(std=0.25), through the matrix of the context, for each value of each mask token."""
    variance = recipe("image/flexpredict_cifar10")["objective"]["predictor"]["position_noise"]
    config = MMSSLConfig(modalities={}, hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
    queries = Queries(config, 16, identities=False, noise=variance)
    torch.nn.init.eye_(queries.enter.weight)
    torch.nn.init.zeros_(queries.mask_token)
    found = queries(Tokens(torch.zeros(64, 50, 16), torch.zeros(64, 50, 4)), draws_for(64)).values
    assert found.std().item() == pytest.approx(0.25, rel=0.02)


def test_recipes_publish_and_pool_what_the_official_code_does() -> None:
    assert recipe("image/data2vec_cifar10")["objective"]["publish"] == "student"  # mae_image_classification.py loads state["model"]
    assert recipe("tabular/tjepa_adult")["encoder"]["pooling"] == "concat"  # linear_probing.py reads all tokens, flattened


def test_what_is_left_of_a_teachers_first_weights() -> None:
    """The product of the momenta: 0.549 of data2vec_ucr as it was, 0.237 of CAPI; and that of a teacher that is moved."""
    assert Moving(0.996, 1.0).left(300) == pytest.approx(0.549, abs=0.002)
    assert Moving(0.999, 1.0).left(2880) == pytest.approx(0.237, abs=0.002)
    rule = Moving(0.9, 1.0, power=2.0, shape="cosine")
    teacher, student = torch.nn.Linear(1, 1, bias=False).requires_grad_(False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(teacher.weight)
    torch.nn.init.zeros_(student.weight)
    for step in range(1, 31):
        ema_update(teacher, student, rule.momentum(step / 30))
    assert teacher.weight.item() == pytest.approx(rule.left(30), rel=1e-5)
    enough = Moving(0.98, 1.0).enough()
    assert enough is not None and 250 < enough < 350
    assert Moving(0.98, 1.0).left(enough) <= KEPT < Moving(0.98, 1.0).left(enough - 1)
    assert Moving(1.0, 1.0).enough() is None


STEPS = {"image": 2_000, "audio": 600, "text": 600, "timeseries": 600, "points": 600, "tabular": 600, "pairs": 600, "grid": 600}
"""Steps for which recipes whose budget is in minutes state their momentum."""


def moving_of(tree: Any) -> Iterator[tuple[float, float]]:
    if isinstance(tree, dict):
        if "momentum" in tree and isinstance(tree["momentum"], list):
            yield tuple(tree["momentum"])
        for value in tree.values():
            yield from moving_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from moving_of(value)


def test_no_recipe_ends_with_a_teacher_that_is_its_first_weights() -> None:
    for name, path in recipes_found().items():
        if "momentum: [" not in (text := path.read_text()):
            continue
        (steps,) = re.findall(r"max_steps: (\d+)", text) or [STEPS[name.split("/")[0]]]
        for start, end in moving_of(yaml.safe_load(text)["objective"]):
            assert Moving(start, end).left(int(steps)) < KEPT, name

"""What the official code of papers gives, where a recipe says that it follows it: values, gradients and shares."""

import math

import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import Draws, keys
from mmssl.losses.similarity import copies_loss, similarity_weights
from mmssl.model import MMSSLConfig
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.tokens import Tokens


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

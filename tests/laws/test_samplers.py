"""Every sampler: a sample is divided alike alone and in a batch with longer ones, to the order of its tokens."""

import pytest
import torch
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.masking import SAMPLERS, Clusters, Sampler, split_in_order
from mmssl.tokens import gather

LENGTHS = (160, 1, 37, 2, 90, 3, 128)
EVERY = [*(pytest.param(kind(), id=name) for name, kind in SAMPLERS.items()), pytest.param(Clusters(inverse=True), id="inverse")]


def split(
    sampler: Sampler, coords: Tensor, valid: Tensor | None, available: Tensor | None, draws: Draws
) -> list[list[tuple[str, list[int]]]]:
    """Of each sample the tokens that are seen, and those that are hidden group by group, in their order."""
    parts = split_in_order(sampler, lambda: coords[..., 0], coords, valid, available, draws)
    seen_real, hidden_real = (
        torch.ones_like(index, dtype=torch.bool) if real is None else real
        for index, real in ((parts.seen, parts.seen_real), (parts.hidden, parts.hidden_real))
    )
    number = torch.arange(coords.shape[1]).expand(coords.shape[:2]) if valid is None else valid.cumsum(1) - 1
    seen, hidden = gather(number, parts.seen), gather(number, parts.hidden)
    return [
        [
            ("seen", seen[row][seen_real[row]].tolist()),
            *(
                ("hidden", index[real].tolist())
                for index, real in zip(hidden[row].chunk(parts.groups), hidden_real[row].chunk(parts.groups), strict=True)
            ),
        ]
        for row in range(len(coords))
    ]


@pytest.mark.parametrize("layout", ["picture", "sequence", "none"])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("sampler", EVERY)
def test_a_sample_is_divided_as_it_is_alone(sampler: Sampler, missing: bool, layout: str) -> None:
    torch.manual_seed(0)
    b, n = len(LENGTHS), 2 * max(LENGTHS)
    valid = torch.zeros(b, n, dtype=torch.bool)
    for row, count in enumerate(LENGTHS):
        valid[row, torch.randperm(n)[:count]] = True
    number, coords = valid.cumsum(1) - 1, torch.zeros(b, n, 4)
    if layout == "picture":
        coords[..., 2], coords[..., 3] = number // 10, number % 10
    elif layout == "sequence":
        coords[..., 0] = number
    coords[~valid] = 5.5
    available = valid & (torch.rand(b, n) < 0.7) if missing else None
    ids = torch.arange(b)
    together = split(sampler, coords, valid, available, Draws(keys(0, 0, ids)))
    for row in range(b):
        own = valid[row]
        free = None if available is None else available[row, own][None]
        alone = split(sampler, coords[row, own][None], None, free, Draws(keys(0, 0, ids[row : row + 1])))
        assert together[row] == alone[0], f"sample {row} of {LENGTHS[row]} tokens"

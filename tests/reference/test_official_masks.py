"""Masks of papers beside the statistics of their official code, at the lengths and grids that they are used at."""

import itertools

import pytest
import torch
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.masking import MultiBlock, Runs, Sampler
from mmssl.recipe.yaml12 import parse
from mmssl_catalogue import recipes_found


def draws_for(count: int) -> Draws:
    return Draws(keys(0, 0, torch.arange(count)))


def hidden_of(sampler: Sampler, coords: Tensor, valid: Tensor | None = None) -> Tensor:
    return sampler.split(coords, valid, None, draws_for(len(coords))).hidden_places(coords.shape[1])


def sequence(count: int, length: int) -> Tensor:
    coords = torch.zeros(count, length, 4)
    coords[..., 0] = torch.arange(length)
    return coords


def runs_of(row: Tensor) -> list[int]:
    return [len(list(run)) for key, run in itertools.groupby(row.tolist()) if key]


def fairseq(rows: int, size: int, ratio: float, length: int, least: int) -> Tensor:
    """compute_mask_indices of fairseq's data_utils.py, static lengths with overlap, before rows are cut to one number."""
    torch.manual_seed(0)
    mask = torch.zeros(rows, size, dtype=torch.bool)
    for row in mask:
        count = max(least, int(ratio * size / length + torch.rand(()).item()))
        shortest = length if size - length > count else size - count - 1
        for start in torch.randperm(size - shortest)[:count].tolist():
            row[start : start + length] = True
    return mask


def s3prl(rows: int, size: int, ratio: float, length: int) -> Tensor:
    """s3prl's mockingjay/task.py, overlap allowed."""
    torch.manual_seed(0)
    mask = torch.zeros(rows, size, dtype=torch.bool)
    for row in mask:
        for start in torch.randperm(max(size - length - 1, 0) + 1)[: max(1, round(size * ratio / length))].tolist():
            row[start : start + length] = True
    return mask


@pytest.mark.parametrize("size", [20, 500, 1500])
@pytest.mark.parametrize(("ratio", "length", "least"), [(0.65, 10, 2), (0.15, 7, 1)], ids=["wav2vec 2.0", "TERA"])
def test_runs_have_the_share_and_the_lengths_of_the_official_masks(size: int, ratio: float, length: int, least: int) -> None:
    ours = hidden_of(Runs(ratio=ratio, length=length, least=least), sequence(200, size))
    theirs = fairseq(200, size, ratio, length, least) if least > 1 else s3prl(200, size, ratio, length)
    assert ours.float().mean().item() == pytest.approx(theirs.float().mean().item(), abs=0.03)
    mine, known = ([run for row in mask for run in runs_of(row)] for mask in (ours, theirs))
    assert sum(mine) / len(mine) == pytest.approx(sum(known) / len(known), rel=0.1)
    if size == 1500:
        assert 7 <= sum(mine) / len(mine) <= 20
        assert min(mine) == length
        assert ours.float().mean(0).std().item() < 0.06, "every place is hidden as often, but for both ends"


def test_runs_of_a_ragged_batch_are_those_of_each_sample() -> None:
    sizes = torch.tensor([500, 30, 200, 5])
    valid = torch.arange(500) < sizes[:, None]
    together = hidden_of(Runs(), sequence(4, 500), valid)
    for row, size in enumerate(sizes.tolist()):
        alone = Runs().split(sequence(1, size), None, None, Draws(keys(0, 0, torch.tensor([row])))).hidden_places(size)[0]
        assert torch.equal(together[row, :size], alone)
        assert not together[row, size:].any()
        assert 1 <= int(alone.sum()) < size


def test_all_tokens_of_a_place_are_hidden_together() -> None:
    coords = torch.tensor(list(itertools.product(range(40), [0], range(3), [0])), dtype=torch.float32)[None]
    mixed = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    hidden = hidden_of(Runs(ratio=0.3, length=4), coords[:, mixed])[0]
    times = coords[0, mixed, 0][hidden].long()
    assert all(int((times == time).sum()) == 3 for time in set(times.tolist()))


def test_spans_that_leave_nothing_to_see_are_refused() -> None:
    Runs().refuse(torch.tensor([4, 11, 30]))
    with pytest.raises(ValueError, match=r"a span of 10 places leaves nothing to see of 2 of the 3 samples .* have 4 to 30 tokens"):
        Runs().refuse(torch.tensor([4, 10, 30]))


def test_recipes_along_time_hide_spans_of_the_papers_length() -> None:
    paths = {name: path for name, path in recipes_found().items() if name.startswith("audio/")}
    found = {name: parse(path.read_text(), name)["objective"].get("mask") for name, path in paths.items()}
    sounds = ("wav2vec2", "hubert", "wavlm", "unispeech_sat", "mert", "bestrq")
    assert all(found[f"audio/{name}_spoken_digits"]["length"] == 10 for name in sounds)
    assert found["audio/tera_spoken_digits"] == {"name": "runs", "ratio": 0.15, "length": 7}


def neighbours(seen: Tensor, side: int) -> float:
    """Seen ones among the four neighbours of a seen token, in the mean."""
    grid = torch.nn.functional.pad(seen.view(-1, side, side).float(), (1, 1, 1, 1))
    around = grid[:, 2:, 1:-1] + grid[:, :-2, 1:-1] + grid[:, 1:-1, 2:] + grid[:, 1:-1, :-2]
    return around[grid[:, 1:-1, 1:-1] > 0].mean().item()


@pytest.mark.parametrize(("side", "share", "least"), [(8, (0.1, 0.37), 2.1), (14, (0.22, 0.37), 2.7), (32, (0.22, 0.37), 3.0)])
def test_the_context_of_i_jepa_is_in_one_piece(side: int, share: tuple[float, float], least: float) -> None:
    """Official MaskCollator: 2.32 seen neighbours at 8 x 8 and 2.98 at 14 x 14 (batch of 128), a share of 0.18 to 0.36."""
    coords = torch.zeros(64, side**2, 4)
    coords[..., 2], coords[..., 3] = torch.arange(side**2) // side, torch.arange(side**2) % side
    parts = MultiBlock().split(coords, None, None, draws_for(64))
    seen = torch.zeros(64, side**2, dtype=torch.bool).scatter(1, parts.seen, True)
    assert not (seen & parts.hidden_places(side**2)).any()
    assert share[0] <= seen.float().mean().item() <= share[1]
    assert neighbours(seen, side) >= least

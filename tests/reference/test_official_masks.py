"""Masks of papers beside the statistics of their official code, at the lengths and grids that they are used at."""

import itertools
import math
import random
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.masking import Clusters, MultiBlock, RolledBlock, Runs, Sampler
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
@pytest.mark.parametrize(
    ("ratio", "length", "least"),
    [(0.65, 10, 2), (0.8, 10, 2), (0.8, 5, 2), (0.15, 7, 1)],
    ids=["wav2vec 2.0", "HuBERT", "MERT", "TERA"],
)
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
    official = {
        "wav2vec2": (0.65, 10, 2),  # fairseq's wav2vec2.py, which its base configuration keeps
        "hubert": (0.8, 10, 2),  # hubert_base_librispeech.yaml, as section IV.C of the paper: 8 % of the places
        "wavlm": (0.8, 10, 2),  # both as HuBERT; src/examples/hubert/scripts/pretrain.sh of microsoft/UniSpeech
        "unispeech_sat": (0.8, 10, 2),
        "mert": (0.8, 5, 2),  # MERT_RVQ-VAE_CQT_95M.yaml
        "tera": (0.15, 7, 1),  # config_model.yaml of s3prl's pretrain/tera
    }
    for name, settings in official.items():
        mask = found[f"audio/{name}_spoken_digits"]
        assert (mask["ratio"], mask["length"], mask.get("least", 1)) == settings, name
    assert found["audio/bestrq_spoken_digits"]["length"] == 10


def around(seen: Tensor, side: int) -> Tensor:
    """How many of the four neighbours of each token are seen."""
    grid = torch.nn.functional.pad(seen.view(-1, side, side).float(), (1, 1, 1, 1))
    return (grid[:, 2:, 1:-1] + grid[:, :-2, 1:-1] + grid[:, 1:-1, 2:] + grid[:, 1:-1, :-2]).flatten(1)


def neighbours(seen: Tensor, side: int) -> float:
    """Seen ones among the four neighbours of a seen token, in the mean."""
    return around(seen, side)[seen].mean().item()


@pytest.mark.parametrize(
    ("side", "keep", "share", "least"),
    [(8, 0.18, (0.109, 0.25), 2.1), (8, None, (0.1, 0.37), 2.1), (14, None, (0.22, 0.37), 2.7), (32, None, (0.22, 0.37), 3.0)],
)
def test_the_context_of_i_jepa_is_in_one_piece(side: int, keep: float | None, share: tuple[float, float], least: float) -> None:
    """Official MaskCollator: 2.32 seen neighbours at 8 x 8, 2.98 at 14 x 14 and 3.51 at 32 x 32 (batches of 128)."""
    coords = torch.zeros(64, side**2, 4)
    coords[..., 2], coords[..., 3] = torch.arange(side**2) // side, torch.arange(side**2) % side
    parts = MultiBlock(keep=keep).split(coords, None, None, draws_for(64))
    seen = torch.zeros(64, side**2, dtype=torch.bool).scatter(1, parts.seen, True)
    assert not (seen & parts.hidden_places(side**2)).any()
    assert share[0] <= seen.float().mean().item() <= share[1]
    assert neighbours(seen, side) >= least


def capi(rows: int, side: int, ratio: float) -> Tensor:
    """What is seen of a square by InverseBlockMasking of capi's data.py: one block, cut from its last line, rolled."""
    drawn, count = random.Random(0), side**2 - int(side**2 * ratio)
    seen = torch.zeros(rows, side, side, dtype=torch.bool)
    for row in seen:
        low, high = max(math.log(0.5), math.log(count / side**2)), min(math.log(2), math.log(side**2 / (count + 1e-5)))
        aspect = math.exp(drawn.uniform(low, high))
        height, width = math.ceil(math.sqrt(count * aspect)), math.ceil(math.sqrt(count / aspect))
        top, left = drawn.randint(0, side - height), drawn.randint(0, side - width)
        row[top : top + height, left : left + width] = True
        row.view(-1)[row.flatten().nonzero().flatten()[count:]] = False
        row.copy_(row.roll((drawn.randint(0, side - 1), drawn.randint(0, side - 1)), (0, 1)))
    return seen.flatten(1)


def data2vec(rows: int, side: int, ratio: float, extra: float, length: int) -> Tensor:
    """What is seen of a square by compute_block_mask_2d of fairseq's data_utils.py, inverse and of one number for all rows."""
    torch.manual_seed(0)
    count, reach = int(side**2 * (1 - ratio)), length // 2
    seen = torch.zeros(rows, side, side, dtype=torch.bool)
    for row in seen:
        for place in torch.randint(side**2, (int(side**2 * (1 - ratio + extra) / length**2),)).tolist():
            top, left = place // side - reach, place % side - reach
            row[max(top, 0) : top + length, max(left, 0) : left + length] = True
        flat = row.view(-1)
        missing = count - int(flat.sum())
        among = (flat if missing < 0 else ~flat).nonzero().flatten()
        flat[among[torch.randperm(len(among))[: abs(missing)]]] = missing > 0
    return seen.flatten(1)


@pytest.mark.parametrize("side", [8, 14, 32])
def test_inverse_blocks_are_those_of_data2vec(side: int) -> None:
    """Blocks and single tokens: at 8 x 8 one block, of 27 % of the tokens less what the border cuts, and the rest by chance."""
    coords = torch.zeros(300, side**2, 4)
    coords[..., 2], coords[..., 3] = torch.arange(side**2) // side, torch.arange(side**2) % side
    sampler = Clusters(ratio=0.8, side=(3, 3), inverse=True, extra=0.07)
    ours, theirs = ~hidden_of(sampler, coords), data2vec(300, side, 0.8, 0.07, 3)
    assert set(ours.sum(1).tolist()) == {side**2 - round(0.8 * side**2)}
    assert neighbours(ours, side) == pytest.approx(neighbours(theirs, side), rel=0.06)
    alone = [(tokens & (around(tokens, side) == 0)).float().sum() / tokens.sum() for tokens in (ours, theirs)]
    assert alone[0].item() == pytest.approx(alone[1].item(), abs=0.04), "tokens without a seen neighbour"
    valid = torch.arange(side**2) < torch.randint(side**2 // 2, side**2, (300, 1), generator=torch.Generator().manual_seed(1))
    ragged = hidden_of(sampler, coords, valid)
    for row in range(5):
        size = int(valid[row].sum())
        own = sampler.split(coords[row : row + 1, :size], None, None, Draws(keys(0, 0, torch.tensor([row]))))
        assert torch.equal(ragged[row, :size], own.hidden_places(size)[0])
    with pytest.raises(ValueError, match="extra counts boxes of one side; got a side from 1 to 4"):
        Clusters(side=(1, 4), extra=0.1)


@pytest.mark.parametrize("side", [8, 14, 32])
def test_rolled_blocks_are_those_of_capi(side: int) -> None:
    coords = torch.zeros(300, side**2, 4)
    coords[..., 2], coords[..., 3] = torch.arange(side**2) // side, torch.arange(side**2) % side
    ours, theirs = ~hidden_of(RolledBlock(ratio=0.65), coords), capi(300, side, 0.65)
    assert set(ours.sum(1).tolist()) == {side**2 - round(0.65 * side**2)}
    assert neighbours(ours, side) == pytest.approx(neighbours(theirs, side), rel=0.03)
    share = ours.float().mean(0)
    assert share.std().item() < 2.0 * math.sqrt(0.35 * 0.65 / 300), "every place is seen as often, corners too"
    box = RolledBlock(ratio=0.35, inverse=False, aspect=(1.0, 1.0)).split(coords, None, None, draws_for(300)).hidden_places(side**2)
    assert neighbours(box, side) == pytest.approx(neighbours(ours, side), rel=0.06)
    for grid in box[:20].view(-1, side, side):  # the rows and columns of a square, in one piece on the torus
        for lines in (grid.any(0), grid.any(1)):
            assert 0 <= math.ceil(math.sqrt(round(0.35 * side**2))) - int(lines.sum()) <= 1  # cut from its last line
            assert int((lines & ~lines.roll(1)).sum()) == 1


def test_rolled_blocks_of_a_sequence_are_spans() -> None:
    seen = ~hidden_of(RolledBlock(ratio=0.75), sequence(50, 40))
    assert all(int((row & ~row.roll(1)).sum()) == 1 and int(row.sum()) == 10 for row in seen)


DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def masks() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_masks.py"))


def test_the_page_of_masks_is_current(masks: dict[str, Any]) -> None:
    """Each number within four standard errors of other draws, and a row for each mask that a recipe names."""
    advice, samples, also = "run python docs/make_masks.py", 40, masks["ALSO"]
    time, grid = (DOCS / "masks.md").read_text(encoding="utf-8").split("\nOn grids")
    wanted = {"time": set[str](), "grid": set[str]()}
    for layout, text, _, values in masks["measured"](samples, 1):
        wanted[layout].add(text)
        found = re.search(rf"^\| {re.escape(text)} \|[^|]*\| (.*) \|$", time if layout == "time" else grid, re.MULTILINE)
        assert found, f"{text}: {advice}"
        for cell, each in zip(found[1].split(" | "), values, strict=True):
            errors = each.std(0) * math.sqrt(1 / samples + 1 / masks["SAMPLES"])
            for number, mean, error in zip(cell.split(", "), each.mean(0).tolist(), errors.tolist(), strict=True):
                assert float(number) == pytest.approx(mean, abs=4 * error + 0.006), f"{text}: {advice}"
    for layout, part in (("time", time), ("grid", grid)):
        shown = re.findall(r"^\| ([a-z_]+(?: \(.*?\))?) \| `", part, re.MULTILINE)
        assert set(shown) == wanted[layout] - set(also), advice


def test_official_numbers_of_the_page_are_those_of_the_code_here(masks: dict[str, Any]) -> None:
    official = {text: numbers for (_, text), (_, numbers) in masks["OFFICIAL"].items()}
    for size, place in ((20, 0), (500, 1), (1500, 2)):
        for text, mask in (
            ("runs (ratio 0.65, length 10, least 2)", fairseq(200, size, 0.65, 10, 2)),
            ("runs (ratio 0.8, length 10, least 2)", fairseq(200, size, 0.8, 10, 2)),
            ("runs (ratio 0.8, length 5, least 2)", fairseq(200, size, 0.8, 5, 2)),
            ("runs (ratio 0.15, length 7)", s3prl(200, size, 0.15, 7)),
        ):
            share, run = map(float, official[text][place].split(", "))
            assert share == pytest.approx(mask.float().mean().item(), abs=0.03)
            assert run == pytest.approx(masks["runs"](mask).mean().item(), rel=0.08)
    for side, place in ((8, 0), (14, 1), (32, 2)):
        for text, seen in (
            ("rolled_block (ratio 0.65)", capi(200, side, 0.65)),
            ("clusters (ratio 0.8, side [3, 3], inverse True, extra 0.07)", data2vec(200, side, 0.8, 0.07, 3)),
        ):
            share, beside = map(float, official[text][place].split(", "))
            assert share == pytest.approx(seen.float().mean().item(), abs=0.006)
            assert beside == pytest.approx(masks["neighbours"](seen, side).mean().item(), rel=0.05)


def test_masks_of_recipes_are_within_the_official_ranges(masks: dict[str, Any]) -> None:
    """Of every mask at each of the three sizes that its recipe has, or that the official code was run at."""
    found = {(layout, text): values for layout, text, _, values in masks["measured"](40, 2)}
    assert set(masks["OFFICIAL"]) <= set(found)
    for (layout, text), (_, numbers) in masks["OFFICIAL"].items():
        for cell, each in zip(numbers, found[layout, text], strict=True):
            if cell != "-":
                share, second = map(float, cell.split(", "))
                assert each[:, 0].mean().item() == pytest.approx(share, abs=0.05), text
                assert each[:, 1].mean().item() == pytest.approx(second, rel=0.15), text

"""Samplers of several targets: multi-block (I-JEPA) and subsets (T-JEPA)."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn.functional import pad

from mmssl.draws import Draws, keys
from mmssl.masking import MultiBlock, Sampler, Split, Subset

CHOICES: dict[str, Sampler] = {
    "multiblock": MultiBlock(),
    "two blocks": MultiBlock(blocks=2, scale=0.3, context=(0.5, 0.7)),
    "subset": Subset(),
    "large subsets": Subset(subsets=3, context=(0.2, 0.8), target=(0.5, 0.9)),
}
every_sampler = pytest.mark.parametrize("sampler", CHOICES.values(), ids=CHOICES)


def draws_for(count: int, step: int = 0) -> Draws:
    return Draws(keys(0, step, torch.arange(count)))


def grid(b: int, time: int = 1, height: int = 1, width: int = 1) -> Tensor:
    """Coordinates of a full grid without depth, `[b, time * height * width, 4]`."""
    places = itertools.product(range(time), [0], range(height), range(width))
    return torch.tensor(list(places), dtype=torch.float32).expand(b, -1, -1)


def table(b: int, columns: int) -> Tensor:
    return torch.zeros(b, columns, 4)


def sets(index: Tensor, real: Tensor | None) -> list[list[int]]:
    """Per row the entries that count, in order of size."""
    kept = torch.ones_like(index, dtype=torch.bool) if real is None else real
    return [sorted(row[mask].tolist()) for row, mask in zip(index, kept, strict=True)]


def seen_of(parts: Split) -> list[list[int]]:
    return sets(parts.seen, parts.seen_real)


def groups_of(parts: Split) -> list[list[list[int]]]:
    """Per sample its groups of hidden tokens."""
    b, groups = len(parts.hidden), parts.groups
    real = None if parts.hidden_real is None else parts.hidden_real.reshape(b * groups, -1)
    each = sets(parts.hidden.reshape(b * groups, -1), real)
    return [each[i * groups : (i + 1) * groups] for i in range(b)]


# Both


@dataclass(frozen=True)
class Case:
    coords: Tensor
    valid: Tensor | None
    available: Tensor | None
    step: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    b, n, step = draw(st.integers(1, 4)), draw(st.integers(1, 14)), draw(st.integers(0, 1000))
    flags = st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=b, max_size=b)
    coords = torch.rand(b, n, 4, generator=torch.Generator().manual_seed(step)) * 8
    if draw(st.booleans()):
        coords = coords * 0
    valid, free = (torch.tensor(draw(flags)) if draw(st.booleans()) else None for _ in range(2))
    available = free if free is None or valid is None else free & valid
    return Case(coords, valid, available, step)


def flags_of(case: Case) -> tuple[Tensor, Tensor]:
    everything = torch.ones(case.coords.shape[:2], dtype=torch.bool)
    real = everything if case.valid is None else case.valid
    return real, real if case.available is None else case.available


@every_sampler
@given(case=cases())
def test_targets_are_available_and_never_seen(sampler: Sampler, case: Case) -> None:
    parts = sampler.split(case.coords, case.valid, case.available, draws_for(len(case.coords), case.step))
    real, free = flags_of(case)
    for seen, groups, valid, available in zip(seen_of(parts), groups_of(parts), real, free, strict=True):
        inside = set(valid.nonzero().flatten().tolist())
        may = set(available.nonzero().flatten().tolist())
        assert len(set(seen)) == len(seen) and set(seen) <= inside
        assert bool(seen) == bool(inside)
        for group in groups:
            assert len(set(group)) == len(group) and set(group) <= may
            assert not set(group) & set(seen)
            assert len(group) == len(groups[0])
            assert bool(group) == (len(inside) > 1 and bool(may))


@every_sampler
@settings(max_examples=40)
@given(case=cases(), padding=st.integers(1, 5))
def test_a_sample_ignores_its_batch_and_padding(sampler: Sampler, case: Case, padding: int) -> None:
    b = len(case.coords)
    draws, (real, free) = draws_for(b, case.step), flags_of(case)
    together = sampler.split(case.coords, case.valid, case.available, draws)
    coords = torch.cat([case.coords, torch.full((b, padding, 4), 3.5)], 1)
    padded = sampler.split(coords, pad(real, (0, padding)), pad(free, (0, padding)), draws)
    for i in range(b):
        one = slice(i, i + 1)
        alone = sampler.split(case.coords[one], real[one], free[one], Draws(draws.keys[one]))
        assert groups_of(alone)[0] == groups_of(together)[i] == groups_of(padded)[i]
        assert seen_of(alone)[0] == seen_of(together)[i] == seen_of(padded)[i]


@every_sampler
@pytest.mark.parametrize("coords", [grid(16, height=6, width=6), grid(16, time=30), table(16, 13), grid(16, time=20, height=4)])
def test_shapes_are_static(sampler: Sampler, coords: Tensor) -> None:
    shapes = set()
    for step in range(20):
        parts = sampler.split(coords, None, None, draws_for(16, step))
        shapes.add((parts.seen.shape, parts.hidden.shape, parts.seen_real is None, parts.hidden_real is None))
    assert len(shapes) == 1
    assert parts.hidden.shape[1] % parts.groups == 0


@every_sampler
def test_masks_change_with_step_and_sample(sampler: Sampler) -> None:
    first, again, second = (groups_of(sampler.split(grid(20, height=8, width=8), None, None, draws_for(20, s))) for s in (0, 0, 1))
    assert first == again
    assert len({str(groups) for groups in first + second}) == 40


@every_sampler
@pytest.mark.parametrize("coords", [table(200, 2), table(200, 3), grid(200, time=2), grid(200, height=1, width=3)])
def test_samples_of_two_or_three_tokens_show_one_and_hide_one(sampler: Sampler, coords: Tensor) -> None:
    parts = sampler.split(coords, None, None, draws_for(200))
    for seen, groups in zip(seen_of(parts), groups_of(parts), strict=True):
        assert seen and all(groups)
        assert len(set(seen).union(*groups)) <= coords.shape[1]


@every_sampler
def test_a_single_token_is_seen(sampler: Sampler) -> None:
    parts = sampler.split(table(3, 1), None, None, draws_for(3))
    assert seen_of(parts) == [[0]] * 3
    assert all(not any(groups) for groups in groups_of(parts))


@every_sampler
def test_columns_of_a_table_are_targets_equally_often(sampler: Sampler) -> None:
    """Columns have no geometry, and their order means nothing."""
    groups = groups_of(sampler.split(table(3000, 10), None, None, draws_for(3000)))
    counts = torch.bincount(torch.tensor([i for sample in groups for i in sample[0]]), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


# Multi-block: the statistics of I-JEPA on its grid of 14 x 14

SIDE, MANY = 14, 1500


def target_boxes() -> list[tuple[set[tuple[int, int]], tuple[int, int, int, int]]]:
    """(Row, column) of the tokens of each target, with its first and last row and column."""
    coords = grid(MANY, height=SIDE, width=SIDE)
    found = []
    for sample in groups_of(MultiBlock().split(coords, None, None, draws_for(MANY))):
        assert len(sample) == 4
        for group in sample:
            rows, columns = [i // SIDE for i in group], [i % SIDE for i in group]
            tokens = set(zip(rows, columns, strict=True))
            found.append((tokens, (min(rows), max(rows), min(columns), max(columns))))
    return found


def rectangle(top: int, bottom: int, left: int, right: int) -> set[tuple[int, int]]:
    return set(itertools.product(range(top, bottom + 1), range(left, right + 1)))


def test_target_blocks_have_the_scale_and_aspect_of_the_paper() -> None:
    ratios = []
    for tokens, (top, bottom, left, right) in target_boxes():
        assert 0.15 <= len(tokens) / SIDE**2 <= 0.2
        height, width = bottom - top + 1, right - left + 1
        # Sides are whole numbers: one token less or more may be needed for the wanted ratio.
        assert (height - 1) / width < 1.5 and height / (width - 1) > 0.75
        ratios.append(height / width)
    low, middle, high = torch.tensor(ratios).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    assert low == pytest.approx(0.75, abs=0.15) and high == pytest.approx(1.5, abs=0.15)
    assert middle == pytest.approx(1.125, abs=0.15)


def test_a_target_is_one_block_whose_last_line_may_be_incomplete() -> None:
    for tokens, (top, bottom, left, right) in target_boxes():
        whole = rectangle(top, bottom, left, right)
        shorter = [
            rectangle(top + 1, bottom, left, right),
            rectangle(top, bottom - 1, left, right),
            rectangle(top, bottom, left + 1, right),
            rectangle(top, bottom, left, right - 1),
        ]
        assert tokens == whole or any(inner <= tokens for inner in shorter)


def test_middles_of_targets_are_uniform_where_blocks_fit() -> None:
    for axis in (0, 1):
        places = []
        for _, sides in target_boxes():
            first, last = sides[2 * axis : 2 * axis + 2]
            places.append(first / (SIDE - (last - first + 1)))
        counts = torch.histc(torch.tensor(places), 3, 0, 1) / len(places)
        assert torch.allclose(counts, torch.full((3,), 1 / 3), atol=0.06), counts
        assert min(places) == 0 and max(places) == 1


def test_the_context_is_everywhere_that_targets_leave() -> None:
    coords = grid(MANY, height=SIDE, width=SIDE)
    parts = MultiBlock().split(coords, None, None, draws_for(MANY))
    assert parts.seen.shape[1] == SIDE**2 - 4 * round(0.175 * SIDE**2)
    counts = torch.bincount(parts.seen.flatten(), minlength=SIDE**2).view(SIDE, SIDE)
    assert counts.min() > 0
    # Targets lie in the middle more often than in the corners.
    assert counts[0, 0] > counts[SIDE // 2, SIDE // 2]


def test_a_small_context_is_a_square_block_less_the_target() -> None:
    """Where the target does not touch it, the context is exactly the block of 7 x 7."""
    coords, whole = grid(300, height=SIDE, width=SIDE), 0
    parts = MultiBlock(blocks=1, scale=0.1, context=(0.25, 0.25)).split(coords, None, None, draws_for(300))
    assert parts.seen.shape[1] == 49
    for seen, (target,) in zip(seen_of(parts), groups_of(parts), strict=True):
        rows, columns = [i // SIDE for i in seen], [i % SIDE for i in seen]
        block = rectangle(min(rows), max(rows), min(columns), max(columns))
        if not block & {(i // SIDE, i % SIDE) for i in target}:
            whole += len(block) == 49
            assert len(block) <= 8 * 8
    assert whole > 50


def test_targets_of_a_sequence_are_spans() -> None:
    for sample in groups_of(MultiBlock().split(grid(200, time=80), None, None, draws_for(200))):
        for span in sample:
            assert span == list(range(span[0], span[0] + 14))


def test_blocks_of_a_flat_grid_grow_along_its_long_side() -> None:
    """A grid of 100 x 3 has no square block of a third: 33 places of all three rows."""
    coords = grid(200, time=100, height=3)
    starts = []
    for sample in groups_of(MultiBlock(blocks=2, scale=0.33).split(coords, None, None, draws_for(200))):
        for group in sample:
            times = sorted({i // 3 for i in group})
            assert times == list(range(times[0], times[0] + 33))
            starts.append(times[0] / 67)
    counts = torch.histc(torch.tensor(starts), 4, 0, 1) / len(starts)
    assert torch.allclose(counts, torch.full((4,), 0.25), atol=0.08), counts


def test_missing_cells_are_never_targets_but_may_be_seen() -> None:
    available = torch.ones(300, 12, dtype=torch.bool)
    available[:, ::3] = False
    for sampler in (MultiBlock(), Subset()):
        parts = sampler.split(table(300, 12), None, available, draws_for(300))
        assert {i for sample in groups_of(parts) for group in sample for i in group} == {i for i in range(12) if i % 3}
        assert {i for seen in seen_of(parts) for i in seen} == set(range(12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 6}, "blocks x scale must be below 1, or no context is left; got 6 x 0.175. Take fewer blocks"),
        ({"aspect": (2.0, 1.0)}, r"aspect must be a range from low to high; got \[2.0, 1.0\]"),
        ({"context": (1.0, 0.8)}, r"context must be a range from low to high; got \[1.0, 0.8\]"),
    ],
)
def test_multiblock_refuses_what_leaves_no_context(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiBlock(**settings)


# Subsets


def test_sizes_of_subsets_are_uniform_in_their_ranges() -> None:
    """Of 20 columns 4 to 8 are seen and 2 to 6 in each target, every number equally often."""
    parts = Subset(context=(0.2, 0.4), target=(0.1, 0.3)).split(table(4000, 20), None, None, draws_for(4000))
    assert parts.seen.shape[1] == 8 and parts.hidden.shape[1] == 4 * 6
    context = torch.bincount(torch.tensor([len(seen) for seen in seen_of(parts)]))
    target = torch.bincount(torch.tensor([len(groups[0]) for groups in groups_of(parts)]))
    assert context[:4].sum() == 0 and target[:2].sum() == 0
    assert len(context) == 9 and len(target) == 7
    for counts in (context[4:], target[2:]):
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_targets_are_drawn_each_on_its_own_from_what_the_context_leaves() -> None:
    """With 2 of 5 columns seen and 1 in each target, two targets agree in a third of all samples."""
    parts = Subset(subsets=2, context=(0.4, 0.4), target=(0.2, 0.2)).split(table(4000, 5), None, None, draws_for(4000))
    same = sum(first == second for first, second in groups_of(parts)) / 4000
    assert same == pytest.approx(1 / 3, abs=0.03)


def test_a_target_takes_no_more_than_the_context_leaves() -> None:
    parts = Subset(context=(0.8, 0.8), target=(0.5, 0.5)).split(table(50, 10), None, None, draws_for(50))
    for seen, groups in zip(seen_of(parts), groups_of(parts), strict=True):
        assert len(seen) == 8
        assert all(group == sorted(set(range(10)) - set(seen)) for group in groups)


@pytest.mark.parametrize("name", ["context", "target"])
def test_a_range_of_shares_goes_up(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a range from low to high; got \[0.4, 0.1\]"):
        Subset(**{name: (0.4, 0.1)})

"""Masking: exact counts, what may be hidden, the shape of what is hidden, and independence of the batch."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.masking import SAMPLERS, Bands, Block, Clusters, Column, Random, Runs, Sampler, Span, Split, Tube, preferred
from mmssl.modality import MaskPreference

CHOICES: dict[str, Sampler] = {
    "random": Random(ratio=0.6),
    "block": Block(ratio=0.5),
    "one block": Block(ratio=0.3, blocks=1, aspect=1.0),
    "span": Span(ratio=0.5),
    "span of rows": Span(ratio=0.4, spans=2, axis="height"),
    "column": Column(ratio=0.3),
    "runs": Runs(ratio=0.4, length=3, least=2),
    "runs of rows": Runs(ratio=0.5, length=2, axis="height"),
    "clusters": Clusters(ratio=0.4),
    "connected": Clusters(ratio=0.7, side=(1, 4), drawn="axis"),
    "inverse blocks": Clusters(ratio=0.8, side=(3, 3), inverse=True),
    "tube": Tube(ratio=0.5),
    "tube along width": Tube(ratio=0.8, axis="width"),
    "bands": Bands(ratio=0.3),
    "bands of time": Bands(ratio=0.4, height=0),
}
every_sampler = pytest.mark.parametrize("sampler", CHOICES.values(), ids=CHOICES)
TIE = 1.01e-3
"""Distances that differ by less may be in either order: samplers break ties by chance."""


def draws_for(count: int, step: int = 0) -> Draws:
    return Draws(keys(0, step, torch.arange(count)))


def grid(b: int, time: int = 1, height: int = 1, width: int = 1) -> Tensor:
    """Coordinates of a full grid without depth, `[b, time * height * width, 4]`."""
    places = itertools.product(range(time), [0], range(height), range(width))
    return torch.tensor(list(places), dtype=torch.float32).expand(b, -1, -1)


def sets(index: Tensor, real: Tensor | None) -> list[list[int]]:
    """Per sample the entries that count, in their order."""
    kept = torch.ones_like(index, dtype=torch.bool) if real is None else real
    return [row[mask].tolist() for row, mask in zip(index, kept, strict=True)]


def seen_of(parts: Split) -> list[list[int]]:
    return sets(parts.seen, parts.seen_real)


def hidden_of(parts: Split) -> list[list[int]]:
    return sets(parts.hidden, parts.hidden_real)


def places(flags: Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in flags]


# What may be hidden, and how much


@dataclass(frozen=True)
class Case:
    coords: Tensor
    valid: Tensor | None
    available: Tensor | None
    step: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    b, n, step = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(0, 1000))
    flags = st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=b, max_size=b)
    coords = torch.rand(b, n, 4, generator=torch.Generator().manual_seed(step)) * 8
    valid, free = (torch.tensor(draw(flags)) if draw(st.booleans()) else None for _ in range(2))
    available = free if free is None or valid is None else free & valid
    return Case(coords, valid, available, step)


@every_sampler
@given(case=cases())
def test_seen_and_hidden_divide_the_valid_tokens(sampler: Sampler, case: Case) -> None:
    parts = sampler.split(case.coords, case.valid, case.available, draws_for(len(case.coords), case.step))
    everything = torch.ones(case.coords.shape[:2], dtype=torch.bool)
    valid = places(everything if case.valid is None else case.valid)
    available = valid if case.available is None else places(case.available)
    for seen, hidden, real, free in zip(seen_of(parts), hidden_of(parts), valid, available, strict=True):
        assert sorted(seen + hidden) == sorted(real)
        assert set(hidden) <= free
        assert bool(seen) == bool(real)
        assert bool(hidden) == (len(real) > 1 and len(free) > 0)


@pytest.mark.parametrize("kind", [Random, Block, Span, Bands, Clusters, partial(Clusters, side=(1, 4), drawn="axis", inverse=True)])
@given(case=cases(), ratio=st.floats(0.01, 0.99))
def test_counts_are_exact(kind: Callable[..., Sampler], case: Case, ratio: float) -> None:
    """The ratio of the available tokens, but at least one token is hidden and one seen."""
    parts = kind(ratio=ratio).split(case.coords, case.valid, case.available, draws_for(len(case.coords), case.step))
    everything = torch.ones(case.coords.shape[:2], dtype=torch.bool)
    real = everything if case.valid is None else case.valid
    free = real if case.available is None else case.available
    for hidden, total, limit in zip(hidden_of(parts), real.sum(1).tolist(), free.sum(1).tolist(), strict=True):
        assert len(hidden) == max(0, min(max(1, round(limit * ratio)), limit, total - 1))


def test_shapes_are_static_without_padding() -> None:
    parts = Random(ratio=0.75).split(grid(3, height=4, width=4), None, None, draws_for(3))
    assert parts.hidden.shape == (3, 12) and parts.seen.shape == (3, 4)
    assert parts.hidden_real is None and parts.seen_real is None


@pytest.mark.parametrize("ratio", [0.07, 0.14, 0.21, 0.5, 0.75])
@pytest.mark.parametrize("count", [75, 150, 175, 350])
def test_a_mask_of_ones_changes_nothing(ratio: float, count: int) -> None:
    """A sample alone, and in a batch that has padding for others, hides the same tokens, however the count is rounded."""
    valid = torch.ones(2, count, dtype=torch.bool)
    bare, masked = (Random(ratio=ratio).split(grid(2, width=count), flags, None, draws_for(2)) for flags in (None, valid))
    assert hidden_of(bare) == hidden_of(masked)
    assert seen_of(bare) == seen_of(masked)


@every_sampler
@settings(max_examples=40)
@given(case=cases(), padding=st.integers(1, 5))
def test_a_sample_ignores_its_batch(sampler: Sampler, case: Case, padding: int) -> None:
    b, n = case.coords.shape[:2]
    draws = draws_for(b, case.step)
    together = sampler.split(case.coords, case.valid, case.available, draws)
    longer = partial(torch.nn.functional.pad, pad=(0, padding))
    valid = longer(torch.ones(b, n, dtype=torch.bool) if case.valid is None else case.valid)
    free = valid if case.available is None else longer(case.available)
    coords = torch.cat([case.coords, torch.full((b, padding, 4), 3.5)], 1)
    padded = sampler.split(coords, valid, free, draws)
    for i, (seen, hidden) in enumerate(zip(seen_of(together), hidden_of(together), strict=True)):
        one = slice(i, i + 1)
        alone = sampler.split(
            case.coords[one],
            None if case.valid is None else case.valid[one],
            None if case.available is None else case.available[one],
            Draws(draws.keys[one]),
        )
        for other in (set(hidden_of(alone)[0]), set(hidden_of(padded)[i])):
            assert other == set(hidden)
        assert set(seen_of(alone)[0]) == set(seen_of(padded)[i]) == set(seen)


@every_sampler
def test_masks_change_with_step_and_sample(sampler: Sampler) -> None:
    coords = grid(50, time=6, height=6, width=2)
    first, again, second = (hidden_of(sampler.split(coords, None, None, draws_for(50, step))) for step in (0, 0, 1))
    assert first == again
    few = isinstance(sampler, Runs)  # six places along its axis
    assert len({frozenset(hidden) for hidden in first + second}) > (4 if few else 50)


# Random and column: chances


def hiding_table(sampler: Sampler, count: int, samples: int) -> Tensor:
    """1.0 where a token is hidden, `[samples, count]`."""
    parts = sampler.split(grid(samples, width=count), None, None, draws_for(samples))
    table = torch.zeros(samples, count)
    for row, hidden in zip(table, hidden_of(parts), strict=True):
        row[hidden] = 1
    return table


def test_random_hides_every_token_and_every_pair_equally_often() -> None:
    samples, n, hidden = 20000, 10, 3
    table = hiding_table(Random(ratio=hidden / n), n, samples)
    pairs = (table.T @ table / samples).fill_diagonal_(hidden * (hidden - 1) / (n * (n - 1)))
    for share, expected in ((table.mean(0), hidden / n), (pairs, hidden * (hidden - 1) / (n * (n - 1)))):
        assert (share - expected).abs().max() < 4 * (expected * (1 - expected) / samples) ** 0.5


def test_columns_are_hidden_independently() -> None:
    """Numbers of hidden columns are binomial, each column and each pair as often as independence has it."""
    samples, n, ratio = 20000, 12, 0.5
    table = hiding_table(Column(ratio=ratio), n, samples)
    counts = torch.bincount(table.sum(1).long(), minlength=n + 1)
    expected = stats.binom(n, ratio).pmf(range(n + 1))
    expected[1], expected[n - 1] = expected[0] + expected[1], expected[n - 1] + expected[n]
    assert counts[0] == counts[n] == 0
    assert stats.chisquare(counts[1:n].numpy(), samples * expected[1:n]).pvalue > 1e-3
    pairs = (table.T @ table / samples).fill_diagonal_(ratio**2)
    for share, value in ((table.mean(0), ratio), (pairs, ratio**2)):
        assert (share - value).abs().max() < 4.5 * (value * (1 - value) / samples) ** 0.5


@pytest.mark.parametrize(("ratio", "hidden"), [(1e-6, 1), (1 - 1e-6, 4)])
def test_column_hides_one_and_shows_one_at_least(ratio: float, hidden: int) -> None:
    assert hiding_table(Column(ratio=ratio), 5, 200).sum(1).tolist() == [hidden] * 200


# Blocks and spans: geometry


def is_union_of_boxes(hidden: list[int], coords: Tensor, stretch: Tensor, allowed: list[int]) -> bool:
    """Whether some centres, one of `allowed` for each box, have every hidden token at most as far as every seen one.

    stretch: sides of each box, `[k, 4]`; far is the largest of the distances along the axes, in sides.
    """
    mask = torch.zeros(len(coords), dtype=torch.bool)
    mask[hidden] = True
    far = ((coords[:, None, None] - coords[allowed][None, :, None]).abs() / stretch).amax(-1)
    for centres in itertools.product(range(len(allowed)), repeat=len(stretch)):
        nearest = far[:, list(centres), range(len(stretch))].amin(1)
        if nearest[mask].max() <= nearest[~mask].min() + TIE:
            return True
    return False


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("aspect", [1.0, 3.0])
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_a_block_mask_is_a_union_of_boxes(blocks: int, aspect: float, ratio: float) -> None:
    draws, coords = draws_for(8), grid(8, time=2, height=4, width=5)
    available = torch.rand(8, 40, generator=torch.Generator().manual_seed(0)) < 0.9
    hidden = hidden_of(Block(ratio=ratio, blocks=blocks, aspect=aspect).split(coords, None, available, draws))
    stretch = aspect ** draws.between("aspect", -0.5, 0.5, blocks, 4)
    for i, indices in enumerate(hidden):
        free = sorted(places(available)[i])
        inside = [free.index(place) for place in indices]
        assert is_union_of_boxes(inside, coords[i][free], stretch[i], list(range(len(free))))


def test_scattered_tokens_are_no_union_of_boxes() -> None:
    """The judge of the test above can say no."""
    coords = grid(1, height=4, width=5)[0]
    assert is_union_of_boxes([6, 7, 8, 11, 12, 13], coords, torch.ones(2, 4), list(range(20)))
    assert not is_union_of_boxes([0, 4, 15, 19], coords, torch.ones(2, 4), list(range(20)))


def test_aspect_bounds_the_sides_of_a_block() -> None:
    """One block in the middle of a large grid: no side is longer than `aspect` times another, and long sides do occur."""
    coords = grid(200, height=31, width=31)
    ratios = []
    for hidden in hidden_of(Block(ratio=0.03, blocks=1, aspect=3.0).split(coords, None, None, draws_for(200))):
        box = coords[0, hidden, 2:]
        if box.min() > 0 and box.max() < 30:  # not cut at the edge
            height, width = (box.amax(0) - box.amin(0) + 1).tolist()
            ratios.append(max(height, width) / min(height, width))
    assert len(ratios) > 50
    assert max(ratios) < 3.0 + 1.0  # sides are whole numbers, about 5
    assert max(ratios) > 2.0


@pytest.mark.parametrize("axis", ["time", "height"])
def test_a_single_span_hides_neighbouring_places_whole(axis: str) -> None:
    """With a count that fills three places: all tokens of three places in a row, no other token."""
    coords = grid(30, time=8, height=4) if axis == "time" else grid(30, time=4, height=8)
    along = coords[0, :, 0 if axis == "time" else 2].long().tolist()
    for hidden in hidden_of(Span(ratio=3 / 8, spans=1, axis=axis).split(coords, None, None, draws_for(30))):
        touched = sorted({along[place] for place in hidden})
        assert touched == list(range(touched[0], touched[0] + 3))
        assert len(hidden) == 3 * 4


@pytest.mark.parametrize("ratio", [0.2, 0.45, 0.7])
def test_spans_are_unions_of_intervals(ratio: float) -> None:
    """All tokens of a time are hidden or seen together, but for those at the ends of the spans, where the count may run out."""
    coords = grid(20, time=9, height=3, width=2)
    only_time = coords[0] * torch.tensor([1.0, 0.0, 0.0, 0.0])
    starts = list(range(0, 54, 6))
    for hidden in hidden_of(Span(ratio=ratio, spans=2).split(coords, None, None, draws_for(20))):
        assert is_union_of_boxes(hidden, only_time, torch.ones(2, 4), starts)


def test_a_sequence_shorter_than_the_number_of_blocks() -> None:
    valid = torch.tensor([[True, True, False, False], [False] * 4])
    parts = Block(ratio=0.5, blocks=8).split(grid(2, width=4), valid, None, draws_for(2))
    assert sorted(seen_of(parts)[0] + hidden_of(parts)[0]) == [0, 1]
    assert seen_of(parts)[1] == hidden_of(parts)[1] == []


def test_preferred_sampler() -> None:
    for name in ("random", "block", "span", "column"):
        assert preferred(MaskPreference(name, 0.4)) == SAMPLERS[name](ratio=0.4)

"""Clusters, tubes and bands: what is hidden has the shape that its paper says, in an exact number."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.masking import Bands, Clusters, Random, Split, Tube

Place = tuple[int, ...]


def draws_for(count: int, step: int = 0) -> Draws:
    return Draws(keys(0, step, torch.arange(count)))


def grid(b: int, time: int = 1, height: int = 1, width: int = 1) -> Tensor:
    """Coordinates of a full grid without depth, `[b, time * height * width, 4]`."""
    places = itertools.product(range(time), [0], range(height), range(width))
    return torch.tensor(list(places), dtype=torch.float32).expand(b, -1, -1)


def hidden_places(parts: Split, coords: Tensor) -> list[set[Place]]:
    """Per sample the whole coordinates of its hidden tokens."""
    flags = parts.hidden_places(coords.shape[1])
    return [{tuple(place) for place in row[mask].long().tolist()} for row, mask in zip(coords, flags, strict=True)]


# Clusters


def box(start: Place, side: int, inside: set[Place]) -> set[Place]:
    """The places of a square of height and width that lie in the grid."""
    time, depth, y, x = start
    return {(time, depth, y + i, x + j) for i in range(side) for j in range(side)} & inside


def outside_of_boxes(hidden: set[Place], inside: set[Place], side: int) -> set[Place]:
    """The hidden places that no completely hidden square holds, where squares may reach over the edge."""
    covered: set[Place] = set()
    for y, x in itertools.product(range(1 - side, 20), repeat=2):
        square = box((0, 0, y, x), side, inside)
        if square <= hidden:
            covered |= square
    return hidden - covered


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_clusters_are_whole_squares_but_the_last(side: int, ratio: float) -> None:
    coords = grid(20, height=12, width=10)
    inside = {tuple(place) for place in coords[0].long().tolist()}
    for hidden in hidden_places(Clusters(ratio=ratio, side=(side, side)).split(coords, None, None, draws_for(20)), coords):
        assert len(hidden) == round(120 * ratio)
        assert len(outside_of_boxes(hidden, inside, side)) < side**2
    scattered = hidden_places(Random(ratio=ratio).split(coords, None, None, draws_for(20)), coords)
    assert max(len(outside_of_boxes(hidden, inside, side)) for hidden in scattered) >= side**2, "the judge can say no"


GRID = 24


def first_boxes(sampler: Clusters, count: int) -> list[tuple[int, int]]:
    """Height and width of the first box of each sample, of those inside the outermost line of the grid."""
    coords, found = grid(count, height=GRID, width=GRID), []
    everything = torch.ones(coords.shape[:2], dtype=torch.bool)
    for row in sampler.arrival(coords, everything, torch.ones(count, dtype=torch.int64), draws_for(count)):
        held = coords[0, row == 0, 2:]
        if held.min() > 0 and held.max() < GRID - 1:
            height, width = (held.amax(0) - held.amin(0) + 1).long().tolist()
            assert len(held) == height * width, "a box has no holes"
            found.append((height, width))
    return found


def matches(found: list[tuple[int, int]], sides: list[tuple[int, int]]) -> bool:
    """Whether sides are equally likely, given how many places a box of each has inside the outermost line."""
    counts = Counter(found)
    assert set(counts) == set(sides)
    room = torch.tensor([(GRID - 1 - height) * (GRID - 1 - width) for height, width in sides], dtype=torch.float64)
    expected = room / room.sum() * len(found)
    return bool(stats.chisquare([counts[side] for side in sides], expected.numpy()).pvalue > 1e-3)


@pytest.mark.parametrize("drawn", ["sample", "box"])
def test_sides_are_whole_and_equally_likely(drawn: str) -> None:
    assert matches(first_boxes(Clusters(side=(3, 5), drawn=drawn), 800), [(3, 3), (4, 4), (5, 5)])


def test_axes_draw_their_own_sides() -> None:
    found = first_boxes(Clusters(side=(1, 3), drawn="axis"), 800)
    assert matches(found, list(itertools.product(range(1, 4), repeat=2)))


def test_one_side_for_all_boxes_of_a_sample_or_one_for_each() -> None:
    """Boxes of a sample that lie alone have the same side, or not."""
    coords = grid(200, height=24, width=24)
    everything, enough = torch.ones(coords.shape[:2], dtype=torch.bool), torch.full((200,), 60)
    alike = {}
    for drawn in ("sample", "box"):
        pairs = []
        for row in Clusters(side=(3, 5), drawn=drawn).arrival(coords, everything, enough, draws_for(200)):
            sizes = [int((row == number).sum()) for number in (0, 1)]
            pairs.append(sizes if set(sizes) <= {9, 16, 25} else [])
        whole = [pair for pair in pairs if pair]
        assert len(whole) > 60
        alike[drawn] = sum(a == b for a, b in whole) / len(whole)
    # A box that another one cuts may have the size of a smaller one.
    assert alike["sample"] > 0.95
    assert 0.2 < alike["box"] < 0.5


@pytest.mark.parametrize("drawn", ["sample", "axis"])
def test_inverse_shows_what_the_others_hide(drawn: str) -> None:
    coords = grid(10, height=10, width=10)
    blocks = Clusters(ratio=0.2, side=(3, 3), drawn=drawn)
    hides = blocks.split(coords, None, None, draws_for(10))
    shows = replace(blocks, ratio=0.8, inverse=True).split(coords, None, None, draws_for(10))
    assert torch.equal(hides.hidden.sort(1).values, shows.seen.sort(1).values)


def test_clusters_of_a_sequence_are_spans() -> None:
    coords = grid(50, time=60)
    for hidden in hidden_places(Clusters(ratio=0.2, side=(4, 4)).split(coords, None, None, draws_for(50)), coords):
        times = sorted(place[0] for place in hidden)
        runs = [list(run) for _, run in itertools.groupby(times, key=lambda t: t - times.index(t))]
        assert sum(len(run) for run in runs if len(run) < 4 and run[0] > 0 and run[-1] < 59) < 4


def test_clusters_without_geometry_are_random() -> None:
    """The columns of a table: each equally often."""
    parts = Clusters(ratio=0.3).split(torch.zeros(3000, 10, 4), None, None, draws_for(3000))
    counts = torch.bincount(parts.hidden.flatten(), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_range_of_sides_goes_up() -> None:
    with pytest.raises(ValueError, match=r"side must be a range from low to high; got \[5, 3\]"):
        Clusters(side=(5, 3))


# Tubes


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("shape", [(4, 3, 5), (7, 1, 6), (3, 8, 1)])
def test_a_tube_hides_the_same_places_at_all_times(ratio: float, shape: tuple[int, int, int]) -> None:
    coords, (time, height, width) = grid(12, *shape), shape
    parts = Tube(ratio=ratio).split(coords, None, None, draws_for(12))
    assert parts.hidden_real is None and parts.seen_real is None, "shapes are static"
    tubes = []
    for hidden in hidden_places(parts, coords):
        places = {place[1:] for place in hidden}
        assert hidden == {(t, *place) for t in range(time) for place in places}
        assert len(places) == max(1, round(height * width * ratio))
        tubes.append(frozenset(places))
    assert len(set(tubes)) > 3


def test_a_tube_of_missing_tokens_is_short() -> None:
    """Tokens that do not exist, or have no content, leave the rest of their tube together."""
    coords = grid(6, time=5, height=3, width=3)
    generator = torch.Generator().manual_seed(0)
    valid = torch.rand(6, 45, generator=generator) < 0.9
    available = valid & (torch.rand(6, 45, generator=generator) < 0.8)
    parts = Tube(ratio=0.5).split(coords, valid, available, draws_for(6))
    for row, hidden in enumerate(hidden_places(parts, coords)):
        free = {tuple(place) for place in coords[row, available[row]].long().tolist()}
        places = {place[1:] for place in hidden}
        assert hidden == {place for place in free if place[1:] in places}
        assert len(places) == round(len({place[1:] for place in free}) * 0.5)


def test_every_tube_is_hidden_equally_often() -> None:
    coords = grid(4000, time=2, height=2, width=5)
    counts = Counter(
        place[1:]
        for hidden in hidden_places(Tube(ratio=0.3).split(coords, None, None, draws_for(4000)), coords)
        for place in hidden
    )
    assert len(counts) == 10
    assert stats.chisquare([number / 2 for number in counts.values()]).pvalue > 1e-3


def test_tubes_follow_places_not_the_order_of_tokens() -> None:
    coords = grid(5, time=3, height=4, width=4)
    mixed = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    one = hidden_places(Tube(ratio=0.5).split(coords, None, None, draws_for(5)), coords)
    assert one == hidden_places(Tube(ratio=0.5).split(coords[:, mixed], None, None, draws_for(5)), coords[:, mixed])


def test_tube_along_height_hides_whole_columns() -> None:
    coords = grid(10, time=9, height=4)
    for hidden in hidden_places(Tube(ratio=1 / 3, axis="height").split(coords, None, None, draws_for(10)), coords):
        assert hidden == {(t, 0, y, 0) for t in {place[0] for place in hidden} for y in range(4)}
        assert len(hidden) == 12


def test_a_sequence_is_one_tube_and_hidden_token_by_token() -> None:
    parts = Tube(ratio=0.4).split(grid(3000, time=10), None, None, draws_for(3000))
    assert parts.hidden.shape == (3000, 4)
    assert stats.chisquare(torch.bincount(parts.hidden.flatten()).numpy()).pvalue > 1e-3


# Bands


def lines(hidden: set[Place], times: int, heights: int) -> tuple[set[int], set[int]]:
    """The times, and the heights, that are hidden completely."""
    return (
        {t for t in range(times) if all((t, 0, y, 0) in hidden for y in range(heights))},
        {y for y in range(heights) if all((t, 0, y, 0) in hidden for t in range(times))},
    )


def runs(numbers: set[int]) -> int:
    """How many runs of neighbours there are."""
    return sum(number - 1 not in numbers for number in numbers)


@pytest.mark.parametrize(("time", "height"), [(1, 0), (2, 0), (0, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.6])
def test_bands_are_whole_lines_but_the_last(time: int, height: int, ratio: float) -> None:
    coords = grid(40, time=30, height=8)
    for hidden in hidden_places(Bands(ratio=ratio, time=time, height=height).split(coords, None, None, draws_for(40)), coords):
        assert len(hidden) == round(240 * ratio)
        across, along = lines(hidden, 30, 8)
        rest = {(t, y) for t, _, y, _ in hidden if t not in across and y not in along}
        # A band that grows reaches the lines on both of its sides at once; the first lines of all bands come at once.
        most = max(2, time), max(2, height)
        heights = [set(chosen) for chosen in itertools.combinations(range(8), most[1])]
        assert any(len({t for t, y in rest if y not in chosen}) <= most[0] for chosen in heights)
        assert runs(across) <= time or runs(along) > 0  # a full height may complete a time that is no band
        assert height or runs(across) <= time
        assert time or runs(along) <= height


def test_bands_lie_everywhere_and_differ_in_width() -> None:
    coords = grid(400, time=40, height=4)
    widths, touched = [], Counter[int]()
    for hidden in hidden_places(Bands(ratio=0.3, time=2, height=0).split(coords, None, None, draws_for(400)), coords):
        across, _ = lines(hidden, 40, 4)
        touched.update(across)
        widths.append(
            max(len(list(run)) for _, run in itertools.groupby(sorted(across), key=lambda t, a=across: t - sorted(a).index(t)))
        )
    assert len(touched) == 40
    assert min(widths) <= 7 and max(widths) >= 11


@pytest.mark.parametrize("shape", [(20, 1), (1, 20)])
def test_bands_along_an_axis_without_extent_do_nothing(shape: tuple[int, int]) -> None:
    """A sequence has one band of time, and not a band of height that holds everything."""
    coords = grid(30, *shape)
    for hidden in hidden_places(Bands(ratio=0.4, time=1, height=1).split(coords, None, None, draws_for(30)), coords):
        assert runs({place[0] + place[2] for place in hidden}) == 1


def test_bands_need_a_band() -> None:
    with pytest.raises(ValueError, match="bands needs a band to hide; set time or height to 1 or more"):
        Bands(time=0, height=0)

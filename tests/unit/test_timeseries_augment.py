"""Random views of series, and their projections on bases: against slow references in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl_modalities.timeseries import TimeseriesAdapter, TimeseriesAugment, TimeseriesProcessor
from mmssl_modalities.timeseries.bases import fourier, gabor

COUNT = 24
RAW: dict[str, Any] = {"normalise": "none"}


def draws_of(*ids: int) -> Draws:
    return Draws(keys(0, 3, torch.tensor(ids or range(COUNT))))


def series() -> list[np.ndarray]:
    """Of 9 to 40 values and 1 to 2 channels."""
    random = np.random.default_rng(0)
    return [random.normal(5, 1, (1 + i % 2, int(random.integers(9, 41)))).astype(np.float32) for i in range(COUNT)]


def batch_of(raws: list[Any], **settings: Any) -> Inputs:
    processor = TimeseriesProcessor(**RAW | settings)
    return processor.collate([processor(raw) for raw in raws])


def view_of(raws: list[Any], **settings: Any) -> Inputs:
    return TimeseriesAugment(**{"scale": 0.0, **settings})(batch_of(raws), draws_of(*range(len(raws))))


def rows_of(view: Inputs, raws: list[Any]) -> list[Tensor]:
    """What is observed of each series, up to its last point."""
    found = []
    for raw, values, there in zip(raws, view["timeseries_values"], view["timeseries_observed"], strict=True):
        found.append(values[: len(raw), : 1 + int(there.any(0).nonzero().max())])
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"part": (0.3, 0.8)},
        {"permute": 5},
        {"flip": 0.5},
        {"time_mask": 0.5},
        {"basis": "fourier"},
        {"basis": "gabor", "frame": 4},
        {
            "crop": (0.5, 1.0),
            "part": (0.5, 0.9),
            "permute": 3,
            "flip": 0.5,
            "jitter": 0.2,
            "drop": 0.2,
            "basis": "gabor",
            "frame": 3,
        },
    ],
    ids=lambda settings: "+".join(settings),
)
def test_a_view_depends_on_its_own_series_only(settings: dict[str, Any]) -> None:
    raws, augment = series(), TimeseriesAugment(scale=0.0, **settings)
    raws[3][0, 2:6] = np.nan
    batch = batch_of(raws)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    whole = augment(batch, draws_of())
    assert all(torch.equal(before[name], batch[name]) for name in before)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(batch, draws_of())["timeseries_values"], whole["timeseries_values"])
    for i, raw in enumerate(raws):
        alone = augment(batch_of([raw]), draws_of(i))
        there = alone.get("timeseries_observed", torch.ones_like(alone["timeseries_values"], dtype=torch.bool))[0]
        c, t = there.shape
        assert torch.equal(whole["timeseries_observed"][i, :c, :t], there)
        assert not whole["timeseries_observed"][i, :, t:].any() and not whole["timeseries_observed"][i, c:].any()
        assert_close(whole["timeseries_values"][i, :c, :t] * there, alone["timeseries_values"][0] * there, rtol=1e-5, atol=1e-5)
    assert any(not torch.equal(whole[name], before[name]) for name in before)


def test_a_part_is_a_piece_of_the_series_and_says_when_it_was() -> None:
    raws = series()
    view = view_of(raws, part=(0.4, 0.7))
    assert view["timeseries_values"].shape[2] == np.ceil(0.7 * max(raw.shape[1] for raw in raws))
    starts = set()
    for i, (raw, found) in enumerate(zip(raws, rows_of(view, raws), strict=True)):
        share = draws_of(i).between("timeseries part", 0.4, 0.7, 1).item()
        start, kept = int(view["timeseries_times"][i, 0]), found.shape[1]
        assert kept == np.ceil(np.float32(share) * raw.shape[1])
        assert torch.equal(found, torch.from_numpy(raw[:, start : start + kept]))
        assert view["timeseries_times"][i, :kept].tolist() == list(range(start, start + kept))
        starts.add(start / (raw.shape[1] - kept))
    assert {0.0, 1.0} <= starts and len(starts) > 8
    processor = TimeseriesProcessor(**RAW)
    tokens = TimeseriesAdapter(8, processor, patch_size=4)(view)
    assert_close(tokens.coords[:, 0, 0], view["timeseries_times"][:, 0] / 4)


def test_a_part_keeps_the_clock_of_the_series() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 30))
    batch = batch_of([{"values": np.arange(30.0), "times": times}] * 5, rate=1.0)
    view = TimeseriesAugment(scale=0.0, part=(0.5, 0.5))(batch, draws_of(*range(5)))
    assert "timeseries_observed" not in view, "equal parts of equal series need none"
    assert view["timeseries_values"].shape == (5, 1, 15)
    assert_close(view["timeseries_times"], batch["timeseries_times"][0][view["timeseries_values"][:, 0].long()])


def test_a_part_has_a_point_of_the_series_in_it() -> None:
    raw = np.full((1, 40), np.nan)
    raw[0, [0, 30, 39]] = 1
    view = TimeseriesAugment(scale=0.0, part=(0.1, 0.1))(batch_of([raw] * 50), draws_of(*range(50)))
    assert view["timeseries_observed"].flatten(1).any(1).all()


def test_pieces_change_places() -> None:
    raws = series()
    for i, (raw, found) in enumerate(zip(raws, rows_of(view_of(raws, permute=4), raws), strict=True)):
        bounds = [raw.shape[1] * number // 4 for number in range(5)]
        order = draws_of(i).uniform("timeseries permute", 4)[0].argsort().tolist()
        expected = np.concatenate([raw[:, bounds[piece] : bounds[piece + 1]] for piece in order], 1)
        assert torch.equal(found, torch.from_numpy(expected))
    assert torch.equal(view_of(raws, permute=1)["timeseries_values"], batch_of(raws)["timeseries_values"])


def test_a_flip_mirrors_every_channel_at_its_mean() -> None:
    raws = series()
    flipped = 0
    for raw, found in zip(raws, rows_of(view_of(raws, flip=0.5), raws), strict=True):
        mirrored = 2 * raw.mean(1, keepdims=True) - raw
        changed = not np.allclose(found, raw, atol=1e-5)
        assert_close(found, torch.from_numpy(mirrored if changed else raw), rtol=0, atol=1e-5)
        flipped += changed
    assert 5 < flipped < 19


def test_a_stretch_goes_missing() -> None:
    raws = [np.ones((2, 50), np.float32)] * 200
    augment = TimeseriesAugment(scale=0.0, time_mask=0.4)
    there = augment(batch_of(raws), draws_of(*range(200)))["timeseries_observed"]
    assert torch.equal(there[:, 0], there[:, 1])
    lost = (~there[:, 0]).sum(1)
    assert lost.max() <= 20 and 8 < lost.float().mean() < 12
    assert ((there[:, 0, 1:] != there[:, 0, :-1]).sum(1) <= 2).all()


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_the_fourier_basis_is_orthonormal_and_keeps_its_order(length: int) -> None:
    basis = fourier(torch.eye(length, dtype=torch.float64)[:, None], torch.full((length, 1), length))[:, 0].T
    assert_close(basis @ basis.T, torch.eye(length, dtype=torch.float64))
    place = np.arange(length)
    rows = [np.full(length, length**-0.5)]
    for frequency in range(1, length // 2 + 1):
        turn = 2 * np.pi * frequency * place / length
        highest = 2 * frequency == length
        rows += [np.cos(turn) * (1 if highest else 2**0.5) / length**0.5]
        rows += [] if highest else [-np.sin(turn) * (2 / length) ** 0.5]
    assert_close(basis, torch.from_numpy(np.stack(rows)))


def test_projections_keep_the_energy_of_every_series() -> None:
    """Parseval, whatever the length; and the Fourier basis loses nothing."""
    raws = series()
    found = rows_of(view_of(raws, basis="fourier"), raws)
    framed = view_of(raws, basis="gabor", frame=4)
    for raw, coefficients, values in zip(raws, found, framed["timeseries_values"], strict=True):
        channels, length = raw.shape
        assert coefficients.shape == raw.shape
        basis = fourier(torch.eye(length)[:, None], torch.full((length, 1), length))[:, 0].T
        assert_close(coefficients @ basis, torch.from_numpy(raw), rtol=1e-4, atol=1e-4)
        energy = torch.from_numpy(np.square(raw).sum(1))
        assert_close(values[:channels].square().sum(1), energy, rtol=1e-5, atol=0)
        assert (values >= 0).all() and not values[:, -(-length // 4) * 4 :].any()


def test_frames_are_spectra_of_windows() -> None:
    """In loops over complex exponentials; one frame of 4 frequencies for every 4 values, which wrap round."""
    raw = np.random.default_rng(1).normal(size=10)
    found, there = gabor(torch.from_numpy(raw)[None, None], torch.tensor([[10]]), 4)
    assert found.shape == (1, 1, 12) and there.all()
    padded = np.concatenate([raw, [0, 0]])
    for frame in range(3):
        energy = np.zeros(5)
        for frequency in range(-3, 5):
            total = 0j
            for n in range(8):
                window = np.sqrt((1 - np.cos(2 * np.pi * (n + 0.5) / 8)) / 2)
                total += padded[(4 * frame + n) % 12] * window * np.exp(-2j * np.pi * frequency * n / 8) / 8**0.5
            energy[abs(frequency)] += abs(total) ** 2
        expected = np.sqrt([energy[0] + energy[4], *energy[1:4]])
        np.testing.assert_allclose(found[0, 0, 4 * frame : 4 * frame + 4], expected, atol=1e-10)


def test_times_reach_as_far_as_the_last_frame() -> None:
    """Also beside longer series, and where a patch begins after the last point."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 40))
    raws = [{"values": np.arange(1.0, 1 + n), "times": times[:n]} for n in (26, 40, 9)]
    augment, adapter = TimeseriesAugment(basis="gabor", frame=16), TimeseriesAdapter(8, TimeseriesProcessor(**RAW), patch_size=2)
    whole = adapter(augment(batch_of(raws, rate=1.0), draws_of(0, 1, 2)))
    for i, raw in enumerate(raws):
        alone = adapter(augment(batch_of([raw], rate=1.0), draws_of(i))).coords[0]
        count = -(-len(raw["times"]) // 16) * 8
        assert alone.shape == (count, 4) and (alone[:, 0].diff() > 0).all()
        assert_close(whole.coords[i, :count], alone)


def test_gaps_count_as_the_mean_in_a_projection() -> None:
    raw = np.array([[1.0, np.nan, 3.0, np.nan, 8.0], [np.nan] * 5])
    view = TimeseriesAugment(scale=0.0, basis="fourier")(batch_of([raw]), draws_of(0))
    assert view["timeseries_observed"].tolist() == [[[True] * 5, [False] * 5]]
    filled = torch.tensor([[[1.0, 4, 3, 4, 8]]])
    assert_close(view["timeseries_values"][:, :1], fourier(filled, torch.tensor([[5]])))


def test_ranges_that_are_the_wrong_way_round() -> None:
    with pytest.raises(ValueError, match=r"augment.part gives the smallest share of the series first; got \[0.9, 0.1\]. Exchange"):
        TimeseriesAugment(part=(0.9, 0.1))
    with pytest.raises(ValueError, match=r"augment.crop gives the smallest share of the series first; got \[0.9, 0.1\]. Exchange"):
        TimeseriesAugment(crop=(0.9, 0.1))

"""Random views of sounds: against their definitions, and each a function of its own sample."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl_modalities.audio import AudioAugment


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def draws_of(ids: Tensor) -> Draws:
    return Draws(keys(0, 3, ids))


VIEWS: dict[str, dict[str, Any]] = {
    "default": {},
    "shift": {"gain": 0.0, "shift": 0.5},
    "crop": {"gain": 0.0, "crop": (0.5, 0.9)},
    "warp": {"gain": 0.0, "warp": 0.2},
    "noise": {"gain": 0.0, "noise": 0.3},
    "part": {"gain": 0.0, "part": (0.3, 0.8), "shift": 0.3},
    "masks": {"gain": 0.0, "time_mask": 0.4, "frequency_mask": 0.4},
    "all": {"gain": 1.0, "shift": 0.2, "crop": (0.6, 1.0), "warp": 0.1, "noise": 0.1, "time_mask": 0.2, "frequency_mask": 0.2},
}
by_view = pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)


def batch_of(count: int, lengths: bool = True) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    inputs = {"input_features": torch.randn(count, 6, 1, 4, 8, generator=generator)}
    if lengths:
        inputs["audio_lengths"] = torch.arange(count)[:, None] % 6 + 1
        there = torch.arange(6) < inputs["audio_lengths"]
        inputs["input_features"] *= there[:, :, None, None, None]
    return inputs


@by_view
def test_a_view_depends_on_its_own_sample_only(settings: dict[str, Any]) -> None:
    augment, inputs, ids = AudioAugment(**settings), batch_of(12), torch.arange(12)
    before = {name: x.clone() for name, x in inputs.items()}
    view = augment(inputs, draws_of(ids))
    whole, lengths = view["input_features"], view["audio_lengths"]
    assert whole.shape[1] == (5 if "part" in settings else 6)
    order = torch.randperm(12)
    mixed = augment({name: x[order] for name, x in inputs.items()}, draws_of(order))["input_features"]
    assert_close(mixed, whole[order], 1e-5)
    for i in (2, 7):
        length = int(inputs["audio_lengths"][i])
        alone = augment({"input_features": inputs["input_features"][i : i + 1, :length]}, draws_of(ids[i : i + 1]))[
            "input_features"
        ]
        assert_close(alone[0, : lengths[i]], whole[i, : lengths[i]], 1e-5)
        assert not whole[i, lengths[i] :].any()
    assert (whole != inputs["input_features"][:, : whole.shape[1]]).any()
    assert (augment(inputs, draws_of(ids + 12))["input_features"] != whole).any()
    assert all(torch.equal(before[name], inputs[name]) for name in before)


def test_a_shift_turns_a_sound_round() -> None:
    inputs = batch_of(100, lengths=False)
    frames = inputs["input_features"].flatten(1, 3)
    views = AudioAugment(gain=0.0, shift=0.99)(inputs, draws_of(torch.arange(100)))["input_features"].flatten(1, 3)
    matches = torch.stack([(frames.roll(far, 1) == views).flatten(1).all(1) for far in range(24)])
    assert matches.any(0).all()
    assert matches.any(1).sum() > 18


def test_a_crop_and_a_warp_read_a_straight_line() -> None:
    """Of a sound that holds its own coordinates, every view shows where its parts came from."""
    time, bins = torch.meshgrid(torch.arange(24.0), torch.arange(8.0), indexing="ij")
    crop = AudioAugment(gain=0.0, crop=(0.5, 0.75))({"input_features": time.view(1, 6, 1, 4, 8).expand(300, -1, -1, -1, -1)},
                                                    draws_of(torch.arange(300)))["input_features"].flatten(1, 3)  # fmt: skip
    steps = crop[:, 2:-2].diff(dim=1)
    assert_close(crop, crop[..., :1].expand_as(crop), 1e-4)
    assert 0.49 < steps.min() < 0.55
    assert 0.7 < steps.max() < 0.76
    assert crop.min() >= 0
    assert crop.max() <= 23
    assert crop[:, 0, 0].std() > 1
    warp = AudioAugment(gain=0.0, warp=0.2)({"input_features": bins.view(1, 6, 1, 4, 8).expand(300, -1, -1, -1, -1)},
                                            draws_of(torch.arange(300)))["input_features"].flatten(1, 3)  # fmt: skip
    slope = warp[:, 0, 4] - warp[:, 0, 3]
    assert 0.8 <= slope.min() < 0.85
    assert 1.15 < slope.max() <= 1.2001
    assert warp.max() <= 7


def test_gain_is_an_offset_of_spectrograms_and_a_factor_of_waveforms() -> None:
    inputs = batch_of(50, lengths=False)
    change = (AudioAugment(gain=0.5)(inputs, draws_of(torch.arange(50)))["input_features"] - inputs["input_features"]).flatten(1)
    assert_close(change, change[:, :1].expand_as(change), 1e-5)
    assert 0.3 < change.abs().max() <= 0.5
    waves = {"input_values": torch.randn(50, 2, 1, 320)}
    factor = (AudioAugment(gain=0.5)(waves, draws_of(torch.arange(50)))["input_values"] / waves["input_values"]).flatten(1)
    assert_close(factor.log(), change[:, :1].expand_as(factor), 1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_mixing_adds_power(shift: float) -> None:
    """Of the other sound as it is in its own view: both were shifted, each by its own draw."""
    inputs = batch_of(40)
    x, lengths = AudioAugment(gain=0.0, shift=shift)(inputs, draws_of(torch.arange(40)))["input_features"], inputs["audio_lengths"]
    views = AudioAugment(gain=0.0, shift=shift, mix=0.5)(inputs, draws_of(torch.arange(40)))["input_features"]
    found = 0
    for i in range(40):
        share = draws_of(torch.tensor([i])).between("audio mix", 0.0, 0.5, 1).item()
        for donor in range(40):
            reach = int(lengths[donor])
            mixed = ((1 - share) * x[i].exp() + share * x[donor].exp()).log()
            mixed[reach:] = x[i, reach:]
            mixed[int(lengths[i]) :] = 0
            found += donor != i and torch.allclose(mixed, views[i], atol=1e-4)
    assert found >= 40
    one = {name: tensor[3:4] for name, tensor in inputs.items()}
    assert_close(AudioAugment(gain=0.0, mix=0.5)(one, draws_of(torch.tensor([3])))["input_features"], one["input_features"], 0)


def test_bands_are_set_to_the_mean() -> None:
    inputs = {"input_features": torch.ones(200, 6, 1, 4, 8)}
    augment = AudioAugment(gain=0.0, time_mask=0.5, bands=1)
    kept = augment(inputs, draws_of(torch.arange(200)))["input_features"].flatten(1, 3)[..., 0] == 1
    edges = (kept[:, 1:] != kept[:, :-1]).sum(1)
    assert edges.max() <= 2
    hidden = (~kept).sum(1)
    assert hidden.max() <= 13
    assert 4 < hidden.float().mean() < 8
    bins = AudioAugment(gain=0.0, frequency_mask=0.9)(inputs, draws_of(torch.arange(200)))["input_features"].flatten(1, 3)
    assert (bins == bins[:, :1]).all()
    assert (bins == 0).any()


def test_waveforms_take_no_views_of_frequencies() -> None:
    waves = {"input_values": torch.randn(4, 3, 2, 320), "audio_lengths": torch.tensor([[3], [2], [1], [3]])}
    views = AudioAugment(shift=0.3, mix=0.3, noise=0.1, time_mask=0.2)(waves, draws_of(torch.arange(4)))
    assert views["input_values"].shape == waves["input_values"].shape
    assert not views["input_values"][2, 1:].any()
    with pytest.raises(ValueError, match=r"augment.crop, warp, frequency_mask need mel bins; with processor.frontend: waveform"):
        AudioAugment(warp=0.1)(waves, draws_of(torch.arange(4)))
    with pytest.raises(ValueError, match=r"gives the smallest share of the time first; got \[1.0, 0.2\]. Exchange the two"):
        AudioAugment(crop=(1.0, 0.2))


def test_views_ignore_autocast() -> None:
    inputs, augment = batch_of(4), AudioAugment(**VIEWS["all"])
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(inputs, draws_of(torch.arange(4)))["input_features"]
    assert_close(found, augment(inputs, draws_of(torch.arange(4)))["input_features"], 0)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_part_is_cut_out_of_the_sound_as_it_is(lengths: bool) -> None:
    inputs, draws = batch_of(60, lengths=lengths), draws_of(torch.arange(60))
    view = AudioAugment(gain=0.0, part=(0.3, 0.6))(inputs, draws)
    assert view["input_features"].shape == (60, 4, 1, 4, 8)  # 0.6 of 6 pieces, rounded up
    frames, found = (x["input_features"].flatten(1, 3) for x in (inputs, view))
    whole = inputs.get("audio_lengths", torch.full((60, 1), 6))
    starts = set()
    for i in range(60):
        share = draws_of(torch.tensor([i])).between("audio part", 0.3, 0.6, 1).item()
        kept, steps = int(view["audio_lengths"][i]), 4 * int(whole[i])
        assert kept == max(1, int(np.ceil(np.float32(share) * int(whole[i]))))
        matches = [s for s in range(steps - 4 * kept + 1) if torch.equal(frames[i, s : s + 4 * kept], found[i, : 4 * kept])]
        assert len(matches) == 1
        assert not found[i, 4 * kept :].any()
        starts.add(matches[0])
    assert len(starts) > 8


def test_equal_parts_of_equal_sounds_need_no_lengths() -> None:
    view = AudioAugment(gain=0.0, part=(0.5, 0.5), time_mask=0.3)(batch_of(8, lengths=False), draws_of(torch.arange(8)))
    assert view.keys() == {"input_features"}
    assert view["input_features"].shape == (8, 3, 1, 4, 8)
    with pytest.raises(ValueError, match=r"augment.part gives the smallest share of the time first; got \[1.0, 0.2\]"):
        AudioAugment(part=(1.0, 0.2))


def test_parts_of_other_sounds_are_mixed_in() -> None:
    """A donor is cut as it would be in its own view, and mixed in as far as its part reaches."""
    inputs, draws = batch_of(30), draws_of(torch.arange(30))
    cut, mixed = (AudioAugment(gain=0.0, part=(0.5, 0.9), mix=mix)(inputs, draws) for mix in (0.0, 0.5))
    lengths = cut["audio_lengths"][:, 0]
    assert torch.equal(mixed["audio_lengths"][:, 0], lengths)
    for i in range(30):
        share = draws_of(torch.tensor([i])).between("audio mix", 0.0, 0.5, 1).item()
        own, found = (x["input_features"][i, : lengths[i]] for x in (cut, mixed))
        candidates = []
        for donor in (j for j in range(30) if j != i):
            reach = min(int(lengths[donor]), int(lengths[i]))
            other = own.clone()
            other[:reach] = ((1 - share) * own[:reach].exp() + share * cut["input_features"][donor, :reach].exp()).log()
            candidates.append(torch.allclose(other, found, atol=1e-4))
        assert any(candidates)

"""What is laid over a sound: how loud, where, and in which domain powers add up."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl_modalities.audio import AudioAugment, AudioProcessor
from mmssl_modalities.audio.noise import Levels

COUNT, BINS = 24, 8


def draws_of(count: int) -> Draws:
    return Draws(keys(0, 3, torch.arange(count)))


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio)


def waves() -> Inputs:
    """Sounds of 2 to 5 pieces of 320 samples."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_values": torch.randn(COUNT, 5, 1, 320, generator=generator),
        "audio_lengths": torch.arange(COUNT)[:, None] % 4 + 2,
    }
    inputs["input_values"] *= (torch.arange(5) < inputs["audio_lengths"])[:, :, None, None]
    inputs["input_values"] *= torch.linspace(0.1, 3, COUNT)[:, None, None, None]
    return inputs


def spectra(offset: Tensor, scale: Tensor) -> tuple[Inputs, Tensor]:
    """Log-mel values of 4 to 9 patches of 2 frames, normalised, and the power that they stand for."""
    generator = torch.Generator().manual_seed(0)
    log_power = torch.randn(COUNT, 9, 1, 2, BINS, generator=generator) + torch.linspace(-9, -2, COUNT)[:, None, None, None, None]
    lengths = torch.arange(COUNT)[:, None] % 6 + 4
    there = (torch.arange(9) < lengths)[:, :, None, None, None]
    return {"input_features": (log_power - offset) / scale * there, "audio_lengths": lengths}, (log_power.exp() * there).flatten(
        1, 3
    )


def processor(**settings: Any) -> AudioProcessor:
    return AudioProcessor(sample_rate=8000, mel_bins=BINS, patch=(2, BINS), **settings)


def test_a_sound_laid_over_a_waveform_has_the_drawn_ratio_and_length() -> None:
    inputs = waves()
    augment = AudioAugment(gain=0.0, overlap=1.0, overlap_snr=(3.0, 3.0))
    before, after = (x["input_values"].flatten(1).double() for x in (inputs, augment(inputs, draws_of(COUNT))))
    lengths = inputs["audio_lengths"].flatten() * 320
    power = [before[i, : lengths[i]].square().mean().item() for i in range(COUNT)]
    met = set()
    for i in range(COUNT):
        added = after[i] - before[i]
        where = added.nonzero().flatten()
        if not len(where):
            continue
        first, last = where[0].item(), where[-1].item()
        assert last < lengths[i]
        assert last - first < 0.5 * lengths[i] + 1
        part = added[first : last + 1]
        # The part is that of exactly one other sound, scaled.
        windows = before.unfold(1, len(part), 1)
        norm = windows.norm(dim=-1).clamp(min=1e-9) * part.norm()
        likeness = (windows @ part) / norm
        likeness[i] = 0
        donor = likeness.amax(1).argmax().item()
        assert likeness[donor].max() > 0.9999
        gain = part.norm() / windows[donor, likeness[donor].argmax()].norm()
        assert decibels(power[i] / (gain.item() ** 2 * power[donor])) == pytest.approx(3.0, abs=0.05)
        met.add(donor)
    assert len(met) > 5


@pytest.mark.parametrize("per_bin", [False, True])
def test_powers_of_log_mel_values_add_up_before_normalisation(per_bin: bool) -> None:
    offset = torch.linspace(-8, -4, BINS) if per_bin else torch.tensor([-6.0])
    scale = torch.linspace(2, 5, BINS) if per_bin else torch.tensor([4.0])
    inputs, power = spectra(offset, scale)
    bound = AudioAugment(gain=0.0, overlap=1.0, overlap_snr=(-2.0, -2.0)).with_processor(
        processor(per_bin=per_bin, mean=offset.tolist() if per_bin else -6.0, std=scale.tolist() if per_bin else 4.0)
    )
    view = bound(inputs, draws_of(COUNT))["input_features"]
    lengths = inputs["audio_lengths"].flatten() * 2
    mixed = (view * scale + offset).exp().flatten(1, 3)
    mean = [power[i, : lengths[i]].double().mean().item() for i in range(COUNT)]
    found = 0
    for i in range(COUNT):
        added = (mixed[i] - power[i])[: lengths[i]].double()
        where = (added.abs().sum(-1) > 1e-3 * power[i].mean()).nonzero().flatten()
        assert not view[i].flatten(0, 2)[lengths[i] :].any()
        if not len(where):
            continue
        part = added[where[0] : where[-1] + 1]
        assert len(part) <= lengths[i] / 2 + 1
        gains = []
        for donor in set(range(COUNT)) - {i}:
            gain = 10**0.2 * mean[i] / mean[donor]
            windows = gain * power[donor, : lengths[donor]].double().unfold(0, min(len(part), int(lengths[donor])), 1).mT
            if windows.shape[1] == len(part):
                gains.append(((windows - part).abs().amax((1, 2)) / part.abs().max()).min().item())
        found += min(gains) < 1e-3
    assert found >= 0.8 * COUNT
    plain = AudioAugment(gain=0.0, overlap=1.0, overlap_snr=(-2.0, -2.0))(inputs, draws_of(COUNT))["input_features"]
    assert not torch.allclose(plain, view), "without its processor values are taken for log power"


def test_share_of_sounds_and_range_of_ratios() -> None:
    inputs = {"input_values": torch.randn(600, 3, 1, 320)}
    view = AudioAugment(gain=0.0, hiss=0.3, hiss_snr=(-5.0, 20.0), overlap_share=1.0)(inputs, draws_of(600))
    added = (view["input_values"] - inputs["input_values"]).flatten(1)
    changed = added.any(1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.06)
    long = changed & ((added != 0).sum(1) > 300)
    power = added[long].square().sum(1) / (added[long] != 0).sum(1)
    ratios = [
        decibels(a / b) for a, b in zip(inputs["input_values"][long].square().mean((1, 2, 3)).tolist(), power.tolist(), strict=True)
    ]
    assert -6.5 < min(ratios) < 0
    assert 15 < max(ratios) < 21.5
    assert np.std(ratios) > 5


def test_hiss_in_log_mel_values_is_that_of_white_noise() -> None:
    """Mean and spread of each bin against white noise that goes through the filterbank."""
    made = AudioProcessor(sample_rate=16000, mel_bins=40, patch=(4, 40), mean=-5.0, std=3.0)
    generator = np.random.default_rng(0)
    sound = made({"array": generator.standard_normal(160_000).astype(np.float32), "sampling_rate": 16000})
    expected = sound["input_features"].flatten(0, 2)
    flat = {"input_features": torch.full((64, 50, 1, 4, 40), -8.0)}
    augment = AudioAugment(gain=0.0, hiss=1.0, hiss_snr=(-60.0, -60.0), overlap_share=1.0).with_processor(made)
    view = augment(flat, draws_of(64))["input_features"].flatten(1, 3)
    rows = torch.cat([row[(row > -7.9).all(-1)] for row in view])
    assert len(rows) > 3000
    # Levels differ from sound to sound, their shape along frequency does not.
    shape = rows - rows.mean(-1, keepdim=True)
    truth = expected - expected.mean(-1, keepdim=True)
    assert_close(shape.mean(0), truth.mean(0), rtol=0, atol=0.08)
    assert_close(shape.std(0), truth.std(0), rtol=0.35, atol=0.05)


def test_a_mel_bin_without_any_frequency_has_no_hiss() -> None:
    """With 128 bins of 512 points one of the lowest lies between two frequencies."""
    processor = AudioProcessor(mean=-4.0, std=3.0)
    values = processor((np.random.default_rng(0).normal(size=8000).astype(np.float32), 16000))
    augment = AudioAugment(gain=0.0, hiss=1.0, overlap_share=1.0).with_processor(processor)
    view = augment(processor.collate([values] * 8), draws_of(8))
    assert view["input_features"].isfinite().all()
    changed = (view["input_features"] != values["input_features"]).any(0).any(0).any(0).any(0)
    assert (~changed).nonzero().flatten().tolist() == [3]


def test_levels_of_a_processor() -> None:
    made = processor(mean=-6.0, std=2.0)
    levels = Levels.of(made)
    assert (levels.scale.tolist(), levels.offset.tolist()) == ([2.0], [-6.0])
    assert (levels.freedom >= 1).all()


def test_a_lone_sound_stays_as_it_is_and_ranges_are_checked() -> None:
    inputs = {name: x[:1] for name, x in waves().items()}
    view = AudioAugment(gain=0.0, overlap=1.0)(inputs, draws_of(1))
    assert torch.equal(view["input_values"], inputs["input_values"])
    with pytest.raises(ValueError, match=r"augment.overlap_snr is a range from low to high; got \[5.0, -5.0\]. Exchange the two"):
        AudioAugment(overlap_snr=(5.0, -5.0))

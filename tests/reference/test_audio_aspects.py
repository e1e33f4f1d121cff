"""Aspects of sounds against torchaudio, loops in float64 and pure tones."""

import math

import numpy as np
import pytest
import torch
import torchaudio
from torch.testing import assert_close

from mmssl.modality import Inputs
from mmssl_modalities.audio import AudioAdapter, AudioProcessor
from mmssl_modalities.audio.aspects import LOWEST, cqt, cqt_bins, cqt_kernels, mfcc

RATE = 16000


def sounds(seconds: float = 0.5) -> torch.Tensor:
    return torch.randn(2, int(RATE * seconds) // 320 * 320, generator=torch.Generator().manual_seed(0)) * 0.1


def loop_mfcc(waveform: torch.Tensor, rate: int) -> torch.Tensor:
    """Thirteen cepstra of each token, in float64: 23 mel filters from 20 Hz to half the rate, liftered by 22, as Kaldi's."""
    top, size = 1127 * math.log(1 + rate / 2 / 700), 512
    first = 1127 * math.log(1 + 20 / 700)
    step = (top - first) / 24
    mel = 1127 * np.log(1 + np.arange(size // 2) * rate / size / 700)
    rows = []
    for start in range(0, len(waveform) // 320 * 320, 320):
        frame = np.pad(waveform.double().numpy(), 40)[start : start + 400]
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * np.hanning(400) ** 0.85, size)[:-1]) ** 2
        logs = []
        for number in range(23):
            left, centre, right = (first + (number + k) * step for k in range(3))
            weights = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clip(min=0)
            logs.append(math.log(max(float(weights @ power), float(torch.finfo(torch.float32).eps))))
        cepstra = []
        for k in range(13):
            scale = math.sqrt((1 if k == 0 else 2) / 23) * (1 + 11 * math.sin(math.pi * k / 22))
            cepstra.append(scale * sum(log * math.cos(math.pi * k * (m + 0.5) / 23) for m, log in enumerate(logs)))
        rows.append(cepstra)
    return torch.tensor(rows)


@pytest.mark.parametrize("rate", [8000, 12345, 16000, 44100])
def test_cepstra_of_every_sound_and_rate_equal_a_loop(rate: int) -> None:
    """Of drawn sounds of a ragged length, one of them silent, whose neighbours in the batch must not be heard."""
    waveforms = torch.randn(4, 2000, generator=torch.Generator().manual_seed(rate)) * torch.tensor([0.1, 0.0, 1.0, 1e-3])[:, None]
    found = mfcc(waveforms, rate)
    for row, waveform in zip(found, waveforms, strict=True):
        assert_close(row[:, :13], loop_mfcc(waveform, rate).float(), rtol=1e-3, atol=2e-3)


def test_mfcc_equals_kaldis_with_torchaudios_differences() -> None:
    waveforms = sounds()
    found = mfcc(waveforms, RATE)
    for row, waveform in zip(found, waveforms, strict=True):
        padded = torch.nn.functional.pad(waveform, (40, 40))[None]
        cepstra = torchaudio.compliance.kaldi.mfcc(padded, sample_frequency=RATE, frame_shift=20.0, use_energy=False).T
        first = torchaudio.functional.compute_deltas(cepstra)
        expected = torch.cat([cepstra, first, torchaudio.functional.compute_deltas(first)]).T
        assert row.shape == expected.shape == (waveforms.shape[1] // 320, 39)
        assert_close(row, expected, rtol=1e-3, atol=2e-3)


def test_constant_q_transform_equals_a_loop() -> None:
    waveform = sounds(0.1)[:1]
    found = cqt(waveform, RATE)[0]
    signal = waveform[0].double().numpy()
    quality = 1 / (2 ** (1 / 12) - 1)
    size = len(cqt_kernels(RATE))
    for token in range(found.shape[0]):
        middle = 320 * token + 160
        for number in (0, 11, 40, 83):
            frequency = LOWEST * 2 ** (number / 12)
            length = math.ceil(quality * RATE / frequency)
            total, weight = 0j, 0.0
            for step in range(length):
                window = 0.5 - 0.5 * math.cos(2 * math.pi * step / length)
                place = middle - size // 2 + (size - length) // 2 + step
                weight += window
                if 0 <= place < len(signal):
                    total += window * signal[place] * np.exp(-2j * math.pi * frequency / RATE * (place - middle))
            expected = math.log1p(abs(total) / weight * math.sqrt(length))
            assert found[token, number].item() == pytest.approx(expected, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("number", [24, 45, 70])
def test_a_pure_tone_is_loudest_in_its_own_bin(number: int) -> None:
    time = torch.arange(RATE) / RATE
    tone = torch.sin(2 * math.pi * LOWEST * 2 ** (number / 12) * time)[None]
    middle = cqt(tone, RATE)[0, 25]
    assert middle.argmax() == number
    assert middle[number] > 2 * middle[[number - 3, number + 3]].max()


def test_bins_lie_below_half_the_rate() -> None:
    assert cqt_bins(16000) == cqt_bins(44100) == 84
    assert LOWEST * 2 ** ((cqt_bins(4000) - 1) / 12) < 2000 <= LOWEST * 2 ** ((cqt_bins(4000) + 1) / 12)


def waves(lengths: tuple[int, ...]) -> Inputs:
    made = AudioProcessor(frontend="waveform", normalise="utterance", sample_rate=RATE)
    sounds = [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in lengths]
    return made.collate([made({"array": sound, "sampling_rate": RATE}) for sound in sounds])


@pytest.mark.parametrize("name", ["mfcc", "cqt"])
def test_aspects_have_a_row_for_each_token_and_none_for_padding(name: str) -> None:
    made = AudioProcessor(frontend="waveform", normalise="utterance", sample_rate=RATE)
    adapter, inputs = AudioAdapter(16, made, conv_width=8), waves((8000, 5000))
    tokens, found = adapter(inputs), adapter.aspect(name, inputs)
    assert found.shape == (*tokens.values.shape[:2], adapter.aspects[name])
    assert torch.equal(~found.isnan().any(-1), tokens.valid_or_ones())
    for row, length in zip(found, (8000, 5000), strict=True):
        (alone,) = adapter.aspect(name, waves((length,)))
        assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-4, msg=lambda text, length=length: f"{length} samples: {text}")
    with pytest.raises(LookupError, match="have no aspect 'chroma'; known ones: mfcc, cqt"):
        adapter.aspect("chroma", inputs)


@pytest.mark.parametrize(("frequency", "expected"), [(880.0, 9), (1760.0, 9), (1046.5, 0), (1318.5, 4)])
def test_chroma_of_a_tone_is_its_pitch_class(frequency: float, expected: int) -> None:
    made = AudioProcessor(sample_rate=RATE, mel_bins=128, patch=(8, 128), mean=-7.0, std=4.0)
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)
    inputs = made.collate([made({"array": tone, "sampling_rate": RATE})])
    adapter = AudioAdapter(16, made)
    found = adapter.aspect("chroma", inputs)
    assert found.shape == (*adapter(inputs).values.shape[:2], 12)
    assert (found[0].argmax(-1) == expected).all()
    assert_close(found.sum(-1), torch.ones(found.shape[:2]))

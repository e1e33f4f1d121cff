"""The audio modality: filterbank, statistics, settings, forms of sounds, windows."""

import json
import math
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from mmssl.recipe.sections import section
from mmssl_modalities.audio import AUDIO, AudioProcessor
from mmssl_modalities.audio.decode import at_rate
from mmssl_modalities.audio.fbank import FLOOR, Filterbank, Window, cosines

RAW: dict[str, Any] = {"mean": 0.0, "std": 1.0}
"""Leaves log-mel values as they are."""
SMALL: dict[str, Any] = {"sample_rate": 8000, "mel_bins": 8, "patch": (2, 4)}


def noise(seconds: float, rate: int = 8000, seed: int = 0, channels: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, round(seconds * rate))).astype(np.float32)
    return values[0] if channels == 1 else values


def encoded(values: np.ndarray, rate: int, kind: str = "WAV", **options: Any) -> bytes:
    stream = BytesIO()
    soundfile.write(stream, values, rate, format=kind, **options)
    return stream.getvalue()


def spectrogram(raw: Any, **settings: Any) -> Tensor:
    """`[channels, frames, bins]`."""
    return AudioProcessor(**RAW | settings)(raw)["input_features"].transpose(0, 1).flatten(1, 2)


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# Filterbank


def assert_kaldis(found: Tensor, expected: Tensor) -> None:
    """Within 1e-4, but for bins with less than 1e-5 of a frame's power, which rest on rounding in both."""
    small = expected < expected.amax(1, keepdim=True) + math.log(1e-5)
    assert_close(found, expected, 1e-2)
    assert_close(found.masked_fill(small, 0), expected.masked_fill(small, 0), 1e-4)


@pytest.mark.parametrize(
    ("rate", "bins", "length", "window"),
    [(16000, 128, 25.0, "hanning"), (16000, 80, 25.0, "povey"), (8000, 64, 25.0, "hanning"), (8000, 23, 32.0, "hamming"),
     (22050, 64, 25.0, "hanning"), (44100, 40, 20.0, "povey"), (11025, 32, 46.4, "hanning")],
)  # fmt: skip
def test_the_filterbank_is_kaldis(rate: int, bins: int, length: float, window: Window) -> None:
    waveform = torch.from_numpy(noise(1.3, rate)) + 0.2
    expected = torchaudio.compliance.kaldi.fbank(
        waveform[None], sample_frequency=rate, num_mel_bins=bins, frame_length=length, window_type=window, use_energy=False
    )
    assert_kaldis(Filterbank(rate, bins, length, 10.0, 20.0, None, window)(waveform[None])[0], expected)


def test_the_filterbank_with_other_frequencies_and_a_tone() -> None:
    time = torch.arange(16000) / 16000
    tone = 0.1 * torch.sin(2 * torch.pi * 1000 * time) + 1e-4 * torch.from_numpy(noise(1, 16000))
    expected = torchaudio.compliance.kaldi.fbank(
        tone[None], sample_frequency=16000, num_mel_bins=40, low_freq=100, high_freq=7000, frame_shift=5.0, window_type="hanning"
    )
    found = Filterbank(16000, 40, 25.0, 5.0, 100.0, 7000.0)(tone[None])[0]
    assert_kaldis(found, expected)
    assert found.mean(0).argmax() == expected.mean(0).argmax()


def test_long_sounds_channels_and_short_sounds() -> None:
    bank = Filterbank(8000, 16, 25.0, 10.0, 20.0, None)
    long = torch.from_numpy(noise(12.0, channels=2))
    found = bank(long)
    assert found.shape == (2, 1 + (96000 - 200) // 80, 16)
    for channel in range(2):
        expected = torchaudio.compliance.kaldi.fbank(
            long[channel : channel + 1], sample_frequency=8000, num_mel_bins=16, window_type="hanning"
        )
        assert_kaldis(found[channel], expected)
    short = long[:1, :50]
    assert_close(bank(short), bank(F.pad(short, (0, 150))), 0)
    assert_close(bank(torch.zeros(1, 300)), torch.full((1, 2, 16), FLOOR))
    assert_close(bank(torch.full((1, 300), 0.7)), torch.full((1, 2, 16), FLOOR), 1e-3)


def test_constants_are_float32_whatever_the_default_is() -> None:
    """Models are loaded with their own type as the default, on the meta device."""
    before = Filterbank(8000, 16, 25.0, 10.0, 20.0, None)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            found = Filterbank(8000, 16, 25.0, 10.0, 20.0, None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(found.window, before.window, 0)
    assert_close(found.mel, before.mel, 0)


def test_cosines_are_orthonormal() -> None:
    matrix = cosines(12, 12)
    assert_close(matrix.T @ matrix, torch.eye(12), 1e-5)
    assert_close(matrix[:, :5], cosines(12, 5), 0)
    assert_close(matrix, torchaudio.functional.create_dct(12, 12, "ortho"), 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_length": 0.1}, r"frame_length=0.1 ms and frame_shift=10.0 ms are 1 and 160 samples .* at least 2 and 1"),
        ({"frame_shift": 0.01}, r"are 400 and 0 samples at sample_rate=16000"),
        ({"low_frequency": 9000.0}, r"low_frequency < high_frequency <= 8000 Hz, half the sample_rate; got 9000 and 8000"),
        ({"high_frequency": 8001.0}, r"got 20 and 8001"),
        ({"patch": (16, 48)}, r"mel_bins a multiple of the second; got patch=\[16, 48\] and mel_bins=128"),
        ({"patch": [16, 16, 16]}, r"processor.patch is two numbers"),
        ({"mean": [0.0, 1.0], "std": 1.0}, r"processor.mean needs one number, or one for each of the 128 bins; got 2 of them"),
        ({"frontend": "waveform", "std": [1.0]}, r"processor.std needs one number; got 1 of them"),
        ({"mean": 0.0, "std": 0.0}, r"processor.std must be positive; got 0.0"),
        (
            {"normalise": "utterance", "std": 1.0},
            r"processor.mean belongs to normalise: dataset, and std to dataset and utt",
        ),
        ({"normalise": "utterance_mean", "mean": 1.0}, r"got normalise=utterance_mean, mean=1.0 and std=None"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioProcessor(**settings)


# Statistics and settings


@pytest.mark.parametrize("per_bin", [False, True])
@pytest.mark.parametrize("normalise", ["dataset", "utterance_mean"])
def test_fit_makes_mean_zero_and_deviation_one(normalise: Any, per_bin: bool) -> None:
    sounds = [noise(0.3, seed=1), 0.1 * noise(0.5, seed=2).cumsum()]
    processor = AudioProcessor(**SMALL | {"patch": (1, 4)}, normalise=normalise, per_bin=per_bin)
    assert not processor.fitted
    with pytest.raises(ValueError, match=r"are not known yet: call fit\(sounds\) with the training sounds, or set both"):
        processor(sounds[0])
    processor.fit(iter(sounds))
    assert processor.fitted
    values = torch.cat([processor(sound)["input_features"].flatten(0, 2) for sound in sounds])
    dims = 0 if per_bin else (0, 1)
    assert_close(values.mean(dims), torch.zeros(8 if per_bin else ()), 1e-4)
    assert_close(values.std(dims, correction=0), torch.ones(8 if per_bin else ()), 1e-4)
    assert isinstance(processor.settings()["std"], list if per_bin else float)
    if normalise == "utterance_mean":
        assert processor.settings()["mean"] is None


def test_an_utterance_loses_its_own_statistics_and_so_its_level_and_filter() -> None:
    sound = noise(0.4, seed=3).cumsum() * 0.05
    plain, loud = (AudioProcessor(**SMALL, normalise="utterance")(x)["input_features"] for x in (sound, 0.3 * sound))
    assert_close(plain, loud, 1e-3)
    values = AudioProcessor(**SMALL | {"patch": (1, 4)}, normalise="utterance")(sound)["input_features"].flatten(0, 2)
    assert_close(values.mean(0), torch.zeros(8), 1e-5)
    assert_close(values.std(0, correction=0), torch.ones(8), 1e-4)
    only_mean = AudioProcessor(**SMALL, normalise="utterance_mean", std=2.0)
    assert_close(only_mean(sound)["input_features"], only_mean(0.3 * sound)["input_features"], 1e-3)
    silence = AudioProcessor(**SMALL, normalise="utterance")(np.zeros(4000))["input_features"]
    assert_close(silence, torch.zeros_like(silence), 1e-4)


def test_fit_passes_over_bad_sounds_but_needs_one() -> None:
    processor = AudioProcessor(**SMALL)
    processor.fit([b"", noise(0.2), "missing.wav"])
    with pytest.raises(ValueError, match="got no bytes"):
        AudioProcessor().fit([b""])
    with pytest.raises(ValueError, match=r"fitted on one sound or more; got none\. Or set processor.mean and std"):
        AudioProcessor().fit([])
    given = AudioProcessor(**SMALL, mean=1.5)
    given.fit([noise(0.2)])
    assert given.settings()["mean"] == 1.5
    constant = AudioProcessor(**SMALL)
    constant.fit([np.zeros(800)])
    assert (constant.mean, constant.std) == (pytest.approx(FLOOR), 1.0)


def test_fit_reads_no_more_windows_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl_modalities.audio.processor.FIT_SAMPLES", 20)
    stream = iter([noise(0.1)] * 10 + [object()] * 5)
    processor = AudioProcessor(**SMALL, max_seconds=0.05)
    processor.fit(stream)
    assert len(list(stream)) == 5
    before = processor.settings()
    processor.fit([noise(0.2, seed=5)])
    assert processor.settings() == before


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**SMALL, "per_bin": True},
        {**SMALL, "normalise": "utterance", "channels": 2},
        {"frontend": "waveform", "max_seconds": None},
    ],
)
def test_settings_survive_json_and_pickle(settings: dict[str, Any]) -> None:
    sounds = AUDIO.example(3, 0)
    processor = AudioProcessor(**settings)
    processor.fit(sounds)
    plain = json.loads(json.dumps(processor.settings(), allow_nan=False))
    for again in (AudioProcessor(**plain), AudioProcessor(**section(AudioProcessor).model_validate(plain).arguments())):
        assert again.settings() == processor.settings()
        for other in (again, pickle.loads(pickle.dumps(again))):
            for sound in sounds:
                for name, values in processor(sound).items():
                    assert_close(other(sound)[name], values, 0)


def test_features_are_cepstra_in_time() -> None:
    processor = AudioProcessor(**RAW, **SMALL | {"mel_bins": 32, "patch": (1, 32)})
    sound = np.concatenate([0.01 * noise(0.4), noise(0.4)])
    inputs = processor(sound)
    features = processor.features(inputs).reshape(6, 20)
    mfcc = torchaudio.functional.create_dct(20, 32, "ortho")
    cepstra = (inputs["input_features"][:, 0, 0] @ mfcc).numpy()
    np.testing.assert_allclose(features[0], cepstra.mean(0), atol=1e-3)
    np.testing.assert_allclose(features[1], cepstra.std(0), atol=1e-3)
    np.testing.assert_allclose(features[2], cepstra[: len(cepstra) // 4].mean(0), atol=1e-3)
    assert features[2, 0] < features[5, 0]
    one = processor.features(processor(noise(0.01)))
    assert one.shape == (120,)
    assert np.isfinite(one).all()
    stereo = AudioProcessor(**RAW, channels=2)
    assert stereo.features(stereo(noise(1, channels=2))).shape == (240,)
    wave = AudioProcessor(frontend="waveform", **RAW)
    assert wave.features(wave(noise(1, 16000))).shape == (120,)


# Rates, channels, forms


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 22050, 96000])
def test_other_rates_are_resampled(rate: int) -> None:
    time = np.arange(rate) / rate
    tone = torch.from_numpy(np.sin(2 * np.pi * 440 * time).astype(np.float32))[None]
    found = at_rate(tone, rate, 16000)
    assert_close(found, torchaudio.functional.resample(tone, rate, 16000), 1e-4)
    assert_close(found[0, 200:-200], torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[200:-200], 5e-3)


def test_rates_without_a_small_ratio_need_no_large_filter() -> None:
    time = np.arange(44101) / 44101
    tone = torch.from_numpy(np.sin(2 * np.pi * 440 * time).astype(np.float32))[None]
    found = at_rate(tone, 44101, 16000)
    assert abs(found.shape[1] - 16000) <= 1
    assert_close(found[0, 200:15800], torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[200:15800], 1e-2)
    assert at_rate(torch.zeros(1, 5000), 9_999_991, 16000).shape == (1, 8)
    assert at_rate(torch.zeros(1, 3), 1, 7919).shape == (1, 3 * 7919)


def test_forms_of_one_sound(tmp_path: Path) -> None:
    values = noise(0.3)
    integers = np.round(values * 32767).astype(np.int16)
    data = encoded(integers, 8000)
    file = tmp_path / "sound.wav"
    file.write_bytes(data)
    expected = spectrogram(values, **SMALL)
    exact = spectrogram(data, **SMALL)
    assert_close(exact, expected, 2e-2)
    for form in (
        bytearray(data),
        memoryview(data),
        file,
        str(file),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(file)},
        {"bytes": data, "path": "elsewhere.wav", "sampling_rate": None},
        integers,
        integers.astype(">i2"),
        torch.from_numpy(integers),
        (integers, 8000),
        (integers, np.int64(8000)),
        (integers, 8000.0),
        {"array": integers, "sampling_rate": 8000, "path": None},
        integers.astype(np.int32) * 65536,
        integers / 32768,
        {"array": (integers / 32768).tolist(), "sampling_rate": 8000},
        encoded(integers, 8000, "FLAC"),
        np.stack([integers] * 2),
        np.stack([integers] * 3, 1),
        encoded(np.stack([integers] * 2, 1), 8000),
    ):
        assert_close(spectrogram(form, **SMALL), exact, 1e-4)
    assert_close(spectrogram(torch.from_numpy(values).double(), **SMALL), expected, 1e-6)
    assert_close(spectrogram(torch.from_numpy(values).requires_grad_(), **SMALL), expected, 0)
    eight = np.round(values * 127).astype(np.int8)
    assert_close(spectrogram((eight.astype(np.int16) + 128).astype(np.uint8), **SMALL), spectrogram(eight, **SMALL), 1e-3)


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_lossy_files(kind: str) -> None:
    time = np.arange(16000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    settings = {"mel_bins": 16, "patch": (4, 4)}
    found, expected = (spectrogram(raw, **settings) for raw in (encoded(tone, 16000, kind), tone))
    assert found.mean((0, 1)).argmax() == expected.mean((0, 1)).argmax()
    assert abs(found.shape[1] - expected.shape[1]) < 20


def test_channels() -> None:
    stereo = noise(0.3, channels=2)
    assert_close(spectrogram(stereo, **SMALL), spectrogram(stereo.mean(0), **SMALL), 1e-4)
    both = spectrogram(stereo, **SMALL, channels=2)
    assert_close(both, torch.cat([spectrogram(channel, **SMALL) for channel in stereo]), 1e-5)
    assert_close(spectrogram(stereo[0], **SMALL, channels=2), both[:1].expand_as(both), 1e-5)
    with pytest.raises(ValueError, match=r"needs processor.channels=3 channels, or one, which is repeated; this one has 2"):
        spectrogram(stereo, **SMALL, channels=3)


def test_raw_samples_are_left_alone() -> None:
    for frontend in ("fbank", "waveform"):
        for sound in (noise(0.3), torch.from_numpy(noise(0.3)), noise(0.3, channels=2)):
            before = np.asarray(sound).copy()
            AudioProcessor(frontend=frontend, **SMALL, mean=1.0, std=3.0)(sound)
            np.testing.assert_array_equal(np.asarray(sound), before)


def test_many_sounds_or_one() -> None:
    processor, sound = AudioProcessor(), noise(0.1)
    for one in ((sound, 8000), sound, b"", "a.wav", {"path": "a.wav"}):
        assert len(processor.many(one)) == 1
    assert len(processor.many([sound, (sound, 8000)])) == 2
    assert len(processor.many((sound, sound))) == 2


# Windows


def test_pieces_are_equally_long_and_lose_nothing(tmp_path: Path) -> None:
    values = np.round(noise(1.0) * 32767).astype(np.int16)
    file = tmp_path / "sound.flac"
    file.write_bytes(encoded(values, 8000, "FLAC"))
    processor = AudioProcessor(**RAW, **SMALL, max_seconds=0.3)
    assert processor.windowed
    for raw in (
        values,
        (values, 8000),
        {"array": values, "sampling_rate": 8000},
        file,
        {"bytes": encoded(values, 8000), "path": "x"},
    ):
        with pytest.raises(ValueError, match=r"lasts 1 s, one sample at most processor.max_seconds=0.3. Cut it into windows by"):
            processor(raw)
        pieces = processor.pieces(raw)
        assert len(pieces) == 4
        for number, piece in enumerate(pieces):
            expected = processor(values[2000 * number : 2000 * (number + 1)])
            assert_close(processor(piece)["input_features"], expected["input_features"], 1e-5)
            assert (
                processor.pieces(piece) == [piece] if isinstance(piece["bytes" if "bytes" in piece else "array"], bytes) else True
            )
        nested = AudioProcessor(**RAW, **SMALL, max_seconds=0.1).pieces(pieces[1])
        assert len(nested) == 3
    stereo = processor.pieces(noise(0.5, channels=2).T)
    assert [piece["array"].shape for piece in stereo] == [(2, 2000), (2, 2000)]


def test_a_sound_that_fits_is_its_own_piece() -> None:
    processor = AudioProcessor(**SMALL, max_seconds=0.3)
    sound = noise(0.3)
    assert processor.pieces(sound)[0] is sound
    assert AudioProcessor(**SMALL, max_seconds=None).pieces(sound)[0] is sound
    assert not AudioProcessor(**SMALL, max_seconds=None).windowed
    for bad in (b"", None, "missing.wav", np.zeros((2, 2, 2))):
        assert processor.pieces(bad)[0] is bad
    assert len(processor.pieces((noise(1.0, 16000), 16000))) == 4

"""Tokens of sounds: patches, the stem of the waveform, pictures."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from mmssl.model import MMSSLConfig, MMSSLModel, initialise_all
from mmssl.objectives import Setup
from mmssl.objectives.predict import Masked
from mmssl_modalities.audio import AUDIO, AudioAdapter, AudioProcessor, patchify, unpatchify
from mmssl_modalities.audio.processor import FBANK, WAVEFORM
from mmssl_modalities.audio.stem import WaveformStem

RAW: dict[str, Any] = {"mean": 0.0, "std": 1.0}
"""Leaves log-mel values as they are."""
SMALL: dict[str, Any] = {"sample_rate": 8000, "mel_bins": 8, "patch": (2, 4)}


def noise(seconds: float, rate: int = 8000, seed: int = 0, channels: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, round(seconds * rate))).astype(np.float32)
    return values[0] if channels == 1 else values


def spectrogram(raw: Any, **settings: Any) -> Tensor:
    """`[channels, frames, bins]`."""
    return AudioProcessor(**RAW | settings)(raw)["input_features"].transpose(0, 1).flatten(1, 2)


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# Patches


def by_loops(sound: Tensor, frames: int, bins: int) -> Tensor:
    """Patches of `[c, t, m]` by the definition of their order."""
    c, t, m = sound.shape
    grid = [(first, low) for first in range(0, t, frames) for low in range(0, m, bins)]
    order = [(i, j, channel) for i in range(frames) for j in range(bins) for channel in range(c)]
    return torch.stack([torch.stack([sound[channel, first + i, low + j] for i, j, channel in order]) for first, low in grid])


@pytest.mark.parametrize(("shape", "frames", "bins"), [((1, 4, 6), 2, 3), ((2, 6, 4), 3, 2), ((3, 4, 4), 1, 4)])
def test_patches_against_loops_and_back(shape: tuple[int, int, int], frames: int, bins: int) -> None:
    sounds = torch.randn(2, *shape)
    laid = sounds.unflatten(2, (-1, frames)).transpose(1, 2)
    patches = patchify(laid, bins)
    assert_close(patches, torch.stack([by_loops(sound, frames, bins) for sound in sounds]), 0)
    assert_close(unpatchify(patches, frames, bins, shape[1] // frames), sounds, 0)
    with pytest.raises(ValueError, match=r"must be a multiple of 5, those of a patch; got"):
        patchify(laid, 5)


def test_tokens_are_a_linear_map_of_patches_at_their_places() -> None:
    processor = AudioProcessor(**RAW, **SMALL)
    adapter = AudioAdapter(8, processor)
    sounds = [noise(0.1, seed=1), noise(0.1, seed=2)]
    batch = processor.collate([processor(sound) for sound in sounds])
    assert list(batch) == ["input_features"]
    tokens = adapter(batch)
    patches = torch.stack([by_loops(spectrogram(sound, **SMALL), 2, 4) for sound in sounds])
    assert adapter.proj is not None
    assert_close(tokens.values, patches @ adapter.proj.weight.T + adapter.proj.bias, 1e-4)
    assert tokens.coords[1].tolist() == [[time, 0, row, 0] for time in range(4) for row in range(2)]
    assert tokens.valid is None
    assert_close(adapter.target(batch)["fbank"], patches, 0)
    assert adapter.target_sizes == {"fbank": 8}
    assert adapter.bfloat16()(batch).values.dtype == torch.bfloat16


def test_padding_is_not_valid_and_has_no_target() -> None:
    processor = AudioProcessor(**RAW, **SMALL)
    samples = [processor(noise(0.05)), processor(noise(0.1))]
    batch = processor.collate(samples)
    assert batch["audio_lengths"].tolist() == [[2], [4]]
    adapter = AudioAdapter(8, processor)
    tokens, target = adapter(batch), adapter.target(batch)["fbank"]
    assert tokens.valid is not None
    assert tokens.valid.tolist() == [[True] * 4 + [False] * 4, [True] * 8]
    assert target[0, 4:].isnan().all()
    assert_close(target[0, :4], adapter.target(processor.collate(samples[:1]))["fbank"][0], 0)


def test_the_last_patch_is_filled_with_the_quietest_values() -> None:
    sound = noise(0.065)
    frames = spectrogram(sound, **SMALL | {"patch": (1, 4)})
    filled = spectrogram(sound, **SMALL | {"patch": (4, 4)})
    assert frames.shape[1] == 5
    assert_close(filled[:, :5], frames, 0)
    assert_close(filled[:, 5:], frames.amin(1, keepdim=True).expand(-1, 3, -1), 0)
    assert spectrogram(noise(0.001), **SMALL).shape == (1, 2, 8)


def test_the_adapter_on_the_meta_device() -> None:
    for frontend, shape in (("fbank", (2, 3, 1, 16, 128)), ("waveform", (2, 3, 1, 320))):
        with torch.device("meta"):
            # Other settings than anywhere else: what is made here must serve afterwards.
            processor = AudioProcessor(frontend=frontend, **RAW, frame_shift=11.0)
            adapter = AudioAdapter(8, processor, conv_width=4)
            name = {"fbank": FBANK, "waveform": WAVEFORM}[frontend]
            inputs = {name: torch.zeros(shape), "audio_lengths": torch.zeros(2, 1, dtype=torch.int64)}
            tokens = adapter(inputs)
        assert (tokens.values.shape, tokens.values.device.type) == ((2, 24 if frontend == "fbank" else 3, 8), "meta")
        assert not list(adapter.buffers())
        assert processor(noise(0.1))[{"fbank": FBANK, "waveform": WAVEFORM}[frontend]].device.type == "cpu"


# Waveform


def stem_of(norm: Any) -> tuple[AudioProcessor, AudioAdapter]:
    torch.manual_seed(0)
    processor = AudioProcessor(frontend="waveform", normalise="utterance")
    adapter = AudioAdapter(8, processor, conv_width=16, conv_norm=norm)
    initialise_all(adapter, MMSSLConfig())
    return processor, adapter


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_waveform_tokens_ignore_padding_and_learn_everywhere(norm: Any) -> None:
    processor, adapter = stem_of(norm)
    sounds = [noise(0.1, 16000, seed=1), noise(0.23, 16000, seed=2), noise(0.001, 16000, seed=3)]
    samples = [processor(sound) for sound in sounds]
    batch = processor.collate(samples)
    tokens = adapter(batch)
    assert batch["audio_lengths"].tolist() == [[5], [12], [1]]
    assert tokens.valid is not None
    for i, sample in enumerate(samples):
        alone = adapter(processor.collate([sample]))
        count = alone.values.shape[1]
        assert_close(tokens.values[i, :count], alone.values[0], 1e-5)
        assert tokens.valid[i].sum() == count
    tokens.values[tokens.valid].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_a_waveform_token_sees_400_samples_around_its_320() -> None:
    processor, adapter = stem_of("layer")
    assert adapter.overlapping
    batch = processor.collate([processor(noise(0.2, 16000))])
    before = adapter(batch)
    assert before.coords[0, :, 0].tolist() == list(range(10))
    for place, touched in ((320 * 4, [3, 4]), (320 * 4 + 100, [4]), (320 * 5 - 1, [4, 5]), (0, [0])):
        changed = {name: x.clone() for name, x in batch.items()}
        changed["input_values"].view(-1)[place] += 3.0
        moved = (adapter(changed).values != before.values)[0].any(-1).nonzero().flatten().tolist()
        assert moved == touched
        target = adapter.target(changed)["waveform"] != adapter.target(batch)["waveform"]
        assert target[0].nonzero().tolist() == [[place // 320, place % 320]]


def test_the_waveform_is_refused_where_raw_values_are_the_target() -> None:
    processor = AudioProcessor(frontend="waveform", normalise="utterance")
    modalities = {"audio": {"processor": processor.settings(), "adapter": {"conv_width": 8}}}
    config = MMSSLConfig(modalities=modalities, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match=r"'audio' has an overlapping stem: hidden content reaches visible tokens"):
        Masked(MMSSLModel(config), Setup())


def test_waveform_normalisation() -> None:
    sound = 0.1 * noise(0.1, 16000) + 0.05
    whole = AudioProcessor(frontend="waveform", normalise="utterance")(sound)["input_values"]
    assert whole.shape == (5, 1, 320)
    assert_close(whole.mean(), torch.tensor(0.0), 1e-5)
    assert_close(whole.std(correction=0), torch.tensor(1.0), 1e-4)
    processor = AudioProcessor(frontend="waveform")
    processor.fit([sound])
    assert_close(processor(sound)["input_values"], whole, 1e-3)
    cut = AudioProcessor(frontend="waveform", **RAW)(sound[:400])["input_values"].flatten()
    assert_close(cut[:400], torch.from_numpy(sound[:400]), 0)
    assert not cut[400:].any()


# Examples and pictures


def test_examples_repeat_and_differ_in_length() -> None:
    sounds, again = AUDIO.example(6, 0), AUDIO.example(6, 0)
    assert len({len(sound["array"]) for sound in sounds}) == 6
    assert all((a["array"] == b["array"]).all() for a, b in zip(sounds, again, strict=True))
    assert (AUDIO.example(1, 1)[0]["array"][:4000] != sounds[0]["array"][:4000]).any()


def test_the_golden_values_are_kaldis() -> None:
    settings, _, sound, coords, targets = AUDIO.golden()
    expected = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(sound["array"])[None], sample_frequency=8000, num_mel_bins=4, window_type="hanning"
    )
    expected = torch.cat([expected, expected.amin(0, keepdim=True)])
    assert_close(by_loops(expected[None], 2, 2), targets["fbank"], 1e-4)
    assert settings["patch"] == [2, 2]
    assert coords[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("channels", [1, 2])
def test_the_picture_shows_input_seen_and_predicted(channels: int) -> None:
    processor = AudioProcessor(**RAW, **SMALL, channels=channels)
    batch = processor.collate([processor(noise(0.05)), processor(noise(0.1))])
    target = AudioAdapter(8, processor).target(batch)["fbank"]
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[0, 1] = hidden[1, 6] = True
    figure = AUDIO.picture(batch, hidden, {"fbank": target.masked_fill(~hidden[..., None], math.nan) + 1}, processor)
    assert [axis.get_title() for axis in figure.axes] == ["input", "seen", "predicted", "", "", ""]
    for row, (frames, first, low) in enumerate([(4, 0, 4), (8, 6, 0)]):
        sound = batch["input_features"][row].transpose(0, 1).flatten(1, 2)[0, :frames].T.numpy()
        shown = [np.ma.getdata(axis.get_images()[0].get_array()) for axis in figure.axes[3 * row : 3 * row + 3]]
        seen, guess = sound.copy(), sound.copy()
        seen[low : low + 4, first : first + 2] = np.nan
        guess[low : low + 4, first : first + 2] += 1
        for found, expected in zip(shown, (sound, seen, guess), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_picture_of_waveforms_and_of_many_samples() -> None:
    inputs = {"input_values": torch.randn(9, 3, 1, 320)}
    figure = AUDIO.picture(inputs, torch.ones(9, 3, dtype=torch.bool), {"waveform": torch.zeros(9, 3, 320)}, AudioProcessor())
    assert len(figure.axes) == 18
    assert not figure.axes[2].lines[0].get_ydata().any()
    figure.canvas.draw()


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_digital_silence_within_a_sound_keeps_gradients_small(norm: Any) -> None:
    """A norm of zeros has a gradient of 1 / sqrt(eps), and seven of them in a row would be one without bounds."""
    norms = []
    for silent in (False, True):
        torch.manual_seed(0)
        stem = WaveformStem(1, 64, 32, norm)
        sounds = torch.randn(2, 1, 6400)
        if silent:
            sounds[:, :, 3000:3600] = 0
        (stem(sounds, None) * torch.randn(2, 20, 32)).sum().backward()
        norms.append(sum(p.grad.double().square().sum() for p in stem.parameters() if p.grad is not None) ** 0.5)
    assert norms[1] < 100 * norms[0]

"""What can be said of the tokens of a sound beside their content: cepstral coefficients, a constant-Q transform, pitch classes."""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torchaudio.compliance import kaldi

from mmssl_modalities.audio.fbank import EPSILON

FRAME, HOP, BORDER = 400, 320, 40
"""Samples of a frame, from one to the next, and zeros at both ends: what a token of the waveform sees."""
MFCC = 3 * 13
LOWEST, OCTAVE, OCTAVES = 32.7, 12, 7
"""Hz of the lowest bin, which is C1, bins of an octave, and octaves, as in MERT (arXiv 2306.00107): 84 bins."""
CLASSES = 12


def mfcc(waveform: Float[Tensor, "b s"], rate: int, lengths: Int[Tensor, "b 1"] | None = None) -> Float[Tensor, "b n 39"]:
    """13 cepstral coefficients with first and second differences in time: what HuBERT clusters (arXiv 2106.07447, section IV-B).

    Kaldi's, without energy, of a frame of 400 samples for every token; differences as torchaudio's compute_deltas.

    lengths: tokens of each sound before it was padded; None: all.
    """
    b, n = len(waveform), waveform.shape[1] // HOP
    seen = F.pad(waveform.float(), (BORDER, BORDER))[:, : n * HOP + FRAME - HOP]
    # kaldi.mfcc takes one sound, and a loop over 64 short ones is three times as slow: so all as one, with silence between them.
    joined = F.pad(F.pad(seen, (0, 2 * HOP - FRAME)).flatten(), (0, HOP))[None]
    size, hop = (1000 * (samples + 0.5) / rate for samples in (FRAME, HOP))  # ms, which it rounds down to samples
    frames = kaldi.mfcc(joined, sample_frequency=rate, frame_length=size, frame_shift=hop, use_energy=False)
    cepstra = frames.view(b, n + 1, -1)[:, :n]
    ends = torch.full((b, 1), n, device=cepstra.device) if lengths is None else lengths
    first = differences(cepstra, ends)
    return torch.cat([cepstra, first, differences(first, ends)], -1)


def differences(values: Float[Tensor, "b n k"], ends: Int[Tensor, "b 1"]) -> Float[Tensor, "b n k"]:
    """The slope over five steps in time; beyond both ends of a sound lies the value at that end, and no padding."""
    place = torch.arange(values.shape[1], device=values.device)

    def at(places: Int[Tensor, " n"]) -> Float[Tensor, "b n k"]:
        inside = torch.minimum(places.clamp(min=0), (ends - 1).clamp(min=0))
        return values.gather(1, inside[..., None].expand_as(values))

    return torch.stack([far * (at(place + far) - at(place - far)) for far in (1, 2)]).sum(0) / 10


def cqt_bins(rate: int) -> int:
    """Bins of the constant-Q transform whose band lies below half the sample rate."""
    highest = rate / 2 / 2 ** (1 / OCTAVE)
    return max(1, min(OCTAVE * OCTAVES, 1 + math.floor(OCTAVE * math.log2(highest / LOWEST))))


@lru_cache(maxsize=4)
def cqt_kernels(rate: int) -> Float32[np.ndarray, "s f"]:
    """Complex exponentials under a Hann window of Q periods, as many real as imaginary parts, centred in frames of equal length.

    Each has norm 1 by its sum of magnitudes, times the root of its length (librosa's scale).
    """
    quality = 1 / (2 ** (1 / OCTAVE) - 1)
    frequencies = LOWEST * 2 ** (np.arange(cqt_bins(rate)) / OCTAVE)
    lengths = np.ceil(quality * rate / frequencies).astype(int)
    size = int(lengths.max()) // 2 * 2 + 2
    kernels = np.zeros((2, len(frequencies), size))
    for kernel, frequency, length in zip(kernels.transpose(1, 0, 2), frequencies, lengths, strict=True):
        start = (size - length) // 2
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        phase = 2 * np.pi * frequency / rate * (np.arange(start, start + length) - size / 2)
        wave = window / window.sum() * length**0.5
        kernel[:, start : start + length] = wave * np.cos(phase), -wave * np.sin(phase)
    return kernels.reshape(-1, size).T.astype(np.float32)


def cqt(waveform: Float[Tensor, "b s"], rate: int) -> Float[Tensor, "b n f"]:
    """log(1 + magnitude) of a constant-Q transform (Brown 1991) around the middle of each token, silence around the sound.

    The logarithm keeps its squared error of the order of a cross-entropy; MERT regresses the magnitude itself.
    """
    kernels = torch.from_numpy(cqt_kernels(rate)).to(waveform.device)
    size = len(kernels)
    ahead = (size - HOP) // 2
    tokens = waveform.shape[1] // HOP
    padded = F.pad(waveform.float(), (ahead, size - HOP - ahead))
    parts = padded.unfold(1, size, HOP)[:, :tokens] @ kernels
    return parts.unflatten(-1, (2, -1)).square().sum(2).sqrt().log1p()


@lru_cache(maxsize=4)
def pitch_classes(bins: int, rate: int, low: float, high: float) -> Float32[np.ndarray, "m 12"]:
    """Share of each mel bin in the pitch classes C to B: all of it in that of its centre."""
    first, last = (1127 * math.log(1 + frequency / 700) for frequency in (low, high))
    centres = 700 * (np.exp((first + (np.arange(bins) + 1) * (last - first) / (bins + 1)) / 1127) - 1)
    number = np.round(12 * np.log2(centres / LOWEST)).astype(int) % CLASSES
    return np.eye(CLASSES, dtype=np.float32)[number]


def chroma(log_power: Float[Tensor, "b k c f m"], classes: Float[Tensor, "m 12"], bins: int) -> Float[Tensor, "b n 12"]:
    """Share of each pitch class in the power of a patch.

    Coarse: below about 700 Hz a mel bin is wider than a semitone. A constant-Q transform needs the waveform.
    """
    loud = log_power.amax((1, 2, 3, 4), keepdim=True)
    power = (log_power - loud).exp().mean((2, 3))
    found = torch.einsum("bkrm,rmp->bkrp", power.unflatten(2, (-1, bins)), classes.unflatten(0, (-1, bins))).flatten(1, 2)
    return found / found.sum(-1, keepdim=True).clamp(min=EPSILON)

"""Log-mel filterbanks as Kaldi's compute-fbank-feats makes them, many frames at a time."""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

Window = Literal["hanning", "hamming", "povey"]

EPSILON = torch.finfo(torch.float32).eps
"""Least power of a bin before its logarithm."""
FLOOR = math.log(EPSILON)
"""Log power of silence, -15.94."""
PREEMPHASIS = 0.97
MILLISECONDS = 0.001
CHUNK = 512
"""Frames at a time: what they need stays in the processor's cache."""


class Filterbank:
    """Waveforms to the log power of triangular mel filters.

    As Kaldi and torchaudio.compliance.kaldi.fbank without dither and energy: frames that fit (snip edges), each without its mean,
    pre-emphasised by 0.97, windowed and padded to a power of two; natural logarithm of the power, at least float32's epsilon.
    """

    def __init__(
        self, rate: int, bins: int, length: float, shift: float, low: float, high: float | None, window: Window = "hanning"
    ) -> None:
        self.size, self.hop = int(rate * length * MILLISECONDS), int(rate * shift * MILLISECONDS)
        if self.size < 2 or self.hop < 1:
            raise ValueError(
                f"processor.frame_length={length} ms and frame_shift={shift} ms are {self.size} and {self.hop} samples at "
                f"sample_rate={rate}; at least 2 and 1 are needed. Make them longer"
            )
        top = rate / 2 if high is None else high
        if not 0 <= low < top <= rate / 2:
            raise ValueError(
                f"the mel filters need 0 <= processor.low_frequency < high_frequency <= {rate / 2:g} Hz, half the sample_rate; got "
                f"{low:g} and {top:g}"
            )
        self.padded = 1 << (self.size - 1).bit_length()
        # By way of numpy, as models are built on the meta device and with other default types.
        self.window = torch.from_numpy(window_function(window, self.size))
        self.mel = torch.from_numpy(mel_filters(bins, self.padded, rate, low, top))

    def __call__(self, waveform: Float[Tensor, "c n"]) -> Float[Tensor, "c t m"]:
        """Of a sound shorter than a frame, one frame with silence behind it."""
        waveform = F.pad(waveform, (0, max(0, self.size - waveform.shape[1])))
        # Pre-emphasis of x - mean is that of x minus 0.03 mean, so the frames share it.
        emphasised = F.pad(waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1], (1, 0))
        frames, sharp = (x.unfold(1, self.size, self.hop) for x in (waveform, emphasised))
        out = waveform.new_empty(*frames.shape[:2], self.mel.shape[1])
        for channel in range(len(frames)):
            for start in range(0, frames.shape[1], CHUNK):
                part = (channel, slice(start, start + CHUNK))
                out[part] = self._log_power(frames[part], sharp[part])
        return out

    def _log_power(self, frames: Float[Tensor, "t s"], sharp: Float[Tensor, "t s"]) -> Float[Tensor, "t m"]:
        """`sharp`: the frames pre-emphasised, except for their first sample and their mean."""
        rest = 1 - PREEMPHASIS
        mean = frames.mean(1, keepdim=True)
        windowed = frames.new_zeros(len(frames), self.padded)
        inner = windowed[:, : self.size]
        torch.sub(sharp, mean, alpha=rest, out=inner)
        inner[:, :1] = rest * (frames[:, :1] - mean)
        inner *= self.window
        spectrum = torch.fft.rfft(windowed)[:, :-1]
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        return (power @ self.mel).clamp_(min=EPSILON).log_()


def window_function(name: Window, size: int) -> Float32[np.ndarray, " s"]:
    """Symmetric windows; Povey's is Kaldi's own."""
    window = np.hamming(size) if name == "hamming" else np.hanning(size)
    return (window**0.85 if name == "povey" else window).astype(np.float32)


def mel_filters(bins: int, padded: int, rate: int, low: float, high: float) -> Float32[np.ndarray, "f m"]:
    """Triangles that are equally wide on the mel scale and reach to the centres of their neighbours; without the Nyquist frequency.

    In float32, as Kaldi's. Filters narrower than the distance between two frequencies of the transform may be empty.
    """
    first, last = (1127 * math.log(1 + frequency / 700) for frequency in (low, high))
    step = (last - first) / (bins + 1)
    mel = 1127 * np.log(1 + rate / padded * np.arange(padded // 2, dtype=np.float32) / 700)[:, None]
    left, centre, right = (first + (np.arange(bins, dtype=np.float32) + k) * step for k in range(3))
    return np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clip(min=0)


@lru_cache(maxsize=16)
def filterbank(
    rate: int, bins: int, length: float, shift: float, low: float, high: float | None, window: Window = "hanning"
) -> Filterbank:
    """A filterbank that is made once in every process."""
    return Filterbank(rate, bins, length, shift, low, high, window)


@lru_cache(maxsize=16)
def cosines(bins: int, count: int) -> Float[Tensor, "m k"]:
    """The first vectors of the orthonormal DCT-II, which turns log-mel values into cepstral coefficients (MFCC)."""
    place = (np.arange(bins)[:, None] + 0.5) / bins
    matrix = np.cos(np.pi * place * np.arange(min(count, bins))) * (2 / bins) ** 0.5
    matrix[:, 0] = bins**-0.5
    return torch.from_numpy(matrix.astype(np.float32))

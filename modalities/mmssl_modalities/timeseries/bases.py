"""Series in another basis, or in a tight frame, as views without any chance in them (Demirel and Holz, NeurIPS 2025).

"Learning Without Augmenting: Unsupervised Time Series Representation Learning via Frame Projections". Both keep the energy of a
series (Parseval), and its length, so that the adapter takes them for a series.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROOT = math.sqrt(2)
"""Of a spectrum of real numbers one half is kept, whose coefficients then count twice."""


def fourier(values: Float[Tensor, "b c t"], length: Int[Tensor, "b 1"]) -> Float[Tensor, "b c t"]:
    """The orthonormal discrete Fourier transform of the first `length` values of each series, as real numbers, then zeros.

    In order of frequency, cosine before sine: mean, cos 1, sin 1, cos 2, ..., and of an even number of values at last the highest.
    """
    found = torch.zeros_like(values)
    for n in length.unique().tolist():
        of_length = (length[:, 0] == n).nonzero()[:, 0]
        spectrum = torch.fft.rfft(values[of_length, :, :n], norm="ortho")
        pairs = torch.view_as_real(spectrum[..., 1 : (n + 1) // 2]).flatten(2) * ROOT
        last = spectrum[..., n // 2 :].real if n % 2 == 0 else spectrum[..., :0].real
        found[of_length, :, :n] = torch.cat([spectrum[..., :1].real, pairs, last], -1)
    return found


def gabor(
    values: Float[Tensor, "b c t"], length: Int[Tensor, "b 1"], frame: int
) -> tuple[Float[Tensor, "b c t2"], Bool[Tensor, "b 1 t2"]]:
    """Magnitudes in a tight Gabor frame, `frame` frequencies for every `frame` values; and which are there.

    Windows of two frames, roots of Hann's, one frame apart, wrap round at the end of each series, which zeros fill up to whole
    frames. Frequencies 0 to `frame` - 1 of a window come in order; the highest, `frame`, is joined to 0.
    """
    frames = -(-values.shape[2] // frame)
    there = torch.arange(frames * frame, device=values.device) < -(-length // frame) * frame
    padded = F.pad(values, (0, frames * frame - values.shape[2]))
    offsets = torch.arange(2 * frame, device=values.device)
    window = (math.pi * (offsets.to(values.dtype) + 0.5) / (2 * frame)).sin()
    places = (torch.arange(frames, device=values.device)[:, None] * frame + offsets) % (-(-length // frame) * frame)[..., None]
    index = places.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    windows = padded.gather(2, index).unflatten(2, (frames, 2 * frame)) * window
    power = torch.view_as_real(torch.fft.rfft(windows, norm="ortho")).square().sum(-1)
    joined = torch.cat([power[..., :1] + power[..., -1:], 2 * power[..., 1:-1]], -1)
    return joined.sqrt().flatten(2) * there[:, None], there[:, None]

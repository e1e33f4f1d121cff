"""The convolutional stem of wav2vec 2.0, which makes tokens of the waveform itself."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmssl_modalities.audio.processor import STRIDE

StemNorm = Literal["layer", "group"]

LAYERS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each layer (arXiv 2006.11477, section 4.2): together a kernel of 400 samples every 320."""
BORDER = 40
"""Zeros at both ends, so that a sound has a token for every 320 samples."""


class WaveformStem(nn.Module):
    """Seven convolutions with GELU, 20 ms a token at 16 kHz (wav2vec 2.0, arXiv 2006.11477, sections 2 and 4.2), then a projection.

    norm: layer = over the channels, after every convolution; group = over the time of each channel, after the first alone. The
    paper's models have 512 channels.
    """

    def __init__(self, channels: int, hidden: int, width: int, norm: StemNorm) -> None:
        super().__init__()
        layer = norm == "layer"
        self.convs = nn.ModuleList(
            Convolution(hidden if i else channels, hidden, kernel, stride, bias=layer) for i, (kernel, stride) in enumerate(LAYERS)
        )
        self.norms = nn.ModuleList(ChannelNorm(hidden) for _ in LAYERS) if layer else nn.ModuleList([TimeNorm(hidden)])
        self.norm = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, width)

    def forward(self, waveform: Float[Tensor, "b c s"], lengths: Int[Tensor, "b 1"] | None) -> Float[Tensor, "b n d"]:
        """`lengths`: how many tokens of each sound are real; None: all."""
        x = F.pad(waveform.to(self.proj.weight.dtype), (BORDER, BORDER))
        kernel, stride = LAYERS[0]
        first = None if lengths is None else (lengths * STRIDE + 2 * BORDER - kernel) // stride + 1
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i < len(self.norms):
                x = self.norms[i](x, first if i == 0 else None)
            x = F.gelu(x)
        return self.proj(self.norm(x.transpose(1, 2)))


class Convolution(nn.Conv1d):
    """A convolution that keeps the variance of what passes a rectifier (Kaiming's initialisation, as in the paper's code).

    Biases start as torch's own. Were they zero, digital silence would stay zero through all layers, and each norm would multiply
    its gradient by the root of 1 / eps: norms of 1e11 were measured on spoken digits.
    """

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)
        if self.bias is not None:
            bound = (self.in_channels * self.kernel_size[0]) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of `[b, c, t]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "b c t"], lengths: Int[Tensor, "b 1"] | None) -> Float[Tensor, "b c t"]:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class TimeNorm(nn.Module):
    """GroupNorm with a group for every channel: each over its own time, where padding is left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(width, width)

    def forward(self, x: Float[Tensor, "b c t"], lengths: Int[Tensor, "b 1"] | None) -> Float[Tensor, "b c t"]:
        if lengths is None:
            return self.norm(x)
        there = (torch.arange(x.shape[2], device=x.device) < lengths)[:, None]
        count = lengths[:, None]
        mean = (x * there).sum(2, keepdim=True) / count
        variance = ((x - mean).square() * there).sum(2, keepdim=True) / count
        return (x - mean) * (variance + self.norm.eps).rsqrt() * self.norm.weight[:, None] + self.norm.bias[:, None]

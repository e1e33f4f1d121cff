"""Another sound, or white noise, over a part of a sound, at a chosen signal-to-noise ratio."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.draws import Draws
from mmssl_modalities.audio.fbank import PREEMPHASIS
from mmssl_modalities.audio.processor import AudioProcessor

DECIBEL = math.log(10) / 10
"""Of a power, as a natural logarithm."""


@dataclass(frozen=True)
class Levels:
    """What normalised values mean: log power = values x scale + offset, for each mel bin or for all.

    noise, freedom: mean power of white noise of power 1 in each mel bin, and how many independent numbers it is the mean of.
    """

    scale: Float[Tensor, " k"]
    offset: Float[Tensor, " k"]
    noise: Float[Tensor, " m"]
    freedom: Float[Tensor, " m"]

    @staticmethod
    def of(processor: AudioProcessor) -> "Levels":
        """Levels of a processor; a mean that each sound lost by itself (utterance_mean, utterance) is not known."""
        bank = processor._bank()
        turn = 2 * math.pi * torch.arange(len(bank.mel)) / bank.padded
        emphasis = 1 + PREEMPHASIS**2 - 2 * PREEMPHASIS * turn.cos()
        weights = bank.mel * emphasis[:, None] * bank.window.square().sum()
        total = weights.sum(0).clamp(min=torch.finfo(torch.float32).tiny)
        freedom = total.square() / weights.square().sum(0).clamp(min=1e-30)
        # A narrow mel bin may hold no frequency at all: it has no noise, whatever its distribution.
        return Levels(processor.scale, processor.offset, total, freedom.masked_fill(freedom == 0, 1))

    def on(self, device: torch.device) -> "Levels":
        return Levels(*(value.to(device) for value in (self.scale, self.offset, self.noise, self.freedom)))


PLAIN = Levels(torch.ones(1), torch.zeros(1), torch.ones(1), torch.ones(1))
"""Values that are natural logarithms of power themselves."""


@dataclass(frozen=True)
class Part:
    """A part of each sound, drawn: at most `share` of it, and at most as long as what is laid over it.

    start, length: in steps; ratio: signal-to-noise ratio in decibels; chosen: which sounds have one at all.
    """

    start: Int[Tensor, "b 1"]
    length: Int[Tensor, "b 1"]
    ratio: Float[Tensor, "b 1"]
    chosen: Bool[Tensor, "b 1"]

    def inside(self, count: int) -> Bool[Tensor, "b 1 t 1"]:
        """Which of `count` steps lie in the part."""
        place = torch.arange(count, device=self.start.device)
        return (self.chosen & (place >= self.start) & (place < self.start + self.length))[:, None, :, None]


def draw_part(
    name: str,
    steps: Int[Tensor, "b 1"],
    longest: Int[Tensor, "b 1"],
    share: float,
    snr: tuple[float, float],
    chance: float,
    draws: Draws,
) -> Part:
    """Length, place and level of what is laid over each sound."""
    length = torch.minimum((draws.between(f"{name} length", 0.0, share, 1) * (steps + 1)).floor().long(), longest)
    start = (draws.uniform(f"{name} place", 1) * (steps - length + 1)).floor().long()
    return Part(start, length, draws.between(f"{name} ratio", *snr, 1), draws.uniform(name, 1) < chance)


def log_power(x: Float[Tensor, "b c t m"], inside: Bool[Tensor, "b 1 t 1"], levels: Levels | None) -> Float[Tensor, "b 1"]:
    """Logarithm of the mean power over the steps of each sound; `levels` of log-mel values, None of a waveform."""
    log = x * levels.scale + levels.offset if levels is not None else x.square().clamp(min=1e-20).log()
    count = inside.sum((1, 2, 3)) * x.shape[1] * x.shape[3]
    return (log.masked_fill(~inside, -torch.inf).flatten(1).logsumexp(1) - count.clamp(min=1).log())[:, None]


def laid_over(
    x: Float[Tensor, "b c t m"], other: Float[Tensor, "b c t m"], gain: Float[Tensor, "b 1"], part: Part, levels: Levels | None
) -> Float[Tensor, "b c t m"]:
    """`other`, its power times exp(gain), added to `x` in the part: as samples, or as power of log-mel values."""
    gain = gain[..., None, None]
    if levels is None:
        mixed = x + other * (gain / 2).exp()
    else:
        mixed = (
            torch.logaddexp(x * levels.scale + levels.offset, other * levels.scale + levels.offset + gain) - levels.offset
        ) / levels.scale
    return torch.where(part.inside(x.shape[2]), mixed, x)


def white(x: Float[Tensor, "b c t m"], levels: Levels | None, draws: Draws) -> Float[Tensor, "b c t m"]:
    """White noise of any level, in the values of `x`.

    In a mel bin the power is about gamma distributed; its cube root is about normal (Wilson and Hilferty 1931).
    """
    normal = draws.normal("audio hiss noise", x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
    if levels is None:
        return normal
    spread = 1 / (9 * levels.freedom)
    power = (1 - spread + normal * spread.sqrt()).clamp(min=1e-3) ** 3 * levels.noise
    return (power.log() - levels.offset) / levels.scale

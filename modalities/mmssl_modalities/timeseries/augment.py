"""Random views of batched series, on the device of the batch."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs
from mmssl_modalities.timeseries.processor import OBSERVED, VALUES
from mmssl_modalities.timeseries.tokens import observed

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class TimeseriesAugment:
    """A stretched part of the series, another amplitude, noise, and points that go missing, each drawn per sample.

    Statistics and times stay as they are. Amplitude and noise count in standard deviations of each channel.

    crop: smallest and largest share of the series that is kept, then stretched to its length by linear interpolation; NuTime
        (arXiv 2310.07402) has [0.8, 1.0]. null: no crop.
    scale: largest relative change of the amplitude, per channel, about its mean.
    jitter: standard deviation of added noise.
    drop: probability that a point goes missing.
    """

    crop: tuple[Share, Share] | None = None
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    jitter: Annotated[float, Field(ge=0)] = 0.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise ValueError(f"augment.crop gives the smallest share of the series first; got {list(self.crop)}. Exchange the two")

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch. The view of a sample depends on its own key, size and values only."""
        values, there = inputs[VALUES], observed(inputs)
        with torch.autocast(values.device.type, enabled=False):
            if self.crop:
                values, there = _stretched_part(values, there, self.crop, draws)
            if self.scale or self.jitter:
                values = self._disturb(values, there, draws)
        view = inputs | {VALUES: values}
        if self.drop:
            kept = there & (_own(draws.uniform("timeseries drop", values[0].numel()), there) >= self.drop)
            # A series without any point would have no token.
            there = torch.where(kept.flatten(1).any(1)[:, None, None], kept, there)
        return view | {OBSERVED: there} if self.drop or OBSERVED in inputs else view

    def _disturb(self, values: Float[Tensor, "b c t"], there: Bool[Tensor, "b c t"], draws: Draws) -> Float[Tensor, "b c t"]:
        count = there.sum(2, keepdim=True).clamp(min=1)
        mean = (values * there).sum(2, keepdim=True) / count
        centred = (values - mean) * there
        gain = draws.between("timeseries scale", 1 - self.scale, 1 + self.scale, values.shape[1], 1)
        changed = mean + gain * centred
        if self.jitter:
            spread = (centred.square().sum(2, keepdim=True) / count).sqrt()
            changed = changed + self.jitter * spread * _own(draws.normal("timeseries jitter", values[0].numel()), there)
        return changed * there


def _own(drawn: Float[Tensor, "b n"], there: Bool[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
    """A number for every point, the same however far series are padded: counted channel by channel of a series' own length."""
    channel, time = (torch.arange(size, device=there.device) for size in there.shape[1:])
    place = channel[:, None] * (_last(there)[..., None] + 1) + time
    return drawn.gather(1, place.flatten(1)).unflatten(1, there.shape[1:])


def _last(there: Bool[Tensor, "b c t"]) -> Int[Tensor, "b 1"]:
    """The last point of each series that any channel has."""
    return torch.where(there.any(1), torch.arange(there.shape[2], device=there.device), 0).amax(1, keepdim=True)


def _stretched_part(
    values: Float[Tensor, "b c t"], there: Bool[Tensor, "b c t"], shares: tuple[float, float], draws: Draws
) -> tuple[Float[Tensor, "b c t"], Bool[Tensor, "b c t"]]:
    """A random part of each series in the length of the whole. A point between a value and a gap is missing."""
    number, last = torch.arange(values.shape[2], device=values.device), _last(there)
    end = last.to(torch.float32)
    share = draws.between("timeseries crop share", *shares, 1)
    start = end * (1 - share) * draws.uniform("timeseries crop place", 1)
    place = (start + number * share).minimum(end)
    lower = place.floor().long()
    weight = (place - lower)[:, None].to(values.dtype)
    index = [part[:, None].expand_as(values) for part in (lower, (lower + 1).minimum(last))]
    low, high = (values.gather(2, part) for part in index)
    low_there, high_there = (there.gather(2, part) for part in index)
    found = low_there & (high_there | (weight == 0)) & (number <= last)[:, None]
    return torch.lerp(low, high, weight) * found, found

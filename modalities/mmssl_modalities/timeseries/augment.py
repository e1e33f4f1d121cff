"""Random views of batched series, on the device of the batch."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, most
from mmssl.modality import IGNORED, Inputs, check_range
from mmssl_modalities.timeseries.bases import fourier, gabor
from mmssl_modalities.timeseries.processor import LABELS, OBSERVED, TIMES, VALUES
from mmssl_modalities.timeseries.tokens import observed

Share = Annotated[float, Field(gt=0, le=1)]
Chance = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class TimeseriesAugment:
    """A part of the series, its pieces in another order, another amplitude, noise, and points that go missing, each drawn per
    sample; or the series in another basis.

    Statistics and times stay as they are; labels of steps move with these. Amplitude and noise count in standard deviations of
    each channel.

    crop: smallest and largest share of the series that is kept, then stretched to its length by linear interpolation; NuTime
        (arXiv 2310.07402) has [0.8, 1.0]. null: no crop.
    part: smallest and largest share of the series in a view that is the shorter for it, not stretched, and whose times tell where
        it lay: two such views overlap as the crops of TS2Vec (arXiv 2106.10466). null: all.
    permute: number of equal pieces that change places (Um et al. 2017, doi:10.1145/3136755.3136817, has 4). 0 or 1: none.
    scale: largest relative change of the amplitude, per channel, about its mean.
    flip: probability that a series is mirrored, each channel at its mean.
    jitter: standard deviation of added noise.
    drop: probability that a point goes missing.
    time_mask: largest share of the series in a stretch that goes missing.
    basis: what the series is projected on at last, without any chance in it: fourier = the orthonormal Fourier basis; gabor =
        magnitudes in a tight Gabor frame (both: Demirel and Holz, NeurIPS 2025, Learning Without Augmenting). Gaps count as the
        mean of their channel.
    frame: with gabor, samples and frequencies of a frame; make it adapter.patch_size, and a token is a spectrum.
    """

    crop: tuple[Share, Share] | None = None
    part: tuple[Share, Share] | None = None
    permute: Annotated[int, Field(ge=0)] = 0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    flip: Chance = 0.0
    jitter: Annotated[float, Field(ge=0)] = 0.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    time_mask: Annotated[float, Field(ge=0, lt=1)] = 0.0
    basis: Literal["none", "fourier", "gabor"] = "none"
    frame: Annotated[int, Field(gt=0)] = 16

    def __post_init__(self) -> None:
        check_range("crop", "share of the series", self.crop)
        check_range("part", "share of the series", self.part)

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        """One random view of a batch. The view of a sample depends on its own key, size and values only."""
        view, partly = dict(inputs), OBSERVED in inputs
        values, there = inputs[VALUES], observed(inputs)
        if LABELS in inputs and self.basis != "none":
            raise ValueError("augment.basis leaves no steps that labels could belong to (objective.kind: dense); leave it out")
        source = torch.arange(values.shape[2], device=values.device).expand(len(values), -1)
        with torch.autocast(values.device.type, enabled=False):
            if self.crop:
                values, there, source = _stretched_part(values, there, self.crop, draws)
            if self.part is not None:
                values, there, view[TIMES], part = _part(values, there, inputs.get(TIMES), self.part, draws)
                source = source.gather(1, part.clamp(min=0)).masked_fill(part < 0, -1)
                partly |= self.part[0] < self.part[1]
            if self.permute > 1:
                moved = _permuted(_last(there) + 1, self.permute, there.shape[2], draws)
                order, source = moved[:, None].expand_as(values), source.gather(1, moved)
                values, there = values.gather(2, order), there.gather(2, order)
            if self.scale or self.flip or self.jitter:
                values = self._disturb(values, there, draws)
            if self.drop or self.time_mask:
                there, partly = self._thinned(there, draws), True
            if self.basis != "none":
                last = _last(there)
                values, there = self._projected(values, there)
                if TIMES in view:
                    view[TIMES] = _on(view[TIMES], last, values.shape[2])
        if LABELS in inputs:
            view[LABELS] = inputs[LABELS].gather(1, source.clamp(min=0)).masked_fill(source < 0, IGNORED)
        return view | {VALUES: values} | ({OBSERVED: there} if partly else {})

    def _thinned(self, there: Bool[Tensor, "b c t"], draws: Draws) -> Bool[Tensor, "b c t"]:
        """Without some of the points. A series without any would have no token, so it keeps them."""
        kept = there
        if self.drop:
            kept = kept & (_own(draws.uniform("timeseries drop", there[0].numel()), there) >= self.drop)
        if self.time_mask:
            end = _last(there) + 1
            length = draws.between("timeseries mask", 0.0, self.time_mask, 1) * end
            start = draws.uniform("timeseries mask place", 1) * (end - length)
            place = torch.arange(there.shape[2], device=there.device) + 0.5
            kept = kept & ~((place >= start) & (place < start + length))[:, None]
        return torch.where(kept.flatten(1).any(1)[:, None, None], kept, there)

    def _projected(
        self, values: Float[Tensor, "b c t"], there: Bool[Tensor, "b c t"]
    ) -> tuple[Float[Tensor, "b c t2"], Bool[Tensor, "b c t2"]]:
        """Series in another basis; of a channel without any point there is none."""
        length, known = _last(there) + 1, there.any(2, keepdim=True)
        inside = (torch.arange(there.shape[2], device=there.device) < length)[:, None] & known
        filled = torch.where(there, values, _mean(values, there)) * inside
        if self.basis == "fourier":
            return fourier(filled, length), inside
        projected, found = gabor(filled, length, self.frame)
        return projected, found & known

    def _disturb(self, values: Float[Tensor, "b c t"], there: Bool[Tensor, "b c t"], draws: Draws) -> Float[Tensor, "b c t"]:
        mean = _mean(values, there)
        centred = (values - mean) * there
        gain = draws.between("timeseries scale", 1 - self.scale, 1 + self.scale, values.shape[1], 1)
        if self.flip:
            gain = torch.where(draws.uniform("timeseries flip", 1, 1) < self.flip, -gain, gain)
        changed = mean + gain * centred
        if self.jitter:
            spread = _mean(centred.square(), there).sqrt()
            changed = changed + self.jitter * spread * _own(draws.normal("timeseries jitter", values[0].numel()), there)
        return changed * there


def _mean(values: Float[Tensor, "b c t"], there: Bool[Tensor, "b c t"]) -> Float[Tensor, "b c 1"]:
    """Mean of each channel over its points; 0 if it has none."""
    return (values * there).sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)


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
) -> tuple[Float[Tensor, "b c t"], Bool[Tensor, "b c t"], Int[Tensor, "b t"]]:
    """A random part of each series in the length of the whole, and the nearest point to each place, -1 behind the end.

    A point between a value and a gap is missing.
    """
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
    return torch.lerp(low, high, weight) * found, found, place.round().long().masked_fill(number > last, -1)


def _part(
    values: Float[Tensor, "b c t"],
    there: Bool[Tensor, "b c t"],
    times: Float[Tensor, "b t"] | None,
    shares: tuple[float, float],
    draws: Draws,
) -> tuple[Float[Tensor, "b c s"], Bool[Tensor, "b c s"], Float[Tensor, "b s"], Int[Tensor, "b s"]]:
    """A random part of each series as it is, its times, and which points it has, -1 behind its end.

    One that fell into a gap begins at the first point instead.
    """
    length, width = _last(there) + 1, most(shares[1], there.shape[2])
    size = draws.part("timeseries part", shares, length)
    start = draws.start("timeseries part place", size, length)
    met = there.any(1)
    so_far = F.pad(met.cumsum(1), (1, 0))
    empty = so_far.gather(1, start) == so_far.gather(1, start + size)
    start = torch.where(empty, met.long().argmax(1, keepdim=True).minimum(length - size), start)
    place = torch.arange(width, device=values.device)
    source = (start + place).minimum(length - 1)
    index, inside = source[:, None].expand(-1, values.shape[1], -1), (place < size)[:, None]
    found = there.gather(2, index) & inside
    clock = source.float() if times is None else times.gather(1, source)
    return values.gather(2, index) * found, found, clock, source.masked_fill(place >= size, -1)


def _on(times: Float[Tensor, "b t"], last: Int[Tensor, "b 1"], width: int) -> Float[Tensor, "b s"]:
    """Times of `width` points: after the last point of a series they go on evenly, for a projection that is longer than it."""
    place = torch.arange(width, device=times.device)
    return times.gather(1, place.minimum(last)) + (place - last).clamp(min=0)


def _permuted(length: Int[Tensor, "b 1"], pieces: int, count: int, draws: Draws) -> Int[Tensor, "b t"]:
    """For each of `count` places, where in the series its point comes from: equal pieces of each in random order."""
    bounds = torch.arange(pieces + 1, device=length.device) * length // pieces
    order = draws.uniform("timeseries permute", pieces).argsort(dim=1)
    first, size = bounds[:, :-1].gather(1, order), bounds.diff(dim=1).gather(1, order)
    end = size.cumsum(1)
    place = torch.arange(count, device=length.device).expand(len(length), -1).contiguous()
    piece = torch.searchsorted(end, place, right=True).clamp(max=pieces - 1)
    return torch.where(place < length, place + (first - end + size).gather(1, piece), place)

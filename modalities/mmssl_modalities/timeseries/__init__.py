"""Series of numbers as patches along time (PatchTST, arXiv 2211.14730, section 3.1), their gaps and their scale kept."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from mmssl.modality import Adapter, Axis, Inputs, MaskPreference, Modality
from mmssl.tokens import Tokens
from mmssl_modalities.timeseries.augment import TimeseriesAugment
from mmssl_modalities.timeseries.dense import DenseSeries
from mmssl_modalities.timeseries.files import SUFFIXES
from mmssl_modalities.timeseries.picture import draw, picture
from mmssl_modalities.timeseries.processor import OBSERVED, STATISTICS, TIMES, VALUES, TimeseriesProcessor
from mmssl_modalities.timeseries.starting import claim, suited
from mmssl_modalities.timeseries.tokens import (
    NUMBER_WIDTH,
    ConvStem,
    NumericEmbedding,
    Packing,
    compress,
    grid,
    mix,
    moments,
    observed,
    packing,
    patchify,
)

__all__ = ["TIMESERIES", "TimeseriesAdapter", "TimeseriesAugment", "TimeseriesProcessor"]


class TimeseriesAdapter(Adapter):
    """One token per patch of time and channel that holds a value, channel by channel: a linear map of its values (0 where missing)
    and of which of them are observed. With mixed channels a token holds the patches of all channels, channel by channel.

    Time coordinate: the time of a patch's first sample over the nominal duration of a patch, so k for patch k of an evenly sampled
    series; height: the number of the channel, 0 if mixed, or if channels attend apart. The end of a series that fills no patch is
    padded as missing.

    With instance normalisation each channel (if mixed, all in one) has a token of its location and scale at time -1. With window
    normalisation each patch has mean 0 and standard deviation 1, and its mean and deviation beside it in its token (NuTime,
    arXiv 2310.07402, section 3). Both pass through `NumericEmbedding`.

    Targets: `patches`, the values of a patch in order of time, normalised as the input is, `[b, n, patch_size]` (if mixed,
    `mixed_patches`, `[b, n, channels * patch_size]`), NaN where missing; `statistics`, location and scale as sign(x) log(1 + |x|),
    `[b, n, 2]` (if mixed, `[b, n, 2 * channels]`).

    patch_size: samples per patch.
    statistics: with instance normalisation, whether location and scale are a token.
    stem: linear; conv = convolutions within each patch, pooled over it, in place of the linear map, for patterns that may lie
        anywhere.
    attention: all = the tokens of all channels attend to each other; channel = those of each channel among themselves: it is
        encoded as if it were a series of its own (PatchTST, section 3.1), at a cost in proportion to the number of channels.
    """

    input_names = (VALUES, OBSERVED, STATISTICS, TIMES)
    mixable = True

    def __init__(
        self,
        width: int,
        processor: TimeseriesProcessor,
        *,
        patch_size: Annotated[int, Field(gt=0)] = 16,
        statistics: bool = True,
        stem: Literal["linear", "conv"] = "linear",
        attention: Literal["all", "channel"] = "all",
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.mixed = processor.channels == "mixed"
        self.by_window = processor.normalise == "window"
        if self.mixed and not processor.num_channels:
            raise ValueError("channels: mixed needs processor.num_channels: fit the processor on training series, or set it")
        self.apart = attention == "channel"
        if self.mixed and self.apart:
            raise ValueError(
                "adapter.attention: channel lets each channel attend to itself, but a token of channels: mixed holds all of them; "
                "set processor.channels to independent, or attention to all"
            )
        group = processor.num_channels if self.mixed and processor.num_channels else 1
        has_token = statistics and processor.normalise == "instance"
        self.numbers = NumericEmbedding() if has_token or self.by_window else None
        contents = group * (2 * patch_size * (stem == "linear") + 2 * NUMBER_WIDTH * self.by_window)
        self.proj = nn.Linear(contents, width) if contents else None
        self.stem = ConvStem(2 * group, width) if stem == "conv" else None
        self.proj_statistics = nn.Linear(group * 2 * NUMBER_WIDTH, width) if has_token else None
        self.patches_name = "mixed_patches" if self.mixed else "patches"
        self.target_sizes = {self.patches_name: group * patch_size}
        if self.numbers is not None:
            self.target_sizes["statistics"] = 2 * group
        rows = {} if self.mixed else {1: Axis("channels")}
        whole = rows | {2: Axis("time")}
        self.axes = {VALUES: whole, OBSERVED: whole, TIMES: {1: Axis("time")}}
        self.channels = group if self.mixed else None
        self.dense = DenseSeries(patch_size, mixed=self.mixed, statistics=has_token)
        if processor.normalise == "instance":
            self.axes |= {STATISTICS: rows}

    def forward(self, inputs: Inputs) -> Tokens:
        order, values = self._packing(inputs), self._embedded_patches(inputs)
        if self.proj_statistics is not None:
            statistics = self._embedded_statistics(inputs).to(self.proj_statistics.weight.dtype)
            values = torch.cat([self.proj_statistics(statistics), values], 2)
        found = Tokens(order.take(values), order.take(self._coords(inputs, values)), order.valid)
        if not self.apart:
            return found
        b, rows, count = values.shape[:3]
        channel = torch.arange(rows, device=values.device)[:, None, None].expand(b, rows, count, 1)
        return replace(found, sequence=order.take(channel)[..., 0], num_sequences=rows)

    def continuous(self, inputs: Inputs) -> dict[str, Tensor]:
        return {VALUES: inputs[VALUES].masked_fill(~observed(inputs), 0)}

    def places(self, length: int) -> int:
        return -(-length // self.patch_size) + int(self.proj_statistics is not None)

    def place(self, tokens: Tokens) -> Int[Tensor, "b n"]:
        return tokens.coords[..., 0].round().long() + int(self.proj_statistics is not None)

    def level(self, inputs: Inputs) -> Float[Tensor, "b 2"]:
        if inputs[VALUES].shape[1] != 1:
            raise ValueError(
                f"what follows is told of one variable at a time; got series of {inputs[VALUES].shape[1]} channels. Pass each "
                "channel as a series of its own"
            )
        if STATISTICS in inputs:
            return inputs[STATISTICS][:, 0].float()
        there = observed(inputs)
        return moments(inputs[VALUES].masked_fill(~there, 0), there)[1][:, 0]

    def made_up(self, count: int, size: int) -> Inputs:
        shape = (count, self.channels or size, size * self.patch_size)
        times = torch.rand(count, shape[2]).cumsum(1)
        found = {VALUES: torch.randn(shape), TIMES: times, OBSERVED: torch.rand(shape) < 0.9}
        found[OBSERVED][:, :, -self.patch_size :] &= (torch.arange(count) % 2 == 0)[:, None, None]
        return found | ({STATISTICS: torch.randn(*shape[:2], 2).exp()} if STATISTICS in self.axes else {})

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        patches, there, level = self._patches(inputs)
        order = self._packing(inputs)
        found = patches.float().masked_fill(~there, torch.nan)
        if level is not None:
            statistics = compress(level).masked_fill(~there.any(-1, keepdim=True), torch.nan)
            parts = [found, statistics]
        elif self.proj_statistics is not None:
            known = observed(inputs).any(2)[..., None, None]
            statistics = compress(inputs[STATISTICS].float())[:, :, None].masked_fill(~known, torch.nan)
            parts = [
                F.pad(found, (0, 0, 1, 0), value=torch.nan),
                F.pad(statistics, (0, 0, 0, found.shape[2]), value=torch.nan),
            ]
        else:
            parts = [found]
        rows = [order.take(mix(part) if self.mixed else part) for part in parts]
        return dict(zip(self.target_sizes, rows, strict=True))

    def _packing(self, inputs: Inputs) -> Packing:
        statistics = self.proj_statistics is not None
        return packing(inputs, grid(inputs, self.patch_size, mixed=self.mixed, statistics=statistics))

    def _patches(self, inputs: Inputs) -> tuple[Float[Tensor, "b c k p"], Bool[Tensor, "b c k p"], Float[Tensor, "b c k 2"] | None]:
        """Patches, 0 where nothing is observed; where something is; and their mean and deviation if each is normalised."""
        there = patchify(observed(inputs), self.patch_size)
        patches = patchify(inputs[VALUES], self.patch_size).masked_fill(~there, 0)
        if not self.by_window:
            return patches, there, None
        shape, level = moments(patches, there)
        return shape, there, level

    def _embedded_patches(self, inputs: Inputs) -> Float[Tensor, "b r k d"]:
        patches, there, level = self._patches(inputs)
        parts = [] if self.stem is not None else [patches, there.to(patches.dtype)]
        if level is not None and self.numbers is not None:
            parts.append(self.numbers(level).flatten(3) * there.any(-1, keepdim=True))
        embedded = [] if self.stem is None else [self.stem(self._curves(patches, there))]
        if self.proj is not None:
            contents = torch.cat(parts, -1).to(self.proj.weight.dtype)
            embedded.append(self.proj(mix(contents) if self.mixed else contents))
        return sum(embedded[1:], start=embedded[0])

    def _curves(self, patches: Float[Tensor, "b c k p"], there: Bool[Tensor, "b c k p"]) -> Float[Tensor, "b r k f p"]:
        """Patches and their masks as rows along time."""
        curves = torch.stack([patches, there.to(patches.dtype)], 3)
        return curves.transpose(1, 2).flatten(2, 3)[:, None] if self.mixed else curves

    def _embedded_statistics(self, inputs: Inputs) -> Float[Tensor, "b r 1 f"]:
        assert self.numbers is not None
        known = observed(inputs).any(2)[..., None, None]
        embedded = self.numbers(inputs[STATISTICS]).flatten(2)[:, :, None] * known
        return mix(embedded) if self.mixed else embedded

    def _coords(self, inputs: Inputs, values: Float[Tensor, "b r k d"]) -> Float[Tensor, "b r k 4"]:
        b, rows, count = values.shape[:3]
        first = int(self.proj_statistics is not None)
        if TIMES in inputs:
            time = patchify(inputs[TIMES][:, None].float(), self.patch_size)[:, :, :, 0] / self.patch_size
        else:
            time = torch.arange(count - first, device=values.device, dtype=torch.float32)[None, None]
        coords = torch.zeros(b, rows, count, 4, device=values.device)
        coords[..., 0] = F.pad(time, (first, 0), value=-1)
        if not self.apart:
            coords[..., 2] = torch.arange(rows, device=values.device)[:, None]
        return coords


def example(count: int, seed: int) -> list[Any]:
    """Made-up series of one to three channels and of various lengths: waves of one period per series; some with gaps or times."""
    random = np.random.default_rng(seed)
    samples: list[Any] = []
    for number in range(count):
        channels, length = 1 + number % 3, int(random.integers(40, 90))
        period, phase = random.uniform(8, 24), random.uniform(0, 6, (channels, 1))
        times = np.arange(length) if number % 3 else np.cumsum(random.uniform(0.5, 1.5, length))
        values = np.sin(2 * np.pi * times / period + phase) * random.uniform(0.5, 5) + random.normal(0, 3, (channels, 1))
        values += random.normal(0, 0.05, values.shape)
        if number % 4 == 3:
            start = int(random.integers(length - 20))
            values[0, start : start + 20] = np.nan
        samples.append(values if number % 3 else {"values": values, "times": times})
    return samples


def golden() -> tuple[dict[str, Any], dict[str, Any], Any, Float[Tensor, "n 4"], dict[str, Tensor]]:
    """Two channels of seven samples, 10 * channel + sample, in patches of two: one gap, one empty patch, one padded end."""
    nothing = float("nan")
    values = [[0, 1, nothing, 3, 4, 5, 6], [10, 11, 12, 13, nothing, nothing, 16]]
    patches = [[0, 1], [nothing, 3], [4, 5], [6, nothing], [10, 11], [12, 13], [16, nothing]]
    coords = [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0], [3, 0, 1, 0]]
    targets = {"patches": torch.tensor(patches, dtype=torch.float32)}
    return {"normalise": "none"}, {"patch_size": 2}, values, torch.tensor(coords, dtype=torch.float32), targets


# PatchTST hides 40 % of the patches at random.
TIMESERIES = Modality(
    name="timeseries",
    keyword="timeseries",
    columns=("series", "timeseries", "values"),
    processor=TimeseriesProcessor,
    adapter=TimeseriesAdapter,
    augment=TimeseriesAugment,
    mask=MaskPreference("random", 0.4),
    example=example,
    golden=golden,
    picture=picture,
    draw=draw,
    suffixes=SUFFIXES,
    arrays=True,
    strong=(
        {"crop": (0.7, 1.0), "permute": 4, "flip": 0.5, "jitter": 0.1, "drop": 0.1, "time_mask": 0.2},
        {"part": (0.5, 0.9), "flip": 0.5, "jitter": 0.1, "drop": 0.1},
        {"basis": "fourier"},
        {"part": (0.5, 0.9), "jitter": 0.1, "basis": "gabor"},
    ),
    claim=claim,
    suited=suited,
)

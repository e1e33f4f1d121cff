"""A modality that mmssl does not know: readings of one sensor, of any length and with gaps, cut into windows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.modality import Adapter, Inputs, MaskPreference, Modality, Processor, pad_stack
from mmssl.tokens import Tokens

WINDOWS = "sensor_windows"


class SensorProcessor(Processor):
    """A list of numbers to `sensor_windows`, float32 `[windows, window]`; NaN marks gaps, and what the last window lacks.

    Also the path of a file with a number on each line, as a table of files has it.

    window: readings per token.
    mean, std: of all readings; null: those of the training data.
    """

    padding: ClassVar[Mapping[str, float]] = {WINDOWS: math.nan}

    def __init__(self, *, window: Annotated[int, Field(gt=1)] = 4, mean: float | None = None, std: float | None = None) -> None:
        self.window, self.mean, self.std = window, mean, std

    def settings(self) -> dict[str, Any]:
        return {"window": self.window, "mean": self.mean, "std": self.std}

    @property
    def fitted(self) -> bool:
        return self.mean is not None and self.std is not None

    def fit(self, samples: Iterable[Any]) -> None:
        readings = np.concatenate([read(sample) for sample in samples])
        self.mean, self.std = float(np.nanmean(readings)), float(np.nanstd(readings))

    def __call__(self, raw: Any) -> Inputs:
        readings = read(raw).astype(np.float32)
        if readings.ndim != 1 or np.isnan(readings).all():
            raise ValueError(f"a sensor's sample must be a list of numbers, at least one of them not NaN; got {raw!r}")
        assert self.mean is not None and self.std is not None
        scaled = torch.from_numpy((readings - np.float32(self.mean)) / np.float32(self.std))
        return {WINDOWS: F.pad(scaled, (0, -len(scaled) % self.window), value=torch.nan).view(-1, self.window)}

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        return {WINDOWS: pad_stack([sample[WINDOWS] for sample in samples], torch.nan)}

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        readings = inputs[WINDOWS].numpy()
        return np.array([summary(readings) for summary in (np.nanmean, np.nanstd, np.nanmin, np.nanmax)], np.float32)


def read(raw: Any) -> Float[np.ndarray, "..."]:
    """The numbers of a list, or of the file that a table of files names."""
    return np.loadtxt(raw["path"], ndmin=1) if isinstance(raw, Mapping) and "path" in raw else np.asarray(raw, np.float64)


class SensorAdapter(Adapter):
    """A linear map of each window, placed in time; windows without any reading are no tokens."""

    input_names = (WINDOWS,)

    def __init__(self, width: int, processor: SensorProcessor) -> None:
        super().__init__()
        self.target_sizes = {"readings": processor.window}
        self.proj = nn.Linear(processor.window, width)

    def forward(self, inputs: Inputs) -> Tokens:
        windows = inputs[WINDOWS]
        time = torch.arange(windows.shape[1], device=windows.device, dtype=torch.float32)
        coords = F.pad(time[:, None], (0, 3)).expand(len(windows), -1, -1)
        values = self.proj(windows.nan_to_num().to(self.proj.weight.dtype))
        return Tokens(values, coords, ~windows.isnan().all(-1))

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        return {"readings": inputs[WINDOWS]}


@dataclass(frozen=True, kw_only=True)
class SensorAugment:
    """Another gain.

    gain: largest relative change of all readings of a sample.
    """

    gain: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __call__(self, inputs: Inputs, draws: Draws) -> Inputs:
        return {WINDOWS: inputs[WINDOWS] * draws.between("sensor gain", 1 - self.gain, 1 + self.gain, 1, 1)}


def example(count: int, seed: int) -> list[Any]:
    """Waves of various lengths and frequencies; one in three has a gap."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        time = np.arange(random.integers(10, 40))
        wave = 20 + 5 * np.sin(time * random.uniform(0.2, 0.8)) + random.normal(0, 0.1, len(time))
        if number % 3 == 2:
            wave[5] = np.nan
        samples.append(wave.tolist())
    return samples


def golden() -> tuple[Mapping[str, Any], Mapping[str, Any], Any, Float[Tensor, "n 4"], dict[str, Tensor]]:
    """Seven readings, of which the fourth is missing, in windows of three."""
    coords = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]])
    readings = torch.tensor([[0.0, 0.5, 1.0], [torch.nan, 2.0, 2.5], [3.0, torch.nan, torch.nan]])
    raw = [10, 11, 12, float("nan"), 14, 15, 16]
    return {"window": 3, "mean": 10.0, "std": 2.0}, {}, raw, coords, {"readings": readings}


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], _processor: SensorProcessor) -> Figure:
    """The first sample, and over it what was predicted in the hidden windows."""
    figure = Figure(figsize=(6, 2))
    axes = figure.subplots()
    axes.plot(inputs[WINDOWS][0].flatten(), label="input")
    axes.plot(predictions["readings"][0].flatten(), label="predicted")
    axes.legend()
    return figure


SENSOR = Modality(
    name="sensor",
    keyword="sensors",
    columns=("readings",),
    processor=SensorProcessor,
    adapter=SensorAdapter,
    augment=SensorAugment,
    mask=MaskPreference("span", 0.5),
    example=example,
    golden=golden,
    picture=picture,
    suffixes=(".sensor",),
    strong=({"gain": 0.5},),
)

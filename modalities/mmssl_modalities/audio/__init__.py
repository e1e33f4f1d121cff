"""Sounds as patches of a log-mel spectrogram (AudioMAE, arXiv 2207.06405, section 3), or as a waveform through convolutions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from mmssl.modality import Adapter, Axis, Inputs, MaskPreference, Modality, Patch
from mmssl.model.positions import GridPositions
from mmssl.tokens import Tokens
from mmssl_modalities.audio.aspects import CLASSES, MFCC, chroma, cqt, cqt_bins, mfcc, pitch_classes
from mmssl_modalities.audio.augment import AudioAugment
from mmssl_modalities.audio.dense import DenseFrames, tokens_in_time
from mmssl_modalities.audio.file import SUFFIXES
from mmssl_modalities.audio.processor import FBANK, LENGTHS, STRIDE, WAVEFORM, AudioProcessor, Positive
from mmssl_modalities.audio.starting import claim, suited
from mmssl_modalities.audio.stem import StemNorm, WaveformStem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["AUDIO", "AudioAdapter", "AudioAugment", "AudioProcessor"]

PICTURED = 6
"""Samples in a picture."""
GOLDEN = [
    [5.082574, 2.336586, 3.864527, 4.578715],
    [6.082621, 5.377787, 4.99551, 5.709826],
    [5.854296, 6.8319, 5.726861, 6.435988],
    [3.806358, 7.4636, 6.554715, 6.969442],
    [1.215985, 7.542667, 7.612467, 7.390799],
]
"""Log-mel values of the golden sound."""


class AudioAdapter(Adapter):
    """One token per patch of the spectrogram, a linear map of its values; or one per 320 samples, by the stem of wav2vec 2.0.

    Tokens run through time, and at each time from low to high frequencies. Target `fbank`: the normalised values of a patch in the
    order (frame, mel bin, channel); `waveform`: the normalised samples of a token in the order (sample, channel).

    Aspects of the waveform: `mfcc`, 13 cepstral coefficients with first and second differences, and `cqt`, a constant-Q transform
    of up to 84 bins, both of the mean of all channels; of the spectrogram: `chroma`, the share of each pitch class.

    conv_width: channels of the convolutions, with processor.frontend: waveform.
    stride: frames and mel bins from one patch to the next, where patches of the spectrogram overlap, as in the Audio Spectrogram
        Transformer (arXiv 2104.01778, section 2.1); null: as large as a patch. Then hidden content reaches visible tokens.
    learned_positions: patches in time and in frequency of a table of learned positions, added to what tokens hold; resampled for
        sounds of another length; null: none.
    conv_norm: layer = LayerNorm after every convolution; group = GroupNorm over time after the first.
    """

    mixable = True

    def __init__(
        self,
        width: int,
        processor: AudioProcessor,
        *,
        conv_width: Positive = 512,
        conv_norm: StemNorm = "layer",
        stride: tuple[Positive, Positive] | list[Positive] | None = None,
        learned_positions: tuple[Positive, Positive] | list[Positive] | None = None,
    ) -> None:
        super().__init__()
        self.stem: WaveformStem | None = None
        self.proj: nn.Linear | None = None
        self.processor = processor
        self.dense = DenseFrames(processor, None if stride is None else (stride[0], stride[1]))
        self.positions: GridPositions | None = None
        if processor.frontend == "waveform" and (stride or learned_positions):
            raise ValueError("adapter.stride and learned_positions belong to processor.frontend: fbank. Leave them out")
        if processor.frontend == "waveform":
            self.overlapping = True
            self.input_names = (WAVEFORM, LENGTHS)
            self.target_sizes = {"waveform": STRIDE * processor.channels}
            self.aspects = {"mfcc": MFCC, "cqt": cqt_bins(processor.sample_rate)}
            self.axes = {WAVEFORM: {1: Axis("length")}}
            self.stem = WaveformStem(processor.channels, conv_width, width, conv_norm)
            return
        frames, self.bins = processor.patch
        self.frames, self.mel_bins = frames, processor.mel_bins
        self.stride = (frames, self.bins) if stride is None else (stride[0], stride[1])
        self.overlapping = self.stride[0] < frames or self.stride[1] < self.bins
        if learned_positions is not None:
            self.has_identity = True
            rows, columns = learned_positions
            self.positions = GridPositions(rows, columns, width)
        values = frames * self.bins * processor.channels
        self.input_names = (FBANK, LENGTHS)
        self.axes = {FBANK: {1: Axis("length")}}
        self.target_sizes = {"fbank": values}
        self.patch = Patch(frames, self.bins, processor.channels, axes=(0, 2))
        self.aspects = {"chroma": CLASSES}
        self.proj = nn.Linear(values, width)

    def forward(self, inputs: Inputs) -> Tokens:
        values, rows = self._tokens(inputs)
        times = values.shape[1] // rows
        place = values.new_zeros(times, rows, 4, dtype=torch.float32)
        place[..., 0] = torch.arange(times, device=place.device)[:, None]
        place[..., 2] = torch.arange(rows, device=place.device)
        identity = None
        if self.positions is not None:
            sizes = None
            if LENGTHS in inputs:
                sizes = torch.cat([self._times(inputs[LENGTHS]), torch.full_like(inputs[LENGTHS], rows)], 1)
            identity = self.positions(times, rows, sizes).expand(values.shape[0], -1, -1)
        return Tokens(values, place.flatten(0, 1).expand(values.shape[0], -1, -1), self._valid(inputs, times, rows), identity)

    def _times(self, lengths: Int[Tensor, "b 1"]) -> Int[Tensor, "b 1"]:
        """Tokens in time of sounds that have so many patches without overlap."""
        return lengths if self.stem is not None else tokens_in_time(lengths, self.frames, self.stride[0])

    def _rows(self, inputs: Inputs) -> int:
        """Tokens above each other at one time."""
        return 1 if self.stem is not None else (inputs[FBANK].shape[4] - self.bins) // self.stride[1] + 1

    def _patches(self, inputs: Inputs) -> Float[Tensor, "b n t"]:
        """The values of each token of a spectrogram."""
        spectrogram = inputs[FBANK]
        if self.stride == (self.frames, self.bins):
            return patchify(spectrogram, self.bins)
        whole = spectrogram.permute(0, 1, 3, 4, 2).flatten(1, 2)  # [b, frames, mel bins, channels]
        pieces = whole.unfold(1, self.frames, self.stride[0]).unfold(2, self.bins, self.stride[1])
        return pieces.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)

    def _tokens(self, inputs: Inputs) -> tuple[Float[Tensor, "b n d"], int]:
        """What the tokens hold, and how many of them lie above each other at one time."""
        if self.stem is not None:
            return self.stem(inputs[WAVEFORM].transpose(1, 2).flatten(2), inputs.get(LENGTHS)), 1
        assert self.proj is not None
        return self.proj(self._patches(inputs).to(self.proj.weight.dtype)), self._rows(inputs)

    def continuous(self, inputs: Inputs) -> dict[str, Tensor]:
        name = WAVEFORM if self.stem is not None else FBANK
        sounds = inputs[name]
        if LENGTHS not in inputs:
            return {name: sounds}
        inside = torch.arange(sounds.shape[1], device=sounds.device) < inputs[LENGTHS]
        return {name: sounds.masked_fill(~inside.view(*inside.shape, *[1] * (sounds.dim() - 2)), 0)}

    def made_up(self, count: int, size: int) -> Inputs:
        channels, lengths = self.processor.channels, (size - torch.arange(count) % size)[:, None]
        if self.stem is not None:
            sounds = {WAVEFORM: torch.randn(count, size, channels, STRIDE), LENGTHS: lengths}
        else:
            sounds = {FBANK: torch.randn(count, size, channels, self.frames, self.mel_bins), LENGTHS: lengths}
        return self.continuous(sounds) | {LENGTHS: lengths}

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        name, rows = "fbank" if self.stem is None else "waveform", self._rows(inputs)
        values = inputs[WAVEFORM].transpose(2, 3).flatten(2) if self.stem is not None else self._patches(inputs)
        valid = self._valid(inputs, values.shape[1] // rows, rows)
        return {name: values.float() if valid is None else values.float().masked_fill(~valid[..., None], torch.nan)}

    @torch.no_grad()
    def aspect(self, name: str, inputs: Inputs) -> Float[Tensor, "b n t"]:
        if name not in self.aspects:
            return super().aspect(name, inputs)
        with torch.autocast(next(iter(inputs.values())).device.type, enabled=False):
            if name == "chroma":
                values, rows = self._chroma(inputs), inputs[FBANK].shape[4] // self.bins
            else:
                sound = inputs[WAVEFORM].float().mean(2).flatten(1)
                rate, rows = self.processor.sample_rate, 1
                values = mfcc(sound, rate, inputs.get(LENGTHS)) if name == "mfcc" else cqt(sound, rate)
        valid = self._valid(inputs, values.shape[1] // rows, rows)
        return values if valid is None else values.masked_fill(~valid[..., None], torch.nan)

    def _chroma(self, inputs: Inputs) -> Float[Tensor, "b n 12"]:
        """Pitch classes, of the log power before normalisation."""
        processor, sounds = self.processor, inputs[FBANK].float()
        top = processor.sample_rate / 2 if processor.high_frequency is None else processor.high_frequency
        classes = torch.from_numpy(pitch_classes(sounds.shape[4], processor.sample_rate, processor.low_frequency, top))
        log_power = sounds * processor.scale.to(sounds.device) + processor.offset.to(sounds.device)
        return chroma(log_power, classes.to(sounds.device), self.bins)

    def _valid(self, inputs: Inputs, times: int, rows: int) -> Bool[Tensor, "b n"] | None:
        """Which tokens lie inside their sound."""
        if LENGTHS not in inputs:
            return None
        there = torch.arange(times, device=inputs[LENGTHS].device) < self._times(inputs[LENGTHS])
        return there.repeat_interleave(rows, 1)


def patchify(spectrogram: Float[Tensor, "b k c f m"], bins: int) -> Float[Tensor, "b n t"]:
    """Patches through time, and at each time from low to high frequencies, each in the order (frame, mel bin, channel)."""
    b, k, _, _, m = spectrogram.shape
    if m % bins:
        raise ValueError(f"the mel bins must be a multiple of {bins}, those of a patch; got {m}. Use the model's own processor")
    return spectrogram.unflatten(4, (-1, bins)).permute(0, 1, 4, 3, 5, 2).reshape(b, k * (m // bins), -1)


def unpatchify(patches: Shaped[Tensor, "b n t"], frames: int, bins: int, k: int) -> Shaped[Tensor, "b c t2 m"]:
    """Spectrograms `[channels, frames, mel bins]` from all their patches."""
    grid = patches.unflatten(1, (k, -1)).unflatten(3, (frames, bins, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def example(count: int, seed: int) -> list[dict[str, Any]]:
    """Made-up sounds of 0.3 to 0.6 s: a tone that glides, with an overtone and some noise."""
    random = np.random.default_rng(seed)
    sounds = []
    for _ in range(count):
        time = np.arange(random.integers(4800, 9600)) / 16000
        low, high = random.uniform(200, 2000, 2)
        phase = 2 * np.pi * (low * time + (high - low) * time**2)
        tone = 0.3 * np.sin(phase) + 0.1 * np.sin(3 * phase) + 0.01 * random.standard_normal(len(time))
        sounds.append({"array": tone.astype(np.float32), "sampling_rate": 16000})
    return sounds


def golden() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Float[Tensor, "n 4"], dict[str, Tensor]]:
    """A glide and a hum, five frames: three patches of two frames in time, the last one filled up, and two in frequency.

    The values are those of torchaudio.compliance.kaldi.fbank in float64.
    """
    frames = [*GOLDEN, [min(column) for column in zip(*GOLDEN, strict=True)]]
    places = [(time, row) for time in range(3) for row in range(2)]
    values = [[frames[2 * time + i][2 * row + j] for i in range(2) for j in range(2)] for time, row in places]
    number = np.arange(520)
    sound = {"array": (np.sin(number**2 / 1000) + number**3 % 17 * number / 5000).astype(np.float32), "sampling_rate": 8000}
    settings = {"sample_rate": 8000, "mel_bins": 4, "patch": [2, 2], "mean": 0.0, "std": 1.0}
    coords = torch.tensor([[float(time), 0.0, float(row), 0.0] for time, row in places])
    return settings, {}, sound, coords, {"fbank": torch.tensor(values)}


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], _processor: AudioProcessor) -> "Figure":
    """Up to six samples, a row each: the input, what was seen of it, and the predictions in the places of the hidden tokens."""
    from matplotlib.figure import Figure  # only where something is drawn

    name, predicted = next(iter(predictions.items()))
    sounds = inputs[FBANK if name == "fbank" else WAVEFORM][:PICTURED].float().cpu()
    b, k = sounds.shape[:2]
    predicted, covered = predicted[:b].float().cpu(), hidden[:b, :, None].cpu().expand(predicted[:b].shape)
    if name == "fbank":
        shape = (sounds.shape[3], predicted.shape[2] // (sounds.shape[2] * sounds.shape[3]), k)
        views = [sounds.transpose(1, 2).flatten(2, 3), unpatchify(covered, *shape), unpatchify(predicted, *shape)]
    else:
        views = [sounds.transpose(1, 2).flatten(2)[..., None]]
        views += [x.unflatten(2, (STRIDE, -1)).flatten(1, 2).transpose(1, 2)[..., None] for x in (covered, predicted)]
    steps = (inputs[LENGTHS][:b, 0] * sounds.shape[3]).tolist() if LENGTHS in inputs else [k * sounds.shape[3]] * b
    figure = Figure(figsize=(9.6, 1.5 * b + 0.4), layout="constrained")
    axes = figure.subplots(b, 3, squeeze=False)
    for row, length in enumerate(steps):
        sound, cover, guess = (view[row, 0, :length].numpy() for view in views)
        filled = np.where(cover & ~np.isnan(guess), guess, sound)
        shown = (sound, np.where(cover, np.nan, sound), filled)
        for axis, title, values in zip(axes[row], ("input", "seen", "predicted"), shown, strict=True):
            _draw(axis, values, float(sound.min()), float(sound.max()))
            if row == 0:
                axis.set_title(title, fontsize="small")
    return figure


def draw(axes: "Axes", inputs: Inputs, row: int, _processor: AudioProcessor) -> None:
    """One sound, as the model gets it."""
    values = inputs[FBANK if FBANK in inputs else WAVEFORM][row].float().cpu()
    length = int(inputs[LENGTHS][row, 0]) if LENGTHS in inputs else len(values)
    sound = values[:length, 0].flatten(0, 1).numpy()
    _draw(axes, sound if FBANK in inputs else sound[:, None], float(sound.min()), float(sound.max()))


def _draw(axes: "Axes", values: Float[np.ndarray, "t m"], low: float, high: float) -> None:
    """A spectrogram with time to the right and low frequencies below; a waveform as a line."""
    from matplotlib import colormaps  # only where something is drawn

    axes.set_axis_off()
    high = max(high, low + 1e-6)
    if values.shape[1] > 1:
        shown, colours = np.ma.masked_invalid(values.T), colormaps["magma"].with_extremes(bad="0.85")
        axes.imshow(shown, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        return
    axes.plot(values[:, 0], linewidth=0.5)
    axes.set(xlim=(0, len(values)), ylim=(low, high))


def public() -> Sequence[Any]:
    """The public encoders that the adapter can be."""
    from mmssl_modalities.audio.public import FAMILIES  # tables that only those need who bring one in

    return FAMILIES


AUDIO = Modality(
    name="audio",
    keyword="audio",
    columns=("audio", "sound", "speech"),
    processor=AudioProcessor,
    adapter=AudioAdapter,
    augment=AudioAugment,
    mask=MaskPreference("random", 0.8),
    example=example,
    golden=golden,
    picture=picture,
    draw=draw,
    sentence="audio",
    public=public,
    suffixes=SUFFIXES,
    strong=(
        {
            "crop": (0.6, 1.0),
            "shift": 0.2,
            "warp": 0.1,
            "mix": 0.4,
            "noise": 0.1,
            "overlap": 0.5,
            "hiss": 0.5,
            "time_mask": 0.2,
            "frequency_mask": 0.2,
        },
        {"part": (0.5, 0.9), "mix": 0.4, "noise": 0.1, "overlap": 0.5, "hiss": 0.5, "time_mask": 0.2},
    ),
    served="feature_extractor",
    tasks={"classification": "audio-classification"},
    claim=claim,
    suited=suited,
)

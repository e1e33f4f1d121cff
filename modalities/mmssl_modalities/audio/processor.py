"""Raw sounds to normalised log-mel patches in time, or to pieces of the waveform; statistics that are fitted once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.modality import IGNORED, Inputs, Processor, StepTimes, pad_stack
from mmssl.model.steps import check_steps
from mmssl_modalities.audio.decode import at_rate, cut, in_channels, read_sound, span_of
from mmssl_modalities.audio.fbank import Filterbank, Window, cosines, filterbank

FBANK = "input_features"
WAVEFORM = "input_values"
LENGTHS = "audio_lengths"
LABELS, FRAMES, SPAN = "audio_labels", "audio_frames", "audio_span"
"""Of labelled sounds the class number of each frame, the second in which its middle lies, and number of the first frame, frames,
and frames of the whole sound."""

Positive = Annotated[int, Field(gt=0)]
Milliseconds = Annotated[float, Field(gt=0)]
Statistic = float | list[float] | None
Frontend = Literal["fbank", "waveform"]
Normalisation = Literal["dataset", "utterance_mean", "utterance"]

STRIDE = 320
"""Samples that a token of the waveform stands for (wav2vec 2.0, arXiv 2006.11477, section 4.2)."""
FIT_SAMPLES = 2000
"""Sounds from which `fit` computes statistics."""
COEFFICIENTS = 20
"""Cepstral coefficients of `features`."""
SEGMENTS = 4
"""Parts of a sound, equally long, of which `features` takes the mean."""
ROUNDING = 1e-6
"""Of a frame: what is cut from the length of a sound, that rounding may have added, before frames are counted."""
LEAST_SPREAD = {"fbank": 0.1, "waveform": 1e-4}
"""Least standard deviation of a sound that is normalised by its own: silence stays silence."""


class AudioProcessor(Processor):
    """A sound to `input_features`, float32 `[patches in time, channels, frames of a patch, mel bins]`, or to `input_values`.

    A raw sound is the bytes of a wav, flac, ogg or mp3 file, a path, the dict {"bytes", "path"} or {"array", "sampling_rate"} of
    the datasets library, a pair (array, samples per second), or an array or tensor, which is taken to have `sample_rate`. Of an
    array with two axes the shorter is the channels. Integers are scaled by their type, floats stay as they are.

    Channels are mixed, the rate is changed, and the log-mel filterbank is that of Kaldi (torchaudio.compliance.kaldi.fbank with a
    Hanning window, no dither, no energy). Then the values are normalised. The last patch is filled up with the quietest value that
    each bin has in the sound; so is a sound shorter than a patch. One shorter than a frame has silence behind it.

    frontend: fbank, or waveform = `input_values`, float32 `[pieces, channels, 320]`, zeros behind the end, for a convolutional
        stem that mixes neighbouring tokens: not for targets that are raw values.
    sample_rate: samples per second after resampling.
    channels: 1 = the mean of all; more: what every sound must have, or one, which is repeated.
    mel_bins: mel filters.
    patch: frames and mel bins of a patch, of which a token is made; mel_bins is a multiple of the second.
    frame_length, frame_shift: of an analysis frame, in milliseconds.
    window: of an analysis frame: hanning, hamming or Kaldi's povey.
    low_frequency, high_frequency: ends of the mel filters in Hz; null: half the sample rate.
    normalise: dataset = by mean and std; utterance_mean = every bin of a sound loses its mean over time, which removes a microphone
        and much of a voice, then by std; utterance = every bin by its own mean and standard deviation.
    per_bin: fit one mean and std for each mel bin instead of one for all.
    mean, std: one number, or one per bin; null: those of the first 2,000 training sounds. AudioSet: mean -4.2677, std 9.138, which
        is twice its standard deviation (AudioMAE, arXiv 2207.06405).
    fill_frames: frames that every spectrogram has: shorter ones are filled up with zeros before they are normalised, which
        attention sees, as the Audio Spectrogram Transformer was trained (arXiv 2104.01778), longer ones are cut; null: as many as
        there are.
    max_seconds: longer sounds are cut into windows of at most this length, all equally long; null: no limit.
    label_rate: frames of a second that have a label each, where labels are of frames (objective.kind: dense): as many as have
        begun before the sound ends. 50 is the rate of wav2vec 2.0 (arXiv 2006.11477).
    """

    whole = "max_seconds: null"
    padding = {LABELS: IGNORED}  # noqa: RUF012 (a constant of the base)
    free = frozenset({"max_seconds"})

    def __init__(
        self,
        *,
        frontend: Frontend = "fbank",
        sample_rate: Annotated[int, Field(gt=0, le=1_000_000)] = 16000,
        channels: Annotated[int, Field(gt=0, le=64)] = 1,
        mel_bins: Positive = 128,
        patch: tuple[Positive, Positive] | list[Positive] = (16, 16),
        frame_length: Milliseconds = 25.0,
        frame_shift: Milliseconds = 10.0,
        window: Window = "hanning",
        low_frequency: Annotated[float, Field(ge=0)] = 20.0,
        high_frequency: Annotated[float, Field(gt=0)] | None = None,
        normalise: Normalisation = "dataset",
        per_bin: bool = False,
        mean: Statistic = None,
        std: Statistic = None,
        fill_frames: Positive | None = None,
        max_seconds: Annotated[float, Field(gt=0)] | None = 10.24,
        label_rate: Annotated[float, Field(gt=0, le=1000)] = 50.0,
    ) -> None:
        if len(patch) != 2 or mel_bins % patch[1]:
            raise ValueError(
                "processor.patch is two numbers, frames and mel bins, and mel_bins a multiple of the second; got "
                f"patch={list(patch)} and mel_bins={mel_bins}. Set mel_bins to a multiple, or the second to a divisor"
            )
        if fill_frames is not None and (frontend == "waveform" or fill_frames % patch[0]):
            raise ValueError(
                f"processor.fill_frames belongs to frontend: fbank, and is a multiple of the {patch[0]} frames of a patch; got "
                f"{fill_frames} and {frontend}"
            )
        self.fill_frames = fill_frames
        self.frontend: Frontend = frontend
        self.sample_rate, self.channels, self.mel_bins, self.patch = sample_rate, channels, mel_bins, (patch[0], patch[1])
        self.frame_length, self.frame_shift, self.window = frame_length, frame_shift, window
        self.low_frequency, self.high_frequency = low_frequency, high_frequency
        self.normalise: Normalisation = normalise
        self.per_bin, self.max_seconds, self.label_rate = per_bin, max_seconds, label_rate
        self._bank()
        self._normalise_by(mean, std)

    def _bank(self) -> Filterbank:
        spread = self.low_frequency, self.high_frequency
        return filterbank(self.sample_rate, self.mel_bins, self.frame_length, self.frame_shift, *spread, self.window)

    def _normalise_by(self, mean: Statistic, std: Statistic) -> None:
        if (mean is not None and self.normalise != "dataset") or (std is not None and self.normalise == "utterance"):
            raise ValueError(
                "processor.mean belongs to normalise: dataset, and std to dataset and utterance_mean; got "
                f"normalise={self.normalise}, mean={mean} and std={std}. Drop what is not used"
            )
        self.mean, self.std = mean, std
        self.offset, self.scale = self._per_bin("mean", mean or 0.0), self._per_bin("std", 1.0 if std is None else std)
        if std is not None and np.min(std) <= 0:
            raise ValueError(f"processor.std must be positive; got {std}. Use 1.0 for a bin that does not vary")

    def _per_bin(self, name: str, value: float | list[float]) -> Float[Tensor, " m"]:
        if isinstance(value, list) and (self.frontend == "waveform" or len(value) != self.mel_bins):
            wanted = "one number" if self.frontend == "waveform" else f"one number, or one for each of the {self.mel_bins} bins"
            raise ValueError(f"processor.{name} needs {wanted}; got {len(value)} of them")
        return torch.from_numpy(np.array(value, np.float32).reshape(-1))

    def settings(self) -> dict[str, Any]:
        return {
            "frontend": self.frontend,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "mel_bins": self.mel_bins,
            "patch": list(self.patch),
            "frame_length": self.frame_length,
            "frame_shift": self.frame_shift,
            "window": self.window,
            "low_frequency": self.low_frequency,
            "high_frequency": self.high_frequency,
            "normalise": self.normalise,
            "per_bin": self.per_bin,
            "mean": self.mean,
            "std": self.std,
            "fill_frames": self.fill_frames,
            "max_seconds": self.max_seconds,
            "label_rate": self.label_rate,
        }

    @property
    def fitted(self) -> bool:
        return self.normalise == "utterance" or (self.std is not None and (self.mean is not None or self.normalise != "dataset"))

    def fit(self, samples: Iterable[Any]) -> None:
        """Compute mean and standard deviation, where the settings name none, over the first 2,000 sounds.

        Sounds that cannot be read are passed over: the loader deals with them as `data.on_error` says. ValueError if none can.
        """
        if self.fitted:
            return
        total, squares = torch.zeros(2, self.mel_bins if self.frontend == "fbank" else 1, dtype=torch.float64)
        count = 0
        error: Exception = ValueError("an audio processor is fitted on one sound or more; got none. Or set processor.mean and std")
        pieces = (piece for raw in samples for piece in self.pieces(raw))
        for raw in islice(pieces, FIT_SAMPLES):
            try:
                values = self._centred(self._values(raw)).double()
            except (ValueError, TypeError, OSError) as bad:
                error = bad
                continue
            total += values.sum((0, 1))
            squares += values.square().sum((0, 1))
            count += values.shape[0] * values.shape[1]
        if not count:
            raise error
        if not self.per_bin:
            total, squares, count = total.sum(0, keepdim=True), squares.sum(0, keepdim=True), count * len(total)
        mean = total / count
        variance = squares / count - mean.square()
        std = torch.where(variance > 1e-12 * mean.square(), variance, 1.0).sqrt()
        fitted = [x.tolist() if self.per_bin else x.item() for x in (mean, std)]
        dataset = self.normalise == "dataset"
        self._normalise_by(fitted[0] if dataset and self.mean is None else self.mean, fitted[1] if self.std is None else self.std)

    @property
    def windowed(self) -> bool:
        """Whether long sounds are cut into pieces."""
        return self.max_seconds is not None

    def pieces(self, raw: Any) -> list[Any]:
        """The windows of a sound, as raw sounds; one that cannot be read is its own piece, for `__call__` to judge."""
        if self.max_seconds is None:
            return [raw]
        try:
            return cut(raw, self.sample_rate, self.max_seconds)
        except (ValueError, TypeError, OSError):
            return [raw]

    def __call__(self, raw: Any) -> Inputs:
        if not self.fitted:
            raise ValueError("processor.mean and std are not known yet: call fit(sounds) with the training sounds, or set both")
        values = self._centred(self._values(raw))
        if self.normalise == "utterance":
            values /= values.square().mean(1, keepdim=True).sqrt().clamp(min=LEAST_SPREAD[self.frontend])
        else:
            values = values.sub_(self.offset).div_(self.scale)
        if self.frontend == "waveform":
            return {WAVEFORM: _in_pieces(values, STRIDE, values.new_zeros(1, 1, 1)).squeeze(-1)}
        return {FBANK: _in_pieces(values, self.patch[0], values.amin(1, keepdim=True))}

    def labelled(self, raw: Any, labels: Int[np.ndarray, "*places"] | None) -> Inputs:
        """The sound, or a window of it, with the labels of the frames whose middle lies in it. ValueError for another number."""
        found = self(raw)
        start, stop, length = span_of(raw, self.sample_rate)
        whole = self._frames(length)
        middles = (np.arange(whole) + 0.5) / self.label_rate
        first = int(np.searchsorted(middles, start))
        last = whole if stop >= length else int(np.searchsorted(middles, stop))
        found[SPAN] = torch.tensor([first, last - first, whole])
        found[FRAMES] = torch.from_numpy((middles[first:last] - start).astype(np.float32))
        if labels is None:
            return found
        each = f"a sound needs a label for each {1 / self.label_rate:g} s that has begun (processor.label_rate={self.label_rate:g})"
        check_steps(labels, whole, each)
        return found | {LABELS: torch.from_numpy(labels[first:last])}

    def step_times(self, raw: Any) -> StepTimes:
        """Middles and edges of the frames that have labels, in seconds; the last one ends with the sound."""
        _, _, length = span_of(raw, self.sample_rate)
        edges = np.append(np.arange(self._frames(length)) / self.label_rate, length)
        return StepTimes((edges[:-1] + edges[1:]) / 2, edges)

    def _frames(self, seconds: float) -> int:
        """How many frames that have labels have begun before a sound ends."""
        return max(1, math.ceil(seconds * self.label_rate - ROUNDING))

    def _values(self, raw: Any) -> Float[Tensor, "c t m"]:
        """Log-mel values, or samples with one bin, before normalisation."""
        sound, rate = read_sound(raw, self.sample_rate, self.max_seconds)
        waveform = at_rate(torch.from_numpy(in_channels(sound, self.channels)), rate, self.sample_rate)
        if self.frontend == "waveform":
            return waveform[..., None]
        values = self._bank()(waveform)
        return values if self.fill_frames is None else F.pad(values, (0, 0, 0, self.fill_frames - values.shape[1]))

    def _centred(self, values: Float[Tensor, "c t m"]) -> Float[Tensor, "c t m"]:
        return values if self.normalise == "dataset" else values - values.mean(1, keepdim=True)

    def many(self, raw: Any) -> list[Any]:
        """The sounds in a list, or one sound: a pair (array, samples per second) is one."""
        pair = isinstance(raw, tuple) and len(raw) == 2 and isinstance(raw[1], int | np.integer)
        return [raw] if pair else super().many(raw)

    options = ("sampling_rate",)

    def with_options(self, raw: Any, options: Mapping[str, Any]) -> Any:
        """An array with its rate, where `sampling_rate` says it."""
        rate = options.get("sampling_rate")
        return raw if rate is None or not isinstance(raw, np.ndarray | torch.Tensor) else (raw, rate)

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        """Stack sounds. If lengths differ, pad with zeros, and add `audio_lengths` `[b, 1]`, patches in time."""
        name = FBANK if self.frontend == "fbank" else WAVEFORM
        sounds = [sample[name] for sample in samples]
        batch = {name: pad_stack(sounds)}
        if any(len(sound) != len(sounds[0]) for sound in sounds):
            batch[LENGTHS] = torch.tensor([[len(sound)] for sound in sounds])
        return batch | {
            name: pad_stack([sample[name] for sample in samples], self.padding.get(name, 0))
            for name in (LABELS, FRAMES, SPAN)
            if name in samples[0]
        }

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        sounds = inputs[FBANK if FBANK in inputs else WAVEFORM]
        return {LENGTHS: torch.full((len(sounds), 1), sounds.shape[1], device=sounds.device)} | inputs

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """20 cepstral coefficients (MFCC): their mean, standard deviation, and means over four parts of the sound, per channel."""
        if self.frontend == "fbank":
            values = inputs[FBANK].transpose(0, 1).flatten(1, 2)
        else:
            values = self._bank()(inputs[WAVEFORM].transpose(0, 1).flatten(1))
        cepstrum = values @ cosines(self.mel_bins, COEFFICIENTS)
        length = cepstrum.shape[1]
        bounds = [(length * i // SEGMENTS, max(length * (i + 1) // SEGMENTS, length * i // SEGMENTS + 1)) for i in range(SEGMENTS)]
        parts = [cepstrum.mean(1), cepstrum.std(1, correction=0), *(cepstrum[:, first:last].mean(1) for first, last in bounds)]
        return torch.stack(parts, 1).flatten().numpy()


def _in_pieces(values: Float[Tensor, "c t m"], size: int, filling: Float[Tensor, "c_ 1 m_"]) -> Float[Tensor, "k c f m"]:
    """Pieces of `size` steps in time, the last one filled up."""
    missing = -values.shape[1] % size
    if missing:
        values = torch.cat([values, filling.expand(len(values), missing, values.shape[2])], 1)
    return values.unflatten(1, (-1, size)).transpose(0, 1).contiguous()

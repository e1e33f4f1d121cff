"""Labels of frames of a sound: a class for each stretch of time, as of speech and silence, or of who speaks."""

from fractions import Fraction
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.modality import Inputs
from mmssl.model.steps import DenseSteps
from mmssl_modalities.audio.processor import FBANK, FRAMES, LABELS, LENGTHS, SPAN, STRIDE, WAVEFORM, AudioProcessor

Count = TypeVar("Count", int, Tensor)


def tokens_in_time(patches: Count, frames: int, stride: int) -> Count:
    """Tokens in time of a spectrogram of so many patches without overlap. stride: frames from one token to the next."""
    return (patches - 1) * frames // stride + 1


class DenseFrames(DenseSteps):
    """A class for each of `label_rate` frames a second, by the mean of what the tokens above each other say."""

    labels = LABELS
    span = SPAN

    def __init__(self, processor: AudioProcessor, stride: tuple[int, int] | None) -> None:
        self.rate, self.spectral = processor.label_rate, processor.frontend == "fbank"
        frames, bins = processor.patch
        self.patch, self.stride = frames, (frames, bins) if stride is None else stride
        self.rows = (processor.mel_bins - bins) // self.stride[1] + 1 if self.spectral else 1
        self.first, self.second = 0.0, STRIDE / processor.sample_rate
        if self.spectral:  # the middle of the first token, and from one to the next, in seconds
            shift, length = processor.frame_shift / 1000, processor.frame_length / 1000
            self.first = length / 2 + (frames - 1) / 2 * shift - self.stride[0] * shift / 2
            self.second = self.stride[0] * shift
        self.finest = max(1, round(self.second * self.rate))

    def times(self, inputs: Inputs) -> tuple[Int[Tensor, "b n"], int]:
        sounds = inputs[FBANK if self.spectral else WAVEFORM]
        count = tokens_in_time(sounds.shape[1], self.patch, self.stride[0]) if self.spectral else sounds.shape[1]
        place = torch.arange(count, device=sounds.device).expand(len(sounds), -1)
        if LENGTHS in inputs:
            own = inputs[LENGTHS]
            own = tokens_in_time(own, self.patch, self.stride[0]) if self.spectral else own
            place = place.masked_fill(place >= own, -1)
        return place.repeat_interleave(self.rows, 1), count

    def positions(self, inputs: Inputs, steps: int) -> Float[Tensor, "_ t"]:
        if FRAMES in inputs:
            seconds = inputs[FRAMES]
        else:
            sounds = inputs[FBANK if self.spectral else WAVEFORM]
            seconds = ((torch.arange(steps, device=sounds.device) + 0.5) / self.rate)[None]
        return (seconds - self.first) / self.second

    def steps(self, inputs: Inputs) -> int:
        share = Fraction(self.second * self.rate).limit_denominator(1000)
        return -(-self.times(inputs)[1] * share.numerator // share.denominator)

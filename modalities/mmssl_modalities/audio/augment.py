"""Random views of batched sounds, on the device of the batch."""

import copy
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws, most
from mmssl.modality import Inputs, Others, check_range
from mmssl_modalities.audio.noise import DECIBEL, PLAIN, Levels, draw_part, laid_over, log_power, white
from mmssl_modalities.audio.processor import FBANK, LABELS, LENGTHS, WAVEFORM, AudioProcessor

Share = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0)]
Chance = Annotated[float, Field(ge=0, le=1)]

_SPECTRAL = ("crop", "warp", "frequency_mask")
"""Keys that need mel bins."""
_MOVING = ("shift", "crop", "part")
"""Keys that change when something sounds."""


@dataclass(frozen=True, kw_only=True)
class AudioAugment:
    """Changes of level, time, frequency and surroundings, each drawn per sample; by default of the level alone.

    Amounts are in units of the normalised values: a gain of 0.1 is a tenth of the log-mel values' standard deviation, and for the
    waveform a factor of exp(0.1).

    gain: largest change of the level.
    shift: largest shift in time as a share of the sound, in both directions; what leaves at one end enters at the other.
    crop: smallest and largest share of the time in a crop, which is stretched to the length of the sound (BYOL-A, arXiv 2103.06695,
        has [0.6, 1.5] in time and frequency). null: no crop.
    part: smallest and largest share of the time in a view that is the shorter for it, not stretched, in whole tokens. null: all.
    warp: largest relative change of the scale of the mel axis, as between vocal tracts (VTLP, Jaitly and Hinton 2013, has 0.1).
    mix: largest share of another sound of the step, added as power (log-mixup-exp of BYOL-A, section III-B, with 0.4 there).
    noise: largest standard deviation of white noise, of the values themselves (the change of magnitude in TERA, arXiv 2007.06028).
    overlap: probability that another sound of the step is laid over a part of this one (utterance mixing: UniSpeech-SAT, arXiv
        2110.05752; WavLM, arXiv 2110.13900, has 0.18). Powers add up, so log-mel values are brought back to power first.
    overlap_share: largest share of the sound that is covered, by a sound or by hiss.
    overlap_snr: range of the signal-to-noise ratio in decibels, by the mean powers of both whole sounds.
    hiss: probability that white noise is laid over a part of the sound (WavLM has 0.02, of recorded noises).
    hiss_snr: range of its signal-to-noise ratio in decibels.
    time_mask, frequency_mask: largest share of time, and of the mel bins, in a band that is set to the mean (SpecAugment, arXiv
        1904.08779).
    bands: such bands in each direction.
    """

    gain: Amount = 0.1
    shift: Part = 0.0
    crop: tuple[Share, Share] | None = None
    part: tuple[Share, Share] | None = None
    warp: Part = 0.0
    mix: Part = 0.0
    noise: Amount = 0.0
    overlap: Chance = 0.0
    overlap_share: Share = 0.5
    overlap_snr: tuple[float, float] = (-5.0, 5.0)
    hiss: Chance = 0.0
    hiss_snr: tuple[float, float] = (-5.0, 20.0)
    time_mask: Part = 0.0
    frequency_mask: Part = 0.0
    bands: Annotated[int, Field(gt=0)] = 2
    levels: Levels = field(default=PLAIN, init=False, repr=False, compare=False)
    """What the values mean; a recipe's are those of its processor."""

    def __post_init__(self) -> None:
        check_range("crop", "share of the time", self.crop)
        check_range("part", "share of the time", self.part)
        for key, (low, high) in {"overlap_snr": self.overlap_snr, "hiss_snr": self.hiss_snr}.items():
            if low > high:
                raise ValueError(f"augment.{key} is a range from low to high; got {[low, high]}. Exchange the two")

    def with_processor(self, processor: AudioProcessor) -> "AudioAugment":
        """The same views of sounds of this processor, whose normalisation is undone where powers add up."""
        bound = copy.copy(self)
        object.__setattr__(bound, "levels", Levels.of(processor))
        return bound

    @property
    def mixes(self) -> bool:
        return bool(self.mix or self.overlap)

    def __call__(self, inputs: Inputs, draws: Draws, others: Others | None = None) -> Inputs:
        """One random view of a batch. Without `mix` and `overlap` the view of a sample depends on its own key and values only."""
        own = _Sounds.of(inputs, draws, Others.of(inputs, draws) if others is None else others)
        if not own.spectral and any(getattr(self, key) for key in _SPECTRAL):
            raise ValueError(f"augment.{', '.join(_SPECTRAL)} need mel bins; with processor.frontend: waveform leave them out")
        if LABELS in inputs and (moving := [key for key in _MOVING if getattr(self, key)]):
            raise ValueError(
                f"augment.{', '.join(moving)}: what has labels of its own stays where it is in time (objective.kind: dense); leave "
                "them out"
            )
        name = FBANK if own.spectral else WAVEFORM
        _, pieces, _, size = inputs[name].shape[:4]
        view = dict(inputs)
        with torch.autocast(own.values.device.type, enabled=False):
            own = self._overlapped(own)
            if self.part is not None:
                pieces = most(self.part[1], pieces)
                if LENGTHS in inputs or self.part[0] < self.part[1]:
                    view[LENGTHS] = own.steps // size
            values = self._changed(replace(own, values=own.values[:, :, : pieces * size]))
            if LENGTHS in view:
                values = values * _inside(values, own.steps)
        values = values if own.spectral else values[..., 0]
        return view | {name: values.unflatten(2, (-1, size)).transpose(1, 2)}

    def _changed(self, own: "_Sounds") -> Float[Tensor, "b c t m"]:
        """Values after the changes for which other sounds don't matter."""
        x, steps, draws = own.values, own.steps, own.draws
        if self.hiss:
            x = self._hiss(x, steps, draws, self._levels(own))
        if self.gain:
            change = draws.between("audio gain", -self.gain, self.gain, 1, 1, 1)
            x = x + change if own.spectral else x * change.exp()
        if self.noise:
            spread = draws.between("audio noise", 0.0, self.noise, 1, 1, 1)
            # Time comes first, so that what a sound gets does not depend on how far it is padded.
            x = x + spread * draws.normal("audio white noise", x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
        if self.time_mask:
            x = x.masked_fill(self._bands("time", self.time_mask, steps, x.shape[2], draws)[:, None, :, None], 0)
        if self.frequency_mask:
            bins = torch.full_like(steps, x.shape[3])
            x = x.masked_fill(self._bands("frequency", self.frequency_mask, bins, x.shape[3], draws)[:, None, None], 0)
        return x

    def _levels(self, own: "_Sounds") -> Levels | None:
        """What the values mean, where they are not samples of a waveform."""
        return self.levels.on(own.values.device) if own.spectral else None

    # A donor is taken as it would be at that stage of its own view: with its own draws, and donors of its own.

    def _moved(self, own: "_Sounds") -> "_Sounds":
        """Sounds after the changes of time and frequency."""
        x, steps = own.values, own.steps
        if self.crop or self.shift:
            x = self._move(x, steps, own.draws)
        if self.part is not None:
            x, steps = self._cut(own, x, self.part)
        if self.warp:
            x = self._warp(x, own.draws)
        return replace(own, values=x, steps=steps)

    def _mixed(self, own: "_Sounds") -> "_Sounds":
        """The same with another sound of the step added, as far as it reaches."""
        own = self._moved(own)
        if not self.mix or own.alone:
            return own
        x, donor = own.values, self._moved(own.donors("audio donor"))
        other = donor.values[:, :, : x.shape[2]]
        share = own.draws.between("audio mix", 0.0, self.mix, 1, 1, 1)
        mixed = torch.logaddexp(x + (1 - share).log(), other + share.log()) if own.spectral else (1 - share) * x + share * other
        return replace(own, values=torch.where(_inside(x, donor.steps), mixed, x))

    def _overlapped(self, own: "_Sounds") -> "_Sounds":
        """The same with a part of another sound of the step laid over a part of each."""
        own = self._mixed(own)
        if not self.overlap or own.alone:
            return own
        x, donor, levels = own.values, self._mixed(own.donors("audio overlap donor")), self._levels(own)
        part = draw_part("audio overlap", own.steps, donor.steps, self.overlap_share, self.overlap_snr, self.overlap, own.draws)
        first = (own.draws.uniform("audio overlap donor place", 1) * (donor.steps - part.length + 1)).floor().long()
        places = (torch.arange(x.shape[2], device=x.device) - part.start + first).clamp(0, donor.values.shape[2] - 1)
        powers = [log_power(sounds.values, _inside(sounds.values, sounds.steps), levels) for sounds in (own, donor)]
        gain = powers[0] - powers[1] - part.ratio * DECIBEL
        return replace(own, values=laid_over(x, _read(donor.values, 2, places), gain, part, levels))

    def _move(self, x: Float[Tensor, "b c t m"], steps: Int[Tensor, "b 1"], draws: Draws) -> Float[Tensor, "b c t m"]:
        """Read every step from the place in time where shift and crop find it."""
        places = torch.arange(x.shape[2], device=x.device).expand(len(x), -1)
        if self.shift:
            far = (draws.between("audio shift", -self.shift, self.shift, 1) * steps).round().long()
            x = _read(x, 2, torch.where(places < steps, (places + far) % steps, places))
        if self.crop:
            share = draws.between("audio crop", *self.crop, 1)
            start = (1 - share) * steps * draws.uniform("audio crop place", 1)
            x = _read_between(x, 2, start + (places + 0.5) * share - 0.5, steps - 1)
        return x

    def _cut(
        self, own: "_Sounds", x: Float[Tensor, "b c t m"], shares: tuple[float, float]
    ) -> tuple[Float[Tensor, "b c t m"], Int[Tensor, "b 1"]]:
        """A part of each sound at its beginning, anything after it, and how far the part reaches."""
        steps = own.draws.part("audio part", shares, own.steps // own.size) * own.size
        places = own.draws.start("audio part place", steps, own.steps) + torch.arange(x.shape[2], device=x.device)
        return _read(x, 2, places.clamp(max=x.shape[2] - 1)), steps

    def _warp(self, x: Float[Tensor, "b c t m"], draws: Draws) -> Float[Tensor, "b c t m"]:
        """Stretch the mel axis from its lower end."""
        places = torch.arange(x.shape[3], device=x.device)
        factor = draws.between("audio warp", 1 - self.warp, 1 + self.warp, 1)
        return _read_between(x, 3, (places + 0.5) * factor - 0.5, torch.full((len(x), 1), x.shape[3] - 1, device=x.device))

    def _hiss(
        self, x: Float[Tensor, "b c t m"], steps: Int[Tensor, "b 1"], draws: Draws, levels: Levels | None
    ) -> Float[Tensor, "b c t m"]:
        """Lay white noise over a part of each sound."""
        part = draw_part("audio hiss", steps, steps, self.overlap_share, self.hiss_snr, self.hiss, draws)
        noise, inside = white(x, levels, draws), _inside(x, steps)
        gain = log_power(x, inside, levels) - log_power(noise, inside, levels) - part.ratio * DECIBEL
        return laid_over(x, noise, gain, part, levels)

    def _bands(self, name: str, largest: float, steps: Int[Tensor, "b 1"], size: int, draws: Draws) -> Bool[Tensor, "b s"]:
        """Where the bands lie, each of a length and at a place of its own."""
        length = draws.between(f"audio {name} mask", 0.0, largest, self.bands, 1) * steps[:, None]
        start = draws.uniform(f"audio {name} mask place", self.bands, 1) * (steps[:, None] - length)
        places = torch.arange(size, device=steps.device) + 0.5
        return ((places >= start) & (places < start + length)).any(1)


@dataclass(frozen=True)
class _Sounds:
    """Sounds on the way to their view: log-mel values, or samples as one bin.

    steps: how far in time each reaches. size: steps of a token. draws: their own. others: the step from which their donors come.
    """

    values: Float[Tensor, "b c t m"]
    steps: Int[Tensor, "b 1"]
    size: int
    spectral: bool
    draws: Draws
    others: Others

    @classmethod
    def of(cls, inputs: Inputs, draws: Draws, others: Others) -> "_Sounds":
        spectral = FBANK in inputs
        sounds = inputs[FBANK] if spectral else inputs[WAVEFORM][..., None]
        pieces, size = sounds.shape[1], sounds.shape[3]
        steps = torch.full((len(sounds), 1), pieces * size, device=sounds.device)
        if LENGTHS in inputs:
            steps = inputs[LENGTHS] * size
        return cls(sounds.transpose(1, 2).flatten(2, 3), steps, size, spectral, draws, others)

    @property
    def alone(self) -> bool:
        """Whether there is no sound to take for a donor."""
        return len(self.others.keys) == 1

    def donors(self, purpose: str) -> "_Sounds":
        """For each sound another one of the step, before any change."""
        rows = self.others.donor(purpose, self.draws)
        inputs = {name: x[rows] for name, x in self.others.inputs.items()}
        return _Sounds.of(inputs, Draws(self.others.keys[rows]), replace(self.others, place=rows))


def _inside(x: Float[Tensor, "b c t m"], steps: Int[Tensor, "b 1"]) -> Bool[Tensor, "b 1 t 1"]:
    """Which steps in time lie inside their sound."""
    return (torch.arange(x.shape[2], device=x.device) < steps)[:, None, :, None]


def _read(x: Float[Tensor, "b c t m"], axis: int, places: Int[Tensor, "b s"]) -> Float[Tensor, "b c t2 m2"]:
    """Whole steps of one axis."""
    shape, size = [len(x), 1, 1, 1], list(x.shape)
    shape[axis] = size[axis] = places.shape[1]
    return x.gather(axis, places.view(shape).expand(size))


def _read_between(
    x: Float[Tensor, "b c t m"], axis: int, places: Float[Tensor, "b s"], last: Int[Tensor, "b 1"]
) -> Float[Tensor, "b c t m"]:
    """Linear interpolation along one axis; beyond the ends lies the value at the end."""
    places = torch.minimum(places.clamp(min=0), last)
    lower = places.floor()
    shape = [len(x), 1, 1, 1]
    shape[axis] = x.shape[axis]
    weight = (places - lower).view(shape)
    upper = torch.minimum(lower + 1, last)
    return torch.lerp(_read(x, axis, lower.long()), _read(x, axis, upper.long()), weight)

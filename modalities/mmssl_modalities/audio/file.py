"""Sound files, whole or in parts, through soundfile; and what every sound must keep, wherever it comes from."""

import math
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl_modalities.audio.containers import SUFFIXES as CONTAINERS
from mmssl_modalities.audio.containers import container_of, decoded
from mmssl_modalities.audio.wav import with_size

Sound = tuple[np.ndarray, int]
"""Float32 values `[channels, samples]`, full scale at 1, and samples per second."""

SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".wave", ".bwf", ".rf64"),
    *(".w64", ".mp2", ".mp1", ".mpga", ".sph", ".nist", ".sf", ".ircam", ".voc", ".svx", ".8svx", ".iff", ".avr", ".htk", ".mpc"),
    *(".paf", ".fap", ".pvf", ".sd2", ".sds", ".wve", ".xi"),
    *CONTAINERS,
)
"""Of files that libsndfile decodes, or PyAV. Not .raw, which has no header; nor .mat, in which Matlab keeps anything."""

MAX_RATE = 10_000_000
"""Samples per second; ultrasound recorders reach some millions."""
MAX_CHANNELS = 64
MAX_VALUES = 2**28
"""Values that one sample may decode to: a GiB, or 4.6 hours of 16 kHz. A small file of silence can claim any length."""
MAX_HOURS = 24
"""Length of a file that is cut into windows."""
LOUDEST = 1e9
"""Largest absolute value: float32 still holds its power."""

UNNAMED = "the sound"


class File:
    """A sound file on disk, or its bytes, or the frames from `start` to `stop` of it."""

    def __init__(self, name: str, data: bytes | None, start: int = 0, stop: int | None = None) -> None:
        self.name, self.data, self.start, self.stop = name, data, start, stop

    def part(self, start: int, stop: int) -> dict[str, Any]:
        """The raw sound that holds some of these frames."""
        path = None if self.name == UNNAMED else self.name
        return {"bytes": self.data, "path": path, "start": self.start + start, "stop": self.start + stop}

    def header(self) -> tuple[int, int]:
        """Samples per second and number of frames."""
        with self._open() as file:
            rate, _, length = self._judged(file)
        if length > MAX_HOURS * 3600 * rate:
            raise ValueError(
                f"{self.name} claims to last {length / rate / 3600:,.0f} hours; at most {MAX_HOURS} are allowed. Cut it into "
                "several files, or drop it if it is damaged"
            )
        return rate, length

    def read(self, seconds: float | None = None) -> Sound:
        """Decode. Raises FileNotFoundError, IsADirectoryError or ValueError, which name the file."""
        with self._open() as file:
            rate, channels, length = self._judged(file)
            check_length(length, rate, seconds, self.name)
            if length * channels > MAX_VALUES:
                raise ValueError(
                    f"{self.name} has {length:,} frames of {channels} channels; at most {MAX_VALUES:,} values are decoded at once. "
                    "Set processor.max_seconds, which cuts long sounds into windows"
                )
            values = self._frames(file, length)
        return checked(np.ascontiguousarray(values.T), self.name), rate

    def _frames(self, file: Any, length: int) -> Float32[np.ndarray, "n c"]:
        try:
            file.seek(self.start)
            values: Float32[np.ndarray, "n c"] = file.read(length, dtype="float32", always_2d=True)
        except (_soundfile().SoundFileError, OSError, ValueError, TypeError, AssertionError) as error:
            raise self._damaged(str(error)) from error
        # The length of an mp3 without an index is an estimate.
        if len(values) < length and (file.format != "MP3" or not len(values)):
            raise self._damaged(f"only {len(values):,} of {length:,} frames can be decoded")
        return values

    def _judged(self, file: Any) -> tuple[int, int, int]:
        """Rate, channels and frames of the wanted part, if they make sense."""
        rate, channels, total = int(file.samplerate), int(file.channels), int(file.frames)
        if total < 1:
            raise ValueError(f"{self.name} holds no samples: its header is all there is. Replace or drop it")
        stop = total if self.stop is None else min(self.stop, total)
        if not 0 <= self.start < stop:
            raise ValueError(f"{self.name} has {total:,} frames, but those from {self.start} to {self.stop} are asked for")
        check_channels(channels, self.name)
        return check_rate(rate, self.name), channels, stop - self.start

    def _open(self) -> Any:
        soundfile, place = _soundfile(), self._place()
        try:
            file = soundfile.SoundFile(place)
            streamed = None if file.frames else with_size(Path(place).read_bytes() if isinstance(place, str) else place.getvalue())
            return file if streamed is None else soundfile.SoundFile(BytesIO(streamed))
        except (soundfile.SoundFileError, TypeError, ValueError, OSError):
            start = self._start()
            if start and (kind := container_of(self.name, start)):
                return soundfile.SoundFile(decoded(self._place(), kind, self.name))
            what = f"a file that starts with {start!r}" if start else "no bytes"
            raise ValueError(
                f"{self.name} is no sound in a format that libsndfile reads (wav, flac, ogg, mp3, ...); got {what}. Replace or "
                "drop it"
            ) from None

    def _place(self) -> BytesIO | str:
        if self.data is not None:
            return BytesIO(self.data)
        path = Path(self.name)
        try:
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder, not a sound file; give the path of one file")
            found, regular = path.exists(), path.is_file()
        except ValueError as error:
            raise ValueError(f"{self.name!r} is no path: {error}") from None
        if not found:
            raise FileNotFoundError(
                f"no sound file {path}; paths are relative to the working directory, {Path.cwd()}, and in a table first to the "
                "table's folder"
            )
        if not regular:
            raise ValueError(f"{path} is no regular file; give the path of a sound file")
        return str(path)

    def _start(self) -> bytes:
        if self.data is not None:
            return self.data[:8]
        try:
            with Path(self.name).open("rb") as file:
                return file.read(8)
        except OSError as error:
            raise ValueError(f"cannot read the sound file {self.name}: {error.strerror}") from error

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.name} is damaged: {what}. Replace it, or set data.on_error: skip to leave such samples out")


def _soundfile() -> ModuleType:
    try:
        return import_module("soundfile")
    except ImportError:
        raise ImportError(
            "reading sound files needs the package `soundfile`: pip install 'mmssl[audio]'. Arrays do without it", name="soundfile"
        ) from None


def check_rate(rate: Any, where: str) -> int:
    """A number of samples per second that makes sense."""
    if isinstance(rate, float | np.floating) and float(rate).is_integer():
        rate = int(rate)
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise TypeError(f"samples per second must be a whole number; {where} says {rate!r}. Correct it")
    if not 1 <= rate <= MAX_RATE:
        raise ValueError(f"samples per second must lie between 1 and {MAX_RATE:,}; {where} says {rate}. Correct it, or drop it")
    return int(rate)


def check_channels(channels: int, name: str) -> None:
    """ValueError for a number of channels that nobody records."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"{name} must have 1 to {MAX_CHANNELS} channels; got {channels}. Choose those that you need")


def most_samples(seconds: float, rate: int) -> int:
    """Whole samples that fit into `seconds`, at least one."""
    return max(1, math.floor(seconds * rate + 1e-6))


def check_length(samples: int, rate: int, seconds: float | None, name: str) -> None:
    """ValueError for a sound that is longer than a window."""
    if seconds is not None and samples > most_samples(seconds, rate):
        raise ValueError(
            f"{name} lasts {samples / rate:g} s, one sample at most processor.max_seconds={seconds:g}. Cut it into windows by "
            "processor.pieces(sound), or raise max_seconds"
        )


def checked(values: Float32[np.ndarray, "c n"], name: str) -> Float32[np.ndarray, "c n"]:
    """The values, unless some are NaN, infinite, or so large that their power is."""
    if not np.abs(values).max() <= LOUDEST:
        bad = np.count_nonzero(~(np.abs(values) <= LOUDEST))
        raise ValueError(
            f"{name} needs finite values, 1 being full scale; {bad} of {values.size} are NaN, infinite or beyond {LOUDEST:.0e}. "
            "Replace them, or drop the sound"
        )
    return values

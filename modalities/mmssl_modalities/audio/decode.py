"""Everything that users hold a sound in, to float32 waveforms with their rate; parts of long sounds; channels and rates."""

import logging
import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from mmssl_modalities.audio.file import UNNAMED, File, Sound, check_channels, check_length, check_rate, checked, most_samples

logger = logging.getLogger(__name__)

RESAMPLING_TERMS = 1_000_000
"""Largest product of the two terms of a resampling ratio, which is the size of its filter."""

_FULL_SCALE = {"int8": 2.0**7, "uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}
_FLOATS = ("float16", "float32", "float64")


def read_sound(raw: Any, sample_rate: int, seconds: float | None = None) -> Sound:
    """Decode one raw sound.

    raw: bytes of a file, path, array or tensor (taken to have `sample_rate`), pair (array, rate), or a dict: with "bytes" or "path"
    as the datasets library has it, and with "start" and "stop", in frames, for a part; or with "array" and "sampling_rate".
    seconds: what it may last.
    Raises FileNotFoundError, TypeError or ValueError, which name the file when it is known; ImportError without soundfile.
    """
    source = _source(raw, sample_rate)
    if isinstance(source, File):
        return source.read(seconds)
    array, rate = source
    check_length(array.shape[1], rate, seconds, UNNAMED)
    return checked(_in_floats(array), UNNAMED), rate


def cut(raw: Any, sample_rate: int, seconds: float) -> list[Any]:
    """Raw sounds of at most `seconds`, equally long, that make up `raw`; of a file only the header is read."""
    source = _source(raw, sample_rate)
    rate, length = source.header() if isinstance(source, File) else (source[1], source[0].shape[-1])
    count = math.ceil(length / most_samples(seconds, rate))
    if count <= 1:
        return [raw]
    edges = pairwise(length * i // count for i in range(count + 1))
    if isinstance(source, File):
        return [source.part(start, stop) for start, stop in edges]
    first, whole = (0, length) if not isinstance(raw, Mapping) else (raw.get("start") or 0, raw.get("whole") or length)
    return [
        {"array": source[0][:, start:stop], "sampling_rate": rate, "start": first + start, "whole": whole} for start, stop in edges
    ]


def span_of(raw: Any, sample_rate: int) -> tuple[float, float, float]:
    """Where a raw sound, or a part that `cut` made, begins and ends in the whole one, and how long that is, in seconds."""
    source = _source(raw, sample_rate)
    if isinstance(source, File):
        rate, length = source.header()
        whole, start = File(source.name, source.data).header()[1], source.start
    else:
        rate, length, known = source[1], source[0].shape[-1], raw if isinstance(raw, Mapping) else {}
        start, whole = known.get("start") or 0, known.get("whole") or length
    return start / rate, (start + length) / rate, whole / rate


def _source(raw: Any, sample_rate: int) -> tuple[np.ndarray, int] | File:
    """An array with channels first and its rate, or a file."""
    if isinstance(raw, Mapping):
        return _record(raw)
    if isinstance(raw, bytes | bytearray | memoryview):
        return File(UNNAMED, bytes(raw))
    if isinstance(raw, str | Path):
        return File(str(raw), None)
    if isinstance(raw, np.ndarray | Tensor):
        taken_at(sample_rate)
        return _channels_first(raw), sample_rate
    if isinstance(raw, list) and raw and isinstance(raw[0], int | float):  # as the datasets library gives an array back
        taken_at(sample_rate)
        return _channels_first(np.asarray(raw, np.float32)), sample_rate
    if isinstance(raw, tuple):
        if len(raw) != 2:
            raise ValueError(f"a sound given as a tuple is a pair (array, samples per second); got {len(raw)} parts")
        return _channels_first(raw[0]), check_rate(raw[1], "the pair (array, rate)")
    if hasattr(raw, "get_all_samples"):
        raise TypeError(
            f"a sound cannot be a decoder ({type(raw).__name__}); give the undecoded column, "
            "dataset.cast_column(name, datasets.Audio(decode=False)), or an array and its rate"
        )
    raise TypeError(
        "a sound is the bytes of a file, a path, a numpy array or torch tensor, a pair (array, samples per second), or a dict with "
        f"'bytes' or 'path', or with 'array' and 'sampling_rate'; got {type(raw).__name__}"
    )


@cache
def taken_at(sample_rate: int) -> None:
    """Say once that sounds came without a rate."""
    logger.warning(
        "sounds without a rate are taken to have %s samples a second; else give pairs (array, rate), or audio_kwargs="
        '{"sampling_rate": RATE}',
        f"{sample_rate:,}",
    )


def _record(record: Mapping[str, Any]) -> tuple[np.ndarray, int] | File:
    """The dict of an audio column of the datasets library, decoded or not, or a part of one."""
    array, data, path = (record.get(key) for key in ("array", "bytes", "path"))
    keys = sorted(map(str, record))
    if array is not None:
        if record.get("sampling_rate") is None:
            raise ValueError(f"a sound given as a dict with 'array' needs 'sampling_rate' too; got the keys {keys}")
        return _channels_first(array), check_rate(record["sampling_rate"], "'sampling_rate'")
    if data is None and path is None:
        raise ValueError(
            "a sound given as a dict needs 'bytes' or 'path', or 'array' and 'sampling_rate'; got the keys "
            f"{keys}, none of these with a value"
        )
    if not isinstance(data, bytes | bytearray | memoryview | None) or not isinstance(path, str | Path | None):
        raise TypeError(f"'bytes' must be bytes and 'path' text; got {type(data).__name__} and {type(path).__name__}")
    return File(str(path or UNNAMED), None if data is None else bytes(data), record.get("start") or 0, record.get("stop"))


def _channels_first(values: Any) -> Shaped[np.ndarray, "c n"]:
    """An array `[channels, samples]` of any type that holds sound; of two axes the shorter is the channels."""
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError("the array of a sound must not be ragged; give every channel the same number of samples") from None
    if array.size == 0:
        raise ValueError(f"a sound needs at least one sample; got an empty array of shape {array.shape}")
    if array.dtype.name not in _FULL_SCALE and array.dtype.name not in _FLOATS:
        raise TypeError(
            "the samples of a sound are int8, uint8, int16 or int32, or floats, which are taken as they are; got "
            f"{array.dtype}. Convert them, for example with .astype(np.float32)"
        )
    if array.ndim not in (1, 2):
        raise ValueError(
            f"the array of a sound has one axis, or two if it has channels; got shape {array.shape}. Pass several sounds as a list"
        )
    if array.ndim == 1:
        return array[None]
    check_channels(min(array.shape), f"an array of shape {array.shape} (the shorter axis is taken for the channels)")
    return array if array.shape[0] <= array.shape[1] else array.T


def _in_floats(array: Shaped[np.ndarray, "c n"]) -> Float32[np.ndarray, "c n"]:
    """Integers with their full scale at 1; floats as they are."""
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, order="C")
    if array.dtype.name == "uint8":
        values -= 128
    values /= np.float32(_FULL_SCALE.get(array.dtype.name, 1.0))
    return values


def in_channels(values: Float32[np.ndarray, "c n"], channels: int) -> Float32[np.ndarray, "d n"]:
    """The wanted number of channels: one is the mean of all; a single one is repeated."""
    if len(values) == channels:
        return values
    if channels == 1:
        return values.mean(0, keepdims=True)
    if len(values) == 1:
        return np.repeat(values, channels, axis=0)
    raise ValueError(
        f"a sound needs processor.channels={channels} channels, or one, which is repeated; this one has {len(values)}. Choose "
        "channels, or set processor.channels: 1, which mixes them"
    )


def at_rate(waveform: Float[Tensor, "c n"], rate: int, wanted: int) -> Float[Tensor, "c m"]:
    """The waveform at another rate, by torchaudio's windowed sinc.

    A ratio of large terms (44,101 to 16,000) would need a filter of gigabytes. The nearest ratio of smaller terms takes its place,
    which changes pitch and length by less than a thousandth.
    """
    if rate == wanted:
        return waveform
    ratio = Fraction(rate, wanted)
    if ratio.numerator * ratio.denominator > RESAMPLING_TERMS:
        ratio = ratio.limit_denominator(max(1, math.isqrt(int(RESAMPLING_TERMS / ratio))))
    with torch.no_grad():
        resampled: Float[Tensor, "c m"] = _resampler(ratio.numerator, ratio.denominator)(waveform)
    return resampled


@lru_cache(maxsize=16)
def _resampler(rate: int, wanted: int) -> Any:
    """torchaudio.functional.resample with its filter, which is computed once."""
    from torchaudio.transforms import Resample

    return Resample(rate, wanted)

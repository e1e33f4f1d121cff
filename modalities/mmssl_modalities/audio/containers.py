"""Sound files that libsndfile does not decode: AAC and its like, through PyAV (ffmpeg), by the extra `av`."""

from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = {".m4a": "mov", ".m4b": "mov", ".mp4": "mov", ".aac": "aac", ".wma": "asf", ".webm": "matroska", ".mka": "matroska"}
"""Suffixes, and the demultiplexer that each may use: no other is tried, as some open files that a file names."""
SUFFIXES = (".m4a", ".m4b", ".aac", ".wma", ".mka")
"""Of files that hold a sound and no film."""
MAX_VALUES = 2**28

_BEGINNINGS = {b"ftyp": "mov"}


def container_of(name: str, start: bytes) -> str | None:
    """How a file is to be opened, by its suffix or first bytes; None if it is not for PyAV."""
    return FORMATS.get(Path(name).suffix.lower()) or _BEGINNINGS.get(start[4:8])


def decoded(place: BytesIO | str, kind: str, name: str) -> BytesIO:
    """The sound of a file as a WAV file of floats. ValueError that names a file of none; ImportError that names the extra."""
    try:
        av: Any = import_module("av")
    except ImportError as error:
        raise ImportError(
            f"{name} is no sound that libsndfile reads; PyAV does: pip install mmssl[av]. Or convert it, as to .flac",
            name="av",
        ) from error
    soundfile = import_module("soundfile")
    parts, rate, count = [], 0, 0
    try:
        with av.open(place, format=kind) as container:
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    values = part.to_ndarray()
                    count += values.size
                    if count > MAX_VALUES:
                        raise ValueError(f"it has more than {MAX_VALUES:,} values. Cut it into several files")
                    parts.append(values)
            parts += [part.to_ndarray() for part in resampler.resample(None)]
        content = BytesIO()
        soundfile.write(content, np.concatenate(parts, 1).T, rate, format="RF64", subtype="FLOAT")
    except Exception as error:  # what ffmpeg raises for damaged files is as varied as the damage
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is damaged or holds no sound: {text:.300}. Replace or drop it") from error
    content.seek(0)
    return content

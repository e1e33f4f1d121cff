"""What sounds are known by, and sizes that suit them, for a first recipe."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from mmssl.modality import Claim, Suited, readable
from mmssl_modalities.audio.decode import read_sound

RATES = (8000, 16000)
"""Samples per second that sounds may get: telephone, and speech."""
LONGEST = 10.0
"""Seconds of a window: longer sounds become several."""
FRAMES = {3.0: 4, 6.0: 8, LONGEST: 16}
"""Frames of a patch by the seconds of a window: 60 to 80 tokens."""
READ = 50
"""Sounds that are looked at."""


def claim(columns: Mapping[str, Sequence[Any]]) -> Claim | None:
    """Sounds as the datasets library has them: records of samples and rate, or of bytes that decode to a sound."""
    for name, cells in columns.items():
        there = [cell for cell in cells if cell is not None][:3]
        if there and all(isinstance(cell, Mapping) for cell in there) and len(readable(there, _read)) == len(there):
            return Claim(name, 1.0, f"column {name} holds sounds")
    return None


def _read(raw: Any) -> tuple[float, int]:
    """Seconds and rate of a raw sound."""
    sound, rate = read_sound(raw, RATES[-1])
    return sound.shape[-1] / rate, rate


def suited(samples: Sequence[Any]) -> dict[str, Suited]:
    """Rate, window and patch by the sounds' own rates and lengths."""
    found = readable(samples[:READ], _read) or [(LONGEST, RATES[-1])]
    seconds, rates = [length for length, _ in found], [rate for _, rate in found]
    rate = max((each for each in RATES if each <= median(rates)), default=RATES[0])
    most = min(LONGEST, float(math.ceil(np.quantile(seconds, 0.95))))
    frames = next(count for limit, count in FRAMES.items() if most <= limit)
    lasting = f"they last {min(seconds):.1f} to {max(seconds):.1f} seconds"
    return {
        "processor.sample_rate": Suited(rate, f"most have {int(median(rates)):,} samples a second"),
        "processor.max_seconds": Suited(most, f"{lasting}; longer ones become several"),
        "processor.patch": Suited([frames, 64], f"a token for each {frames / 100:g} seconds"),
    }

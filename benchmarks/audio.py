"""Speed of the log-mel filterbank on one core, beside torchaudio's.

    python benchmarks/audio.py

Both make 128 mel bins of 16 kHz, Hanning windows of 25 ms every 10 ms. They alternate in one process on one thread, so that a noisy
machine slows both; it disturbs the best of the repeats least. The last rows of ten seconds are the whole processor: decoding,
resampling, filterbank, normalisation.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
import soundfile
import torch
import torchaudio

from mmssl_modalities.audio import AudioProcessor
from mmssl_modalities.audio.fbank import Filterbank

RATE = 16000
BINS = 128
OURS, THEIRS = "mmssl", "torchaudio.compliance.kaldi.fbank"


def waveform(seconds: float, rate: int = RATE) -> torch.Tensor:
    return 0.1 * torch.randn(1, round(seconds * rate), generator=torch.Generator().manual_seed(0))


def filterbanks(seconds: float) -> dict[str, Callable[[], object]]:
    """Both filterbanks on the same sound."""
    sound, bank = waveform(seconds), Filterbank(RATE, BINS, 25.0, 10.0, 20.0, None)
    theirs = torchaudio.compliance.kaldi.fbank
    return {
        OURS: lambda: bank(sound),
        THEIRS: lambda: theirs(sound, sample_frequency=RATE, num_mel_bins=BINS, window_type="hanning"),
    }


def processors(seconds: float) -> dict[str, Callable[[], object]]:
    """The processor on a file of its own rate, and on a stereo file of CD quality."""
    processor = AudioProcessor(mean=-4.2677, std=9.138, max_seconds=None)
    files = {}
    for name, rate, channels in (("wav, 16 kHz mono", RATE, 1), ("flac, 44.1 kHz stereo", 44100, 2)):
        stream = BytesIO()
        values = np.repeat(waveform(seconds, rate).numpy().T, channels, 1)
        soundfile.write(stream, values, rate, format=name.partition(",")[0].upper())
        files[f"processor, {name}"] = stream.getvalue()
    return {name: lambda data=data: processor(data) for name, data in files.items()}  # type: ignore[misc]


def alternate(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function, all of them in turn."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - begin)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"one thread, torch {torch.__version__}, {BINS} mel bins, {RATE} Hz, {repeats} repeats")
    print("| seconds of sound | | ms, median | ms, best | times real time, best |")
    print("|---:|---|---:|---:|---:|")
    for seconds in (1.0, 10.0, 60.0):
        rows = alternate(filterbanks(seconds), repeats)
        if seconds == 10:
            rows |= alternate(processors(seconds), repeats)
        for name, taken in rows.items():
            median, best = statistics.median(taken), min(taken)
            print(f"| {seconds:g} | {name} | {1e3 * median:.2f} | {1e3 * best:.2f} | {seconds / best:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

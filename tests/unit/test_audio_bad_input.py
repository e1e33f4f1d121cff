"""What is no sound, or an odd one: one clear error, or the documented result; never a crash, a hang or NaN in a batch."""

import os
import struct
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl_modalities.audio import AudioProcessor
from mmssl_modalities.audio.decode import cut, read_sound, taken_at
from mmssl_modalities.audio.file import MAX_VALUES, File

PROCESSOR = AudioProcessor(sample_rate=8000, mel_bins=8, patch=(4, 4), mean=-8.0, std=4.0, max_seconds=2.0)
WAVES = AudioProcessor(frontend="waveform", sample_rate=8000, normalise="utterance", max_seconds=2.0)
UTTERANCES = AudioProcessor(sample_rate=8000, mel_bins=8, patch=(4, 4), normalise="utterance", max_seconds=2.0)
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)


def encoded(values: Any, rate: int = 8000, kind: str = "WAV", **options: Any) -> bytes:
    stream = BytesIO()
    soundfile.write(stream, values, rate, format=kind, **options)
    return stream.getvalue()


WAV = encoded(SOUND)


def wav(*, rate: int = 8000, channels: int = 1, bits: int = 16, code: int = 1, data: bytes = b"\0" * 800) -> bytes:
    """A WAV file written by hand, as nobody should."""
    frame = channels * bits // 8
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, min(rate * frame, 2**32 - 1), frame % 65536, bits)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + chunk + b"data" + struct.pack("<I", len(data)) + data


def changed(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


class Decoder:
    """What an audio column of the datasets library gives by default."""

    def get_all_samples(self) -> None:
        raise AssertionError


NO_FORMAT = r"is no sound in a format that libsndfile reads \(wav, flac, ogg, mp3, \.\.\.\); got "
FINITE = r"the sound needs finite values, 1 being full scale; "

REFUSED: dict[str, tuple[Any, str]] = {
    # Bytes and files
    "no bytes": (b"", NO_FORMAT + "no bytes"),
    "text": (b"hello, this is no sound at all", NO_FORMAT + "a file that starts with b'hello, t'"),
    "text named wav": ({"bytes": b"not audio", "path": "a.wav"}, "a.wav " + NO_FORMAT),
    "random bytes": (bytes(range(256)), NO_FORMAT),
    "an image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, NO_FORMAT),
    "half of a wav header": (WAV[:20], NO_FORMAT),
    "the header alone": (WAV[:44], "holds no samples: its header is all there is"),
    "a wav without samples": (encoded(SOUND[:0]), "holds no samples: its header is all there is"),
    "a flac cut in the middle": (encoded(SOUND, kind="FLAC")[:3000], "the sound is damaged: "),
    "a flac with rubbish": (changed(encoded(SOUND, kind="FLAC"), 2000, b"\xff" * 900), "the sound is damaged: "),
    "an ogg cut in its header": (encoded(SOUND, kind="OGG")[:60], NO_FORMAT),
    "a wav of unknown coding": (wav(code=0x1234), NO_FORMAT),
    "rate 0 in a wav": (wav(rate=0), f"samples per second must lie between 1 and 10,000,000; the sound says 0|{NO_FORMAT}"),
    "a huge rate in a wav": (wav(rate=2**31 - 1), "must lie between 1 and 10,000,000; the sound says 2147483647"),
    "no channels in a wav": (wav(channels=0), NO_FORMAT),
    "many channels in a wav": (wav(channels=200, data=b"\0" * 4000), f"must have 1 to 64 channels; got 200|{NO_FORMAT}"),
    "NaN in a float wav": (encoded(np.full(100, np.nan, np.float32), subtype="FLOAT"), FINITE + "100 of 100 are NaN"),
    "infinity in a float wav": (encoded(np.array([0, np.inf] * 50), subtype="FLOAT"), FINITE + "50 of 100"),
    "a missing path": ("nowhere/a.wav", "no sound file nowhere/a.wav; paths are relative to the working directory"),
    "a missing path in a dict": ({"bytes": None, "path": "nowhere.flac"}, "no sound file nowhere.flac"),
    "a folder": (Path(__file__).parent, "is a folder, not a sound file; give the path of one file"),
    "a text file": (__file__, NO_FORMAT + "a file that starts with b'\"\"\"What '"),
    "a device": ("/dev/null", "is no regular file; give the path of a sound file"),
    "a path with a null byte": ("a\0b.wav", "is no path|no sound file"),
    "a path that is too long": ("a" * 5000, "File name too long|no sound file"),
    # Dicts and pairs
    "an empty dict": ({}, r"'bytes' or 'path', or 'array' and 'sampling_rate'; got the keys \[\], none of these with a value"),
    "a dict of other things": ({"text": "hello"}, r"got the keys \['text'\]"),
    "a dict without values": ({"bytes": None, "path": None}, "none of these with a value"),
    "text as bytes": ({"bytes": "RIFF"}, "'bytes' must be bytes and 'path' text; got str and NoneType"),
    "a number as path": ({"path": 3}, "got NoneType and int"),
    "an array without rate": ({"array": SOUND}, r"a dict with 'array' needs 'sampling_rate' too; got the keys \['array'\]"),
    "rate 0": ({"array": SOUND, "sampling_rate": 0}, "'sampling_rate' says 0"),
    "a negative rate": ((SOUND, -8000), r"the pair \(array, rate\) says -8000"),
    "a rate that is no number": ((SOUND, "8000"), r"must be a whole number; the pair \(array, rate\) says '8000'"),
    "a broken rate": ((SOUND, 8000.5), "says 8000.5"),
    "a rate that is NaN": ((SOUND, float("nan")), "says nan"),
    "a rate that is a boolean": ((SOUND, True), "says True"),
    "a huge rate": ((SOUND, 10**12), "says 1000000000000"),
    "a triple": ((SOUND, 8000, 1), r"a pair \(array, samples per second\); got 3 parts"),
    "a part behind the end": ({"bytes": WAV, "start": 5000, "stop": 6000}, "4,000 frames, but those from 5000 to 6000 are"),
    # Arrays
    "no samples": (np.zeros(0, np.float32), r"at least one sample; got an empty array of shape \(0,\)"),
    "no samples of two channels": (np.zeros((2, 0)), r"empty array of shape \(2, 0\)"),
    "an empty tensor": (torch.zeros(0), "empty array"),
    "an empty list": ({"array": [], "sampling_rate": 8000}, "empty array"),
    "no axis": (np.array(0.5, np.float32), r"one axis, or two if it has channels; got shape \(\)"),
    "three axes": (np.zeros((2, 3, 4), np.float32), r"got shape \(2, 3, 4\). Pass several sounds as a list"),
    "many channels": (np.zeros((100, 200), np.float32), r"\(the shorter axis is taken for the channels\) must have"),
    "int64": (np.zeros(100, np.int64), "int8, uint8, int16 or int32, or floats, .* got int64. Convert them"),
    "uint16": (np.zeros(100, np.uint16), "got uint16"),
    "bool": (np.zeros(100, bool), "got bool"),
    "complex": (np.zeros(100, complex), "got complex128"),
    "objects": (np.array([None] * 9), "got object"),
    "text in an array": (np.array(["a", "b"]), "got <U1"),
    "ragged channels": ({"array": [[0.1, 0.2], [0.3]], "sampling_rate": 8000}, "must not be ragged"),
    "NaN": (np.array([0.1, np.nan, 0.2], np.float32), FINITE + "1 of 3 are NaN, infinite or beyond 1e"),
    "infinity": (torch.tensor([0.1, float("inf")]), FINITE + "1 of 2"),
    "beyond float32": (np.array([0.1, 1e300]), FINITE + "1 of 2"),
    "beyond its power": (np.array([0.1, 1e20], np.float32), FINITE + "1 of 2"),
    "longer than a window": (np.zeros(16001, np.float32), r"lasts 2.0001[23] s, one sample at most processor.max_seconds=2"),
    # Other things
    "None": (None, "a sound is the bytes of a file, a path, a numpy array .* got NoneType"),
    "a number": (3.5, "got float"),
    "a list of texts": (["0.1", "0.2"], "got list"),
    "an object": (object(), "got object"),
    "a decoder": (Decoder(), r"cannot be a decoder \(Decoder\); give the undecoded column, dataset.cast_column"),
}  # fmt: skip

HANDLED: dict[str, tuple[Any, int]] = {
    # The number of patches in time of 4 frames, 10 ms each.
    "one sample": (np.array([0.3], np.float32), 1),
    "shorter than a frame": (SOUND[:150], 1),
    "silence": (np.zeros(4000, np.float32), 12),
    "a constant": (np.full(4000, 0.25), 12),
    "a click": (np.eye(1, 4000, 2000)[0], 12),
    "full scale": (np.tile(np.array([-32768, 32767], np.int16), 2000), 12),
    "clipped integers in floats": (np.tile(np.array([-32768.0, 32767.0]), 2000), 12),
    "denormal numbers": (np.full(4000, 1e-42, np.float32), 12),
    "loud": (SOUND * 1e8, 12),
    "a wav cut in its samples is as long as it reaches": (WAV[:4044], 6),
    "a wav whose header promises more": (changed(WAV, 40, struct.pack("<I", 2**31)), 12),
    "one frame of a file": (encoded(SOUND[:1]), 1),
    "rate 1": ((np.array([0.1, -0.1], np.float32), 1), 50),
    "rate 10 MHz": ((np.tile(SOUND, 50), 10_000_000), 1),
    "an odd rate": ((SOUND, 8001), 12),
    "stereo, channels last": (np.stack([SOUND, SOUND], 1), 12),
    "stereo that cancels is silence": (np.stack([SOUND, -SOUND]), 12),
    "two samples of two channels": (np.zeros((2, 2), np.float32), 1),
    "a strided array": (np.stack([SOUND, SOUND], 1)[::-1, 0], 12),
    "half precision": (torch.from_numpy(SOUND).half(), 12),
    "a tensor with a gradient": (torch.from_numpy(SOUND).requires_grad_() * 1, 12),
    "8 bits": (encoded(SOUND, subtype="PCM_U8"), 12),
    "24 bits": (encoded(SOUND, subtype="PCM_24"), 12),
    "double precision": (encoded(SOUND, subtype="DOUBLE"), 12),
    "mu-law": (encoded(SOUND, subtype="ULAW"), 12),
    "aiff": (encoded(SOUND, kind="AIFF"), 12),
    "rubbish behind the samples": (WAV + b"\xff" * 100, 12),
    "a part of a file": ({"bytes": WAV, "path": None, "start": 0, "stop": 2000}, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    raw, message = REFUSED[name]
    for processor in (PROCESSOR, WAVES):
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            processor(raw)
    assert PROCESSOR.pieces(raw)[0] is raw or name == "longer than a window"


@pytest.mark.parametrize("name", HANDLED)
def test_what_is_handled(name: str) -> None:
    raw, patches = HANDLED[name]
    found = PROCESSOR(raw)["input_features"]
    assert found.shape == (patches, 1, 4, 8)
    for processor in (PROCESSOR, UTTERANCES, WAVES):
        (values,) = processor(raw).values()
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert np.isfinite(processor.features(processor(raw))).all()
        assert processor.collate([processor(raw), processor(SOUND)])


def test_there_are_enough_of_them() -> None:
    assert len(REFUSED) + len(HANDLED) > 90


def test_mixed_rates_and_channels_make_one_batch() -> None:
    sounds = [(SOUND, 8000), (SOUND, 44100), encoded(np.stack([SOUND] * 2, 1), 16000), (SOUND, 11025)]
    batch = PROCESSOR.collate([PROCESSOR(sound) for sound in sounds])
    assert batch["audio_lengths"].flatten().tolist() == [12, 2, 6, 9]
    assert batch["input_features"].isfinite().all()


def test_a_file_that_claims_too_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FLAC names its length in the header, and silence costs nothing."""
    monkeypatch.setattr("mmssl_modalities.audio.file.MAX_VALUES", 3000)
    unlimited = AudioProcessor(sample_rate=8000, mel_bins=8, patch=(4, 4), mean=0.0, std=1.0, max_seconds=None)
    with pytest.raises(ValueError, match=r"the sound has 4,000 frames of 1 channels; at most 3,000 values are decoded at once"):
        unlimited(WAV)
    assert MAX_VALUES > 2**20
    file = tmp_path / "long.wav"
    file.write_bytes(encoded(np.zeros(90_000, np.int16), 1))
    with pytest.raises(ValueError, match=r"long.wav claims to last 25 hours; at most 24 are allowed"):
        File(str(file), None).header()
    assert PROCESSOR.pieces(file) == [file]


class Short:
    """A file that decodes to less than its header says."""

    def __init__(self, kind: str, length: int) -> None:
        self.format, self.length = kind, length

    def seek(self, place: int) -> None:
        assert place == 0

    def read(self, length: int, **options: Any) -> np.ndarray:
        return np.zeros((min(length, self.length), 1), np.float32)


def test_a_file_that_holds_less_than_it_says() -> None:
    file = File("a.ogg", b"")
    with pytest.raises(ValueError, match=r"a.ogg is damaged: only 60 of 100 frames can be decoded"):
        file._frames(Short("OGG", 60), 100)
    assert len(file._frames(Short("MP3", 60), 100)) == 60  # whose length is an estimate
    with pytest.raises(ValueError, match="only 0 of 100 frames"):
        file._frames(Short("MP3", 0), 100)


def test_a_file_that_must_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "secret.wav"
    file.write_bytes(WAV)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ValueError, match=r"cannot read the sound file .*secret.wav: Permission denied"):
        PROCESSOR(file)


def test_without_soundfile_arrays_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert PROCESSOR(SOUND)
    for call in (PROCESSOR, PROCESSOR.pieces):
        with pytest.raises(ImportError, match=r"needs the package `soundfile`: pip install 'mmssl\[audio\]'\. Arrays do"):
            call(WAV)


def judged(raw: Any) -> None:
    """A result without NaN, or an error with a text."""
    for piece in PROCESSOR.pieces(raw):
        for processor in (PROCESSOR, WAVES):
            try:
                inputs = processor(piece)
            except (ValueError, TypeError, OSError) as error:
                assert str(error)
            else:
                assert all(values.isfinite().all() for values in inputs.values())


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["WAV", "FLAC", "OGG"]),
    place=st.integers(0, 3000),
    value=st.binary(min_size=1, max_size=8),
    end=st.integers(0, 4000),
)
def test_fuzz_files(kind: str, place: int, value: bytes, end: int) -> None:
    data = changed(FILES[kind], place, value)
    judged(data if end > 3000 else data[:end])


FILES = {kind: encoded(SOUND[:1200], kind=kind) for kind in ("WAV", "FLAC", "OGG")}


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(width=32), max_size=40),
    shape=st.sampled_from([(-1,), (1, -1), (-1, 1), (2, -1), (-1, 2), ()]),
    rate=st.one_of(st.integers(-5, 50_000), st.none(), st.floats()),
    kind=st.sampled_from(["float32", "float16", "float64", "int16", "uint8", "bool", "complex64"]),
)
def test_fuzz_arrays(values: list[float], shape: tuple[int, ...], rate: Any, kind: str) -> None:
    with np.errstate(all="ignore"):
        array = np.nan_to_num(values).astype(kind) if kind in ("int16", "uint8", "bool") else np.array(values).astype(kind)
    try:
        array = array.reshape(shape)
    except ValueError:
        return
    judged((array, rate))
    judged({"array": array, "sampling_rate": rate})
    judged(array)


def streamed(
    values: np.ndarray, order: str = "<", *, riff: int = 0, size: int = 0, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A WAV file of 16 bits at 8 kHz with these size fields, and chunks before and after the samples."""
    tag = b"RIFF" if order == "<" else b"RIFX"
    form = struct.pack(f"{order}HHIIHH", 1, 1, 8000, 16000, 2, 16)
    head = tag + struct.pack(f"{order}I", riff) + b"WAVEfmt " + struct.pack(f"{order}I", 16) + form + before
    return head + b"data" + struct.pack(f"{order}I", size) + values.astype(f"{order}i2").tobytes() + after


INFO = b"LIST\x0c\x00\x00\x00INFOISFT\x00\x00\x00\x00"
RAMP = np.arange(-500, 500) * 30


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("riff", [0, 2**32 - 1, 2036])
@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31 - 1, 2000])
def test_a_streamed_wav_is_read_to_its_end(order: str, riff: int, size: int, tmp_path: Path) -> None:
    before = INFO if order == "<" else b""
    data = streamed(RAMP, order, riff=riff, size=size, before=before)
    (tmp_path / "streamed.wav").write_bytes(data)
    for raw in (data, str(tmp_path / "streamed.wav"), data + b"\x01"):
        waveform, rate = read_sound(raw, 8000)
        assert rate == 8000
        np.testing.assert_array_equal(waveform[0], (RAMP / 2**15).astype(np.float32))
    parts = [read_sound(part, 8000)[0] for part in cut(str(tmp_path / "streamed.wav"), 8000, 0.05)]
    np.testing.assert_array_equal(np.concatenate(parts, 1)[0], (RAMP / 2**15).astype(np.float32))


def test_streamed_silence_is_sound() -> None:
    assert read_sound(streamed(np.zeros(100)), 8000)[0].shape == (1, 100)


@pytest.mark.parametrize("after", [b"", INFO])
def test_a_truly_empty_wav_holds_no_samples(after: bytes) -> None:
    with pytest.raises(ValueError, match="holds no samples"):
        read_sound(streamed(np.zeros(0), riff=36 + len(after), after=after), 8000)


def test_arrays_without_a_rate_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    taken_at.cache_clear()
    with caplog.at_level("WARNING"):
        for _ in range(3):
            read_sound(np.zeros(100, np.float32), 8000)
        read_sound((np.zeros(100, np.float32), 8000), 8000)
        read_sound([0.0] * 100, 8000)
    assert [record.getMessage() for record in caplog.records] == [
        "sounds without a rate are taken to have 8,000 samples a second; else give pairs (array, rate), or audio_kwargs="
        '{"sampling_rate": RATE}'
    ]

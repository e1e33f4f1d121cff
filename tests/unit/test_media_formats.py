"""Pictures and sounds in formats that need a library of their own, and files of several pages."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmssl.data import Source
from mmssl.modality import find

IMAGE, AUDIO = find("image"), find("audio")
RNG = np.random.default_rng(0)
SMOOTH = np.clip(np.add.outer(np.arange(64) * 2, np.arange(64))[..., None] * [0.5, 1, 1.2], 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unregister() -> None:
    """Have Pillow forget how to open HEIC files."""
    Image.OPEN.pop("HEIF", None)
    Image.ID[:] = [name for name in Image.ID if name != "HEIF"]


def pixels(raw: object) -> torch.Tensor:
    return IMAGE.processor(mean=0.0, std=1.0)(raw)["pixel_values"]


@pytest.mark.parametrize("suffix", ["avif", "heic", "HEIF"])
def test_round_trip_of_pictures(suffix: str) -> None:
    if suffix != "avif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Path("set/a").mkdir(parents=True)
    Image.fromarray(SMOOTH).save(f"set/a/1.{suffix}", quality=95)
    unregister()
    source = Source(path="set")
    found = pixels(source.raw(IMAGE, source.rows([0])[0]))
    assert (found - pixels(Image.fromarray(SMOOTH))).abs().max() < 0.06
    assert (found - pixels(Image.open(f"set/a/1.{suffix}"))).abs().max() == 0, "as another reader has it"


def test_without_the_library_heic_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    unregister()
    Path("a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    with pytest.raises(ImportError, match=r"a\.heic is a HEIC file, which needs pillow-heif: pip install mmssl\[heif\]"):
        pixels("a.heic")


def test_pages_of_a_tiff_are_samples() -> None:
    pages = [Image.fromarray(RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)) for _ in range(3)]
    Path("set").mkdir()
    pages[0].save("set/three.tif", save_all=True, append_images=pages[1:])
    pages[1].save("set/one.tif")
    source = Source(path="set")
    raws = [source.raw(IMAGE, row) for row in source.rows(range(2))]
    processor = IMAGE.processor(mean=0.0, std=1.0, pages="all")
    pieces = [processor.pieces(raw) for raw in raws]
    assert [len(each) for each in pieces] == [1, 3]
    for piece, page in zip(pieces[1], pages, strict=True):
        torch.testing.assert_close(processor(piece)["pixel_values"], pixels(page))
    data = Path("set/three.tif").read_bytes()
    assert [torch.equal(processor(a)["pixel_values"], pixels(b)) for a, b in zip(processor.pieces(data), pages, strict=True)] == [
        True
    ] * 3
    first = IMAGE.processor(mean=0.0, std=1.0)
    assert first.pieces(raws[1]) == [raws[1]]
    (content,) = first.contents(raws)
    assert content.odd[0].way_out.endswith("set processor.pages: all to take each for an image")
    assert processor.contents(raws) == [] == first.contents(raws[:1])
    with pytest.raises(ValueError, match="takes the pages of a file for channels"):
        IMAGE.processor(channel_names=["a"], pages="all")
    with pytest.raises(ValueError, match=r"three\.tif is damaged"):
        processor({"path": "set/three.tif", "bytes": None, "page": 7})


WAVE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)


def write_aac(path: str) -> None:
    av = pytest.importorskip("av")
    with av.open(path, "w", format={"m4a": "ipod", "aac": "adts"}[path[-3:]]) as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(WAVE[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)


@pytest.mark.parametrize("name", ["1.m4a", "1.aac", "1.opus"])
def test_round_trip_of_sounds(name: str) -> None:
    if name.endswith("opus"):
        soundfile.write("a.ogg", WAVE, 16000, format="OGG", subtype="OPUS")
        Path("a.ogg").rename(name)
    else:
        write_aac(name)
    Path("set/beep").mkdir(parents=True)
    Path(name).rename(f"set/beep/{name}")
    source = Source(path="set")
    raw = source.raw(AUDIO, source.rows([0])[0])
    from mmssl_modalities.audio.decode import read_sound

    found = read_sound(raw, 16000)[0][0]
    assert 16000 <= len(found) < 19000
    spectrum = np.abs(np.fft.rfft(found[4000:12000]))
    assert spectrum.argmax() == 440 // 2
    assert abs(np.abs(found[4000:12000]).max() - 0.5) < 0.05


def test_bad_sounds_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl_modalities.audio.decode import read_sound

    write_aac("good.m4a")
    good = Path("good.m4a").read_bytes()
    for name, content in {"cut.m4a": good[:200], "text.aac": b"hello there", "list.m4a": b"#EXTM3U\n/etc/passwd\n"}.items():
        Path(name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged or holds no sound"):
            read_sound(name, 16000)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"good\.m4a is no sound that libsndfile reads; PyAV does: pip install mmssl\[av\]"):
        read_sound("good.m4a", 16000)

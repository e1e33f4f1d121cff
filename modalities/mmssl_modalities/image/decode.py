"""Everything that users hold an image in, to a PIL image of 8 bits or float32 planes, upright and with the wanted channels."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mmssl_modalities.image.tiff import is_tiff, read_tiff

Picture = Image.Image | np.ndarray
"""A PIL image of mode L, RGB or RGBA, or float32 planes `[c, h, w]`, whose values `full_scale` maps to 1."""

Resample = Literal["bicubic", "bilinear"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

SUFFIXES = (
    *(
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".webp",
        ".avif",
        ".avifs",
        ".heic",
        ".heics",
        ".heif",
        ".heifs",
        ".hif",
        ".gif",
        ".tif",
        ".tiff",
    ),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".psd", ".qoi"),
    *(".tga", ".icb", ".vda", ".vst", ".sgi", ".rgb", ".rgba", ".bw", ".pcx", ".dcx", ".dds", ".ico", ".icns", ".cur"),
    *(".fits", ".fit", ".fli", ".flc", ".xbm", ".xpm", ".ras", ".im", ".iim", ".msp", ".pxr", ".gbr", ".blp", ".ftc", ".ftu"),
)
"""Of files that Pillow decodes, .heic and its like with the extra `heif`. Not .eps and .ps, which another program would run; not
.pcd, which mostly holds point clouds; nor .pdf, .wmf, .emf, .mpg, .h5, .grib and .bufr, which it names but does not decode."""

MAX_PIXELS = 178_956_970
"""A quarter of a GiB as 24-bit RGB; Pillow's own limit against decompression bombs."""

_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BROKEN = (OSError, SyntaxError, ValueError, RuntimeError, EOFError)
"""What Pillow's decoders raise for damaged files: found by decoding 16,500 files of eleven formats with random bytes changed."""


Names = Sequence[str] | None
"""Names of the channels: they are taken as they are; None: grey, RGB and RGBA become each other."""


def read_image(raw: Any, channels: int, max_pixels: int, names: Names = None) -> Picture:
    """Decode and convert one raw image.

    raw: PIL image, numpy array, torch tensor, bytes of a file, path, or dict with "bytes" or "path" as the datasets library has it.
    names: of the channels, which nothing but an image of just as many has; None: see `_in_channels`.
    Returns a PIL image if the content has 8 bits and 1, 3 or 4 channels are wanted, else float32 `[c, h, w]` in [0, 1] (floats as
    they came). Raises FileNotFoundError, TypeError or ValueError, which name the file when it is known.
    """
    if isinstance(raw, Mapping):
        return _read_record(raw, channels, max_pixels, names)
    if isinstance(raw, bytes | bytearray | memoryview):
        return _read_file(bytes(raw), "the image", channels, max_pixels, names)
    if isinstance(raw, str | Path):
        return _read_file(file_bytes(raw), str(raw), channels, max_pixels, names)
    if isinstance(raw, Image.Image):
        return _in_channels(_load(raw, "the image", max_pixels), channels, names)
    if isinstance(raw, np.ndarray):
        return _read_array(raw, channels, (-1, 0), names)
    if isinstance(raw, Tensor):
        return _read_array((raw.float() if raw.is_floating_point() else raw).detach().cpu().numpy(), channels, (0,), names)
    raise TypeError(
        "an image is a PIL image, a numpy array, a torch tensor, the bytes of a file, a path, or a dict with 'bytes' or 'path'; "
        f"got {type(raw).__name__}"
    )


def _read_record(record: Mapping[str, Any], channels: int, max_pixels: int, names: Names) -> Picture:
    """The dict of an undecoded image column of the datasets library."""
    data, path = record.get("bytes"), record.get("path")
    if data is not None and not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"'bytes' of an image given as a dict are the bytes of a file; got {type(data).__name__}")
    page = record.get("page") or 0
    if data is None and path is not None and page:
        data = file_bytes(path)
    if data is not None:
        return _read_file(bytes(data), str(path or "the image"), channels, max_pixels, names, page)
    if path is None:
        raise ValueError(f"an image given as a dict needs 'bytes' or 'path'; got the keys {sorted(record)}, neither with a value")
    return read_image(path, channels, max_pixels, names)


def _read_file(data: bytes, name: str, channels: int, max_pixels: int, names: Names, page: int = 0) -> Picture:
    """An image file; TIFF with the planes as they are stored where the channels have names, or are more than Pillow knows."""
    if is_tiff(data) and (names is not None or channels not in MODES):
        return _read_array(read_tiff(data, name, channels, max_pixels), channels, (0,), names)
    image = _decode(data, name, max_pixels, page)
    if image is not None:
        return _in_channels(image, channels, names)
    try:
        planes = read_tiff(data, name, channels, max_pixels)
    except ImportError as error:  # the file may be damaged, which must not end a run
        raise ValueError(f"{name} is no image in a format that Pillow reads, and {error}. Replace or drop it") from error
    return _read_array(planes, channels, (0,), names)


def file_bytes(path: str | Path) -> bytes:
    """The content of an image file. FileNotFoundError or ValueError that names it."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no image file {path}; paths are relative to the working directory, {Path.cwd()}, and in a table first to the "
            "table's folder"
        ) from None
    except OSError as error:
        raise ValueError(f"cannot read the image file {path}: {error.strerror}") from error


def num_pages(data: bytes) -> int:
    """Pages or frames of an image file; 1 for what cannot be read, which is told when it is decoded."""
    try:
        with _quiet():
            return int(getattr(Image.open(BytesIO(data)), "n_frames", 1))  # only some kinds of files have the attribute
    except (*_BOMBS, UnidentifiedImageError, *_BROKEN):
        return 1


def _registered() -> bool:
    return "HEIF" in Image.OPEN


def _register(name: str) -> None:
    """Have Pillow open HEIC files."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(f"{name} is a HEIC file, which needs pillow-heif: pip install mmssl[heif]", name="pillow_heif") from error
    pillow_heif.register_heif_opener()


def _decode(data: bytes, name: str, max_pixels: int, page: int = 0) -> Image.Image | None:
    """An upright image from the bytes of a file; one frame of several. None for a kind of TIFF that Pillow does not know."""
    try:
        with _quiet():
            image = Image.open(BytesIO(data))
    except _BOMBS as error:
        raise ValueError(f"{name} is refused: {str(error).rstrip('.')}. If you trust it, make it smaller first") from None
    except UnidentifiedImageError:
        if is_tiff(data):
            return None
        if data[4:12] in _HEIF and not _registered():
            _register(name)
            return _decode(data, name, max_pixels, page)
        what = f"{len(data)} bytes that start with {data[:8]!r}" if data else "no bytes"
        raise ValueError(f"{name} is no image in a format that Pillow reads; got {what}. Replace or drop it") from None
    except _BROKEN as error:
        raise _damaged(name, error) from error
    if page:
        try:
            image.seek(page)
        except _BROKEN as error:
            raise _damaged(name, error) from error
    return _load(image, name, max_pixels)


def _load(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says."""
    if not 0 < image.width * image.height <= max_pixels:
        raise ValueError(
            f"{name} has {image.width} x {image.height} pixels; at least 1 x 1 and at most max_pixels={max_pixels:,} in all are "
            "allowed, since a small file can fill the memory. Drop it, make it smaller, or raise processor.max_pixels"
        )
    try:
        with _quiet():
            image.load()
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return image if upright else ImageOps.exif_transpose(image)
    except _BROKEN as error:
        raise _damaged(name, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings about damaged metadata, one for every sample; what makes an image useless is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} is damaged: {error}. Replace it, or set data.on_error: skip to leave such samples out")


def _in_channels(image: Image.Image, channels: int, names: Names = None) -> Picture:
    """Grey, RGB or RGBA; what is transparent shows white when the alpha channel goes. Channels with names stay as they are."""
    if image.mode in _DEEP_MODES:
        return _read_array(_deep_values(image), channels, (), names)
    if names is not None:
        return _read_array(_bands(image), channels, (-1,), names)
    if channels not in MODES:
        raise ValueError(
            f"a PIL image or image file has 1, 3 or 4 channels; the processor has channels={channels}. Pass arrays "
            f"[{channels}, H, W], or set processor.channels"
        )
    try:
        return _in_mode(image, MODES[channels])
    except ValueError as error:
        raise ValueError(f"cannot use an image of mode {image.mode}: {error}. Convert it to {MODES[channels]} first") from error


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode != "RGBA" and image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _bands(image: Image.Image) -> Shaped[np.ndarray, "..."]:
    """The bands of an image of 8 bits as they are stored; colours of a palette as RGB, with alpha if some are transparent."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image)


def _deep_values(image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    """Values of a grey image of more than 8 bits: uint16 or float32."""
    values = np.asarray(image)
    if image.mode != "I":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            "a grey image of 32-bit integers must hold 16-bit values, 0 to 65535; this one has "
            f"{values.min()} to {values.max()}. Pass a float array in the range that you want"
        )
    return values.astype(np.uint16)


def _read_array(array: Shaped[np.ndarray, "..."], channels: int, axes: Sequence[int], names: Names = None) -> Picture:
    """An array as a picture; `axes` are the places to look for the channels, the likeliest first."""
    if array.size == 0:
        raise ValueError(f"an image needs at least one pixel; got an empty array of shape {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.name not in _FULL_SCALE:
        raise TypeError(
            "an image array holds uint8 (0 to 255), uint16 (0 to 65535), int16, bool, or floats, which are taken as they are; got "
            f"{array.dtype}. Convert it, for example with .astype(np.uint8)"
        )
    if names is not None:
        planes = _named(array, names, axes)
        # Not as RGBA, whose last band would count as opacity when it is resized.
        return _pil(planes) if array.dtype == np.uint8 and len(names) in (1, 3) else _to_floats(planes)
    planes = _channels_first(array, channels, axes)
    if array.dtype == np.uint8 and len(planes) in MODES and channels in MODES:
        return _in_channels(_pil(planes), channels)
    values = _to_floats(planes)
    return values if len(values) == channels else _from_grey(values, channels)


def _from_grey(grey: Float32[np.ndarray, "1 h w"], channels: int) -> Float32[np.ndarray, "c h w"]:
    """Grey as RGB, or as opaque RGBA."""
    rgb = np.repeat(grey, 3, axis=0)
    return rgb if channels == 3 else np.concatenate([rgb, np.ones_like(grey)])


def _channels_first(array: Shaped[np.ndarray, "..."], channels: int, axes: Sequence[int]) -> Shaped[np.ndarray, "c h w"]:
    """`[c, h, w]`, c being the wanted number if any axis in `axes` has it, else one that can be converted."""
    if array.ndim not in (2, 3):
        raise ValueError(f"an image array has 2 or 3 dimensions; got shape {array.shape}. Pass several images as a list")
    if array.ndim == 2:
        array, axes = array[None], (0,)
    for counts in ((channels,), _convertible(array, channels)):
        for axis in axes:
            if array.shape[axis] in counts:
                return np.moveaxis(array, axis, 0)
    forms = " or ".join({-1: f"[H, W, {channels}]", 0: f"[{channels}, H, W]"}[axis] for axis in axes)
    raise ValueError(
        f"an image array needs {channels} channels as {forms}; got shape {array.shape} of {array.dtype}. Convert it, or set "
        "processor.channels"
    )


def _named(array: Shaped[np.ndarray, "..."], names: Sequence[str], axes: Sequence[int]) -> Shaped[np.ndarray, "c h w"]:
    """`[c, h, w]` with a plane for every name."""
    if array.ndim not in (2, 3):
        raise ValueError(f"an image array has 2 or 3 dimensions; got shape {array.shape}. Pass several images as a list")
    if array.ndim == 2:
        array, axes = array[None], (0,)
    for axis in axes:
        if array.shape[axis] == len(names):
            return np.moveaxis(array, axis, 0)
    found = " or ".join(str(array.shape[axis]) for axis in axes)
    raise ValueError(
        f"an image needs the {len(names)} channels {', '.join(names)}; got {found}, in shape {array.shape} of {array.dtype}. Leave "
        "the sample out, pass just these channels, or set processor.channel_names to those of the data"
    )


def _convertible(array: Shaped[np.ndarray, "..."], channels: int) -> tuple[int, ...]:
    """Numbers of channels from which the wanted number can be made: bytes as Pillow does it, other types from grey."""
    if channels not in MODES:
        return ()
    return tuple(MODES) if array.dtype == np.uint8 else (1,)


def _pil(planes: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    return Image.fromarray(planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0)))


def _to_floats(planes: Shaped[np.ndarray, "c h w"]) -> Float32[np.ndarray, "c h w"]:
    """Float32 with the full scale of an integer type at 1. ValueError for NaN and infinite values."""
    with np.errstate(over="ignore"):
        values = planes.astype(np.float32, order="C")
    values /= np.float32(_FULL_SCALE[planes.dtype.name])
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise ValueError(
            f"an image needs finite values; {bad} of {values.size} are NaN or infinite. Replace them, or drop the image"
        )
    return values


def to_floats(picture: Picture) -> Float32[np.ndarray, "c h w"]:
    """The values of a picture, 8-bit ones scaled to [0, 1], as an array of its own."""
    if isinstance(picture, np.ndarray):
        return picture
    pixels = np.asarray(picture)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    values = planes.astype(np.float32, order="C")
    values *= np.float32(1 / 255)
    return values


def in_rgb(picture: Picture) -> Image.Image:
    """Of 8 bits and three channels; what is transparent becomes white. Floats are cut to [0, 1]."""
    if isinstance(picture, np.ndarray):
        picture = _pil((picture.clip(0, 1) * 255).round().astype(np.uint8))
    return _in_mode(picture, "RGB")


def resize(
    picture: Picture, height: int, width: int, box: tuple[float, float, float, float], resample: Resample = "bicubic"
) -> Picture:
    """The part of a picture in `box` (left, top, right, bottom, in pixels) at another size, with antialiasing."""
    kind = FILTERS[resample]
    if isinstance(picture, Image.Image):
        return picture.resize((width, height), kind, box)
    planes = [Image.fromarray(plane).resize((width, height), kind, box) for plane in picture]
    return np.stack([np.asarray(plane) for plane in planes])


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[1], picture.shape[2]

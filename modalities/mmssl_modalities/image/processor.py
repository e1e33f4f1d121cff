"""Raw images to normalised pixels: sizes, channels, and statistics that are fitted once."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from torch import Tensor

from mmssl.modality import IGNORED, Content, Inputs, Odd, Processor, pad_stack
from mmssl_modalities.image.decode import (
    MAX_PIXELS,
    MODES,
    Picture,
    Resample,
    file_bytes,
    in_rgb,
    num_pages,
    read_image,
    resize,
    size_of,
    to_floats,
)

PIXELS = "pixel_values"
SIZES = "pixel_sizes"
LABELS = "pixel_labels"
WHOLE = "pixel_whole"
"""Class numbers of the pixels of a labelled image; height and width of one before it was resized."""

Positive = Annotated[int, Field(gt=0)]
Statistic = float | list[float] | None

FIT_SAMPLES = 2000
"""Images from which `fit` computes statistics."""
PAGED = 100
"""Samples by which it is told that TIFF files have several pages."""
BRIGHTEST = 2.0
"""Values of a float image above this are no shares of white, but of 255."""
FEATURE_SIDE = 32
"""Side to which `features` shrinks images that are larger, or not all of one size."""


class ImageProcessor(Processor):
    """An image to `pixel_values`, float32 `[c, h, w]`, normalised per channel.

    A raw image is a PIL image, a numpy array, a torch tensor, the bytes of a file, a path, or the dict {"bytes", "path"} of the
    datasets library. EXIF orientation is applied; of an animation the first frame is taken. Values are scaled to [0, 1] by their
    type (uint8 / 255, uint16 / 65535; floats stay as they are), then normalised.

    A tensor has its channels first. An array has them last if its last axis has `channels` entries, else first if its first axis
    has; with two axes it is grey. Grey, RGB and RGBA are converted into each other as Pillow does (arrays of more than 8 bits: only
    from grey); what is transparent becomes white when the alpha channel goes.

    size: side of the square that every image becomes; null: each image keeps its size, to the nearest multiple of `multiple`.
    resize: what becomes a square: crop = the largest square in the middle; squash = everything, without regard to the aspect.
    cut: with resize: crop, the side of the square as a share of the shorter side; 0.875 is the usual cut of ImageNet.
    resample: filter that images are resized by: bicubic or bilinear, both with antialiasing.
    channels: 1 = grey, 3 = RGB, 4 = RGBA; other counts for arrays, tensors and TIFF files.
    multiple: what the sides are multiples of when size is null; a multiple of the adapter's patch_size.
    mean, std: of the values in [0, 1], one number or one per channel; null: those of the first 2,000 training images.
    max_pixels: largest number of pixels in a file, a guard against small files that decode to gigabytes.
    max_tokens: each image becomes as large as it can, with its own aspect, in that many squares of side `multiple`, which are the
        tokens if it is the adapter's patch_size (NaFlex, arXiv 2502.14786); null: images keep their size.
    enlarge: with max_tokens, small images grow to fill it; false: they keep their size.
    channel_names: names of the channels, such as [red, green, blue, nir]; images must have just these, in this order, as nothing is
        converted. TIFF files give all bands and pages, at full depth (extra
        `image`). null: grey, RGB and RGBA are converted as `channels` says.
    pages: of files of several pages or frames: first = the first is the image; all = each is one, and the features of a file are
        the mean over them.
    """

    padding = {LABELS: IGNORED}  # noqa: RUF012 (a constant of the base)
    whole = "pages: first"
    free = frozenset({"pages", "size", "resize", "cut", "resample", "max_pixels", "max_tokens", "enlarge"})

    def __init__(
        self,
        *,
        size: Positive | None = None,
        resize: Literal["crop", "squash"] = "crop",
        cut: Annotated[float, Field(gt=0, le=1)] = 1.0,
        resample: Resample = "bicubic",
        channels: Positive = 3,
        multiple: Positive = 16,
        mean: Statistic = None,
        std: Statistic = None,
        max_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS)] = MAX_PIXELS,
        max_tokens: Positive | None = None,
        enlarge: bool = True,
        channel_names: Annotated[list[str], Field(min_length=1)] | None = None,
        pages: Literal["first", "all"] = "first",
    ) -> None:
        if channel_names is not None and pages == "all":
            raise ValueError(
                "processor.channel_names takes the pages of a file for channels, so pages: all has none left. Leave out one"
            )
        if size is not None and max_tokens is not None:
            raise ValueError(f"processor.size={size} and max_tokens={max_tokens} both say how large images become. Leave out one")
        self.size = size
        self.resize, self.cut = resize, cut
        self.resample: Resample = resample
        self.channels = channels if channel_names is None else _count(channel_names, channels)
        self.multiple = multiple
        self.max_pixels = max_pixels
        self.max_tokens = max_tokens
        self.enlarge = enlarge
        self.channel_names = channel_names
        self.pages = pages
        self._normalise_by(mean, std)

    def _normalise_by(self, mean: Statistic, std: Statistic) -> None:
        self.mean, self.std = mean, std
        if mean is None or std is None:
            return
        planes = _per_channel("mean", mean, self.channels), _per_channel("std", std, self.channels)
        if (planes[1] <= 0).any():
            raise ValueError(f"processor.std must be positive; got {std}. Use 1.0 for a channel that does not vary")
        self.scale = (1 / planes[1]).astype(np.float32)
        self.offset = (-planes[0] / planes[1]).astype(np.float32)

    def settings(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "resize": self.resize,
            "cut": self.cut,
            "resample": self.resample,
            "channels": self.channels,
            "multiple": self.multiple,
            "mean": self.mean,
            "std": self.std,
            "max_pixels": self.max_pixels,
            "max_tokens": self.max_tokens,
            "enlarge": self.enlarge,
            "channel_names": self.channel_names,
            "pages": self.pages,
        }

    @property
    def windowed(self) -> bool:
        return self.pages == "all"

    def pieces(self, raw: Any) -> list[Any]:
        """With pages: all, the pages of a file of several; else the image."""
        data = _file_of(raw) if self.windowed else None
        count = 1 if data is None else num_pages(data)
        if count == 1 or data is None:
            return [raw]
        if isinstance(raw, bytes | bytearray | memoryview):
            raw = {"bytes": bytes(raw), "path": None}
        record = dict(raw) if isinstance(raw, Mapping) else {"bytes": None, "path": str(raw)}
        return [{**record, "page": page} for page in range(count)]

    def plain(self, raw: Any) -> Image.Image:
        """The image in RGB at its own size; 8 bits of deeper ones, of floats as if from 0 to 1."""
        if self.channel_names is not None or self.channels not in MODES:
            raise ValueError(
                f"public encoders read grey pictures and such in colour, and images of this model have {self.channels} channels "
                "of another kind"
            )
        picture = read_image(raw, self.channels if isinstance(raw, np.ndarray | Tensor) else 3, self.max_pixels)
        return in_rgb(picture)

    def contents(self, samples: Iterable[Any]) -> list[Content]:
        """Files of several pages, of which only the first is taken; of TIFF files, by the first 100."""
        if self.pages == "all" or self.channel_names is not None:
            return []
        found = [count for raw in islice(samples, PAGED) if (count := _pages_of(raw)) > 1]
        if not found:
            return []
        odd = Odd(
            "files of several pages",
            f"{len(found):,} of the first {PAGED} samples, of up to {max(found)}",
            "Only the first page of each is taken; set processor.pages: all to take each for an image",
        )
        return [Content("pages", "first", odd=(odd,))]

    @property
    def fitted(self) -> bool:
        return self.mean is not None and self.std is not None

    def fit(self, samples: Iterable[Any]) -> None:
        """Compute mean and standard deviation of each channel, where the settings name none, over the first 2,000 images.

        Images that cannot be read are passed over: the loader deals with them as `data.on_error` says. ValueError if none can.
        """
        total, squares, count = np.zeros(self.channels), np.zeros(self.channels), 0
        error: Exception = ValueError("an image processor is fitted on one image or more; got none. Or set processor.mean and std")
        for raw in islice(samples, FIT_SAMPLES):
            try:
                values = to_floats(self._picture(raw)).reshape(self.channels, -1)
            except (ValueError, TypeError, OSError) as bad:
                error = bad
                continue
            total += values.sum(1, dtype=np.float64)
            squares += np.square(values, dtype=np.float64).sum(1)
            count += values.shape[1]
        if not count:
            raise error
        mean = total / count
        variance = np.maximum(squares / count - np.square(mean), 0)
        std = np.where(variance > 1e-12 * np.square(mean), np.sqrt(variance), 1.0)
        self._normalise_by(mean.tolist() if self.mean is None else self.mean, std.tolist() if self.std is None else self.std)

    def __call__(self, raw: Any) -> Inputs:
        return self._normalised(to_floats(self._picture(raw)))

    def _normalised(self, values: Float[np.ndarray, "c h w"]) -> Inputs:
        """The tensor of an image. ValueError for values of another range than the training images had."""
        if not self.fitted:
            raise ValueError("processor.mean and std are not known yet: call fit(images) with the training images, or set both")
        if values.max() > BRIGHTEST and self._in_unit_range:
            raise ValueError(
                f"a float image is taken as it is, and the training images lay between 0 and 1; this one goes up to "
                f"{values.max():.4g}. Divide it by 255, or pass uint8"
            )
        values *= self.scale
        values += self.offset
        return {PIXELS: torch.from_numpy(values)}

    def labelled(self, raw: Any, labels: Int[np.ndarray, "*places"] | None) -> Inputs:
        """The image with the labels of its pixels, resized as it is, each pixel by the nearest one.

        ValueError for a label map of another size, and where part of the image would be cut off, which then had no predictions.
        """
        if self.pages == "all":
            raise ValueError("processor.pages: all takes several images of one file, but a label map is of one. Set it to first")
        picture = read_image(raw, self.channels, self.max_pixels, self.channel_names)
        height, width = size_of(picture)
        if self._box(height, width) != (0.0, 0.0, float(width), float(height)):
            raise ValueError(
                f"the image is {height} high and {width} wide, and processor.resize: {self.resize} (cut {self.cut}) leaves part of "
                "it out, whose pixels would have no predictions. Set resize: squash and cut: 1.0, or size: null, which keeps each "
                "image's own size"
            )
        found = self._normalised(to_floats(self._at_final_size(picture)))
        found[WHOLE] = torch.tensor([height, width])
        if labels is None:
            return found
        if labels.shape != (height, width):
            got = " x ".join(map(str, labels.shape))
            raise ValueError(
                f"the label map must be as large as its image, {height} x {width} (height x width); got {got}. Save one of its size"
            )
        final = found[PIXELS].shape[1:]
        image = Image.fromarray(labels.astype(np.int32)).resize((final[1], final[0]), Image.Resampling.NEAREST)
        return found | {LABELS: torch.from_numpy(np.asarray(image).astype(np.int64))}

    @property
    def _in_unit_range(self) -> bool:
        """Whether mean and std are those of values in [0, 1]."""
        return self.mean is not None and self.std is not None and bool(np.max(self.mean) <= 1 and np.max(self.std) < 1)

    def _picture(self, raw: Any) -> Picture:
        """The image at its final size."""
        return self._at_final_size(read_image(raw, self.channels, self.max_pixels, self.channel_names))

    def _at_final_size(self, picture: Picture) -> Picture:
        height, width = size_of(picture)
        final = self._final_size(height, width)
        if (height, width) == final and self.cut == 1:
            return picture
        return resize(picture, *final, self._box(height, width), self.resample)

    def _final_size(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size, self.size
        m = self.multiple
        if self.max_tokens is not None:
            rows, columns = largest_grid(height, width, m, self.max_tokens, enlarge=self.enlarge)
            return rows * m, columns * m
        if min(height, width) < m:
            raise ValueError(
                f"an image must be at least processor.multiple={m} pixels high and wide; this one is {height} high and {width} "
                "wide. Drop it, lower multiple (and patch_size), or set processor.size, to which every image is resized"
            )
        return (height + m // 2) // m * m, (width + m // 2) // m * m

    def _box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part that is used."""
        if self.size is None or self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        side = min(height, width)
        if self.cut < 1:
            part = side * self.cut
            left, top = (width - part) / 2, (height - part) / 2
            return left, top, left + part, top + part
        left, top = (width - side) // 2, (height - side) // 2
        return float(left), float(top), float(left + side), float(top + side)

    def many(self, raw: Any) -> list[Any]:
        """The images in a list, in a 4-d array or tensor, or one image."""
        return list(raw) if isinstance(raw, np.ndarray | Tensor) and raw.ndim == 4 else super().many(raw)

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        """Stack images. If sizes differ, pad with zeros at bottom and right, and add `pixel_sizes`, height and width."""
        pixels = [sample[PIXELS] for sample in samples]
        batch = {PIXELS: pad_stack(pixels)}
        batch |= {
            name: pad_stack([sample[name] for sample in samples], self.padding.get(name, 0))
            for name in (LABELS, WHOLE)
            if name in samples[0]
        }
        if any(image.shape != pixels[0].shape for image in pixels):
            batch[SIZES] = torch.tensor([image.shape[1:] for image in pixels])
        return batch

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        pixels = inputs[PIXELS]
        sizes = torch.tensor(pixels.shape[2:], device=pixels.device).expand(len(pixels), 2)
        return {SIZES: sizes} | inputs

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """The normalised pixels; of images larger than 32 x 32, or of various sizes, after shrinking to 32 x 32."""
        pixels = inputs[PIXELS]
        if self.size is None or self.size > FEATURE_SIDE:
            pixels = F.interpolate(pixels[None], (FEATURE_SIDE, FEATURE_SIDE), mode="bilinear", antialias=True)[0]
        return pixels.flatten().numpy()


def largest_grid(height: int, width: int, side: int, max_tokens: int, *, enlarge: bool) -> tuple[int, int]:
    """Rows and columns of squares in an image, scaled as far up as their product stays within `max_tokens`.

    At a scale s there are round(s * height / side) rows, at least one, and likewise columns; the largest s counts, of those up to
    1 if it may not be enlarged. An image longer than max_tokens times its breadth gets one row, or column, of all of them.
    """
    rows = columns = 1
    while True:
        # Halves of a square, cross-multiplied: one more row at the scale (2 rows + 1) side / (2 height).
        next_row, next_column = (2 * rows + 1) * width, (2 * columns + 1) * height
        first = min(next_row, next_column)
        if not enlarge and first * side > 2 * height * width:
            return rows, columns
        more = rows + (next_row == first), columns + (next_column == first)
        if more[0] * more[1] > max_tokens:
            return rows, columns
        rows, columns = more


def _count(names: list[str], channels: int) -> int:
    """The number of named channels; 3 is the default of `channels`, and says nothing."""
    if len(set(names)) < len(names):
        raise ValueError(f"processor.channel_names needs different names; got {', '.join(names)}")
    if channels not in (3, len(names)):
        raise ValueError(f"processor.channel_names has {len(names)} names, but processor.channels={channels}. Leave out channels")
    return len(names)


def _per_channel(name: str, value: float | list[float], channels: int) -> Float[np.ndarray, "c 1 1"]:
    values = [value] * channels if isinstance(value, int | float) else value
    if len(values) != channels:
        raise ValueError(f"processor.{name} needs one number, or one for each of the {channels} channels; got {value}")
    return np.array(values, np.float64)[:, None, None]


def _file_of(raw: Any) -> bytes | None:
    """The content of a file that is an image, or holds pages that were not told apart yet; None for any other raw image."""
    if isinstance(raw, bytes | bytearray | memoryview):
        return bytes(raw)
    if isinstance(raw, str | Path):
        return file_bytes(raw)
    if not isinstance(raw, Mapping) or raw.get("page") is not None:
        return None
    data, path = raw.get("bytes"), raw.get("path")
    return data if isinstance(data, bytes) else file_bytes(path) if data is None and path is not None else None


def _pages_of(raw: Any) -> int:
    """Pages of a TIFF file; 1 for any other image."""
    path = raw.get("path") if isinstance(raw, Mapping) else raw
    if not str(path).lower().endswith((".tif", ".tiff")):
        return 1
    try:
        data = _file_of(raw)
    except (ValueError, OSError):
        return 1
    return 1 if data is None else num_pages(data)

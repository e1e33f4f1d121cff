"""Images as a grid of patches (ViT, arXiv 2010.11929, section 3.1)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Shaped
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Tensor, nn

from mmssl.modality import Adapter, Axis, Inputs, MaskPreference, Modality, Patch
from mmssl.model.positions import GridPositions
from mmssl.tokens import Tokens
from mmssl_modalities.image.augment import ImageAugment
from mmssl_modalities.image.decode import SUFFIXES
from mmssl_modalities.image.dense import DensePatches
from mmssl_modalities.image.processor import PIXELS, SIZES, ImageProcessor, Positive
from mmssl_modalities.image.starting import claim, suited

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["IMAGE", "ImageAdapter", "ImageAugment", "ImageProcessor"]

PICTURED = 8
"""Samples in a picture."""
COLOURS = ("red", "green", "blue")


class ImageAdapter(Adapter):
    """One token per patch, row by row: a linear map of its pixels in the order (row, column, channel).

    Target: `pixels`, the normalised pixels of a patch in that order, `[b, n, patch_size * patch_size * channels]`.

    patch_size: side of a patch in pixels.
    reference_grid: rows or columns that the longer side of every image spans in coordinates, so that images of different sizes
        cover one range; null: coordinates count patches.
    coordinate_span: rows and columns of every image run from minus to plus this, edge to edge, so that coordinates say how far from
        its middle a patch lies (DINOv3, arXiv 2508.10104: 2 pi); null: as reference_grid says.
    learned_positions: rows and columns of a table of learned positions, added to what tokens hold; resampled to other grids
        (arXiv 2010.11929, section 3.2); null: none.
    position_antialias: resample them with antialiasing, as DINOv2 with registers and timm do.
    """

    input_names = (PIXELS, SIZES)
    mixable = True
    pictured = True

    def __init__(
        self,
        width: int,
        processor: ImageProcessor,
        *,
        patch_size: Annotated[int, Field(gt=0)] = 16,
        reference_grid: Annotated[int, Field(gt=0)] | None = None,
        coordinate_span: Annotated[float, Field(gt=0)] | None = None,
        learned_positions: tuple[Positive, Positive] | list[Positive] | None = None,
        position_antialias: bool = False,
    ) -> None:
        super().__init__()
        name, side = ("multiple", processor.multiple) if processor.size is None else ("size", processor.size)
        if side % patch_size:
            fitting = -(-side // patch_size) * patch_size
            raise ValueError(
                f"processor.{name} must be a multiple of adapter.patch_size; got {name}={side} and patch_size={patch_size}. Set "
                f"processor.{name} to {fitting}, or patch_size to a divisor of {side}"
            )
        self.patch_size = patch_size
        if reference_grid is not None and coordinate_span is not None:
            raise ValueError("adapter.reference_grid and coordinate_span both scale coordinates. Leave out one")
        self.reference_grid, self.coordinate_span = reference_grid, coordinate_span
        self.positions: GridPositions | None = None
        if learned_positions is not None:
            self.has_identity = True
            rows, columns = learned_positions
            self.positions = GridPositions(rows, columns, width, antialias=position_antialias)
        self.raw, self.colours = partial(_raw, processor=processor), _channels(processor)
        values = patch_size * patch_size * processor.channels
        self.proj = nn.Linear(values, width)
        self.target_sizes = {"pixels": values}
        self.dense = DensePatches(patch_size)
        self.patch = Patch(patch_size, patch_size, processor.channels)
        self.axes = {PIXELS: {2: Axis("height", patch_size), 3: Axis("width", patch_size)}}

    def forward(self, inputs: Inputs) -> Tokens:
        patches = patchify(inputs[PIXELS], self.patch_size)
        rows, columns = (side // self.patch_size for side in inputs[PIXELS].shape[-2:])
        place = patches.new_zeros(rows, columns, 4, dtype=torch.float32)
        place[..., 2] = torch.arange(rows, device=place.device)[:, None]
        place[..., 3] = torch.arange(columns, device=place.device)
        coords = place.flatten(0, 1).expand(patches.shape[0], -1, -1)
        if self.reference_grid is not None:
            coords = self._in_reference(coords, self.reference_grid, inputs, max(rows, columns))
        if self.coordinate_span is not None:
            coords = self._spanned(coords, self.coordinate_span, inputs, rows, columns)
        values, identity = self.proj(patches.to(self.proj.weight.dtype)), None
        if self.positions is not None:
            sizes = inputs[SIZES] // self.patch_size if SIZES in inputs else None
            identity = self.positions(rows, columns, sizes).expand(patches.shape[0], -1, -1)
        return Tokens(values, coords, self._valid(inputs), identity)

    def _spanned(
        self, coords: Float[Tensor, "b n 4"], span: float, inputs: Inputs, rows: int, columns: int
    ) -> Float[Tensor, "b n 4"]:
        """Coordinates of patch centres, from minus to plus `span` between the edges of the image."""
        sides = coords.new_tensor([rows, columns]).expand(coords.shape[0], 2)
        if SIZES in inputs:
            sides = (inputs[SIZES] // self.patch_size).to(coords.dtype)
        return F.pad((2 * (coords[..., 2:] + 0.5) / sides[:, None] - 1) * span, (2, 0))

    def _in_reference(self, coords: Float[Tensor, "b n 4"], grid: int, inputs: Inputs, longer: int) -> Float[Tensor, "b n 4"]:
        """Coordinates of patch centres scaled about the corner of the image, so that its longer side spans the reference grid."""
        sides = coords.new_full((coords.shape[0], 1, 1), longer)
        if SIZES in inputs:
            sides = (inputs[SIZES] // self.patch_size).amax(1)[:, None, None].to(coords.dtype)
        scaled = (coords + 0.5) * (grid / sides) - 0.5
        return torch.cat([torch.zeros_like(coords[..., :2]), scaled[..., 2:]], -1)

    def made_up(self, count: int, size: int) -> Inputs:
        assert self.patch is not None
        rows, columns = size - torch.arange(count) % size, 1 + torch.arange(count) % (size + 1)
        sizes = torch.stack([rows, columns.flip(0).clamp(max=size)], 1) * self.patch_size
        sizes[0] = size * self.patch_size
        side = size * self.patch_size
        return self.continuous({PIXELS: torch.randn(count, self.patch.channels, side, side), SIZES: sizes}) | {SIZES: sizes}

    def pictures(self, inputs: Inputs) -> list[Float[Tensor, "3 _ _"]]:
        """Grey ones in three equal channels, each of its own size."""
        raw = self.raw(inputs[PIXELS].float())[:, self.colours].expand(-1, len(COLOURS), -1, -1).clamp(0, 1)
        sizes = inputs[SIZES].tolist() if SIZES in inputs else [raw.shape[-2:]] * len(raw)
        return [each[:, :height, :width] for each, (height, width) in zip(raw, sizes, strict=True)]

    def continuous(self, inputs: Inputs) -> dict[str, Tensor]:
        pixels = inputs[PIXELS]
        if SIZES not in inputs:
            return {PIXELS: pixels}
        rows, columns = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
        inside = (rows[:, None] < inputs[SIZES][:, 0, None, None]) & (columns < inputs[SIZES][:, 1, None, None])
        return {PIXELS: pixels.masked_fill(~inside[:, None], 0)}

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        patches, valid = patchify(inputs[PIXELS], self.patch_size).float(), self._valid(inputs)
        return {"pixels": patches if valid is None else patches.masked_fill(~valid[..., None], torch.nan)}

    def _valid(self, inputs: Inputs) -> Bool[Tensor, "b n"] | None:
        """Which patches lie inside their image."""
        if SIZES not in inputs:
            return None
        sizes = inputs[SIZES] // self.patch_size
        rows, columns = (torch.arange(side // self.patch_size, device=sizes.device) for side in inputs[PIXELS].shape[-2:])
        return ((rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])).flatten(1)


def patchify(pixels: Float[Tensor, "b c h w"], p: int) -> Float[Tensor, "b n t"]:
    """Patches of p x p pixels, row by row, each in the order (row, column, channel).

    In two copies, of which the second moves whole rows of a patch: measured 2.5 times faster on CPU than one permutation.
    """
    b, c, h, w = pixels.shape
    if h % p or w % p:
        raise ValueError(f"height and width must be multiples of patch_size={p}; got {h} x {w}. Use the model's own processor")
    rows = pixels.permute(0, 2, 3, 1).reshape(b, h // p, p, w // p, p * c)
    return rows.transpose(2, 3).reshape(b, h // p * (w // p), p * p * c)


def unpatchify(patches: Shaped[Tensor, "b n t"], p: int, h: int, w: int) -> Shaped[Tensor, "b c h w"]:
    """Images from all their patches."""
    grid = patches.unflatten(1, (h // p, w // p)).unflatten(3, (p, p, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, h, w)


def example(count: int, seed: int) -> list[Image.Image]:
    """Made-up RGB images of various sizes: a disc on a background whose colour changes from left to right."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        height, width = (16 * int(side) for side in random.integers(2, 5, 2))
        left, right = random.integers(256, size=(2, 3))
        row = np.linspace(left, right, width)
        image = Image.fromarray(np.broadcast_to(row, (height, width, 3)).astype(np.uint8))
        x, y, radius = (int(random.integers(*limits)) for limits in ((0, width), (0, height), (8, 24)))
        colour = tuple(random.integers(256, size=3).tolist())
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        images.append(image)
    return images


def golden() -> tuple[dict[str, Any], dict[str, Any], Float32[np.ndarray, "h w c"], Float[Tensor, "n 4"], dict[str, Tensor]]:
    """An image of 4 x 6 pixels, three channels, in patches of 2 x 2; a value is 100 * row + 10 * column + channel."""
    image = np.fromfunction(lambda row, column, channel: 100 * row + 10 * column + channel, (4, 6, 3), dtype=np.float32)
    places = [(row, column) for row in range(2) for column in range(3)]
    pixels = [
        [100.0 * (2 * row + i) + 10 * (2 * column + j) + channel for i in range(2) for j in range(2) for channel in range(3)]
        for row, column in places
    ]
    coords = torch.tensor([[0.0, 0.0, row, column] for row, column in places])
    return {"multiple": 2, "mean": 0.0, "std": 1.0}, {"patch_size": 2}, image, coords, {"pixels": torch.tensor(pixels)}


def picture(inputs: Inputs, hidden: Bool[Tensor, "b n"], predictions: dict[str, Tensor], processor: ImageProcessor) -> "Figure":
    """Up to eight samples, a row each: the input, what was seen of it, and the predictions in the places of the hidden patches.

    In the colours before normalisation; of more channels those called red, green and blue, or else the first three.
    """
    from matplotlib.figure import Figure  # only where something is drawn

    pixels = inputs[PIXELS][:PICTURED].float().cpu()
    b, c, h, w = pixels.shape
    predicted = predictions["pixels"][:b].float().cpu()
    p = math.isqrt(predicted.shape[2] // c)
    covered = unpatchify(hidden[:b, :, None].cpu().expand(predicted.shape), p, h, w)
    guess = unpatchify(predicted, p, h, w)
    sizes = inputs[SIZES][:b].tolist() if SIZES in inputs else [(h, w)] * b
    pixels, guess = (_raw(part, processor) for part in (pixels, guess))
    kept = _channels(processor)
    figure = Figure(figsize=(4.8, 1.6 * b + 0.2), layout="constrained")
    axes = figure.subplots(b, 3, squeeze=False)
    for row, (height, width) in enumerate(sizes):
        inside = (row, kept, slice(height), slice(width))
        shown = _for_display(pixels[inside], covered[inside], guess[inside])
        for axis, title, image in zip(axes[row], ("input", "seen", "predicted"), shown, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize="small")
    return figure


def draw(axes: "Axes", inputs: Inputs, row: int, processor: ImageProcessor) -> None:
    """One sample in the colours before normalisation."""
    pixels = _raw(inputs[PIXELS][row : row + 1].float().cpu(), processor)[0, _channels(processor)]
    height, width = inputs[SIZES][row].tolist() if SIZES in inputs else pixels.shape[1:]
    pixels = pixels[:, :height, :width]
    low, high = min(0.0, float(pixels.min())), max(1.0, float(pixels.max()))
    shown = ((pixels - low) / (high - low)).permute(1, 2, 0).numpy()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def _raw(pixels: Float[Tensor, "b c h w"], processor: ImageProcessor) -> Float[Tensor, "b c h w"]:
    """The values that the processor normalised."""
    scale, offset = (torch.as_tensor(each).reshape(-1, 1, 1) for each in (processor.scale, processor.offset))
    return (pixels - offset) / scale


def _channels(processor: ImageProcessor) -> list[int]:
    """Three channels that are shown as red, green and blue, or the first alone."""
    names = [name.lower() for name in processor.channel_names or []]
    if all(colour in names for colour in COLOURS):
        return [names.index(colour) for colour in COLOURS]
    return [0, 1, 2] if processor.channels >= 3 else [0]


def _for_display(
    pixels: Float[Tensor, "c h w"], covered: Bool[Tensor, "c h w"], guess: Float[Tensor, "c h w"]
) -> list[Float[np.ndarray, "h w c2"]]:
    """Input, seen and predicted, scaled by the range of the input to [0, 1]."""
    low, high = pixels.amin(), pixels.amax()
    span = (high - low).clamp(min=1e-6)
    scaled, predicted = (pixels - low) / span, ((guess - low) / span).clamp(0, 1)
    there = covered & ~guess.isnan()
    views = [scaled, scaled.masked_fill(covered, 0.5), torch.where(there, predicted, scaled)]
    return [view.permute(1, 2, 0).numpy() for view in views]


def public() -> Sequence[Any]:
    """The public encoders that the adapter can be."""
    from mmssl_modalities.image.public import FAMILIES  # tables that only those need who bring one in

    return FAMILIES


IMAGE = Modality(
    name="image",
    keyword="images",
    columns=("image", "img", "images", "pixel_values"),
    processor=ImageProcessor,
    adapter=ImageAdapter,
    augment=ImageAugment,
    mask=MaskPreference("random", 0.75),
    example=example,
    golden=golden,
    picture=picture,
    draw=draw,
    sentence="image",
    suffixes=SUFFIXES,
    arrays=True,
    public=public,
    strong=(
        {"crop": (0.4, 1.0), "flip": 0.5, "color_jitter": 0.5, "grayscale": 0.2, "blur": 0.5, "solarize": 0.5},
        {"crop": (0.2, 0.8), "size": 32, "shift": 2, "flip": 0.5, "blur": 0.5},
    ),
    served="image_processor",
    tasks={"classification": "image-classification", "semantic-segmentation": "image-segmentation"},
    claim=claim,
    suited=suited,
)

"""Patches of batched series, which of them are tokens, and numbers of any magnitude as vectors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from mmssl.modality import Inputs
from mmssl.tokens import gather
from mmssl_modalities.timeseries.processor import OBSERVED, VALUES

NUM_SCALES = 9
"""Scales 1e-4, 1e-3, ..., 1e4."""
NUMBER_WIDTH = 16
"""Width of an embedded number, as in NuTime's pretraining."""
FIRST_KERNEL, DILATIONS = 9, (2, 4)
"""Of the convolutional stem: samples of the first kernel, and dilations of the layers of three taps after it."""
BEHIND = 1 << 40
"""More than any number of tokens."""
SMALLEST_DISTANCE = 1e-6
"""The paper's epsilon, in the weights of the scales."""


def patchify(values: Shaped[Tensor, "b c t"], patch_size: int) -> Shaped[Tensor, "b c k p"]:
    """Patches along time; the last one is padded with zeros (False)."""
    return F.pad(values, (0, -values.shape[2] % patch_size)).unflatten(2, (-1, patch_size))


def mix(patches: Shaped[Tensor, "b c k f"]) -> Shaped[Tensor, "b 1 k g"]:
    """The patches of all channels at one time as one, channel by channel."""
    return patches.transpose(1, 2).flatten(2)[:, None]


def observed(inputs: Inputs) -> Bool[Tensor, "b c t"]:
    """Which values are there; a batch says so only if some are not."""
    return inputs[OBSERVED] if OBSERVED in inputs else torch.ones_like(inputs[VALUES], dtype=torch.bool)


@dataclass(frozen=True)
class Packing:
    """Which patches of a batch are tokens, in which order: those that hold a value, channel by channel, then padding.

    So the place of a token in its sequence, and with it its mask, does not depend on the sizes of the rest of the batch.

    order: places among all patches; None: all of them, in their order. valid: False marks padding.
    """

    order: Int[Tensor, "b n"] | None
    valid: Bool[Tensor, "b n"] | None

    def take(self, grid: Shaped[Tensor, "b r k f"]) -> Shaped[Tensor, "b n f"]:
        """The tokens of a grid of rows (channels) and patches."""
        flat = grid.flatten(1, 2)
        return flat if self.order is None else gather(flat, self.order)

    def put(self, tokens: Shaped[Tensor, "b n f"], grid: Shaped[Tensor, "b r k"]) -> Shaped[Tensor, "b r k f"]:
        """The inverse of `take` for a grid of this shape; False or NaN where there is no token."""
        b, r, k = grid.shape
        nothing = float("nan") if tokens.is_floating_point() else 0
        full = tokens.new_full((b, r * k, tokens.shape[2]), nothing)
        if self.order is None:
            return tokens.unflatten(1, (r, k))
        rows = torch.arange(b, device=tokens.device)[:, None]
        full[rows, self.order] = tokens if self.valid is None else tokens.masked_fill(~self.valid[..., None], nothing)
        return full.unflatten(1, (r, k))


def packing(inputs: Inputs, there: Bool[Tensor, "b r k"]) -> Packing:
    """The tokens of a batch, given which patches hold a value."""
    if OBSERVED not in inputs:
        return Packing(None, None)
    flat = there.flatten(1)
    count = flat.sum(1)
    # A graph has no sizes that depend on data: there the padding of all samples stays.
    longest = flat.shape[1] if torch.compiler.is_compiling() else max(1, int(count.max()))
    places = torch.arange(flat.shape[1], device=flat.device)
    order = (places + BEHIND * ~flat).argsort(dim=1)[:, :longest]  # no stable sort, which ONNX lacks
    return Packing(order, torch.arange(longest, device=flat.device) < count[:, None])


def grid(inputs: Inputs, patch_size: int, *, mixed: bool, statistics: bool) -> Bool[Tensor, "b r k"]:
    """Which patches hold a value: a row for each channel (one for all if mixed), its token of statistics first if it has one."""
    there = patchify(observed(inputs), patch_size)
    found = (mix(there) if mixed else there).any(-1)
    return torch.cat([found.any(2, keepdim=True), found], 2) if statistics else found


def moments(
    patches: Float[Tensor, "*shape p"], there: Bool[Tensor, "*shape p"]
) -> tuple[Float[Tensor, "*shape p"], Float[Tensor, "*shape 2"]]:
    """Patches with mean 0 and standard deviation 1 over their observed values, 0 elsewhere; with that mean and deviation.

    A deviation within the rounding of float32 is 0, and so is the patch.
    """
    patches = patches.float()
    count = there.sum(-1, keepdim=True).clamp(min=1)
    mean = (patches * there).sum(-1, keepdim=True) / count
    centred = (patches - mean) * there
    deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    deviation = deviation * (deviation > 1e-6 * mean.abs())
    shape = centred / deviation.masked_fill(deviation == 0, 1) * (deviation > 0)
    return shape, torch.cat([mean, deviation], -1)


def compress(number: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(x) log(1 + |x|): magnitudes that a loss can add up."""
    return number.sign() * number.abs().log1p()


def expand(number: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of `compress`."""
    return number.sign() * number.abs().expm1()


class NumericEmbedding(nn.Module):
    """Numbers of any magnitude to vectors: NuTime's numerically multi-scaled embedding (arXiv 2310.07402, section 3.2).

    sum over scales s of alpha_s LN(x w_s + s b_s), where alpha_s is in proportion to 1 / |log(|x| / s + eps)|, and sums to 1. The
    layer norm has no epsilon that would drown small numbers: its argument is divided by |x| + s first, which does not change it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.empty(NUM_SCALES, NUMBER_WIDTH))
        self.offset = nn.Parameter(torch.empty(NUM_SCALES, NUMBER_WIDTH))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.slope, -1, 1)
        nn.init.uniform_(self.offset, -1, 1)

    def forward(self, number: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape e"]:
        x = number.float()[..., None]
        with torch.autocast(x.device.type, enabled=False):
            scales = 10.0 ** torch.arange(-(NUM_SCALES // 2), NUM_SCALES // 2 + 1, device=x.device, dtype=torch.float32)
            near = ((x.abs() / scales + SMALLEST_DISTANCE).log().abs() + SMALLEST_DISTANCE).reciprocal()
            total = x.abs() + scales
            mixed = (x / total)[..., None] * self.slope.float() + (scales / total)[..., None] * self.offset.float()
            weighted = F.layer_norm(mixed, (NUMBER_WIDTH,), eps=1e-12) * (near / near.sum(-1, keepdim=True))[..., None]
            return weighted.sum(-2)


class ConvStem(nn.Module):
    """Convolutions along time within each patch, then their mean and largest value over the patch, to one vector.

    What a patch holds is found wherever in the patch it lies, which a linear map does not do. Nothing crosses the edge of a patch.

    channels: rows of a patch. width: of the vector.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.enter = nn.Conv1d(channels, inner, FIRST_KERNEL, padding=FIRST_KERNEL // 2)
        self.layers = nn.ModuleList(nn.Conv1d(inner, inner, 3, dilation=step, padding=step) for step in DILATIONS)
        self.leave = nn.Linear(2 * inner, width)

    def forward(self, patches: Float[Tensor, "b r k f p"]) -> Float[Tensor, "b r k d"]:
        x = self.enter(patches.flatten(0, 2).to(self.enter.weight.dtype))
        for layer in self.layers:
            x = x + layer(F.gelu(x))
        x = F.gelu(x)
        return self.leave(torch.cat([x.mean(2), x.amax(2)], 1)).unflatten(0, patches.shape[:3])

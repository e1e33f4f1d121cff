"""Label maps of pictures: a class number for each pixel, predicted by the patches that the pixels lie in."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.modality import IGNORED, Dense, Inputs
from mmssl_modalities.image.processor import LABELS, PIXELS, SIZES, WHOLE


class DensePatches(Dense):
    """Semantic segmentation: a linear map of each patch, `detail` x `detail` logits of each class, interpolated to pixels.

    With detail 1 it is the linear head of DINOv2 (arXiv 2304.07193, section 7.4) and Segmenter (arXiv 2105.05633, section 3.2).
    """

    shape = "map"
    labels = LABELS

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size

    def cells(self, detail: int) -> int:
        if not 1 <= detail <= self.patch_size:
            raise ValueError(f"objective.detail is from 1 to adapter.patch_size={self.patch_size}; got {detail}")
        return detail * detail

    def laid_out(self, given: Float[Tensor, "b n _"], inputs: Inputs, detail: int) -> Float[Tensor, "b k h w"]:
        rows, columns = (side // self.patch_size for side in inputs[PIXELS].shape[-2:])
        grid = given.unflatten(1, (rows, columns)).unflatten(3, (detail, detail, -1))  # b, row, column, inner row, inner column, k
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def at_labels(self, logits: Float[Tensor, "b k h w"], inputs: Inputs) -> Float[Tensor, "b k h2 w2"]:
        labels = inputs[LABELS]
        if SIZES not in inputs:
            return resized(logits, labels.shape[1], labels.shape[2])
        found = [
            F.pad(resized(own, height, width), (0, labels.shape[2] - width, 0, labels.shape[1] - height))
            for own, (height, width) in zip(self.parts(logits, inputs), inputs[SIZES].tolist(), strict=True)
        ]
        return torch.cat(found)

    def answers(self, logits: Float[Tensor, "b k h w"], inputs: Inputs) -> list[Int[np.ndarray, "_ _"]]:
        whole = inputs[WHOLE].tolist()
        return [resized(own, *size).argmax(1)[0].cpu().numpy() for own, size in zip(self.parts(logits, inputs), whole, strict=True)]

    def of_tokens(self, inputs: Inputs) -> Int[Tensor, "b n"]:
        p = self.patch_size
        pixels = inputs[LABELS].unfold(1, p, p).unfold(2, p, p).flatten(1, 2).flatten(2)
        there = pixels >= 0
        counts = F.one_hot(pixels.clamp(min=0)).masked_fill(~there[..., None], 0).sum(2)
        return counts.argmax(2).masked_fill(~there.any(2), IGNORED)

    def parts(self, logits: Float[Tensor, "b k h w"], inputs: Inputs) -> Iterator[Float[Tensor, "1 k _ _"]]:
        """The logits of each picture, without those of its padding."""
        if SIZES not in inputs:
            yield from logits.split(1)
            return
        side = inputs[PIXELS].shape[2]
        for own, size in zip(logits.split(1), inputs[SIZES].tolist(), strict=True):
            height, width = (extent * logits.shape[2] // side for extent in size)
            yield own[:, :, :height, :width]


def resized(logits: Float[Tensor, "b k h w"], height: int, width: int) -> Float[Tensor, "b k h2 w2"]:
    """Logits of another size, as transformers resizes them."""
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)

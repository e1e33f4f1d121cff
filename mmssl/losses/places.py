"""Losses of single tokens: what a text says of some of a picture's patches, and what two views have at one place."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.losses.arithmetic import unit, wide


@wide
def grouped_patches(
    texts: Float[Tensor, "n d"], patches: Float[Tensor, "n p d"], valid: Bool[Tensor, "n p"], threshold: int | float = 0.1
) -> Float[Tensor, "n d"]:
    """For each text the patches of its own picture that it is about, as one vector (DreamLIP, arXiv 2403.17007, section 3.3).

    The mean of the patches' unit vectors, weighted by their cosine similarities with the text, scaled to [0, 1] over the picture;
    those below the threshold count nothing.
    """
    own = unit(patches)
    similar = (own @ unit(texts)[..., None])[..., 0]
    low = similar.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = similar.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    flat = high - low < 1e-6  # of one patch, or of patches that are all as similar
    scaled = torch.where(flat, 1.0, (similar - low) / torch.where(flat, 1.0, high - low))
    weights = scaled.masked_fill((scaled < threshold) | ~valid, 0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    return (weights[..., None] * own).sum(1)

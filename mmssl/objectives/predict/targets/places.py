"""Which of the predicted places a target is about."""

from typing import Literal

import torch
from torch import Tensor

from mmssl.objectives.predict.parts import Scene

Places = Literal["predicted", "hidden", "seen"]


def only(values: Tensor, scene: Scene, places: Places) -> Tensor:
    """A target `[b, n, ...]` with nothing (NaN, or class -100) at other places than these; for every mask of a sample."""
    if places == "predicted":
        return values
    hidden = scene.parts.hidden_places(values.shape[1])
    there = hidden if places == "hidden" else ~hidden
    values = values.repeat(len(there) // len(values), *[1] * (values.dim() - 1))
    if not values.is_floating_point():
        return values.masked_fill(~there, -100)
    return torch.where(there[..., None], values, torch.nan)

"""Which of the predicted places a target is about."""

from typing import Literal

import torch
from torch import Tensor

from mmssl.objectives.predict.parts import Scene

Places = Literal["predicted", "hidden", "seen"]


def only(values: Tensor, scene: Scene, places: Places | Literal["altered"], viewed: Tensor | None = None) -> Tensor:
    """A target `[b, n, ...]` with nothing (NaN, or class -100) at other places than these; for every mask of a sample.

    Altered are hidden places, and values that are others in `viewed`, the view that the encoder sees.
    """
    if places == "predicted":
        return values
    hidden = scene.parts.hidden_places(values.shape[1])
    there = ~hidden if places == "seen" else hidden
    again = [len(there) // len(values), *[1] * (values.dim() - 1)]
    if values.is_floating_point():
        there = there[..., None]
    if viewed is not None:
        there = there | (values != viewed).repeat(again)
    return torch.where(there, values.repeat(again), torch.nan if values.is_floating_point() else -100)

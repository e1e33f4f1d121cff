"""Labels of the steps of a series, such as an activity, a phase or a fault, predicted by the patches that they lie in."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.modality import Inputs
from mmssl.model.steps import DenseSteps
from mmssl_modalities.timeseries.processor import LABELS, SPAN, VALUES
from mmssl_modalities.timeseries.tokens import grid, packing


class DenseSeries(DenseSteps):
    """A class for each step, by the mean of what the channels' patches say. Tokens of statistics say nothing."""

    labels = LABELS
    span = SPAN

    def __init__(self, patch_size: int, *, mixed: bool, statistics: bool) -> None:
        self.patch_size = self.finest = patch_size
        self.tokens: Mapping[str, bool] = {"mixed": mixed, "statistics": statistics}

    def times(self, inputs: Inputs) -> tuple[Int[Tensor, "b n"], int]:
        there, first = grid(inputs, self.patch_size, **self.tokens), int(self.tokens["statistics"])
        order, count = packing(inputs, there), there.shape[2]
        place = torch.arange(count, device=there.device) - first
        times = order.take(place[:, None].expand(*there.shape, 1))[..., 0]
        return times if order.valid is None else times.masked_fill(~order.valid, -1), count - first

    def positions(self, inputs: Inputs, steps: int) -> Float[Tensor, "1 t"]:
        return ((torch.arange(steps, device=inputs[VALUES].device) + 0.5) / self.patch_size)[None]

    def steps(self, inputs: Inputs) -> int:
        return inputs[VALUES].shape[2]

"""Cells to token vectors: numbers in three ways, dates, and bags of hashed words."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmssl.draws import mix

Embedding = Literal["linear", "periodic", "piecewise"]

TEXT_VALUES = 16
"""Numbers that masked modelling predicts of a hidden text."""

# Parameters here are not called `weight`, which would decay: the papers' own code spares the tokenizer.


class NumericTokens(nn.Module):
    """Scaled numbers to tokens: `bias + z * slope`, with vectors of each column's own (FT-Transformer, section 3.3)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.empty(count, width))
        self.bias = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.slope, std=0.02)
        nn.init.normal_(self.bias, std=0.02)

    def forward(self, numbers: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self.bias + numbers.to(self.slope.dtype)[..., None] * self.slope


class VectorTokens(nn.Module):
    """Several numbers per cell to tokens, by a linear map of each column's own; `count` 1: one map for all columns."""

    def __init__(self, count: int, size: int, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.empty(count, size, width))
        self.bias = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # About half of the squares of a cell's numbers are one: sines and cosines, or the bins below a number.
        nn.init.normal_(self.slope, std=0.02 * math.sqrt(2 / self.slope.shape[1]))
        nn.init.normal_(self.bias, std=0.02)

    def forward(self, vectors: Float[Tensor, "b n k"]) -> Float[Tensor, "b n d"]:
        return self.bias + torch.einsum("bnk,nkd->bnd", vectors.to(self.slope.dtype), self.slope)


class PeriodicTokens(nn.Module):
    """Scaled numbers z to tokens: sine and cosine of 2 pi c z with trainable frequencies c, a linear map, ReLU.

    arXiv 2203.05556, section 3.3: frequencies start as normal numbers of deviation `sigma`; the layers are the paper's PLR.
    """

    def __init__(self, count: int, width: int, *, frequencies: int, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.frequency = nn.Parameter(torch.empty(count, frequencies))
        self.linear = VectorTokens(count, 2 * frequencies, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.frequency, std=self.sigma)

    def forward(self, numbers: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        angles = 2 * math.pi * self.frequency * numbers.to(self.frequency.dtype)[..., None]
        return self.linear(torch.cat([angles.sin(), angles.cos()], -1)).relu()


class PiecewiseTokens(nn.Module):
    """Scaled numbers to tokens by the share of each bin of their column that lies below them (arXiv 2203.05556, section 3.2).

    edges: of the bins of each column, ascending; numbers lie between the first and the last.
    """

    def __init__(self, width: int, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        size = max(len(column) for column in edges) - 1
        # Constants, not buffers: a model on the meta device, or in bfloat16, would lose them.
        self.low = [[*column[:-1], *[math.inf] * (size + 1 - len(column))] for column in edges]
        self.high = [[*column[1:], *[math.inf] * (size + 1 - len(column))] for column in edges]
        self.linear = VectorTokens(len(edges), size, width)

    def forward(self, numbers: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        low, high = (torch.tensor(side, dtype=torch.float32, device=numbers.device) for side in (self.low, self.high))
        shares = (numbers.float()[..., None] - low) / (high - low)
        return self.linear(shares.nan_to_num(0.0).clamp(0, 1))


class WordTokens(nn.Module):
    """Bags of hashed words, numbers from 1 on and 0 for none, to the sum of their vectors over the root of their count."""

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = nn.Parameter(torch.empty(1 + buckets, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=0.02)

    def forward(self, words: Int[Tensor, "b n h"]) -> Float[Tensor, "b n d"]:
        total = F.embedding_bag(words.flatten(0, 1), self.table, mode="sum", padding_idx=0)
        return total.unflatten(0, words.shape[:2]) * (words > 0).sum(-1, keepdim=True).clamp(min=1).to(total.dtype).rsqrt()


def text_values(words: Int[Tensor, "b n h"]) -> Float[Tensor, "b n t"]:
    """`TEXT_VALUES` numbers of unit variance that stand for a bag of words: each adds or subtracts 1 at one place.

    Signed feature hashing (arXiv 0902.2206, section 2). NaN where there is no word.
    """
    mixed = mix(words)
    sign = torch.where((mixed >> 8) & 1 == 1, 1.0, -1.0).masked_fill(words == 0, 0.0)
    total = sign.new_zeros(*words.shape[:2], TEXT_VALUES).scatter_add(2, mixed & (TEXT_VALUES - 1), sign)
    count = (words > 0).sum(-1, keepdim=True)
    return (total / (count / TEXT_VALUES).sqrt()).masked_fill(count == 0, torch.nan)

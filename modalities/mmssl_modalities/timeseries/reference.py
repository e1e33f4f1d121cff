"""Random convolutions: what an encoder of series has to beat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import conv1d

from mmssl.modality import Reference
from mmssl_modalities.timeseries.read import filled

LENGTHS = (7, 9, 11)
KERNELS = 1000
CHUNK = 256
"""Series that are convolved at a time."""
STRENGTHS = np.logspace(-3, 3, 10)
"""Penalties of the ridge regression that are tried, as in the reference code."""


class Kernel(NamedTuple):
    """What kernels share that are applied together."""

    length: int
    dilation: int
    padded: bool


@dataclass(frozen=True)
class Bank:
    """Kernels of one length, dilation and padding: weights, 0 for channels that a kernel does not read, and biases."""

    weight: Float[Tensor, "k c l"]
    bias: Float[Tensor, " k"]


class RandomConvolutions(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Largest value and share of positive values of random dilated convolutions (ROCKET, arXiv 1910.13051, section 3).

    Kernels as there: 7, 9 or 11 weights from N(0, 1), centred, bias from U(-1, 1), dilation 2^u with u from U(0, log2((n - 1) /
    (l - 1))), padding for every other one. Of several channels each kernel reads 2^u of them, u from U(0, log2(channels)).
    Each channel of a series is standardised first.
    """

    def __init__(self, kernels: int = KERNELS, seed: int = 0) -> None:
        self.kernels, self.seed = kernels, seed

    def fit(self, x: Float[np.ndarray, "n c t"], y: Any = None) -> "RandomConvolutions":
        """Draw the kernels for series of that size."""
        channels, size = x.shape[1:]
        random = np.random.default_rng(self.seed)
        drawn: dict[Kernel, list[tuple[Float[np.ndarray, "c l"], float]]] = {}
        for _ in range(self.kernels):
            length = int(random.choice([each for each in LENGTHS if each <= size] or [size]))
            weight = random.standard_normal((channels, length))
            weight -= weight.mean(1, keepdims=True)
            read = random.permutation(channels)[: int(2 ** random.uniform(0, np.log2(channels)))]
            weight[np.setdiff1d(np.arange(channels), read)] = 0
            dilation = int(2 ** random.uniform(0, np.log2(max(1, (size - 1) / max(1, length - 1)))))
            kernel = Kernel(length, dilation, bool(random.integers(2)))
            drawn.setdefault(kernel, []).append((weight, random.uniform(-1, 1)))
        self.banks_ = {
            kernel: Bank(*(torch.from_numpy(np.array(part)).float() for part in zip(*found, strict=True)))
            for kernel, found in drawn.items()
        }
        return self

    def transform(self, x: Float[np.ndarray, "n c t"]) -> Float[np.ndarray, "n f"]:
        """Two features for each kernel."""
        with torch.no_grad():
            return torch.cat([self._features(part) for part in torch.from_numpy(x).float().split(CHUNK)]).numpy()

    def _features(self, x: Float[Tensor, "n c t"]) -> Float[Tensor, "n f"]:
        std, mean = torch.std_mean(x, 2, correction=0, keepdim=True)
        x = (x - mean) / std.clamp(min=1e-8)
        found = []
        for kernel, bank in self.banks_.items():
            padding = (kernel.length - 1) * kernel.dilation // 2 if kernel.padded else 0
            out = conv1d(x, bank.weight, bank.bias, padding=padding, dilation=kernel.dilation)
            found += [out.amax(2), (out > 0).float().mean(2)]
        return torch.cat(found, 1)


def random_convolutions(curves: Callable[[Any], Float[np.ndarray, "c t"]]) -> Reference:
    """`RandomConvolutions` and a ridge regression, as in the paper, with a tenth of its kernels.

    curves: the channels of a raw series, gaps filled in; equally many for all.
    """

    def estimator(classes: bool, seed: int) -> Any:
        ridge = RidgeClassifierCV(alphas=STRENGTHS) if classes else RidgeCV(alphas=STRENGTHS)
        return make_pipeline(SameSize(), RandomConvolutions(seed=seed), StandardScaler(), ridge)

    return Reference("random convolutions", curves, estimator)


class SameSize(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Series of various sizes as one array, resampled to the size that most training series have."""

    def fit(self, x: Sequence[Float[np.ndarray, "c _"]], y: Any = None) -> "SameSize":
        """Find that size."""
        sizes, counts = np.unique([each.shape[1] for each in x], return_counts=True)
        self.size_ = int(sizes[counts.argmax()])
        return self

    def transform(self, x: Sequence[Float[np.ndarray, "c _"]]) -> Float[np.ndarray, "n c t"]:
        """All of that size, by linear interpolation."""
        return np.stack([filled(each, np.ones(each.shape, bool), self.size_) for each in x])

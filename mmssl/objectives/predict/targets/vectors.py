"""What a token holds as one vector of numbers, whatever its modality: what codes are made of."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmssl.data.processes import gather_rows
from mmssl.model import MMSSLModel
from mmssl.objectives.predict.parts import Scene

WIDEST = 512
"""Parts with more values or classes than this are projected."""
NARROW = 256
"""To so many, at random, which keeps distances to about a tenth (Johnson and Lindenstrauss 1984)."""


def content_sizes(model: MMSSLModel, name: str, of: str | None) -> dict[str, int]:
    """Values or classes of each part of what codes are made of; ValueError if the modality has no such aspect."""
    adapter = model.adapter(name)
    if of is None:
        return adapter.target_sizes
    if of not in adapter.aspects:
        known = ", ".join(adapter.aspects) or "none"
        raise ValueError(
            f"objective.targets: tokens of {name!r} have no aspect {of!r}; known ones: {known}. Or take their content, null"
        )
    return {of: adapter.aspects[of]}


def content_of(scene: Scene, of: str | None) -> dict[str, Tensor]:
    """The content of the tokens, or one aspect of it."""
    return scene.content if of is None else {of: scene.model.adapter(scene.name).aspect(of, scene.inputs)}


def counted_of(scene: Scene, of: str | None) -> dict[str, Tensor]:
    """The same of the samples that count: of those that only stand in no rows."""
    return {key: value if scene.counts else value[:0] for key, value in content_of(scene, of).items()}


def moments(points: Float[Tensor, "b n t"], size: int) -> Float[Tensor, "b n w"]:
    """Mean and covariance of each set of points: what does not depend on their order. Missing points (NaN) do not count."""
    sets = points.unflatten(-1, (-1, size))
    there = ~sets.isnan().any(-1, keepdim=True)
    sets, count = sets.masked_fill(~there, 0), there.sum(-2).clamp(min=1)
    mean = sets.sum(-2) / count
    gaps = (sets - mean[..., None, :]) * there
    covariance = gaps.mT @ gaps / count[..., None]
    row, column = torch.triu_indices(size, size, device=points.device)
    return torch.cat([mean, covariance[..., row, column]], -1).masked_fill(~there.any(-2), torch.nan)


class Vectors(nn.Module):
    """One vector for each token: its numbers, standardised if asked, its classes one-hot, and 0 for what is not there.

    Mean and standard deviation of each number are those of the first step that is trained on (BEST-RQ, arXiv 2202.01855, section
    3.1, asks for zero mean and unit variance, or few codes would be used). Of sets of points the numbers are their moments.
    """

    def __init__(self, sizes: Mapping[str, int], point_dim: int, *, standardise: bool = True) -> None:
        super().__init__()
        self.point_dim, self.standardise = point_dim, standardise
        self.sizes = {key: point_dim * (point_dim + 3) // 2 if point_dim else size for key, size in sizes.items()}
        self.width = sum(min(size, NARROW) if size > WIDEST else size for size in self.sizes.values())
        for key, size in self.sizes.items():
            self.register_buffer(f"mean_{key}", torch.zeros(size))
            self.register_buffer(f"scale_{key}", torch.ones(size))
            if size > WIDEST:
                self.register_buffer(f"project_{key}", torch.randn(size, NARROW) / NARROW**0.5)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.fitted: Tensor

    @torch.no_grad()
    def forward(self, content: Mapping[str, Tensor]) -> Float[Tensor, "b n w"]:
        return torch.cat([self.part(key, value) for key, value in self.numbers(content).items()], -1)

    def numbers(self, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The content of each token, of sets of points their moments."""
        return {key: moments(value, self.point_dim) if self.point_dim else value for key, value in content.items()}

    @torch.no_grad()
    def fit(self, contents: Sequence[Mapping[str, Tensor]]) -> None:
        """Take mean and standard deviation from the micro-batches of a step; a number that does not vary keeps its scale."""
        parts = [self.numbers(content) for content in contents]
        for key in parts[0] if self.standardise else ():
            if not parts[0][key].is_floating_point():
                continue
            value = gather_rows(torch.cat([part[key].flatten(0, 1) for part in parts]))
            there = ~value.isnan()
            count = there.sum(0).clamp(min=1)
            mean = value.nan_to_num().sum(0) / count
            variance = ((value.nan_to_num() - mean).square() * there).sum(0) / count
            self.get_buffer(f"mean_{key}").copy_(mean)
            self.get_buffer(f"scale_{key}").copy_(torch.where(variance > 1e-8, variance, 1.0).sqrt())
        self.fitted.fill_(True)

    def part(self, key: str, value: Tensor) -> Float[Tensor, "b n w"]:
        size, there = self.sizes[key], value != -100
        wide = size > WIDEST
        if value.is_floating_point():
            standard = ((value.float() - self.get_buffer(f"mean_{key}")) / self.get_buffer(f"scale_{key}")).nan_to_num()
            return standard @ self.get_buffer(f"project_{key}") if wide else standard
        table = self.get_buffer(f"project_{key}") if wide else torch.eye(size, device=value.device)
        return table[value.clamp(min=0)] * there[..., None]

"""Losses of a batch's statistics: features that agree between two views, and are spread over all directions.

The rows are those of the whole optimizer step.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.losses.arithmetic import unit, wide


def _several(z: Float[Tensor, "n d"], loss: str) -> None:
    """ValueError for fewer than two rows, which have no variance."""
    if len(z) < 2:
        raise ValueError(f"{loss} needs statistics of two samples or more in a step, got {len(z)}; make batches larger")


def _standardised(z: Float[Tensor, "n d"], eps: float = 1e-5) -> Float[Tensor, "n d"]:
    """Features with mean 0 and variance 1 over the rows, as a BatchNorm without gain makes them; constant ones are zero."""
    return (z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt()


def _off_diagonal(matrix: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Sum of the squares outside the diagonal."""
    return (matrix - matrix.diagonal().diag()).square().sum()


@wide
def barlow_twins(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], off_diagonal: int | float) -> Float[Tensor, ""]:
    """Distance of the cross-correlation of two views' features from the identity (Barlow Twins, arXiv 2103.03230, eq. 1-2).

    off_diagonal: weight of the d x (d - 1) other entries; the paper's 0.0051 is for d = 8192. ValueError for a single row.
    """
    _several(a, "barlow_twins")
    correlation = _standardised(a).mT @ _standardised(b) / len(a)
    return (1 - correlation.diagonal()).square().sum() + off_diagonal * _off_diagonal(correlation)


@wide
def mixed_barlow(
    mixed: Float[Tensor, "n d"],
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    partner: Int[Tensor, " n"],
    share: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Whether features of mixed inputs correlate with both views as mixed features would (Mixed Barlow Twins, arXiv 2312.02151).

    Sum of squares over both cross-correlations; the authors' code gives it 5 x the weight of Barlow's off-diagonal.

    mixed: features of share x the first view's input + (1 - share) x the second view's input of another row, `partner`.
    ValueError for a single row.
    """
    _several(a, "mixed_barlow")
    a, b = _standardised(a), _standardised(b)
    # Correlation is linear in either side, so the paper's two mixtures of correlations are one correlation of mixtures.
    gap = _standardised(mixed) - (share[:, None] * a + (1 - share[:, None]) * b[partner])
    return (gap.mT @ a / len(a)).square().sum() + (gap.mT @ b / len(a)).square().sum()


@wide
def vicreg(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    invariance: int | float = 25.0,
    variance: int | float = 25.0,
    covariance: int | float = 1.0,
) -> dict[str, Float[Tensor, ""]]:
    """The three weighted terms of VICReg by name (arXiv 2105.04906, eq. 1-6, factors as in the authors' code).

    Mean squared difference; mean over views and features of how much the deviation is below 1; squared covariances of different
    features over d, summed over views. ValueError for a single row.
    """
    _several(a, "vicreg")
    spread, shared = [], []
    for z in (a, b):
        z = z - z.mean(0)
        matrix = z.mT @ z / (len(z) - 1)
        spread.append((1 - (matrix.diagonal() + 1e-4).sqrt()).relu().mean())
        shared.append(_off_diagonal(matrix) / z.shape[1])
    return {
        "invariance": invariance * (a - b).square().mean(),
        "variance": variance * torch.stack(spread).mean(),
        "covariance": covariance * torch.stack(shared).sum(),
    }


@wide
def sigreg(
    z: Float[Tensor, "n d"], directions: Float[Tensor, "d k"], *, points: int = 17, limit: int | float = 3.0
) -> Float[Tensor, ""]:
    """How far features are from a standard normal distribution: the Epps-Pulley statistic, mean over directions (SIGReg).

    LeJEPA (arXiv 2511.08544, section 4): n x the integral of |characteristic function - that of the normal|^2 exp(-t^2 / 2), by the
    trapezoidal rule at `points` from 0 to `limit`, doubled because it is symmetric. n is a factor, so weight and batch size go
    together. For one view: views share no sum.

    directions: new in every step; of any length.
    """
    t = torch.linspace(0, limit, points, dtype=z.dtype, device=z.device)
    normal = (-t.square() / 2).exp()
    angles = (z @ unit(directions.mT).mT)[..., None] * t
    gap = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    return 2 * len(z) * torch.trapezoid(gap * normal, t).mean()


@wide
def visreg(z: Float[Tensor, "n d"], directions: Float[Tensor, "d k"]) -> dict[str, Float[Tensor, ""]]:
    """Centre, scale and shape of features against a standard normal distribution, which are summed (VISReg, arXiv 2606.02572).

    As in the authors' code: the mean squared mean; the mean squared (deviation - 1); the mean squared gap of standardised features
    along each direction, sorted, from the normal quantiles i / (n + 1), where deviations have no gradient. For one view; agreement
    of views is another term. ValueError for a single row.

    directions: new in every step; of any length.
    """
    _several(z, "visreg")
    centre = z.mean(0)
    centred = z - centre
    deviation = torch.linalg.vector_norm(centred, dim=0) / len(z) ** 0.5 + 1e-6
    slices = (centred / deviation.detach()) @ unit(directions.mT).mT
    ranks = torch.arange(1, len(z) + 1, dtype=z.dtype, device=z.device) / (len(z) + 1)
    gap = slices.sort(0).values - torch.special.ndtri(ranks)[:, None]
    return {"centre": centre.square().mean(), "scale": (deviation - 1).square().mean(), "shape": gap.square().mean()}


@wide
def koleo(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """-log of each row's distance to the nearest other row, on the unit sphere (KoLeo: arXiv 1806.03198; DINOv2, 2304.07193).

    Duplicates cost -log 1e-8 and have no gradient. A single row costs nothing.
    """
    x = unit(x)
    if len(x) < 2:
        return x.sum(-1) * 0
    with torch.no_grad():
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        nearest = (x @ x.mT).masked_fill(itself, -torch.inf).argmax(1)
    return -(torch.linalg.vector_norm(x - x[nearest], dim=-1) + 1e-8).log()


@wide
def entropy_bound(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], concentration: int | float = 10) -> Float[Tensor, " n"]:
    """Reconstruction error of `b` from `a` minus the entropy of `b`, one summand a row (ER, arXiv 2307.10907, section 4).

    Both by von Mises-Fisher densities of one `concentration`, whose constants cancel, the entropy by a kernel density estimate and
    Joe's estimator, one of two in the authors' code. For one direction, from `a` to `b`.
    """
    a, b = unit(a), unit(b)
    density = (concentration * b @ b.mT).logsumexp(-1) - torch.tensor(len(b), dtype=b.dtype, device=b.device).log()
    return density - concentration * (a * b).sum(-1)

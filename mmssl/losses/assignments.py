"""Losses of agreement with a target that has no gradient: probabilities of prototypes, similarities, directions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.losses.arithmetic import unit, wide


@wide
def centred(logits: Float[Tensor, "n k"], centre: Float[Tensor, " k"], temperature: int | float) -> Float[Tensor, "n k"]:
    """A teacher's probabilities: the softmax of logits without their running mean, over `temperature` (DINO, arXiv 2104.14294)."""
    return ((logits - centre) / temperature).softmax(-1)


@wide
def self_distillation(
    student_logits: Float[Tensor, "n k"], target: Float[Tensor, "n k"], temperature: int | float
) -> Float[Tensor, " n"]:
    """Cross-entropy of each row's softmax at `temperature` with a target's probabilities (DINO, arXiv 2104.14294, eq. 1-2).

    The same for masked tokens (iBOT, arXiv 2111.07832) and for codes of `sinkhorn` (SwAV, arXiv 2006.09882, eq. 2). ln k if the
    softmax is uniform.
    """
    return -(target * (student_logits / temperature).log_softmax(-1)).sum(-1)


@wide
def gram(
    student: Float[Tensor, "b n d"], teacher: Float[Tensor, "b n e"], valid: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, " b"]:
    """Mean squared difference of two matrices of cosine similarities between a sample's tokens (Gram anchoring, arXiv 2508.10104).

    valid: tokens that count. A sample without any costs nothing.
    """
    there = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device) if valid is None else valid
    s, t = (unit(x.masked_fill(~there[..., None], 0)) for x in (student, teacher))
    # The similarities of a token that is not there are zeros in both.
    return (s @ s.mT - t @ t.mT).square().sum((1, 2)) / there.sum(1).clamp(min=1).square()


@wide
def cosine_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """2 - 2 x cosine similarity: the squared distance of unit vectors (BYOL, arXiv 2006.07733, eq. 2). 2 for a vector of zeros."""
    return 2 - 2 * (unit(a) * unit(b)).sum(-1)


@torch.no_grad()
@wide
def direct_predictor(correlation: Float[Tensor, "d d"], eps: int | float) -> Float[Tensor, "d d"]:
    """A linear predictor from the correlation of its inputs: eigenvalues s become sqrt(s) + eps x the largest s.

    DirectPred (arXiv 2102.06810, eq. 18). Its code divides s by the largest first: for a loss of cosines that is eps / sqrt(the
    largest s) here.

    correlation: the (moving) mean of z z^T over samples.
    """
    values, vectors = torch.linalg.eigh((correlation + correlation.mT) / 2)
    values = values.clamp(min=0)
    return vectors * (values.sqrt() + eps * values[-1]) @ vectors.mT


@torch.no_grad()
@wide
def ridge_predictor(correlation: Float[Tensor, "d d"], cross: Float[Tensor, "d d"], eps: int | float) -> Float[Tensor, "d d"]:
    """The linear predictor W, for inputs W z, with the least squared error plus eps x |W|^2.

    The best linear predictor, by which arXiv 2302.04817 explains BYOL; its own variants may differ in detail.

    correlation, cross: (moving) means of z z^T and of z' z^T, for inputs z and targets z'. eps > 0, or a correlation of full rank.
    """
    eye = torch.eye(len(correlation), dtype=correlation.dtype, device=correlation.device)
    return torch.linalg.solve(correlation + eps * eye, cross, left=False)


@torch.no_grad()
@wide
def orthogonal_predictor(cross: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The orthogonal matrix W, for inputs W z, with the least squared error (Procrustes).

    The best predictor that keeps lengths, after arXiv 2302.04817; its own variants may differ in detail.

    cross: the (moving) mean of z' z^T, for inputs z and targets z'.
    """
    left, _, right = torch.linalg.svd(cross)
    return left @ right

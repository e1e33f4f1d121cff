"""What frozen features are worth to a simple reader: nearest neighbours and a linear model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.data.label_lists import rarest

NEIGHBOURS = 20
TEMPERATURE = 0.07
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Inverse strengths of the L2 penalty (scikit-learn's C, and 1 / alpha of its Ridge), strongest penalty first."""

CHUNK = 1024
"""Test samples whose similarities to all training samples are held in memory at a time."""
MAX_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-4
MAX_ROTATED = 4096
"""Features up to which an eigendecomposition pays for itself."""
CURVATURE = 0.1
"""The softmax's share in the curvature of the logistic loss, p (1 - p) at p near 1/10: only steers the solver, not its result."""


def accuracy(predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Share of right predictions, in percent."""
    return 100 * (predicted == labels).double().mean().item()


def r2(predicted: Float[Tensor, " n *k"], labels: Float[Tensor, " n *k"]) -> float:
    """Share of the labels' variance that is predicted; 0 is what their mean reaches. ValueError if they are all the same.

    Of several numbers a sample the mean over them, each with its own variance; those that are the same in all samples are left out.
    """
    truth = labels.double()
    total = (truth - truth.mean(0)).square().sum(0)
    there = total > 0
    if not there.any():
        only = ", ".join(f"{value:g}" for value in labels[0].flatten().tolist())
        raise ValueError(f"R2 needs labels that differ; all {len(labels)} test labels are {only}")
    return 1 - ((truth - predicted.double()).square().sum(0)[there] / total[there]).mean().item()


def mean_average_precision(scores: Float[Tensor, "n k"], labels: Float[Tensor, "n k"]) -> float:
    """Mean over labels of the average precision of samples ranked by a score, in percent; labels that no sample has are left out.

    Average precision is the sum of (R_i - R_(i-1)) P_i over thresholds, without interpolation, as scikit-learn's. ValueError where
    no sample has a label.
    """
    from sklearn.metrics import average_precision_score  # takes a second, and few need it

    there = labels.any(0)
    if not there.any():
        raise ValueError(f"mean average precision needs a label; none of the {len(labels)} samples has one")
    found = average_precision_score(labels[:, there].cpu().numpy(), scores[:, there].double().cpu().numpy(), average=None)
    return 100 * float(np.mean(found))


def knn_labels(
    train: Float[Tensor, "n d"],
    labels: Float[Tensor, "n k"],
    test: Float[Tensor, "m d"],
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "m k"]:
    """The share of the nearest training samples that has each label, with the weights of `knn_classify`."""
    return _neighbour_mean(train, labels.to(train.dtype), test, k, temperature)


def knn_classify(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Int[Tensor, " m"]:
    """Classes by vote of the `k` training samples of highest cosine similarity s, each with weight exp(s / temperature).

    Source: Wu et al. 2018, arXiv 1805.01978, section 3.4. `k` is cut to the number of training samples; of equal votes the lowest
    class wins.
    """
    votes = F.one_hot(labels).to(train.dtype)
    return _neighbour_mean(train, votes, test, k, temperature).argmax(1)


def knn_regress(
    train: Float[Tensor, "n d"],
    labels: Float[Tensor, " n *k"],
    test: Float[Tensor, "m d"],
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, " m *k"]:
    """Mean label of the `k` nearest training samples, with the weights of `knn_classify`."""
    found = _neighbour_mean(train, labels.reshape(len(labels), -1).to(train.dtype), test, k, temperature)
    return found.reshape(len(test), *labels.shape[1:])


def _neighbour_mean(
    train: Float[Tensor, "n d"], values: Float[Tensor, "n c"], test: Float[Tensor, "m d"], k: int, temperature: float
) -> Float[Tensor, "m c"]:
    bank = F.normalize(train, dim=1)
    means = []
    for chunk in F.normalize(test, dim=1).split(CHUNK):
        near = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        weights = (near.values / temperature).softmax(1)
        means.append((weights[..., None] * values[near.indices]).sum(1))
    return torch.cat(means)


def held_out(groups: Shaped[Tensor, " n"], seed: int) -> Bool[Tensor, " n"]:
    """Every fifth sample of each group, in a random order; a group keeps at least one sample, and gives one if it has two."""
    number = np.unique(groups.cpu().numpy(), return_inverse=True)[1]
    order = np.lexsort((np.random.default_rng(seed).random(len(number)), number))
    first = np.searchsorted(number[order], number[order])
    chosen = np.empty(len(number), dtype=bool)
    chosen[order] = (np.arange(len(number)) - first) % 5 == 1
    return torch.from_numpy(chosen).to(groups.device)


@dataclass(frozen=True)
class LinearProbe:
    """Predictions of a linear model on the test samples.

    strength: the value of `STRENGTHS` that was best on held-out training samples.
    converged: whether the final fit reached its tolerance.
    """

    predicted: Shaped[Tensor, " m *k"]
    strength: float
    converged: bool


def linear_classify(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    *,
    seed: int = 0,
    groups: Shaped[Tensor, " n"] | None = None,
) -> LinearProbe:
    """Multinomial logistic regression on standardised features, as scikit-learn's LogisticRegression minimises it.

    The penalty is chosen by accuracy on `held_out` training samples, then all are fitted with it.
    groups: hold out each of these groups of training samples in turn, as where the test samples come from groups of their own.
    ValueError if no class has two training samples, or if there is only one group.
    """
    problem, reader, best = _classifier(train, labels, seed, groups)
    return LinearProbe(problem.predict(reader(test)), best, problem.converged)


def classifier(
    train: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, seed: int = 0
) -> Callable[[Float[Tensor, "m d"]], Int[Tensor, " m"]]:
    """What `linear_classify` fits, to be asked of any features."""
    problem, reader, _ = _classifier(train, labels, seed, None)
    return lambda features: problem.predict(reader(features))


def _classifier(
    train: Float[Tensor, "n d"], labels: Int[Tensor, " n"], seed: int, groups: Shaped[Tensor, " n"] | None
) -> tuple["_Logistic", Callable[[Float[Tensor, "m d"]], Float[Tensor, "m d"]], float]:
    """A fitted logistic regression, what it is given of features, and its penalty."""
    standardise = _standardiser(train)
    train = standardise(train)
    basis, curvature = _principal_axes(train)
    problem = _Logistic(train @ basis, labels, curvature)
    outs = [_held_out_part(labels, labels, seed)] if groups is None else _each_group(groups)
    parts = [_Logistic(problem.x[~out], labels[~out], curvature, problem.num_classes) for out in outs]

    def score(strength: float) -> float:
        total = 0.0
        for part, out in zip(parts, outs, strict=True):
            part.fit(strength)
            total += accuracy(part.predict(problem.x[out]), labels[out])
        return total

    best = _best_strength(score)
    problem.fit(best)
    return problem, lambda features: standardise(features) @ basis, best


def linear_labels(
    train: Float[Tensor, "n d"], labels: Float[Tensor, "n k"], test: Float[Tensor, "m d"], *, seed: int = 0
) -> LinearProbe:
    """A binary logistic regression for each label, all with one penalty; it is chosen as in `linear_classify`, by mean average
    precision on samples that are held out by their rarest label. `predicted` `[m, k]` are logits."""
    train, test = _standardise(train, test)
    basis, curvature = _principal_axes(train)
    problem = _Logistic(train @ basis, labels, curvature)
    out = _held_out_part(torch.from_numpy(rarest(labels.cpu().numpy())).to(train.device), labels, seed)
    part = _Logistic(problem.x[~out], labels[~out], curvature)

    def score(strength: float) -> float:
        part.fit(strength)
        return mean_average_precision(part.logits(problem.x[out]), labels[out])

    best = _best_strength(score)
    problem.fit(best)
    return LinearProbe(problem.logits(test @ basis), best, problem.converged)


def linear_regress(
    train: Float[Tensor, "n d"], labels: Float[Tensor, " n *k"], test: Float[Tensor, "m d"], *, seed: int = 0
) -> LinearProbe:
    """Ridge regression on standardised features; the penalty is chosen as in `linear_classify`, by R2.

    Of several numbers a sample all have one penalty.
    """
    train, test = _standardise(train, test)
    out = _held_out_part(labels.new_zeros(len(labels)), labels, seed)
    best = _best_strength(lambda strength: r2(_ridge(train[~out], labels[~out], train[out], strength), labels[out]))
    return LinearProbe(_ridge(train, labels, test, best), best, converged=True)


def _best_strength(score: Callable[[float], float]) -> float:
    """The best of `STRENGTHS`, of equal ones the first; after two in a row that are worse than the best, no more are tried."""
    scores: list[float] = []
    for strength in STRENGTHS:
        scores.append(score(strength))
        if len(scores) > 2 and max(scores[-2:]) < max(scores):
            break
    return STRENGTHS[int(np.argmax(scores))]


def _held_out_part(groups: Shaped[Tensor, " n"], labels: Shaped[Tensor, " n *k"], seed: int) -> Bool[Tensor, " n"]:
    out = held_out(groups, seed)
    if not out.any():
        raise ValueError(f"a linear probe needs two training samples of at least one class; got {len(labels)} of different classes")
    return out


def _each_group(groups: Shaped[Tensor, " n"]) -> list[Bool[Tensor, " n"]]:
    outs = [groups == group for group in groups.unique()]
    if len(outs) < 2:
        raise ValueError("holding out each group in turn needs two groups or more; got one. Leave groups out")
    return outs


def _standardise(train: Float[Tensor, "n d"], test: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Zero mean and unit variance by the statistics of `train`; a constant feature becomes zero."""
    standardise = _standardiser(train)
    return standardise(train), standardise(test)


def _standardiser(train: Float[Tensor, "n d"]) -> Callable[[Float[Tensor, "m d"]], Float[Tensor, "m d"]]:
    variance, mean = torch.var_mean(train, 0, correction=0)
    std = variance.sqrt()
    constant = std <= 1e-6 * mean.abs()
    scale = torch.where(constant, 0.0, 1 / std)
    return lambda features: (features - mean) * scale


def _ridge(
    train: Float[Tensor, "n d"], labels: Float[Tensor, " n *k"], test: Float[Tensor, "m d"], strength: float
) -> Float[Tensor, " m *k"]:
    x, y = train.double(), labels.double()
    mean, centre = x.mean(0), y.mean(0)
    x = x - mean
    gram = x.T @ x
    gram.diagonal().add_(1 / strength)
    weight = torch.linalg.solve(gram, x.T @ (y - centre))
    return ((test.double() - mean) @ weight + centre).float()


def _principal_axes(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
    """An orthogonal change of coordinates, in which the features are uncorrelated, and their variances there."""
    d = x.shape[1]
    if d > MAX_ROTATED:
        return torch.eye(d, device=x.device), x.square().mean(0)
    moments = (x.T @ x / len(x)).double()
    try:
        variances, axes = torch.linalg.eigh(moments)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # MKL's divide and conquer gives up on some matrices of low rank; numpy's LAPACK does not
        variances, axes = (torch.from_numpy(found).to(x.device) for found in np.linalg.eigh(moments.cpu().numpy()))
    return axes.to(x.dtype), variances.to(x.dtype).clamp(min=0)


class _Logistic:
    """Mean cross-entropy + |W|^2 / (2 C n), minimised by L-BFGS, with intercepts that carry no penalty.

    In principal axes the curvature of both terms is nearly diagonal, so the solver works on W divided by the root of its inverse:
    about 40 evaluations instead of 1,000 for C = 10, with the same minimum. Each fit starts from the last.

    labels: class numbers, or 1 for each of several labels: then binary cross-entropies, summed over labels.
    """

    def __init__(
        self,
        x: Float[Tensor, "n d"],
        labels: Shaped[Tensor, " n *k"],
        variances: Float[Tensor, " d"],
        num_classes: int | None = None,
    ) -> None:
        self.x, self.labels, self.variances = x, labels, variances
        self.num_classes = num_classes or (labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1)
        self.weight, self.bias = x.new_zeros(x.shape[1], self.num_classes), x.new_zeros(self.num_classes)
        self.converged = False

    @torch.enable_grad()
    def fit(self, strength: float) -> None:
        penalty = 1 / (strength * len(self.x))
        scale = (CURVATURE * self.variances + penalty).rsqrt()[:, None]
        inner, bias = (self.weight / scale).requires_grad_(), self.bias.requires_grad_()
        solver = torch.optim.LBFGS(
            [inner, bias],
            max_iter=MAX_ITERATIONS,
            max_eval=2 * MAX_ITERATIONS,
            tolerance_grad=GRADIENT_TOLERANCE,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            solver.zero_grad()
            weight = scale * inner
            value = self.error(torch.addmm(bias, self.x, weight)) + penalty / 2 * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
        assert inner.grad is not None and bias.grad is not None
        # In float32 the last steps may not lower the loss any more, above the tolerance but close to it.
        self.converged = max(inner.grad.abs().max().item(), bias.grad.abs().max().item()) < 10 * GRADIENT_TOLERANCE
        self.weight, self.bias = (scale * inner).detach(), bias.detach()

    def error(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        if self.labels.dim() == 1:
            return F.cross_entropy(logits, self.labels)
        return F.binary_cross_entropy_with_logits(logits, self.labels.to(logits.dtype), reduction="none").sum(1).mean()

    def logits(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        return x @ self.weight + self.bias

    def predict(self, x: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        return self.logits(x).argmax(1)

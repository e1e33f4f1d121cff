"""Losses of predicted tokens with their settings, by the name that a recipe gives them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.losses.contrast import pick_negatives, same_sample, token_info_nce
from mmssl.losses.points import set_regression
from mmssl.losses.tokens import classification, cosine, regression, soft_classification
from mmssl.plugins import Parts
from mmssl.tokens import of_own

Weight = Annotated[float, Field(ge=0)]
PerToken = tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]
"""The loss of each token, and which tokens have a target."""


class Loss(ABC):
    """How far a prediction is from its target, token by token."""

    classes: bool = False
    """Whether predictions are logits of classes."""

    @property
    def over_batch(self) -> bool:
        """Whether the loss of a sample depends on the others of its micro-batch, and so on how a step is cut into these."""
        return False

    @abstractmethod
    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        """real: which places count (None: all): what may serve as a distractor."""

    def there(self, target: Tensor) -> Bool[Tensor, "b m"]:
        """Which tokens have a target, as a call says too: those that lack no value (NaN), or have a class (-100 = none)."""
        return ~target.isnan().any(-1) if target.is_floating_point() else target != -100

    def metrics(self, predicted: Tensor, counted: Bool[Tensor, "b m"]) -> dict[str, Float[Tensor, ""]]:
        """Detached scalars about the predictions that are counted, to be logged; of several parts of a target the largest."""
        return {}


class Regression(Loss):
    """The values of a token one by one: one that is there is enough."""

    def there(self, target: Tensor) -> Bool[Tensor, "b m"]:
        return ~target.isnan().all(-1) if target.is_floating_point() else target != -100


@dataclass(frozen=True, kw_only=True)
class Mse(Regression):
    """Mean squared error over the values of a token."""

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        return regression(predicted, target, "mse")


@dataclass(frozen=True, kw_only=True)
class L1(Regression):
    """Mean absolute error over the values of a token."""

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        return regression(predicted, target, "l1")


@dataclass(frozen=True, kw_only=True)
class SmoothL1(Regression):
    """Squared below `beta`, absolute above: x^2 / (2 beta), |x| - beta / 2 (data2vec, arXiv 2202.03555, eq. 4).

    beta: where the two meet.
    """

    beta: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        return regression(predicted, target, "smooth_l1", self.beta)


@dataclass(frozen=True, kw_only=True)
class Cosine(Loss):
    """One minus the cosine similarity."""

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        return cosine(predicted, target)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """Cross-entropy of classes, or of a probability for each class.

    label_smoothing: share of the target spread over all classes (arXiv 1512.00567, section 7).
    z_loss: weight of log(sum(exp(logits)))^2, which keeps logits from drifting (arXiv 2309.14322, section 3.1.2); the largest
        logit is logged with it.
    temperature: what logits are divided by.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    z_loss: Weight = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    classes = True

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        logits = predicted.float() if self.temperature == 1 else predicted.float() / self.temperature
        if target.is_floating_point():
            loss, there = soft_classification(logits, target)
        else:
            loss, there = classification(logits, target, self.label_smoothing)
        return (loss + self.z_loss * logits.logsumexp(-1).square() if self.z_loss else loss), there

    def metrics(self, predicted: Tensor, counted: Bool[Tensor, "b m"]) -> dict[str, Float[Tensor, ""]]:
        if not self.z_loss:
            return {}
        logits = predicted.detach().masked_fill(~counted[..., None], 0).float().abs()
        return {"largest_logit": (logits.amax() if logits.numel() else logits.new_zeros(())) / self.temperature}


@dataclass(frozen=True, kw_only=True)
class InfoNce(Loss):
    """Tell the target of a place from the targets of other places, by cosine similarity (wav2vec 2.0, arXiv 2006.11477, eq. 3).

    temperature: what similarities are divided by.
    negatives: where distractors come from: the other predicted places of the same sample, or of the whole batch.
    count: distractors of a place, drawn with replacement; null: all there are.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    negatives: Literal["sample", "batch"] = "sample"
    count: Annotated[int, Field(gt=0)] | None = None

    @property
    def over_batch(self) -> bool:
        return self.negatives == "batch"

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        there = ~target.isnan().any(-1)
        counted = there if real is None else there & real
        chosen = None
        if self.count is not None:
            drawn = of_own(draws.uniform("negatives", target.shape[1], self.count), counted)
            chosen = pick_negatives(drawn, counted, self.negatives)
        loss = token_info_nce(predicted, target, counted, self.temperature, across=self.negatives == "batch", chosen=chosen)
        return loss, there


@dataclass(frozen=True, kw_only=True)
class SameSample(Loss):
    """Tell targets of the same sample from those of others, pair by pair: what a sample has throughout, as a voice.

    The utterance-wise contrastive loss of UniSpeech-SAT (arXiv 2110.05752, section 3.1).

    temperature: what similarities are divided by.
    count: targets drawn for each place from its own sample, and as many from others, with replacement.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    count: Annotated[int, Field(gt=0)] = 50

    @property
    def over_batch(self) -> bool:
        return True

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        there = ~target.isnan().any(-1)
        counted = there if real is None else there & real
        places = target.shape[1], self.count
        alike = pick_negatives(of_own(draws.uniform("same sample", *places), counted), counted, "sample")
        others = pick_negatives(of_own(draws.uniform("other samples", *places), counted), counted, "others")
        return same_sample(predicted, target, counted, self.temperature, alike=alike, others=others), there


@dataclass(frozen=True, kw_only=True)
class Chamfer(Loss):
    """Chamfer distance of tokens that are sets of points (Point-MAE, arXiv 2203.06604, eq. 3).

    squared: squared distances, both ways added (Chamfer-L2), or the mean of both ways of distances (Chamfer-L1).
    point_dim: values of each point.
    """

    squared: bool = True
    point_dim: Annotated[int, Field(gt=0)] = 3

    def __call__(self, predicted: Tensor, target: Tensor, real: Bool[Tensor, "b m"] | None, draws: Draws) -> PerToken:
        return set_regression(predicted, target, self.point_dim, "chamfer" if self.squared else "chamfer_l1")

    def there(self, target: Tensor) -> Bool[Tensor, "b m"]:
        return (~target.unflatten(-1, (-1, self.point_dim)).isnan().any(-1)).any(-1)


LOSSES: Parts[Callable[..., Loss]] = Parts(
    "mmssl.losses",
    Loss,
    {
        "mse": Mse,
        "l1": L1,
        "smooth_l1": SmoothL1,
        "cosine": Cosine,
        "cross_entropy": CrossEntropy,
        "info_nce": InfoNce,
        "same_sample": SameSample,
        "chamfer": Chamfer,
    },
)

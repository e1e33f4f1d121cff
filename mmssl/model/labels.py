"""Heads that predict labels from the pooled output of a sample: classes, ordered classes, several classes at once, numbers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

LabelKind = Literal["classification", "ordinal", "multi_label", "regression", "dense"]
PROBLEMS: Mapping[str, str | None] = {
    "classification": "single_label_classification",
    "ordinal": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
    "dense": None,
}
"""transformers' `problem_type` of each kind; models that label places have none there."""
DENSE_FACES = {
    "map": "MMSSLForSemanticSegmentation",
    "sequence": "MMSSLForTokenClassification",
    "steps": "MMSSLForFrameClassification",
}
DENSE_TASKS = {"map": "semantic-segmentation", "sequence": "token-classification", "steps": "frame-classification"}
NEWER = ("shape", "windows", "tokens", "places", "detail", "segments", "background")
"""Settings that models of earlier versions lack: they are written where they say something."""


@dataclass(frozen=True, kw_only=True)
class LabelHead:
    """What a model predicts, as its configuration holds it; the names of classes are transformers' `id2label`.

    kind: one class of several; ordinal = the same where classes have an order; multi_label = any number of classes; regression;
        dense = one class of several for each place of a sample, such as a pixel, a word or a step in time.
    size: how many classes, or numbers; 1 for regression without a `shape`.
    column: name of the column that held the labels.
    modality: the one that the label is told from; None: any of the model.
    mean, std: of the labels that a regression was trained on, which are learned in units of their spread; of each number of a list
        its own.
    shape: of the list of numbers that a regression predicts of a sample, as [96], or [7, 96] for lists of lists, `size` in all;
        None: one number.
    windows: of a forecast, how windows were cut of series (`mmssl.data.forecast.ForecastOptions`). What follows is predicted in
        units of what was seen, by its mean and standard deviation: the second half of RevIN (Kim et al., ICLR 2022), without
        learned gain. None: labels are no forecast.
    tokens: how many tokens are read in a row, in order of time (PatchTST's flattening, arXiv 2211.14730, section 3.1); None: what
        is read is pooled.
    places: of dense, what transformers takes them for: map = semantic segmentation, sequence = token classification, steps = frame
        classification.
    detail: of dense, predictions on a side of each token, of steps along time; None: one.
    segments: of steps, whether labels were segments of time, which predictions then are as well; None: no.
    background: the class of steps outside of all segments; None: they had no label.
    """

    kind: LabelKind
    size: int
    column: str | None = None
    modality: str | None = None
    mean: float | list[float] = 0.0
    std: float | list[float] = 1.0
    shape: list[int] | None = None
    windows: dict[str, Any] | None = None
    tokens: int | None = None
    places: Literal["map", "sequence", "steps"] | None = None
    detail: int | None = None
    segments: bool | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "dense") != (self.places is not None):
            raise ValueError(f"a label head of kind dense, and no other, says what its places are; got {self.kind}, {self.places}")
        if self.shape is not None and (self.kind != "regression" or math.prod(self.shape) != self.size):
            raise ValueError(f"a {self.kind} head of {self.size} outputs cannot give lists of numbers of shape {self.shape}")

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in NEWER or value is not None}

    @property
    def forecasts(self) -> bool:
        """Whether it tells what follows a series."""
        return self.windows is not None

    def is_built_as(self, other: "LabelHead") -> bool:
        """Whether both forecast so many steps from what is read alike: the weights of one can then go on with data of the other."""
        parts = ("kind", "size", "shape", "tokens", "modality")
        steps = [None if head.windows is None else head.windows["context"] for head in (self, other)]
        return steps[0] == steps[1] and all(getattr(self, part) == getattr(other, part) for part in parts)

    @property
    def dense(self) -> bool:
        """Whether it labels places of a sample."""
        return self.places is not None

    @property
    def face(self) -> str:
        """The name of the class of a model with this head."""
        if self.places is not None:
            return DENSE_FACES[self.places]
        numbers = "MMSSLForTimeSeriesPrediction" if self.forecasts else "MMSSLForRegression"
        return numbers if self.kind == "regression" else "MMSSLForClassification"

    @property
    def task(self) -> str:
        """What a model with this head does, as tags of the Hub say it."""
        if self.places is not None:
            return DENSE_TASKS[self.places]
        if self.kind != "regression":
            return "classification"
        return "time-series-forecasting" if self.forecasts else "regression"

    @property
    def problem(self) -> str | None:
        """transformers' name of the kind."""
        return PROBLEMS[self.kind]

    @property
    def titles(self) -> list[str]:
        """What the outputs of a regression are called, as `id2label` needs a name of each."""
        column = self.column or "LABEL"
        if self.shape is None:
            return [self.column or "LABEL_0"]
        return [f"{column}_{number}" for number in range(self.size)]

    def build(self, width: int) -> nn.Module:
        """The module on pooled outputs of this width, or on tokens; what it gives is for the methods below."""
        if self.dense:
            return nn.Linear(width, self.size * (self.detail or 1) ** (2 if self.places == "map" else 1))
        return Ordinal(width, self.size) if self.kind == "ordinal" else nn.Linear(width, self.size)

    def logits(self, given: Float[Tensor, "b k"], level: Float[Tensor, "b 2"] | None = None) -> Float[Tensor, "b k"]:
        """What a model of transformers calls so: softmax (sigmoid for multi_label) makes probabilities of it; numbers are in their
        own unit.

        level: of a forecast, mean and standard deviation of what was seen of each sample (`Adapter.level`).
        """
        if self.kind != "regression":
            return given
        if self.forecasts:
            assert level is not None, "a forecast is told by what was seen"
            mean, deviation = level.to(given.dtype).split(1, 1)
            return given * deviation + mean
        mean, std = self._statistics(given)
        return given * std + mean

    def shaped(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, " b *shape"]:
        """Numbers of a regression as its labels were: one of each sample, or a list of them, or lists of lists."""
        return logits.reshape(len(logits), *(self.shape or ()))

    def probabilities(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Of each class. ValueError for a regression, which has none."""
        if self.kind == "regression":
            raise ValueError("a regression has no classes, and so no probabilities")
        return logits.sigmoid() if self.kind == "multi_label" else logits.softmax(-1)

    def loss(
        self,
        given: Float[Tensor, "b k"],
        labels: Shaped[Tensor, "*_"],
        smoothing: float = 0.0,
        level: Float[Tensor, "b 2"] | None = None,
        units: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample: cross-entropy; for multi_label the mean of the binary ones; the squared error of standardised
        values, of a list of numbers its mean; of a forecast the same, in units of the spread of each sample's variable.

        labels: class numbers `[b]`, 0 or 1 for each class `[b, k]`, or values `[b]`, `[b, k]` or `[b, *shape]`.
        smoothing: share of the target spread over all classes (arXiv 1512.00567, section 7), where there is one class.
        level: as in `logits`. units: what errors of a forecast are measured in; None: `std`.
        """
        if self.kind == "regression":
            if labels.numel() != given.numel():
                raise ValueError(f"labels must be {self.size} numbers of each of {len(given)} samples; got {list(labels.shape)}")
            mean, std = self._statistics(given)
            if self.forecasts:
                error = self.logits(given, level) - labels.to(given.dtype).reshape(given.shape)
                return (error / (std if units is None else units.to(given.dtype)[:, None])).square().mean(1)
            wanted = (labels.to(given.dtype).reshape(given.shape) - mean) / std
            return F.mse_loss(given, wanted, reduction="none").mean(1)
        if self.kind == "multi_label":
            return F.binary_cross_entropy_with_logits(given, labels.to(given.dtype), reduction="none").mean(1)
        return F.cross_entropy(given, labels, label_smoothing=smoothing, reduction="none")

    def _statistics(self, given: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "*_"], Float[Tensor, "*_"]]:
        """Mean and standard deviation, of the type and on the device of `given`."""
        mean, std = (torch.tensor(value, dtype=given.dtype, device=given.device) for value in (self.mean, self.std))
        return mean, std


class Ordinal(nn.Module):
    """Proportional odds (McCullagh 1980, eq. 1.1): P(class <= k) = sigmoid(threshold_k - score), with growing thresholds.

    Gives logarithms of the probabilities of the classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"ordered classes must be at least two; got {classes}")
        self.score = nn.Linear(width, 1, bias=False)
        self.first = nn.Parameter(torch.empty(1))
        self.steps = nn.Parameter(torch.empty(classes - 2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Thresholds at which, with a score of 0, all classes are alike."""
        classes = len(self.steps) + 2
        thresholds = torch.logit(torch.arange(1, classes) / classes)
        self.first.copy_(thresholds[:1])
        self.steps.copy_(thresholds.diff().expm1().log())  # the inverse of softplus

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        gaps = F.softplus(self.steps)
        below = torch.cat([self.first, self.first + gaps.cumsum(0)]) - self.score(x)
        inner = F.logsigmoid(below[:, 1:]) + F.logsigmoid(-below[:, :-1]) + torch.log1p(-torch.exp(-gaps))
        return torch.cat([F.logsigmoid(below[:, :1]), inner, F.logsigmoid(-below[:, -1:])], 1)

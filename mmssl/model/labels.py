"""Heads that predict labels from the pooled output of a sample: classes, ordered classes, several classes at once, numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

LabelKind = Literal["classification", "ordinal", "multi_label", "regression"]
PROBLEMS: Mapping[str, str] = {
    "classification": "single_label_classification",
    "ordinal": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""transformers' `problem_type` of each kind."""


@dataclass(frozen=True, kw_only=True)
class LabelHead:
    """What a model predicts, as its configuration holds it; the names of classes are transformers' `id2label`.

    kind: one class of several; ordinal = the same where classes have an order; multi_label = any number of classes; regression.
    size: how many classes; 1 for regression.
    column: name of the column that held the labels.
    modality: the one that the label is told from; None: any of the model.
    mean, std: of the labels that a regression was trained on, which are learned in units of their spread.
    """

    kind: LabelKind
    size: int
    column: str | None = None
    modality: str | None = None
    mean: float = 0.0
    std: float = 1.0

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return asdict(self)

    @property
    def problem(self) -> str:
        """transformers' name of the kind."""
        return PROBLEMS[self.kind]

    def build(self, width: int) -> nn.Module:
        """The module on pooled outputs of this width; what it gives is for the methods below."""
        return Ordinal(width, self.size) if self.kind == "ordinal" else nn.Linear(width, self.size)

    def logits(self, given: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """What a model of transformers calls so: softmax (sigmoid for multi_label) makes probabilities of it; numbers are in their
        own unit."""
        return given * self.std + self.mean if self.kind == "regression" else given

    def probabilities(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Of each class. ValueError for a regression, which has none."""
        if self.kind == "regression":
            raise ValueError("a regression has no classes, and so no probabilities")
        return logits.sigmoid() if self.kind == "multi_label" else logits.softmax(-1)

    def loss(self, given: Float[Tensor, "b k"], labels: Shaped[Tensor, "*_"], smoothing: float = 0.0) -> Float[Tensor, " b"]:
        """The loss of each sample: cross-entropy; for multi_label the mean of the binary ones; the squared error of standardised
        values.

        labels: class numbers `[b]`, 0 or 1 for each class `[b, k]`, or values `[b]`.
        smoothing: share of the target spread over all classes (arXiv 1512.00567, section 7), where there is one class.
        """
        if self.kind == "regression":
            return F.mse_loss(given[:, 0], (labels.to(given.dtype) - self.mean) / self.std, reduction="none")
        if self.kind == "multi_label":
            return F.binary_cross_entropy_with_logits(given, labels.to(given.dtype), reduction="none").mean(1)
        return F.cross_entropy(given, labels, label_smoothing=smoothing, reduction="none")


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

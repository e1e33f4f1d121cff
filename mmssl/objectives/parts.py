"""What the parts of prediction are: a predictor, targets, and what they see of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmssl.config import MMSSLConfig
from mmssl.draws import Draws
from mmssl.encoder import Encoder
from mmssl.masking import Split
from mmssl.modality import Inputs
from mmssl.model import MMSSLModel
from mmssl.objectives.distances import Loss
from mmssl.tokens import Tokens


@dataclass(frozen=True)
class Scene:
    """A batch of one modality as targets see it.

    model: the student.
    inputs: what targets are computed from: the view that the student sees, or the samples as they are (`view: clean`).
    tokens: the student's tokens of its own view, before the encoder.
    parts: which of them are seen and hidden; with several masks per sample for the batch repeated so many times.
    draws: random numbers of the samples.
    clean: whether `inputs` are not what the student sees.
    """

    model: MMSSLModel
    name: str
    inputs: Inputs
    tokens: Tokens
    parts: Split
    draws: Draws
    clean: bool = False

    @cached_property
    def target_tokens(self) -> Tokens:
        """The student's tokens of `inputs`, before the encoder."""
        return self.model.embed(self.name, self.inputs) if self.clean else self.tokens

    @cached_property
    def content(self) -> dict[str, Tensor]:
        """What each token holds: `Adapter.target`."""
        return self.model.adapter(self.name).target(self.inputs)


@dataclass(frozen=True)
class Predicted:
    """One vector for each place where something is predicted.

    values: what prediction heads read.
    index: the places among the tokens of the modality.
    real: which of them count; None: all.
    latent: the same places before a decoder that only serves reconstruction; None: there is none.
    """

    values: Float[Tensor, "b m w"]
    index: Int[Tensor, "b m"]
    real: Bool[Tensor, "b m"] | None = None
    latent: Float[Tensor, "b m w"] | None = None


class Predictor(nn.Module, ABC):
    """From what is seen to one vector of `width` for each place that is predicted: owns how the encoder is called.

    Keyword-only arguments are recipe keys; `prepare` builds what depends on the model.
    """

    width: int
    views: int = 1
    """Views of a sample that it needs; beyond the first one they come as `others`."""
    masks: int = 1
    """Masks of each sample in a batch, as the objective sets it: row r is a mask of sample r modulo rows / masks."""
    everywhere: bool = False
    """Whether it answers at the seen places too."""
    mixes: bool = False
    """Whether it takes content from other samples: then it gets the tokens of the whole step as `pool`, and the `place` of each
    sample of the batch among them."""

    @abstractmethod
    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        """Build the weights for an encoder; `identities`: some of its tokens carry one."""

    @abstractmethod
    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted: ...

    def extra(self) -> dict[str, Float[Tensor, ""]]:
        """Further losses of the last `forward`, to be added as they are."""
        return {}


class Target(nn.Module, ABC):
    """What is to be predicted for a token. Keyword-only arguments are recipe keys.

    loss: distance between prediction and target; null: what suits it.
    weight: factor on its loss.
    """

    raw: bool = True
    """Whether it can be copied from the content of the token itself, so that a stem must not carry that to visible tokens."""
    from_latent: bool = False
    """Whether it is compared with `Predicted.latent`, where a predictor has that."""
    everywhere: bool = False
    """Whether it says nothing unless the seen places are predicted too."""
    default_loss: Callable[[], Loss] | None = None
    """Its loss when the recipe names none; None: squared error, or the Chamfer distance of tokens that are sets of points."""

    def __init__(self, loss: Loss | None, weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def prepare(self, model: MMSSLModel, modalities: Sequence[str]) -> None:
        """Build what depends on the model: teachers, codebooks. ValueError where it makes no sense for a modality."""

    @abstractmethod
    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        """Outputs of the linear head of each of its parts for a modality: values, or classes. 0: no head, the predictor's own."""

    @abstractmethod
    def forward(self, scene: Scene) -> dict[str, Tensor]:
        """Per part the target of every token: float `[b, n, t]` (NaN = nothing) or integer `[b, n]` (-100 = nothing).

        None at all where all of its loss is in `extra`.
        """

    def head(self, width: int, size: int) -> nn.Module:
        """What makes `size` outputs of the predictor's `width` values; for size 0 nothing."""
        return nn.Linear(width, size) if size else nn.Identity()

    def extra(self) -> dict[str, Float[Tensor, ""]]:
        """Further losses of the last `forward`, to be added as they are: of a codebook, say."""
        return {}

    def saliency(self, model: MMSSLModel, name: str, inputs: Inputs) -> Float[Tensor, "b n"] | None:
        """How much each token matters, for samplers that ask (`guided`); None if it cannot say."""
        return None

    def metrics(self) -> dict[str, Tensor]:
        """Detached scalars about the last `forward`, to be logged."""
        return {}

    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Called once per optimizer step: teachers move here."""

    def teacher(self) -> MMSSLModel | None:
        """The averaged model that it keeps, which a run may publish."""
        return None

    def shown(self, predicted: Float[Tensor, "b m t"], truth: Float[Tensor, "b m t"]) -> Float[Tensor, "b m t"] | None:
        """A prediction in the values of `Adapter.target`, for pictures; None if it is nothing that can be shown.

        truth: that target at the same places.
        """
        return None

"""What the parts of prediction are: a predictor, targets, and what they see of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.modality import Inputs
from mmssl.model import Encoder, MMSSLConfig, MMSSLModel
from mmssl.objectives.networks import Clock, Networks
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.terms import Metric, Term
from mmssl.tokens import Tokens

Found = TypeVar("Found")
Made = TypeVar("Made", Tokens, list[Tokens])


@dataclass(frozen=True)
class Scene:
    """A batch of one modality as targets see it. What several targets need is computed once, when it is first asked for.

    networks: the student and its copies.
    inputs: what targets are computed from: the view that the student sees, or the samples as they are (`view: clean`).
    tokens: the student's tokens of its own view, before the encoder.
    draws: random numbers of the samples; with several masks per sample of the batch repeated so many times.
    divide: says which tokens are seen and hidden.
    clean: whether `inputs` are not what the student sees.
    clock: how far the run is, before this step.
    diagnose: whether to measure what is too dear for every step.
    shared: what a network makes of the view, where other parts of an objective may ask for it too; None: nobody else does.
    view: what the student sees; None: `inputs`.
    differ: says which tokens the predictor gives other content than they have.
    part_of: a scene of the same modality, of which this one has some samples, and which: what networks make of them is taken there.
    counts: whether the samples do, or only stand in; see `Batch`.
    """

    networks: Networks
    name: str
    inputs: Inputs
    tokens: Tokens
    draws: Draws
    divide: Callable[["Scene"], Split]
    clean: bool = False
    clock: Clock = field(default_factory=Clock)
    diagnose: bool = False
    shared: Callable[[str], Tokens] | None = None
    view: Inputs | None = None
    differ: Callable[["Scene"], Bool[Tensor, "b n"]] | None = None
    part_of: tuple["Scene", Int[Tensor, " k"]] | None = None
    counts: bool = True

    @property
    def model(self) -> MMSSLModel:
        """The student."""
        return self.networks.student

    @property
    def valid(self) -> Bool[Tensor, "b n"]:
        """Which tokens are there, as a tensor."""
        return self.tokens.valid_or_ones()

    @cached_property
    def parts(self) -> Split:
        """Which tokens are seen and hidden; with several masks per sample for the batch repeated so many times."""
        return self.divide(self)

    @cached_property
    def altered(self) -> Bool[Tensor, "b n"]:
        """Hidden tokens whose content the predictor changes: all, but for those that get content equal to their own."""
        assert self.differ is not None
        return self.differ(self)

    @cached_property
    def target_tokens(self) -> Tokens:
        """The student's tokens of `inputs`, before the encoder."""
        return replace(self.model.embed(self.name, self.inputs), keys=self.tokens.keys) if self.clean else self.tokens

    @cached_property
    def content(self) -> dict[str, Tensor]:
        """What each token holds: `Adapter.target`."""
        return self.model.adapter(self.name).target(self.inputs)

    @cached_property
    def content_of_view(self) -> dict[str, Tensor]:
        """What each token of the student's view holds."""
        return self.content if self.view is None else self.model.adapter(self.name).target(self.view)

    @torch.no_grad()
    def embedded(self, network: str) -> Tokens:
        """What a copy of the model makes of `inputs` before its encoder."""
        return self.made(f"embedded by {network}", lambda scene: scene.networks[network].embed(scene.name, scene.inputs))

    @torch.no_grad()
    def encoded(self, network: str) -> Tokens:
        """What a copy of the model makes of `inputs`, prefix tokens first."""

        def encode(scene: Scene) -> Tokens:
            if scene.shared is not None:
                return scene.shared(network)
            found: Tokens = scene.networks[network].encoder(scene.embedded(network))
            return found

        return self.made(f"encoded by {network}", encode)

    @torch.no_grad()
    def layers(self, network: str, count: int, part: Literal["block", "ffn"]) -> list[Tokens]:
        """What the `count` top layers of a copy of the model make of `inputs`, prefix tokens first; see `Encoder.layer_outputs`."""

        def encode(scene: Scene) -> list[Tokens]:
            found: list[Tokens] = scene.networks[network].encoder.layer_outputs(scene.embedded(network), count, part=part)
            return found

        return self.made(f"{count} layers of {network}, {part}", encode)

    def made(self, key: str, make: Callable[["Scene"], Made]) -> Made:
        """What a network makes of each sample, computed once for all scenes that have some of them."""
        if self.part_of is None:
            return self.once(key, lambda: make(self))
        whole, rows = self.part_of

        def some() -> Any:
            found = whole.made(key, make)
            return found.rows(rows) if isinstance(found, Tokens) else [tokens.rows(rows) for tokens in found]

        return self.once(key, some)

    def once(self, key: str, compute: Callable[[], Found]) -> Found:
        """What `compute` gives, computed at the first call with this key."""
        if key not in self._known:
            self._known[key] = compute()
        found: Found = self._known[key]
        return found

    def check(self, target: str, key: str, values: Tensor) -> None:
        """ValueError if what a target gives for a part has no value for every token of the student's view."""
        b, n = self.tokens.values.shape[:2]
        if values.dim() == 2 + values.is_floating_point() and values.shape[1] == n and len(values) % b == 0:
            return
        if self.clean and (known := self.target_tokens.values.shape[1]) != n:
            raise ValueError(
                f"objective.view: clean needs views whose tokens lie where those of the samples lie, but views of {self.name!r} "
                f"have {n} tokens and the samples {known}; choose same, or leave out the augmentation that moves them"
            )
        raise ValueError(
            f"objective.targets: {target} gives {key!r} of shape {list(values.shape)}; expected a target for each token, not a "
            f"mean of them: float [{b}, {n}, values] with NaN, or integer [{b}, {n}] with -100, where there is none"
        )

    @cached_property
    def _known(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Answer:
    """What a target says of a batch.

    values: per part the target of every token: float `[b, n, t]` (NaN = nothing) or integer `[b, n]` (-100 = nothing); with several
        masks of a sample also `[masks x b, ...]`. None at all where all of its loss is in `terms`.
    terms: further parts of the loss, of a codebook, say; the target's `weight` is not applied to them.
    metrics: to be logged.
    """

    values: Mapping[str, Tensor]
    terms: Mapping[str, Term] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class Outline:
    """What an `Answer` weighs, without its values.

    there: per part which tokens have a target.
    weights: of each of its terms, summed over the batch.
    """

    there: Mapping[str, Bool[Tensor, "b n"]]
    weights: Mapping[str, Num[Tensor, ""]] = field(default_factory=dict)


def moved(state: Mapping[str, Tensor], places: Mapping[str, str], gone: Collection[str] = ()) -> dict[str, Tensor]:
    """A target's state with the copies of the model, by the prefix where they stood, under their names now; `gone` is left out."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        place = next((place for place in places if key.startswith(f"{place}.")), None)
        name = key if place is None else f"networks.copies.{places[place]}{key.removeprefix(place)}"
        found |= {} if key in gone else {name: value}
    return found


def has_target(values: Tensor) -> Bool[Tensor, "b n"]:
    """Which tokens have a target at all."""
    return ~values.isnan().all(-1) if values.is_floating_point() else values != -100


def anything(content: Mapping[str, Tensor]) -> Bool[Tensor, "b n"]:
    """Tokens that hold something."""
    return torch.stack([has_target(value) for value in content.values()]).any(0)


@dataclass(frozen=True)
class Predicted:
    """One vector for each place where something is predicted.

    values: what prediction heads read.
    index: the places among the tokens of the modality.
    real: which of them count; None: all.
    latent: the same places before a decoder that only serves reconstruction; None: there is none.
    terms: further parts of the loss.
    """

    values: Float[Tensor, "b m w"]
    index: Int[Tensor, "b m"]
    real: Bool[Tensor, "b m"] | None = None
    latent: Float[Tensor, "b m w"] | None = None
    terms: Mapping[str, Term] = field(default_factory=dict)


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
    over_batch: bool = False
    """Whether the answer for a sample depends on the others of its micro-batch."""
    separate: bool = False
    """Whether it encodes what is seen apart from the places that it answers at, so that these may be of another modality."""
    mixes: bool = False
    """Whether it takes content from other samples: then it gets the tokens of the whole step as `pool`, and the `place` of each
    sample of the batch among them."""

    @abstractmethod
    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        """Build the weights for an encoder; `identities`: some of its tokens carry one."""

    @abstractmethod
    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted: ...

    def places(self, tokens: Tokens, parts: Split) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"] | None]:
        """Where it will answer, and which of these places count (None: all): `index` and `real` of what `forward` returns."""
        if not self.everywhere:
            return parts.hidden, parts.hidden_real
        b, n, _ = tokens.values.shape
        return torch.arange(n, device=tokens.values.device).expand(b, n), tokens.valid

    def altered(
        self,
        tokens: Tokens,
        hidden: Bool[Tensor, "b n"],
        draws: Draws,
        pool: Tokens | None = None,
        place: Int[Tensor, " b"] | None = None,
    ) -> Bool[Tensor, "b n"]:
        """Hidden tokens that do not hold in its pass what they held before; `pool` and `place` where it `mixes`."""
        return hidden

    def weights(self) -> dict[str, float]:
        """The weight of each term of `Predicted.terms` in one batch."""
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
    over_batch: bool = False
    """Whether what it says of a sample depends on the others of its micro-batch."""
    everywhere: bool = False
    """Whether it says nothing unless the seen places are predicted too."""
    default_loss: Callable[[], Loss] | None = None
    """Its loss when the recipe names none; None: squared error, or the Chamfer distance of tokens that are sets of points."""

    def __init__(self, loss: Loss | None, weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        """Build what depends on the model, and ask for the copies of it. ValueError where it makes no sense for a modality."""

    @abstractmethod
    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        """Outputs of the linear head of each of its parts for a modality: values, or classes. 0: no head, the predictor's own."""

    @abstractmethod
    def forward(self, scene: Scene) -> Answer:
        """What is to be predicted for the batch. Nothing is kept for later: see `observe`."""

    @torch.no_grad()
    def outline(self, scene: Scene) -> Outline:
        """What `forward` weighs. A target whose values are dear says it without computing them."""
        answer = self(scene)
        for key, value in answer.values.items():
            scene.check(type(self).__name__, key, value)
        there = {key: has_target(value) for key, value in answer.values.items()}
        return Outline(there, {key: term.weight.sum() for key, term in answer.terms.items()})

    def head(self, width: int, size: int) -> nn.Module:
        """What makes `size` outputs of the predictor's `width` values; for size 0 nothing."""
        return nn.Linear(width, size) if size else nn.Identity()

    def saliency(self, scene: Scene) -> Float[Tensor, "b n"] | None:
        """How much each token matters, for samplers that ask (`guided`); None if it cannot say. The scene has no `parts` yet."""
        return None

    def observes(self, name: str, clock: Clock) -> bool:
        """Whether `observe` is to be called before the next step on a modality."""
        return False

    @torch.no_grad()
    def observe(self, scenes: Sequence[Scene]) -> None:
        """Learn from all batches of a step what is not learned by gradient: statistics of the content, codebooks."""

    def after_step(self, clock: Clock) -> None:
        """Called once per optimizer step, after the networks have moved."""

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its state from the time when it held copies of the model itself, as it is named now: those under `networks.copies`."""
        return state

    def shown(self, predicted: Float[Tensor, "b m t"], truth: Float[Tensor, "b m t"]) -> Float[Tensor, "b m t"] | None:
        """A prediction in the values of `Adapter.target`, for pictures; None if it is nothing that can be shown.

        truth: that target at the same places.
        """
        return None

"""An objective is one `nn.Module`: it owns the model, its heads and its teacher, and maps a batch to a loss."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from mmssl.data import Batch, Labels
from mmssl.draws import Draws
from mmssl.masking import Sampler, look_at
from mmssl.modality import Augment as Augment
from mmssl.modality import Inputs, Others, Processor, mixing
from mmssl.model import MMSSLModel
from mmssl.model.model import described, with_projectors
from mmssl.objectives.networks import AVERAGE, Clock, Networks, Published
from mmssl.objectives.terms import Metric, Terms
from mmssl.objectives.together import Share, Whole, nothing, whole_step
from mmssl.objectives.views import GLOBAL, Change, Encodings, Views, augmented
from mmssl.tokens import Tokens

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """What an objective knows of the optimizer step that a batch belongs to.

    clock: how far the run is, before this step.
    weights: total weight of each term over all micro-batches and processes of the step; None: the batch is the whole step.
    diagnose: whether to measure what is too dear for every step.
    whole: the loss of the step's samples together, where it had to be known before the first of several micro-batches.
    number: of the micro-batch among those of this process that count.
    seen: views of the batch and what networks make of them, shared by all parts of an objective.
    """

    clock: Clock = field(default_factory=Clock)
    weights: Mapping[str, Num[Tensor, ""]] | None = None
    diagnose: bool = False
    whole: Whole | None = None
    number: int = 0
    seen: Encodings | None = None


ALONE = Step()
"""A batch that is a whole step, at the start of a run."""


@dataclass(frozen=True)
class Output:
    """loss: what is minimised, the batch's share of the loss of the step; metrics: what to log beside it; state: see `Terms`."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What a run knows besides the recipe's objective section.

    augments: per modality the random view that the recipe asks for.
    labels: the label column's meaning, where the recipe names one.
    views: per modality its kinds of views by name, where the recipe names them.
    networks: of the objective that this one is a part of, which then owns them; None: it has its own.
    samples: counts those of the data, below which their `ids` are; gives None where they come from several sources.
    group_labels: gives for each number of `Batch.group` the numbers of the labels that stand for it, -1 where it has fewer; None:
        nothing says which belong together.
    only: the modality that an objective reads of rows that hold several; None: all.
    """

    augments: Mapping[str, Augment] = field(default_factory=dict)
    labels: Labels | None = None
    views: Mapping[str, Mapping[str, Views]] = field(default_factory=dict)
    networks: Networks | None = None
    samples: Callable[[], int | None] | None = None
    group_labels: Callable[[], Int[Tensor, "g m"] | None] | None = None
    only: str | None = None


class Objective(nn.Module, ABC):
    """Base of every objective. Keyword-only arguments of a subclass are its recipe keys.

    A subclass says what a batch loses in `terms`; it may hold heads and banks, and asks `networks` for teachers: all of its state
    dict is checkpointed. Nothing that a later step depends on may change in `terms`: that is for `observe` and `after_step`.

    A loss that couples samples goes another way: `represent` gives what it needs of each sample, `agree` the loss of all samples of
    a step from that, on whatever processes and micro-batches they lie, and new values of buffers.
    """

    needs_labels: ClassVar[bool] = False
    """Whether batches must carry labels. Its key `kind`, if it has one, says what labels are (classification, regression)."""
    predicts: ClassVar[bool] = False
    """Whether the model that it trains predicts labels."""
    pairs: ClassVar[bool] = False
    """Whether it learns nothing from data in which no row holds two modalities."""
    publish: Published = "student"
    """Which network a run publishes."""

    count: ClassVar[int] = 1
    """Global views of each sample where the recipe names none."""
    couples: bool = False
    """Whether it has a loss that couples samples: `represent` and `agree`."""
    chooses: bool = False
    """Whether it trains on some samples of a step alone: `chosen`."""

    def __init__(self, model: MMSSLModel, setup: Setup) -> None:
        super().__init__()
        trained = list(setup.augments) or list(model.adapters)
        if setup.only is not None and setup.only not in trained:
            raise ValueError(f"objective.modality is {setup.only!r}, but the recipe has {', '.join(trained)}")
        if setup.networks is None:
            self.networks = Networks(model)
        else:
            object.__setattr__(self, "networks", setup.networks)  # no submodule: they belong to the objective that it is a part of
        self.setup, self.looked_at = setup, set[str]()

    @property
    def model(self) -> MMSSLModel:
        """The student."""
        return self.networks.student

    @property
    def modalities(self) -> list[str]:
        """The modalities that it trains: those of the recipe, which may be fewer than the model's, or one of them."""
        return [self.setup.only] if self.setup.only else list(self.setup.augments) or list(self.model.adapters)

    def terms(self, batch: Batch, step: Step) -> Terms:
        """The parts of the loss of one batch: for each a value and a weight for every sample, never a mean."""
        return Terms({})

    def represent(self, batch: Batch, step: Step) -> Share:
        """What losses that couple samples need of the samples of a batch, with gradient."""
        raise NotImplementedError(f"{type(self).__name__} couples samples, but does not say what it needs of them")

    def agree(self, share: Share, step: Step) -> Terms:
        """The parts of the loss that couple samples, of all samples of a step."""
        raise NotImplementedError(f"{type(self).__name__} couples samples, but does not say how")

    @torch.no_grad()
    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        """The weight of each term of `terms`, summed over the batch.

        Asked before the first backward pass of a step of several micro-batches or processes. A subclass that knows the weights
        without a whole forward pass says them here.
        """
        return {name: term.weight.sum() for name, term in self.terms(batch, step).terms.items()}

    def chosen(self, batches: Sequence[Batch], step: Step) -> tuple[list[Batch], dict[str, Metric]]:
        """Of the samples of a step those that it trains on, and what to log of them; batches of which none is left are left out.

        Asked before anything else of the step, where the objective `chooses`. All processes must call it.
        """
        return list(batches), {}

    def observe(self, batches: Sequence[Batch], step: Step) -> None:
        """Learn from a step's batches, before any of them is trained on, what is not learned by gradient: statistics, codebooks."""

    def forward(self, batch: Batch, step: Step = ALONE) -> Output:
        """The batch's share of the loss of its step; all of it where the batch is the step."""
        if self.training and step.weights is None:
            self.observe([batch], step)
        step = replace(step, seen=self.encodings(batch))
        found = self.terms(batch, step)
        output = Output(found.loss(step.weights).to(batch.keys.device), found.metrics, found.state)
        return self.with_coupled(output, self.represent(batch, step), step, batch.counts) if self.couples else output

    def with_coupled(self, output: Output, share: Share, step: Step, counts: bool) -> Output:
        """The output with the batch's part of the loss that couples samples. counts: whether it does, or only stands in."""
        if step.weights is None:
            found = self.agree(share, step)
            return Output(
                output.loss + found.loss() + nothing(share), {**output.metrics, **found.metrics}, {**output.state, **found.state}
            )
        whole = step.whole or self.meet([share], [counts], step)
        loss = output.loss + (whole.part(step.number, share) if counts else whole.none(share))
        told = whole.metrics if whole.first and step.number == 0 else {}
        return Output(loss, {**output.metrics, **told}, {**output.state, **whole.state})

    def meet(self, shares: Sequence[Share], counted: Sequence[bool], step: Step) -> Whole:
        """The loss that couples all samples of a step, of which this process has some. All processes must call it."""
        own = [share for share, counts in zip(shares, counted, strict=True) if counts]
        return whole_step(own, partial(self.agree, step=step), self.parameters(), shares[0].keys.device)

    def prepared(self, batches: Sequence[Batch], step: Step) -> Step:
        """The step with what must be known of all its micro-batches before the first backward pass.

        For a loss that couples samples every micro-batch is encoded twice then, here without keeping activations.
        """
        if not self.couples:
            return step
        with torch.no_grad():
            shares = [self.represent(batch, replace(step, seen=self.encodings(batch))) for batch in batches]
        return replace(step, whole=self.meet(shares, [batch.counts for batch in batches], step))

    def within(self, work: Callable[[], T]) -> T:
        """What `work` finds: where weights are sharded they are there for it, as in a forward pass."""
        return work()

    @property
    def views(self) -> Mapping[str, Mapping[str, Views]]:
        """Per modality its kinds of views: those that the recipe names, else so many of its augmentation."""
        known = self.setup.views
        return {name: known.get(name) or {GLOBAL: Views(self.count, self.setup.augments.get(name))} for name in self.modalities}

    def encodings(self, batch: Batch) -> Encodings:
        """Views of a batch and what networks make of them, not yet computed."""
        return Encodings(self.networks, batch, self.views, self.change, self.look_at)

    def look_at(self, sampler: Sampler, tokens: Tokens, key: str, name: str = "") -> None:
        """Let a sampler refuse the samples of a run's first step; name: what it is asked for again under the same key."""
        if self.training and f"{key} {name}" not in self.looked_at:
            self.looked_at.add(f"{key} {name}")
            look_at(sampler, tokens, key)

    @property
    def change(self) -> Change | None:
        """What is done to the student's tokens of a view before they are encoded; None: nothing."""
        return None

    @property
    def over_batch(self) -> list[str]:
        """Its parts whose loss of a sample depends on the others of the micro-batch: a step cut in another way loses another."""
        return []

    def view(self, batch: Batch, modality: str, number: int = 0) -> Inputs:
        """Random view `number` of one modality of the batch; the same for the same (seed, step, sample, number)."""
        others = None if batch.others is None else batch.others[modality]
        return self.augmented(modality, batch.inputs[modality], Draws(batch.keys_of(modality)), number, others)

    def augmented(self, modality: str, inputs: Inputs, draws: Draws, number: int, others: Others | None = None) -> Inputs:
        """Random view `number` of samples with the draws that they have in their step; `others` None: they are all of the step."""
        kinds = [views for views in self.setup.views.get(modality, {}).values() for _ in range(views.count)]
        augment = kinds[number].augment if number < len(kinds) else self.setup.augments.get(modality)
        return augmented(augment, inputs, draws, number, others)

    @property
    def mixes(self) -> bool:
        """Whether something of one sample may be put in another: then micro-batches need their `others`."""
        kinds = [views for named in self.setup.views.values() for views in named.values()]
        return any(mixing(augment) for augment in (*self.setup.augments.values(), *(views.augment for views in kinds)))

    @torch.no_grad()
    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Take the values that buffers have after a step; see `Terms`."""
        for name, value in state.items():
            self.get_buffer(name).copy_(value)

    def after_step(self, clock: Clock) -> None:
        """Called once per optimizer step, which `clock` counts. Teachers move here."""
        if self.setup.networks is None:
            self.networks.after_step(clock)

    def published(self) -> MMSSLModel:
        """The model that a run publishes: the average of the weights if it keeps one, else as the recipe says."""
        return self.stripped(self.networks.published(self.publish))

    def headed(self) -> MMSSLModel | None:
        """The model that a run publishes, with the projector that was trained on top of it; None: it has none."""
        model = self.networks.published(self.publish)
        found = self.projectors(model)
        return None if found is None else with_projectors(model, found)

    def projectors(self, model: MMSSLModel) -> nn.ModuleDict | None:
        """The heads by modality, on top of the student or a copy of it, whose outputs losses compare; None: there are none."""
        return None

    def stripped(self, model: MMSSLModel) -> MMSSLModel:
        """A model without what only training needs."""
        return described(model)

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of a subclass's own parts from the time before `networks`, as it is named now."""
        return state

    def upgraded(self, state: dict[str, Tensor], average: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A state dict of this objective from whatever version of mmssl, as `load_state_dict` takes it.

        An average that the state lacks starts from the student; one that the run no longer keeps is left out.
        """
        prefix, student = f"networks.copies.{AVERAGE}.", "networks.student."
        if not any(key.startswith("networks.") for key in state):
            state = self.renamed(
                {key if not key.startswith("model.") else f"networks.student{key[5:]}": value for key, value in state.items()}
            )
            state |= {prefix + key: value for key, value in (average or {}).items()}
        if AVERAGE not in self.networks.rules:
            return {key: value for key, value in state.items() if not key.startswith(prefix)}
        if not any(key.startswith(prefix) for key in state):
            own = {key.removeprefix(student): value for key, value in state.items() if key.startswith(student)}
            state = state | {prefix + key: value for key, value in own.items()}
        return state

    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        """Matplotlib figures for the report, by title. processors: of each modality, what made the batch."""
        return {}

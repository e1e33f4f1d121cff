"""Every law holds for every installed modality, and every law is broken by a modality, or a core, that breaks it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.modality import Adapter, Inputs, Modality, Processor, find
from mmssl.model import encoder, layers
from mmssl.objectives.predict.predictors import mask_token
from mmssl.plugins import installed, points
from mmssl.testing import LAWS
from mmssl.tokens import Tokens

IMAGE, TABULAR = find("image"), find("tabular")


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", installed())
def test_law(name: str, law: str) -> None:
    LAWS[law](name)


# Modalities that each break one law

Register = Callable[[Modality], str]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Installs a modality for one test, and returns its name."""

    def install(modality: Modality) -> str:
        class Broken(EntryPoint):
            def load(self) -> Modality:
                return replace(modality, name="broken")

        monkeypatch.setitem(points(), "broken", Broken("broken", "nowhere:BROKEN", "mmssl.modalities"))
        find.cache_clear()
        return "broken"

    yield install
    find.cache_clear()


class ColumnMajor(IMAGE.adapter):
    """Counts its patches column by column."""

    def forward(self, inputs: Inputs) -> Tokens:
        return replace(super().forward(inputs), coords=super().forward(inputs).coords[..., [0, 1, 3, 2]])


class Shifted(IMAGE.adapter):
    """Asks each token for what its neighbour holds."""

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        return {name: target.roll(1, 1) for name, target in super().target(inputs).items()}


class Renamed(TABULAR.adapter):
    """Calls one of its targets otherwise than it announces."""

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        return {name.removesuffix("al"): target for name, target in super().target(inputs).items()}


class Understated(IMAGE.adapter):
    """Announces one value less than a patch has."""

    def __init__(self, width: int, processor: Processor, **keys: Any) -> None:
        super().__init__(width, processor, **keys)
        self.target_sizes = {name: size - 1 for name, size in self.target_sizes.items()}


class FewClasses(TABULAR.adapter):
    """Announces one class less than there are."""

    def __init__(self, width: int, processor: Processor) -> None:
        super().__init__(width, processor)
        self.target_sizes = self.target_sizes | {"categorical": self.target_sizes["categorical"] - 1}


class Unpadded(IMAGE.adapter):
    """Takes the padding of small images for content."""

    def forward(self, inputs: Inputs) -> Tokens:
        return replace(super().forward(inputs), valid=None)


class Centred(TABULAR.adapter):
    """Subtracts the mean of the batch."""

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return tokens.with_values(tokens.values - tokens.values.mean(0))


class OwnPlace(TABULAR.adapter):
    """Makes of each sample something that depends on its place in the batch."""

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        place = torch.linspace(1, 9, len(tokens.values))[:, None, None]
        return replace(tokens, values=tokens.values * place)


class Overlapping(IMAGE.adapter):
    """Has a stem that mixes neighbours, and does not say so."""

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return replace(tokens, values=tokens.values + 0.1 * tokens.values.roll(1, 1))


class Telling(TABULAR.adapter):
    """Lets the identity of a cell tell what is in it."""

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return replace(tokens, identity=tokens.identity + 0.1 * tokens.values)


class Deaf(TABULAR.adapter):
    """Has no targets that depend on the input."""

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        return {name: torch.zeros_like(target) for name, target in super().target(inputs).items()}


class Uninitialised(IMAGE.adapter):
    """Has a bare parameter and no `reset_parameters`: a model on the meta device leaves it as it finds it."""

    def __init__(self, width: int, processor: Processor, **keys: Any) -> None:
        super().__init__(width, processor, **keys)
        self.gain = nn.Parameter(1e3 * torch.randn(width))  # a spread that no memory has by chance

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return replace(tokens, values=tokens.values * self.gain)


class Unsaved(TABULAR.adapter):
    """Draws weights that no file holds."""

    def __init__(self, width: int, processor: Processor) -> None:
        super().__init__(width, processor)
        self.register_buffer("offset", torch.randn(width), persistent=False)

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return replace(tokens, values=tokens.values + self.offset)


class Idle(IMAGE.adapter):
    """Has a layer that it never uses."""

    def __init__(self, width: int, processor: Processor, **keys: Any) -> None:
        super().__init__(width, processor, **keys)
        self.unused = nn.Linear(2, 2)


class Silenced(TABULAR.adapter):
    """Uses a layer, times zero."""

    def __init__(self, width: int, processor: Processor) -> None:
        super().__init__(width, processor)
        self.extra = nn.Linear(width, width)

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return replace(tokens, values=tokens.values + 0 * self.extra(tokens.values))


class Unpredictable(IMAGE.adapter):
    """Has targets that nobody can know, far from zero."""

    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        return {name: 100 * torch.randn_like(target) for name, target in super().target(inputs).items()}


class Infinite(TABULAR.adapter):
    """Divides by zero."""

    def forward(self, inputs: Inputs) -> Tokens:
        tokens = super().forward(inputs)
        return replace(tokens, values=tokens.values / 0)


class Forgetful(IMAGE.processor):
    """Keeps a fitted statistic out of its settings."""

    shift = 0.0

    def fit(self, samples: Any) -> None:
        super().fit(samples)
        self.shift = 1.0

    def __call__(self, raw: Any) -> Inputs:
        return {name: tensor + self.shift for name, tensor in super().__call__(raw).items()}


class Drifting(IMAGE.processor):
    """Saves settings that are not those that it was made with."""

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"multiple": 2 * self.multiple}


class Unpicklable(IMAGE.processor):
    """Comes out of a worker process changed."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.channels += 1


class Unsized(IMAGE.processor):
    """Does not say how large images of one size are."""

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        return inputs


class Tolerant(TABULAR.processor):
    """Takes anything for a sample."""

    def __call__(self, raw: Any) -> Inputs:
        try:
            return super().__call__(raw)
        except (TypeError, ValueError):
            return {"table_numeric": torch.zeros(len(self.numeric))}


class Mute(TABULAR.processor):
    """Refuses without a reason."""

    def __call__(self, raw: Any) -> Inputs:
        try:
            return super().__call__(raw)
        except (TypeError, ValueError):
            raise ValueError from None


def unseeded(inputs: Inputs, draws: Draws) -> Inputs:
    """A view drawn from torch's generator."""
    return {name: torch.where(torch.rand(tensor.shape) < 0.5, tensor, tensor.flip(0)) for name, tensor in inputs.items()}


def destructive(inputs: Inputs, draws: Draws) -> Inputs:
    """A view that overwrites the sample."""
    inputs["table_numeric"].mul_(2)
    return inputs


def mixing(inputs: Inputs, draws: Draws) -> Inputs:
    """A view that takes from the other samples of the batch."""
    return {name: tensor.roll(1, 0) for name, tensor in inputs.items()}


def shrinking(inputs: Inputs, draws: Draws) -> Inputs:
    """A view with a column less."""
    return {name: tensor[:, 1:] for name, tensor in inputs.items()}


def rounding(inputs: Inputs, draws: Draws) -> Inputs:
    """A view that autocast makes coarse."""
    numbers = inputs["table_numeric"]
    return inputs | {"table_numeric": numbers @ torch.eye(numbers.shape[1])}


def naming(inputs: Inputs, draws: Draws) -> Inputs:
    """A view with a tensor that no adapter reads."""
    return inputs | {"notes": inputs["table_numeric"]}


def infinite(inputs: Inputs, draws: Draws) -> Inputs:
    """A view that divides by zero."""
    return inputs | {"table_numeric": inputs["table_numeric"] / 0}


def adapting(adapter: type[Adapter]) -> Modality:
    base = IMAGE if issubclass(adapter, IMAGE.adapter) else TABULAR
    return replace(base, adapter=adapter)


def processing(processor: type[Processor]) -> Modality:
    base = IMAGE if issubclass(processor, IMAGE.processor) else TABULAR
    return replace(base, processor=processor)


def augmenting(view: Callable[[Inputs, Draws], Inputs]) -> Modality:
    return replace(TABULAR, augment=lambda: view, strong=())


BREACHES: list[tuple[str, Modality, str]] = [
    ("golden_order", adapting(ColumnMajor), "coordinates of the golden sample"),
    ("golden_order", adapting(Shifted), "golden target 'pixels'"),
    ("golden_order", adapting(Renamed), "targets are .*'categoric'"),
    ("target_sizes", adapting(Understated), "target 'pixels': 768 values, announced 767"),
    ("target_sizes", adapting(FewClasses), r"target 'categorical': \d+ values, announced"),
    ("padding_invariance", adapting(Unpadded), "alone and in a padded batch"),
    ("batch_equivalence", adapting(Centred), "masked prediction"),
    ("batch_equivalence", adapting(OwnPlace), "not close"),
    ("hidden_content_stays_hidden", adapting(Overlapping), r"content of tokens \[\d*\] reaches tokens \[\d+\]"),
    ("hidden_content_stays_hidden", adapting(Telling), "the identity of a token depends on its content"),
    ("hidden_content_stays_hidden", adapting(Deaf), r"content of tokens \[\] reaches tokens"),
    ("processor_round_trip", processing(Forgetful), "not equal"),
    ("processor_round_trip", processing(Drifting), "multiple"),
    ("processor_round_trip", processing(Unpicklable), "channels"),
    ("saved_and_loaded", adapting(Uninitialised), "adapters.broken.gain"),
    ("saved_and_loaded", adapting(Unsaved), "Mismatched elements"),
    ("all_parameters_learn", adapting(Idle), r"masked: \S+\.adapters\.broken\.unused\.\w+ gets no gradient"),
    ("all_parameters_learn", adapting(Silenced), r"gradient of \S+\.adapters\.broken\.extra\.\w+ is zero"),
    ("augmentation_is_per_sample", augmenting(unseeded), "not equal"),
    ("augmentation_is_per_sample", augmenting(destructive), "not equal"),
    ("augmentation_is_per_sample", augmenting(mixing), "sample 0 of batches of 3, augmented by {}"),
    ("augmentation_is_per_sample", augmenting(rounding), "dtype"),
    ("views_are_samples", augmenting(shrinking), "the adapter does not take the view by {}: "),
    ("views_are_samples", augmenting(naming), "has .*'notes'.*, the adapter reads"),
    ("views_are_samples", augmenting(infinite), r"has infinite values in \['table_numeric'\]"),
    ("joined_batches_keep_their_tokens", processing(Unsized), r"sample 0 of batches of 1, joined: 16 tokens in the place of 12"),
    ("micro_batches_change_nothing", augmenting(mixing), "sample 0 in micro-batches of 4"),
    ("losses_fall", adapting(Unpredictable), "masked: the loss goes from"),
    ("losses_fall", adapting(Infinite), "masked: .*nan"),
    ("empty_rows_are_refused", processing(Tolerant), "the processor takes <object object"),
    ("empty_rows_are_refused", processing(Mute), "no message for"),
]


@pytest.mark.parametrize(
    ("law", "modality", "message"), BREACHES, ids=[f"{row[0]}-{number}" for number, row in enumerate(BREACHES)]
)
def test_law_refuses_a_modality_that_breaks_it(law: str, modality: Modality, message: str, register: Register) -> None:
    name = register(modality)
    with pytest.raises(AssertionError, match=message):
        LAWS[law](name)


# A core that breaks a law


def no_mask(self: encoder.Encoder, x: Tensor, valid: Tensor | None, causal: bool = False) -> None:
    """Attention that sees padding."""


def mean_of_all(self: Tokens) -> Tensor:
    """Pooling that counts padding."""
    return self.values.mean(1)


def next_token(self: Tokens, index: Tensor, real: Tensor | None = None) -> Tokens:
    """An off-by-one error in the choice of visible tokens."""
    rows, index = torch.arange(len(index))[:, None], (index + 1) % self.values.shape[1]
    parts = (self.values, self.coords, self.valid, self.identity)
    return Tokens(*(None if part is None else part[rows, index] for part in parts))


def padded_donors(pool: Tokens, tokens: Tokens, draws: Draws) -> Tensor:
    """Another token from any place, padding too."""
    return pool.values.flatten(0, 1)[draws.integers("swap", pool.values[..., 0].numel(), tokens.values.shape[1])]


def maskless_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention written out, without its mask."""
    weights = (query @ key.mT * scaling).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


def forgetful_mlp(self: layers.Mlp, x: Tensor) -> Tensor:
    """A layer that does something else when it is run again."""
    vars(self)["calls"] = vars(self).get("calls", 0) + 1
    return self.down_proj(self.up_proj(x).relu() * vars(self)["calls"])


FAULTS: list[tuple[str, str, Any, str, Any]] = [
    ("padding_invariance", "image", encoder.Encoder, "mask", no_mask),
    ("padding_invariance", "image", Tokens, "mean", mean_of_all),
    ("hidden_content_stays_hidden", "image", Tokens, "take", next_token),
    ("losses_know_nothing_hidden", "image", Tokens, "take", next_token),
    ("micro_batches_change_nothing", "text", mask_token, "anywhere", padded_donors),
    ("attention_backends_agree", "image", layers, "eager_attention_forward", maskless_attention),
    ("gradient_checkpointing_agrees", "image", layers.Mlp, "forward", forgetful_mlp),
]


@pytest.mark.parametrize(("law", "name", "owner", "attribute", "fault"), FAULTS, ids=[f"{row[0]}-{row[3]}" for row in FAULTS])
def test_law_refuses_a_core_that_breaks_it(
    law: str, name: str, owner: Any, attribute: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, fault)
    with pytest.raises(AssertionError):
        LAWS[law](name)


def test_every_law_is_known_to_be_able_to_fail() -> None:
    assert {row[0] for row in BREACHES} | {row[0] for row in FAULTS} == LAWS.keys()

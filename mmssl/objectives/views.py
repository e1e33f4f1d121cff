"""Views of the samples of a batch, and what networks make of them: each computed when it is first asked for, and once."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.data import Batch
from mmssl.draws import Draws
from mmssl.masking import Sampler, split_in_order
from mmssl.modality import Adapter, Augment, Inputs, Others, mixing
from mmssl.objectives.foreign import Foreign
from mmssl.objectives.networks import Networks
from mmssl.tokens import Tokens, joined_batches

GLOBAL = "global"
"""The views that a teacher sees, and the only ones where a recipe names none."""
MIXED = "mixed of two"
"""A view that is made of two others, which no recipe names."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """What a kind of views has beside the keys of an augmentation.

    count: views of each sample.
    mask: tokens that it hides are left out of the view, as a cheaper one; null: none.
    """

    count: Annotated[int, Field(gt=0)] = 1
    mask: Sampler | None = None


@dataclass(frozen=True)
class Views:
    """Random views of one kind, of one modality.

    count: views of each sample. augment: makes one; None: the samples as they are. mask: the tokens that it hides are left out.
    of: the views that it is mixed of, in the place of `augment`: the first one, and the second one of another sample.
    """

    count: int
    augment: Augment | None = None
    mask: Sampler | None = None
    of: "tuple[View, View] | None" = None


class View(NamedTuple):
    """One view of the samples of a modality. number: among all views of the modality, which decides its draws."""

    modality: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.modality} {self.kind} {self.number}"


def numbered(modality: str, views: Mapping[str, Views]) -> list[View]:
    """All views of a modality, in order."""
    kinds = [kind for kind, views_of in views.items() for _ in range(views_of.count)]
    return [View(modality, kind, number) for number, kind in enumerate(kinds)]


def augmented(augment: Augment | None, inputs: Inputs, draws: Draws, number: int, others: Others | None = None) -> Inputs:
    """Random view `number` of samples with the draws that they have in their step; `others` None: they are all of the step."""
    if augment is None:
        return inputs
    if others is not None and mixing(augment):
        return augment(inputs, draws.fork(number), others.fork(number))
    return augment(inputs, draws.fork(number))


def mixture(draws: Draws) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """With which sample of a step each is mixed, another one where there are several, and its own share, uniform in [0, 1).

    All samples lie on one circle, in an order that is drawn: who follows whom does not depend on the order in which they come.
    """
    order = draws.bits("mixed order", torch.zeros(1, 1, dtype=torch.int64, device=draws.keys.device))[:, 0].argsort()
    return torch.empty_like(order).scatter(0, order, order.roll(-1)), draws.uniform("mixed share")


def mixed_inputs(adapter: Adapter, inputs: Inputs, others: Inputs, share: Float[Tensor, " b"]) -> Inputs:
    """Samples, share x each + (1 - share) x another one, cut to its size; where the other has nothing, it counts as zero."""
    found, theirs = dict(inputs), adapter.continuous(others)
    for name, mine in adapter.continuous(inputs).items():
        other = theirs[name][(slice(None), *map(slice, mine.shape[1:]))]
        other = F.pad(other, [end for i in reversed(range(1, mine.dim())) for end in (0, mine.shape[i] - other.shape[i])])
        part = share.to(mine.dtype).view(-1, *[1] * (mine.dim() - 1))
        found[name] = part * mine + (1 - part) * other
    return found


def no_saliency() -> Tensor:
    """What a guided sampler gets here. ValueError: views have nothing that could say what matters."""
    raise ValueError("a mask of a view cannot be guided: nothing says which of its tokens matter; leave `guided` out")


Change = Callable[["Encodings", View, Tokens], Tokens]
Look = Callable[[Sampler, Tokens, str], None]


def nothing_to_say(sampler: Sampler, tokens: Tokens, key: str) -> None:
    """What looks at masks outside of an objective."""


@dataclass(frozen=True)
class Encodings:
    """What networks make of the views of a batch.

    views: per modality its kinds of views. change: what is done to the student's tokens of a view before they are encoded.
    look_at: called with a mask, the tokens that it divides, and the key where the recipe has it.
    passes: how often each network's encoder ran. hidden: places that `change` hid in views.
    """

    networks: Networks
    batch: Batch
    views: Mapping[str, Mapping[str, Views]]
    change: Change | None = None
    look_at: Look = nothing_to_say
    passes: Counter[str] = field(default_factory=Counter)
    hidden: dict[tuple[Change | None, View], Bool[Tensor, "_ _"]] = field(default_factory=dict)
    _inputs: dict[View, Inputs] = field(default_factory=dict)
    _tokens: dict[tuple[str, Change | None, View], Tokens] = field(default_factory=dict)
    _encoded: dict[tuple[str, Change | None, View], Tokens] = field(default_factory=dict)
    _layers: dict[tuple[tuple[str, Change | None, View], int], Tokens] = field(default_factory=dict)
    _foreign: dict[tuple[str, View], Tensor] = field(default_factory=dict)

    def for_part(self, views: Mapping[str, Mapping[str, Views]], change: Change | None) -> "Encodings":
        """The same for a part of an objective: what one part asked for is not computed again for another.

        views: its own, of which each kind is that of the others. change: where it differs, what the student makes differs too.
        """
        return replace(self, views=views, change=change)

    def key(self, network: str, view: View) -> tuple[str, Change | None, View]:
        """Under which what a network makes of a view is kept."""
        return network, self.change if network == "student" else None, view

    def draws(self, view: View) -> Draws:
        """Random numbers of the samples that hold the view's modality."""
        return Draws(self.batch.keys_of(view.modality)).fork(view.number)

    def inputs(self, view: View) -> Inputs:
        """The view itself."""
        if (of := self.views[view.modality][view.kind].of) is not None and view not in self._inputs:
            self._inputs[view] = self.mixed(view, *of)
        if view not in self._inputs:
            name, others = view.modality, None if self.batch.others is None else self.batch.others[view.modality]
            augment, draws = self.views[name][view.kind].augment, Draws(self.batch.keys_of(name))
            self._inputs[view] = augmented(augment, self.batch.inputs[name], draws, view.number, others)
        return self._inputs[view]

    def mixed(self, view: View, first: View, second: View) -> Inputs:
        """The first view of each sample, mixed with the second view of another sample of the step."""
        name, batch = view.modality, self.batch
        step = Others.of(batch.inputs[name], Draws(batch.keys_of(name))) if batch.others is None else batch.others[name]
        partner, share = mixture(Draws(step.keys).fork(view.number))
        place = partner[step.place]
        donors, draws = {key: x[place] for key, x in step.inputs.items()}, Draws(step.keys[place])
        others = augmented(self.views[name][second.kind].augment, donors, draws, second.number, replace(step, place=place))
        return mixed_inputs(self.networks.student.adapter(name), self.inputs(first), others, share[step.place])

    def tokens(self, network: str, view: View) -> Tokens:
        """What a network makes of a view before its encoder."""
        key = self.key(network, view)
        if key not in self._tokens:
            with torch.set_grad_enabled(torch.is_grad_enabled() and network == "student"):
                draws, mask = self.draws(view), self.views[view.modality][view.kind].mask
                tokens = self.networks[network].embed(view.modality, self.inputs(view)).keyed(draws)
                if mask is not None:
                    self.look_at(mask, tokens, f"modalities.{view.modality}.views.{view.kind}.mask")
                    split = split_in_order(mask, no_saliency, tokens.coords, tokens.valid, None, draws, tokens.sequences())
                    tokens = tokens.take(split.seen, split.seen_real)
                if self.change is not None and network == "student":
                    tokens = self.change(self, view, tokens)
            self._tokens[key] = tokens
        return self._tokens[key]

    def encoded(self, network: str, views: Sequence[View]) -> list[Tokens]:
        """What a network makes of views, prefix tokens first; views of one size are encoded together, but see `Networks.steady`."""
        self.encode(network, [view for view in views if self.key(network, view) not in self._encoded])
        return [self._encoded[self.key(network, view)] for view in views]

    def layers(self, network: str, view: View, numbers: Sequence[int]) -> list[Tokens]:
        """What layers of a network, the first of which is 1, make of a view, prefix tokens first.

        Without the encoder's last norm, which the last layer has.
        """
        key = self.key(network, view)
        if any((key, number) not in self._layers for number in numbers):
            self.encode(network, [view], numbers)
        return [self._layers[key, number] for number in numbers]

    def encode(self, network: str, views: Sequence[View], numbers: Sequence[int] = ()) -> None:
        """Run a network's encoder, views of one size together; numbers: layers whose outputs are kept too."""
        groups: dict[object, list[View]] = {}
        for view in views:
            tokens = self.tokens(network, view)
            # By chance two kinds of views, or modalities, are of one size in one process and not in another.
            own = (view.modality, view.kind) if self.networks.steady else None
            shape = (tokens.values.shape[1:], tokens.valid is None, tokens.identity is None, tokens.expert, own)
            groups.setdefault(shape, []).append(view)
        encoder = self.networks[network].encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and network == "student"):
            for group in groups.values():
                parts = [self.tokens(network, view) for view in group]
                outputs = encoder.layer_outputs(joined_batches(parts), len(encoder.layers)) if numbers else []
                if numbers:
                    outputs[-1] = outputs[-1].with_values(encoder.norm(outputs[-1].values))
                found = outputs[-1] if numbers else encoder(joined_batches(parts))
                self.passes[network] += 1
                sizes = [len(part.values) for part in parts]
                for view, part in zip(group, found.split(sizes), strict=True):
                    self._encoded[self.key(network, view)] = part
                for number in numbers:
                    for view, part in zip(group, outputs[number - 1].split(sizes), strict=True):
                        self._layers[self.key(network, view), number] = part

    def pooled(self, network: str, views: Sequence[View]) -> list[Float[Tensor, "k d"]]:
        """One vector for each sample of each view."""
        if (foreign := self.networks.foreign(network)) is not None:
            return [self.seen_by(foreign, network, view) for view in views]
        encoded = self.encoded(network, views)
        with torch.set_grad_enabled(torch.is_grad_enabled() and network == "student"):
            return [self.networks[network].pool(tokens) for tokens in encoded]

    def seen_by(self, foreign: Foreign, network: str, view: View) -> Float[Tensor, "k d"]:
        """What a public encoder of pictures makes of a view."""
        if (network, view) not in self._foreign:
            pictures = self.networks.student.adapter(view.modality).pictures(self.inputs(view))
            self._foreign[network, view] = foreign(pictures)
            self.passes[network] += 1
        return self._foreign[network, view]

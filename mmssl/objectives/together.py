"""Losses that couple samples, over the micro-batches and processes of an optimizer step.

Such a loss is that of the whole step or another one: a mean of the losses of its parts has other negatives, other statistics, and
another gradient. So every process computes it from the representations of all samples, which are small beside the activations that
made them, and each micro-batch is then trained on its first-order part there: representations and weights times their slopes, whose
gradient is that of the loss (GradCache, arXiv 2101.06983, section 3). Negatives and statistics depend on no cut, memory only on the
largest micro-batch, and no gradient travels between processes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmssl.data import processes
from mmssl.draws import Draws, mix
from mmssl.modality import pad_cat
from mmssl.objectives.terms import Metric, Terms


@dataclass(frozen=True)
class Share:
    """What some samples of a step give to the losses that need all of them.

    keys, ids, group: of the samples, as in `Batch`.
    values: representations by name, one row for each sample that has it, or several.
    rows: which sample each row of a value belongs to.
    """

    keys: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]
    group: Int[Tensor, " n"] | None = None
    values: Mapping[str, Float[Tensor, "_ ..."]] = field(default_factory=dict)
    rows: Mapping[str, Int[Tensor, " _"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def draws(self) -> Draws:
        """Random numbers of the step, of which there is one: the same however it is cut."""
        return Draws(mix(self.keys.sum())[None])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Share":
        """The same with its tensors changed."""
        return Share(
            change(self.keys),
            change(self.ids),
            None if self.group is None else change(self.group),
            {name: change(value) for name, value in self.values.items()},
            {name: change(rows) for name, rows in self.rows.items()},
        )


def join(shares: Sequence[Share]) -> Share:
    """The samples of all shares, in order."""
    if len(shares) == 1:
        return shares[0]
    starts = torch.tensor([0, *(len(share) for share in shares)]).cumsum(0).tolist()
    names = dict.fromkeys(name for share in shares for name in share.values)
    pairs = list(zip(shares, starts, strict=False))
    groups = [share.group for share in shares]
    return Share(
        torch.cat([share.keys for share in shares]),
        torch.cat([share.ids for share in shares]),
        None if any(group is None for group in groups) else torch.cat([group for group in groups if group is not None]),
        {name: pad_cat([share.values[name] for share in shares if name in share.values]) for name in names},
        {name: torch.cat([share.rows[name] + start for share, start in pairs if name in share.rows]) for name in names},
    )


def nothing(share: Share) -> Float[Tensor, ""]:
    """Zero, with a gradient of zero for all that the share was made of: a backward pass goes through it in any case."""
    parts = [(value * 0).sum() for value in share.values.values() if value.requires_grad]
    return torch.stack(parts).sum() if parts else torch.zeros((), device=share.keys.device)


@dataclass(frozen=True)
class Whole:
    """The loss of a whole step near where it is: its value, and its slopes.

    loss: of the step. slopes: for each micro-batch of this process, by the names of its values.
    weights: trained tensors that the loss itself depends on, with their slopes.
    shares: how many micro-batches of all processes count; first: whether this process speaks of the metrics.
    """

    loss: Float[Tensor, ""]
    slopes: Sequence[Mapping[str, Tensor]]
    weights: Sequence[tuple[nn.Parameter, Tensor]]
    shares: int
    first: bool
    metrics: Mapping[str, Metric]
    state: Mapping[str, Tensor]

    def part(self, number: int, share: Share) -> Float[Tensor, ""]:
        """What micro-batch `number` contributes: values add up to the loss of the step, gradients to its gradient."""
        slopes = self.slopes[number]
        found = [(share.values[name] * slope).sum() for name, slope in slopes.items() if share.values[name].requires_grad]
        found += [(weight * slope).sum() / self.shares for weight, slope in self.weights]
        linear = torch.stack([each.to(self.loss.dtype) for each in (*found, nothing(share))]).sum()
        return self.loss / self.shares + linear - linear.detach()

    def none(self, share: Share) -> Float[Tensor, ""]:
        """What a micro-batch contributes that only stands in: nothing, with a gradient of zero for all that the loss depends on."""
        weights = [(weight * 0).sum() for weight, _ in self.weights]
        return torch.stack([each.to(self.loss.dtype) for each in (*weights, nothing(share))]).sum()


def met(own: Sequence[Share], device: torch.device) -> tuple[list[Share], int]:
    """Copies of the shares of all processes, in order, without gradient, and the number of the first own one among them."""
    sent = [share.map(lambda value: value.detach().cpu()) for share in own] if processes.world() > 1 else list(own)
    everyone = processes.gathered(sent)
    place = sum(map(len, everyone[: processes.rank()]))
    copies = [share.map(lambda value: value.detach().to(device, copy=True)) for part in everyone for share in part if len(share)]
    return copies, place


def whole_step(
    own: Sequence[Share], agree: Callable[[Share], Terms], parameters: Iterable[nn.Parameter], device: torch.device
) -> Whole:
    """Meet the other processes, and compute the loss of all samples. own: of this process, none where it has no samples."""
    shares, place = met(own, device)
    with torch.enable_grad():
        leaves = [
            replace(share, values={name: value.requires_grad_(value.is_floating_point()) for name, value in share.values.items()})
            for share in shares
        ]
        terms = agree(join(leaves))
        loss = terms.loss()
        mine = leaves[place : place + len(own)]
        inputs = [value for share in mine for value in share.values.values() if value.requires_grad]
        trained = [weight for weight in parameters if weight.requires_grad]
        found = torch.autograd.grad(loss, [*inputs, *trained], allow_unused=True) if loss.requires_grad else []
    known = {id(tensor): slope for tensor, slope in zip([*inputs, *trained], found, strict=bool(found)) if slope is not None}
    slopes = [{name: known[id(value)] for name, value in share.values.items() if id(value) in known} for share in mine]
    weights = [(weight, known[id(weight)]) for weight in trained if id(weight) in known]
    return Whole(loss.detach(), slopes, weights, len(leaves), bool(own) and place == 0, terms.metrics, terms.state)

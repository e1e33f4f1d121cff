"""Of the samples of a step, those that the model learns most from together: joint example selection (JEST, arXiv 2406.17711)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.data import Batch
from mmssl.draws import Draws
from mmssl.losses.choice import joint_choice, joint_score
from mmssl.losses.negatives import sigmoid_of_pairs, similarities
from mmssl.model import MMSSLModel
from mmssl.model.heads import LogitScale
from mmssl.objectives.agree.parts import pairs_of
from mmssl.objectives.networks import Frozen, Networks, check_readers
from mmssl.objectives.terms import Metric, State
from mmssl.objectives.together import Share, join, met
from mmssl.objectives.views import Encodings, View


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Train on the part of each step's samples of which the model can still learn, as a frozen one tells (JEST, arXiv 2406.17711).

    A pair of samples scores the model's sigmoid loss less that of the frozen model. Samples are drawn in chunks, each by its scores
    with all that were chosen before. The step encodes all samples without gradient, by both models, and trains on the chosen ones;
    train.batch_size is the number of all. A row without a pair is not chosen.

    reference: folder or Hub id of the frozen model: a clip of mmssl with the loss sigmoid, which reads samples in the same way.
    keep: share of the samples that have a pair, to be trained on.
    chunks: in which they are drawn.
    """

    reference: str
    keep: Annotated[float, Field(gt=0, le=1)] = 0.2
    chunks: Annotated[int, Field(gt=0)] = 16


class Chooser:
    """What chooses: the student and a frozen reference, and the views by which they score."""

    def __init__(self, choice: Choice, networks: Networks, views: Sequence[View]) -> None:
        self.choice, self.networks, self.views = choice, networks, views
        self.reference = networks.want("reference", Frozen(choice.reference))
        check_reference(choice.reference, networks[self.reference], networks.student, views)

    @torch.no_grad()
    def choose(self, batches: Sequence[Batch], encodings: Sequence[Encodings]) -> tuple[list[Batch], dict[str, Metric]]:
        """See `Objective.chosen`. Of batches that only stand in nothing is chosen."""
        found = [self.share(batch, seen) for batch, seen in zip(batches, encodings, strict=True)]
        counted = [batch for batch in batches if batch.counts]
        shares, place = met([share for share, batch in zip(found, batches, strict=True) if batch.counts], batches[0].keys.device)
        scores, paired = self.scores(join(shares))
        if not paired.any():
            return counted, {}
        uniform = Draws(torch.cat([share.keys for share in shares])).uniform("joint choice", self.choice.chunks)
        count = ceil(self.choice.keep * int(paired.sum()))
        chosen = joint_choice(scores, uniform, count, paired)
        told: dict[str, Metric] = {
            "learnability": State(joint_score(scores[chosen][:, chosen], len(chosen))),
            "learnability_of_all": State(joint_score(scores[paired][:, paired], len(chosen))),
            "chosen": State(torch.tensor(float(len(chosen)), device=scores.device)),
        }
        return self.kept(counted, chosen, sum(map(len, shares[:place]))), told

    @staticmethod
    def kept(batches: Sequence[Batch], chosen: Int[Tensor, " k"], start: int) -> list[Batch]:
        """The chosen samples of batches, the first of which begins at a place of the step."""
        found = []
        for batch in batches:
            own = chosen[(chosen >= start) & (chosen < start + len(batch))] - start
            start += len(batch)
            found += [batch.take(own)] if len(own) else []
        return found

    @torch.no_grad()
    def share(self, batch: Batch, seen: Encodings) -> Share:
        """Projections of a batch by both networks, in float32 or wider."""
        views = [view for view in self.views if view.modality in batch.inputs]
        values, rows = dict[str, Tensor](), dict[str, Tensor]()
        for network in ("student", self.reference):
            for view, pooled in zip(views, seen.pooled(network, views), strict=True):
                found = self.networks[network].projected(view.modality, pooled)
                values[f"{network}/{view}"] = found.to(torch.promote_types(found.dtype, torch.float32))
                rows[f"{network}/{view}"] = batch.held(view.modality)
        return Share(batch.keys, batch.ids, batch.group, values, rows)

    @torch.no_grad()
    def scores(self, share: Share) -> tuple[Float[Tensor, "n n"], Bool[Tensor, " n"]]:
        """Learnability of each two samples of a step, the sum over pairs of views, and which samples have a pair."""
        scores: Tensor = torch.zeros(len(share), len(share), device=share.keys.device)
        paired = torch.zeros(len(share), dtype=torch.bool, device=scores.device)
        views = [view for view in self.views if f"student/{view}" in share.values]
        for a, b in pairs_of(views, "across", ordered=False):
            at, to = share.rows[f"student/{a}"], share.rows[f"student/{b}"]
            positive = at[:, None] == to
            if share.group is not None:
                positive |= share.group[at][:, None] == share.group[to]
            learner, reference = (self.losses(name, share.values, a, b, positive) for name in ("student", self.reference))
            scores = scores.to(learner.dtype).index_put((at[:, None], to[None]), learner - reference, accumulate=True)
            paired[at[torch.isin(at, to)]] = True
        return scores, paired

    def losses(self, network: str, values: Mapping[str, Tensor], a: View, b: View, positive: Tensor) -> Float[Tensor, "k m"]:
        """The sigmoid loss of each pair of samples of two views."""
        found = similarities(values[f"{network}/{a}"], values[f"{network}/{b}"])
        return sigmoid_of_pairs(scale_of(self.networks[network])(found), positive)


def scale_of(model: MMSSLModel) -> LogitScale:
    """What scales similarities of a model that has projections."""
    assert model.heads is not None
    return cast(LogitScale, model.heads["scale"])


def check_reference(path: str, reference: MMSSLModel, student: MMSSLModel, views: Sequence[View]) -> None:
    """ValueError where losses of the two cannot be compared: no projection, no sigmoid, or other samples."""
    heads, names = dict(reference.heads or {}), list(dict.fromkeys(view.modality for view in views))
    for name in names:
        known = reference.config.projections or {}
        if name not in known:
            raise ValueError(
                f"objective.choose.reference: {path} maps {', '.join(known) or 'nothing'} into a space that modalities share, but "
                f"not {name}; name a model that clip trained on the same modalities"
            )
    check_readers("objective.choose.reference", path, reference.config, student.config, names)
    scales = (heads.get("scale"), dict(student.heads or {}).get("scale"))
    if any(not isinstance(scale, LogitScale) or scale.bias is None for scale in scales):
        raise ValueError(
            f"objective.choose: samples are scored by the loss sigmoid, for which the run and its reference {path} need a scale "
            "and a bias; set objective.losses: [{name: sigmoid}] and objective.bias: -10.0 in both"
        )

"""A sum of objectives on one model, that share its teacher, its views and what networks make of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial, wraps
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Num
from pydantic import Field
from torch import Tensor, nn

from mmssl.data import Batch
from mmssl.modality import Processor
from mmssl.model import MMSSLModel
from mmssl.objectives.base import Objective, Setup, Step
from mmssl.objectives.networks import Clock
from mmssl.objectives.terms import Metric, Term, Terms
from mmssl.objectives.together import Share
from mmssl.objectives.views import Views

Factor = Annotated[float, Field(ge=0)]
Part = Callable[[MMSSLModel, Setup], Objective]
"""An objective as a recipe describes it, to be built with its model."""


@cache
def part_of(constructor: type[Objective]) -> Callable[..., Part]:
    """What makes a `Part` of the keys of an objective."""

    @wraps(constructor, updated=())
    def made(**keys: Any) -> Part:
        return partial(constructor, **keys)

    for fact in ("needs_labels", "predicts"):  # as on the class, for whoever reads a recipe
        setattr(made, fact, getattr(constructor, fact))
    return made


class Sum(Objective):
    """The sum of several objectives, each with a weight: masked modelling beside CLIP, say.

    parts: the objectives, as a recipe's objective section has them; they share the teacher where they describe the same one.
    weights: factor on each, constant or from the first to the second number over the budget; null: 1.
    publish: the student, or the teacher.
    """

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        parts: list[Part],
        weights: list[Factor | tuple[Factor, Factor]] | None = None,
        publish: Literal["student", "teacher"] = "student",
    ) -> None:
        super().__init__(model, setup)
        if not parts:
            raise ValueError("objective.parts is empty: name the objectives to add up, as in parts: [{name: masked}, {name: clip}]")
        if weights is not None and len(weights) != len(parts):
            raise ValueError(f"objective.weights needs one for each of the {len(parts)} parts; got {len(weights)}")
        shared = replace(setup, networks=self.networks)
        self.parts = nn.ModuleList(part(model, shared) for part in parts)
        self.factors = weights or [1.0] * len(parts)
        if sum(part.chooses for part in self.every_part) > 1:
            raise ValueError("objective.parts: the samples of a step can be chosen once; leave `choose` to one part")
        if publish == "teacher" and not self.networks.teachers:
            raise ValueError("objective.publish: teacher needs a part that keeps one, such as distill; choose student")
        self.publish = publish

    @property
    def every_part(self) -> list[Objective]:
        """The objectives, in the recipe's order."""
        return [cast(Objective, part) for part in self.parts]

    @property
    def couples(self) -> bool:  # type: ignore[override]
        return any(part.couples for part in self.every_part)

    def factor(self, number: int, clock: Clock) -> float:
        """The weight of a part now."""
        found = self.factors[number]
        first, last = found if isinstance(found, tuple) else (found, found)
        return first + (last - first) * clock.progress

    def step_of(self, part: Objective, step: Step) -> Step:
        """The step as a part sees it."""
        seen = None if step.seen is None else step.seen.for_part(part.views, part.change)
        return replace(step, seen=seen)

    @property
    def views(self) -> Mapping[str, Mapping[str, Views]]:
        """All that its parts have."""
        found: dict[str, dict[str, Views]] = {}
        for part in self.every_part:
            for name, kinds in part.views.items():
                found.setdefault(name, {}).update(kinds)
        return found

    def terms(self, batch: Batch, step: Step) -> Terms:
        return self.summed([part.terms(batch, self.step_of(part, step)) for part in self.every_part], step)

    def summed(self, parts: Sequence[Terms], step: Step) -> Terms:
        """The terms of all parts, each with its weight, under the part's number."""
        terms, metrics, state = dict[str, Term](), dict[str, Metric](), dict[str, Tensor]()
        for number, part in enumerate(parts):
            factor = self.factor(number, step.clock)
            terms |= {f"{number + 1}_{name}": term.times(factor) for name, term in part.terms.items()}
            metrics |= {f"part_{number + 1}_{name}" if name in metrics else name: value for name, value in part.metrics.items()}
            metrics |= {f"loss_{number + 1}_{name}": term.measured for name, term in part.terms.items()}
            state |= {f"parts.{number}.{name}": value for name, value in part.state.items()}
        return Terms(terms, metrics, state)

    @torch.no_grad()
    def weights(self, batch: Batch, step: Step) -> dict[str, Num[Tensor, ""]]:
        return {
            f"{number + 1}_{name}": weight
            for number, part in enumerate(self.every_part)
            for name, weight in part.weights(batch, self.step_of(part, step)).items()
        }

    def represent(self, batch: Batch, step: Step) -> Share:
        values, rows = dict[str, Tensor](), dict[str, Tensor]()
        for number, part in enumerate(self.every_part):
            if part.couples:
                share = part.represent(batch, self.step_of(part, step))
                values |= {f"{number} {name}": value for name, value in share.values.items()}
                rows |= {f"{number} {name}": value for name, value in share.rows.items()}
        return Share(batch.keys, batch.ids, batch.group, values, rows)

    def agree(self, share: Share, step: Step) -> Terms:
        found = []
        for number, part in enumerate(self.every_part):
            if not part.couples:
                found.append(Terms({}))
                continue
            mine = f"{number} "
            values = {name.removeprefix(mine): value for name, value in share.values.items() if name.startswith(mine)}
            rows = {name.removeprefix(mine): value for name, value in share.rows.items() if name.startswith(mine)}
            found.append(part.agree(replace(share, values=values, rows=rows), step))
        return self.summed(found, step)

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return any(part.chooses for part in self.every_part)

    def chosen(self, batches: Sequence[Batch], step: Step) -> tuple[list[Batch], dict[str, Metric]]:
        for part in self.every_part:
            if part.chooses:
                return part.chosen(batches, step)
        return list(batches), {}

    def observe(self, batches: Sequence[Batch], step: Step) -> None:
        for part in self.every_part:
            part.observe(batches, step)

    @property
    def over_batch(self) -> list[str]:
        return [f"parts[{number}].{name}" for number, part in enumerate(self.every_part) for name in part.over_batch]

    @property
    def mixes(self) -> bool:
        return any(part.mixes for part in self.every_part)

    def after_step(self, clock: Clock) -> None:
        super().after_step(clock)
        for part in self.every_part:
            part.after_step(clock)

    def projectors(self, model: MMSSLModel) -> nn.ModuleDict | None:
        """Those of the first part that has any."""
        return next((found for part in self.every_part if (found := part.projectors(model)) is not None), None)

    def pictures(self, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Any]:
        found = dict[str, Any]()
        for part in self.every_part:
            found |= part.pictures(batch, processors)
        return found

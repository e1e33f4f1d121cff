"""A temperature for each sample, that is learned beside the network."""

from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from mmssl.losses.negatives import Temperatures, individual_temperatures
from mmssl.model.heads import Prototypes
from mmssl.objectives.agree.losses.negatives import InfoNce, Temperature
from mmssl.objectives.agree.parts import Agreed, Between, Seen, Space, mean_of
from mmssl.objectives.terms import Metric, State, Weight

Share = Annotated[float, Field(ge=0, le=1)]


class Kept(nn.Module):
    """What is kept of each sample of the data; the fields of `Temperatures`."""

    def __init__(self, count: int, temperature: float) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.full((count,), temperature))
        self.register_buffer("log_mean", torch.full((count,), -torch.inf))
        self.register_buffer("slope", torch.zeros(count))

    def of(self, ids: Int[Tensor, " k"]) -> Temperatures:
        """What is kept of some samples."""
        return Temperatures(*(self.get_buffer(name)[ids] for name in Temperatures._fields))

    def after(self, ids: Int[Tensor, " k"], new: Temperatures) -> dict[str, Tensor]:
        """The buffers once these samples were seen; of one that came twice, where epochs meet, the first counts."""
        samples, place = ids.unique(return_inverse=True)
        order = torch.arange(len(ids), device=ids.device)
        first = torch.full_like(samples, len(ids)).scatter_reduce(0, place, order, "amin")
        known = {name: self.get_buffer(name) for name in Temperatures._fields}
        return {
            name: buffer.index_copy(0, samples, value[first].to(buffer.dtype))
            for (name, buffer), value in zip(known.items(), new, strict=True)
        }


class IndividualTemperatures(InfoNce):
    """InfoNCE in which each sample has, in each modality, a learned temperature of its own (iSogCLR, arXiv 2305.11965).

    Samples that many others resemble come to large temperatures, rare ones to small ones. A moving mean over the negatives of a
    sample, from step to step, stands for a large batch. Positives leave the denominator. What is kept of the samples is a part of
    checkpoints: three numbers for each, and modality.

    temperature: of all samples at first.
    rho: divergence of a sample's weights on its negatives from equal ones, in nats, to which its temperature moves; above the log
        of the number of negatives all temperatures fall to their bound.
    rate: learning rate of the temperatures; 0: they stay.
    gamma: weight of a step in the moving mean.
    memory: how much of the last step's slope of a temperature remains.
    bounds: of a temperature.
    negatives: all = of every view of a sample's modality, its own other samples too; view = of the view that is compared with.
    between: pairs of views within a modality, across two of them, or all.
    weight: factor on its loss.
    """

    def __init__(
        self,
        *,
        temperature: Temperature = 0.1,
        rho: Annotated[float, Field(gt=0)] = 2.0,
        rate: Annotated[float, Field(ge=0)] = 0.001,
        gamma: Annotated[float, Field(gt=0, le=1)] = 0.8,
        memory: Share = 0.1,
        bounds: tuple[Temperature, Temperature] = (0.05, 1.0),
        negatives: Literal["all", "view"] = "all",
        between: Between = "within",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(temperature=1.0, negatives=negatives, between=between, weight=weight)
        if not bounds[0] <= temperature <= bounds[1]:
            raise ValueError(
                f"objective.losses: individual_temperatures starts at {temperature}, outside its bounds {list(bounds)}"
            )
        self.start, self.rho, self.rate, self.gamma, self.memory, self.bounds = temperature, rho, rate, gamma, memory, bounds

    def prepare(self, space: Space) -> Prototypes | None:
        count = None if space.samples is None else space.samples()
        if count is None:
            raise ValueError(
                "objective.losses: individual_temperatures keeps a temperature for each sample of one source; the data have "
                "several, or none is known. Name one, with data.path, or choose info_nce"
            )
        self.kept = nn.ModuleDict({name: Kept(count, self.start) for name in space.modalities})
        return None

    def forward(self, seen: Seen, prototypes: tuple[Prototypes, Prototypes] | None) -> Agreed:
        compared = dict[str, list[tuple[Tensor, Tensor, Tensor]]]()
        for view, others in self.comparisons(seen):
            compared.setdefault(view.modality, []).append(self.compared(seen, view, others))
        losses, temperatures = list[Tensor](), list[Tensor]()
        metrics, state = dict[str, Metric](), dict[str, Tensor]()
        for name, parts in compared.items():
            kept, ids = cast(Kept, self.kept[name]), self.samples(seen, name)
            width = max(part.shape[1] for _, part, _ in parts)
            similarity, positive, counted = (
                torch.cat([F.pad(part, (0, width - part.shape[1])) for part in each]) for each in zip(*parts, strict=True)
            )
            loss, new = self.loss(similarity, positive, counted, kept.of(ids))
            losses.append(loss[positive.any(1)])
            temperatures.append(new.temperature)
            state |= {f"kept.{name}.{key}": value for key, value in kept.after(ids, new).items()}
        if temperatures:
            metrics["temperature"] = State(torch.cat(temperatures).mean())
            metrics["temperature_std"] = State(torch.cat(temperatures).std(correction=0))
        return Agreed({"": mean_of(losses)}, metrics, state)

    def samples(self, seen: Seen, name: str) -> Int[Tensor, " k"]:
        """Which samples of the data hold a modality in this step."""
        return seen.share.ids[seen.rows(next(view for view in seen.views if view.modality == name))]

    def loss(
        self, similarity: Tensor, positive: Tensor, counted: Tensor, kept: Temperatures
    ) -> tuple[Float[Tensor, " r"], Temperatures]:
        """See `individual_temperatures`."""
        lowest, highest = self.bounds
        return individual_temperatures(
            similarity,
            positive,
            *kept,
            counted,
            gamma=self.gamma,
            rho=self.rho,
            rate=self.rate,
            memory=self.memory,
            lowest=lowest,
            highest=highest,
        )

"""Targets that are chosen from learned codebooks: wav2vec 2.0."""

from collections.abc import Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.model import MMSSLModel, initialise_all
from mmssl.model.config import Positive
from mmssl.objectives.networks import Networks
from mmssl.objectives.predict.distances import InfoNce, Loss
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target, anything, moved
from mmssl.objectives.terms import State, Term, Used, Weight
from mmssl.tokens import of_own

Temperature = Annotated[float, Field(gt=0)]


class GumbelQuantiser(nn.Module):
    """Product quantiser: in each of G groups one of V entries is chosen, and the chosen ones are joined.

    wav2vec 2.0 (arXiv 2006.11477, section 2 and eq. 1). The choice is hard; its gradient is that of the softmax (straight-through).
    Entries start uniform in [0, 1), the weights of the choice normal, as in the authors' code.
    """

    def __init__(self, size: int, groups: int, codes: int, width: int) -> None:
        super().__init__()
        self.shape = groups, codes
        self.choose = nn.Linear(size, groups * codes)
        self.entries = nn.Parameter(torch.empty(groups, codes, width // groups))
        self.reset()

    def reset(self) -> None:
        nn.init.normal_(self.choose.weight)
        nn.init.zeros_(self.choose.bias)
        nn.init.uniform_(self.entries)

    def forward(
        self, features: Float[Tensor, "b n d"], noise: Float[Tensor, "b n g v"] | None, temperature: float
    ) -> tuple[Float[Tensor, "b n w"], Float[Tensor, "b n g v"]]:
        """The chosen entries, and the probability of every choice without noise and temperature.

        noise: Gumbel noise; None: the most probable entry is chosen.
        """
        logits = self.choose(features).float().unflatten(-1, self.shape)
        soft = ((logits if noise is None else logits + noise) / temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), self.shape[1]).to(soft.dtype)
        chosen = hard - soft.detach() + soft
        return torch.einsum("bngv,gvw->bngw", chosen, self.entries).flatten(2), logits.softmax(-1)


def gumbel(draws: Draws, *shape: int) -> Float[Tensor, "b ..."]:
    """Gumbel noise, -log(-log(u))."""
    # Halfway between two of the 2^24 numbers that a draw can be: never 0 or 1.
    uniform = draws.uniform("gumbel", *shape).double() + 2.0**-25
    return -(-uniform.log()).log().float()


def perplexities(probabilities: Float[Tensor, "b n g v"], counted: Bool[Tensor, "b n"]) -> Float[Tensor, " g"]:
    """exp of the entropy of each group's mean choice over the places that count: how many entries are in use."""
    weight = counted[..., None, None].to(probabilities.dtype)
    mean = (probabilities * weight).sum((0, 1)) / weight.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(mean, mean).sum(-1))


class Quantised(Target):
    """The model's own tokens before the encoder, quantised with learned codebooks: wav2vec 2.0 (arXiv 2006.11477).

    Gradients reach the codebooks and the tokens. The diversity loss keeps the entries in use: the paper's eq. 4 maximises the
    entropy of the mean choice, its authors' code the exponential of that, (G V - sum of exp(H)) / (G V), which is what is added
    here. The temperature falls from start to end by the same factor in each step; the paper's is 2 to 0.5.

    groups: codebooks, of each of which one entry is chosen.
    codes: entries of each.
    code_width: width of the joined entries, a multiple of groups.
    width: width in which predictions are compared with them.
    temperature: of the choice, at the start and at the end of the budget.
    diversity: weight of the diversity loss.
    loss: distance between prediction and target; null: InfoNCE with 100 distractors of the same sample.
    weight: factor on its loss, not on the diversity loss.
    """

    over_batch = True  # the diversity loss
    raw = False  # a stem may overlap here, as that of wav2vec 2.0 does

    def __init__(
        self,
        *,
        groups: Positive = 2,
        codes: Annotated[int, Field(gt=1)] = 320,
        code_width: Positive = 256,
        width: Positive = 256,
        temperature: tuple[Temperature, Temperature] = (2.0, 0.5),
        diversity: Annotated[float, Field(ge=0)] = 0.1,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss or InfoNce(count=100), weight)
        if code_width % groups:
            raise ValueError(f"code_width must be a multiple of groups; got {code_width} and {groups}")
        self.groups, self.codes, self.code_width, self.width = groups, codes, code_width, width
        self.temperatures, self.diversity = temperature, diversity

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        config = networks.student.config
        size = config.hidden_size
        self.quantisers = nn.ModuleDict(
            {name: GumbelQuantiser(size, self.groups, self.codes, self.code_width) for name in modalities}
        )
        self.project = nn.Linear(self.code_width, self.width)
        initialise_all(self.project, config)

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"quantised": self.width}

    def forward(self, scene: Scene) -> Answer:
        tokens, there = scene.target_tokens, anything(scene.content)
        b, n, d = tokens.values.shape
        # Standardised, as the features that the paper quantises are: the weights of the choice count on it.
        features = F.layer_norm(tokens.values.float(), (d,))
        # With several masks the first batch of draws is that of the first.
        drawn = gumbel(Draws(scene.draws.keys[:b]), n, self.groups, self.codes) if self.training else None
        noise = None if drawn is None else of_own(drawn, tokens.valid)
        temperature = self.temperature_at(scene.clock.progress)
        chosen, probabilities = cast(GumbelQuantiser, self.quantisers[scene.name])(features, noise, temperature)
        counted = scene.parts.hidden_places(n).view(-1, b, n).any(0) & there
        found = perplexities(probabilities, counted)
        return Answer(
            {"quantised": self.project(chosen).float().masked_fill(~there[..., None], torch.nan)},
            {"diversity": Term.whole(self.diversity * (1 - found.sum() / (self.groups * self.codes)))},
            {
                "perplexity": Used((probabilities.detach() * counted[..., None, None]).sum((0, 1))),
                "temperature": State(features.new_tensor(temperature)),
            },
        )

    def outline(self, scene: Scene) -> Outline:
        there = anything(scene.content)
        return Outline({"quantised": there}, {"diversity": torch.ones((), dtype=torch.int64, device=there.device)})

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return moved(state, {}, ("temperature",))

    def temperature_at(self, progress: float) -> float:
        """The temperature when `progress` of the budget is used up."""
        start, end = self.temperatures
        return float(start * (end / start) ** progress)

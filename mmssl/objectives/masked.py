"""Masked modelling: hide tokens, predict what they held.

Settings of one class: MAE (arXiv 2111.06377) encodes the visible tokens and decodes the hidden ones; SimMIM (arXiv 2111.09886) and
BERT (arXiv 1810.04805) put a mask token in the place of the hidden ones and predict from the encoder's output.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmssl.config import MMSSLConfig, Positive
from mmssl.data import Batch
from mmssl.encoder import Encoder, initialise_all
from mmssl.losses.points import SetDistance, set_regression
from mmssl.losses.tokens import Distance, classification, mean_where, normalise_tokens, regression
from mmssl.masking import Sampler, Split, preferred, split
from mmssl.modality import Inputs, find
from mmssl.model import MMSSLModel
from mmssl.objectives.base import Objective, Output, Setup
from mmssl.tokens import Tokens, cat, gather


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The light transformer that predicts hidden tokens from the encoded visible ones.

    hidden_size: width.
    num_hidden_layers: layers.
    num_attention_heads: heads; hidden_size must be a multiple of 8 x heads.
    """

    hidden_size: Positive = 128
    num_hidden_layers: Positive = 2
    num_attention_heads: Positive = 4


def decoder_config(config: MMSSLConfig, decoder: Decoder) -> MMSSLConfig:
    """The encoder's configuration in the decoder's size, without prefix tokens and stochastic depth."""
    return config.derive(
        hidden_size=decoder.hidden_size,
        num_hidden_layers=decoder.num_hidden_layers,
        num_attention_heads=decoder.num_attention_heads,
        mlp_size=None,
        modalities={},
        pooling="mean",
        cls_token=False,
        num_register_tokens=0,
        drop_path_rate=0.0,
    )


class Encoding(nn.Module, ABC):
    """Where hidden tokens are predicted from: encodes what is seen, returns one vector of `width` for each hidden token."""

    width: int

    @abstractmethod
    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split) -> Float[Tensor, "b m w"]: ...


class VisibleEncoding(Encoding):
    """Encode the visible tokens alone; a decoder predicts from them at the places of the hidden ones (MAE, section 3)."""

    def __init__(self, config: MMSSLConfig, decoder: Decoder, *, identities: bool) -> None:
        super().__init__()
        self.decoder = Encoder(decoder_config(config, decoder))
        self.enter = nn.Linear(config.hidden_size, decoder.hidden_size)
        self.enter_identity = nn.Linear(config.hidden_size, decoder.hidden_size, bias=False) if identities else None
        self.mask_token = nn.Parameter(torch.empty(decoder.hidden_size))
        self.width = decoder.hidden_size

    def reset_parameters(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split) -> Float[Tensor, "b m w"]:
        seen = encoder(tokens.take(parts.seen, parts.seen_real))
        hidden = tokens.take(parts.hidden, parts.hidden_real)
        queries = self.mask_token.expand(*hidden.values.shape[:2], self.width)
        if self.enter_identity is not None and hidden.identity is not None:
            queries = queries + self.enter_identity(hidden.identity)
        context = seen.with_values(self.enter(seen.values))
        return self.decoder(cat([context, hidden.with_values(queries)]), last=queries.shape[1]).values


class MaskTokenEncoding(Encoding):
    """Encode every place, a mask token at the hidden ones, and read the encoder there (SimMIM, BERT)."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(config.hidden_size))
        self.width = config.hidden_size

    def reset_parameters(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split) -> Float[Tensor, "b m w"]:
        hidden = hidden_places(parts, tokens.values.shape[1])
        values = torch.where(hidden[..., None], self.mask_token.to(tokens.values.dtype), tokens.values)
        encoded = encoder(replace(tokens, values=values))
        return encoded.take(parts.hidden + encoder.num_prefix).values


def hidden_places(parts: Split, count: int) -> Bool[Tensor, "b n"]:
    """True at the hidden tokens."""
    real = torch.ones_like(parts.hidden, dtype=torch.bool) if parts.hidden_real is None else parts.hidden_real
    places = torch.zeros(len(parts.hidden), count, dtype=torch.bool, device=parts.hidden.device)
    return places.scatter(1, parts.hidden, real)


class Heads(nn.ModuleDict):
    """A linear prediction of each target of a modality."""

    def __init__(self, width: int, sizes: Mapping[str, int]) -> None:
        super().__init__({key: nn.Linear(width, size) for key, size in sizes.items()})

    def forward(self, hidden: Float[Tensor, "b m w"]) -> dict[str, Tensor]:
        return {key: head(hidden) for key, head in self.items()}


class Masked(Objective):
    """Predict the content of hidden tokens; the loss counts hidden tokens only.

    mask: how tokens are hidden; null: the modality's preference.
    encode: visible = the encoder sees only visible tokens (MAE); mask_token = it sees every place, hidden ones as a mask token
        (SimMIM, BERT).
    decoder: the transformer that predicts hidden tokens from visible ones; null with mask_token: a linear prediction.
    target: raw values, or values normalised within each token (MAE's normalised pixels); integer targets are classes in any case.
    loss: distance between predicted and true values; chamfer and chamfer_l1 are for tokens that are sets of points. null: chamfer
        for those, mse for all others.
    """

    def __init__(
        self,
        model: MMSSLModel,
        setup: Setup,
        *,
        mask: Sampler | None = None,
        encode: Literal["visible", "mask_token"] = "visible",
        decoder: Decoder | None = None,
        target: Literal["raw", "normalised"] = "raw",
        loss: Distance | SetDistance | None = None,
    ) -> None:
        super().__init__(model, setup)
        check(model, self.modalities)
        if encode == "mask_token" and decoder is not None:
            raise ValueError(
                "objective.decoder belongs to encode: visible; with encode: mask_token the prediction is linear, so drop it"
            )
        self.samplers = {name: mask or preferred(find(name).mask) for name in self.modalities}
        self.normalised = target == "normalised"
        self.distances = {name: self.distance(name, loss) for name in self.modalities}
        if encode == "visible":
            identities = any(model.adapter(name).has_identity for name in self.modalities)
            self.encoding: Encoding = VisibleEncoding(model.config, decoder or Decoder(), identities=identities)
        else:
            self.encoding = MaskTokenEncoding(model.config)
        self.heads = nn.ModuleDict({name: Heads(self.encoding.width, model.adapter(name).target_sizes) for name in self.modalities})
        initialise_all(self.encoding, model.config)
        initialise_all(self.heads, model.config)

    def distance(self, name: str, loss: Distance | SetDistance | None) -> Distance | SetDistance:
        """The distance for a modality: `loss`, or what suits it. ValueError for a distance of sets where tokens are none."""
        is_set = self.model.adapter(name).point_dim > 0
        if loss in get_args(SetDistance) and not is_set:
            raise ValueError(
                f"objective.loss: {loss} compares sets of points, but the tokens of {name!r} are none; choose mse or null"
            )
        if is_set and self.normalised:
            raise ValueError(f"objective.target: normalised would mix the axes of the points of {name!r}; choose raw")
        return loss or ("chamfer" if is_set else "mse")

    def forward(self, batch: Batch) -> Output:
        name = batch.modality
        targets, parts, predicted = self.predict(name, self.view(batch, name), batch)
        losses, counted = [], []
        for key, target in targets.items():
            loss, there = self.token_loss(name, predicted[key], gather(target, parts.hidden))
            losses.append(loss)
            counted.append(there if parts.hidden_real is None else there & parts.hidden_real)
        return Output(mean_where(torch.stack(losses), torch.stack(counted)))

    def predict(self, name: str, inputs: Inputs, batch: Batch) -> tuple[dict[str, Tensor], Split, dict[str, Tensor]]:
        """Targets of all tokens, what was hidden, and per target the prediction at the hidden tokens."""
        adapter = self.model.adapter(name)
        tokens = self.model.embed(name, inputs)
        targets = adapter.target(inputs)
        available = anything_there(targets) if adapter.sparse_target else tokens.valid
        parts = split(self.samplers[name], tokens.coords, tokens.valid, available, batch.draws)
        if not parts.hidden.shape[1]:
            raise ValueError(
                f"masked modelling hides tokens and shows others, but no sample of this batch has two tokens of {name!r} with "
                "something to predict. Make tokens of smaller parts of a sample, or leave empty samples out"
            )
        hidden = self.encoding(self.model.encoder, tokens, parts)
        return targets, parts, self.heads[name](hidden)

    def token_loss(self, name: str, predicted: Tensor, target: Tensor) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
        """Loss of each token and which tokens have a target."""
        if not target.is_floating_point():
            return classification(predicted, target)
        if self.normalised:
            target = normalise_tokens(target.float())[0]
        distance = self.distances[name]
        if distance == "chamfer" or distance == "chamfer_l1":
            return set_regression(predicted, target, self.model.adapter(name).point_dim, distance)
        return regression(predicted, target, distance)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Any]:
        """What was seen and what the model fills in, drawn by the modality, without augmentation."""
        name = batch.modality
        inputs = batch.inputs[name]
        targets, parts, predicted = self.predict(name, inputs, batch)
        hidden = hidden_places(parts, next(iter(targets.values())).shape[1])
        full = {key: self.to_target_space(predicted[key], target, parts) for key, target in targets.items()}
        return {f"{name}: seen and predicted": find(name).picture(inputs, hidden, full)}

    def to_target_space(self, predicted: Tensor, target: Tensor, parts: Split) -> Float[Tensor, "b n t"]:
        """Predictions at the place of their tokens, NaN elsewhere, with the normalisation undone."""
        if target.is_floating_point() and self.normalised:
            _, mean, std = normalise_tokens(gather(target, parts.hidden).float())
            predicted = predicted * std + mean
        full = predicted.new_full((*target.shape[:2], predicted.shape[-1]), float("nan"), dtype=torch.float32)
        rows = torch.arange(len(full), device=full.device)[:, None]
        full[rows, parts.hidden] = predicted.float()
        return full.masked_fill(~hidden_places(parts, target.shape[1])[..., None], float("nan"))


def anything_there(targets: Mapping[str, Tensor]) -> Bool[Tensor, "b n"]:
    """Tokens for which at least one target has a value."""
    there = [~target.isnan().all(-1) if target.is_floating_point() else target != -100 for target in targets.values()]
    return torch.stack(there).any(0)


def check(model: MMSSLModel, names: Sequence[str]) -> None:
    """ValueError where masked modelling would train or publish something meaningless."""
    for name in names:
        if model.adapter(name).overlapping:
            raise ValueError(
                f"modality {name!r} has an overlapping stem: hidden content reaches visible tokens, so raw targets can be copied; "
                "choose its non-overlapping adapter, or an objective with latent targets"
            )
    if model.config.pooling == "attention":
        raise ValueError("encoder.pooling: attention has weights that masked modelling never trains; choose another")

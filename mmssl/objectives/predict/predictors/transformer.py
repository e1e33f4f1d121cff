"""A light transformer that answers at the hidden places from the encoded visible tokens: MAE's decoder, JEPA's predictor."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.model.config import Positive
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.tokens import Tokens, both_valid, cat, gather, of_own


def narrow(config: MMSSLConfig, width: int, layers: int, heads: int) -> MMSSLConfig:
    """The encoder's configuration in another size, pre-norm, without prefix tokens, limits of attention and dropout."""
    return config.derive(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        mlp_size=None,
        modalities={},
        pooling="mean",
        cls_token=False,
        num_register_tokens=0,
        dropout=0.0,
        drop_path_rate=0.0,
        final_norm=True,
        norm_order="pre",
        input_norm=False,
        first_norm=True,
        causal=False,
        attention_window=None,
    )


class Queries(nn.Module):
    """A mask token for each hidden place, with the place's identity and, if asked, an uncertain position.

    Stochastic positions (FlexPredict, arXiv 2308.00566, section 3): the mask token of a place is m + A n with n drawn from a normal
    distribution of variance `noise` and A learned; the visible tokens enter through the same A, so that it cannot shrink to zero.
    """

    def __init__(self, config: MMSSLConfig, width: int, *, identities: bool, noise: float = 0.0) -> None:
        super().__init__()
        self.enter = nn.Linear(config.hidden_size, width)
        self.enter_identity = nn.Linear(config.hidden_size, width, bias=False) if identities else None
        self.mask_token = nn.Parameter(torch.empty(width))
        self.noise = noise

    def reset_parameters(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, hidden: Tokens, draws: Draws) -> Tokens:
        queries = self.mask_token.expand(*hidden.values.shape[:2], -1)
        if self.enter_identity is not None and hidden.identity is not None:
            queries = queries + self.enter_identity(hidden.identity)
        if self.noise and self.training:
            drawn = of_own(draws.normal("positions", hidden.values.shape[1], self.enter.in_features), hidden.valid)
            queries = queries + nn.functional.linear((drawn * self.noise**0.5).to(queries.dtype), self.enter.weight)
        return hidden.with_values(queries)


class Transformer(Predictor):
    """Encode the visible tokens alone; a narrow transformer predicts from them at the places of the hidden ones.

    The decoder of MAE (arXiv 2111.06377, section 3) and the predictor of I-JEPA (arXiv 2301.08243, section 3).

    hidden_size: width.
    num_hidden_layers: layers.
    num_attention_heads: heads; hidden_size must be a multiple of 8 x heads.
    predict: hidden = at the hidden places; all = at the seen ones too.
    position_noise: variance of the noise that makes the place of a mask token uncertain (FlexPredict, arXiv 2308.00566, which says
        0.25; its code has a standard deviation of 0.25: 0.0625); 0: none.
    """

    separate = True

    def __init__(
        self,
        *,
        hidden_size: Positive = 128,
        num_hidden_layers: Positive = 2,
        num_attention_heads: Positive = 4,
        predict: Literal["hidden", "all"] = "hidden",
        position_noise: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads, self.noise = hidden_size, num_hidden_layers, num_attention_heads, position_noise
        self.everywhere = predict == "all"

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.queries = Queries(config, self.width, identities=identities, noise=self.noise)
        self.decoder = Encoder(narrow(config, self.width, self.depth, self.heads))

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        seen = encoder(tokens.take(parts.seen, parts.seen_real))
        context = seen.with_values(self.queries.enter(seen.values))
        if tokens.same_places and parts.groups == 1 and not self.everywhere and not self.noise:
            valid = both_valid(gather(tokens.valid, parts.hidden), parts.hidden_real)
            values = self.decoder.answer(context, self.queries(tokens.first(), draws), parts.hidden, valid).values
            return Predicted(values, parts.hidden, parts.hidden_real)
        queries = self.queries(tokens.take(parts.hidden, parts.hidden_real), draws)
        if self.everywhere:
            return self.answer_everywhere(context, queries, tokens, parts)
        values = self.answer(context, queries, parts.groups)
        return Predicted(values, parts.hidden, parts.hidden_real)

    def answer_everywhere(self, context: Tokens, queries: Tokens, tokens: Tokens, parts: Split) -> Predicted:
        """The decoder's output at the seen places, then at the hidden ones."""
        if parts.groups > 1:
            raise ValueError(
                "predictor.predict: all needs a mask without target blocks that are predicted apart; choose another mask"
            )
        index, real = self.places(tokens, parts)
        return Predicted(self.decoder(cat([context, queries]), last=index.shape[1]).values, index, real)

    def places(self, tokens: Tokens, parts: Split) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"] | None]:
        if not self.everywhere:
            return super().places(tokens, parts)
        both = [(parts.seen, parts.seen_real), (parts.hidden, parts.hidden_real)]
        real = [both_valid(gather(tokens.valid, index), counts) for index, counts in both]
        index = torch.cat([parts.seen, parts.hidden], 1)
        if real[0] is None and real[1] is None:
            return index, None
        ones = torch.ones_like(index, dtype=torch.bool).split([parts.seen.shape[1], parts.hidden.shape[1]], 1)
        return index, torch.cat([one if valid is None else valid for one, valid in zip(ones, real, strict=True)], 1)

    def answer(self, context: Tokens, queries: Tokens, groups: int) -> Tensor:
        """`[b, m, w]` at the queries; those of different groups do not see each other."""
        if groups == 1:
            return self.decoder(cat([context, queries]), last=queries.values.shape[1]).values
        b, m, _ = queries.values.shape
        each = m // groups
        apart = Tokens(
            queries.values.reshape(b * groups, each, -1),
            queries.coords.reshape(b * groups, each, 4),
            None if queries.valid is None else queries.valid.reshape(b * groups, each),
        )
        for_each = Tokens(
            context.values.repeat_interleave(groups, 0),
            context.coords.repeat_interleave(groups, 0),
            None if context.valid is None else context.valid.repeat_interleave(groups, 0),
        )
        return self.decoder(cat([for_each, apart]), last=each).values.reshape(b, m, -1)

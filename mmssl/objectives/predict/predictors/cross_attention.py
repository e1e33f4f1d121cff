"""Queries at the hidden places that attend to encoded visible tokens and to nothing else: CAE's regressor, CAPI's predictor."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.model.config import Positive
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.objectives.predict.predictors.transformer import Queries, narrow
from mmssl.tokens import Tokens, cat


class CrossAttention(Predictor):
    """Encode the visible tokens alone; at each hidden place a mask token attends to them, layer by layer, and not to the others.

    The predictor of CAPI (arXiv 2502.08769), and the latent regressor of CAE (arXiv 2202.03026), in whose code hidden places see
    each other too. With decoder layers, targets of representations (`encoder`) are compared with what goes into them, all others
    with what comes out.

    hidden_size: width; null: the encoder's.
    num_hidden_layers: layers of attention to the visible tokens, each with an MLP.
    num_attention_heads: heads; null: the encoder's.
    decoder_layers: layers behind them in which the hidden places attend to each other and see no visible token (CAE's decoder).
    """

    separate = True

    def __init__(
        self,
        *,
        hidden_size: Positive | None = None,
        num_hidden_layers: Positive = 2,
        num_attention_heads: Positive | None = None,
        decoder_layers: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        self.wanted, self.depth, self.heads, self.decoder_depth = (
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            decoder_layers,
        )

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.width = config.hidden_size if self.wanted is None else self.wanted
        heads = config.num_attention_heads if self.heads is None else self.heads
        self.queries = Queries(config, self.width, identities=identities)
        self.regressor = Encoder(narrow(config, self.width, self.depth, heads))
        self.decoder = Encoder(narrow(config, self.width, self.decoder_depth, heads)) if self.decoder_depth else None

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        seen = encoder(tokens.take(parts.seen, parts.seen_real))
        context = seen.with_values(self.queries.enter(seen.values))
        queries = self.queries(tokens.take(parts.hidden, parts.hidden_real), draws)
        latent = across(self.regressor, context, queries)
        if self.decoder is None:
            return Predicted(latent, parts.hidden, parts.hidden_real)
        decoded = self.decoder(apart(queries.with_values(latent), parts.groups)).values
        return Predicted(decoded.reshape(latent.shape), parts.hidden, parts.hidden_real, latent)


def across(layers: Encoder, context: Tokens, queries: Tokens) -> Tensor:
    """`[b, m, d]` at the queries after attending to the context, which stays as it is from layer to layer."""
    count = context.values.shape[1]
    both = layers.prepend(cat([context, queries]))
    memory, x = both.values[:, :count], both.values[:, count:]
    mask, turn = layers.mask(x, only_first(context, queries)), layers.turn(both)
    for layer in layers.layers:
        x = layer(torch.cat([memory, x], 1), mask, turn, count)
    return layers.norm(x)


def only_first(context: Tokens, queries: Tokens) -> Tensor:
    """The mask of keys that lets everything attend to the context only."""
    context_valid = context.valid_or_ones()
    return torch.cat([context_valid, context_valid.new_zeros(queries.values.shape[:2])], 1)


def apart(tokens: Tokens, groups: int) -> Tokens:
    """Each group of equal size as a sequence of its own."""
    if groups == 1:
        return tokens
    b, m = tokens.coords.shape[:2]
    shape = (b * groups, m // groups)
    valid = None if tokens.valid is None else tokens.valid.reshape(shape)
    return Tokens(tokens.values.reshape(*shape, -1), tokens.coords.reshape(*shape, 4), valid)

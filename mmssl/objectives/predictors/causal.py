"""Each token predicted from those before it, in one causal pass: next-token and next-embedding prediction."""

from collections.abc import Sequence

import torch

from mmssl.config import MMSSLConfig
from mmssl.draws import Draws
from mmssl.encoder import Encoder
from mmssl.masking import Split
from mmssl.objectives.parts import Predicted, Predictor
from mmssl.tokens import Tokens


class Causal(Predictor):
    """Encode all tokens, each attending only to those before it, and predict every token but the first from the one before.

    NEPA (arXiv 2512.16922), and GPT for text. Nothing is hidden: `objective.mask` has no effect. The order is that in which the
    adapter gives the tokens, also where it means nothing (a table's columns, groups of points).
    """

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.width = config.hidden_size

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        b, n, _ = tokens.values.shape
        order = torch.arange(n, device=tokens.values.device).expand(b, n)
        if tokens.valid is not None:  # padding may lie between the rows of a picture: the next token is the next valid one
            order = (~tokens.valid).to(torch.uint8).argsort(dim=1, stable=True)
        packed = tokens.take(order)
        encoded = encoder(packed, causal=True).tail(n)
        return Predicted(encoded.values[:, :-1], order[:, 1:], None if packed.valid is None else packed.valid[:, 1:])

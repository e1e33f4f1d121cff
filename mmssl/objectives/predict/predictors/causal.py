"""Each token predicted from those before it, in one causal pass: next-token and next-embedding prediction."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.tokens import Tokens, gather


class Causal(Predictor):
    """Encode all tokens, each attending only to those before it, and predict every token but the first from the one before.

    NEPA (arXiv 2512.16922), and GPT for text. Nothing is hidden: `objective.mask` has no effect. The order is that in which the
    adapter gives the tokens, also where it means nothing (a table's columns, groups of points).
    """

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.width = config.hidden_size

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        packed = tokens.take(self.order(tokens))
        encoded = encoder(packed, causal=True).tail(tokens.values.shape[1])
        return Predicted(encoded.values[:, :-1], *self.places(tokens, parts))

    def order(self, tokens: Tokens) -> Int[Tensor, "b n"]:
        """The valid tokens as they come, then padding, which may lie between the rows of a picture."""
        b, n, _ = tokens.values.shape
        if tokens.valid is None:
            return torch.arange(n, device=tokens.values.device).expand(b, n)
        return (~tokens.valid).to(torch.uint8).argsort(dim=1, stable=True)

    def places(self, tokens: Tokens, parts: Split) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"] | None]:
        after = self.order(tokens)[:, 1:]
        return after, gather(tokens.valid, after)

"""A masked view predicted with the help of another view of the same sample that is fully seen: SiamMAE, CropMAE."""

from collections.abc import Sequence

import torch

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.model.config import Positive
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.objectives.predict.predictors.cross_attention import only_first
from mmssl.objectives.predict.predictors.transformer import Queries, narrow
from mmssl.tokens import Tokens, cat


class Siamese(Predictor):
    """One encoder for both views: the first with its hidden tokens left out, the second whole (CropMAE, arXiv 2403.17823).

    In every layer of the decoder, which is that of SiamMAE (arXiv 2305.14344), the tokens of the first view attend to the second
    view, then to each other. Made for nearly everything hidden in the first view; what the two views are is a matter of the
    modality's augmentation.

    hidden_size: width.
    num_hidden_layers: layers, each of attention to the other view and of attention within the view.
    num_attention_heads: heads; hidden_size must be a multiple of 8 x heads.
    """

    views = 2

    def __init__(self, *, hidden_size: Positive = 128, num_hidden_layers: Positive = 2, num_attention_heads: Positive = 4) -> None:
        super().__init__()
        self.width, self.depth, self.heads = hidden_size, num_hidden_layers, num_attention_heads

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.queries = Queries(config, self.width, identities=identities)
        self.decoder = Encoder(narrow(config, self.width, 2 * self.depth, self.heads))

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        seen, whole = encoder(tokens.take(parts.seen, parts.seen_real)), encoder(others[0])
        enter = self.queries.enter
        memory = whole.with_values(enter(whole.values))
        hidden = self.queries(tokens.take(parts.hidden, parts.hidden_real), draws)
        own = cat([seen.with_values(enter(seen.values)), hidden])
        decoded = self.decode(memory, own)
        return Predicted(decoded[:, -hidden.values.shape[1] :], parts.hidden, parts.hidden_real)

    def decode(self, memory: Tokens, own: Tokens) -> torch.Tensor:
        """`[b, n, w]` at the tokens of the first view."""
        count = memory.values.shape[1]
        both = self.decoder.prepend(cat([memory, own]))
        other, x = both.values[:, :count], both.values[:, count:]
        turn = self.decoder.turn(both)
        own_turn = None if turn is None else turn[:, count:]
        to_other, to_own = self.decoder.mask(x, only_first(memory, own)), self.decoder.mask(x, own.valid)
        for number, layer in enumerate(self.decoder.layers):
            within = number % 2 == 1
            x = layer(x, to_own, own_turn, 0) if within else layer(torch.cat([other, x], 1), to_other, turn, count)
        return self.decoder.norm(x)
